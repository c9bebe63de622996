"""MongoDB's migrations on a server that is no replica set: what works, and what is said plainly."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from selvedge.core.errors import InvalidError
from selvedge.core.reasons import Reason
from tests.engines.mongo_migrations_support import Shop, both, nursery, opened, up
from tests.engines.mongo_standalone import standalone

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox import MongoEndpoint

A, B = "1_a.json", "2_b.json"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MongoEndpoint]:
    with standalone(tmp_path_factory.mktemp("standalone")) as endpoint:
        yield endpoint


@pytest.fixture
def shop(server: MongoEndpoint) -> Iterator[Shop]:
    with opened(server, f"db_{uuid.uuid4().hex[:12]}", standalone=True) as one:
        yield one


async def test_up_and_down(shop: Shop) -> None:
    files = {
        A: both(
            [
                {"create": "a"},
                {"insert": "a", "documents": [{"_id": number, "n": 0} for number in range(25)]},
                {"update": "a", "updates": [{"q": {}, "u": {"$inc": {"n": 1}}, "multi": True}]},
            ],
            [{"drop": "a"}],
        ),
        B: up(
            {"x-batchUpdate": {"coll": "a", "update": {"$set": {"m": 1}}, "batchSize": 10}},
            {"createIndexes": "a", "indexes": [{"key": {"n": 1}}]},
        ),
    }
    await shop.ok(files)
    assert {(row["n"], row["m"]) for row in shop.find("a")} == {(1, 1)}
    assert [row["state"] for row in shop.find("selvedge.history")] == ["Applied"] * 2
    await shop.ok({A: files[A]}, "Repair", "2", repair="MarkUnapplied", actor="ada", reason="by hand")
    await shop.ok({A: files[A]}, "Down", "0")
    assert shop.find("selvedge.history") == []


async def test_what_needs_a_replica_set_says_so(shop: Shop) -> None:
    result = await shop.up({A: up({"insert": "a", "documents": [{}]}, transaction=True)})
    assert isinstance(result.error, InvalidError)
    assert result.error.reason is Reason.UNSUPPORTED
    assert "1_a.json asks for a transaction, and this server is no replica set" in str(result.error)
    result = await shop.up({A: up({"create": "a"}, {"x-batchUpdate": {"coll": "a", "update": {"$inc": {"n": 1}}}})})
    assert "1_a.json, line 6: this server is no replica set" in str(result.error)
    assert "make the server a replica set of one" in str(result.error)
    result = await shop.run({A: up({"create": "a"})}, transaction="All")
    assert "no replica set" in str(result.error)
    assert set(shop.dump()) == {"selvedge.events", "selvedge.history", "(users)"}
    assert shop.find("selvedge.history") == []


async def test_conflicts_of_indexes_are_known_before_anything_runs(shop: Shop) -> None:
    def index(key: str, name: str) -> dict[str, object]:
        return {"createIndexes": "a", "indexes": [{"key": {key: 1}, "name": name}]}

    await shop.ok({A: up(index("n", "n"))})
    for key, name, code in (("n", "other", "IndexOptionsConflict"), ("m", "n", "IndexKeySpecsConflict")):
        result = await shop.up({A: up(index("n", "n")), B: up({"create": "b"}, index(key, name))})
        error = result.migrations[0].error
        assert error is not None
        assert (error.sqlstate, error.line) == (code, 6)
        assert "b" not in shop.dump()


async def killed_behind(shop: Shop, files: dict[str, str], command: str) -> None:
    """Kill a run between the answer to a command and the cursor behind it."""
    async with nursery() as forks:
        runner = await forks.start(shop.order(files, at=f"after {command}"))
        assert await runner.wait() == ("exit", "-9")
    shop.end_lease()


async def test_nobody_can_tell_whether_an_insert_ran_so_nobody_claims_to(shop: Shop) -> None:
    files = {A: up({"create": "a"}, {"insert": "a", "documents": [{"n": 1}]}, {"create": "b"})}
    await killed_behind(shop, files, "insert a")
    result = await shop.up(files)
    assert isinstance(result.error, InvalidError)
    assert result.error.reason is Reason.PARTLY_APPLIED
    assert "1_a.json, line 6: insert was sent and its answer was lost" in str(result.error)
    assert "remove the command from the file if it did" in str(result.error)
    await shop.ok({A: up({"create": "a"}, {"create": "b"})})
    assert len(shop.find("a")) == 1


async def test_what_may_run_twice_is_run_again(shop: Shop) -> None:
    change = {"update": "a", "updates": [{"q": {}, "u": {"$set": {"m": 1}}, "multi": True}]}
    files = {A: up({"create": "a"}, change, {"delete": "a", "deletes": [{"q": {"m": 2}, "limit": 0}]})}
    await killed_behind(shop, files, "update a")
    await shop.ok(files)
    assert [row["state"] for row in shop.find("selvedge.history")] == ["Applied"]
