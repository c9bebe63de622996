"""The MongoDB engine on a real server: what is declared stands, stays, is put back, and nothing else is touched."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from pymongo.errors import WriteError

from selvedge.core.errors import NotPermittedError, TransientError
from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectRef, ObjectState, Risk
from selvedge.engines.base import AccessRule, Unit
from selvedge.engines.mongodb.connect import Server
from selvedge.engines.mongodb.lock import locked
from tests.engines.mongodb_support import CLUSTER, Commands, Record, converge, member, running, target, yes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from pymongo.database import Database

    from sandbox import MongoEndpoint
    from selvedge.engines.mongodb import MongoEngine

# See _collect().
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

ROOT = Path(__file__).parents[2]
FASHION_WALLET = yaml.safe_load((ROOT / "examples/fashion-wallet/30-schema-mongodb.yaml").read_text())["spec"][
    "mongodb"
]

DESIGNS = """
collections:
- name: designs
  validator: {$jsonSchema: {bsonType: object, required: [userId, name], properties: {name: {maxLength: 5}}}}
  indexes:
  - {name: userId, keys: [{field: userId}]}
"""

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


@pytest.fixture(scope="module", autouse=True)
def _collect() -> Iterator[None]:
    """The driver leaves the socket of a connection that failed or was cancelled on its way to the garbage collector."""
    yield
    gc.collect()


@pytest.fixture
async def engine(mongodb: MongoEndpoint) -> AsyncIterator[MongoEngine]:
    async with running(target(mongodb)) as engine:
        yield engine


@pytest.fixture
def live(mongodb: MongoEndpoint, mongo_database: str) -> Iterator[Database[dict[str, Any]]]:
    with mongodb.client() as client:
        yield client[mongo_database]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Every command that engines made after this fixture send."""
    commands = Commands()
    opened = Server._open

    def watched(self: Server) -> Any:
        client = opened(self)
        client._event_listeners._EventListeners__command_listeners.append(commands)
        return client

    monkeypatch.setattr(Server, "_open", watched)
    return commands


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
    (reported,) = await converge(engine, live.name, replace(_with(one, drift="Report"), verified=True))
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
    (approved,) = await converge(engine, live.name, _with(one, approvedPlan=waiting.digest))
    assert approved.verified
    assert len(approved.applied) == 2


async def test_a_validator_that_left_the_declaration_is_taken_away_and_a_strangers_stays(
    engine: MongoEngine, live: Database[dict[str, Any]]
) -> None:
    bare = "collections: [{name: designs}]"
    await converge(engine, live.name, member("designs", live.name, DESIGNS))
    (result,) = await converge(engine, live.name, member("designs", live.name, _kept_index(bare)))
    assert result.verified
    assert "validator" not in _options(live, "designs")
    live.command("collMod", "designs", validator={"a": 1})
    (result,) = await converge(engine, live.name, member("designs", live.name, _kept_index(bare)))
    assert result.verified
    assert _options(live, "designs")["validator"] == {"a": 1}


async def test_t45_same_name_other_spec_never_drops(engine: MongoEngine, live: Database[dict[str, Any]]) -> None:
    one = member("designs", live.name, DESIGNS)
    await converge(engine, live.name, one)
    other = member("designs", live.name, DESIGNS.replace("{field: userId}", "{field: userId}, {field: name}"))
    (held,) = await converge(engine, live.name, other)
    (status,) = held.problems
    assert (status.state, status.reason) == (ObjectState.PENDING, Reason.WAITING_FOR_APPROVAL)
    assert [change.risk for change in held.pending] == [Risk.DESTRUCTIVE]
    assert dict(live.designs.index_information()["userId"]["key"]) == {"userId": 1}
    (refused,) = await converge(engine, live.name, _with(other, destructive="Refuse", approvedPlan=held.digest))
    assert [status.reason for status in refused.problems] == [Reason.DESTRUCTIVE_REFUSED]
    (approved,) = await converge(engine, live.name, _with(other, approvedPlan=held.digest))
    assert approved.verified
    (allowed,) = await converge(engine, live.name, _with(one, destructive="Allow"))
    assert allowed.verified
    assert dict(live.designs.index_information()["userId"]["key"]) == {"userId": 1}


