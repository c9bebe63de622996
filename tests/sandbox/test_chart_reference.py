"""The chart's values are explained once: the reference and the schema say the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from sandbox.chart_reference import SCHEMA, VALUES, described

_VALUES = """
# -- How many.
replicas: 2
image:
  # -- Where it lies.
  repository: selvedge
# -- What pods wear,
# line by line.
podLabels: {}
"""


def _schema(**properties: Any) -> str:
    image = {"type": "object", "additionalProperties": False, "properties": {"repository": {"type": "string"}}}
    labels = {"type": "object", "additionalProperties": {"type": "string"}}
    known = {"replicas": {"description": "old", "type": "integer"}, "image": image, "podLabels": labels}
    return json.dumps({"additionalProperties": False, "properties": {**known, "global": {}, **properties}})


def test_a_comment_becomes_the_description() -> None:
    found = json.loads(described(_VALUES, _schema()))["properties"]
    assert found["replicas"] == {"description": "How many.", "type": "integer"}
    assert found["image"]["properties"]["repository"]["description"] == "Where it lies."
    assert found["podLabels"]["description"] == "What pods wear, line by line."
    assert found["podLabels"]["additionalProperties"] == {"type": "string"}


def test_a_value_that_only_one_of_both_has_is_named() -> None:
    with pytest.raises(ValueError, match=r"shards is in values\.schema\.json and not in values\.yaml"):
        described(_VALUES, _schema(shards={"type": "integer"}))
    with pytest.raises(ValueError, match=r"image\.tag is in values\.yaml and not in values\.schema\.json"):
        described(_VALUES.replace("  repository", "  tag: x\n  repository"), _schema())


def test_every_value_of_the_chart_is_described_in_its_schema() -> None:
    schema = SCHEMA.read_text(encoding="utf-8")
    assert described(VALUES.read_text(encoding="utf-8"), schema) == schema
    assert [name for name, value in _leaves(json.loads(schema)) if not value.get("description")] == []


def _leaves(schema: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for key, value in schema["properties"].items():
        if value.get("additionalProperties") is False:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
