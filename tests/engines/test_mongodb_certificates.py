"""Certificates of a MongoDB server: in no file on a disk, and a client's own where the server asks for one."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sandbox.mongodb import MongoServer
from sandbox.pki import Authority
from selvedge.core.errors import SelvedgeError
from tests.engines.mongodb_support import LEAVES_SOCKETS, converge, member, quick, running, target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from selvedge.engines.base import ServerTarget

pytestmark = LEAVES_SOCKETS

_CHILD = """
import asyncio, json, sys
from selvedge.engines.base import ServerTarget, TlsOptions
from selvedge.engines.mongodb.connect import Server

class Nobody:
    def statement(self, operation, seconds, error=""):
        pass

async def main():
    host, port, username, password, *tls = json.load(sys.stdin)
    server = Server(ServerTarget(((host, port),), username, password, TlsOptions("VerifyFull", *tls)), Nobody())
    await server.command("admin", {"ping": 1}, 5)
    print("connected", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[MongoServer, Authority]]:
    """A server that talks to nobody without a certificate, and the authority that it believes."""
    authority = Authority(tmp_path_factory.mktemp("pki"), "clients and servers")
    with MongoServer.launch(authority=authority) as server:
        server.stop()
        server.daemon.command = tuple(
            part for part in server.daemon.command if part != "--tlsAllowConnectionsWithoutCertificates"
        )
        server.daemon.start_until(lambda: '"Waiting for connections"' in server.daemon.log_since_start())
        yield server, authority


def _with_certificate(where: ServerTarget, authority: Authority) -> ServerTarget:
    issued = authority.client("selvedge")
    tls = replace(
        where.tls,
        client_certificate=issued.certificate_path.read_text(),
        client_key=issued.key_path.read_text(),
    )
    return replace(where, tls=tls)


async def test_a_client_certificate_where_the_server_asks_for_one(strict: tuple[MongoServer, Authority]) -> None:
    server, authority = strict
    where = target(server)
    async with running(_with_certificate(where, authority)) as engine:
        assert (await engine.probe()).role == "Primary"
        one = member("designs", "designs", "collections: [{name: designs}]")
        assert (await converge(engine, "designs", one))[0].verified
    # Time enough for the driver to see why: a busy machine's second may be over before the server hangs up.
    async with running(replace(where, limits=replace(quick(), connect_timeout=2.5))) as engine:
        with pytest.raises(SelvedgeError, match=r"name one in spec\.tls\.clientCertificateSecretRef"):
            await engine.probe()
    gc.collect()


async def test_certificates_lie_in_memory_and_go_with_the_engine(strict: tuple[MongoServer, Authority]) -> None:
    server, authority = strict
    async with running(_with_certificate(target(server), authority)) as engine:
        await engine.probe()
        held = engine._server._files
        assert [(path.stat().st_mode & 0o777) for path in map(Path, held)] == [0o600, 0o600]
        assert all(str(path.readlink()).startswith("/memfd:") for path in map(Path, held))
    assert engine._server._files == ()


async def test_a_process_that_is_killed_leaves_no_key_behind(
    strict: tuple[MongoServer, Authority], tmp_path: Path
) -> None:
    server, authority = strict
    where = _with_certificate(target(server), authority)
    empty = tmp_path / "temporary"
    empty.mkdir()
    order = [*where.hosts[0], where.username, where.password, where.tls.ca]
    order += [where.tls.client_certificate, where.tls.client_key]
    assert await asyncio.to_thread(_killed, order, empty) == []


def _killed(order: list[object], temporary: Path) -> list[Path]:
    """Start a process that connects, kill it, and return what it left where temporary files go."""
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(temporary)},
        text=True,
    )
    with child:
        assert child.stdin is not None
        assert child.stdout is not None
        json.dump(order, child.stdin)
        child.stdin.close()
        said = child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert said == "connected\n"
    assert child.returncode == -signal.SIGKILL
    return list(temporary.iterdir())