async def test_t45_an_index_with_the_same_keys_and_another_name_is_a_conflict(
    engine: MongoEngine, live: Database[dict[str, Any]]
) -> None:
    await converge(engine, live.name, member("designs", live.name, "collections: [{name: designs}]"))
    live.designs.create_index("userId", name="byHand")
    (result,) = await converge(engine, live.name, member("designs", live.name, DESIGNS))
    (status,) = result.problems
    assert (status.state, status.reason) == (ObjectState.FAILED, Reason.CONFLICT)
    assert "byHand" in status.message
    assert set(live.designs.index_information()) == {"_id_", "byHand"}


async def test_an_index_that_left_the_declaration_waits_for_approval_and_a_strangers_stays(
    engine: MongoEngine, live: Database[dict[str, Any]]
) -> None:
    one = member("designs", live.name, DESIGNS)
    await converge(engine, live.name, one)
    live.designs.create_index("byHand", name="byHand")
    bare = member("designs", live.name, "collections: [{name: designs}]")
    (held,) = await converge(engine, live.name, bare)
    assert [(status.ref.name, status.reason) for status in held.problems] == [
        ("designs.userId", Reason.WAITING_FOR_APPROVAL)
    ]
    (done,) = await converge(engine, live.name, _with(bare, destructive="Allow"))
    assert done.verified
    assert set(live.designs.index_information()) == {"_id_", "byHand"}


async def test_a_shorter_ttl_waits_and_a_longer_one_does_not(
    engine: MongoEngine, live: Database[dict[str, Any]]
) -> None:
    def ttl(age: str) -> Any:
        return member(
            "sessions",
            live.name,
            f"collections: [{{name: sessions, indexes: [{{name: at, keys: [{{field: at}}], expireAfter: {age}}}]}}]",
        )

    (first,) = await converge(engine, live.name, ttl("10d"))
    assert first.verified
    live.sessions.insert_one({"x": 1})
    (longer,) = await converge(engine, live.name, ttl("20d"))
    assert longer.verified
    (shorter,) = await converge(engine, live.name, ttl("5d"))
    assert [change.risk for change in shorter.pending] == [Risk.DESTRUCTIVE]
    assert live.sessions.index_information()["at"]["expireAfterSeconds"] == 20 * 86400
    live.sessions.delete_many({})
    (empty,) = await converge(engine, live.name, ttl("5d"))
    assert empty.verified


async def test_unique_index_over_duplicates_names_the_query_and_others_go_on(
    engine: MongoEngine, live: Database[dict[str, Any]]
) -> None:
    await converge(engine, live.name, member("designs", live.name, "collections: [{name: designs}]"))
    live.designs.insert_many([{"email": "secret@example.com"}, {"email": "secret@example.com"}])
    declared = """
    collections:
    - name: designs
      indexes:
      - {name: email, keys: [{field: email}], unique: true}
      - {name: name, keys: [{field: name}]}
    - name: avatars
    """
    one = member("designs", live.name, declared)
    for _ in range(2):
        (result,) = await converge(engine, live.name, one)
        (status,) = result.problems
        assert (status.ref, status.state) == (ObjectRef("index", "designs.email"), ObjectState.FAILED)
        assert status.message == (
            "index designs.email cannot be unique: several documents have the same email; find them with "
            "db.getCollection('designs').aggregate([{$group: {_id: {email: '$email'}, n: {$sum: 1}}}, "
            "{$match: {n: {$gt: 1}}}]) and correct them"
        )
        assert result.ready == 3
        assert {"name", "_id_"} == set(live.designs.index_information())
        assert "avatars" in live.list_collection_names()
    live.designs.delete_many({})
    (result,) = await converge(engine, live.name, one)
    assert result.verified


