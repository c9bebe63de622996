"""The MongoDB engine on a real server: what is declared stands, stays, is put back, and nothing else is touched."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from pymongo.errors import WriteError

from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectRef, Risk
from selvedge.engines.base import Unit
from tests.engines.mongodb_support import (
    DESIGNS,
    LEAVES_SOCKETS,
    Commands,
    Record,
    converge,
    member,
    running,
    target,
    with_spec,
)

if TYPE_CHECKING:
    from pymongo.database import Database

    from sandbox import MongoEndpoint
    from selvedge.engines.mongodb import MongoEngine

pytestmark = LEAVES_SOCKETS

ROOT = Path(__file__).parents[2]
FASHION_WALLET = yaml.safe_load((ROOT / "examples/fashion-wallet/30-schema-mongodb.yaml").read_text())["spec"][
    "mongodb"
]

EVERY_KIND = """
collections:
- name: kinds
  indexes:
  - {name: plain, keys: [{field: a}, {field: b, order: -1}]}
  - {name: unique, keys: [{field: u}], unique: true}
  - {name: sparse, keys: [{field: s}], sparse: true}
  - {name: hidden, keys: [{field: h}], hidden: true}
  - {name: ttl, keys: [{field: t}], expireAfter: 30d}
  - {name: partial, keys: [{field: p}], unique: true, partialFilter: {deletedAt: null, n: {$gt: 5}}}
  - {name: dated, keys: [{field: d}], partialFilter: {d: {$gt: {$date: "2025-01-01T00:00:00Z"}}}}
  - name: text
    keys: [{field: x}, {field: one, type: Text}, {field: two.deep, type: Text}]
    weights: {one: 7}
    defaultLanguage: german
  - {name: hashed, keys: [{field: hash, type: Hashed}]}
  - {name: sphere, keys: [{field: place, type: 2dsphere}, {field: at}]}
  - {name: flat, keys: [{field: point, type: 2d}], bits: 20}
  - {name: wild, keys: [{field: "$**", type: Wildcard}], wildcardProjection: {a: 1, b.c: 1}}
  - {name: wilder, keys: [{field: attributes, type: Wildcard}]}
  - name: collated
    keys: [{field: c}]
    collation: {locale: de, strength: 3, caseFirst: Upper, alternate: NonIgnorable}
  - {name: simple, keys: [{field: c2}], collation: {locale: simple}}
  - {name: dotted.name, keys: [{field: e.f}]}
- name: warned
  validator: {status: {$in: [draft, published]}}
  validationLevel: Moderate
  validationAction: Warn
- name: unwatched
  validator: {status: {$type: string}}
  validationLevel: Disabled
- name: events
  timeSeries: {timeField: at, metaField: source, granularity: Minutes}
  expireAfter: 30d
  indexes: [{name: source, keys: [{field: source}]}]
