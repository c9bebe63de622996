"""Waiting for a condition, with a deadline: the one place where tests poll."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")
_PAUSE = 0.02
SECONDS = 20.0


def wait_for(condition: Callable[[], T], timeout: float = SECONDS, *, what: Callable[[], object] | None = None) -> T:
    """Wait until ``condition()`` is true, and return what it returned; fails after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            seen = f"; last seen: {what()}" if what else ""
            raise AssertionError(f"waited {timeout:g} s in vain{seen}")
        time.sleep(_PAUSE)


async def until(
    condition: Callable[[], object], during: asyncio.Task[Any] | None = None, *, seconds: float = 30.0
) -> None:
    """The same on an event loop; fails also when ``during`` has ended before."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert during is None or not during.done(), "it ended before"
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain"
        await asyncio.sleep(_PAUSE)


@asynccontextmanager
async def rounds_of_the_loop() -> AsyncIterator[Callable[[], int]]:
    """How often somebody else on the event loop had a turn since; one who holds the loop up leaves that at 0."""
    rounds = 0

    async def others() -> None:
        nonlocal rounds
        while True:
            await asyncio.sleep(0.001)  # a turn for each millisecond in which the loop is free
            rounds += 1

    beside = asyncio.create_task(others())
    try:
        yield lambda: rounds
    finally:
        beside.cancel()
