"""Default privileges as a property, on a model of ``pg_default_acl``: they become what was declared, and stay so."""

from __future__ import annotations

import copy
import random

from hypothesis import given
from hypothesis import strategies as st

from selvedge.core.postgres.change import Change
from selvedge.core.postgres.default_privileges import (
    PRIVILEGES,
    DefaultKey,
    DesiredDefault,
    GrantDefaults,
    LiveDefaults,
    RevokeDefaults,
    diff_defaults,
)
from selvedge.core.postgres.model import PUBLIC

CREATORS, GRANTEES, SCHEMAS = ("c1", "c2"), ("r1", "r2", PUBLIC), ("s1", "s2")
ROLES, VERSION = frozenset({"c1", "c2", "r1", "r2"}), 180000
Rows = dict[DefaultKey, dict[str, dict[str, bool]]]


def subset(values: tuple[str, ...], *, least: int = 0) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(values), unique=True, min_size=least).map(tuple)


@st.composite
def entries(draw: st.DrawFn, name: str) -> DesiredDefault:
    kind = draw(st.sampled_from(sorted(PRIVILEGES)))
    to = draw(subset(GRANTEES, least=1))
    return DesiredDefault(
        "u",
        name,
        draw(subset(CREATORS, least=1)),
        () if kind == "schema" else draw(subset(SCHEMAS)),
        kind,
        frozenset(draw(subset(tuple(sorted(PRIVILEGES[kind])), least=1))),
        to,
        grantable=PUBLIC not in to and draw(st.booleans()),
        absent=draw(st.booleans()),
    )


declarations = st.integers(0, 4).flatmap(lambda n: st.tuples(*(entries(f"d{i}") for i in range(n))))


def apply(rows: Rows, changes: list[Change]) -> Rows:
    """What Postgres makes of the statements."""
    after = copy.deepcopy(rows)
    for change in changes:
        assert isinstance(change, (GrantDefaults, RevokeDefaults))
        what = change.what
        for schema in what.schemas or ("",):
            key = DefaultKey(what.creator, schema, what.kind)
            if key not in after:
                live = LiveDefaults(after).of(key, VERSION)
                after[key] = {grantee: dict(held) for grantee, held in live.items()}
            held = after[key].setdefault(what.grantee, {})
            for privilege in what.privileges:
                if isinstance(change, GrantDefaults):
                    held[privilege] = held.get(privilege, False) or what.grantable
                elif what.grantable:
                    held[privilege] = False
                else:
                    held.pop(privilege, None)
    return after


def diff(rows: Rows, now: tuple[DesiredDefault, ...], left: tuple[DesiredDefault, ...] = ()) -> list[Change]:
    changes, _ = diff_defaults(now, left, LiveDefaults(rows), ROLES, frozenset(SCHEMAS), VERSION)
    return changes


@given(before=declarations, after=declarations, seed=st.integers())
def test_any_declaration_after_any_other(
    before: tuple[DesiredDefault, ...], after: tuple[DesiredDefault, ...], seed: int
) -> None:
    start = apply({}, diff({}, before))
    changes = diff(start, after, before)
    rows = apply(start, changes)
    assert diff(rows, after, before) == []
    shuffled = list(after)
    random.Random(seed).shuffle(shuffled)
    assert apply(start, diff(start, tuple(shuffled), before)) == rows, "the order of the entries says nothing"
    live = LiveDefaults(rows)
    for entry in after:
        for creator in entry.creators:
            for schema in entry.schemas or ("",):
                held = live.of(DefaultKey(creator, schema, entry.kind), VERSION)
                for grantee in entry.to:
                    if not entry.absent:
                        assert entry.privileges <= held[grantee].keys()
