"""The work queue: level-triggered, one pass at a time for each key, with delays.

A key that is added while it is being worked on is worked on once more afterwards; added ten times, once. What triggers
a pass (the watch, the clock, a failure, another resource) makes no difference to the pass.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable


class WorkQueue:
    """Runs ``work(key)`` for every key that is due, with at most ``workers`` at once."""

    def __init__(
        self, work: Callable[[Hashable], Awaitable[None]], workers: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._work = work
        self._workers = workers
        self._clock = clock
        self._ready: deque[Hashable] = deque()
        self._queued: set[Hashable] = set()
        self._running: set[Hashable] = set()
        self._again: set[Hashable] = set()
        self._due: dict[Hashable, float] = {}
        self._heap: list[tuple[float, int, Hashable]] = []
        self._order = itertools.count()
        self._closed = False
        self._wake = asyncio.Event()
        self._available = asyncio.Semaphore(0)

    def add(self, key: Hashable) -> None:
        """Do it now, or as soon as a worker is free; a delay that was set for the key is forgotten."""
        self._due.pop(key, None)
        if key in self._running:
            self._again.add(key)
        elif key not in self._queued:
            self._queued.add(key)
            self._ready.append(key)
            self._available.release()

    def add_after(self, key: Hashable, seconds: float) -> None:
        """Do it after ``seconds``, unless it is added before; of several delays the last one counts."""
        due = self._clock() + seconds
        self._due[key] = due
        heapq.heappush(self._heap, (due, next(self._order), key))
        self._wake.set()

    def depth(self) -> int:
        """Keys that wait for a worker."""
        return len(self._ready)

    def running(self) -> int:
        """Keys that are being worked on."""
        return len(self._running)

    def close(self) -> None:
        """Start nothing new; what runs goes on."""
        self._closed = True

    async def run(self) -> None:
        """Work until cancelled; a pass that is under way is cancelled with it."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._clockwork())
            for _ in range(self._workers):
                group.create_task(self._worker())

    async def _clockwork(self) -> None:
        while True:
            self._wake.clear()
            now = self._clock()
            while self._heap and self._heap[0][0] <= now:
                due, _, key = heapq.heappop(self._heap)
                if self._due.get(key) == due:  # else another delay took its place
                    self.add(key)
            rest = self._heap[0][0] - now if self._heap else None
            try:
                async with asyncio.timeout(rest):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _worker(self) -> None:
        while True:
            await self._available.acquire()
            if self._closed:
                return
            key = self._ready.popleft()
            self._queued.discard(key)
            self._running.add(key)
            try:
                await self._work(key)
            finally:
                self._running.discard(key)
                if key in self._again:
                    self._again.discard(key)
                    self.add(key)
