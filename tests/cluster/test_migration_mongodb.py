"""MongoDB's migrations through a real operator: as a user of somebody's own, and what is known to fail before."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from sandbox import MongoEndpoint
from tests.cluster.test_migrationrun_actions import sources, start
from tests.cluster.world import World, secret, verdict

ITEMS, NUMBERS = "20250101000000_items.json", "20250102000000_numbers.json"
FILES = {
    ITEMS: [{"create": "items"}, {"insert": "items", "documents": [{"n": 1}, {"n": 2}]}],
    NUMBERS: [{"createIndexes": "items", "indexes": [{"key": {"n": 1}, "name": "n", "unique": True}]}],
}
UNDO = {ITEMS: [{"drop": "items"}], NUMBERS: [{"dropIndexes": "items", "index": "n"}]}


def texts(files: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    return {name: json.dumps({"up": up, "down": UNDO.get(name, [])}) for name, up in files.items()}


@pytest.fixture
def users(mongo: World, mongodb: MongoEndpoint) -> Iterator[None]:
    """Users of the test's database go with it."""
    yield
    with mongodb.client() as client:
        client[mongo.name].command({"dropAllUsersFromDatabase": 1})


def shop(world: World, **migrations: Any) -> None:
    declared = {"source": {"configMaps": [{"name": "migrations"}]}, **migrations}
    world.schema("shop", server="mongo", mongodb={"collections": []}, migrations=declared)


def test_a_user_of_ones_own_runs_them_and_stays(mongo: World, mongodb: MongoEndpoint, users: None):
    sources(mongo, texts(FILES))
    shop(mongo, runAs={"secretRef": {"name": "deployer"}})
    waits = mongo.until("DatabaseSchema", "shop", "False", "WaitingForMigrations")
    [made] = mongo.api.list("MigrationRun")
    name = made["metadata"]["name"]
    lacking = mongo.until("MigrationRun", name, "False", "SecretNotFound")
    assert "secret deployer, named in spec.migrations.runAs, does not exist" in verdict(lacking)[2]
    assert name in verdict(waits)[2]
    with mongodb.client() as client:
        database = client[mongo.name]
        database.command({"createUser": "deployer", "pwd": "its-own-word", "roles": ["read"]})
        mongo.api.apply(secret("deployer", username="deployer", password="its-own-word"))
        mongo.now("MigrationRun", name)
        refused = mongo.until("MigrationRun", name, "False", "InsufficientPrivileges")
        assert "user deployer of runAs may not createCollection" in verdict(refused)[2]
        assert mongo.api.get("MigrationRun", name)["status"]["phase"] == "Failed"
        assert database.list_collection_names(filter={"name": "items"}) == [], "nothing ran"
        database.command({"grantRolesToUser": "deployer", "roles": ["readWrite", "dbAdmin"]})
        start(mongo, "up")
        run = mongo.ready("MigrationRun", "up")
        assert [(row["name"], row["state"], row["statements"]) for row in run["status"]["migrations"]] == [
            ("items", "Applied", "2/2"),
            ("numbers", "Applied", "1/1"),
        ]
        by = {row["appliedBy"] for row in database["selvedge.history"].find()}
        assert by == {"deployer"}
        assert [one["user"] for one in database.command({"usersInfo": 1})["users"]] == ["deployer"], "no other was made"
        everything = json.dumps([mongo.api.list("MigrationRun"), mongo.api.get("DatabaseSchema", "shop")])
        assert "its-own-word" not in everything + mongo.operator.logs()

        # one that reaches further is refused: a migration is somebody else's code
        database.command({"grantRolesToUser": "deployer", "roles": [{"role": "read", "db": "another"}]})
        start(mongo, "back", action="Down", destructive="Allow")
        refused = mongo.until("MigrationRun", "back", "False", "InvalidSpec")
        assert "user deployer of runAs may act on database another" in verdict(refused)[2]
        database.command({"revokeRolesFromUser": "deployer", "roles": [{"role": "read", "db": "another"}]})
        start(mongo, "back-again", action="Down", destructive="Allow")
        assert verdict(mongo.ready("MigrationRun", "back-again"))[1] == "Undone"
        assert [row["name"] for row in database["selvedge.history"].find()] == ["items"]


def test_a_plan_says_what_is_known_to_fail(mongo: World, mongodb: MongoEndpoint):
    sources(mongo, texts({ITEMS: FILES[ITEMS]}))
    shop(mongo)
    mongo.ready("DatabaseSchema", "shop")
    with mongodb.client() as client:
        client[mongo.name]["items"].insert_one({"n": 2})
    shop(mongo, autoApply=False)
    sources(mongo, texts(FILES))
    looks = {"selvedge.dev/preflight": "true"}
    # without the annotation a plan counts nothing, and says what would run
    start(mongo, "plain", action="Plan")
    assert verdict(mongo.ready("MigrationRun", "plain"))[1:] == ("Planned", "1 migration would run")
    start(mongo, "unique", looks, action="Plan")
    failed = mongo.until("MigrationRun", "unique", "False", "StatementFailed")
    assert verdict(failed)[2].startswith(f"would fail: {NUMBERS}, line 1: 1 key is there several times")
    assert failed["status"]["phase"] == "Failed"
    assert [(row["name"], row["state"]) for row in failed["status"]["migrations"]] == [("numbers", "Pending")]

    named = {"$jsonSchema": {"required": ["name"]}}
    strict = {"20250102000000_strict.json": [{"collMod": "items", "validator": named}]}
    sources(mongo, texts({ITEMS: FILES[ITEMS], **strict}))
    start(mongo, "validator", looks, action="Plan")
    failed = mongo.until("MigrationRun", "validator", "False", "StatementFailed")
    assert "3 documents violate" in verdict(failed)[2]
    with mongodb.client() as client:
        database = client[mongo.name]
        assert (
            database.command({"listCollections": 1, "filter": {"name": "items"}})["cursor"]["firstBatch"][0]["options"]
            == {}
        ), "a plan changes nothing"
        assert [row["name"] for row in database["selvedge.history"].find()] == ["items"]
        # the data is mended: the same plan says nothing any more, and runs
        database["items"].update_many({}, {"$set": {"name": "x"}})
    start(mongo, "mended", looks, action="Plan")
    assert verdict(mongo.ready("MigrationRun", "mended"))[1:] == ("Planned", "1 migration would run")
    start(mongo, "up")
    mongo.ready("MigrationRun", "up")
