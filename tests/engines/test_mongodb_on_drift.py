"""Who asks to be told of drift in MongoDB hears of it once, before it is repaired, and never where it is not."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from selvedge.engines.base import Unit
from tests.engines.mongodb_support import CLUSTER, member, running, target, yes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pymongo.database import Database

    from sandbox import MongoEndpoint
    from selvedge.core.unit import ObjectRef

import pytest

DESIGNS = "collections: [{name: designs, indexes: [{name: n, keys: [{field: n}]}]}]"


async def test_drift_is_told_before_it_is_repaired(mongodb: MongoEndpoint, live: Database[dict[str, Any]]) -> None:
    told: list[tuple[dict[str, set[str]], set[str], Any]] = []

    async def on_drift(drift: Mapping[str, frozenset[ObjectRef]]) -> None:
        lock = live.client["selvedge"]["lock"].find_one({"_id": live.name}, {"fence": 1})
        named = {uid: {str(ref) for ref in refs} for uid, refs in drift.items()}
        told.append((named, set(live.designs.index_information()), lock))

    one = member("designs", live.name, DESIGNS)
    known = replace(one, verified=True)
    other = replace(member("avatars", live.name, "collections: [{name: avatars}]"), verified=True)
    async with running(target(mongodb)) as engine:
        for each in (one, known):
            await engine.converge(Unit(live.name, (each, other), CLUSTER, on_drift=on_drift), yes)
        told.clear()  # the other one's collection was not there at first
        before = live.client["selvedge"]["lock"].find_one({"_id": live.name}, {"fence": 1})
        live.designs.drop_index("n")
        await engine.plan(Unit(live.name, (known, other), CLUSTER, on_drift=on_drift))
        report = member("designs", live.name, DESIGNS, drift="Report", verified=True)
        await engine.converge(Unit(live.name, (report, other), CLUSTER, on_drift=on_drift), yes)
        await engine.converge(Unit(live.name, (one, other), CLUSTER, on_drift=on_drift), yes)
        assert told == [], "neither a plan, nor what is left as it is, nor what was never as declared"
        live.designs.drop_index("n")
        before = live.client["selvedge"]["lock"].find_one({"_id": live.name}, {"fence": 1})
        result = await engine.converge(Unit(live.name, (known, other), CLUSTER, on_drift=on_drift), yes)
    assert told == [({one.uid: {"index designs.n"}}, {"_id_"}, before)], "before any write, and before the lock"
    assert result.members[one.uid].verified
    assert "n" in live.designs.index_information()


async def test_nothing_is_repaired_when_it_could_not_be_told(
    mongodb: MongoEndpoint, live: Database[dict[str, Any]]
) -> None:
    async def on_drift(_drift: Mapping[str, frozenset[ObjectRef]]) -> None:
        raise InterruptedError

    known = member("designs", live.name, DESIGNS, verified=True)
    async with running(target(mongodb)) as engine:
        await engine.converge(Unit(live.name, (known,), CLUSTER), yes)
        live.designs.drop_index("n")
        with pytest.raises(InterruptedError):
            await engine.converge(Unit(live.name, (known,), CLUSTER, on_drift=on_drift), yes)
    assert "n" not in live.designs.index_information()
