"""What a user is told when a MongoDB server cannot be reached, or not like that."""

from __future__ import annotations

import asyncio
import gc
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pymongo.errors import OperationFailure

from sandbox.mongodb import MongoServer
from sandbox.pki import Authority
from selvedge.core.errors import BudgetError, InvalidError, SelvedgeError, TransientError
from selvedge.core.reasons import Reason
from selvedge.engines.base import TlsOptions
from selvedge.engines.mongodb import probe
from selvedge.engines.mongodb.errors import translate
from tests.engines.mongodb_support import LEAVES_SOCKETS, converge, member, quick, running, target
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox import MongoEndpoint
    from selvedge.engines.base import ServerFacts, ServerTarget

pytestmark = LEAVES_SOCKETS

PASSWORD = "marked-password-5f1c"


async def failure(where: ServerTarget) -> SelvedgeError:
    """The error of a probe, which names the server and no secret, and leaves nothing open."""
    async with running(where) as engine:
        with pytest.raises(SelvedgeError) as caught:
            await engine.probe()
        with pytest.raises(SelvedgeError) as again:
            await converge(engine, "designs", member("designs", "designs", "collections: [{name: designs}]"))
    gc.collect()
    assert engine.connections() == {"active": 0, "idle": 0, "waiting": 0}
    assert again.value.reason is caught.value.reason
    message = caught.value.message
    assert message[0].islower() or message[0].isdigit()
    assert PASSWORD not in message
    assert str(where.hosts[0][1]) in message
    return caught.value


@pytest.fixture(scope="module")
def plain() -> Iterator[MongoServer]:
    """A server without TLS."""
    with MongoServer.launch(tls_mode="disabled") as server:
        yield server


async def test_probe_tells_version_role_and_identity(mongodb: MongoEndpoint) -> None:
    async with running(target(mongodb)) as engine:
        facts: ServerFacts = await engine.probe()
    assert facts.version.startswith("6.0")
    assert facts.role == "Primary"
    assert len(facts.system_identifier) == 24
    assert facts.missing_privileges == ()
    assert "Transactions" in facts.capabilities


async def test_host_that_does_not_resolve(mongodb: MongoEndpoint) -> None:
    error = await failure(target(mongodb, hosts=(("nobody.invalid", 27017),), limits=quick()))
    assert isinstance(error, TransientError)
    assert error.reason is Reason.HOST_NOT_FOUND


async def test_nobody_listens(mongodb: MongoEndpoint) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        error = await failure(target(mongodb, hosts=(("127.0.0.1", reserved.getsockname()[1]),), limits=quick()))
    assert isinstance(error, TransientError)
    assert error.reason is Reason.UNREACHABLE


