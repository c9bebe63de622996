"""The difference between what a database should hold and what it holds: typed changes, in the order to apply them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from selvedge.core.mongodb.changes import (
    AbandonUnique,
    Change,
    CreateCollection,
    CreateIndex,
    DropCollection,
    DropIndex,
    MakeUnique,
    ReplaceIndex,
    SetCollectionExpiry,
    SetGranularity,
    SetIndexOptions,
    SetValidation,
)
from selvedge.core.mongodb.model import index_ref
from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectRef, ObjectState, ObjectStatus, Risk

if TYPE_CHECKING:
    from selvedge.core.mongodb.model import Collection, Desired, Index, Live, LiveCollection

_GRANULARITIES = ("seconds", "minutes", "hours")


@dataclass(frozen=True, slots=True)
class Difference:
    """Changes to make, and objects that cannot become what is declared or have to wait.

    ``look_into`` names collections of which it has to be known whether they hold documents, ``count`` those whose
    documents have to be counted against the declared validator: look, and compare again.
    """

    changes: tuple[Change, ...] = ()
    blocked: tuple[ObjectStatus, ...] = ()
    look_into: tuple[str, ...] = ()
    count: tuple[str, ...] = ()


def difference(desired: Desired, live: Live) -> Difference:
    """Compare a whole database. Drops come first: a text index can only be built when the old one is gone."""
    drops: list[Change] = [
        DropCollection(name, Risk.DESTRUCTIVE, live.collections[name])
        for name in desired.drop_collections
        if name in live.collections
    ]
    for collection, name in desired.drop_indexes:
        found = live.collections.get(collection)
        index = None if found is None else found.index(name)
        if found is not None and index is not None and collection not in desired.drop_collections:
            drops.append(DropIndex(collection, Risk.DESTRUCTIVE, index, name, inside=found.identity))
    parts = [_collection(wanted, live.collections.get(wanted.name)) for wanted in desired.collections]
    return Difference(
        changes=(*drops, *(change for part in parts for change in part.changes)),
        blocked=tuple(status for part in parts for status in part.blocked),
        look_into=tuple(name for part in parts for name in part.look_into),
        count=tuple(name for part in parts for name in part.count),
    )


def _collection(wanted: Collection, found: LiveCollection | None) -> Difference:
    if found is None:
        created = CreateCollection(wanted.name, Risk.ADDITIVE, None, wanted)
        indexes = (CreateIndex(wanted.name, Risk.ADDITIVE, None, index.name, index) for index in wanted.indexes)
        return Difference(changes=(created, *indexes))
    blocked = _immutable(wanted, found)
    if blocked:
        return Difference(blocked=(_failed(wanted.ref, blocked),))
    changes = [*_series(wanted, found)]
    waiting: list[ObjectStatus] = []
    count: list[str] = []
    validation = _validation(wanted, found)
    if validation is not None:
        change, status, needs_count = validation
        changes.extend(() if change is None else (change,))
        waiting.extend(() if status is None else (status,))
        count.extend((wanted.name,) if needs_count else ())
    for index in wanted.indexes:
        standing = found.index(index.name)
        if standing is not None and standing.building:
            # Whatever it is: the server does not change it before it stands, and is not asked to build it twice.
            waiting.append(still_building(index_ref(wanted.name, index.name)))
        else:
            changes.extend(_index(wanted.name, index, found))
    return Difference(
        changes=tuple(changes),
        blocked=tuple(waiting),
        look_into=(wanted.name,) if found.occupied is None and any(_depends(c) for c in changes) else (),
        count=tuple(count),
    )


def still_building(ref: ObjectRef, *, queued: bool = False) -> ObjectStatus:
    """The status of an index that does not stand yet; ``queued``: the server has not begun with it."""
    message = (
        f"{ref} waits until other indexes are built; it is built after them by itself"
        if queued
        else f"{ref} is being built by the server and cannot be used yet; looked at again by itself"
    )
    return ObjectStatus(ref, ObjectState.WAITING, Reason.BUILDING_INDEX, message)


def _depends(change: Change) -> bool:
    """Whether the risk would be another one for an empty collection."""
    return isinstance(change, CreateIndex | SetIndexOptions | SetCollectionExpiry) and change.risk is not Risk.ADDITIVE


def _immutable(wanted: Collection, found: LiveCollection) -> str:
    """Why the collection can never become what is declared, or nothing."""
    kind = "collection" if wanted.time_series is None else "timeseries"
    if found.kind != kind:
        return (
            f"collection {wanted.name} is declared as a {_word(kind)} and is a {_word(found.kind)}: "
            "drop it or declare another name"
        )
    if wanted.time_series is None or found.time_series is None:
        return ""
    here, there = wanted.time_series, found.time_series
    if (here.time_field, here.meta_field) != (there.time_field, there.meta_field):
        return (
            f"time series {wanted.name} has timeField {there.time_field!r} and metaField {there.meta_field!r}, "
            "which cannot be changed: declare these or another name"
        )
    if _GRANULARITIES.index(here.granularity) < _GRANULARITIES.index(there.granularity):
        return (
            f"time series {wanted.name} has granularity {there.granularity}, which can only be made coarser: "
            "declare this one or a coarser one"
        )
    return ""


def _word(kind: str) -> str:
    return {"timeseries": "time series", "view": "view"}.get(kind, "collection")


def _failed(ref: ObjectRef, message: str) -> ObjectStatus:
    return ObjectStatus(ref, ObjectState.FAILED, Reason.INVALID_SPEC, message)


def _series(wanted: Collection, found: LiveCollection) -> list[Change]:
    changes: list[Change] = []
    if wanted.time_series is None or found.time_series is None:
        return changes
    if wanted.time_series.granularity != found.time_series.granularity:
        changes.append(SetGranularity(wanted.name, Risk.LOCKING, found, wanted.time_series.granularity))
    if wanted.expire_after != found.expire_after:
        risk = _expiry_risk(wanted.expire_after, found.expire_after, found)
        changes.append(SetCollectionExpiry(wanted.name, risk, found, wanted.expire_after))
    return changes


def _expiry_risk(wanted: float | None, found: float | None, collection: LiveCollection) -> Risk:
    """Documents that would have stayed are deleted when the age of expiry comes to be, or becomes shorter."""
    shorter = wanted is not None and (found is None or wanted < found)
    return Risk.DESTRUCTIVE if shorter and collection.occupied is not False else Risk.ADDITIVE


def _validation(wanted: Collection, found: LiveCollection) -> tuple[Change | None, ObjectStatus | None, bool] | None:
    """The change of the validator, the reason to wait with it, and whether documents have to be counted first."""
    if not wanted.manages_validation or _validates_equally(wanted, found):
        return None
    change = SetValidation(wanted.name, _validation_risk(wanted, found), found, wanted)
    if not wanted.warn_first or wanted.validator is None or wanted.action != "error" or found.occupied is False:
        return change, None, False
    warned = replace(wanted, action="warn")
    if not _validates_equally(warned, found):
        return SetValidation(wanted.name, Risk.ADDITIVE, found, warned), None, False
    if found.violators is None:
        return None, None, True
    if found.violators == 0:
        return change, None, False
    message = (
        f"{found.violators} documents of collection {wanted.name} violate its validator, which stays at warn: "
        "correct them, and it is switched to error by itself"
    )
    return None, ObjectStatus(wanted.ref, ObjectState.WAITING, Reason.VALIDATION_VIOLATED, message), False


def _validates_equally(wanted: Collection, found: LiveCollection) -> bool:
    if wanted.validator is None or found.validator is None:
        return wanted.validator is found.validator
    return (wanted.validator, wanted.level, wanted.action) == (found.validator, found.level, found.action)


def _validation_risk(wanted: Collection, found: LiveCollection) -> Risk:
    """Whatever is not plainly looser may refuse a write that was accepted before."""
    if wanted.validator is None or wanted.action == "warn" or wanted.level == "off":
        return Risk.ADDITIVE
    looser = wanted.validator == found.validator and found.action == "error" and found.level == "strict"
    return Risk.ADDITIVE if looser else Risk.NARROWING


def _index(collection: str, wanted: Index, found: LiveCollection) -> list[Change]:
    index = found.index(wanted.name)
    if index is None:
        return [CreateIndex(collection, _build_risk(wanted, found), None, wanted.name, wanted, inside=found.identity)]
    if indexes_equal(wanted, index):
        return []
    in_place = replace(
        index,
        hidden=wanted.hidden,
        unique=wanted.unique,
        prepare_unique=False,
        expire_after=wanted.expire_after if wanted.ttl else index.expire_after,
    )
    # What the index loses (unique, a TTL) cannot be taken from it where it stands.
    if not indexes_equal(wanted, in_place) or (index.unique and not wanted.unique):
        return [ReplaceIndex(collection, Risk.DESTRUCTIVE, index, wanted.name, wanted, inside=found.identity)]
    changes: list[Change] = []
    hidden = wanted.hidden if wanted.hidden != index.hidden else None
    expires = wanted.expire_after if wanted.expire_after != index.expire_after else None
    if hidden is not None or expires is not None:
        risk = Risk.ADDITIVE if expires is None else _expiry_risk(expires, index.expire_after, found)
        changes.append(SetIndexOptions(collection, risk, index, wanted.name, hidden, expires, inside=found.identity))
    if wanted.unique and not index.unique:
        changes.append(MakeUnique(collection, Risk.NARROWING, index, wanted.name))
    elif index.prepare_unique and not index.unique:
        changes.append(AbandonUnique(collection, Risk.ADDITIVE, index, wanted.name))
    return changes


def _build_risk(wanted: Index, found: LiveCollection) -> Risk:
    if found.occupied is False:
        return Risk.ADDITIVE
    # A TTL index starts to delete as soon as it stands.
    return Risk.DESTRUCTIVE if wanted.ttl else Risk.LOCKING


def indexes_equal(wanted: Index, found: Index) -> bool:
    """Whether a live index is as declared. Of a collation only the declared fields count: the server adds the rest."""
    if found.building or (found.prepare_unique and not found.unique):
        return False
    collation = dict(found.collation)
    # An index without collation compares bytes, which the server calls the simple locale and does not store.
    if (wanted.collation == ()) != (found.collation == ()) and wanted.collation != (("locale", "simple"),):
        return False
    if any(collation.get(name, "simple") != value for name, value in wanted.collation):
        return False
    return replace(wanted, collation=()) == replace(found, collation=(), prepare_unique=False)
