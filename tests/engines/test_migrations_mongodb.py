"""MongoDB's migrations on a real replica set."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from bson import ObjectId

from selvedge.core.errors import InvalidError, NotPermittedError, TransientError
from selvedge.core.reasons import Reason
from selvedge.engines.mongodb.connect import Server
from selvedge.engines.mongodb.migration_lease import COLLECTION, Lease
from selvedge.engines.mongodb.migrations import open_session
from selvedge.migrate import MigrationState
from tests.engines.mongo_migrations_support import Shop, opened, up
from tests.engines.mongodb_support import Record, converge, member, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox import MongoEndpoint

USERS = "20250101000000_users.json"
INDEX = "20250201000000_index.json"


FILES = {
    USERS: up(
        {"create": "users", "validator": {"$jsonSchema": {"required": ["name"]}}},
        {"insert": "users", "documents": [{"_id": {"$oid": "65a000000000000000000001"}, "name": "a", "n": 0}]},
        {"update": "users", "updates": [{"q": {}, "u": {"$inc": {"n": 1}}, "multi": True}]},
    ),
    INDEX: up({"createIndexes": "users", "indexes": [{"key": {"name": 1}, "name": "name", "unique": True}]}),
}


@pytest.fixture
def shop(mongodb: MongoEndpoint, mongo_database: str) -> Iterator[Shop]:
    with opened(mongodb, mongo_database) as one:
        yield one


async def test_up(shop: Shop) -> None:
    result = await shop.up(FILES)
    assert result.error is None, result.error
    assert [row.state for row in result.migrations] == [MigrationState.APPLIED] * 2
    assert shop.find("users") == [{"_id": ObjectId("65a000000000000000000001"), "name": "a", "n": 1}]
    rows = shop.find("selvedge.history")
    assert [(row["_id"], row["state"], row["runUid"]) for row in rows] == [
        ("20250101000000", "Applied", "run-uid"),
        ("20250201000000", "Applied", "run-uid"),
    ]
    assert rows[0]["appliedAt"] is not None
    assert len(shop.find("selvedge.events")) == 2
    assert shop.command({"usersInfo": 1})["users"] == []
    assert (await shop.up(FILES)).migrations == ()


async def test_a_command_fails(shop: Shop) -> None:
    files = {
        **FILES,
        INDEX: up({"create": "a"}, {"insert": "users", "documents": [{"x": "secret"}]}, {"create": "b"}),
    }
    result = await shop.up(files)
    error = result.migrations[1].error
    assert error is not None
    assert (error.file, error.line, error.sqlstate) == (INDEX, 6, "121")
    assert '"insert": "users"' in error.statement
    assert result.migrations[1].statements == "1/3"
    assert [row["commandsDone"] for row in shop.find("selvedge.history", state="Partial")] == [1]
    mended = json.loads(files[INDEX])
    mended["up"][1] = {"insert": "users", "documents": [{"name": "b"}]}
    result = await shop.up({**files, INDEX: json.dumps(mended, indent=1)})
    assert result.error is None, result.error
    assert len(shop.find("users")) == 2


async def test_duplicate_key_tells_no_value(shop: Shop) -> None:
    files = {
        **FILES,
        INDEX: up(
            {"insert": "users", "documents": [{"name": "hidden"}, {"name": "hidden"}]},
            {"createIndexes": "users", "indexes": [{"key": {"name": 1}, "name": "n", "unique": True}]},
        ),
    }
    result = await shop.up(files)
    error = result.migrations[1].error
    assert error is not None
    assert "E11000" in error.message
    assert "hidden" not in error.message


async def test_changed_after_it_ran(shop: Shop) -> None:
    await shop.up(FILES)
    with pytest.raises(InvalidError) as error:
        await shop.up({**FILES, INDEX: up({"create": "x"})})
    assert error.value.reason is Reason.CHECKSUM_MISMATCH


async def test_tolerated_only_where_the_file_says_so(shop: Shop) -> None:
    shop.command({"create": "a", "capped": True, "size": 4096})
    result = await shop.up({USERS: up({"create": "a"})})
    assert result.migrations[0].error is not None
    assert result.migrations[0].error.sqlstate == "NamespaceExists"
    result = await shop.up({USERS: up({"create": "a", "ifNotExists": True, "capped": False})})
    assert result.error is not None
    again = {"create": "a", "ifNotExists": True}
    result = await shop.up({USERS: up(again, {"drop": "none", "ifNotExists": True})})
    assert result.error is not None  # that it is capped cannot be changed later, so it is no equal of a plain one
    await shop.ok({USERS: up({**again, "capped": True, "size": 4096}, {"drop": "none", "ifNotExists": True})})


async def test_options_conflict_of_indexes(shop: Shop) -> None:
    await shop.up(FILES)
    for keys, name, code in (
        ({"name": 1}, "other", "IndexOptionsConflict"),
        ({"n": 1}, "name", "IndexKeySpecsConflict"),
    ):
        command = {"createIndexes": "users", "indexes": [{"key": keys, "name": name, "unique": True}]}
        result = await shop.up({**FILES, "20250301000000_more.json": up(command)})
        assert result.migrations[0].error is not None
        assert result.migrations[0].error.sqlstate == code
    same = {"createIndexes": "users", "indexes": [{"key": {"name": 1}, "name": "name", "unique": True}]}
    assert (await shop.up({**FILES, "20250301000000_more.json": up(same)})).error is None


async def test_one_transaction(shop: Shop) -> None:
    insert = {"insert": "b", "documents": [{"_id": 1}]}
    result = await shop.up({USERS: up({"create": "b"}, insert, insert, transaction=True)})
    assert result.migrations[0].error is not None
    assert result.migrations[0].error.sqlstate == "11000"
    assert shop.find("b") == []
    assert shop.find("selvedge.history") == []
    assert (await shop.up({USERS: up({"create": "b"}, insert, transaction=True)})).error is None


async def test_what_a_transaction_cannot_hold_is_refused_before_anything_runs(shop: Shop) -> None:
    more = up({"insert": "users", "documents": [{"name": "x"}]}, {"drop": "users"}, transaction=True)
    with pytest.raises(InvalidError, match=r"more.json, line 11: drop cannot run in a transaction \(263\)"):
        await shop.up({**FILES, "20250301000000_more.json": more})
    assert shop.find("selvedge.history") == []
    await shop.ok(FILES)
    # which only the database can tell: the collection is there already
    index = {"createIndexes": "users", "indexes": [{"key": {"n": 1}}]}
    more = up({"create": "other"}, index, {"insert": "other", "documents": [{"name": "x"}]}, transaction=True)
    result = await shop.up({**FILES, "20250301000000_more.json": more})
    error = result.migrations[0].error
    assert error is not None
    assert error.sqlstate == "OperationNotSupportedInTransaction"
    assert error.line == 6
    assert "remove" in error.hint
    assert shop.find("other") == []


async def test_the_migrator_reaches_its_database_only(shop: Shop) -> None:
    shop.command({"create": "users"})
    for command in (
        {"createUser": "evil", "pwd": "x", "roles": ["root"]},
        {"grantRolesToUser": f"{shop.database}_migrator", "roles": [{"role": "root", "db": "admin"}]},
        {"renameCollection": f"{shop.database}.users", "to": "other.users"},
        {"aggregate": "users", "pipeline": [{"$out": {"db": "admin", "coll": "evil"}}], "cursor": {}},
        {"dropUser": "root"},
        {"shutdown": 1},
    ):
        result = await shop.up({USERS: up(command)})
        assert result.migrations[0].error is not None, command
        assert result.migrations[0].error.sqlstate in ("Unauthorized", "13"), result.migrations[0].error
    assert shop.command({"usersInfo": 1})["users"] == []


async def test_a_login_that_may_not_make_users_is_told_what_it_lacks(shop: Shop) -> None:
    roles = [{"role": role, "db": shop.database} for role in ("readWrite", "dbAdmin")]
    shop.command({"createUser": "deployer", "pwd": "secret", "roles": roles})
    mine = {"username": "deployer", "password": "secret", "auth_source": shop.database}
    admin = Server(replace(shop.target(), **mine), Record())
    try:
        async with open_session(admin.target, admin, database=shop.database, observer=Record()) as session:
            assert await session.history() == ()
            with pytest.raises(NotPermittedError, match="grant it userAdmin, or dbOwner, on database") as error:
                await session.lock(1, ignore)
        assert "deployer may not drop user" in error.value.message
        assert 'grantRolesToUser("deployer"' in error.value.statements[0]
        shop.command({"grantRolesToUser": "deployer", "roles": [{"role": "dbOwner", "db": shop.database}]})
        async with open_session(admin.target, admin, database=shop.database, observer=Record()) as session:
            await session.lock(1, ignore)
    finally:
        await admin.close()


async def ignore(_: object) -> None:
    pass


async def test_a_migration_reaches_no_claim_and_no_lock(shop: Shop) -> None:
    declared = "collections: [{name: designs, indexes: [{name: n, keys: [{field: n}]}]}]"
    one = member("designs", shop.database, declared)

    def kept() -> list[Any]:
        with shop.endpoint.client() as client:
            own = client["selvedge"]
            return [list(own.claims.find({"_id.database": shop.database})), own.lock.find_one({"_id": shop.database})]

    async with running(shop.target()) as engine:
        assert (await converge(engine, shop.database, one))[0].verified
        before = kept()
        assert len(before[0]) == 3
        assert before[1] is not None
        theirs = {"database": shop.database, "object": "collection:designs"}
        seed = {"insert": "theirs", "documents": [{"_id": theirs, "resource": "theirs", "made": False}]}
        for into in ("claims", "lock"):
            where = {"db": "selvedge", "coll": into}
            for command in (
                {"aggregate": "theirs", "pipeline": [{"$merge": {"into": where}}], "cursor": {}},
                {"aggregate": "theirs", "pipeline": [{"$out": where}], "cursor": {}},
                {"renameCollection": f"{shop.database}.theirs", "to": f"selvedge.{into}", "dropTarget": True},
            ):
                result = await shop.up({USERS: up({"drop": "theirs", "ifNotExists": True}, seed, command)})
                assert result.migrations[0].error is not None, command
                assert result.migrations[0].error.sqlstate in ("Unauthorized", "13"), result.migrations[0].error
                shop.command({"delete": "selvedge.history", "deletes": [{"q": {}, "limit": 0}]})
        with pytest.raises(InvalidError, match=r"\$db is the driver's to send"):
            await shop.up({USERS: up({"update": "claims", "updates": [{"q": {}, "u": {}}], "$db": "selvedge"})})
        # under the same names in the database that it migrates it may write, and nobody reads that
        result = await shop.up(
            {
                USERS: up(
                    {"insert": "selvedge.claims", "documents": [{"_id": "collection:designs", "resource": "theirs"}]},
                    {"insert": "claims", "documents": [{"_id": theirs, "resource": "theirs"}]},
                    {"insert": "selvedge.lock", "documents": [{"_id": "database", "holder": "theirs"}]},
                )
            }
        )
        assert result.error is None, result.error
        assert kept() == before
        (found,) = await converge(engine, shop.database, replace(one, verified=True))
        assert (found.verified, found.drift, found.applied) == (True, (), ())
        assert kept() == before


async def test_two_runners_at_once(shop: Shop) -> None:
    results = await asyncio.gather(*(Shop(shop.endpoint, shop.database).up(FILES) for _ in range(3)))
    assert [result.error for result in results] == [None] * 3
    assert shop.find("users")[0]["n"] == 1
    assert len(shop.find("selvedge.events")) == 2


async def test_the_lease_goes_over_with_a_new_fence(shop: Shop) -> None:
    servers = [Server(shop.target(), Record()) for _ in range(2)]
    try:
        first, second = (Lease(server, shop.database, lease=2.0) for server in servers)
        assert await first.acquire()
        assert first._task is not None
        first._task.cancel()  # a holder that hangs
        assert not await second.acquire()
        deadline = asyncio.get_running_loop().time() + 20
        while not await second.acquire():
            await asyncio.sleep(0.05)  # between two tries, as a runner makes them
            assert asyncio.get_running_loop().time() < deadline
        assert (first.fence, second.fence) == (1, 2)
        with pytest.raises(TransientError):
            first.check()
        await second.publish()
        assert shop.command(first.guard())["n"] == 0
        assert shop.command(second.guard())["n"] == 1
        with contextlib.suppress(asyncio.CancelledError):
            await first.release()
        assert shop.find(COLLECTION, _id="lease")[0]["fence"] == 2
        await second.release()
    finally:
        for server in servers:
            await server.close()


@pytest.mark.parametrize("known", [True, False], ids=["named", "by an earlier version"])
async def test_who_waits_is_told_for_whom(shop: Shop, known: bool) -> None:
    told: list[str] = []

    async def waiting(who: str) -> None:
        told.append(who)

    server = Server(shop.target(), Record())
    lease = Lease(server, shop.database, run="the-first")
    try:
        assert await lease.acquire()
        who = f"process {os.getpid()} on {socket.gethostname()}, run the-first"
        if not known:
            shop.command({"update": COLLECTION, "updates": [{"q": {"_id": "lease"}, "u": {"$unset": {"who": 1}}}]})
        async with open_session(shop.target(), server, database=shop.database, observer=Record(), run="x") as session:
            with pytest.raises(TransientError) as error:
                await session.lock(0.3, waiting)
        holder = f"run of migrations ({who})" if known else "run of migrations"
        assert set(told) == {holder}
        assert error.value.message == f"database {shop.database} is held by another {holder}; tried again"
        assert error.value.reason is Reason.WAITING_FOR_LOCK
    finally:
        await lease.release()
        await server.close()


async def test_a_runner_that_lost_its_lease_writes_nothing(shop: Shop) -> None:
    taken = False

    def may_write() -> None:
        nonlocal taken
        if shop.rows and shop.rows[-1].done == 1 and not taken:
            taken = True
            shop.command({"update": COLLECTION, "updates": [{"q": {"_id": "fence"}, "u": {"$inc": {"fence": 1}}}]})

    result = await shop.up(FILES, may_write=may_write)
    assert isinstance(result.error, TransientError)
    assert shop.find("users") == []
    shop.command({"update": COLLECTION, "updates": [{"q": {"_id": "lease"}, "u": {"$inc": {"fence": 1}}}]})
    assert (await shop.up(FILES)).error is None