async def test_t43_conversion_to_unique_with_duplicates_aborts_cleanly(
    engine: MongoEngine, live: Database[dict[str, Any]]
) -> None:
    await converge(engine, live.name, member("designs", live.name, DESIGNS))
    live.designs.insert_many([{"userId": "1", "name": "a"}, {"userId": "1", "name": "b"}])
    unique = member("designs", live.name, DESIGNS.replace("]}\n", "], unique: true}\n"))
    (result,) = await converge(engine, live.name, unique)
    (status,) = result.problems
    assert "several documents have the same userId" in status.message
    assert "prepareUnique" not in live.designs.index_information()["userId"]
    live.designs.insert_one({"userId": "1", "name": "c"})
    live.designs.delete_many({})
    (result,) = await converge(engine, live.name, unique)
    assert result.verified
    assert [change.risk for change in result.applied] == [Risk.NARROWING]
    assert live.designs.index_information()["userId"]["unique"]


async def test_a_replacement_that_fails_puts_the_old_index_back(
    engine: MongoEngine, live: Database[dict[str, Any]]
) -> None:
    await converge(engine, live.name, member("designs", live.name, DESIGNS))
    live.designs.insert_many([{"userId": "1", "name": "a"}, {"userId": "2", "name": "a"}])
    other = DESIGNS.replace("keys: [{field: userId}]", "keys: [{field: name}], unique: true")
    (result,) = await converge(engine, live.name, member("designs", live.name, other, destructive="Allow"))
    assert "several documents have the same name" in result.problems[0].message
    assert dict(live.designs.index_information()["userId"]["key"]) == {"userId": 1}


async def test_t47_a_validator_is_not_switched_to_error_while_documents_violate_it(
    engine: MongoEngine, live: Database[dict[str, Any]]
) -> None:
    await converge(engine, live.name, member("designs", live.name, "collections: [{name: designs}]"))
    live.designs.insert_many([{"_id": 1, "name": "a"}, {"_id": 2, "name": "b"}, {"_id": 3, "userId": "1", "name": "c"}])
    declared = DESIGNS.replace("  indexes:", "  rollout: WarnFirst\n  indexes:")
    one = member("designs", live.name, declared)
    for _ in range(2):
        (result,) = await converge(engine, live.name, one)
        (status,) = result.problems
        assert (status.state, status.reason) == (ObjectState.WAITING, Reason.VALIDATION_VIOLATED)
        assert status.message.startswith("2 documents of collection designs violate its validator")
        assert _options(live, "designs")["validationAction"] == "warn"
    live.designs.delete_many({"_id": {"$in": [1, 2]}})
    (result,) = await converge(engine, live.name, one)
    assert result.verified
    assert _options(live, "designs")["validationAction"] == "error"


async def test_a_validator_that_the_server_refuses_fails_alone(
    engine: MongoEngine, live: Database[dict[str, Any]]
) -> None:
    declared = """
    collections:
    - name: designs
      validator: {$jsonSchema: {bsonTpe: object}}
      indexes: [{name: a, keys: [{field: a}]}]
    - name: avatars
    """
    (result,) = await converge(engine, live.name, member("designs", live.name, declared))
    problems = {str(status.ref): status for status in result.problems}
    assert set(problems) == {"collection designs", "index designs.a"}
    assert problems["collection designs"].reason is Reason.STATEMENT_FAILED
    assert "Unknown $jsonSchema keyword: bsonTpe" in problems["collection designs"].message
    assert not result.provisioned
    assert "designs" not in live.list_collection_names()
    assert "avatars" in live.list_collection_names()
    # what could not be made is not claimed: made by hand now, it is somebody else's
    live.create_collection("designs")
    (result,) = await converge(engine, live.name, member("designs", live.name, DESIGNS))
    assert {status.reason for status in result.problems} == {Reason.ADOPTION_REQUIRED}


