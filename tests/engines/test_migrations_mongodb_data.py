"""MongoDB's migrations that change documents: batched updates, transactions, and where there can be none."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from selvedge.core.errors import InvalidError, TransientError
from selvedge.core.reasons import Reason
from selvedge.migrate import MigrationState, Timeouts, load, make_plan, run
from tests.engines.mongo_migrations_support import Shop, both, opened, up

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox import MongoEndpoint

A, B, C = "1_a.json", "2_b.json", "3_c.json"


@pytest.fixture
def shop(mongodb: MongoEndpoint, mongo_database: str) -> Iterator[Shop]:
    with opened(mongodb, mongo_database) as one:
        yield one


def history(shop: Shop) -> list[str]:
    return [row["_id"] for row in shop.find("selvedge.history", state="Applied")]


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
    why = "5_e.json, line 3: collMod cannot run in a transaction (263); set transaction to PerMigration"
    assert why in str(result.error)
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
