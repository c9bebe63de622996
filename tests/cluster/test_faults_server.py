"""Database servers that restart, hang or break connections: the statuses say so, others go on, all recovers alone."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest

from sandbox import MongoServer, PostgresServer
from tests.cluster.proxy import Proxy
from tests.cluster.world import World, condition, verdict, wait_for

#: One process of pytest-xdist has all of them, so that the server of their own starts once.
pytestmark = pytest.mark.xdist_group("own-server")

#: From the moment at which a server answers again until everything on it is Ready.
RECOVERY_SECONDS = 10.0
AWAY = {"Unreachable", "ConnectionLost", "CircuitOpen", "ServerStarting"}
SILENT = {"ConnectionTimeout", "ConnectionLost", "Timeout", "CircuitOpen"}
#: Short, so that the tests are: what they are about is what happens when a limit is passed.
LIMITS = {"connectTimeout": "1s", "statementTimeout": "1s", "idleTimeout": "1s"}


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server of this module's own, to be stopped and started."""
    with PostgresServer.launch("18") as server:
        yield server


@pytest.fixture
def own(bare: World, server: PostgresServer) -> World:
    """DatabaseServer ``main`` is the server that the test may stop."""
    server.start()
    world = replace(bare, endpoint=server)
    world.server(monitoring={"interval": "1s"}, connections=LIMITS)
    return world


def reason(world: World, kind: str, name: str) -> str:
    """Why it is not Ready; empty while it is, or while the status is of another generation."""
    status, why, _ = verdict(world.api.get(kind, name))
    return why if status == "False" else ""


def ready_again(world: World, name: str = "shop", server: str = "main") -> None:
    """Both are Ready within the time that people are promised, and nobody touched them."""
    began = time.monotonic()
    world.ready("DatabaseServer", server, RECOVERY_SECONDS)
    world.ready("DatabaseSchema", name, max(0.1, RECOVERY_SECONDS - (time.monotonic() - began)))


def test_a_server_that_crashed_is_told_and_recovers_by_itself(own: World, server: PostgresServer):
    own.schema("shop", postgres={"schemas": [{"name": "shared"}]})
    own.ready("DatabaseSchema", "shop")
    uid = own.api.get("DatabaseSchema", "shop")["metadata"]["uid"]
    server.stop(immediate=True)
    wait_for(lambda: reason(own, "DatabaseServer", "main") in AWAY)
    own.schema("shop", postgres={"schemas": [{"name": "shared"}, {"name": "later"}]})
    wait_for(lambda: reason(own, "DatabaseSchema", "shop") in AWAY)
    found = own.api.get("DatabaseServer", "main")
    assert condition(found, "Reconciling")["status"] == "True"
    assert condition(found, "Stalled")["status"] == "False"
    server.start()
    ready_again(own)
    assert own.ask("SELECT count(*) FROM pg_namespace WHERE nspname = 'later'") == 1
    assert own.api.get("DatabaseSchema", "shop")["metadata"]["uid"] == uid
    assert len(wait_for(lambda: own.api.events("main", "Reachable"))) == 1


def test_a_server_that_shuts_down_is_starting_then_away_then_back(own: World, server: PostgresServer):
    own.schema("shop", postgres={"schemas": [{"name": "shared"}]})
    own.ready("DatabaseSchema", "shop")
    with closing(server.connect()):
        # The smart shutdown waits for this session, and refuses new ones meanwhile.
        os.kill(server.pid, signal.SIGTERM)
        wait_for(lambda: reason(own, "DatabaseServer", "main") == "ServerStarting")
        assert "is starting up or shutting down" in verdict(own.api.get("DatabaseServer", "main"))[2]
    wait_for(lambda: reason(own, "DatabaseServer", "main") == "Unreachable")
    server.start()
    ready_again(own)


