"""Builds of indexes that take long: the pass goes on, nothing is built twice, and what became of it is told."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from selvedge.core.mongodb.changes import CreateIndex, ReplaceIndex
from selvedge.core.mongodb.model import Index
from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectState, Risk
from selvedge.engines.base import Unit
from selvedge.engines.mongodb.apply import apply_changes
from selvedge.engines.mongodb.builds import Builds
from tests.engines.mongodb_support import CLUSTER, LEAVES_SOCKETS, Commands, converge, member, running, target, yes
from tests.waiting import until

if TYPE_CHECKING:
    from pymongo.database import Database

    from sandbox import MongoEndpoint
    from selvedge.core.unit import MemberResult
    from selvedge.engines.mongodb import MongoEngine

pytestmark = LEAVES_SOCKETS

PLAIN = "collections: [{name: designs}]"
INDEXED = "collections: [{name: designs, indexes: [{name: n, keys: [{field: n}]}]}]"
UNIQUE = INDEXED.replace("]}]}]", "], unique: true}]}]")
SECONDS = 90.0


@pytest.fixture
def sent(sent: Commands, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Every command that engines made after this fixture send; and no pass waits for a build."""
    init = Builds.__init__
    monkeypatch.setattr(Builds, "__init__", lambda self, server: init(self, server, 0.1))
    return sent


def fill(live: Database[dict[str, Any]], *, twice: bool = False) -> None:
    """One document makes a thousand keys: a build of seconds from an insert of a moment; ``twice``: no unique one."""
    live.designs.insert_many([{"n": list(range(i * 1000, i * 1000 + 1000))} for i in range(2500)])
    if twice:
        live.designs.insert_one({"n": 0})


def being_built(live: Database[dict[str, Any]]) -> list[str]:
    reply = live.command("listIndexes", "designs", includeBuildUUIDs=True)
    return [entry["spec"]["name"] for entry in reply["cursor"]["firstBatch"] if "buildUUID" in entry]


async def until_settled(engine: MongoEngine, live: Database[dict[str, Any]], declared: str) -> MemberResult:
    """Passes, as the operator makes them, until one says something else than that it is being built."""
    deadline = time.monotonic() + SECONDS
    while True:
        (result,) = await converge(engine, live.name, member("designs", live.name, declared, destructive="Allow"))
        if {status.reason for status in result.problems} != {Reason.BUILDING_INDEX}:
            return result
        assert time.monotonic() < deadline
        await asyncio.sleep(0.2)  # between two passes, which the operator's queue would make less often


async def test_a_long_build_does_not_hold_up_the_pass_and_is_started_once(
    mongodb: MongoEndpoint, live: Database[dict[str, Any]], sent: Commands
) -> None:
    one = member("designs", live.name, INDEXED)
    async with running(target(mongodb)) as engine:
        await converge(engine, live.name, member("designs", live.name, PLAIN))
        fill(live)
        (first,) = await converge(engine, live.name, one)
        assert being_built(live) == ["n"], "the pass ended while the server builds"
        (status,) = first.problems
        assert (str(status.ref), status.state, status.reason, status.message) == (
            "index designs.n",
            ObjectState.WAITING,
            Reason.BUILDING_INDEX,
            "index designs.n is being built by the server and cannot be used yet; looked at again by itself",
        )
        assert [str(change.ref) for change in first.applied] == ["index designs.n"]
        # the unit goes on: what else is declared on this database is made meanwhile
        again, other = await converge(
            engine, live.name, one, member("avatars", live.name, "collections: [{name: avatars}]")
        )
        assert being_built(live) == ["n"]
        assert other.verified
        assert (again.applied, again.pending, len(again.problems)) == ((), (), 1)
        result = await until_settled(engine, live, INDEXED)
        assert result.verified
        assert result.applied == ()
    assert sent.names.count("createIndexes") == 1
    claim = live.client["selvedge"]["claims"].find_one({"_id": {"database": live.name, "object": "index:designs.n"}})
    assert claim is not None
    assert claim["made"]


