"""Validators, kinds of collections and what cannot be had, on a real MongoDB server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectState
from tests.engines.mongodb_support import DESIGNS, LEAVES_SOCKETS, converge, member

if TYPE_CHECKING:
    from pymongo.database import Database

    from selvedge.engines.mongodb import MongoEngine

pytestmark = LEAVES_SOCKETS


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


async def test_a_role_that_this_version_does_not_make_is_said(
    engine: MongoEngine, live: Database[dict[str, Any]]
) -> None:
    declared = DESIGNS + "roles: [{name: designReader, privileges: [{collections: [designs], actions: [find]}]}]\n"
    (result,) = await converge(engine, live.name, member("designs", live.name, declared))
    (status,) = result.problems
    assert (str(status.ref), status.reason) == ("role designReader", Reason.UNSUPPORTED)
    assert result.provisioned
    assert not result.verified


def _options(live: Database[dict[str, Any]], name: str) -> dict[str, Any]:
    (entry,) = live.list_collections(filter={"name": name})
    options: dict[str, Any] = entry["options"]
    return options


def _kept_index(declared: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(declared)
    found["collections"][0]["indexes"] = [{"name": "userId", "keys": [{"field": "userId"}]}]
    return found
