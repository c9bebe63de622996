"""Who owns what: adoption, two DatabaseSchemas on one database, deletion, another cluster."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from selvedge.core.errors import InvalidError
from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectRef, ObjectState, Risk
from selvedge.engines.mongodb import MongoEngine
from selvedge.engines.mongodb.claims import of_database
from tests.engines.mongodb_support import CLUSTER, Record, converge, member, target

if TYPE_CHECKING:
    from pymongo.database import Database

    from sandbox import MongoEndpoint

DESIGNS = """
collections:
- name: designs
  validator: {name: {$type: string}}
  indexes: [{name: name, keys: [{field: name}]}]
"""
NEWER = "2026-02-01T00:00:00Z"


def names(live: Database[dict[str, Any]]) -> set[str]:
    return set(live.list_collection_names())


def claims(live: Database[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    found = live.client["selvedge"]["claims"].find({"_id.database": live.name})
    return {claim["_id"]["object"]: claim for claim in found}


def lock(live: Database[dict[str, Any]]) -> dict[str, Any] | None:
    return live.client["selvedge"]["lock"].find_one({"_id": live.name})


@pytest.mark.parametrize("present", ["designs", "others"])
async def test_a_database_that_was_there_needs_adoption(
    engine: MongoEngine, live: Database[dict[str, Any]], present: str
) -> None:
    live[present].insert_one({"name": 1})
    one = member("designs", live.name, DESIGNS)
    (result,) = await converge(engine, live.name, one)
    assert {(status.state, status.reason) for status in result.problems} == {
        (ObjectState.PENDING, Reason.ADOPTION_REQUIRED)
    }
    assert not result.provisioned
    assert result.ready == 0
    assert "set spec.adoption to Allow" in result.problems[0].message
    (refused,) = await converge(engine, live.name, member("designs", live.name, DESIGNS, adoption="Refuse"))
    assert {(status.state, status.reason) for status in refused.problems} == {(ObjectState.FAILED, Reason.CONFLICT)}
    assert names(live) == {present}


async def test_a_narrowing_change_of_an_adopted_collection_waits_and_its_data_is_never_dropped(
    engine: MongoEngine, live: Database[dict[str, Any]]
) -> None:
    live.designs.insert_one({"name": 1})
    one = member("designs", live.name, DESIGNS, adoption="Allow", deletionPolicy="Delete")
    (result,) = await converge(engine, live.name, one)
    assert [(status.ref, status.reason) for status in result.problems] == [
        (ObjectRef("collection", "designs"), Reason.WAITING_FOR_APPROVAL)
    ]
    assert [change.risk for change in result.pending] == [Risk.NARROWING]
    assert result.provisioned
    assert [change.ref for change in result.applied] == [ObjectRef("index", "designs.name")]
    approved = member(
        "designs", live.name, DESIGNS, adoption="Allow", approvedPlan=result.digest, deletionPolicy="Delete"
    )
    (result,) = await converge(engine, live.name, approved)
    assert result.verified
    (gone,) = await converge(engine, live.name, replace(approved, deleting=True))
    assert gone.problems == ()
    assert names(live) == {"designs"}
    assert set(live.designs.index_information()) == {"_id_"}
    assert live.designs.count_documents({}) == 1


async def test_a_collection_made_by_hand_later_needs_adoption_alone(
    engine: MongoEngine, live: Database[dict[str, Any]]
) -> None:
    await converge(engine, live.name, member("designs", live.name, DESIGNS))
    live.create_collection("avatars")
    two = DESIGNS + "- name: avatars\n- name: sessions\n"
    (result,) = await converge(engine, live.name, member("designs", live.name, two))
    assert [(status.ref.name, status.reason) for status in result.problems] == [("avatars", Reason.ADOPTION_REQUIRED)]
    assert "sessions" in names(live)


async def test_two_members_on_one_database_are_one_unit(engine: MongoEngine, live: Database[dict[str, Any]]) -> None:
    one = member("designs", live.name, DESIGNS)
    two = member("avatars", live.name, "collections: [{name: avatars}]", created=NEWER)
    first, second = await converge(engine, live.name, one, two)
    assert first.verified
    assert second.verified
    assert claims(live)["collection:avatars"]["resource"] == two.uid
    assert {change.ref.name for change in second.applied} == {"avatars"}


async def test_the_older_claim_wins_and_the_younger_changes_nothing(
    engine: MongoEngine, live: Database[dict[str, Any]]
) -> None:
    # the claim counts, not the age of the resource: it was there first
    holder = member("first", live.name, DESIGNS, created=NEWER)
    await converge(engine, live.name, holder)
    other = member(
        "second",
        live.name,
        """
        collections:
        - {name: designs, validator: {other: 1}, indexes: [{name: name, keys: [{field: x}]}]}
        - {name: own}
        """,
        destructive="Allow",
        prune="Owned",
    )
    first, second = await converge(engine, live.name, holder, other)
    assert first.verified
    assert {(str(status.ref), status.state, status.reason) for status in second.problems} == {
        ("collection designs", ObjectState.CONFLICT, Reason.CONFLICT),
        ("index designs.name", ObjectState.CONFLICT, Reason.CONFLICT),
    }
    assert "shop/first" in second.problems[0].message
    assert second.ready == 1
    assert "own" in names(live)
    # deleted, the younger takes away only what is its own
    gone = replace(other, deleting=True, spec=_policy(other.spec, "Delete"))
    first, second = await converge(engine, live.name, holder, gone)
    assert first.verified
    assert names(live) == {"designs"}
    # and the other way round: what the holder lets go of, the one who waits takes over
    first, second = await converge(
        engine, live.name, replace(holder, deleting=True), member("second", live.name, DESIGNS)
    )
    assert second.verified
    assert claims(live)["collection:designs"]["resource"] == "uid-second"
    assert not claims(live)["collection:designs"]["made"]


async def test_delete_removes_what_was_made_and_the_database_with_it(
    engine: MongoEngine, live: Database[dict[str, Any]]
) -> None:
    one = member("designs", live.name, DESIGNS, deletionPolicy="Delete")
    await converge(engine, live.name, one)
    live.designs.insert_one({"name": "x"})
    (result,) = await converge(engine, live.name, replace(one, deleting=True))
    assert {change.ref.name for change in result.applied} == {"designs"}
    assert names(live) == set()
    assert claims(live) == {}
    assert lock(live) is None


async def test_delete_leaves_what_others_made(engine: MongoEngine, live: Database[dict[str, Any]]) -> None:
    one = member("designs", live.name, DESIGNS, deletionPolicy="Delete")
    await converge(engine, live.name, one)
    live.byHand.insert_one({})
    await converge(engine, live.name, replace(one, deleting=True))
    assert names(live) == {"byHand"}


async def test_retain_keeps_everything_and_a_successor_goes_on(
    engine: MongoEngine, live: Database[dict[str, Any]]
) -> None:
    one = member("designs", live.name, DESIGNS)
    await converge(engine, live.name, one)
    (result,) = await converge(engine, live.name, replace(one, deleting=True))
    assert result.applied == ()
    assert "designs" in names(live)
    again = replace(one, uid="uid-again")
    (result,) = await converge(engine, live.name, again)
    assert result.verified
    claim = claims(live)["collection:designs"]
    assert (claim["resource"], claim["made"]) == ("uid-again", True)


async def test_prune(engine: MongoEngine, live: Database[dict[str, Any]]) -> None:
    one = member("designs", live.name, DESIGNS + "- name: avatars\n")
    await converge(engine, live.name, one)
    (kept,) = await converge(engine, live.name, member("designs", live.name, DESIGNS))
    assert kept.verified
    (held,) = await converge(engine, live.name, member("designs", live.name, DESIGNS, prune="Owned"))
    assert [change.risk for change in held.pending] == [Risk.DESTRUCTIVE]
    assert "avatars" in names(live)
    allowed = member("designs", live.name, DESIGNS, prune="Owned", destructive="Allow")
    (done,) = await converge(engine, live.name, allowed)
    assert done.verified
    assert "avatars" not in names(live)
    assert "collection:avatars" not in claims(live)


@pytest.mark.parametrize("adoption", ["RequireApproval", "Allow", "Refuse"])
async def test_what_another_cluster_claims_is_a_conflict_whatever_adoption_says(
    engine: MongoEngine, live: Database[dict[str, Any]], adoption: str
) -> None:
    await converge(engine, live.name, member("designs", live.name, DESIGNS))
    before = claims(live)
    # a collection of its own too: the database belongs to the other cluster
    declared = DESIGNS + "- name: avatars\n"
    other = member("designs", live.name, declared, uid="uid-restored", adoption=adoption)
    (result,) = await converge(engine, live.name, other, cluster="another")
    (status,) = result.problems
    assert (status.ref, status.state, status.reason) == (
        ObjectRef("database", live.name),
        ObjectState.CONFLICT,
        Reason.CONFLICT,
    )
    assert status.message == (
        f"database {live.name} is claimed by DatabaseSchema shop/designs of another cluster ({CLUSTER}): remove it "
        "from one of the two; if that cluster is gone for good, remove its claims with "
        f'db.getSiblingDB("selvedge").claims.deleteMany({{"_id.database": "{live.name}", cluster: "{CLUSTER}"}}) '
        "and set spec.adoption to Allow"
    )
    assert not result.provisioned
    assert claims(live) == before
    assert names(live) == {"designs"}


async def test_what_a_lost_cluster_claimed_is_taken_over_as_the_message_says(
    engine: MongoEngine, live: Database[dict[str, Any]]
) -> None:
    await converge(engine, live.name, member("designs", live.name, DESIGNS))
    live.client["selvedge"]["claims"].delete_many({"_id.database": live.name, "cluster": CLUSTER})
    other = member("designs", live.name, DESIGNS, uid="uid-restored", adoption="Allow")
    (result,) = await converge(engine, live.name, other, cluster="another")
    assert result.verified
    assert claims(live)["collection:designs"]["cluster"] == "another"
    assert not claims(live)["collection:designs"]["made"], "its data is never dropped"


async def test_a_collection_that_another_cluster_claims_alone_is_a_conflict(
    engine: MongoEngine, live: Database[dict[str, Any]]
) -> None:
    await converge(engine, live.name, member("designs", live.name, DESIGNS))
    live.client["selvedge"]["claims"].update_one(
        {"_id": {"database": live.name, "object": "collection:designs"}}, {"$set": {"cluster": "another"}}
    )
    (result,) = await converge(
        engine, live.name, member("designs", live.name, DESIGNS + "- name: avatars\n", adoption="Allow")
    )
    assert {(str(status.ref), status.reason) for status in result.problems} == {
        ("collection designs", Reason.CONFLICT),
        ("index designs.name", Reason.CONFLICT),
    }
    assert names(live) == {"designs", "avatars"}


async def test_what_cannot_be_read_or_is_refused_any_more_loses_nothing(
    engine: MongoEngine, live: Database[dict[str, Any]]
) -> None:
    one = member("designs", live.name, DESIGNS)
    await converge(engine, live.name, one)
    broken = member(
        "designs", live.name, "collections: [{name: designs, validator: {a: {$date: no}}}]", destructive="Allow"
    )
    (result,) = await converge(engine, live.name, broken)
    assert [status.reason for status in result.problems] == [Reason.INVALID_SPEC]
    assert result.pending == ()
    assert "name" in live.designs.index_information()


async def test_a_claim_says_since_when_and_keeps_it(engine: MongoEngine, live: Database[dict[str, Any]]) -> None:
    one = member("designs", live.name, DESIGNS)
    await converge(engine, live.name, one)
    before = claims(live)
    assert set(before) == {"database:", "collection:designs", "index:designs.name"}
    await converge(engine, live.name, member("designs", live.name, DESIGNS + "- name: avatars\n"))
    after = claims(live)
    assert {name: after[name] for name in before} == before


async def test_a_database_dropped_by_hand_is_made_again(engine: MongoEngine, live: Database[dict[str, Any]]) -> None:
    one = member("designs", live.name, DESIGNS, deletionPolicy="Delete")
    await converge(engine, live.name, one)
    before = claims(live)
    live.client.drop_database(live.name)
    assert claims(live) == before
    (result,) = await converge(engine, live.name, replace(one, verified=True))
    assert result.verified
    assert set(result.drift) == {ObjectRef("collection", "designs"), ObjectRef("index", "designs.name")}
    assert names(live) == {"designs"}
    assert "name" in live.designs.index_information()
    assert claims(live) == before
    # dropped once more and deleted: nothing is left of it anywhere
    live.client.drop_database(live.name)
    (gone,) = await converge(engine, live.name, replace(one, deleting=True))
    assert gone.problems == ()
    assert (names(live), claims(live), lock(live)) == (set(), {}, None)


async def test_a_resource_after_the_one_that_is_gone_makes_a_dropped_database_again(
    engine: MongoEngine, live: Database[dict[str, Any]]
) -> None:
    await converge(engine, live.name, member("designs", live.name, DESIGNS))
    live.client.drop_database(live.name)
    (result,) = await converge(engine, live.name, member("another", live.name, DESIGNS))
    assert result.verified
    assert {claim["name"] for name, claim in claims(live).items() if name != "database:"} == {"another"}


async def test_claims_of_databases_with_similar_names_are_kept_apart(
    mongodb: MongoEndpoint, engine: MongoEngine, live: Database[dict[str, Any]]
) -> None:
    similar = [live.name, live.name + "2", live.name[:-1], live.name + "-x"]
    with mongodb.client() as client:
        try:
            for name in similar:
                one = member("designs", name, DESIGNS, deletionPolicy="Delete", uid=f"uid-{name}")
                assert (await converge(engine, name, one))[0].verified
            await converge(engine, live.name, replace(member("designs", live.name, DESIGNS), deleting=True))
            own = client["selvedge"]["claims"]
            query = of_database(live.name)
            assert {claim["_id"]["database"] for claim in own.find(query)} == {live.name}
            read = own.find(query).explain()["executionStats"]
            assert read["totalDocsExamined"] == read["nReturned"] == 3
            one = member("designs", live.name, DESIGNS, deletionPolicy="Delete", uid=f"uid-{live.name}")
            await converge(engine, live.name, replace(one, deleting=True))
            assert claims(live) == {}
            assert [own.count_documents(of_database(name)) for name in similar[1:]] == [3, 3, 3]
        finally:
            for name in similar[1:]:
                client.drop_database(name)
                client["selvedge"]["claims"].delete_many({"_id.database": name})
                client["selvedge"]["lock"].delete_many({"_id": name})


@pytest.mark.parametrize(("metadata", "declared"), [("selvedge", "selvedge"), ("selvedge", "Selvedge"), ("ops", "ops")])
async def test_the_operators_own_database_is_nobodys_to_declare_or_migrate(
    mongodb: MongoEndpoint, metadata: str, declared: str
) -> None:
    engine = MongoEngine(target(mongodb), Record(), metadata_schema=metadata)
    try:
        one = member("designs", declared, DESIGNS, adoption="Allow")
        (result,) = await converge(engine, declared, one)
        assert [(status.ref, status.reason) for status in result.problems] == [
            (ObjectRef("database", declared), Reason.INVALID_SPEC)
        ]
        assert result.problems[0].message == (
            f"database {declared} is the operator's own, where it keeps claims and locks: declare another one"
        )
        assert not result.provisioned
        with pytest.raises(InvalidError, match=f"database {declared} is the operator's own"):
            async with engine.migrations(declared):
                pass
    finally:
        await engine.close()
    with mongodb.client() as client:
        assert "designs" not in client[metadata].list_collection_names()


async def test_another_name_for_the_operators_own_database(
    mongodb: MongoEndpoint, live: Database[dict[str, Any]]
) -> None:
    own = f"{live.name}_ops"
    engine = MongoEngine(target(mongodb), Record(), metadata_schema=own)
    try:
        (result,) = await converge(engine, live.name, member("designs", live.name, DESIGNS))
        assert result.verified
        assert set(live.client[own].list_collection_names()) == {"claims", "lock"}
        assert claims(live) == {}
        assert lock(live) is None
    finally:
        await engine.close()
        live.client.drop_database(own)


def _policy(spec: Any, policy: str) -> Any:
    return type(spec).model_validate(spec.model_dump(mode="json", by_alias=True) | {"deletionPolicy": policy})
