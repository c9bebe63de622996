"""A way into a node from the machine: ``python -m sandbox.node_forward PID FILE NAME=PORT…``.

It listens on 127.0.0.1 of the machine, and connects to 127.0.0.1 in the network namespace of process PID. A socket
belongs to the namespace in which it was made, so one process can do both, and no network interface is needed. FILE
gets the ports on which it listens, by name, as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
from functools import partial
from pathlib import Path

from sandbox.ports import LOOPBACK, on_free_port

_CLONE_NEWNET = 0x40000000
_BYTES = 1 << 16


async def _forward(port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        there = await asyncio.open_connection(LOOPBACK, port)
    except OSError as error:
        # what the client of a stopped server sees without us: the connection ends at once
        print(f"127.0.0.1:{port} in the node: {error}", file=sys.stderr, flush=True)
        writer.transport.abort()
        return
    await asyncio.gather(_copy(reader, there[1]), _copy(there[0], writer))
    for side in (writer, there[1]):
        side.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One direction; its end is handed on, as a client that has said everything still reads."""
    try:
        while data := await reader.read(_BYTES):
            writer.write(data)
            await writer.drain()
        with contextlib.suppress(OSError):  # the other side has closed both directions already
            writer.write_eof()
        return
    except ConnectionError:
        writer.transport.abort()


def _listen(port: int) -> socket.socket:
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((LOOPBACK, port))
    server.listen(128)
    return server


def _enter(pid: int) -> None:
    """Make sockets in that process's network namespace from now on."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path(f"/proc/{pid}/ns/net").open("rb") as namespace:
        if libc.setns(namespace.fileno(), _CLONE_NEWNET) != 0:
            sys.exit(f"setns: {os.strerror(ctypes.get_errno())}")


async def main(pid: int, file: Path, targets: dict[str, int]) -> None:
    """Forward until SIGTERM."""
    sockets = {name: on_free_port(_listen) for name in targets}
    _enter(pid)
    for name, listener in sockets.items():
        await asyncio.start_server(partial(_forward, targets[name]), sock=listener)
    scratch = file.with_suffix(".new")
    scratch.write_text(json.dumps({name: s.getsockname()[1] for name, s in sockets.items()}), encoding="utf-8")
    scratch.rename(file)
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    await over.wait()


if __name__ == "__main__":
    pairs = (word.partition("=") for word in sys.argv[3:])
    asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2]), {name: int(port) for name, _, port in pairs}))
