"""A circuit breaker: a server that failed several times in a row is left alone for a while, then probed once.

Pure: the clock is a number that the caller passes (seconds of a monotonic clock), so that a test can be at any time.
"""

from __future__ import annotations

from enum import StrEnum
from random import Random


class BreakerState(StrEnum):
    """What the breaker lets through."""

    CLOSED = "Closed"
    OPEN = "Open"
    HALF_OPEN = "HalfOpen"


class CircuitBreaker:
    """Counts connection failures of one server.

    Only failures to connect belong here: a server that answers with an error is alive, and whatever is wrong with one
    statement must not keep others away from the server.
    """

    __slots__ = (
        "_closed",
        "_failures",
        "_flapped",
        "_grown",
        "_opened",
        "_pause",
        "_probe_since",
        "_random",
        "calm",
        "cap",
        "flap_cap",
        "pause",
        "probe_timeout",
        "threshold",
    )

    def __init__(
        self,
        *,
        threshold: int = 3,
        pause: float = 5.0,
        cap: float = 300.0,
        calm: float = 60.0,
        flap_cap: float = 60.0,
        probe_timeout: float = 60.0,
        random: Random | None = None,
    ) -> None:
        """Open after ``threshold`` consecutive failures for ``pause`` seconds, doubling up to ``cap``.

        A server that lets the probe in and hardly anybody else (all its connections are in use) opens it again and
        again. Where that happens within ``calm`` seconds after a pause, the next one is twice as long, up to
        ``flap_cap``: everybody comes when it closes.
        With ``random`` each pause is shortened by up to a fifth, so that breakers that opened together do not probe
        together. A probe that reports nothing within ``probe_timeout`` seconds counts as lost, and another may start.
        """
        self.threshold = threshold
        self.pause = pause
        self.cap = cap
        self.calm = calm
        self.flap_cap = flap_cap
        self.probe_timeout = probe_timeout
        self._random = random
        self._failures = 0
        self._opened: float | None = None
        self._pause = 0.0
        self._grown = 0.0
        self._flapped = 0.0
        self._closed = float("-inf")
        self._probe_since: float | None = None

    def state(self, now: float) -> BreakerState:
        """The state at ``now``; half-open as soon as the pause is over."""
        if self._opened is None:
            return BreakerState.CLOSED
        return BreakerState.HALF_OPEN if now >= self._opened + self._pause else BreakerState.OPEN

    def retry_after(self, now: float) -> float:
        """Seconds until it is worth asking again; 0 when :meth:`allow` would say yes."""
        match self.state(now):
            case BreakerState.CLOSED:
                return 0.0
            case BreakerState.OPEN:
                return (self._opened or 0.0) + self._pause - now
            case BreakerState.HALF_OPEN:
                if self._probe_since is None:
                    return 0.0
                return max(0.0, self._probe_since + self.probe_timeout - now)

    def allow(self, now: float) -> bool:
        """Whether a connection may be tried now. In half-open the first caller gets the only probe."""
        if self.retry_after(now) > 0:
            return False
        if self._opened is not None:
            self._probe_since = now
        return True

    def success(self) -> None:
        """A connection was made: closed, and the pause starts small again if it stays so."""
        self._failures = 0
        if self._opened is not None:
            self._closed = self._opened + self._pause
        self._opened = None
        self._pause = 0.0
        self._probe_since = None

    def failure(self, now: float) -> None:
        """A connection failed: opens at the threshold; a failed probe opens again for twice the pause.

        A failure that comes while the breaker is open (an attempt that began before) changes nothing, otherwise
        twenty attempts that were under way would make one outage look like seven.
        """
        self._failures += 1
        state = self.state(now)
        if state is BreakerState.OPEN or (state is BreakerState.CLOSED and self._failures < self.threshold):
            return
        # the length before jitter is what doubles, or the pauses would drift downwards
        if self._opened is None:
            again = now - self._closed < self.calm
            self._flapped = min(self.flap_cap, self._flapped * 2) if again else self.pause
            self._grown = self._flapped
        else:
            self._grown = min(self.cap, self._grown * 2)
        self._pause = self._grown * (1.0 - (self._random.random() / 5 if self._random else 0.0))
        self._opened = now
        self._probe_since = None

    def abandon(self) -> None:
        """The probe was cancelled and says nothing about the server: the next caller may probe."""
        self._probe_since = None
