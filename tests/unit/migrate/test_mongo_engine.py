"""What MongoDB's migrations decide without a server: equal collections, equivalent indexes, what is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pymongo.errors import OperationFailure

from selvedge.engines.mongodb.migration_commands import (
    compiled,
    documents,
    equal_options,
    equivalent,
    failed,
    full_names,
)
from selvedge.engines.mongodb.migration_watch import told
from selvedge.migrate import mongo

Doc = dict[str, Any]


def command(document: Doc) -> mongo.Command:
    return mongo.commands(json.dumps([document]), file="1_a.json")[0]


@pytest.mark.parametrize(
    ("wanted", "options", "equal"),
    [
        ({}, {}, True),
        ({"capped": False}, {}, True),
        ({"capped": True, "size": 4096}, {"capped": True, "size": 4096}, True),
        ({"capped": True, "size": 5000}, {"capped": True, "size": 5120}, True),  # the server rounds up
        ({"capped": True, "size": 8192}, {"capped": True, "size": 4096}, False),
        ({}, {"capped": True, "size": 4096}, False),
        ({"collation": {"locale": "de"}}, {"collation": {"locale": "de", "strength": 3}}, True),
        ({"collation": {"locale": "de"}}, {}, False),
        ({}, {"collation": {"locale": "de"}}, False),
        ({"validator": {"a": 1}}, {"validator": {"a": 2}}, False),
        ({}, {"validator": {"a": 2}}, True),  # declared beside the migrations, and changed by collMod
        ({}, {"viewOn": "a", "pipeline": []}, False),
        ({"timeseries": {"timeField": "t"}}, {"timeseries": {"timeField": "t", "granularity": "seconds"}}, True),
    ],
)
def test_a_collection_with_equal_options(wanted: Doc, options: Doc, equal: bool) -> None:
    assert equal_options({"create": "a", **wanted}, {"options": options}) is equal


GERMAN: Doc = {"collation": {"locale": "de"}}
PLAIN: Doc = {"v": 2, "key": {"a": 1, "b": -1}, "name": "old"}


@pytest.mark.parametrize(
    ("wanted", "existing", "same"),
    [
        ({"key": {"a": 1, "b": -1}, "name": "new"}, PLAIN, True),
        ({"key": {"a": 1.0, "b": -1}, "name": "new", "unique": False}, PLAIN, True),
        ({"key": {"b": -1, "a": 1}}, PLAIN, False),
        ({"key": {"a": 1}}, PLAIN, False),
        ({"key": {"a": 1, "b": -1}, "unique": True}, PLAIN, False),
        ({"key": {"a": 1, "b": -1}, "sparse": True}, PLAIN, False),
        ({"key": {"a": 1, "b": -1}, "expireAfterSeconds": 0}, PLAIN, False),
        ({"key": {"a": 1, "b": -1}, "partialFilterExpression": {"c": 1}}, PLAIN, False),
        ({"key": {"a": 1, "b": -1}, **GERMAN}, PLAIN, False),
        ({"key": {"a": 1, "b": -1}}, {**PLAIN, **GERMAN}, False),
        (
            {"key": {"a": 1, "b": -1}, "collation": {"locale": "de"}},
            {**PLAIN, "collation": {"locale": "de", "x": 1}},
            True,
        ),
        ({"key": {"a": 1, "b": -1}, "unique": True}, {**PLAIN, "unique": True}, True),
    ],
)
def test_an_equivalent_index(wanted: Doc, existing: Doc, same: bool) -> None:
    assert equivalent(wanted, existing) is same


def test_indexes_are_named_as_drivers_name_them() -> None:
    indexes = [{"key": {"a": 1, "b.c": {"$numberInt": "-1"}, "d": 1.0, "t": "text"}}, {"key": {"a": 1}, "name": "mine"}]
    made = compiled(command({"createIndexes": "x", "indexes": indexes}))["indexes"]
    assert [index["name"] for index in made] == ["a_1_b.c_-1_d_1_t_text", "mine"]


def test_names_of_a_rename() -> None:
    assert full_names({"renameCollection": "a", "to": "b.c"}, "shop") == {
        "renameCollection": "shop.a",
        "to": "shop.b.c",
    }
    assert full_names({"renameCollection": "shop.a", "to": "other.b"}, "shop") == {}


@pytest.mark.parametrize(
    ("document", "reply", "count"),
    [
        ({"insert": "a", "documents": [{}]}, {"n": 3}, 3),
        ({"delete": "a", "deletes": [{}]}, {"n": 2}, 2),
        ({"update": "a", "updates": [{}]}, {"n": 5, "nModified": 4, "upserted": [{}]}, 5),
        ({"findAndModify": "a", "query": {}}, {"lastErrorObject": {"n": 1}}, 1),
        ({"create": "a"}, {"ok": 1}, 0),
    ],
)
def test_how_many_documents_were_changed(document: Doc, reply: Doc, count: int) -> None:
    assert documents(command(document), reply) == count


def error(code: int, name: str) -> OperationFailure:
    return OperationFailure("no", code, {"codeName": name, "errmsg": "no"})


def test_what_is_tried_again() -> None:
    one = command({"update": "a", "updates": [{}]})
    assert failed("1_a.json", one, error(112, "WriteConflict")).retry
    assert not failed("1_a.json", one, error(121, "DocumentValidationFailure")).retry
    short = failed("1_a.json", one, error(251, "NoSuchTransaction"), open_for=2)
    long = failed("1_a.json", one, error(251, "NoSuchTransaction"), open_for=60)
    assert (short.retry, long.retry) == (True, False)
    assert "write a large update as x-batchUpdate" in long.failure.hint
    assert str(long.failure).count("NoSuchTransaction") == 1


def test_what_is_told_of_an_operation() -> None:
    build = {
        "mine": True,
        "ns": "shop.big.one",
        "msg": "Index Build: scanning collection Index Build: scanning collection: 50/200 25%",
        "progress": {"done": 50, "total": 200},
        "command": {"createIndexes": "big.one", "indexes": [{"name": "t"}, {"name": "u"}]},
    }
    assert told([build]) == "the build of index t, u on big.one: scanning collection, 25 %"
    assert told([{**build, "progress": None, "msg": "Index Build: draining"}]) == (
        "the build of index t, u on big.one: draining"
    )
    waits = {"mine": True, "ns": "shop.a", "waitingForLock": True}
    holds = {"mine": False, "appName": "billing", "transaction": {"timeOpenMicros": 12_400_000}}
    assert told([waits]) == "a lock that another operation holds"
    assert told([waits, holds]) == "a lock; a transaction of billing is open for 12 s"
    assert told([holds]) == ""
    assert told([]) == ""
