"""Documents are compared by what they mean to the server."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selvedge.core.mongodb.document import Document

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(-1e9, 1e9) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"a": {"$gte": 1}}, {"a": {"$gte": 1.0}}),
        ({"a": {"$numberLong": "5"}}, {"a": 5}),
        ({"a": {"$date": "2025-01-01T01:00:00+01:00"}}, {"a": {"$date": {"$numberLong": "1735689600000"}}}),
        ({"a": {"$numberDecimal": "1.50"}}, {"a": {"$numberDecimal": "1.5"}}),
        (
            {"a": {"$uuid": "00112233-4455-6677-8899-aabbccddeeff"}},
            {"a": {"$binary": {"base64": "ABEiM0RVZneImaq7zN3u/w==", "subType": "04"}}},
        ),
        ({"a": {"$numberInt": "5"}}, {"a": {"$numberDouble": "5.0"}}),
        ({"$jsonSchema": {"required": ["a", "b"]}}, {"$jsonSchema": {"required": ["b", "a"]}}),
        (
            {"$jsonSchema": {"properties": {"a": {"bsonType": ["int", "long"]}}}},
            {"$jsonSchema": {"properties": {"a": {"bsonType": ["long", "int"]}}}},
        ),
        (
            {"$jsonSchema": {"properties": {"a": {"enum": [1, "x"]}}}},
            {"$jsonSchema": {"properties": {"a": {"enum": ["x", 1]}}}},
        ),
        (
            {"$and": [{"$jsonSchema": {"required": ["a", "b"]}}]},
            {"$and": [{"$jsonSchema": {"required": ["b", "a"]}}]},
        ),
    ],
)
def test_same_meaning_is_equal(one: Any, other: Any) -> None:
    assert Document.of(one) == Document.of(other)
    assert hash(Document.of(one)) == hash(Document.of(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": True}, {"a": 1}),
        ({"a": "1"}, {"a": 1}),
        ({"a": None}, {}),
        ({"a": [1, 2]}, {"a": [2, 1]}),
        ({"a": {"$eq": {"required": ["x", "y"]}}}, {"a": {"$eq": {"required": ["y", "x"]}}}),
        ({"$jsonSchema": {"required": ["a"]}}, {"$jsonSchema": {"required": ["a", "b"]}}),
        (
            {"$jsonSchema": {"properties": {"required": {"enum": [[1, 2]]}}}},
            {"$jsonSchema": {"properties": {"required": {"enum": [[2, 1]]}}}},
        ),
        (
            {"$jsonSchema": {"items": [{"bsonType": "int"}, {"bsonType": "bool"}]}},
            {"$jsonSchema": {"items": [{"bsonType": "bool"}, {"bsonType": "int"}]}},
        ),
        ({"at": {"$gt": {"$date": "2025-01-01T00:00:00Z"}}}, {"at": {"$gt": "2025-01-01T00:00:00Z"}}),
    ],
)
def test_other_meaning_is_a_difference(one: Any, other: Any) -> None:
    assert Document.of(one) != Document.of(other)


@given(JSON)
def test_a_document_equals_itself_in_any_order(value: Any) -> None:
    assert Document.of({"v": value}) == Document.of({"v": _reversed(value)})
    assert Document.of({"v": value}).value() == {"v": value}


def _reversed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _reversed(inner) for key, inner in reversed(value.items())}
    return [_reversed(inner) for inner in value] if isinstance(value, list) else value
