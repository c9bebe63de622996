"""The difference as a property: applied to a model of the server it leads to what was declared, and then is empty."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selvedge.core.mongodb import changes as c
from selvedge.core.mongodb.diff import difference
from selvedge.core.mongodb.document import Document
from selvedge.core.mongodb.model import Collection, Desired, Index, Live, LiveCollection, TimeSeries
from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectState, Risk

DOCUMENTS = st.sampled_from(
    [None, Document.of({"$jsonSchema": {"required": ["a"]}}), Document.of({"a": {"$gt": 1}}), Document.of({"b": 1})]
)
COLLATIONS = st.sampled_from([(), (("locale", "de"),), (("locale", "de"), ("strength", 2)), (("locale", "simple"),)])
FULL = {
    (("locale", "de"),): (("caseLevel", False), ("locale", "de"), ("strength", 3)),
    (("locale", "de"), ("strength", 2)): (("caseLevel", False), ("locale", "de"), ("strength", 2)),
}
KEYS = st.sampled_from([(("a", "1"),), (("a", "-1"),), (("a", "1"), ("b", "1")), (("a", "hashed"),)])
NAMES = st.sampled_from(["one", "two", "three"])


@st.composite
def indexes(draw: st.DrawFn, live: bool = False) -> Index:
    index = Index(
        name=draw(NAMES),
        keys=draw(KEYS),
        unique=draw(st.booleans()),
        sparse=draw(st.booleans()),
        hidden=draw(st.booleans()),
        expire_after=draw(st.none() | st.integers(0, 5)),
        partial_filter=draw(DOCUMENTS),
        collation=draw(COLLATIONS),
    )
    return served(index, building=draw(st.booleans()), preparing=draw(st.booleans())) if live else index


def served(index: Index, *, building: bool = False, preparing: bool = False) -> Index:
    """An index as the server hands it back."""
    simple = index.collation == (("locale", "simple"),)
    collation = () if simple else FULL.get(index.collation, ())
    return replace(index, collation=collation, building=building, prepare_unique=preparing)


def unique_names(found: list[Index]) -> tuple[Index, ...]:
    return tuple(sorted({index.name: index for index in found}.values(), key=lambda index: index.name))


@st.composite
def collections(draw: st.DrawFn) -> Collection:
    series = draw(st.none() | st.sampled_from([TimeSeries("at", "m", g) for g in ("seconds", "minutes", "hours")]))
    validator = None if series else draw(DOCUMENTS)
    return Collection(
        name=draw(st.sampled_from(["designs", "avatars"])),
        validator=validator,
        level=draw(st.sampled_from(["strict", "moderate", "off"])),
        action=draw(st.sampled_from(["error", "warn"])),
        manages_validation=validator is not None or draw(st.booleans()),
        warn_first=draw(st.booleans()),
        indexes=unique_names(draw(st.lists(indexes(), max_size=3))),
        time_series=series,
        expire_after=draw(st.none() | st.integers(1, 5)) if series else None,
    )


@st.composite
def live_collections(draw: st.DrawFn) -> LiveCollection:
    wanted = draw(collections())
    return LiveCollection(
        name=wanted.name,
        kind="timeseries" if wanted.time_series else "collection",
        validator=wanted.validator,
        level=wanted.level,
        action=wanted.action,
        indexes=unique_names(draw(st.lists(indexes(live=True), max_size=3))),
        time_series=wanted.time_series,
        expire_after=wanted.expire_after,
        occupied=draw(st.none() | st.booleans()),
        violators=draw(st.none() | st.just(0)),
    )


def run(live: Live, plan: tuple[c.Change, ...]) -> Live:
    """A model of what the server makes of the changes."""
    found = dict(live.collections)
    for change in plan:
        name, old = change.collection, found.get(change.collection)
        match change:
            case c.CreateCollection(desired=wanted):
                found[name] = LiveCollection(
                    name,
                    "timeseries" if wanted.time_series else "collection",
                    wanted.validator,
                    wanted.level,
                    wanted.action,
                    time_series=wanted.time_series,
                    expire_after=wanted.expire_after,
                    occupied=False,
                )
            case c.DropCollection():
                del found[name]
            case _:
                assert old is not None
                found[name] = changed(old, change)
    return Live(found)


def changed(old: LiveCollection, change: c.Change) -> LiveCollection:
    match change:
        case c.SetValidation(desired=wanted):
            return replace(old, validator=wanted.validator, level=wanted.level, action=wanted.action, violators=0)
        case c.SetCollectionExpiry(expire_after=seconds):
            return replace(old, expire_after=seconds)
        case c.SetGranularity(granularity=granularity):
            assert old.time_series is not None
            return replace(old, time_series=replace(old.time_series, granularity=granularity))
        case c.IndexChange(name=name):
            others = tuple(index for index in old.indexes if index.name != name)
            after = index_after(old.index(name), change)
            return replace(old, indexes=others if after is None else (*others, after))
    raise AssertionError(change)


def built(collection: LiveCollection) -> LiveCollection:
    """The collection when all builds have ended."""
    return replace(collection, indexes=tuple(replace(index, building=False) for index in collection.indexes))


def index_after(index: Index | None, change: c.IndexChange) -> Index | None:
    match change:
        case c.CreateIndex(desired=wanted):
            assert index is None
            return served(wanted)
        case c.ReplaceIndex(desired=wanted):
            return served(wanted)
        case c.DropIndex():
            return None
    assert index is not None
    match change:
        case c.SetIndexOptions(hidden=hidden, expire_after=seconds):
            return replace(
                index,
                hidden=index.hidden if hidden is None else hidden,
                expire_after=index.expire_after if seconds is None else seconds,
            )
        case c.MakeUnique():
            return replace(index, unique=True, prepare_unique=False)
        case c.AbandonUnique():
            return replace(index, prepare_unique=False)
    raise AssertionError(change)


@given(st.lists(collections(), max_size=2), st.lists(live_collections(), max_size=2))
def test_the_difference_leads_to_what_is_declared(wanted: list[Collection], found: list[LiveCollection]) -> None:
    desired = Desired(tuple({collection.name: collection for collection in wanted}.values()))
    live = Live({collection.name: collection for collection in found})
    for _ in range(3):  # warn, error; wait for a build that another spec started, then replace it
        compared = difference(desired, live)
        live = run(live, compared.changes)
        live = Live({name: built(replace(entry, violators=0)) for name, entry in live.collections.items()})
    last = difference(desired, live)
    assert last.changes == ()
    assert {status.reason for status in last.blocked} <= {Reason.INVALID_SPEC}
    for collection in desired.collections:
        if collection.ref not in {status.ref for status in last.blocked}:
            entry = live.collections[collection.name]
            assert {index.name for index in collection.indexes} <= {index.name for index in entry.indexes}
            if collection.manages_validation:
                assert entry.validator == collection.validator


@given(collections())
def test_what_is_created_as_declared_differs_in_nothing(wanted: Collection) -> None:
    desired = Desired((wanted,))
    plan = difference(desired, Live())
    assert all(change.risk is Risk.ADDITIVE for change in plan.changes)
    assert difference(desired, run(Live(), plan.changes)) == difference(Desired(), Live())


@given(collections(), live_collections())
def test_nothing_undeclared_is_ever_dropped(wanted: Collection, found: LiveCollection) -> None:
    plan = difference(Desired((wanted,)), Live({found.name: found}))
    assert not [change for change in plan.changes if isinstance(change, c.DropIndex | c.DropCollection)]


BASE = Index("i", (("a", "1"),))
COLLECTION = LiveCollection("designs", indexes=(BASE,))


@pytest.mark.parametrize(
    ("wanted", "found", "kind", "risk"),
    [
        (replace(BASE, hidden=True), BASE, c.SetIndexOptions, Risk.ADDITIVE),
        (replace(BASE, expire_after=60), replace(BASE, expire_after=30), c.SetIndexOptions, Risk.ADDITIVE),
        (replace(BASE, expire_after=30), replace(BASE, expire_after=60), c.SetIndexOptions, Risk.DESTRUCTIVE),
        (replace(BASE, expire_after=30), BASE, c.SetIndexOptions, Risk.DESTRUCTIVE),
        (BASE, replace(BASE, expire_after=30), c.ReplaceIndex, Risk.DESTRUCTIVE),
        (replace(BASE, unique=True), BASE, c.MakeUnique, Risk.NARROWING),
        (BASE, replace(BASE, unique=True), c.ReplaceIndex, Risk.DESTRUCTIVE),
        (BASE, replace(BASE, prepare_unique=True), c.AbandonUnique, Risk.ADDITIVE),
        (replace(BASE, sparse=True), BASE, c.ReplaceIndex, Risk.DESTRUCTIVE),
        (replace(BASE, keys=(("b", "1"),)), BASE, c.ReplaceIndex, Risk.DESTRUCTIVE),
    ],
)
def test_how_an_index_changes(wanted: Index, found: Index, kind: type[c.Change], risk: Risk) -> None:
    live = Live({"designs": replace(COLLECTION, indexes=(found,), occupied=True)})
    (change,) = difference(Desired((Collection("designs", indexes=(wanted,)),)), live).changes
    assert type(change) is kind
    assert change.risk is risk


def test_a_new_ttl_index_deletes_only_where_documents_are() -> None:
    desired = Desired((Collection("designs", indexes=(replace(BASE, expire_after=0),)),))
    unknown = difference(desired, Live({"designs": LiveCollection("designs")}))
    assert unknown.look_into == ("designs",)
    for occupied, risk in ((True, Risk.DESTRUCTIVE), (False, Risk.ADDITIVE)):
        (change,) = difference(desired, Live({"designs": LiveCollection("designs", occupied=occupied)})).changes
        assert change.risk is risk


def test_an_approval_does_not_lapse_because_documents_come_and_go() -> None:
    wanted = Collection("designs", validator=Document.of({"a": 1}), manages_validation=True)
    plans = [
        difference(Desired((wanted,)), Live({"designs": replace(COLLECTION, occupied=occupied)})).changes[0]
        for occupied in (True, False, None)
    ]
    assert len({plan.preimage() for plan in plans}) == 1


@pytest.mark.parametrize("wanted", [BASE, replace(BASE, unique=True), replace(BASE, expire_after=30)])
def test_an_index_that_is_being_built_waits_and_is_not_built_twice(wanted: Index) -> None:
    live = Live({"designs": replace(COLLECTION, indexes=(replace(BASE, building=True),), occupied=True)})
    found = difference(Desired((Collection("designs", indexes=(wanted,)),)), live)
    assert found.changes == ()
    (status,) = found.blocked
    assert (str(status.ref), status.state, status.reason) == (
        "index designs.i",
        ObjectState.WAITING,
        Reason.BUILDING_INDEX,
    )
