"""A change without commands cannot be made."""

from __future__ import annotations

import pytest

from selvedge.core.mongodb.changes import Change, CreateIndex, DropCollection, IndexChange, SetValidation
from selvedge.core.mongodb.diff import difference
from selvedge.core.mongodb.model import Collection, Desired, Index, Live, LiveCollection
from selvedge.core.unit import Risk


def test_a_change_without_commands_cannot_be_made():
    with pytest.raises(TypeError, match="abstract"):
        Change("designs", Risk.ADDITIVE, None)
    with pytest.raises(TypeError, match="abstract"):
        IndexChange("designs", Risk.ADDITIVE, None, "n")


AT = Index(name="at", keys=(("at", "1"),))
TTL = Index(name="at", keys=(("at", "1"),), expire_after=60)
LONG = Index(name="at", keys=(("at", "1"),), expire_after=600)


def replaced(desired: Desired, *indexes: Index) -> tuple[Change, Change]:
    """The one change of a collection that was made again since, before and after."""
    views = (LiveCollection("s", indexes=indexes, occupied=True, identity=identity) for identity in ("aa", "bb"))
    (first,), (second,) = (difference(desired, Live({"s": view})).changes for view in views)
    return first, second


@pytest.mark.parametrize(
    ("desired", "indexes"),
    [
        (Desired(collections=(Collection("s", indexes=(TTL,)),)), ()),
        (Desired(collections=(Collection("s", indexes=(TTL,)),)), (LONG,)),
        (Desired(collections=(Collection("s", indexes=(Index(name="at", keys=(("b", "1"),)),)),)), (AT,)),
        (Desired(drop_indexes=(("s", "at"),)), (AT,)),
        (Desired(drop_collections=("s",)), ()),
    ],
    ids=["a TTL", "a shorter TTL", "an index replaced", "an index dropped", "the collection dropped"],
)
def test_what_loses_data_is_of_the_collection_that_was_there(desired: Desired, indexes: tuple[Index, ...]):
    """A used approval of a TTL would have deleted documents from a collection that was made again."""
    first, second = replaced(desired, *indexes)
    assert first.risk is Risk.DESTRUCTIVE
    assert first.preimage() != second.preimage()
    assert first.commands() == second.commands()


def test_what_loses_nothing_is_the_same_change_of_a_collection_that_was_made_again():
    """Its approval holds across a restore, and is what it was before a collection's identity was known."""
    first, second = replaced(Desired(collections=(Collection("s", indexes=(AT,)),)))
    assert (first.risk, first.preimage()) == (Risk.LOCKING, second.preimage())
    found = LiveCollection("s", identity="aa")
    tighter = SetValidation("s", Risk.NARROWING, found, Collection("s"))
    assert tighter.preimage() == repr(LiveCollection("s"))
    assert "identity" not in tighter.preimage()
    assert "aa" in DropCollection("s", Risk.DESTRUCTIVE, found).preimage()
    new = CreateIndex("s", Risk.ADDITIVE, None, "at", TTL)
    assert new.preimage() == "None"
