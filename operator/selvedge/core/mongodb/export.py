"""A live MongoDB database as the ``spec.mongodb`` of DatabaseSchemas whose plan against it is empty; pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from selvedge.core.duration import format_duration
from selvedge.core.mongodb.model import DEFAULT_LANGUAGE, LANGUAGE_OVERRIDE, TEXT_FIELDS, Index, LiveCollection

#: Options of a collection that are declared, or that say nothing about it.
_OPTIONS = frozenset({"validator", "validationLevel", "validationAction", "timeseries", "expireAfterSeconds"})
#: Options of an index that are declared, or that the server adds by itself.
_INDEX_OPTIONS = frozenset(
    {"v", "key", "name", "ns", "background", "unique", "sparse", "hidden", "expireAfterSeconds", "bits", "collation"}
    | {"partialFilterExpression", "weights", "default_language", "language_override", "wildcardProjection"}
    | {"prepareUnique", "textIndexVersion", "2dsphereIndexVersion"}
)
_LEVELS = {"strict": "Strict", "moderate": "Moderate", "off": "Disabled"}
_ACTIONS = {"error": "Error", "warn": "Warn"}
_KINDS = {"hashed": "Hashed", "2dsphere": "2dsphere", "2d": "2d"}
_WILDCARD = "$**"
#: What a collation is where nothing is said.
_COLLATION: Mapping[str, object] = {
    "strength": 3,
    "caseLevel": False,
    "caseFirst": "off",
    "numericOrdering": False,
    "alternate": "non-ignorable",
    "maxVariable": "punct",
    "backwards": False,
    "normalization": False,
}
_COLLATION_WORDS = {
    "upper": "Upper",
    "lower": "Lower",
    "non-ignorable": "NonIgnorable",
    "shifted": "Shifted",
    "punct": "Punct",
    "space": "Space",
}
_COLLECTIONS = 200


@dataclass(frozen=True, slots=True)
class FoundCollection:
    """A collection as it was read: ``options`` and ``indexes`` in the server's words tell what the model leaves out."""

    live: LiveCollection
    options: Mapping[str, Any] = field(default_factory=dict)
    indexes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Found:
    """A live database; ``others`` is what no declaration has a word for: a sentence's beginning with the names."""

    database: str
    collections: tuple[FoundCollection, ...]
    others: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class Exported:
    """One database: ``spec.mongodb`` of each DatabaseSchema that is needed for it, and what is left out."""

    database: str
    specs: tuple[dict[str, Any], ...]
    notes: tuple[str, ...] = ()


def export_database(found: Found) -> Exported:
    """The specs of one database; more than one where it has more collections than a DatabaseSchema may."""
    notes: list[str] = []
    documents = []
    for one in sorted(found.collections, key=lambda one: one.live.name):
        document = _collection(one, notes)
        if document is not None:
            documents.append(document)
    notes += [f"{what}: {', '.join(sorted(names))}" for what, names in found.others if names]
    pieces = [documents[start : start + _COLLECTIONS] for start in range(0, len(documents), _COLLECTIONS)]
    specs: list[dict[str, Any]] = [{"collections": piece} for piece in pieces] or [{}]
    return Exported(found.database, tuple(specs), tuple(notes))