- name: with.dots
"""


@pytest.mark.parametrize("declared", [EVERY_KIND, DESIGNS, FASHION_WALLET], ids=["kinds", "designs", "fashion-wallet"])
async def test_declared_is_made_and_a_second_pass_writes_nothing(
    sent: Commands, engine: MongoEngine, mongo_database: str, declared: Any
) -> None:
    one = member("designs", mongo_database, declared)
    (first,) = await converge(engine, mongo_database, one)
    assert first.problems == ()
    assert first.verified
    assert first.provisioned
    assert first.drift == ()
    assert len(first.applied) == first.ready > 0
    for _ in range(2):
        sent.clear()
        (again,) = await converge(engine, mongo_database, replace(one, verified=True))
        assert again.verified
        assert again.ready == first.ready
        assert (again.applied, again.drift) == ((), ())
        assert sent.writes() == []


async def test_a_pass_over_what_matches_asks_each_thing_once(
    sent: Commands, engine: MongoEngine, mongo_database: str
) -> None:
    one = member("designs", mongo_database, DESIGNS)
    await converge(engine, mongo_database, one)
    sent.clear()
    await converge(engine, mongo_database, replace(one, verified=True))
    assert sorted(sent.names) == ["find", "listCollections", "listIndexes", "replSetGetConfig"]


async def test_t44_coll_mod_is_not_sent_when_equal(
    sent: Commands, engine: MongoEngine, live: Database[dict[str, Any]]
) -> None:
    rules = {"required": ["name", "userId"], "properties": {"name": {"maxLength": 5.0}}, "bsonType": "object"}
    await converge(engine, live.name, member("designs", live.name, DESIGNS))
    live.command("collMod", "designs", validator={"$jsonSchema": rules}, validationLevel="strict")
    sent.clear()
    (result,) = await converge(engine, live.name, member("designs", live.name, DESIGNS, verified=True))
    assert result.verified
    assert sent.writes() == []


async def test_validator_level_and_action_are_sent_together_with_a_limit(
    sent: Commands, engine: MongoEngine, live: Database[dict[str, Any]]
) -> None:
    await converge(engine, live.name, member("designs", live.name, DESIGNS))
    live.command("collMod", "designs", validationAction="warn")
    sent.clear()
    await converge(engine, live.name, member("designs", live.name, DESIGNS, verified=True))
    (command,) = [document for document in sent.documents if "collMod" in document]
    assert {"validator", "validationLevel", "validationAction", "maxTimeMS", "writeConcern"} <= set(command)


def _drop_validator(live: Database[dict[str, Any]]) -> None:
    live.command("collMod", "designs", validator={}, validationLevel="off")


def _drop_index(live: Database[dict[str, Any]]) -> None:
    live.designs.drop_index("userId")


def _hide_index(live: Database[dict[str, Any]]) -> None:
    live.command("collMod", "designs", index={"name": "userId", "hidden": True})


def _prepare_unique(live: Database[dict[str, Any]]) -> None:
    live.command("collMod", "designs", index={"name": "userId", "prepareUnique": True})


def _drop_collection(live: Database[dict[str, Any]]) -> None:
    live.drop_collection("designs")


@pytest.mark.parametrize(
    ("hand", "object_"),
    [
        (_drop_validator, ObjectRef("collection", "designs")),
        (_drop_index, ObjectRef("index", "designs.userId")),
        (_hide_index, ObjectRef("index", "designs.userId")),
        (_prepare_unique, ObjectRef("index", "designs.userId")),
        (_drop_collection, ObjectRef("collection", "designs")),
    ],
)
async def test_drift_is_found_and_put_back(
    engine: MongoEngine, live: Database[dict[str, Any]], hand: Any, object_: ObjectRef
) -> None:
    one = member("designs", live.name, DESIGNS)
    await converge(engine, live.name, one)
    hand(live)
    (reported,) = await converge(engine, live.name, replace(with_spec(one, drift="Report"), verified=True))
    assert object_ in reported.drift
    assert not reported.verified
    assert object_ in {change.ref for change in reported.pending}
    assert {status.reason for status in reported.problems} == {Reason.DRIFT_DETECTED}
    assert reported.applied == ()
    (repaired,) = await converge(engine, live.name, replace(one, verified=True))
    assert object_ in repaired.drift
    assert object_ in {change.ref for change in repaired.applied}
    assert repaired.verified
    with pytest.raises(WriteError, match="failed validation"):
        live.designs.insert_one({"userId": "1", "name": "too long a name"})
    (quiet,) = await converge(engine, live.name, replace(one, verified=True))
    assert (quiet.applied, quiet.drift) == ((), ())


async def test_plan_writes_nothing_and_names_the_commands(
    sent: Commands, engine: MongoEngine, live: Database[dict[str, Any]]
) -> None:
    one = member("designs", live.name, DESIGNS)
    result = (await engine.plan(Unit(live.name, (one,), "cluster"))).members[one.uid]
    assert [change.ref.kind for change in result.pending] == ["collection", "index"]
    assert '"createIndexes": "designs"' in result.pending[1].statement
    assert result.digest.startswith("sha256:")
    assert not result.verified
    assert sent.writes() == []
    assert live.list_collection_names() == []


async def test_on_approval_nothing_happens_before_and_everything_after(
    engine: MongoEngine, live: Database[dict[str, Any]]
) -> None:
    one = member("designs", live.name, DESIGNS, apply="OnApproval")
    (waiting,) = await converge(engine, live.name, one)
    assert live.list_collection_names() == []
    assert {status.reason for status in waiting.problems} == {Reason.WAITING_FOR_APPROVAL}
    assert not waiting.provisioned
    planned = (await engine.plan(Unit(live.name, (one,), "cluster"))).members[one.uid]
    assert planned.digest == waiting.digest
    (approved,) = await converge(engine, live.name, with_spec(one, approvedPlan=waiting.digest))
    assert approved.verified
    assert len(approved.applied) == 2


async def test_ensure_absent_drops_only_what_may_be_dropped(
    engine: MongoEngine, live: Database[dict[str, Any]]
) -> None:
    await converge(engine, live.name, member("designs", live.name, DESIGNS))
    absent = "collections: [{name: designs, ensure: Absent}]"
    (held,) = await converge(engine, live.name, member("designs", live.name, absent))
    assert [change.risk for change in held.pending] == [Risk.DESTRUCTIVE]
    assert "designs" in live.list_collection_names()
    (gone,) = await converge(engine, live.name, member("designs", live.name, absent, destructive="Allow"))
    assert gone.verified
    assert "designs" not in live.list_collection_names()


@pytest.mark.parametrize("kind", ["", ", timeSeries: {timeField: at}"])
async def test_a_collection_that_was_made_again_is_not_dropped_by_an_approval_that_was_carried_out(
    engine: MongoEngine, live: Database[dict[str, Any]], kind: str
) -> None:
    """``approvedPlan`` still stands in the spec, and by now there are other documents under the name."""
    there = member("designs", live.name, f"collections: [{{name: old{kind}}}]")
    gone = member("designs", live.name, "collections: [{name: old, ensure: Absent}]")
    await converge(engine, live.name, there)
    (plan,) = await converge(engine, live.name, gone)
    (done,) = await converge(engine, live.name, with_spec(gone, approvedPlan=plan.digest))
    assert done.verified
    await converge(engine, live.name, there)
    live.old.insert_one({"at": datetime.now(UTC)})
    (again,) = await converge(engine, live.name, with_spec(gone, approvedPlan=plan.digest))
    assert (again.applied, len(again.pending)) == ((), 1)
    assert again.digest != plan.digest
    assert live.old.count_documents({}) == 1


async def test_many_operators_at_once_make_everything_once(mongodb: MongoEndpoint, live: Database[Any]) -> None:
    limits = replace(target(mongodb).limits, lock_timeout=20.0)
    engines = [running(target(mongodb, limits=limits)) for _ in range(4)]
    opened = [await each.__aenter__() for each in engines]
    try:
        results = await asyncio.gather(
            *(converge(each, live.name, member("designs", live.name, EVERY_KIND)) for each in opened)
        )
    finally:
        for each in engines:
            await each.__aexit__(None, None, None)
    assert all(result.verified for (result,) in results)
    applied = [change.ref for (result,) in results for change in result.applied]
    assert len(applied) == len(set(applied))


async def test_statements_and_connections_are_reported(mongodb: MongoEndpoint, live: Database[Any]) -> None:
    record = Record()
    async with running(target(mongodb), record) as engine:
        assert engine.connections() == {"active": 0, "idle": 0, "waiting": 0}
        await converge(engine, live.name, member("designs", live.name, DESIGNS))
        assert {name for name, _ in record.take()} == {"snapshot", "lock", "apply", "verify"}
        assert engine.connections()["active"] == 0
        assert 0 < engine.connections()["idle"] <= 10
    assert engine.connections() == {"active": 0, "idle": 0, "waiting": 0}
