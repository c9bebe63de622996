"""Fashion Wallet's collections and MongoDB migrations on a real mongod, by plain commands."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from bson import json_util
from pymongo.errors import DuplicateKeyError, WriteError

from sandbox.mongodb import MongoServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pymongo.database import Database

#: One process of pytest-xdist has all of them, so that their servers start once.
pytestmark = pytest.mark.xdist_group("fashion-wallet-mongodb")

ROOT = Path(__file__).parents[2]
MIGRATIONS = sorted((ROOT / "migrations" / "mongodb").glob("*.json"))
DECLARATION = yaml.safe_load((ROOT / "examples/fashion-wallet/30-schema-mongodb.yaml").read_text())["spec"]["mongodb"]
NOW = datetime(2025, 11, 15, 12, tzinfo=UTC)
LATER = datetime(2125, 1, 1, tzinfo=UTC)
USER = "10000000-0000-4000-8000-000000000002"
DESIGN = {"userId": USER, "name": "Summer", "status": "draft", "createdAt": NOW, "updatedAt": NOW}
AVATAR = {"userId": USER, "name": "Everyday", "createdAt": NOW, "updatedAt": NOW}


def index(declared: dict[str, Any]) -> dict[str, Any]:
    """The declaration's index as createIndexes takes it."""
    words = {"Text": "text"}
    keys = {key["field"]: words[key["type"]] if "type" in key else key.get("order", 1) for key in declared["keys"]}
    made: dict[str, Any] = {"name": declared["name"], "key": keys}
    made |= {word: declared[word] for word in ("unique", "sparse", "weights") if word in declared}
    if "partialFilter" in declared:
        made["partialFilterExpression"] = declared["partialFilter"]
    if "expireAfter" in declared:
        made["expireAfterSeconds"] = int(declared["expireAfter"].removesuffix("s"))
    return made


def migrate(database: Database[dict[str, Any]], path: Path, direction: str) -> None:
    for command in json_util.loads(path.read_text())[direction]:
        if "x-batchUpdate" in command:
            batch = command["x-batchUpdate"]
            update = {"q": batch["filter"], "u": batch["update"], "multi": True}
            command = {"update": batch["coll"], "updates": [update]}
        answer = database.command(command)
        assert "writeErrors" not in answer, answer


def content(database: Database[dict[str, Any]]) -> dict[str, Any]:
    """All documents and indexes, by collection."""
    return {
        name: (
            sorted((str(document) for document in database[name].find({}, {"_id": 0})), key=str),
            database[name].index_information(),
        )
        for name in sorted(database.list_collection_names())
    }


@pytest.fixture(scope="module")
def server() -> Iterator[MongoServer]:
    with MongoServer.launch() as running:
        yield running


@pytest.fixture
def database(server: MongoServer) -> Iterator[Database[dict[str, Any]]]:
    """The five declared collections, empty."""
    with server.client() as client:
        client.drop_database("fashion-wallet-main")
        made = client["fashion-wallet-main"]
        for declared in DECLARATION["collections"]:
            made.create_collection(
                declared["name"],
                validator=declared["validator"],
                validationLevel=declared["validationLevel"].lower(),
                validationAction=declared["validationAction"].lower(),
            )
            made.command({"createIndexes": declared["name"], "indexes": [index(item) for item in declared["indexes"]]})
        yield made


def test_each_migration_has_a_way_back(database: Database[dict[str, Any]]) -> None:
    database.designs.insert_many([DESIGN | {"layers": [{"id": "1", "type": "fabric"}]}, dict(DESIGN)])
    database.sessions.insert_one({"userId": USER, "tokenHash": "a", "expiresAt": LATER, "userAgent": "curl"})
    states = [content(database)]
    for path in MIGRATIONS:
        migrate(database, path, "up")
        states.append(content(database))
        assert states[-1] != states[-2], f"{path.name} changes nothing"
    after = states[-1]
    for path in reversed(MIGRATIONS):
        states.pop()
        migrate(database, path, "down")
        assert content(database) == states[-1], f"the down of {path.name} leaves something behind"
    for path in MIGRATIONS:
        migrate(database, path, "up")
    assert content(database) == after


