"""A declared collection or index in the canonical form of ``core``."""

from __future__ import annotations

from selvedge.api.databaseschema import Collation, Collection, Index, IndexType
from selvedge.core.mongodb import model
from selvedge.core.mongodb.document import Document, number
from selvedge.core.mongodb.model import TEXT_FIELDS, Scalar, document_or_none, flat, projection, text_defaults

_LEVELS = {"Strict": "strict", "Moderate": "moderate", "Disabled": "off"}
_TYPES = {IndexType.HASHED: "hashed", IndexType.SPHERE_2D: "2dsphere", IndexType.FLAT_2D: "2d"}
_WILDCARD = "$**"


def collection(declared: Collection, validates: bool) -> model.Collection:
    """One collection. ``validates``: a validator that was ours is taken away when it is no longer declared."""
    validator = document_or_none(declared.validator)
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
    partial: Document | None = document_or_none(declared.partial_filter)
    return model.Index(
        name=declared.name,
        keys=tuple(keys),
        unique=declared.unique,
        sparse=declared.sparse,
        hidden=declared.hidden,
        expire_after=None if declared.expire_after is None else number(declared.expire_after),
        partial_filter=partial,
        weights=text_defaults(text, declared.weights) if text else (),
        default_language=(declared.default_language or model.DEFAULT_LANGUAGE) if text else "",
        language_override=(declared.language_override or model.LANGUAGE_OVERRIDE) if text else "",
        collation=_collation(declared.collation),
        wildcard_projection=projection(declared.wildcard_projection),
        bits=declared.bits,
    )


def _collation(declared: Collation | None) -> tuple[tuple[str, Scalar], ...]:
    if declared is None:
        return ()
    return flat(declared.for_server())
