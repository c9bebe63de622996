"""What a MongoDB database holds and should hold, as frozen values in one canonical form.

The server adds to what it is told (versions, defaults, a whole collation for a locale) and rewrites text indexes
(``{_fts: "text", _ftsx: 1}`` and ``weights``). Both sides are brought into the form of this module, so that the
difference is a comparison of values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from selvedge.core.mongodb.document import Document, number
from selvedge.core.unit import ObjectRef

Scalar = str | int | float | bool

TEXT_FIELDS = "$text"
DEFAULT_LANGUAGE = "english"
LANGUAGE_OVERRIDE = "language"


@dataclass(frozen=True, slots=True)
class Index:
    """One index. ``keys`` are (field, direction or kind); the text fields of a text index stand in ``weights`` alone.

    ``expire_after`` is in seconds. ``collation`` holds the fields that were declared or, of a live index, all of them
    unless it is the collection's own. ``building`` and ``prepare_unique`` are only ever true of a live index.
    """

    name: str
    keys: tuple[tuple[str, str], ...]
    unique: bool = False
    sparse: bool = False
    hidden: bool = False
    expire_after: int | float | None = None
    partial_filter: Document | None = None
    weights: tuple[tuple[str, int | float], ...] = ()
    default_language: str = ""
    language_override: str = ""
    collation: tuple[tuple[str, Scalar], ...] = ()
    wildcard_projection: tuple[tuple[str, bool], ...] = ()
    bits: int | float | None = None
    prepare_unique: bool = False
    building: bool = False

    @property
    def ttl(self) -> bool:
        """True when the server deletes documents by this index."""
        return self.expire_after is not None


@dataclass(frozen=True, slots=True)
class TimeSeries:
    """The fixed part of a time-series collection, and its granularity: seconds, minutes or hours."""

    time_field: str
    meta_field: str = ""
    granularity: str = "seconds"


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection as declared. ``validator`` None with ``manages_validation`` False: whatever is there may stay."""

    name: str
    validator: Document | None = None
    level: str = "strict"
    action: str = "error"
    manages_validation: bool = False
    warn_first: bool = False
    indexes: tuple[Index, ...] = ()
    time_series: TimeSeries | None = None
    expire_after: int | float | None = None

    @property
    def ref(self) -> ObjectRef:
        """The collection as statuses name it."""
        return collection_ref(self.name)


@dataclass(frozen=True, slots=True)
class LiveCollection:
    """A collection as the server shows it; ``kind`` is collection, timeseries or view.

    ``occupied`` is None as long as nobody looked: then it is taken to hold documents. ``violators`` counts documents
    that do not match the declared validator, None when not counted. ``identity`` is the UUID of where its documents
    are: one that is dropped and made again has another.
    """

    name: str
    kind: str = "collection"
    validator: Document | None = None
    level: str = "strict"
    action: str = "error"
    indexes: tuple[Index, ...] = ()
    time_series: TimeSeries | None = None
    expire_after: int | float | None = None
    occupied: bool | None = None
    violators: int | None = None
    identity: str = field(default="", repr=False)

    def index(self, name: str) -> Index | None:
        """The index of that name."""
        return next((index for index in self.indexes if index.name == name), None)


@dataclass(frozen=True, slots=True)
class Desired:
    """One database as all its DatabaseSchemas together declare it, and what of ours has to go."""

    collections: tuple[Collection, ...] = ()
    drop_indexes: tuple[tuple[str, str], ...] = ()
    drop_collections: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Live:
    """One database as it was found."""

    collections: Mapping[str, LiveCollection] = field(default_factory=dict)


def collection_ref(name: str) -> ObjectRef:
    """A collection as statuses name it."""
    return ObjectRef("collection", name)


def index_ref(collection: str, name: str) -> ObjectRef:
    """An index as statuses name it: ``designs.userId``."""
    return ObjectRef("index", f"{collection}.{name}")


def text_defaults(fields: tuple[str, ...], weights: Mapping[str, int | float]) -> tuple[tuple[str, int | float], ...]:
    """The complete weights of a text index: 1 for each field that none was given for."""
    complete: dict[str, int | float] = dict.fromkeys(fields, 1)
    complete.update({name: number(weight) for name, weight in weights.items()})
    return tuple(sorted(complete.items()))


def projection(value: Mapping[str, Any], prefix: str = "") -> tuple[tuple[str, bool], ...]:
    """A wildcard projection with dotted paths; some versions hand it back nested, some with 1 for true."""
    pairs: list[tuple[str, bool]] = []
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            pairs.extend(projection(inner, f"{prefix}{name}."))
        else:
            pairs.append((f"{prefix}{name}", bool(inner)))
    return tuple(sorted(pairs))


def index_from_server(raw: Mapping[str, Any], default_collation: tuple[tuple[str, Scalar], ...] = ()) -> Index:
    """An entry of ``listIndexes``, as plain JSON, in canonical form."""
    building = "spec" in raw
    entry = raw["spec"] if building else raw
    text = "weights" in entry
    collation = flat(entry.get("collation"))
    if collation == default_collation:
        collation = ()
    elif not collation and default_collation:
        collation = (("locale", "simple"),)
    keys = tuple((name, key_kind(kind)) for name, kind in entry["key"].items() if name != "_ftsx")
    return Index(
        name=entry["name"],
        keys=tuple((TEXT_FIELDS, "text") if name == "_fts" else (name, kind) for name, kind in keys),
        unique=bool(entry.get("unique")),
        sparse=bool(entry.get("sparse")),
        hidden=bool(entry.get("hidden")),
        expire_after=None if entry.get("expireAfterSeconds") is None else number(entry["expireAfterSeconds"]),
        partial_filter=document_or_none(entry.get("partialFilterExpression")),
        weights=text_defaults((), entry["weights"]) if text else (),
        default_language=entry.get("default_language", DEFAULT_LANGUAGE) if text else "",
        language_override=entry.get("language_override", LANGUAGE_OVERRIDE) if text else "",
        collation=collation,
        wildcard_projection=projection(entry.get("wildcardProjection") or {}),
        bits=number(entry["bits"]) if "bits" in entry else None,
        prepare_unique=bool(entry.get("prepareUnique")),
        building=building,
    )


def key_kind(value: Any) -> str:
    """A key's direction or kind as text. The server takes any number: its sign is what counts."""
    if isinstance(value, str):
        return value
    return "1" if number(value) > 0 else "-1"


def flat(value: Mapping[str, Any] | None) -> tuple[tuple[str, Scalar], ...]:
    """A collation as sorted pairs, without the version that the server adds."""
    pairs = ((name, inner) for name, inner in (value or {}).items() if name != "version")
    return tuple(sorted((name, inner if isinstance(inner, bool | str) else number(inner)) for name, inner in pairs))


def document_or_none(value: Any) -> Document | None:
    """A document, or None for an absent or empty one: to the server both mean that there is none."""
    return Document.of(value) if value else None
