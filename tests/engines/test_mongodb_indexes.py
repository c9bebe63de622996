"""Indexes on a real MongoDB server: what may be changed where it stands, what waits, and what never is dropped."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectRef, ObjectState, Risk
from selvedge.engines.base import Unit
from selvedge.engines.mongodb import counting
from selvedge.engines.mongodb.retries import Retries
from tests.engines.mongodb_support import CLUSTER, DESIGNS, LEAVES_SOCKETS, converge, member, running, with_spec

if TYPE_CHECKING:
    from pymongo.database import Database

    from selvedge.core.unit import ObjectStatus
    from selvedge.engines.base import Member
    from selvedge.engines.mongodb import MongoEngine

pytestmark = LEAVES_SOCKETS


async def test_t45_same_name_other_spec_never_drops(engine: MongoEngine, live: Database[dict[str, Any]]) -> None:
    one = member("designs", live.name, DESIGNS)
    await converge(engine, live.name, one)
    other = member("designs", live.name, DESIGNS.replace("{field: userId}", "{field: userId}, {field: name}"))
    (held,) = await converge(engine, live.name, other)
    (status,) = held.problems
    assert (status.state, status.reason) == (ObjectState.PENDING, Reason.WAITING_FOR_APPROVAL)
    assert [change.risk for change in held.pending] == [Risk.DESTRUCTIVE]
    assert dict(live.designs.index_information()["userId"]["key"]) == {"userId": 1}
    (refused,) = await converge(engine, live.name, with_spec(other, destructive="Refuse", approvedPlan=held.digest))
    assert [status.reason for status in refused.problems] == [Reason.DESTRUCTIVE_REFUSED]
    (approved,) = await converge(engine, live.name, with_spec(other, approvedPlan=held.digest))
    assert approved.verified
    (allowed,) = await converge(engine, live.name, with_spec(one, destructive="Allow"))
    assert allowed.verified
    assert dict(live.designs.index_information()["userId"]["key"]) == {"userId": 1}


FLOOR = "spec.policy.destructive of DatabaseServer fashion/main"


@pytest.mark.parametrize("apply", ["Auto", "OnApproval"])
async def test_what_a_schema_or_the_floor_of_its_server_refuses_stays_whoever_approved_it(
    engine: MongoEngine, live: Database[dict[str, Any]], apply: str
) -> None:
    await converge(engine, live.name, member("designs", live.name, DESIGNS))
    changed = DESIGNS.replace("{field: userId}", "{field: userId}, {field: name}")
    asked = member("designs", live.name, changed, apply=apply)
    (plan,) = await converge(engine, live.name, asked)
    refused = with_spec(asked, destructive="Refuse", approvedPlan=plan.digest)
    for one, field in (
        (refused, "spec.destructive"),
        (replace(refused, deciding=FLOOR), FLOOR),
    ):
        (result,) = await converge(engine, live.name, one)
        (status,) = result.problems
        assert (status.state, status.reason) == (ObjectState.PENDING, Reason.DESTRUCTIVE_REFUSED)
        assert status.message.startswith("index designs.userId is not changed: that would lose data or an index in use")
        assert f"{field} is Refuse" in status.message
        assert f"set {field} to RequireApproval" in status.message
        assert dict(live.designs.index_information()["userId"]["key"]) == {"userId": 1}
    (approved,) = await converge(engine, live.name, with_spec(asked, approvedPlan=plan.digest))
    assert approved.verified


async def test_a_refusal_stays_told_beside_what_waits_for_an_approval_on_the_same_index(
    engine: MongoEngine, live: Database[dict[str, Any]]
) -> None:
    def at(options: str) -> str:
        return f"collections: [{{name: sessions, indexes: [{{name: at, keys: [{{field: at}}], {options}}}]}}]"

    await converge(engine, live.name, member("sessions", live.name, at("expireAfter: 10d")))
    live.sessions.insert_one({"x": 1})
    asked = member("sessions", live.name, at("expireAfter: 5d, unique: true"), apply="OnApproval", destructive="Refuse")
    (result,) = await converge(engine, live.name, asked)
    assert [change.risk for change in result.pending] == [Risk.DESTRUCTIVE, Risk.NARROWING]
    (status,) = result.problems
    assert status.reason is Reason.DESTRUCTIVE_REFUSED
    assert '"expireAfterSeconds": 432000' in status.message
    assert [change.risk for change in result.approvable] == [Risk.NARROWING]


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
    (done,) = await converge(engine, live.name, with_spec(bare, destructive="Allow"))
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


async def test_a_used_approval_of_a_ttl_is_none_for_a_collection_that_was_made_again(
    engine: MongoEngine, live: Database[dict[str, Any]]
) -> None:
    """A TTL index deletes as soon as it stands, whatever is in the collection by then."""
    index = "{name: at, keys: [{field: at}], expireAfter: 1d}"
    asked = member("sessions", live.name, f"collections: [{{name: sessions, indexes: [{index}]}}]")
    live.sessions.insert_one({"x": 1})
    (plan,) = await converge(engine, live.name, with_spec(asked, adoption="Allow"))
    assert [change.risk for change in plan.pending] == [Risk.DESTRUCTIVE]
    approved = with_spec(asked, adoption="Allow", approvedPlan=plan.digest)
    (done,) = await converge(engine, live.name, approved)
    assert done.verified
    live.sessions.drop()
    live.sessions.insert_one({"y": 2})
    (again,) = await converge(engine, live.name, approved)
    assert (again.applied, [change.risk for change in again.pending]) == ((), [Risk.DESTRUCTIVE])
    assert again.digest != plan.digest
    assert set(live.sessions.index_information()) == {"_id_"}


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


async def test_a_replacement_that_keeps_failing_is_not_built_again_at_each_pass(
    engine: MongoEngine, live: Database[dict[str, Any]]
) -> None:
    clock = [datetime(2026, 1, 1, 12, tzinfo=UTC)]
    engine._retries = Retries(lambda: clock[0])
    await converge(engine, live.name, member("designs", live.name, DESIGNS))
    live.designs.insert_many([{"userId": "1", "name": "a"}, {"userId": "2", "name": "a"}])
    other = DESIGNS.replace("keys: [{field: userId}]", "keys: [{field: name}], unique: true")
    wanted = member("designs", live.name, other, destructive="Allow")

    def since() -> datetime:
        """When the index was built."""
        (found,) = [x for x in live.designs.aggregate([{"$indexStats": {}}]) if x["name"] == "userId"]
        built: datetime = found["accesses"]["since"]
        return built

    async def pass_over(declared: Member = wanted) -> tuple[ObjectStatus, bool]:
        """What a pass says, and whether it dropped the index."""
        before = since()
        (result,) = await converge(engine, live.name, declared)
        (status,) = [problem for problem in result.problems if problem.ref.kind == "index"]
        return status, since() != before

    assert (await pass_over())[1]
    status, dropped = await pass_over()
    assert dropped
    assert "dropped and built again 2 times for this, so the next attempt is at 2026-01-01 12:10 UTC" in status.message
    assert await pass_over() == (status, False)
    clock[0] += timedelta(minutes=11)
    later, dropped = await pass_over()
    assert dropped
    assert "3 times" in later.message
    assert "12:31 UTC" in later.message
    assert await pass_over() == (later, False)
    # Another declaration is tried at once.
    again = replace(wanted, generation=wanted.generation + 1)
    assert (await pass_over(again))[1]
    live.designs.delete_many({})
    clock[0] += timedelta(hours=7)
    (result,) = await converge(engine, live.name, again)
    assert result.verified


async def test_documents_that_go_are_counted_and_no_part_of_the_digest(
    engine: MongoEngine, live: Database[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = "collections: [{name: sessions, indexes: [{name: at, keys: [{field: at}], expireAfter: 30d}]}, {name: old}]"
    await converge(engine, live.name, member("designs", live.name, kept))
    now = datetime.now(UTC)
    live.sessions.insert_many([{"at": now - timedelta(days=days)} for days in (1, 10, 20)] + [{"at": "never"}, {}])
    live.old.insert_many([{}, {}])
    short = kept.replace("30d", "5d").replace("{name: old}", "{name: old, ensure: Absent}")
    wanted = member("designs", live.name, short)
    (result,) = await converge(engine, live.name, wanted)
    assert sorted(str(change.rows) for change in result.pending) == ["2 documents (counted)", "2 documents (counted)"]
    live.old.insert_one({})
    (later,) = await converge(engine, live.name, wanted)
    assert (later.digest, later.pending) == (result.digest, result.pending), "counted once for a plan"
    monkeypatch.setattr(counting, "MOST", 1)
    async with running(engine._target) as another:
        (found,) = await converge(another, live.name, wanted)
    assert sorted(str(change.rows) for change in found.pending) == [
        "about 3 documents (the server's estimate)",
        "more than 1 document (not counted further)",
    ]


async def test_a_replacement_that_fails_puts_the_old_index_back(
    engine: MongoEngine, live: Database[dict[str, Any]]
) -> None:
    await converge(engine, live.name, member("designs", live.name, DESIGNS))
    live.designs.insert_many([{"userId": "1", "name": "a"}, {"userId": "2", "name": "a"}])
    other = DESIGNS.replace("keys: [{field: userId}]", "keys: [{field: name}], unique: true")
    (result,) = await converge(engine, live.name, member("designs", live.name, other, destructive="Allow"))
    assert "several documents have the same name" in result.problems[0].message
    assert dict(live.designs.index_information()["userId"]["key"]) == {"userId": 1}


async def test_a_deletion_changes_nothing_of_another_that_shares_the_database(
    engine: MongoEngine, live: Database[dict[str, Any]]
) -> None:
    """It may be suspended, wait for an approval, or stand below its server's floor: its own pass knows."""
    one = member("designs", live.name, DESIGNS, destructive="Allow")
    await converge(engine, live.name, one)
    other = member("sessions", live.name, "collections: [{name: sessions}]", deletionPolicy="Delete")
    await converge(engine, live.name, one, other)
    changed = DESIGNS.replace("{field: userId}", "{field: userId}, {field: name}")
    more = f"{changed.rstrip()}\n- name: more\n"
    waits = member("designs", live.name, more, destructive="Allow")
    plan = (await engine.plan(Unit(live.name, (waits,), CLUSTER))).members[waits.uid]
    assert {change.ref.name for change in plan.pending} == {"designs.userId", "more"}
    for spec in ({"destructive": "Allow"}, {"approvedPlan": plan.digest}):
        await converge(engine, live.name, one, other)
        unit = Unit(live.name, (with_spec(waits, **spec), replace(other, deleting=True)), CLUSTER)
        result = await engine.remove(unit, lambda: None)
        assert [str(change.ref) for change in result.members[other.uid].applied] == ["collection sessions"]
        assert live.list_collection_names(filter={"name": {"$in": ["sessions", "more"]}}) == []
        assert dict(live.designs.index_information()["userId"]["key"]) == {"userId": 1}