@pytest.mark.parametrize("replica_set", ["", "rs0"])
@pytest.mark.parametrize("mode", ["Disable", "VerifyFull"])
async def test_server_that_accepts_and_says_nothing(mongodb: MongoEndpoint, mode: str, replica_set: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel accepts, and nobody reads
        where = target(mongodb, hosts=(silent.getsockname(),), limits=quick(), tls=TlsOptions(mode, ca=mongodb.ca))
        where = replace(where, replica_set=replica_set)
        began = time.monotonic()
        error = await failure(where)
        assert time.monotonic() - began < 20
    assert isinstance(error, TransientError)
    assert error.reason is Reason.CONNECTION_TIMEOUT


async def test_wrong_password(mongodb: MongoEndpoint) -> None:
    error = await failure(target(mongodb, password=PASSWORD, limits=quick()))
    assert isinstance(error, InvalidError)
    assert error.reason is Reason.AUTHENTICATION_FAILED


async def test_wrong_ca(mongodb: MongoEndpoint, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "somebody else").certificate_path.read_text()
    error = await failure(target(mongodb, tls=TlsOptions("VerifyFull", ca=stranger), limits=quick()))
    assert isinstance(error, InvalidError)
    assert error.reason is Reason.TLS_VERIFICATION_FAILED


async def test_require_and_verify_ca_ask_for_less(mongodb: MongoEndpoint, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "somebody else").certificate_path.read_text()
    async with running(target(mongodb, tls=TlsOptions("Require", ca=stranger))) as engine:
        assert (await engine.probe()).role == "Primary"
    async with running(target(mongodb, tls=TlsOptions("VerifyCA", ca=mongodb.ca))) as engine:
        assert (await engine.probe()).role == "Primary"


async def test_server_without_tls(plain: MongoServer) -> None:
    where = target(plain, tls=TlsOptions("VerifyFull", ca=""), limits=quick())
    error = await failure(where)
    assert isinstance(error, InvalidError)
    assert error.reason is Reason.TLS_UNAVAILABLE
    async with running(replace(where, tls=TlsOptions("Disable"))) as engine:
        assert (await engine.probe()).role == "Primary"


async def test_a_certificate_that_is_none(mongodb: MongoEndpoint) -> None:
    error = await failure(target(mongodb, tls=TlsOptions("VerifyFull", ca="not a certificate"), limits=quick()))
    assert isinstance(error, InvalidError)
    assert error.reason is Reason.INVALID_SPEC


async def test_pool_that_is_used_up(mongodb: MongoEndpoint, mongo_database: str) -> None:
    where = target(mongodb, limits=quick(max=1, acquire_timeout=0.2, statement_timeout=10.0))
    async with running(where) as engine:
        client = await engine._server.client()
        client_database: Any = client[mongo_database]
        await client_database.designs.insert_one({})
        busy = asyncio.create_task(client_database.designs.find({"$where": "sleep(1500) || true"}).to_list())
        await until(lambda: engine.connections()["active"] == 1, busy)
        with pytest.raises(BudgetError) as caught:
            await engine.probe()
        await busy
    assert caught.value.reason is Reason.TOO_MANY_CONNECTIONS


async def test_a_new_engine_uses_a_new_password(mongodb: MongoEndpoint, mongo_database: str) -> None:
    roles = ["readWrite", "dbAdmin", {"role": "readWrite", "db": "selvedge"}]
    with mongodb.client() as client:
        client[mongo_database].command("createUser", "rotated", pwd=PASSWORD, roles=roles)
        where = target(mongodb, username="rotated", password=PASSWORD, auth_source=mongo_database)
        async with running(where) as engine:
            (result,) = await converge(
                engine, mongo_database, member("designs", mongo_database, "collections: [{name: designs}]")
            )
            assert result.verified
        client[mongo_database].command("updateUser", "rotated", pwd="another")
    assert (await failure(replace(where, limits=quick()))).reason is Reason.AUTHENTICATION_FAILED


async def test_server_that_restarts_is_found_again() -> None:
    with MongoServer.launch() as server:
        one = member("designs", "designs", "collections: [{name: designs}]")
        async with running(target(server, limits=quick())) as engine:
            assert (await converge(engine, "designs", one))[0].verified
            server.stop(immediate=True)
            with pytest.raises(TransientError) as caught:
                await converge(engine, "designs", one)
            assert caught.value.reason in (Reason.UNREACHABLE, Reason.CONNECTION_LOST)
            await asyncio.to_thread(server.start)
            assert (await converge(engine, "designs", one))[0].verified


def test_missing_privileges_are_the_exact_command() -> None:
    def auth(*entries: dict[str, Any]) -> dict[str, Any]:
        return {"authenticatedUsers": [{"user": "op", "db": "admin"}], "authenticatedUserPrivileges": list(entries)}

    everything = {"resource": {"anyResource": True}, "actions": ["anyAction"]}
    assert probe.missing_privileges(auth(everything), "admin", "selvedge") == ()
    assert probe.missing_privileges({"authenticatedUsers": []}, "admin", "selvedge") == ()
    (statement,) = probe.missing_privileges(auth(), "admin", "selvedge")
    assert statement == (
        'db.getSiblingDB("admin").grantRolesToUser("op", [{role: "readWriteAnyDatabase", db: "admin"}, '
        '{role: "dbAdminAnyDatabase", db: "admin"}, {role: "userAdminAnyDatabase", db: "admin"}, '
        '{role: "clusterMonitor", db: "admin"}])'
    )


def test_missing_privileges_on_the_operators_own_database() -> None:
    def missing(*entries: tuple[str, str, frozenset[str]]) -> tuple[str, ...]:
        own = [
            {"resource": {"db": db, "collection": name}, "actions": sorted(actions)} for db, name, actions in entries
        ]
        cluster = {"resource": {"cluster": True}, "actions": sorted(probe._CLUSTER)}
        auth = {"authenticatedUsers": [{"user": "op", "db": "admin"}], "authenticatedUserPrivileges": [*own, cluster]}
        return probe.missing_privileges(auth, "admin", "ops")

    shop = ("shop", "", probe._DATA | probe._USERS)
    needed = ('db.getSiblingDB("admin").grantRolesToUser("op", [{role: "readWrite", db: "ops"}])',)
    documents = frozenset({"find", "insert", "update", "remove"})
    assert missing(shop) == needed
    assert missing(shop, ("ops", "", documents)) == ()
    assert missing(shop, ("ops", "claims", documents)) == needed
    assert missing(shop, ("ops", "claims", documents), ("ops", "lock", documents)) == ()
    assert missing(shop, ("ops", "", documents - {"remove"})) == needed
    assert missing(("", "", probe._DATA | probe._USERS)) == ()
    # rights on the operator's own database are none on one to work with
    assert "readWriteAnyDatabase" in missing(("ops", "", probe._DATA | probe._USERS))[0]


def test_a_member_that_cannot_check_cluster_times_yet_is_starting() -> None:
    refused = OperationFailure("No keys found for HMAC that is valid for time", 211, {"codeName": "KeyNotFound"})
    error = translate(refused, "db.example.com:27017", "buildInfo")
    assert (type(error), error.reason) == (TransientError, Reason.SERVER_STARTING)
