"""Waiting for a condition, with a deadline, in tests that run on an event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

_PAUSE = 0.01
SECONDS = 30.0


async def until(
    condition: Callable[[], object], during: asyncio.Task[Any] | None = None, *, seconds: float = SECONDS
) -> None:
    """Wait until ``condition()`` is true; fails after ``seconds``, or when ``during`` has ended before."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert during is None or not during.done(), "it ended before"
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain"
        await asyncio.sleep(_PAUSE)
