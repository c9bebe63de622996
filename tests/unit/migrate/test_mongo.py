"""MongoDB's files: every complaint with its line, what cannot become BSON, and what no migration may send."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from bson import BSON
from hypothesis import given
from hypothesis import strategies as st

from selvedge.core.errors import InvalidError
from selvedge.core.reasons import Reason
from selvedge.engines.mongodb.bson_json import to_bson
from selvedge.migrate import mongo
from selvedge.migrate.extended_json import problem
from selvedge.migrate.load import load
from selvedge.migrate.mongo_rules import same_again, written

FILE = "1_a.json"


def refusal(text: str) -> str:
    def read() -> None:
        found = load({FILE: text}, "MongoDB")[0]
        _ = (found.commands, found.down_commands)

    with pytest.raises(InvalidError) as error:
        read()
    assert error.value.reason is Reason.INVALID_MIGRATION
    json.dumps(error.value.message)
    return error.value.message


def command(document: dict[str, Any]) -> mongo.Command:
    return mongo.commands(json.dumps([document]), file=FILE)[0]


BAD_JSON = {
    "a value is missing": ('[\n{"create": }]', "line 2: not JSON: expecting value"),
    "a comma is missing": ('[\n {"ping": 1}\n {"ping": 2}]', "line 3: not JSON: a comma or ] belongs here"),
    "a comma too many": ('[\n {"ping": 1},\n]', "line 2: not JSON: a comma or ] belongs here"),
    "an open array": ('[\n {"ping": 1},\n {"ping": 1}', "line 3: not JSON"),
    "an open string": ('[\n {"create": "a\n"}]', "line 2: not JSON: invalid control character"),
    "an open text": ('[\n\n {"create": "a', "line 3: not JSON: unterminated string"),
    "single quotes": ("[\n\n{'create': 'a'}]", "line 3: not JSON"),
    "a comment": ('[\n// first\n{"ping": 1}]', "line 2: not JSON: expecting value; JSON has no comments"),
    "a comment behind": ('{"up": [{"ping": 1} // x\n]}', "line 1: not JSON: a comma or ] belongs here; JSON has no"),
    "a key without quotes": ("{\n up: []}", "line 2: not JSON: a key in double quotes belongs here"),
    "a key without a colon": ('{\n "up" []}', "line 2: not JSON: a colon belongs behind the key 'up'"),
    "something behind": ('[{"ping": 1}]\n\nx', "line 3: not JSON: something follows the end"),
    "twice the same key": (
        '{"up": [{"ping": 1},\n\n{"create": "a", "create": "b"}]}',
        "line 3: not JSON: the key create",
    ),
    "NaN": ('[\n{"insert": "a", "documents": [{"n": NaN}]}]', "line 2: not JSON: NaN is no number of JSON"),
    "too large": (
        '[\n{"insert": "a", "documents": [{"n": 1e999}]}]',
        "line 2: not JSON: the number 1e999 is too large",
    ),
    "too many digits": (
        f'[\n{{"insert": "a", "documents": [{{"n": {"9" * 5000}}}]}}]',
        "line 2: not JSON: a number has",
    ),
    "too deep": ("[\n" + "[" * 100_000 + "]" * 100_000 + "]", "line 2: not JSON: nested too deeply"),
    "JavaScript": ("db.users.drop()", "line 1: the file is neither [command, …]"),
    "a text": ('"create"', "line 1: the file is neither"),
}


@pytest.mark.parametrize(("text", "why"), BAD_JSON.values(), ids=BAD_JSON.keys())
def test_bad_json_is_told_with_its_line(text: str, why: str) -> None:
    assert f"{FILE}, {why}" in refusal(text)


def test_lines_of_the_way_down_are_those_of_the_file() -> None:
    text = '{\n "up": [{"ping": 1}],\n "down": [\n  {"ping": 1},\n  {"drop": 5}\n ]\n}'
    assert refusal(text) == f"{FILE}, line 5: drop takes the name of a collection"
    text = '{\n "up": [{"ping": 1}],\n "down": [\n  {"ping": 1},\n  {"ping": }\n ]\n}'
    assert "line 5: not JSON" in refusal(text)


BAD_FILE = {
    "unknown key": ('{"up": [{"ping": 1}],\n "Down": []}', "line 2: unknown or repeated key 'Down'"),
    "up twice": ('{"up": [{"ping": 1}],\n "up": []}', "line 2: unknown or repeated key 'up'"),
    "no up": ('{"down": []}', 'line 1: there is no "up"'),
    "up is no array": ('{\n"up": {"create": "a"}}', "line 2: up and down are arrays of commands"),
    "no command": ('[\n\n"create"]', "line 3: a command is an object"),
    "an empty command": ("[\n{}]", "line 2: a command is an object"),
    "only an option": ('[\n{"ifNotExists": true}]', "line 2: ifNotExists is true or false, beside a command"),
    "transaction": ('{"up": [], "transaction": "yes"}', "transaction and irreversible are true or false"),
    "allow": ('{"up": [], "allow": "all"}', "allow is a list of words"),
    "version": ('{"up": [], "requiresVersion": 7}', 'requiresVersion is 7; write ">=7"'),
    "timeout": ('{"up": [], "statementTimeout": "soon"}', "statementTimeout:"),
}


@pytest.mark.parametrize(("text", "why"), BAD_FILE.values(), ids=BAD_FILE.keys())
def test_a_bad_file_is_told_with_its_line(text: str, why: str) -> None:
    assert why in refusal(text)


def test_the_options_of_a_file() -> None:
    options = {"transaction": True, "allow": ["drop"], "env": ["staging"], "requiresVersion": ">=7"}
    (found,) = load({FILE: json.dumps({"up": [{"find": "a"}], "statementTimeout": "2m", **options})}, "MongoDB")
    said = found.directives
    assert (said.transaction, said.allow, said.environments) == (True, ("drop",), ("staging",))
    assert (said.requires_version, said.statement_timeout) == (7, 120.0)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a session": ({"create": "a", "lsid": {}}, "lsid is the driver's to send"),
    "another database": ({"create": "a", "$db": "admin"}, "$db is the driver's to send"),
    "unacknowledged": ({"insert": "a", "documents": [{}], "writeConcern": {"w": 0}}, "writeConcern is the driver's"),
    "mapReduce": ({"mapReduce": "a", "out": {"replace": "b"}}, "mapReduce is not run: no JavaScript is run; write an"),
    "dropDatabase": ({"dropDatabase": 1}, "dropDatabase is not run: would drop the history as well"),
    "a commit": ({"commitTransaction": 1}, "commitTransaction is not run"),
    "the history": ({"drop": "selvedge.history"}, "selvedge.history is the runner's own collection"),
    "the events": (
        {"delete": "selvedge.events", "deletes": [{"q": {}, "limit": 0}]},
        "selvedge.events is the runner's",
    ),
    "the lease": ({"collMod": "selvedge.migrations"}, "selvedge.migrations is the runner's own"),
    "a pipeline into it": (
        {"aggregate": "a", "pipeline": [{"$merge": {"into": {"db": "x", "coll": "selvedge.history"}}}]},
        "selvedge.history is the runner's own",
    ),
    "a rename of it": ({"renameCollection": "db.selvedge.events", "to": "db.x"}, "selvedge.events is the runner's own"),
    "an unknown command of ours": ({"x-batch": {}}, "x-batch is no command that is known; x-batchUpdate is"),
    "no list of indexes": ({"createIndexes": "a", "indexes": "n"}, "indexes of createIndexes is a list of objects"),
    "no key": ({"createIndexes": "a", "indexes": [{"name": "n"}]}, "each index has a key"),
    "no index to drop": ({"dropIndexes": "a"}, '"index" is the name of an index'),
    "no new name": ({"renameCollection": "a"}, '"to" is the new name'),
    "no documents": ({"insert": "a"}, "documents of insert is a list of objects"),
    "no updates": ({"update": "a", "updates": []}, "updates of update is a list of objects"),
}


@pytest.mark.parametrize(("document", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_what_no_migration_may_send(document: dict[str, Any], why: str) -> None:
    assert f"{FILE}, line 2: {why}" in refusal("[\n" + json.dumps(document) + "]")


def test_the_history_may_be_read() -> None:
    assert command({"find": "selvedge.history"}).name == "find"


# -- transactions ------------------------------------------------------------------------------------------------


NO_TRANSACTION: dict[str, dict[str, Any]] = {
    "collMod cannot run in a transaction (263)": {"collMod": "a"},
    "drop cannot run in a transaction (263)": {"drop": "a"},
    "dropIndexes cannot run in a transaction (263)": {"dropIndexes": "a", "index": "n"},
    "renameCollection cannot run in a transaction (263)": {"renameCollection": "a", "to": "b"},
    "count cannot run in a transaction (263)": {"count": "a"},
    "$out and $merge cannot run": {"aggregate": "a", "pipeline": [{"$out": "b"}], "cursor": {}},
    "a view or a time series cannot be made": {"create": "v", "viewOn": "a"},
    "x-batchUpdate commits batch by batch": {"x-batchUpdate": {"coll": "a", "update": {"$set": {"n": 1}}}},
    "an index is built before documents come": {"createIndexes": "first", "indexes": [{"key": {"n": 1}}]},
}


@pytest.mark.parametrize(("why", "document"), NO_TRANSACTION.items())
def test_what_no_transaction_can_hold(why: str, document: dict[str, Any]) -> None:
    first = {"insert": "first", "documents": [{"n": 1}]}
    text = json.dumps({"transaction": True, "up": [first, document]}).replace(", {", ",\n{")
    assert f"{FILE}, line 2: {why}" in refusal(text)
    assert load({FILE: text.replace("true", "false", 1)}, "MongoDB")[0].steps == 2


def test_what_a_transaction_can_hold() -> None:
    texts = [
        {"create": "b"},
        {"createIndexes": "b", "indexes": [{"key": {"n": 1}}]},
        {"insert": "b", "documents": [{}]},
        {"findAndModify": "b", "query": {}, "update": {"$set": {"n": 1}}},
        {"aggregate": "b", "pipeline": [], "cursor": {}},
    ]
    assert load({FILE: json.dumps({"transaction": True, "up": texts})}, "MongoDB")[0].steps == 5


# -- batched updates ---------------------------------------------------------------------------------------------


def test_a_batched_update() -> None:
    change = [{"$set": {"n": 2}}]
    parts: dict[str, Any] = {"coll": "a", "filter": {"n": {"$numberInt": "1"}}, "update": change, "batchSize": 50}
    found = command({"x-batchUpdate": parts}).batch
    assert found == mongo.BatchUpdate("a", parts["filter"], parts["update"], 50)
    found = command({"x-batchUpdate": {"coll": "a", "update": {"$set": {"n": 2}}}}).batch
    assert found is not None
    assert (found.filter, found.size) == ({}, 1000)


BAD_BATCH: dict[str, tuple[Any, str]] = {
    "no object": ("a", "a batched update is"),
    "no update": ({"coll": "a"}, "a batched update is"),
    "another key": ({"coll": "a", "update": {"$set": {"n": 1}}, "query": {}}, "query is unknown in x-batchUpdate"),
    "a whole document": ({"coll": "a", "update": {"n": 1}}, 'update of x-batchUpdate is {"$set"'),
    "an empty pipeline": ({"coll": "a", "update": []}, "update of x-batchUpdate is"),
    "no filter": ({"coll": "a", "filter": [], "update": {"$set": {"n": 1}}}, "filter of x-batchUpdate is an object"),
    "nothing at once": ({"coll": "a", "update": {"$set": {"n": 1}}, "batchSize": 0}, "from 1 to 10000"),
    "too much at once": ({"coll": "a", "update": {"$set": {"n": 1}}, "batchSize": 10**6}, "from 1 to 10000"),
    "true at once": ({"coll": "a", "update": {"$set": {"n": 1}}, "batchSize": True}, "from 1 to 10000"),
    "no collection": ({"coll": "", "update": {"$set": {"n": 1}}}, "coll of x-batchUpdate is the name"),
    "the history": ({"coll": "selvedge.history", "update": {"$set": {"n": 1}}}, "is the runner's own"),
}


@pytest.mark.parametrize(("parts", "why"), BAD_BATCH.values(), ids=BAD_BATCH.keys())
def test_a_batched_update_refused(parts: Any, why: str) -> None:
    message = refusal("[\n" + json.dumps({"x-batchUpdate": parts}) + "]")
    assert message.startswith(f"{FILE}, line 2: ")
    assert why in message


# -- Extended JSON -----------------------------------------------------------------------------------------------


UNFIT = {
    "an id": ({"$oid": "12"}, "an $oid is 24 hexadecimal digits"),
    "an integer": ({"$numberInt": "2147483648"}, "a $numberInt is a whole number of 32 bits"),
    "a number for a text": ({"$numberLong": 5}, "a $numberLong is a whole number of 64 bits in quotes"),
    "a double": ({"$numberDouble": "1_0"}, "a $numberDouble is a number in quotes"),
    "a decimal": ({"$numberDecimal": "1" * 35}, "a $numberDecimal is a number of at most 34 digits"),
    "a day": ({"$date": "2025-02-30T00:00:00Z"}, "a $date is"),
    "no zone": ({"$date": "2025-02-03T00:00:00"}, "a $date is"),
    "no time": ({"$date": "2025-02-03"}, "a $date is"),
    "a year": ({"$date": {"$numberLong": "999999999999999"}}, "a $date is"),
    "bytes": ({"$binary": {"base64": "=", "subType": "00"}}, "$binary is"),
    "a uuid": ({"$uuid": "1234"}, "a $uuid is"),
    "a time": ({"$timestamp": {"t": -1, "i": 0}}, "$timestamp is"),
    "a pattern": ({"$regularExpression": {"pattern": "a"}}, "$regularExpression is"),
    "code": ({"$code": "function () {}"}, "$code is not taken"),
    "too many bits": (2**63, "more than 64 bits"),
    "half a pair": ("\ud800", "half of a surrogate pair"),
    "a name": ({"a\0b": 1}, "a key holds a character"),
}


@pytest.mark.parametrize(("value", "why"), UNFIT.values(), ids=UNFIT.keys())
def test_what_cannot_become_bson(value: Any, why: str) -> None:
    text = "[\n" + json.dumps({"insert": "a", "documents": [{"x": [0, value]}]}) + "]"
    message = refusal(text)
    assert message.startswith(f"{FILE}, line 2: documents[0].x[1]: ")
    assert why in message


def test_too_deep_for_bson() -> None:
    value: Any = 1
    for _ in range(101):
        value = {"a": value}
    assert "nested more than 100 deep" in refusal(json.dumps([{"insert": "a", "documents": [value]}]))


FIT = [
    {"$oid": "65a000000000000000000001"},
    {"$numberInt": "-5"},
    {"$numberLong": "9223372036854775807"},
    {"$numberDouble": "-Infinity"},
    {"$numberDouble": "1.5e-3"},
    {"$numberDecimal": "0.1"},
    {"$numberDecimal": "NaN"},
    {"$date": "2025-02-03T00:00:00.123Z"},
    {"$date": "2025-02-03T00:00:00+01:00"},
    {"$date": {"$numberLong": "-1"}},
    {"$binary": {"base64": "AAEC", "subType": "00"}},
    {"$uuid": "12345678-1234-1234-1234-123456789012"},
    {"$timestamp": {"t": 1, "i": 2}},
    {"$regularExpression": {"pattern": "^a", "options": "i"}},
    {"$minKey": 1},
    {"$maxKey": 1},
]


@pytest.mark.parametrize("value", FIT, ids=str)
def test_what_is_taken_becomes_bson(value: Any) -> None:
    assert problem({"x": value}) is None
    assert BSON.encode(to_bson({"x": value})).decode()


_WORDS = st.sampled_from([next(iter(value)) for value in FIT] + ["$set", "a", "b.c", "$undefined"])
_SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
_KEYS = _WORDS | st.text(max_size=3) | st.sampled_from(["t", "i", "base64", "subType"])
_TEXTS = st.sampled_from(["1", "-1", "2025-01-01T00:00:00Z", "AAEC", "00", "NaN", "0x1", "1e5", " 1", "١"])
_VALUES = st.recursive(
    _SCALARS | _TEXTS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            _WORDS | st.text(max_size=3) | st.sampled_from(["t", "i", "base64", "subType"]), inner, max_size=2
        )
    ),
    max_leaves=8,
)


@given(_VALUES)
def test_whatever_is_taken_becomes_bson(value: Any) -> None:
    """What passes here never fails in the driver, half way through a migration."""
    if problem({"x": value}) is None:
        BSON.encode(to_bson({"x": value}))


@given(st.text(alphabet='[]{}:,"\\ \nab1$-/#\u00e9', max_size=60))
def test_no_text_makes_the_reader_fail_otherwise(text: str) -> None:
    with contextlib.suppress(InvalidError):
        for migration in load({FILE: text}, "MongoDB"):
            _ = migration.commands


def test_a_long_file_is_read_in_time() -> None:
    """Lines are counted once and not for every command."""
    text = "[\n" + ",\n".join('{"insert": "a", "documents": [{"n": 1}]}' for _ in range(20_000)) + "\n]"
    found = load({FILE: text}, "MongoDB")[0].commands
    assert (len(found), found[-1].line) == (20_000, 20_001)


# -- what is known of commands -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "again"),
    [
        ({"delete": "a", "deletes": [{"q": {}, "limit": 0}]}, True),
        ({"delete": "a", "deletes": [{"q": {}, "limit": 1}]}, False),
        ({"insert": "a", "documents": [{}]}, False),
        ({"update": "a", "updates": [{"q": {}, "u": {"$set": {"n": 1}}, "multi": True}]}, True),
        ({"update": "a", "updates": [{"q": {}, "u": {"$inc": {"n": 1}}, "multi": True}]}, False),
        ({"update": "a", "updates": [{"q": {}, "u": {"$set": {"n": 1}}}]}, False),
        ({"update": "a", "updates": [{"q": {}, "u": [{"$set": {"n": 1}}], "multi": True}]}, False),
        ({"update": "a", "updates": [{"q": {}, "u": {"$set": {"n": 1}}, "multi": True, "upsert": True}]}, False),
        ({"findAndModify": "a", "query": {}, "remove": True}, False),
        ({"aggregate": "a", "pipeline": [{"$out": "b"}], "cursor": {}}, True),
        ({"aggregate": "a", "pipeline": [{"$merge": "b"}], "cursor": {}}, False),
        ({"collMod": "a"}, True),
    ],
)
def test_whether_a_command_may_run_twice(document: dict[str, Any], again: bool) -> None:
    assert same_again(command(document)) is again


def test_what_a_command_writes() -> None:
    assert written(command({"find": "a"})) == frozenset()
    assert written(command({"update": "a", "updates": [{"q": {}, "u": {}}]})) == {"a"}
    assert written(command({"aggregate": "a", "pipeline": [{"$merge": {"into": "b"}}], "cursor": {}})) == {"b"}
    assert written(command({"renameCollection": "a", "to": "b"})) == {"a", "b"}
    assert written(command({"x-batchUpdate": {"coll": "c", "update": {"$set": {"n": 1}}}})) == {"c"}
