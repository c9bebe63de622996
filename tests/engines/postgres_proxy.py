"""A TCP proxy that can stop forwarding, as a network that went silent does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Proxy:
    """Forwards until ``silent``; then it keeps connections open and passes nothing on."""

    def __init__(self, port: int) -> None:
        self.upstream = port
        self.port = 0
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.tasks: set[asyncio.Task[None]] = set()

    def hang(self) -> None:
        self.flowing.clear()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.upstream)
        for source, drain in ((reader, up_writer), (up_reader, writer)):
            task = asyncio.create_task(self.pump(source, drain))
            self.tasks.add(task)

    async def pump(self, source: asyncio.StreamReader, drain: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError):
                while data := await source.read(65536):
                    await self.flowing.wait()
                    drain.write(data)
                    await drain.drain()
        finally:
            drain.close()
            with suppress(ConnectionError):
                await drain.wait_closed()


@asynccontextmanager
async def proxy(port: int) -> AsyncIterator[Proxy]:
    """A proxy in front of a port on this machine."""
    one = Proxy(port)
    server = await asyncio.start_server(one.serve, "127.0.0.1", 0)
    one.port = server.sockets[0].getsockname()[1]
    try:
        yield one
    finally:
        server.close()
        for task in one.tasks:
            task.cancel()
        await asyncio.gather(*one.tasks, return_exceptions=True)
