"""What MongoDB does, on which its migrations rely: each fact that was measured, measured again."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pymongo
import pytest
from pymongo.errors import AutoReconnect, NetworkTimeout, OperationFailure

from tests.engines.mongo_standalone import standalone
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pymongo.database import Database

    from sandbox import MongoEndpoint

Doc = dict[str, Any]


@pytest.fixture
def database(mongodb: MongoEndpoint, mongo_database: str) -> Iterator[Database[Doc]]:
    with mongodb.client() as client:
        yield client[mongo_database]


def index(coll: str, key: Doc, name: str, **options: Any) -> Doc:
    return {"createIndexes": coll, "indexes": [{"key": key, "name": name, **options}]}


def code(database: Database[Doc], command: Doc) -> int | None:
    with pytest.raises(OperationFailure) as error:
        database.command(command)
    return error.value.code


def in_transaction(database: Database[Doc], *commands: Doc) -> list[Doc]:
    with database.client.start_session() as session:
        session.start_transaction()
        try:
            return [database.command(command, session=session) for command in commands]
        finally:
            session.abort_transaction()


@pytest.mark.parametrize(
    "commands",
    [
        [{"create": "new"}],
        [index("new", {"a": 1}, "a")],
        [{"create": "new"}, index("new", {"a": 1}, "a"), {"insert": "new", "documents": [{"a": 1}]}],
        [{"update": "full", "updates": [{"q": {}, "u": {"$inc": {"a": 1}}, "multi": True}]}],
    ],
    ids=["create", "createIndexes on a new collection", "create, createIndexes, insert", "updateMany"],
)
def test_what_a_transaction_can_hold(database: Database[Doc], commands: list[Doc]) -> None:
    database.full.insert_many([{"a": 1}, {"a": 2}])
    replies = in_transaction(database, *commands)
    assert all(reply["ok"] == 1 for reply in replies)
    assert database.list_collection_names() == ["full"]
    assert [row["a"] for row in database.full.find()] == [1, 2]


@pytest.mark.parametrize(
    "command",
    [
        index("full", {"a": 1}, "a"),
        index("empty", {"a": 1}, "a"),
        {"collMod": "full", "validator": {}},
        {"drop": "full"},
        {"dropIndexes": "full", "index": "*"},
        {"create": "view", "viewOn": "full", "pipeline": []},
        {"create": "series", "timeseries": {"timeField": "t"}},
        {"aggregate": "full", "pipeline": [{"$out": "other"}], "cursor": {}},
        {"count": "full"},
    ],
    ids=lambda command: f"{next(iter(command))} {command[next(iter(command))]}",
)
def test_what_a_transaction_cannot_hold_is_263(database: Database[Doc], command: Doc) -> None:
    database.full.insert_one({"a": 1})
    database.command({"create": "empty"})
    with pytest.raises(OperationFailure) as error:
        in_transaction(database, command)
    assert error.value.code == 263


def test_a_refused_document_ends_its_transaction_in_a_reply_that_says_ok(database: Database[Doc]) -> None:
    """Who reads ``ok`` alone reports success, and everything is rolled back."""
    database.command({"create": "a", "validator": {"$jsonSchema": {"required": ["x"]}}})
    with database.client.start_session() as session:
        session.start_transaction()
        database.command({"insert": "a", "documents": [{"x": 1}]}, session=session)
        reply = database.command({"insert": "a", "documents": [{"y": 1}]}, session=session)
        assert (reply["ok"], reply["n"], reply["writeErrors"][0]["code"]) == (1, 0, 121)
        with pytest.raises(OperationFailure) as error:
            session.commit_transaction()
    assert error.value.code == 251
    assert list(database.a.find()) == []


def test_the_same_index_again_is_no_error(database: Database[Doc]) -> None:
    database.command(index("a", {"n": 1}, "n"))
    assert database.command(index("a", {"n": 1}, "n"))["note"] == "all indexes already exist"


def test_the_same_keys_under_another_name_are_85(database: Database[Doc]) -> None:
    database.command(index("a", {"n": 1}, "n"))
    assert code(database, index("a", {"n": 1}, "other")) == 85


@pytest.mark.parametrize("other", [index("a", {"m": 1}, "n"), index("a", {"n": 1}, "n", unique=True)])
def test_the_same_name_with_other_keys_or_options_is_86(database: Database[Doc], other: Doc) -> None:
    database.command(index("a", {"n": 1}, "n"))
    assert code(database, other) == 86


def test_an_index_to_drop_that_is_gone_is_27_and_a_collection_26(database: Database[Doc]) -> None:
    database.command({"create": "a"})
    assert code(database, {"dropIndexes": "a", "index": "none"}) == 27
    assert code(database, {"drop": "none"}) == 26


def test_dropping_several_indexes_of_which_one_is_gone_drops_none(database: Database[Doc]) -> None:
    database.command(index("a", {"n": 1}, "n"))
    assert code(database, {"dropIndexes": "a", "index": ["n", "none"]}) == 27
    assert sorted(database.a.index_information()) == ["_id_", "n"]


def test_a_collection_that_exists_is_48(database: Database[Doc]) -> None:
    database.command({"create": "a"})
    assert code(database, {"create": "a"}) == 48


def test_a_unique_index_that_fails_leaves_nothing_behind(database: Database[Doc]) -> None:
    database.a.insert_many([{"n": 1}, {"n": 1}])
    assert code(database, index("a", {"n": 1}, "n", unique=True)) == 11000
    assert list(database.a.index_information()) == ["_id_"]


def test_a_validator_begins_although_documents_violate_it(database: Database[Doc]) -> None:
    schema = {"$jsonSchema": {"required": ["name"]}}
    database.a.insert_many([{"name": "x"}, {"n": 1}, {"n": 2}])
    assert database.command({"collMod": "a", "validator": schema})["ok"] == 1
    assert database.a.count_documents({"$nor": [schema]}) == 2


def test_an_expression_cannot_stand_in_the_filter_of_an_upsert(database: Database[Doc]) -> None:
    change = {"q": {"$expr": {"$lt": ["$expires", "$$NOW"]}}, "u": [{"$set": {"a": 1}}], "upsert": True}
    reply = database.client[database.name].command({"update": "a", "updates": [change]}, check=False)
    assert reply["writeErrors"][0]["code"] == 224


def test_the_servers_clock_decides_who_has_a_lease(database: Database[Doc]) -> None:
    def take(holder: str) -> Doc | None:
        seed = {"$setOnInsert": {"expires": 0, "fence": 0}}
        database.lease.update_one({"_id": "l"}, seed, upsert=True)
        change = [
            {
                "$set": {
                    "holder": holder,
                    "expires": {"$add": ["$$NOW", 1500]},
                    "fence": {"$add": ["$fence", 1]},
                }
            }
        ]
        free = {"_id": "l", "$expr": {"$lt": ["$expires", "$$NOW"]}}
        return database.lease.find_one_and_update(free, change, return_document=True)

    first = take("a")
    assert first is not None
    assert first["fence"] == 1
    assert take("b") is None
    second = wait_for(lambda: take("b"))
    assert (second["holder"], second["fence"]) == ("b", 2)


def test_who_loses_his_user_loses_his_rights_though_another_takes_the_name(
    mongodb: MongoEndpoint, database: Database[Doc]
) -> None:
    """The fence of the commands: a runner that wakes up is nobody any more."""
    user = {"pwd": "secret", "roles": ["readWrite"]}
    database.command({"createUser": "m", **user})
    uri = mongodb.uri(database.name, username="m", password="secret", authSource=database.name)
    with pymongo.MongoClient(uri) as client:
        old = client[database.name]
        old.a.insert_one({"_id": 1})
        database.command({"dropUser": "m"})
        database.command({"createUser": "m", **user})
        with pytest.raises(OperationFailure) as error:
            old.a.insert_one({"_id": 2})
    assert error.value.code == 13
    assert [row["_id"] for row in database.a.find()] == [1]


def test_an_index_build_outlives_its_client_and_the_same_command_waits_for_it(
    mongodb: MongoEndpoint, database: Database[Doc]
) -> None:
    database.a.insert_many([{"n": number % 991, "text": "x" * 40} for number in range(40_000)])
    command = index("a", {"text": 1, "n": 1}, "t")
    with mongodb.client(socketTimeoutMS=50) as client:
        connected = False
        while not connected:  # on a busy machine a login takes longer than that
            with contextlib.suppress(AutoReconnect):
                connected = bool(client.admin.command("ping"))
        with pytest.raises(NetworkTimeout):
            client[database.name].command(command)
    wait_for(lambda: "t" in [one["name"] for one in database.command({"listIndexes": "a"})["cursor"]["firstBatch"]])
    assert database.command(command)["ok"] == 1
    build = {"msg": {"$regex": "^Index Build"}, "ns": f"{database.name}.a"}
    assert not list(database.client.admin.aggregate([{"$currentOp": {"allUsers": True}}, {"$match": build}]))
    assert database.a.find({"text": "x" * 40}).hint("t").limit(1).to_list()


def test_a_standalone_server_has_no_transactions(tmp_path: Path) -> None:
    with standalone(tmp_path) as endpoint, endpoint.client() as client, client.start_session() as session:
        session.start_transaction()
        with pytest.raises(OperationFailure) as error:
            client.shop.a.insert_one({"_id": 1}, session=session)
        assert error.value.code == 20
