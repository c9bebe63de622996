"""JSON documents that are compared by meaning: without key order, numbers by value, sets as sets.

A document travels as Extended JSON: whatever BSON has and JSON has not is wrapped (``{"$date": …}``), plain numbers
stay plain. The server hands validators and filters back in the words they were sent in, but a person may have sent
the same words in another order, or ``1.0`` for ``1``; neither is a difference.
"""

from __future__ import annotations

import base64
import json
import math
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

_SCHEMA_SETS = frozenset({"required", "enum", "bsonType", "type"})
_SCHEMA_MAPS = frozenset({"properties", "patternProperties", "dependencies"})
_SCHEMA_LITERALS = frozenset({"enum", "default", "required", "title", "description"})
_EPOCH = datetime.fromtimestamp(0, UTC)
_NUMBERS = {"$numberInt": int, "$numberLong": int, "$numberDouble": float}


@dataclass(frozen=True, slots=True)
class Document:
    """One JSON object; equal to another when both mean the same. ``source`` keeps the order it was declared in."""

    canonical: str
    source: str = field(compare=False, repr=False)

    @classmethod
    def of(cls, value: Any) -> Document:
        """The document of a JSON value that may hold Extended JSON wrappers."""
        return cls(_dump(_query(value)), json.dumps(value))

    def value(self) -> Any:
        """The JSON value as it was declared."""
        return json.loads(self.source)


def number(value: Any) -> int | float:
    """A number by its value: ``1.0`` is ``1``."""
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        return int(value)
    return value if isinstance(value, int | float) else float(value)


def _dump(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def _scalar(value: Any) -> Any:
    return value if isinstance(value, bool) or not isinstance(value, int | float) else number(value)


def _unwrap(value: Any) -> Any:
    """An Extended JSON wrapper in its one canonical form, a number as it is; None for what is no wrapper."""
    if not isinstance(value, dict) or len(value) != 1:
        return None
    ((key, inner),) = value.items()
    if key in _NUMBERS and isinstance(inner, str):
        return number(_NUMBERS[key](inner))
    if key == "$numberDecimal" and isinstance(inner, str):
        return {key: str(Decimal(inner).normalize())}
    if key == "$date":
        return {key: _milliseconds(inner)}
    if key == "$uuid" and isinstance(inner, str):
        return {"$binary": {"base64": base64.b64encode(uuid.UUID(inner).bytes).decode(), "subType": "04"}}
    return None


def _milliseconds(value: Any) -> Any:
    """A date as milliseconds since 1970: the server has no more of it than that."""
    if isinstance(value, str):
        date = datetime.fromisoformat(value)
        aware = date if date.tzinfo else date.replace(tzinfo=UTC)
        return (aware - _EPOCH) // timedelta(milliseconds=1)
    return _literal(value)


def _literal(value: Any) -> Any:
    """A value that the server compares as it stands: key order is lost already, the order of lists counts."""
    plain = _unwrap(value)
    if plain is not None:
        return plain
    if isinstance(value, dict):
        return {str(key): _literal(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_literal(inner) for inner in value]
    return _scalar(value)


def _query(value: Any) -> Any:
    """A query expression: only below ``$jsonSchema`` are there lists whose order means nothing."""
    plain = _unwrap(value)
    if plain is not None:
        return plain
    if isinstance(value, dict):
        return {str(key): _schema(inner) if key == "$jsonSchema" else _query(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_query(inner) for inner in value]
    return _scalar(value)


def _schema(value: Any) -> Any:
    """A JSON Schema: ``required``, ``enum`` and lists of types are sets; names of properties are no keywords."""
    if isinstance(value, list | tuple):
        return [_schema(inner) for inner in value]
    if not isinstance(value, dict):
        return _scalar(value)
    result: dict[str, Any] = {}
    for key, inner in value.items():
        if key in _SCHEMA_SETS and isinstance(inner, list | tuple):
            result[str(key)] = sorted((_literal(item) for item in inner), key=_dump)
        elif key in _SCHEMA_MAPS and isinstance(inner, dict):
            result[str(key)] = {str(name): _schema(item) for name, item in inner.items()}
        elif key in _SCHEMA_LITERALS:
            result[str(key)] = _literal(inner)
        else:
            plain = _unwrap(inner)
            result[str(key)] = _schema(inner) if plain is None else plain
    return result
