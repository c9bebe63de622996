"""One line for each step that takes time, with the seconds it took."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# A log that is not a terminal gets a sign of life this often during a step of minutes.
_HEARTBEAT_SECONDS = 30.0


@contextmanager
def step(title: str) -> Iterator[None]:
    """Print ``title`` to standard error while the block runs and its seconds at the end.

    On a terminal the elapsed seconds are counted in place; elsewhere a line is repeated every half a minute.
    """
    terminal = sys.stderr.isatty()
    started = time.monotonic()
    over = threading.Event()

    def tick() -> None:
        while not over.wait(1.0 if terminal else _HEARTBEAT_SECONDS):
            _write(f"{title} … {time.monotonic() - started:.0f} s", in_place=terminal)

    _write(f"{title} …", in_place=terminal)
    ticker = threading.Thread(target=tick, name="sandbox-progress", daemon=True)
    ticker.start()
    outcome = "failed after"
    try:
        yield
        outcome = "done in"
    finally:
        over.set()
        ticker.join()
        text = f"{title}: {outcome} {time.monotonic() - started:.1f} s"
        _write(f"\r\033[K{text}\n" if terminal else text, raw=terminal)


def note(text: str) -> None:
    """Print one line to standard error."""
    _write(text)


def _write(text: str, *, in_place: bool = False, raw: bool = False) -> None:
    sys.stderr.write(text if raw else f"\r\033[K{text}" if in_place else f"{text}\n")
    sys.stderr.flush()
