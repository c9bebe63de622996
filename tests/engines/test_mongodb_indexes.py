"""Indexes on a real MongoDB server: what may be changed where it stands, what waits, and what never is dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectRef, ObjectState, Risk
from tests.engines.mongodb_support import DESIGNS, LEAVES_SOCKETS, converge, member, with_spec

if TYPE_CHECKING:
    from pymongo.database import Database

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
