"""MongoDB's migrations: down, redo, to, baseline, repair, batched updates, all or nothing, many runners at once."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from selvedge.core.errors import InvalidError, TransientError
from selvedge.core.reasons import Reason
from selvedge.engines.mongodb import migration_watch
from selvedge.migrate import MigrationState, Timeouts, load, make_plan, run
from tests.engines.mongo_migrations_support import Shop, both, nursery, up
from tests.engines.mongo_twelve import TWELVE
from tests.engines.mongodb_support import yes

if TYPE_CHECKING:
    from sandbox import MongoEndpoint

ROOT = Path(__file__).parents[2]
A, B, C = "1_a.json", "2_b.json", "3_c.json"
FILES = {
    A: both([{"create": "a"}], [{"drop": "a"}]),
    B: both([{"insert": "a", "documents": [{"_id": 1}]}], [{"delete": "a", "deletes": [{"q": {}, "limit": 0}]}]),
    C: both([{"create": "c"}], [{"drop": "c"}]),
}


@pytest.fixture
def shop(mongodb: MongoEndpoint, mongo_database: str) -> Shop:
    return Shop(mongodb, mongo_database)


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


# -- batched updates ---------------------------------------------------------------------------------------------


def batch(**more: Any) -> dict[str, Any]:
    return {"x-batchUpdate": {"coll": "big", "update": {"$inc": {"n": 1}}, "batchSize": 10, **more}}


async def test_a_batched_update_walks_keys_of_every_type_once(shop: Shop) -> None:
    keys: list[Any] = [*range(25), *[f"k{number}" for number in range(25)], *[{"a": number} for number in range(25)]]
    shop.fill("big", [{"_id": key, "live": number % 5 != 0} for number, key in enumerate([*keys, 1.5, True, None])])
    await shop.ok({A: up(batch(filter={"live": True}))})
    assert len(shop.find("big", n=1)) == len(shop.find("big", live=True)) == 62
    assert shop.find("big", n={"$ne": 1}, live=True) == []
    row = shop.find("selvedge.history")[0]
    assert (row["documents"], row["batch"]) == (62, {})
    assert shop.find("selvedge.events")[0]["documents"] == 62
    told = [row.waiting_for for row in shop.rows if row.waiting_for]
    assert "the update of big: 0 of 62 documents" in told
    assert "the update of big: 60 of 62 documents" in told


async def test_a_batched_update_with_a_pipeline(shop: Shop) -> None:
    shop.fill("big", [{"_id": number, "parts": ["x"] * number} for number in range(30)])
    change = [{"$set": {"count": {"$size": "$parts"}}}]
    await shop.ok({A: up({"x-batchUpdate": {"coll": "big", "update": change, "batchSize": 7}})})
    assert all(row["count"] == row["_id"] for row in shop.find("big"))


async def test_a_batched_update_that_is_stopped_goes_on_behind_its_last_batch(shop: Shop) -> None:
    shop.fill("big", [{"_id": number} for number in range(95)])
    stop = asyncio.Event()

    async def watch(row: Any) -> None:
        if "30 of" in row.waiting_for:
            stop.set()

    async with shop.session() as session:
        plan = make_plan(load({A: up(batch())}, "MongoDB"), await session.history())
        result = await run(session, plan, timeouts=Timeouts(), on_progress=watch, stop=stop, may_write=lambda: None)
    assert result.stopped
    assert len(shop.find("big", n=1)) == 30
    row = shop.find("selvedge.history")[0]
    assert (row["state"], row["batch"]["documents"], row["batch"]["after"]) == ("Partial", 30, 29)
    await shop.ok({A: up(batch())})
    assert len(shop.find("big", n=1)) == 95
    assert shop.find("selvedge.history")[0]["documents"] == 95


async def test_a_batched_update_beside_writers(shop: Shop) -> None:
    """Somebody who writes the same documents makes a batch be tried again, and nothing be lost or done twice."""
    shop.fill("big", [{"_id": number, "n": 0, "other": 0} for number in range(60)])
    done = asyncio.Event()

    def write() -> None:
        with shop.endpoint.client() as client:
            while not done.is_set():
                client[shop.database].big.update_many({}, {"$inc": {"other": 1}})

    task = asyncio.create_task(asyncio.to_thread(write))
    try:
        await shop.ok({A: up(batch())})
    finally:
        done.set()
        await task
    assert {row["n"] for row in shop.find("big")} == {1}
    assert len({row["other"] for row in shop.find("big")}) == 1


async def test_what_is_wrong_with_a_batch_is_told_with_its_line(shop: Shop) -> None:
    shop.fill("big", [{"_id": 1, "n": "text"}])
    result = await shop.up({A: up({"find": "big"}, batch())})
    error = result.migrations[0].error
    assert error is not None
    assert (error.line, error.sqlstate) == (6, "14")


# -- transactions ------------------------------------------------------------------------------------------------


async def test_all_or_nothing(shop: Shop) -> None:
    files = {
        A: both([{"create": "a"}, {"createIndexes": "a", "indexes": [{"key": {"n": 1}}]}], [{"find": "a"}]),
        B: up({"insert": "a", "documents": [{"_id": 1}]}),
        C: up({"insert": "a", "documents": [{"_id": 1}]}),
    }
    result = await shop.run(files, transaction="All")
    assert isinstance(result.error, InvalidError)
    assert [row.state for row in result.migrations] == [
        MigrationState.PENDING,
        MigrationState.PENDING,
        MigrationState.FAILED,
    ]
    assert {name for name in shop.dump() if not name.startswith("selvedge.")} == {"(users)"}
    files[C] = up({"insert": "a", "documents": [{"_id": 2}]})
    await shop.ok(files, transaction="All")
    assert history(shop) == ["1", "2", "3"]
    files["4_d.json"] = up({"insert": "a", "documents": [{"_id": 3}]})
    files["5_e.json"] = up({"collMod": "a", "validator": {}})
    result = await shop.run(files, transaction="All")
    assert "5_e.json, line 3: collMod cannot run in a transaction" in str(result.error)
    assert len(shop.find("a")) == 2


async def test_a_transaction_that_the_server_ended_is_never_a_success(shop: Shop) -> None:
    """A session killed in between, a document refused in a reply that says ok: nothing stands in the history."""
    shop.command({"create": "a", "validator": {"$jsonSchema": {"required": ["x"]}}})
    killed = 0

    def may_write() -> None:
        nonlocal killed
        if shop.rows and shop.rows[-1].done == 2 and killed < 1:
            killed += 1
            with shop.endpoint.client() as client:
                user = {"user": f"{shop.database}_migrator", "db": shop.database}
                client.admin.command({"killAllSessions": [user]})

    two = [{"insert": "a", "documents": [{"_id": number, "x": 1}]} for number in (1, 2)]
    result = await shop.up({A: up(*two, transaction=True)}, may_write=may_write)
    assert killed == 1
    assert result.error is None  # tried again by the runner itself
    assert (len(shop.find("a")), history(shop)) == (2, ["1"])
    result = await shop.up(
        {A: up(*two, transaction=True), B: up({"insert": "a", "documents": [{"_id": 7}]}, transaction=True)}
    )
    assert result.migrations[0].error is not None
    assert result.migrations[0].error.sqlstate == "121"
    assert history(shop) == ["1"]


async def test_documents_of_capped_collections_are_changed_outside_of_transactions(shop: Shop) -> None:
    capped = {"create": "log", "capped": True, "size": 4096}
    files = {
        A: up(capped, {"insert": "log", "documents": [{"_id": 1}]}),
        B: up({"create": "at", "timeseries": {"timeField": "t"}}),
    }
    await shop.ok(files)
    document = {"t": {"$date": "2025-01-01T00:00:00Z"}}
    more = up({"insert": "at", "documents": [document]}, {"insert": "log", "documents": [{"_id": 2}]})
    await shop.ok({**files, C: more})
    assert (len(shop.find("log")), len(shop.find("at"))) == (2, 1)


async def test_a_command_whose_answer_was_lost_and_that_may_not_run_twice_is_asked_about(shop: Shop) -> None:
    text = up({"create": "log"}, {"insert": "log", "documents": [{"n": 1}]}, transaction=False)

    def may_write() -> None:
        sent = shop.find("selvedge.history", commandsDone=1, started={"$ne": ""}) if shop.rows else []
        if sent:
            raise TransientError(Reason.CONNECTION_LOST, "the connection broke")

    result = await shop.up({A: text}, may_write=may_write)
    assert isinstance(result.error, TransientError)
    assert len(shop.find("log")) == 1
    result = await shop.up({A: text})
    assert isinstance(result.error, InvalidError)
    assert result.error.reason is Reason.PARTLY_APPLIED
    assert "1_a.json, line 6: insert was sent and its answer was lost" in str(result.error)
    assert len(shop.find("log")) == 1
    await shop.ok({A: up({"create": "log"}, transaction=False)})
    assert history(shop) == ["1"]


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


async def test_progress_of_an_index_build(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.fill("big", [{"_id": number, "a": number % 977, "text": "x" * 30} for number in range(50_000)])
    monkeypatch.setattr(migration_watch, "EVERY", 0.02)
    await shop.ok({A: up({"createIndexes": "big", "indexes": [{"key": {"text": 1, "a": 1}, "name": "t"}]})})
    told = [row.waiting_for for row in shop.rows if row.waiting_for]
    assert any(text.startswith("the build of index t on big: ") and text.endswith("%") for text in told), told
    assert shop.rows[-1].waiting_for == ""