def test_each_migration_may_run_again_after_it_was_cut_off(database: Database[dict[str, Any]]) -> None:
    database.designs.insert_one(dict(DESIGN))
    for path in MIGRATIONS:
        migrate(database, path, "up")
    before = content(database)
    for path in MIGRATIONS:
        migrate(database, path, "up")
    assert content(database) == before


def test_the_backfill_counts_layers(database: Database[dict[str, Any]]) -> None:
    database.designs.insert_many([DESIGN | {"layers": [{"id": "1", "type": "fabric"}]}, dict(DESIGN)])
    migrate(database, MIGRATIONS[0], "up")
    assert sorted(design["layerCount"] for design in database.designs.find()) == [0, 1]


def test_an_avatars_name_is_free_again_once_it_was_deleted(database: Database[dict[str, Any]]) -> None:
    database.avatars.insert_one(dict(AVATAR))
    for deleted in ({}, {"deletedAt": None}):
        with pytest.raises(DuplicateKeyError):
            database.avatars.insert_one(AVATAR | deleted)
    database.avatars.update_one({"name": "Everyday"}, {"$set": {"deletedAt": NOW}})
    database.avatars.insert_one(AVATAR | {"deletedAt": None})
    database.avatars.insert_one(AVATAR | {"deletedAt": NOW})
    plan = database.avatars.find(AVATAR | {"deletedAt": None}).explain()["queryPlanner"]["winningPlan"]
    assert plan["inputStage"]["indexName"] == "userId_name_not_deleted"


@pytest.mark.parametrize(
    ("collection", "document"),
    [
        ("designs", {key: value for key, value in DESIGN.items() if key != "userId"}),
        ("designs", DESIGN | {"userId": "somebody"}),
        ("designs", DESIGN | {"name": ""}),
        ("designs", DESIGN | {"name": "x" * 256}),
        ("designs", DESIGN | {"status": "lost"}),
        ("designs", DESIGN | {"version": 0}),
        ("designs", DESIGN | {"layers": [{"id": "1", "type": "button"}]}),
        ("designs", DESIGN | {"history": [{}] * 51}),
        ("designs", DESIGN | {"deletedAt": "yesterday"}),
        ("avatars", AVATAR | {"gender": "other"}),
        (
            "catalog-items",
            {"type": "fabric", "name": "Cotton", "category": "other", "createdAt": NOW, "updatedAt": NOW},
        ),
        ("sessions", {"userId": USER, "tokenHash": "a", "expiresAt": "tomorrow"}),
    ],
)
def test_a_bad_document_is_refused(
    database: Database[dict[str, Any]], collection: str, document: dict[str, Any]
) -> None:
    with pytest.raises(WriteError, match="Document failed validation"):
        database[collection].insert_one(dict(document))


def test_a_catalogue_item_has_what_its_type_asks_for(database: Database[dict[str, Any]]) -> None:
    common = {"name": "Cotton", "category": "other", "createdAt": NOW, "updatedAt": NOW}
    database["catalog-items"].insert_one(common | {"type": "fabric", "fabric": {"material": "cotton"}})
    database["catalog-items"].insert_one(common | {"type": "pattern", "pattern": {"patternType": "stripes"}})
    database["catalog-items"].insert_one(common | {"type": "silhouette", "silhouette": {"modelUrl": "/a.glb"}})


def test_sessions_expire_and_preferences_are_one_for_each_user(database: Database[dict[str, Any]]) -> None:
    assert database.sessions.index_information()["expiresAt"]["expireAfterSeconds"] == 0
    preferences = {"userId": USER, "createdAt": NOW, "updatedAt": NOW}
    database["user-preferences"].insert_one(dict(preferences))
    with pytest.raises(DuplicateKeyError):
        database["user-preferences"].insert_one(dict(preferences))
