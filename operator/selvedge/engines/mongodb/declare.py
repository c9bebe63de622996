"""A declared collection or index in the canonical form of ``core``."""

from __future__ import annotations

from typing import Any

import bson
from bson.errors import BSONError

from selvedge.api.databaseschema import Collation, Collection, Index, IndexType
from selvedge.core.mongodb import model
from selvedge.core.mongodb.document import Document, number
from selvedge.core.mongodb.model import TEXT_FIELDS, Scalar, document_or_none, flat, projection, text_defaults
from selvedge.engines.mongodb.bson_json import to_bson, to_json

MALFORMED = (ValueError, TypeError, ArithmeticError, BSONError)
"""What decoding raises for Extended JSON that is none, or for what BSON cannot hold."""

_LEVELS = {"Strict": "strict", "Moderate": "moderate", "Disabled": "off"}
_TYPES = {IndexType.HASHED: "hashed", IndexType.SPHERE_2D: "2dsphere", IndexType.FLAT_2D: "2d"}
_WILDCARD = "$**"


def collection(declared: Collection, validates: bool) -> model.Collection:
    """One collection. ``validates``: a validator that was ours is taken away when it is no longer declared.

    Raises one of ``MALFORMED`` for a validator or filter that is no document of MongoDB.
    """
    validator = _document(declared.validator)
    series = declared.time_series
    return model.Collection(
        name=declared.name,
        validator=validator,
        level=_LEVELS[declared.validation_level.value],
        action=declared.validation_action.value.lower(),
        manages_validation=validator is not None or validates,
        warn_first=declared.rollout.value == "WarnFirst",
        indexes=tuple(index(entry) for entry in declared.indexes if entry.ensure.value == "Present"),
        time_series=None
        if series is None
        else model.TimeSeries(series.time_field, series.meta_field or "", series.granularity.value.lower()),
        expire_after=None if declared.expire_after is None else number(declared.expire_after),
    )


def index(declared: Index) -> model.Index:
    """One index."""
    text = tuple(key.field for key in declared.keys if key.type is IndexType.TEXT)
    keys: list[tuple[str, str]] = []
    for key in declared.keys:
        if key.type is IndexType.TEXT:
            if (TEXT_FIELDS, "text") not in keys:
                keys.append((TEXT_FIELDS, "text"))
        elif key.type is IndexType.WILDCARD:
            whole = key.field == _WILDCARD or key.field.endswith(f".{_WILDCARD}")
            keys.append((key.field if whole else f"{key.field}.{_WILDCARD}", "1"))
        elif key.type is not None:
            keys.append((key.field, _TYPES[key.type]))
        else:
            keys.append((key.field, str(key.order or 1)))
    return model.Index(
        name=declared.name,
        keys=tuple(keys),
        unique=declared.unique,
        sparse=declared.sparse,
        hidden=declared.hidden,
        expire_after=None if declared.expire_after is None else number(declared.expire_after),
        partial_filter=_document(declared.partial_filter),
        weights=text_defaults(text, declared.weights) if text else (),
        default_language=(declared.default_language or model.DEFAULT_LANGUAGE) if text else "",
        language_override=(declared.language_override or model.LANGUAGE_OVERRIDE) if text else "",
        collation=_collation(declared.collation),
        wildcard_projection=projection(declared.wildcard_projection),
        bits=declared.bits,
    )


def _document(declared: dict[str, Any] | None) -> Document | None:
    document = document_or_none(declared)
    # The way to the server and back has to give what was declared, or the two would differ for ever.
    if document is not None and document != Document.of(to_json(bson.decode(bson.encode(to_bson(declared))))):
        raise ValueError("MongoDB would keep something else")
    return document


def _collation(declared: Collation | None) -> tuple[tuple[str, Scalar], ...]:
    if declared is None:
        return ()
    return flat(declared.for_server())