def _collection(found: FoundCollection, notes: list[str]) -> dict[str, Any] | None:
    live = found.live
    if live.kind not in ("collection", "timeseries"):
        notes.append(f"{live.kind} {live.name}: views are not declared, a migration makes them")
        return None
    _options(f"collection {live.name}", found.options.keys() - _OPTIONS, notes)
    document: dict[str, Any] = {"name": live.name}
    if live.validator is not None:
        if live.level not in _LEVELS or live.action not in _ACTIONS:
            notes.append(f"collection {live.name}: validation {live.level}, {live.action} cannot be declared")
        else:
            document["validator"] = live.validator.value()
            if live.level != "strict":
                document["validationLevel"] = _LEVELS[live.level]
            if live.action != "error":
                document["validationAction"] = _ACTIONS[live.action]
    series = live.time_series
    if series is not None:
        document["timeSeries"] = {"timeField": series.time_field}
        if series.meta_field:
            document["timeSeries"]["metaField"] = series.meta_field
        if series.granularity != "seconds":
            document["timeSeries"]["granularity"] = series.granularity.capitalize()
        known = {"timeField", "metaField", "granularity", "bucketMaxSpanSeconds"}
        _options(f"time series {live.name}", found.options.get("timeseries", {}).keys() - known, notes)
        if live.expire_after is not None:
            document["expireAfter"] = format_duration(live.expire_after)
    indexes = [_index(live.name, index, found.indexes.get(index.name, {}), notes) for index in live.indexes]
    written = [index for index in indexes if index is not None]
    if written:
        document["indexes"] = written
    return document


def _options(whose: str, names: Iterable[str], notes: list[str]) -> None:
    unknown = sorted(names)
    if unknown:
        notes.append(f"{whose}: a declaration has no word for {', '.join(unknown)}")


def _index(collection: str, index: Index, raw: Mapping[str, Any], notes: list[str]) -> dict[str, Any] | None:
    name = f"index {collection}.{index.name}"
    if index.building:
        notes.append(f"{name} is still being built: export again when it stands")
        return None
    keys = [_key(field_name, kind) for field_name, kind in _spelled_out(index)]
    if None in keys:
        notes.append(f"{name} is of a kind that cannot be declared")
        return None
    _options(name, raw.keys() - _INDEX_OPTIONS, notes)
    if index.prepare_unique and not index.unique:
        notes.append(f"{name} is on its way to become unique, and is not")
        return None
    return {"name": index.name, "keys": keys} | _properties(index) | _text_properties(index)


def _properties(index: Index) -> dict[str, Any]:
    document: dict[str, Any] = {flag: True for flag in ("unique", "sparse", "hidden") if getattr(index, flag)}
    if index.expire_after is not None:
        document["expireAfter"] = format_duration(index.expire_after)
    if index.partial_filter is not None:
        document["partialFilter"] = index.partial_filter.value()
    if index.collation:
        document["collation"] = _collation(index.collation)
    if index.wildcard_projection:
        document["wildcardProjection"] = {path: int(included) for path, included in index.wildcard_projection}
    if index.bits is not None:
        document["bits"] = index.bits
    return document


def _text_properties(index: Index) -> dict[str, Any]:
    document: dict[str, Any] = {}
    weights = {name: weight for name, weight in index.weights if weight != 1}
    if weights:
        document["weights"] = weights
    if index.default_language not in ("", DEFAULT_LANGUAGE):
        document["defaultLanguage"] = index.default_language
    if index.language_override not in ("", LANGUAGE_OVERRIDE):
        document["languageOverride"] = index.language_override
    return document


def _spelled_out(index: Index) -> Iterator[tuple[str, str]]:
    for name, kind in index.keys:
        if name == TEXT_FIELDS:
            yield from ((text, "text") for text, _ in index.weights)
        else:
            yield name, kind


def _key(name: str, kind: str) -> dict[str, Any] | None:
    if kind == "text":
        return {"field": name, "type": "Text"}
    if kind in _KINDS:
        return {"field": name, "type": _KINDS[kind]}
    if kind == "1" and (name == _WILDCARD or name.endswith(f".{_WILDCARD}")):
        return {"field": name if name == _WILDCARD else name.removesuffix(f".{_WILDCARD}"), "type": "Wildcard"}
    if kind == "1":
        return {"field": name}
    return {"field": name, "order": -1} if kind == "-1" else None


def _collation(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found = {name: value for name, value in pairs if _COLLATION.get(name) != value}
    document = {"locale": found.pop("locale")}
    return document | {name: _COLLATION_WORDS.get(value, value) for name, value in found.items()}
