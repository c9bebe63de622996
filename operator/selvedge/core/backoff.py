"""How long to wait before the next attempt."""

from __future__ import annotations

from random import Random

_MAX_EXPONENT = 62


def delay(attempt: int, *, base: float = 1.0, cap: float = 300.0, random: Random) -> float:
    """Seconds to wait before retry number ``attempt`` (0 is the first): full jitter above a floor of half of ``base``.

    The ceiling doubles with each attempt until ``cap``. The whole range below it is drawn from, because many resources
    that failed together (a server that went away) would otherwise come back together; the floor keeps a lucky draw
    from becoming a busy loop.

    Raises:
        ValueError: ``attempt`` is negative, or ``base`` or ``cap`` is not positive.
    """
    if attempt < 0 or base <= 0 or cap <= 0:
        raise ValueError("attempt must be 0 or more, base and cap above 0")
    ceiling = min(cap, base * 2.0 ** min(attempt, _MAX_EXPONENT))
    return random.uniform(min(base, cap) / 2, ceiling)
