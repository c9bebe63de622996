"""A status that the API server takes: cut down to the bounds of its CRD.

A message that a server sent, or a list that grew, must never be the reason why nobody learns what happened.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from selvedge.api.base import Status


def fit(model: type[Status], status: Mapping[str, Any]) -> dict[str, Any]:
    """The status with every text and every list cut to the length that the CRD allows.

    A text that is cut ends in ``…``. Fields that the model does not know are left out, as the API server would; None
    (which removes a field in a merge patch) stays.
    """
    schema, defs = _schema(model)
    result: dict[str, Any] = _fitted(status, schema, defs)
    return result


@cache
def _schema(model: type[Status]) -> tuple[dict[str, Any], dict[str, Any]]:
    schema = model.model_json_schema(by_alias=True)
    return schema, schema.get("$defs", {})


def _fitted(value: Any, schema: Mapping[str, Any], defs: Mapping[str, Any]) -> Any:
    for choice in schema.get("anyOf", ()):
        if choice.get("type") != "null":
            schema = choice
    if "$ref" in schema:
        schema = defs[str(schema["$ref"]).removeprefix("#/$defs/")]
    if isinstance(value, str):
        limit = schema.get("maxLength", len(value))
        return value if len(value) <= limit else value[: limit - 1] + "…"
    if isinstance(value, Mapping):
        known = schema.get("properties", {})
        return {name: _fitted(child, known[name], defs) for name, child in value.items() if name in known}
    if isinstance(value, list | tuple):
        return [_fitted(child, schema["items"], defs) for child in value[: schema["maxItems"]]]
    return value
