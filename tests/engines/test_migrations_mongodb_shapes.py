"""A history that an earlier version made in MongoDB, and what a run knows of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from selvedge.engines.mongodb.connect import Server
from selvedge.engines.mongodb.migration_history import History
from selvedge.migrate import load, make_plan
from selvedge.migrate.plan import line_of
from tests.engines.mongo_migrations_support import Shop, both, opened, up
from tests.engines.mongodb_support import Record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox import MongoEndpoint

A, B = "20250101000000_a.json", "20250102000000_b.json"
FILES = {A: both([{"create": "a"}], [{"drop": "a"}]), B: both([{"create": "b"}], [{"drop": "b"}])}
VIEW = {"R__numbers.json": up({"create": "numbers", "ifNotExists": True})}


@pytest.fixture
def shop(mongodb: MongoEndpoint, mongo_database: str) -> Iterator[Shop]:
    with opened(mongodb, mongo_database) as one:
        yield one


def earlier(shop: Shop, *, state: str = "Applied") -> None:
    """What the first version wrote: no direction, no cursor of a batch, ``started`` a truth value."""
    (first, _) = load(FILES, "MongoDB")
    done = 1 if state == "Applied" else 0
    row = {"_id": str(first.version), "name": "a", "kind": "Versioned", "checksumUp": first.checksum, "state": state}
    row |= {"checksumDown": first.down_checksum, "upText": first.up, "downText": first.down, "commandsDone": done}
    row |= {"commandsTotal": 1, "cursor": "", "started": state != "Applied", "durationMs": 3, "appliedBy": "x"}
    shop.fill("selvedge.history", [row])
    shop.command({"create": "a"})


async def test_what_the_first_version_applied_is_known_and_goes_back(shop: Shop) -> None:
    earlier(shop)
    result = await shop.ok(FILES)
    assert [row.name for row in result.migrations] == ["b"]
    await shop.ok(FILES, "To", "0")
    assert shop.find("selvedge.history") == []
    assert "a" not in shop.client[shop.database].list_collection_names()


async def test_a_command_that_the_first_version_sent_is_not_sent_again(shop: Shop) -> None:
    """Its end was never known: the collection is there, so it was done."""
    earlier(shop, state="Partial")
    await shop.ok(FILES)
    assert [row["state"] for row in shop.find("selvedge.history")] == ["Applied", "Applied"]


async def test_a_repeatable_that_was_known_by_a_number_gets_its_name(shop: Shop) -> None:
    await shop.ok(FILES | VIEW)
    [row] = shop.find("selvedge.history", kind="Repeatable")
    rows = shop.client[shop.database]["selvedge.history"]
    rows.insert_one({**row, "_id": "0"})
    rows.delete_one({"_id": row["_id"]})
    changed = {"R__numbers.json": VIEW["R__numbers.json"] + "\n\n "}
    result = await shop.ok(FILES | changed)
    assert [step.name for step in result.migrations] in (["numbers"], [])
    await shop.ok(FILES | {"R__numbers.json": up({"create": "numbers", "ifNotExists": True}, {"create": "more"})})
    assert [row["_id"] for row in shop.find("selvedge.history", kind="Repeatable")] == ["Repeatable:numbers"]


async def test_a_run_knows_what_it_did_before_as_its_digest_is_taken_of_it(shop: Shop) -> None:
    files = FILES | VIEW
    lines: list[str] = []
    for action, target in (("Up", ""), ("To", "0")):
        async with shop.session() as session:
            history = await session.history()
            plan = make_plan(load(files, "MongoDB"), history, action, target or None, engine="MongoDB")
        lines += [line_of(step) for step in plan.steps]
        await shop.ok(files, action, target)
        async with shop.session() as session:
            assert list(await session.done()) == lines
    assert [line.split()[-1] for line in lines] == ["up", "up", "up", "down", "down", "unmark"]
    other = Server(shop.target(), Record())
    assert await History(other, shop.database, run="another", who="x").done() == ()
    await other.close()
