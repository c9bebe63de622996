"""MongoDB's migrations cut off at every point by kill -9, and runners that are stopped while another one takes over."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pymongo
import pytest
from pymongo.errors import OperationFailure

from sandbox.mongodb import MongoServer
from selvedge.core.errors import TransientError
from selvedge.engines.mongodb.migration_lease import COLLECTION
from tests.engines.mongo_migrations_support import Shop, both, nursery, opened, up
from tests.engines.mongo_twelve import TWELVE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from sandbox import MongoEndpoint


@pytest.fixture
def shop(mongodb: MongoEndpoint, mongo_database: str) -> Iterator[Shop]:
    with opened(mongodb, mongo_database) as one:
        yield one


def clear(shop: Shop) -> None:
    shop.client.drop_database(shop.database)


async def count_events(shop: Shop, **order: Any) -> int:
    """How many events of the driver an uncut run has; it ends as it is to end."""
    async with nursery() as forks:
        runner = await forks.start(shop.order(TWELVE, **order))
        number = 0
        while True:
            kind, rest = await runner.wait("event", "end")
            if kind == "event":
                number = int(rest.split()[0])
            elif kind == "end":
                assert rest == "None"
            else:
                return number


async def cut(shop: Shop, points: Sequence[int], wanted: dict[str, Any], *, begin: Any, **order: Any) -> None:
    """Kill a run at each of these events, run again, and compare everything in the database."""
    async with nursery() as forks:
        for at in points:
            await begin()
            runner = await forks.start(shop.order(TWELVE, at=at, **order))
            kind, rest = await runner.wait()
            assert (kind, rest) in (("exit", "-9"), ("exit", "0")), at
            shop.end_lease()
            left = await shop.ok(TWELVE, order.get("action", "Up"), order.get("target", ""))
            found = shop.dump()
            if not left.migrations:
                # killed when all was done: the user, whose password nobody knows, goes with the next run
                found["(users)"] = []
            assert found == wanted, f"killed at event {at}"


def points(total: int, *, every: bool, few: int) -> list[int]:
    """All events, or a few that are spread over them and differ from each other in kind."""
    return list(range(1, total + 1)) if every else [1 + number * (total - 1) // (few - 1) for number in range(few)]


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=[pytest.mark.long, pytest.mark.timeout(3600)])])
async def test_killed_on_the_way_up(shop: Shop, every: bool) -> None:
    await shop.ok(TWELVE)
    wanted = shop.dump()

    async def begin() -> None:
        clear(shop)

    await begin()
    total = await count_events(shop)
    assert shop.dump() == wanted
    assert total > 200
    await cut(shop, points(total, every=every, few=3), wanted, begin=begin)


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=[pytest.mark.long, pytest.mark.timeout(3600)])])
async def test_killed_on_the_way_down(shop: Shop, every: bool) -> None:
    async def begin() -> None:
        clear(shop)
        await shop.ok(TWELVE)

    await begin()
    total = await count_events(shop, action="Down", target="0")
    wanted = shop.dump()
    assert set(wanted) == {"selvedge.events", "selvedge.history", "(users)"}
    assert wanted["selvedge.history"][3] == []
    await cut(shop, points(total, every=every, few=2), wanted, begin=begin, action="Down", target="0")


async def test_killed_inside_a_command(shop: Shop) -> None:
    """The server is at work on it: an index build goes on without its runner, an update is rolled back."""
    shop.fill("big", [{"_id": number, "a": number % 977, "text": "x" * 40} for number in range(40_000)])
    slow = {"$where": "sleep(3) || true"}
    files = {
        "1_build.json": up({"createIndexes": "big", "indexes": [{"key": {"text": 1, "a": 1}}]}),
        "2_update.json": up(
            {"update": "big", "updates": [{"q": {"_id": {"$lt": 200}, **slow}, "u": {"$inc": {"n": 1}}, "multi": True}]}
        ),
        "3_batches.json": up(
            {"x-batchUpdate": {"coll": "big", "filter": {"_id": {"$lt": 400}, **slow}, "update": {"$inc": {"m": 1}}}}
        ),
    }
    async with nursery() as forks:
        for command in ("createIndexes", "update", "find"):
            runner = await forks.start(shop.order(files))
            while True:
                kind, rest = await runner.wait("event", "end")
                assert kind == "event", f"ended before {command} on big was sent: {rest}"
                if rest.endswith(f"before {command} big") and at_work(shop, command):
                    break
            os.kill(runner.pid, signal.SIGKILL)
            assert (await runner.wait())[1] == "-9"
            shop.end_lease()
    await shop.ok(files)
    assert "text_1_a_1" in shop.indexes("big")
    with shop.endpoint.client() as client:
        big = client[shop.database].big
        assert big.count_documents({"n": 1}) == 200
        assert big.count_documents({"m": 1}) == 400
        assert big.count_documents({"$or": [{"n": {"$gt": 1}}, {"m": {"$gt": 1}}]}) == 0


def at_work(shop: Shop, command: str) -> bool:
    """Whether the server works on this command on ``big`` within a moment."""
    match = {"ns": f"{shop.database}.big", "active": True, "$or": [{f"command.{command}": "big"}, {"op": command}]}
    with shop.endpoint.client() as client:
        for _ in range(200):
            if list(client.admin.aggregate([{"$currentOp": {"allUsers": True}}, {"$match": match}])):
                return True
    return False


async def test_the_transaction_of_a_killed_run_is_ended_among_many_sessions(shop: Shop) -> None:
    """A server lists sessions by the hundred, and keeps those that nobody ended for half an hour."""
    await shop.ok({"1_a.json": up({"create": "a"})})
    name = f"{shop.database}_migrator"
    role = {"role": "readWrite", "db": shop.database}
    shop.command({"createUser": name, "pwd": "secret", "roles": [role]})
    uri = shop.endpoint.uri(shop.database, username=name, password="secret", authSource=shop.database)
    client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(uri)
    sessions = [client.start_session() for _ in range(250)]
    try:
        for session in sessions:
            client.admin.command("ping", session=session)
        last = sessions[-1]
        last.start_transaction()
        client[shop.database].a.insert_one({}, session=last)
        # as the write of a cursor that was not committed any more
        fence = client[shop.database]["selvedge.migrations"]
        fence.update_one({"_id": "fence"}, {"$set": {"written": 1}}, session=last)
        begun = time.monotonic()
        await shop.ok({"1_a.json": up({"create": "a"}), "2_b.json": up({"create": "b"})})
        assert time.monotonic() - begun < 25
        with pytest.raises(OperationFailure):
            last.commit_transaction()
    finally:
        client.close()
    assert shop.find("a") == []


@pytest.mark.long
async def test_a_primary_that_steps_down_in_the_middle(tmp_path: Path) -> None:
    """Every answer may be lost, and the run that goes on afterwards ends as one that was never interrupted."""
    with MongoServer.launch(directory=tmp_path / "mongodb", tls_mode="disabled") as server, ExitStack() as stack:
        shop = stack.enter_context(opened(server, "shop"))
        await shop.ok(TWELVE)
        wanted = shop.dump()
        clear(shop)
        interrupted = 0
        for done in range(3, 12, 2):
            clear(shop)
            down = False

            def step_down(done: int = done) -> None:
                nonlocal down
                applied = {row.version for row in shop.rows if row.state == "Applied"}
                if len(applied) == done and not down:
                    down = True
                    with server.client() as client:
                        client.admin.command({"replSetStepDown": 1, "force": True})

            shop.rows.clear()
            result = await shop.run(TWELVE, may_write=step_down)
            assert down
            tries = 0
            while result.error is not None:
                assert isinstance(result.error, TransientError), result.error
                interrupted += 1
                tries += 1
                assert tries < 60
                await asyncio.sleep(0.5)  # what the queue of the operator does
                shop.end_lease()
                try:
                    result = await shop.run(TWELVE)
                except TransientError:
                    continue
            assert shop.dump() == wanted, f"stepped down after {done}"
        assert interrupted


STOPPED = {
    "1_a.json": both([{"create": "a"}, {"insert": "a", "documents": [{"_id": 1, "n": 0}]}], [{"drop": "a"}]),
    "2_b.json": up(
        {"update": "a", "updates": [{"q": {}, "u": {"$inc": {"n": 1}}, "multi": True}]},
        {"createIndexes": "a", "indexes": [{"key": {"n": 1}}]},
        {"x-batchUpdate": {"coll": "a", "update": {"$inc": {"n": 10}}}},
    ),
}


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=[pytest.mark.long, pytest.mark.timeout(1800)])])
async def test_a_runner_that_was_stopped_and_lost_its_lease_writes_nothing_more(shop: Shop, every: bool) -> None:
    """SIGSTOP, the lease ends, another run does everything, SIGCONT: not one document is another one afterwards."""
    async with nursery() as forks:
        number = 0
        step = 1 if every else 29
        while True:
            number += step
            clear(shop)
            runner = await forks.start(shop.order(STOPPED, at=number, signal=signal.SIGSTOP))
            kind, _ = await runner.wait()
            if kind == "exit":
                break  # the run has fewer events
            held = bool(shop.find(COLLECTION, _id="lease", fence=1))
            shop.end_lease()
            await shop.ok({**STOPPED, "3_c.json": up({"create": "c"})})
            assert [row["n"] for row in shop.find("a")] == [11]
            # who did not have the lease yet may take it, and finds everything done
            before = shop.dump(raw=held)
            os.kill(runner.pid, signal.SIGCONT)
            while (await runner.wait())[0] != "exit":
                pass
            assert shop.dump(raw=held) == before, f"stopped at event {number}"
    assert number > 90
