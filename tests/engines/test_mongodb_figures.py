"""Figures that a probe of MongoDB brings: from a real server, and from the answer of a set with failing members."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from pymongo.database import Database

from sandbox import MongoEndpoint
from selvedge.core.figures import ReplicaLag
from selvedge.engines.mongodb.figures import figures_of
from tests.engines.mongodb_support import running, target

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


async def test_a_server_states_connections_and_cache(mongodb: MongoEndpoint, live: Database[Any]) -> None:
    async with running(target(mongodb)) as engine:
        before = (await engine.probe()).figures
        live.designs.insert_many({"number": number} for number in range(2000))
        assert sum(1 for _ in live.designs.find()) == 2000
        found = (await engine.probe()).figures
    status = live.client.admin.command("serverStatus")
    assert found.connections["active"] >= 1
    assert found.connection_limit == status["connections"]["current"] + status["connections"]["available"]
    assert found.counters["blocks_hit"] > before.counters["blocks_hit"]
    assert found.counters["blocks_read"] <= status["wiredTiger"]["cache"]["pages read into cache"]
    assert found.counted_by == before.counted_by
    assert str(status["pid"]) in found.counted_by
    assert found.queued is not None
    assert found.dirty_ratio is not None
    assert 0 <= found.dirty_ratio < 1
    assert (found.replicas_connected, found.replicas_expected, found.lags) == (0, 0, ())


async def test_a_user_who_may_not_ask_states_nothing(mongodb: MongoEndpoint, live: Database[Any]) -> None:
    live.command("createUser", "reader", pwd="marked-password", roles=["read"])
    where = target(mongodb, username="reader", password="marked-password", auth_source=live.name)
    async with running(where) as engine:
        found = (await engine.probe()).figures
    assert (found.connections, found.counters, found.lags) == ({}, {}, ())
    assert (found.connection_limit, found.replicas_connected, found.replicas_expected) == (None, None, None)


def member(name: str, state: str, behind: float, **others: Any) -> dict[str, Any]:
    return {"name": name, "stateStr": state, "optimeDate": NOW - timedelta(seconds=behind), "health": 1, **others}


def test_lag_is_that_of_members_which_answer() -> None:
    members = [
        member("a:1", "PRIMARY", 2),
        member("b:1", "SECONDARY", 5),
        member("c:1", "RECOVERING", 65),
        member("ahead:1", "SECONDARY", 0),
        member("gone:1", "(not reachable/healthy)", 0, health=0, optimeDate=datetime(1970, 1, 1, tzinfo=UTC)),
        member("new:1", "RECOVERING", 0, optimeDate=datetime(1970, 1, 1, tzinfo=UTC)),
        {"name": "arbiter:1", "stateStr": "ARBITER", "health": 1},
    ]
    found = figures_of(None, {"members": members})
    assert found.lags == (ReplicaLag("ahead:1", 0), ReplicaLag("b:1", 3), ReplicaLag("c:1", 63))
    assert (found.replicas_connected, found.replicas_expected) == (2, 5)


def test_without_a_primary_there_is_no_lag() -> None:
    found = figures_of(None, {"members": [member("a:1", "SECONDARY", 2), member("b:1", "SECONDARY", 5)]})
    assert found.lags == ()
    assert (found.replicas_connected, found.replicas_expected) == (2, 1)
