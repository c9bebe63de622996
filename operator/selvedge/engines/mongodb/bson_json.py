"""BSON to the plain JSON that ``core`` compares, and Extended JSON to the BSON that the server takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bson import json_util
from bson.int64 import Int64

_OPTIONS = json_util.JSONOptions(json_mode=json_util.JSONMode.CANONICAL, tz_aware=True)
_WRAPPERS = frozenset(
    {"$oid", "$date", "$numberInt", "$numberLong", "$numberDouble", "$numberDecimal", "$binary", "$timestamp", "$uuid"}
    | {"$minKey", "$maxKey", "$regularExpression", "$undefined"}
)


def to_json(value: Any) -> Any:
    """Plain numbers, text, booleans, lists and objects as they are; everything else wrapped as Extended JSON."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Int64):
        return int(value)
    if isinstance(value, int | float):
        return value
    if isinstance(value, Mapping):
        return {str(key): to_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(inner) for inner in value]
    return json_util.default(value, _OPTIONS)


def to_bson(value: Any) -> Any:
    """The reverse. Only unmistakable wrappers are unwrapped: ``{$regex: …}`` in a query is the query's own."""
    if isinstance(value, Mapping):
        if len(value) == 1 and next(iter(value)) in _WRAPPERS:
            # a wrapper may hold another one: {"$date": {"$numberLong": …}}
            inside = {word: to_bson(inner) for word, inner in value.items()}
            return json_util.object_hook(inside, _OPTIONS)
        return {key: to_bson(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [to_bson(inner) for inner in value]
    return value
