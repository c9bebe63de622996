"""A TCP proxy that can fall silent, as a network or a machine does that hangs: for tests that are no coroutines."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any

from sandbox.ports import LOOPBACK

_BLOCK = 65536
_SECONDS = 10.0


class Proxy:
    """Forwards to a port of this machine from ``port``, in a thread of its own; a context manager.

    While it hangs, connections stay open, new ones are accepted, and nothing is passed on in either direction.
    """

    def __init__(self, upstream: int) -> None:
        self._upstream = upstream
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._flowing = asyncio.Event()
        self._pairs: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0

    def __enter__(self) -> Proxy:
        self._thread.start()
        self._call(self._open())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_SECONDS)
        self._loop.close()

    def hang(self) -> None:
        """Pass nothing on from now on."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def resume(self) -> None:
        """Pass on what was held back, and everything after it."""
        self._loop.call_soon_threadsafe(self._flowing.set)

    def cut(self) -> None:
        """Break every connection that is open now."""
        self._call(self._cut())

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_SECONDS)

    async def _open(self) -> None:
        self._flowing.set()
        self._server = await asyncio.start_server(self._serve, LOOPBACK, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        self._server.close()
        await self._cut()

    async def _cut(self) -> None:
        pairs = list(self._pairs)
        for task in pairs:
            task.cancel()
        await asyncio.gather(*pairs, return_exceptions=True)
        for writer in self._writers:  # a task that was cancelled before it began has closed nothing
            writer.close()
        self._writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        # a task of our own: asyncio's streams complain about a handler that was cancelled
        task = asyncio.create_task(self._pair(reader, writer))
        self._pairs.add(task)
        task.add_done_callback(self._pairs.discard)

    async def _pair(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            back, forth = await asyncio.open_connection(LOOPBACK, self._upstream)
        except OSError:
            writer.close()  # nobody is there: as the real address would say
            self._writers.discard(writer)
            return
        self._writers.add(forth)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, forth))
                group.create_task(self._pump(back, writer))
        except* ConnectionError:
            pass  # one side went away: so does the other, below
        finally:
            writer.close()
            forth.close()
            self._writers -= {writer, forth}

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(_BLOCK):
            await self._flowing.wait()
            sink.write(data)
            await sink.drain()
        raise ConnectionResetError
