"""Waiting for a condition that nobody tells of."""

from __future__ import annotations

import time
from collections.abc import Callable

from sandbox.errors import SandboxError

_POLL_SECONDS = 0.05


def wait_until(holds: Callable[[], object], what: str, timeout: float) -> float:
    """Wait until ``holds()`` is true; how many seconds that took.

    Raises:
        SandboxError: it did not hold in ``timeout`` seconds; the message is ``what``.
    """
    started = time.monotonic()
    while not holds():
        if time.monotonic() - started > timeout:
            raise SandboxError(what)
        time.sleep(_POLL_SECONDS)
    return time.monotonic() - started