async def test_t46_an_index_under_construction_is_not_ready_and_not_built_again_after_a_restart(
    mongodb: MongoEndpoint, live: Database[dict[str, Any]], sent: Commands
) -> None:
    two = member("designs", live.name, INDEXED)
    async with running(target(mongodb)) as engine:
        await converge(engine, live.name, member("designs", live.name, PLAIN))
        fill(live)
        await converge(engine, live.name, two)
    assert being_built(live), "the server goes on without us"
    sent.clear()
    async with running(target(mongodb)) as engine:
        planned = (await engine.plan(Unit(live.name, (two,), CLUSTER))).members[two.uid]
        assert (planned.pending, [status.reason for status in planned.problems]) == ((), [Reason.BUILDING_INDEX])
        (result,) = await converge(engine, live.name, two)
        assert being_built(live)
        assert [status.reason for status in result.problems] == [Reason.BUILDING_INDEX]
        assert not result.verified
        await until(lambda: not being_built(live), seconds=SECONDS)
        (result,) = await converge(engine, live.name, two)
    assert result.verified
    assert sent.writes() == [], "another process only looks"


async def test_why_a_long_build_failed_is_told_by_a_later_pass(
    mongodb: MongoEndpoint, live: Database[dict[str, Any]], sent: Commands
) -> None:
    async with running(target(mongodb)) as engine:
        await converge(engine, live.name, member("designs", live.name, PLAIN))
        fill(live, twice=True)
        (first,) = await converge(engine, live.name, member("designs", live.name, UNIQUE))
        assert [status.reason for status in first.problems] == [Reason.BUILDING_INDEX]
        result = await until_settled(engine, live, UNIQUE)
        (status,) = result.problems
        assert (status.state, status.reason) == (ObjectState.FAILED, Reason.STATEMENT_FAILED)
        assert "index designs.n cannot be unique: several documents have the same n" in status.message
        assert sent.names.count("createIndexes") == 1
        live.designs.delete_many({"n": 0})
        assert (await until_settled(engine, live, UNIQUE)).verified


async def test_a_replacement_that_fails_late_puts_the_old_index_back(
    mongodb: MongoEndpoint, live: Database[dict[str, Any]], sent: Commands
) -> None:
    old = INDEXED.replace("field: n", "field: other")
    async with running(target(mongodb)) as engine:
        await converge(engine, live.name, member("designs", live.name, old))
        fill(live, twice=True)
        first = await until_settled(engine, live, UNIQUE)
        assert "several documents have the same n" in first.problems[0].message
        await until(lambda: "n" in live.designs.index_information())  # that is a build as well
        assert dict(live.designs.index_information()["n"]["key"]) == {"other": 1}


class _Held:
    """A lock that nobody takes away."""

    def check(self) -> None:
        """Nothing to say."""


async def test_a_build_that_fails_while_a_later_pass_waits_for_it_puts_the_old_index_back(
    mongodb: MongoEndpoint, live: Database[dict[str, Any]], sent: Commands
) -> None:
    """That pass looked before the answer came: it knows of no replacement, and sends the same command."""
    old, new = Index("n", (("other", "1"),)), Index("n", (("n", "1"),), unique=True)
    async with running(target(mongodb)) as engine:
        await converge(engine, live.name, member("designs", live.name, PLAIN))
        fill(live, twice=True)
        server, builds = engine._server, engine._builds
        live.designs.create_index("other", name="n")
        replace = ReplaceIndex(collection="designs", before=old, risk=Risk.DESTRUCTIVE, name="n", desired=new)
        change = CreateIndex(collection="designs", before=None, risk=Risk.LOCKING, name="n", desired=new)
        lock: Any = _Held()
        await apply_changes(server, live.name, [replace], lock, yes, builds)
        builds.patience = 60.0
        applied = await apply_changes(server, live.name, [change], lock, yes, builds)
        assert "several documents have the same n" in applied.failed[change.ref].message
        assert applied.restored == [change]
        assert dict(live.designs.index_information()["n"]["key"]) == {"other": 1}