def test_a_server_that_hangs_is_told_and_keeps_nobody_else_waiting(bare: World):
    world = bare
    with Proxy(world.endpoint.port) as proxy:
        world.server(replace(world.endpoint, port=proxy.port), monitoring={"interval": "1s"}, connections=LIMITS)
        world.server(name="other")
        world.schema("shop", postgres={"schemas": [{"name": "shared"}]})
        world.schema("aside", server="other", database=f"{world.name}_b", postgres={"schemas": [{"name": "shared"}]})
        world.ready("DatabaseSchema", "shop")
        world.ready("DatabaseSchema", "aside")
        proxy.hang()
        world.schema("shop", postgres={"schemas": [{"name": "shared"}, {"name": "later"}]})
        seen: set[str] = set()

        def both_say_so() -> bool:
            now = reason(world, "DatabaseServer", "main"), reason(world, "DatabaseSchema", "shop")
            seen.update(now)
            return all(now)

        wait_for(both_say_so)
        assert seen - {""} <= SILENT
        wait_for(lambda: reason(world, "DatabaseServer", "main") == "ConnectionTimeout")
        # Others go on, and are not even slower.
        began = time.monotonic()
        postgres = {"schemas": [{"name": "shared"}, {"name": "more"}]}
        world.schema("aside", server="other", database=f"{world.name}_b", postgres=postgres)
        world.ready("DatabaseSchema", "aside", 5)
        assert time.monotonic() - began < 5
        assert verdict(world.api.get("DatabaseServer", "other"))[0] == "True"
        proxy.resume()
        ready_again(world)
        assert world.ask("SELECT count(*) FROM pg_namespace WHERE nspname = 'later'") == 1


MIGRATIONS = {
    "20250101000000_a.sql": "-- migrate:up\nCREATE TABLE shop.log (what text);\nINSERT INTO shop.log VALUES ('a1');\n"
    "SELECT pg_sleep(1.5);\nINSERT INTO shop.log VALUES ('a2');\n",
    "20250102000000_b.sql": "-- migrate:up\nINSERT INTO shop.log VALUES ('b1');\n",
}


@pytest.mark.parametrize("fault", ["cut", "hang"])
def test_a_connection_that_fails_under_a_migration_ends_in_an_exact_history(bare: World, fault: str):
    world, owner = bare, bare.role("owner")
    with Proxy(world.endpoint.port) as proxy:
        limits = {**LIMITS, "statementTimeout": "2s"}
        server = replace(world.endpoint, port=proxy.port)
        world.server(server, monitoring={"interval": "1s"}, connections=limits)
        postgres = {"owner": owner, "roles": [{"name": owner}], "schemas": [{"name": "shop", "owner": owner}]}
        world.schema("shop", postgres=postgres)
        run = {"schemaRef": {"name": "shop"}, "source": {"inline": {"files": MIGRATIONS}}}
        world.api.apply({"kind": "MigrationRun", "metadata": {"name": "run"}, "spec": run})
        sleeping = (
            f"SELECT 1 FROM pg_stat_activity WHERE datname = '{world.name}' AND query LIKE 'SELECT pg_sleep(1.5)%'"
        )
        wait_for(lambda: world.sql(f"{sleeping} AND state = 'active'", database="postgres"))
        if fault == "cut":
            proxy.cut()
        else:
            proxy.hang()
            wait_for(lambda: reason(world, "DatabaseServer", "main") in SILENT)
            proxy.resume()
        world.ready("MigrationRun", "run", 30)
        ready_again(world)
    assert world.sql("SELECT what FROM shop.log ORDER BY what") == [("a1",), ("a2",), ("b1",)]
    assert world.ask("SELECT array_agg(state) FROM selvedge.history") == ["Applied", "Applied"]
    assert world.ask("SELECT count(*) FROM selvedge.events WHERE event = 'Applied'") == 2


def test_a_mongodb_that_crashed_is_told_and_recovers_by_itself(bare: World):
    designs = {"name": "designs", "validator": {"$jsonSchema": {"required": ["name"]}}}
    with MongoServer.launch() as server:
        bare.mongo_server(server)
        bare.api.patch("DatabaseServer", "mongo", {"spec": {"monitoring": {"interval": "1s"}, "connections": LIMITS}})
        bare.schema("designs", server="mongo", mongodb={"collections": [designs]})
        bare.ready("DatabaseSchema", "designs")
        server.stop(immediate=True)
        wait_for(lambda: reason(bare, "DatabaseServer", "mongo") in AWAY | SILENT)
        bare.schema("designs", server="mongo", mongodb={"collections": [designs, {"name": "later"}]})
        wait_for(
            lambda: reason(bare, "DatabaseSchema", "designs") in AWAY | SILENT,
            what=lambda: verdict(bare.api.get("DatabaseSchema", "designs")),
        )
        server.start()
        ready_again(bare, "designs", "mongo")
        with server.client() as client:
            assert "later" in client[bare.name].list_collection_names()
