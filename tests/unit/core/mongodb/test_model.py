"""Entries of listIndexes, as MongoDB 6.0 gives them, in canonical form."""

from __future__ import annotations

from typing import Any

import pytest

from selvedge.core.mongodb.changes import index_document
from selvedge.core.mongodb.diff import indexes_equal
from selvedge.core.mongodb.model import TEXT_FIELDS, Index, index_from_server

GERMAN = {
    "locale": "de",
    "caseLevel": False,
    "caseFirst": "off",
    "strength": 2,
    "numericOrdering": False,
    "alternate": "non-ignorable",
    "maxVariable": "punct",
    "normalization": False,
    "backwards": False,
    "version": "57.1",
}
TEXT = {
    "v": 2,
    "key": {"owner": 1, "_fts": "text", "_ftsx": 1, "at": -1},
    "name": "search",
    "weights": {"metadata.description": 5, "name": 10, "tags": 1},
    "default_language": "english",
    "language_override": "language",
    "textIndexVersion": 3,
}


def test_t41_a_text_index_round_trips() -> None:
    declared = Index(
        "search",
        (("owner", "1"), (TEXT_FIELDS, "text"), ("at", "-1")),
        weights=(("metadata.description", 5), ("name", 10), ("tags", 1)),
        default_language="english",
        language_override="language",
    )
    assert indexes_equal(declared, index_from_server(TEXT))
    assert list(index_document(declared)["key"]) == ["owner", "metadata.description", "name", "tags", "at"]


@pytest.mark.parametrize("option", ["unique", "sparse", "hidden"])
def test_t42_absent_is_false(option: str) -> None:
    declared = Index("i", (("a", "1"),))
    assert indexes_equal(declared, index_from_server({"v": 2, "key": {"a": 1}, "name": "i"}))
    assert indexes_equal(declared, index_from_server({"v": 2, "key": {"a": 1.0}, "name": "i", option: False}))
    assert not indexes_equal(declared, index_from_server({"v": 2, "key": {"a": 1}, "name": "i", option: True}))


@pytest.mark.parametrize(
    ("declared", "equal"),
    [
        ({"locale": "de", "strength": 2}, True),
        ({"locale": "de"}, True),
        ({"locale": "de", "strength": 1}, False),
        ({"locale": "en", "strength": 2}, False),
        ({}, False),
        ({"locale": "simple"}, False),
    ],
)
def test_of_a_collation_only_declared_fields_count(declared: dict[str, Any], equal: bool) -> None:
    live = index_from_server({"v": 2, "key": {"a": 1}, "name": "i", "collation": GERMAN})
    assert indexes_equal(Index("i", (("a", "1"),), collation=tuple(sorted(declared.items()))), live) is equal


def test_an_index_takes_the_collation_of_its_collection() -> None:
    default = tuple(sorted((key, value) for key, value in GERMAN.items() if key != "version"))
    inherited = index_from_server({"key": {"a": 1}, "name": "i", "collation": GERMAN}, default)
    simple = index_from_server({"key": {"a": 1}, "name": "i"}, default)
    assert indexes_equal(Index("i", (("a", "1"),)), inherited)
    assert not indexes_equal(Index("i", (("a", "1"),)), simple)
    assert indexes_equal(Index("i", (("a", "1"),), collation=(("locale", "simple"),)), simple)


def test_an_index_that_is_being_built_is_not_there_yet() -> None:
    live = index_from_server({"spec": {"key": {"a": 1}, "name": "i"}, "buildUUID": "x"})
    assert live.building
    assert not indexes_equal(Index("i", (("a", "1"),)), live)


def test_a_wildcard_projection_may_come_back_nested() -> None:
    flat = {"key": {"$**": 1}, "name": "w", "wildcardProjection": {"a": 1, "b.c": True}}
    nested = {"key": {"$**": 1}, "name": "w", "wildcardProjection": {"b": {"c": True}, "a": True}}
    assert index_from_server(flat) == index_from_server(nested)
