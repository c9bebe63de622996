"""What is said about a migration of MongoDB's before it runs."""

from __future__ import annotations

import pytest

from selvedge.migrate import load
from selvedge.migrate.lint import advice, destructive, lint


def test_mongodb() -> None:
    text = """[
  {"create": "new"}, {"drop": "new"},
  {"drop": "designs"},
  {"delete": "designs", "deletes": [{"q": {}, "limit": 0}]},
  {"delete": "designs", "deletes": [{"q": {"a": 1}, "limit": 0}]},
  {"renameCollection": "a.b", "to": "a.c"}
]"""
    found = destructive(load({"1_a.json": text}, "MongoDB"))
    assert [(one.rule, one.line) for one in found] == [("drop-collection", 3), ("delete-all", 4), ("rename", 6)]
    allowed = '{"allow": ["drop-collection"], "up": [{"drop": "designs"}]}'
    assert destructive(load({"1_a.json": allowed}, "MongoDB")) == ()


MONGO_LOSSES = {
    '{"aggregate": "a", "pipeline": [{"$match": {}}, {"$out": "b"}], "cursor": {}}': "replace-collection: takes every "
    "document out of b and puts a result there ($out)",
    '{"aggregate": "a", "pipeline": [{"$out": {"db": "other", "coll": "b"}}], "cursor": {}}': "replace-collection: "
    "takes every document out of other.b and puts a result there ($out)",
    '{"aggregate": "a", "pipeline": [{"$merge": "b"}], "cursor": {}}': "overwrite-documents: writes over documents of "
    "b that have the same key ($merge)",
    '{"aggregate": "a", "pipeline": [{"$merge": {"into": {"db": "x", "coll": "b"}, "whenMatched": "replace"}}]}': (
        "overwrite-documents: writes over documents of x.b that have the same key ($merge)"
    ),
    '{"aggregate": "a", "pipeline": [{"$merge": {"into": "b", "whenMatched": "keepExisting"}}]}': "",
    '{"update": "a", "updates": [{"q": {}, "u": {"$set": {"x": 1}}, "multi": true}]}': "update-all: changes every "
    "document of a",
    '{"update": "a", "updates": [{"q": {}, "u": {"$set": {"x": 1}}}]}': "",
    '{"x-batchUpdate": {"coll": "a", "update": {"$set": {"x": 1}}}}': "update-all: changes every document of a",
    '{"x-batchUpdate": {"coll": "a", "filter": {"x": null}, "update": {"$set": {"x": 1}}}}': "",
    '{"delete": "a", "deletes": [{"q": {}, "limit": {"$numberInt": "1"}}]}': "",
    '{"delete": "a", "deletes": [{"q": {}, "limit": {"$numberInt": "0"}}]}': "delete-all: deletes every document of a",
    '{"createIndexes": "a", "indexes": [{"key": {"x": 1}, "name": "x", "expireAfterSeconds": 60}]}': "expire-documents:"
    " has the server delete documents of a that are older than 60 s",
    '{"collMod": "a", "index": {"name": "x", "expireAfterSeconds": {"$numberLong": "60"}}}': "expire-documents: has "
    "the server delete documents of a that are older than 60 s",
    '{"collMod": "a", "expireAfterSeconds": "off"}': "",
    '{"convertToCapped": "a", "size": 1000}': "convert-to-capped: drops the oldest documents of a beyond its new size",
}


@pytest.mark.parametrize("command", MONGO_LOSSES)
def test_what_mongodb_loses(command: str) -> None:
    found = [f"{one.rule}: {one.message}" for one in destructive(load({"1_a.json": f"[{command}]"}, "MongoDB"))]
    assert found == ([MONGO_LOSSES[command]] if MONGO_LOSSES[command] else [])


def test_a_rename_over_another_collection_drops_that() -> None:
    text = '[{"renameCollection": "a", "to": "b", "dropTarget": true}]'
    found = destructive(load({"1_a.json": text}, "MongoDB"))
    assert [one.rule for one in found] == ["rename", "drop-collection"]


def test_what_a_mongodb_plan_makes_is_nobodys() -> None:
    files = {
        "1_a.json": '[{"create": "new"}, {"create": "more"}, {"create": "old", "ifNotExists": true}]',
        "2_b.json": '[{"drop": "new"}, {"drop": "old"}, {"renameCollection": "more", "to": "most"}, {"drop": "most"}]',
    }
    assert [str(one).split(":")[0] for one in destructive(load(files, "MongoDB"))] == ["2_b.json, line 1"]
    assert [one.message for one in advice(load(files, "MongoDB"))] == [
        "code that runs now may still use collection old"
    ]


@pytest.mark.parametrize(
    "commands",
    [
        '{"create": "new"}, {"drop": "new"}, {"drop": "new"}',
        """{"create": "new"}, {"renameCollection": "new", "to": "newer"}, {"renameCollection": "old", "to": "new"},
        {"drop": "new"}""",
        '{"create": "new"}, {"renameCollection": "old", "to": "new", "dropTarget": true}, {"drop": "new"}',
    ],
)
def test_a_name_that_somebody_elses_collection_took_is_not_the_plans(commands: str) -> None:
    found = destructive(load({"1_a.json": f'{{"allow": ["rename"], "up": [{commands}]}}'}, "MongoDB"))
    assert [one.rule for one in found] == ["drop-collection"]


MONGO_BREAKS = {
    '{"drop": "a"}': "may still use collection a",
    '{"renameCollection": "a", "to": "b"}': "knows collection a by its old name",
    '{"dropIndexes": "a", "index": "x"}': "may need the index of a that is dropped",
    '{"collMod": "a", "validator": {"x": 1}}': "may write documents into a that the new validator refuses",
    '{"collMod": "a", "validator": {"x": 1}, "validationAction": "warn"}': "",
    '{"update": "a", "updates": [{"q": {"x": 1}, "u": {"$unset": {"x": ""}}, "multi": true}]}': "may still read field "
    "x of a",
    '{"x-batchUpdate": {"coll": "a", "filter": {"x": 1}, "update": [{"$unset": ["x"]}]}}': "may still read field x "
    "of a",
    '{"update": "a", "updates": [{"q": {"x": 1}, "u": {"$rename": {"x": "y"}}}]}': "knows field x of a by its old name",
    '{"insert": "a", "documents": [{"x": 1}]}': "",
}


@pytest.mark.parametrize("command", MONGO_BREAKS)
def test_what_code_meets_that_runs_now(command: str) -> None:
    found = advice(load({"1_a.json": f"[{command}]"}, "MongoDB"))
    said = MONGO_BREAKS[command]
    assert [one.message for one in found] == ([f"code that runs now {said}"] if said else [])
    silenced = f'{{"allow": ["breaks-running-code"], "up": [{command}]}}'
    assert advice(load({"1_a.json": silenced}, "MongoDB")) == ()


def test_a_word_of_mongodbs_that_allows_nothing() -> None:
    text = '{"allow": ["drop-table", "drop-collection", "validator-violations"], "up": [{"drop": "a"}]}'
    (_, found) = lint(load({"1_a.json": text}, "MongoDB"))
    assert (found.rule, found.message) == ("unknown-allow", '"allow": ["drop-table"] is no rule and allows nothing')
