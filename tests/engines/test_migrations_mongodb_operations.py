"""MongoDB's migrations: down, redo, to, baseline, repair, batched updates, all or nothing, many runners at once."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from selvedge.core.errors import InvalidError, TransientError
from selvedge.core.reasons import Reason
from selvedge.engines.mongodb import migration_watch
from selvedge.migrate import MigrationState, Timeouts, load, make_plan, run
from tests.engines.mongo_migrations_support import Shop, both, nursery, opened, up
from tests.engines.mongo_twelve import TWELVE
from tests.engines.mongodb_support import yes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox import MongoEndpoint

ROOT = Path(__file__).parents[2]
A, B, C = "1_a.json", "2_b.json", "3_c.json"
FILES = {
    A: both([{"create": "a"}], [{"drop": "a"}]),
    B: both([{"insert": "a", "documents": [{"_id": 1}]}], [{"delete": "a", "deletes": [{"q": {}, "limit": 0}]}]),
    C: both([{"create": "c"}], [{"drop": "c"}]),
}


@pytest.fixture
def shop(mongodb: MongoEndpoint, mongo_database: str) -> Iterator[Shop]:
    with opened(mongodb, mongo_database) as one:
        yield one


def history(shop: Shop) -> list[str]:
    return [row["_id"] for row in shop.find("selvedge.history", state="Applied")]


def events(shop: Shop) -> list[tuple[str, str]]:
    found = sorted(shop.find("selvedge.events"), key=lambda row: row["at"])
    return [(row["version"], row["event"]) for row in found]


async def test_down_is_one_step_and_every_step_leaves_an_event(shop: Shop) -> None:
    await shop.ok(FILES)
    result = await shop.ok(FILES, "Down")
    assert [(row.version, row.state) for row in result.migrations] == [(3, MigrationState.UNDONE)]
    assert history(shop) == ["1", "2"]
    assert "c" not in shop.dump()
    await shop.ok(FILES, "To", "1")
    assert (history(shop), shop.find("a")) == (["1"], [])
    await shop.ok(FILES, "To", "3")
    await shop.ok(FILES, "Redo")
    await shop.ok(FILES, "Down", "0")
    assert history(shop) == []
    assert {name for name in shop.dump() if not name.startswith("selvedge.")} == {"(users)"}
    assert events(shop) == [
        *[(version, "Applied") for version in "123"],
        ("3", "Undone"),
        ("2", "Undone"),
        *[(version, "Applied") for version in "23"],
        ("3", "Undone"),
        ("3", "Applied"),
        *[(version, "Undone") for version in "321"],
    ]


async def test_down_after_the_files_are_gone(shop: Shop) -> None:
    whole = both([{"create": "d"}, {"insert": "d", "documents": [{"_id": 1}]}], [{"find": "d"}], transaction=True)
    await shop.ok({**FILES, "4_d.json": whole})
    with shop.endpoint.client() as client:
        row = client[shop.database]["selvedge.history"].find_one({"_id": "2"})
    assert row is not None
    assert json.loads(row["upText"]) == json.loads(FILES[B])["up"]
    assert json.loads(row["downText"]) == json.loads(FILES[B])["down"]
    await shop.ok({}, "Down", "0")
    assert history(shop) == []
    assert "a" not in shop.dump()


async def test_a_way_down_that_fails_stops_there_and_goes_on_when_it_is_mended(shop: Shop) -> None:
    back = [
        {"delete": "a", "deletes": [{"q": {}, "limit": 0}]},
        {"insert": "a", "documents": [{"_id": 5}, {"_id": 5}]},
        {"drop": "nothing", "ifNotExists": True},
    ]
    files = {A: FILES[A], B: both([{"insert": "a", "documents": [{"_id": 1}]}], back)}
    await shop.ok(files)
    result = await shop.run(files, "Down")
    error = result.migrations[0].error
    assert error is not None
    assert (error.file, error.sqlstate) == (B, "11000")
    assert '"insert": "a"' in error.statement
    assert [(row["direction"], row["commandsDone"]) for row in shop.find("selvedge.history", state="Partial")] == [
        ("down", 1)
    ]
    back[1] = {"find": "a"}
    await shop.ok({A: FILES[A], B: both([{"insert": "a", "documents": [{"_id": 1}]}], back)}, "Down")
    assert history(shop) == ["1"]


async def test_no_way_down(shop: Shop) -> None:
    await shop.ok({A: up({"create": "a"}), B: both([{"create": "b"}], [{"drop": "b"}], irreversible=True)})
    with pytest.raises(InvalidError) as error:
        await shop.run({A: up({"create": "a"}), B: both([{"create": "b"}], [{"drop": "b"}], irreversible=True)}, "Down")
    assert error.value.reason is Reason.IRREVERSIBLE


async def test_baseline_and_repair_write_who_and_why(shop: Shop) -> None:
    shop.command({"create": "a"})
    result = await shop.ok(FILES, "Baseline", "1", actor="ada", reason="it was there before")
    assert [row.state for row in result.migrations] == [MigrationState.MARKED]
    await shop.ok(FILES)
    changed = {**FILES, B: both([{"insert": "a", "documents": [{"_id": 2}]}], [{"find": "a"}])}
    with pytest.raises(InvalidError, match="changed after it ran"):
        await shop.up(changed)
    said = {"actor": "ada", "reason": "a comment only"}
    with pytest.raises(InvalidError, match="actor and a reason"):
        await shop.run(changed, "Repair", repair="Accept")
    before = shop.find("selvedge.history", _id="2")[0]["appliedAt"]
    await shop.ok(changed, "Repair", repair="Accept", **said)
    assert shop.find("selvedge.history", _id="2")[0]["appliedAt"] == before
    assert (await shop.ok(changed)).migrations == ()
    await shop.ok(changed, "Repair", "3", repair="MarkUnapplied", **said)
    shop.command({"drop": "c"})
    await shop.ok(changed)
    await shop.ok(changed, "Repair", "3", repair="MarkUnapplied", **said)
    await shop.ok(changed, "Repair", "3", repair="MarkApplied", **said)
    assert history(shop) == ["1", "2", "3"]
    assert (await shop.ok(changed, "Repair", repair="DropInvalidIndexes", **said)).dropped == ()
    found = sorted(shop.find("selvedge.events"), key=lambda row: row["at"])
    assert [(row["event"], row["actor"]) for row in found if row["actor"] == "ada"] == [
        ("Marked", "ada"),
        ("Accepted", "ada"),
        ("Unmarked", "ada"),
        ("Unmarked", "ada"),
        ("Marked", "ada"),
    ]
    assert found[0]["reason"] == "it was there before"


async def test_an_array_without_commands_is_recorded_as_well(shop: Shop) -> None:
    await shop.ok({A: both([], [])})
    assert history(shop) == ["1"]
    await shop.ok({A: both([], [])}, "Down")
    assert history(shop) == []


@pytest.mark.long
async def test_twelve_up_down_and_up_again(shop: Shop) -> None:
    await shop.ok(TWELVE)
    before = shop.dump()
    await shop.ok(TWELVE, "Down", "0")
    assert history(shop) == []
    await shop.ok(TWELVE)
    after = shop.dump()
    for found in (before, after):
        del found["selvedge.events"]
    assert after == before


async def test_fashion_wallets_migrations_up_and_down(shop: Shop) -> None:
    files = {path.name: path.read_text() for path in (ROOT / "migrations" / "mongodb").glob("*.json")}
    shop.fill("designs", [{"_id": 1, "layers": [{}, {}]}, {"_id": 2}])
    shop.fill("sessions", [{"_id": 1, "userAgent": "curl"}])
    shop.command({"create": "catalog-items"})
    before = shop.find("designs"), shop.find("sessions")
    await shop.ok(files)
    assert [row["layerCount"] for row in shop.find("designs")] == [2, 0]
    assert shop.find("sessions") == [{"_id": 1, "device": {"userAgent": "curl"}}]
    await shop.ok(files, "Down", "0")
    assert (shop.find("designs"), shop.find("sessions")) == before


async def test_repeatables_and_seeds(shop: Shop) -> None:
    def view(minimum: int) -> str:
        made = {"create": "grown", "viewOn": "a", "pipeline": [{"$match": {"n": {"$gte": minimum}}}]}
        return up({"drop": "grown", "ifNotExists": True}, made)

    seed = up({"insert": "a", "documents": [{"_id": 1, "n": 5}]}, env=["staging"])
    files = {A: FILES[A], "R__grown.json": view(3), "seeds/few.json": seed}
    await shop.ok(files)
    assert (shop.find("a"), shop.find("grown")) == ([], [])
    async with shop.session() as session:
        plan = make_plan(load(files, "MongoDB"), await session.history(), environment="staging")
        assert [step.migration.name for step in plan.steps] == ["few"]
        result = await run(session, plan, timeouts=Timeouts(), on_progress=ignore, stop=asyncio.Event(), may_write=yes)
    assert result.error is None, result.error
    assert len(shop.find("grown")) == 1
    assert (await shop.ok(files)).migrations == ()
    await shop.ok({**files, "R__grown.json": view(9)})
    assert shop.find("grown") == []
    assert {row["kind"] for row in shop.find("selvedge.history")} == {"Versioned", "Repeatable", "Seed"}


async def ignore(_: object) -> None:
    pass


async def test_limits_of_a_file(shop: Shop) -> None:
    shop.fill("a", [{"_id": number} for number in range(50)])
    slow = {"q": {"$where": "sleep(100) || true"}, "u": {"$set": {"n": 1}}, "multi": True}
    result = await shop.up({A: up({"update": "a", "updates": [slow]}, statementTimeout="200ms")})
    error = result.migrations[0].error
    assert error is not None
    assert error.sqlstate == "MaxTimeMSExpired"
    assert "raise statementTimeout" in error.hint
    assert shop.find("a", n=1) == []
    result = await shop.up({A: up({"find": "a"}, requiresVersion=">=99")})
    assert "needs version 99" in str(result.error)


async def test_a_user_that_was_dropped_during_the_run_is_made_again_by_the_next(shop: Shop) -> None:
    dropped = False

    def may_write() -> None:
        nonlocal dropped
        if shop.rows and shop.rows[-1].done == 1 and not dropped:
            dropped = True
            shop.command({"dropUser": f"{shop.database}_migrator"})

    files = {A: up({"create": "a"}, {"create": "b"})}
    result = await shop.up(files, may_write=may_write)
    assert dropped
    assert isinstance(result.error, TransientError)
    assert "was dropped during the run" in str(result.error)
    await shop.ok(files)


# -- many at once ------------------------------------------------------------------------------------------------


async def test_eight_runners_at_once_run_each_migration_once(shop: Shop) -> None:
    """Three in this process, five in processes of their own."""
    files = dict(list(TWELVE.items())[:4])
    async with nursery() as forks:
        runner = await forks.start(shop.order(files, count=5))
        await asyncio.gather(*(Shop(shop.endpoint, shop.database).ok(files) for _ in range(3)))
        ended = [await forks.read("end", "exit") for _ in range(10)]
    assert runner.pid
    assert [rest for kind, rest in ended if kind == "end"] == ["None"] * 5
    assert history(shop) == sorted(name.partition("_")[0] for name in files)
    assert len(events(shop)) == 4
    assert {row["_id"]: row["n"] for row in shop.find("designs")}[1] == 1 + 10 + 100
    assert shop.command({"usersInfo": 1})["users"] == []


async def test_who_lost_the_lease_leaves_the_next_ones_user_alone(shop: Shop) -> None:
    async with shop.session() as second:
        async with shop.session() as first:
            await first.lock(5, ignore)
            shop.end_lease()
            await second.lock(5, ignore)
        assert len(shop.command({"usersInfo": 1})["users"]) == 1
        assert shop.find("selvedge.migrations", _id="lease")[0]["fence"] == 2
    assert shop.command({"usersInfo": 1})["users"] == []


async def test_progress_of_an_index_build(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.fill("big", [{"_id": number, "a": number % 977, "text": "x" * 30} for number in range(50_000)])
    monkeypatch.setattr(migration_watch, "EVERY", 0.02)
    await shop.ok({A: up({"createIndexes": "big", "indexes": [{"key": {"text": 1, "a": 1}, "name": "t"}]})})
    told = [row.waiting_for for row in shop.rows if row.waiting_for]
    assert any(text.startswith("the build of index t on big: ") and text.endswith("%") for text in told), told
    assert shop.rows[-1].waiting_for == ""
