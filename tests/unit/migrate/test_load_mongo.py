"""MongoDB's migration files: an array of commands, or both ways in one object."""

from __future__ import annotations

import json

import pytest

from selvedge.core.errors import InvalidError
from selvedge.migrate import load


def test_mongodb() -> None:
    text = '{\n "up": [\n  {"create": "a"},\n  {"drop": "b",\n   "ifNotExists": true}\n ],\n "down": [{"drop": "a"}]\n}'
    array, both, pair = load(
        {
            "1_array.json": '[{"create": "a", "capped": true}]',
            "2_both.json": text,
            "3_pair.up.json": '[{"ping": 1}]',
            "3_pair.down.json": '[{"ping": 2}]',
        },
        "MongoDB",
    )
    assert array.commands[0].document == {"create": "a", "capped": True}
    assert [(one.name, one.line, one.if_not_exists) for one in both.commands] == [
        ("create", 3, False),
        ("drop", 4, True),
    ]
    assert both.commands[1].document == {"drop": "b"}
    assert both.down == '[{"drop": "a"}]'
    assert pair.down == '[{"ping": 2}]'


MONGO_REFUSED = {
    "not JSON": ('[\n{"create": }]', "line 2: not JSON"),
    "a trailing comma": ('[{"ping": 1},\n]', "not JSON: a comma or ] belongs here"),
    "something behind": ('[{"ping": 1}] x', "something follows the end"),
    "unknown key": ('{"up": [], "Down": []}', "unknown or repeated key 'Down'"),
    "no up": ('{"down": []}', 'no "up"'),
    "no command": ('[\n\n"create"]', "line 3: a command is an object"),
    "a driver's field": ('[{"create": "a", "$db": "admin"}]', "$db is the driver's"),
    "a session": ('[{"create": "a", "lsid": {}}]', "lsid is the driver's"),
    "repeated key": ('[{"create": "a", "create": "b"}]', "the key create is there twice"),
    "JavaScript": ("db.users.drop()", "neither [command"),
    "up is no array": ('{"up": {"create": "a"}}', "arrays of commands"),
}


@pytest.mark.parametrize(("text", "why"), MONGO_REFUSED.values(), ids=MONGO_REFUSED.keys())
def test_mongodb_refused(text: str, why: str) -> None:
    with pytest.raises(InvalidError) as error:
        load({"1_a.json": text}, "MongoDB")[0].check()
    assert why in str(error.value)
    json.dumps(str(error.value))