@pytest.mark.parametrize("value", ["{$date: yesterday}", "{$oid: abc}", "{$numberLong: many}", "99999999999999999999"])
async def test_a_document_that_is_no_bson_is_named(
    engine: MongoEngine, live: Database[dict[str, Any]], value: str
) -> None:
    declared = f"collections: [{{name: designs, validator: {{a: {value}}}}}, {{name: avatars}}]"
    (result,) = await converge(engine, live.name, member("designs", live.name, declared))
    (status,) = result.problems
    assert (str(status.ref), status.reason) == ("collection designs", Reason.INVALID_SPEC)
    assert "avatars" in live.list_collection_names()


async def test_what_cannot_be_changed_is_said(engine: MongoEngine, live: Database[dict[str, Any]]) -> None:
    series = "collections: [{{name: events, timeSeries: {{timeField: {}, granularity: {}}}}}]"
    await converge(engine, live.name, member("events", live.name, series.format("at", "Minutes")))
    (finer,) = await converge(engine, live.name, member("events", live.name, series.format("at", "Seconds")))
    assert "can only be made coarser" in finer.problems[0].message
    (other,) = await converge(engine, live.name, member("events", live.name, series.format("when", "Minutes")))
    assert "cannot be changed" in other.problems[0].message
    (coarser,) = await converge(engine, live.name, member("events", live.name, series.format("at", "Hours")))
    assert coarser.verified
    (plain,) = await converge(engine, live.name, member("events", live.name, "collections: [{name: events}]"))
    assert "is a time series" in plain.problems[0].message


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


async def test_namespace_outside_access_is_refused(engine: MongoEngine, live: Database[dict[str, Any]]) -> None:
    one = member("designs", live.name, DESIGNS)
    unit = Unit(live.name, (one,), "cluster", lambda _member: AccessRule(databases=("billing_*",)))
    result = (await engine.converge(unit, yes)).members[one.uid]
    assert [status.reason for status in result.problems] == [Reason.ACCESS_DENIED]
    assert not result.provisioned
    assert live.list_collection_names() == []


async def test_no_write_without_leading(engine: MongoEngine, live: Database[dict[str, Any]]) -> None:
    def no() -> None:
        raise TransientError(Reason.NOT_LEADING, "this process does not lead")

    with pytest.raises(TransientError) as caught:
        await engine.converge(Unit(live.name, (member("designs", live.name, DESIGNS),), "cluster"), no)
    assert caught.value.reason is Reason.NOT_LEADING
    assert live.list_collection_names() == []


async def test_no_write_without_the_lock(mongodb: MongoEndpoint, engine: MongoEngine, live: Database[Any]) -> None:
    limits = replace(target(mongodb).limits, lock_timeout=0.3)
    async with running(target(mongodb, limits=limits)) as impatient:
        async with locked(engine._server, "selvedge", live.name, 1.0):
            with pytest.raises(TransientError) as caught:
                await converge(impatient, live.name, member("designs", live.name, DESIGNS))
            assert caught.value.reason is Reason.WAITING_FOR_LOCK
            assert live.list_collection_names() == []
        (result,) = await converge(impatient, live.name, member("designs", live.name, DESIGNS))
        assert result.verified
    assert live.client["selvedge"]["lock"].find_one({"_id": live.name})["fence"] == 2


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


async def test_a_user_without_rights_is_told_what_to_grant(mongodb: MongoEndpoint, live: Database[Any]) -> None:
    live.command("createUser", "reader", pwd="marked-password", roles=["read"])
    where = target(mongodb, username="reader", password="marked-password", auth_source=live.name)
    async with running(where) as engine:
        facts = await engine.probe()
        (statement,) = facts.missing_privileges
        assert statement.startswith(f'db.getSiblingDB("{live.name}").grantRolesToUser("reader", [')
        with pytest.raises(NotPermittedError, match="grant it readWrite on database selvedge") as caught:
            await converge(engine, live.name, member("designs", live.name, DESIGNS))
        assert caught.value.reason is Reason.INSUFFICIENT_PRIVILEGES
        assert "marked-password" not in str(caught.value)
        # with the claims in reach, what is refused is an object of the database
        live.command("grantRolesToUser", "reader", roles=[{"role": "readWrite", "db": "selvedge"}])
        (result,) = await converge(engine, live.name, member("designs", live.name, DESIGNS))
        found = {str(status.ref): (status.reason, status.message) for status in result.problems}
        assert found["collection designs"] == (
            Reason.INSUFFICIENT_PRIVILEGES,
            "the operator's user may not change collection designs: grant it dbAdmin and readWrite on the database",
        )
        assert live.list_collection_names() == []
    claims = live.client["selvedge"]["claims"].find({"_id.database": live.name})
    assert [claim["_id"]["object"] for claim in claims] == ["database:"]


