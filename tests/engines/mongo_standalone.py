"""A MongoDB server that is no replica set, for what such a server cannot do."""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pymongo
from pymongo.errors import PyMongoError

from sandbox import MongoEndpoint, tools
from sandbox.ports import LOOPBACK, on_free_port
from sandbox.process import Daemon

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SECONDS = 60.0


@contextmanager
def standalone(directory: Path) -> Iterator[MongoEndpoint]:
    """Start it, with an administrator; it ends with the block."""
    (directory / "data").mkdir()

    def start(port: int) -> tuple[int, Daemon]:
        command: list[str | Path] = [tools.mongod(), "--dbpath", directory / "data", "--port", str(port), "--auth"]
        command += ["--bind_ip", LOOPBACK, "--nounixsocket", "--wiredTigerCacheSizeGB", "0.25"]
        command += ["--setParameter", "diagnosticDataCollectionEnabled=false"]
        daemon = Daemon("MongoDB", command, directory / "server.log", cwd=directory)

        def answers() -> bool:
            if '"Waiting for connections"' not in daemon.log_since_start():
                return False
            try:
                with pymongo.MongoClient(LOOPBACK, port, serverSelectionTimeoutMS=2_000) as client:
                    client.admin.command("hello")
            except PyMongoError:
                return False
            return True

        daemon.start_until(answers, _SECONDS)
        return port, daemon

    port, daemon = on_free_port(start)
    try:
        password = secrets.token_hex(16)
        with pymongo.MongoClient(LOOPBACK, port) as client:
            client.admin.command("createUser", "root", pwd=password, roles=["root"])
        url = f"mongodb://root:{password}@{LOOPBACK}:{port}/?authSource=admin"
        yield MongoEndpoint("6.0", port, password, None, host=LOOPBACK, replica_set="", url=url)
    finally:
        daemon.stop()
