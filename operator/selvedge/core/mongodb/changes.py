"""The changes that a plan for MongoDB consists of: one class for each effect, each with its command and its risk."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any

from selvedge.core.mongodb.model import TEXT_FIELDS, Collection, Index, LiveCollection, collection_ref, index_ref
from selvedge.core.unit import ChangeSummary, ObjectRef, Risk

Command = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Change(ABC):
    """One change of one collection. ``before`` is what it replaces, so that an approval holds for that alone."""

    collection: str
    risk: Risk
    before: Collection | LiveCollection | Index | None

    @property
    def ref(self) -> ObjectRef:
        """The declared object that the change is about."""
        return collection_ref(self.collection)

    @property
    def of(self) -> str:
        """The identity of the collection, empty where it is not there yet."""
        return self.before.identity if isinstance(self.before, LiveCollection) else ""

    @abstractmethod
    def commands(self) -> tuple[Command, ...]:
        """The database commands, as Extended JSON, in order."""

    def undo(self) -> tuple[Command, ...]:
        """What puts things back when a later one of several commands fails."""
        return ()

    def preimage(self) -> str:
        """What the change replaces, in words that are the same as long as that is; how much data is there is not.

        What loses data names the collection that it loses it from: one that was made again is another.
        """
        before, identity = self.before, self.of
        if isinstance(before, LiveCollection):
            before = replace(before, occupied=None, violators=None, indexes=())
        return f"{before!r} of {identity}" if identity and self.risk is Risk.DESTRUCTIVE else repr(before)

    def summary(self) -> ChangeSummary:
        """The change as a person reads it."""
        statement = "; ".join(json.dumps(command, ensure_ascii=False) for command in self.commands())
        return ChangeSummary(self.ref, self.risk, statement, self.preimage())


@dataclass(frozen=True, slots=True)
class CreateCollection(Change):
    """``create``, with validator and options."""

    desired: Collection

    def commands(self) -> tuple[Command, ...]:
        """One ``create``."""
        command: Command = {"create": self.collection}
        desired = self.desired
        if desired.time_series is not None:
            series = desired.time_series
            command["timeseries"] = {"timeField": series.time_field, "granularity": series.granularity}
            if series.meta_field:
                command["timeseries"]["metaField"] = series.meta_field
        if desired.expire_after is not None:
            command["expireAfterSeconds"] = desired.expire_after
        if desired.validator is not None:
            command |= validation(desired)
        return (command,)


@dataclass(frozen=True, slots=True)
class SetValidation(Change):
    """``collMod`` with validator, level and action together, so that no mix of old and new is ever in force."""

    desired: Collection

    def commands(self) -> tuple[Command, ...]:
        """One ``collMod``."""
        return ({"collMod": self.collection} | validation(self.desired),)


@dataclass(frozen=True, slots=True)
class SetCollectionExpiry(Change):
    """``collMod`` of a time series: the age at which measurements are deleted, None for never."""

    expire_after: int | float | None

    def commands(self) -> tuple[Command, ...]:
        """One ``collMod``."""
        return ({"collMod": self.collection, "expireAfterSeconds": _or_off(self.expire_after)},)


@dataclass(frozen=True, slots=True)
class SetGranularity(Change):
    """``collMod`` of a time series to a coarser granularity."""

    granularity: str

    def commands(self) -> tuple[Command, ...]:
        """One ``collMod``."""
        return ({"collMod": self.collection, "timeseries": {"granularity": self.granularity}},)


@dataclass(frozen=True, slots=True)
class DropCollection(Change):
    """``drop``: the documents go with it."""

    def commands(self) -> tuple[Command, ...]:
        """One ``drop``."""
        return ({"drop": self.collection},)


@dataclass(frozen=True, slots=True)
class IndexChange(Change):
    """A change of one index. ``inside`` is the identity of the collection that has it."""

    name: str
    inside: str = field(default="", kw_only=True)

    @property
    def ref(self) -> ObjectRef:
        """The index."""
        return index_ref(self.collection, self.name)

    @property
    def of(self) -> str:
        """The identity of the collection, empty where it is not there yet."""
        return self.inside


@dataclass(frozen=True, slots=True)
class CreateIndex(IndexChange):
    """``createIndexes`` for one index."""

    desired: Index

    def commands(self) -> tuple[Command, ...]:
        """One ``createIndexes``."""
        return ({"createIndexes": self.collection, "indexes": [index_document(self.desired)]},)


@dataclass(frozen=True, slots=True)
class ReplaceIndex(IndexChange):
    """The index is dropped and built anew: in between, queries go without it and a unique one protects nothing."""

    desired: Index

    def commands(self) -> tuple[Command, ...]:
        """``dropIndexes``, then ``createIndexes``."""
        return (
            {"dropIndexes": self.collection, "index": self.name},
            {"createIndexes": self.collection, "indexes": [index_document(self.desired)]},
        )

    def undo(self) -> tuple[Command, ...]:
        """Build the old one again."""
        if not isinstance(self.before, Index):
            return ()
        return ({"createIndexes": self.collection, "indexes": [index_document(self.before)]},)


@dataclass(frozen=True, slots=True)
class SetIndexOptions(IndexChange):
    """``collMod`` of what can change while the index stands: whether it is hidden, and the age of expiry."""

    hidden: bool | None = None
    expire_after: int | float | None = None

    def commands(self) -> tuple[Command, ...]:
        """One ``collMod``."""
        index: Command = {"name": self.name}
        if self.hidden is not None:
            index["hidden"] = self.hidden
        if self.expire_after is not None:
            index["expireAfterSeconds"] = self.expire_after
        return ({"collMod": self.collection, "index": index},)


@dataclass(frozen=True, slots=True)
class MakeUnique(IndexChange):
    """Turn an index into a unique one where it stands.

    ``prepareUnique`` refuses new duplicates; the second command looks for old ones and changes nothing if it finds
    some. The caller then has to send :meth:`undo`.
    """

    def commands(self) -> tuple[Command, ...]:
        """Two ``collMod``."""
        return (
            {"collMod": self.collection, "index": {"name": self.name, "prepareUnique": True}},
            {"collMod": self.collection, "index": {"name": self.name, "unique": True}},
        )

    def undo(self) -> tuple[Command, ...]:
        """Accept duplicates as before."""
        return ({"collMod": self.collection, "index": {"name": self.name, "prepareUnique": False}},)


@dataclass(frozen=True, slots=True)
class AbandonUnique(IndexChange):
    """An index that was being made unique and is not to be: accept duplicates again."""

    def commands(self) -> tuple[Command, ...]:
        """One ``collMod``."""
        return ({"collMod": self.collection, "index": {"name": self.name, "prepareUnique": False}},)


@dataclass(frozen=True, slots=True)
class DropIndex(IndexChange):
    """``dropIndexes`` for one index."""

    def commands(self) -> tuple[Command, ...]:
        """One ``dropIndexes``."""
        return ({"dropIndexes": self.collection, "index": self.name},)


def validation(desired: Collection) -> Command:
    """Validator, level and action as ``create`` and ``collMod`` take them."""
    return {
        "validator": {} if desired.validator is None else desired.validator.value(),
        "validationLevel": desired.level,
        "validationAction": desired.action,
    }


def index_document(index: Index) -> Command:
    """An index as ``createIndexes`` takes it; what is at its default is left out."""
    document: Command = {"key": {}, "name": index.name}
    for name, kind in index.keys:
        if name == TEXT_FIELDS:
            document["key"] |= dict.fromkeys((field for field, _ in index.weights), "text")
        else:
            document["key"][name] = int(kind) if kind in ("1", "-1") else kind
    for option in ("unique", "sparse", "hidden"):
        if getattr(index, option):
            document[option] = True
    if index.expire_after is not None:
        document["expireAfterSeconds"] = index.expire_after
    if index.partial_filter is not None:
        document["partialFilterExpression"] = index.partial_filter.value()
    if index.weights:
        document["weights"] = dict(index.weights)
        document["default_language"] = index.default_language
        document["language_override"] = index.language_override
    if index.collation:
        document["collation"] = dict(index.collation)
    if index.wildcard_projection:
        document["wildcardProjection"] = {name: int(included) for name, included in index.wildcard_projection}
    if index.bits is not None:
        document["bits"] = index.bits
    return document


def _or_off(seconds: int | float | None) -> int | float | str:
    return "off" if seconds is None else seconds