async def test_a_lock_that_may_not_be_written_is_named(mongodb: MongoEndpoint, live: Database[Any]) -> None:
    roles: list[Any] = ["readWrite", "dbAdmin", {"role": "read", "db": "selvedge"}]
    live.command("createUser", "worker", pwd="marked-password", roles=roles)
    where = target(mongodb, username="worker", password="marked-password", auth_source=live.name)
    async with running(where) as engine:
        with pytest.raises(NotPermittedError) as caught:
            await converge(engine, live.name, member("designs", live.name, DESIGNS))
    assert caught.value.message.endswith(
        f"may not do this (lock {live.name}): grant it readWrite on database selvedge, where claims and locks are kept"
    )
    assert live.list_collection_names() == []


def _with(one: Any, **options: Any) -> Any:
    return replace(one, spec=type(one.spec).model_validate(one.spec.model_dump(mode="json", by_alias=True) | options))


def _kept_index(declared: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(declared)
    found["collections"][0]["indexes"] = [{"name": "userId", "keys": [{"field": "userId"}]}]
    return found


def _options(live: Database[dict[str, Any]], name: str) -> dict[str, Any]:
    (entry,) = live.list_collections(filter={"name": name})
    options: dict[str, Any] = entry["options"]
    return options


async def test_t46_an_index_under_construction_is_not_ready_and_is_joined_after_a_restart(
    mongodb: MongoEndpoint, live: Database[dict[str, Any]]
) -> None:
    one = member("designs", live.name, "collections: [{name: designs}]")
    two = member("designs", live.name, "collections: [{name: designs, indexes: [{name: n, keys: [{field: n}]}]}]")
    async with running(target(mongodb)) as engine:
        await converge(engine, live.name, one)
        # one document makes a thousand keys: a build of seconds from an insert of a moment
        live.designs.insert_many([{"n": list(range(i * 1000, i * 1000 + 1000))} for i in range(1500)])
        first = asyncio.create_task(converge(engine, live.name, two))
        while not _being_built(live, "designs"):
            assert not first.done()
            await asyncio.sleep(0.01)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
    assert _being_built(live, "designs"), "the server goes on without us"
    async with running(target(mongodb)) as engine:
        planned = (await engine.plan(Unit(live.name, (two,), CLUSTER))).members[two.uid]
        assert [change.ref.name for change in planned.pending] == ["designs.n"]
        (result,) = await converge(engine, live.name, two)
    assert result.verified
    assert not _being_built(live, "designs")


def _being_built(live: Database[dict[str, Any]], name: str) -> list[Any]:
    reply = live.command("listIndexes", name, includeBuildUUIDs=True)
    return [entry for entry in reply["cursor"]["firstBatch"] if "buildUUID" in entry]


async def test_a_role_that_this_version_does_not_make_is_said(
    engine: MongoEngine, live: Database[dict[str, Any]]
) -> None:
    declared = DESIGNS + "roles: [{name: designReader, privileges: [{collections: [designs], actions: [find]}]}]\n"
    (result,) = await converge(engine, live.name, member("designs", live.name, declared))
    (status,) = result.problems
    assert (str(status.ref), status.reason) == ("role designReader", Reason.UNSUPPORTED)
    assert result.provisioned
    assert not result.verified
