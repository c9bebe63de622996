"""MongoDB's migrations: nothing runs when a later command is known to fail, and nothing is refused that would not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from selvedge.engines.mongodb import migration_history, migration_preflight
from selvedge.migrate import Progress, RunResult, Timeouts, load, make_plan, run
from tests.engines.mongo_migrations_support import Shop, opened, up

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox import MongoEndpoint
    from selvedge.engines.mongodb.migrations import MongoMigrations

A = "1_a.json"
FIRST = {"create": "first"}


@pytest.fixture
def shop(mongodb: MongoEndpoint, mongo_database: str) -> Iterator[Shop]:
    with opened(mongodb, mongo_database) as one:
        yield one


def index(coll: str, key: dict[str, Any], name: str, **options: Any) -> dict[str, Any]:
    return {"createIndexes": coll, "indexes": [{"key": key, "name": name, **options}]}


SCHEMA = {"$jsonSchema": {"required": ["name"]}}

KNOWN_TO_FAIL: dict[str, tuple[list[dict[str, Any]], str, str]] = {
    "duplicates": ([index("users", {"n": 1}, "u", unique=True)], "DuplicateKey", "2 keys are there several times"),
    "duplicates in arrays": ([index("users", {"tags": 1}, "u", unique=True)], "DuplicateKey", "1 key is there several"),
    "duplicates in a path": ([index("users", {"a.b": 1}, "u", unique=True)], "DuplicateKey", "2 keys"),
    "missing is null": ([index("users", {"gone": 1}, "u", unique=True)], "DuplicateKey", "1 key"),
    "duplicates of several fields": ([index("users", {"n": 1, "tags": 1}, "u", unique=True)], "DuplicateKey", "1 key"),
    "duplicates by collation": (
        [index("users", {"name": 1}, "u", unique=True, collation={"locale": "en", "strength": 2})],
        "DuplicateKey",
        "2 keys",  # Ada, and the four without a name
    ),
    "same keys, other name": ([index("users", {"k": 1}, "other")], "IndexOptionsConflict", "different name: k"),
    "same name, other keys": ([index("users", {"m": 1}, "k")], "IndexKeySpecsConflict", "same name"),
    "same name, other options": ([index("users", {"k": 1}, "k", unique=True)], "IndexKeySpecsConflict", "same name"),
    "unknown kind": ([index("users", {"m": "2dcube"}, "m")], "CannotCreateIndex", "Unknown index plugin"),
    "two text indexes": (
        [index("none", {"a": "text"}, "a"), index("none", {"b": "text"}, "b")],
        "IndexOptionsConflict",
        "",
    ),
    "violations": ([{"collMod": "users", "validator": SCHEMA}], "DocumentValidationFailure", "4 documents violate"),
    "exists": ([{"create": "users"}], "NamespaceExists", "users exists already"),
    "exists in another form": (
        [{"create": "users", "capped": True, "size": 4096, "ifNotExists": True}],
        "NamespaceExists",
        "other options",
    ),
    "no collection to drop": ([{"drop": "none"}], "NamespaceNotFound", "no collection none"),
    "no collection to change": ([{"collMod": "none", "validator": SCHEMA}], "NamespaceNotFound", "no collection none"),
    "no index to drop": ([{"dropIndexes": "users", "index": ["k", "none"]}], "IndexNotFound", "no index none"),
    "dropped twice": ([{"drop": "users"}, {"drop": "users"}], "NamespaceNotFound", "no collection users"),
    "dropped index": (
        [{"dropIndexes": "users", "index": "k"}, {"dropIndexes": "users", "index": "k"}],
        "IndexNotFound",
        "no index k",
    ),
    "renamed away": (
        [{"renameCollection": "users", "to": "people"}, {"drop": "users"}],
        "NamespaceNotFound",
        "no collection users",
    ),
    "renamed to what exists": ([{"renameCollection": "users", "to": "other"}], "NamespaceExists", "other exists"),
    "index on a view": ([index("view", {"a": 1}, "a")], "CommandNotSupportedOnView", "is a view"),
    "update of a view": (
        [{"update": "view", "updates": [{"q": {}, "u": {"$set": {"a": 1}}}]}],
        "CommandNotSupportedOnView",
        "is a view",
    ),
    "an unknown word in a schema": (
        [{"collMod": "users", "validator": {"$jsonSchema": {"requird": ["name"]}}}],
        "FailedToParse",
        "Unknown $jsonSchema keyword: requird",
    ),
    "no command": ([{"createIndex": "users"}], "CommandNotFound", "no command 'createIndex'"),
}


def fill(shop: Shop) -> None:
    shop.fill(
        "users",
        [
            {"_id": 1, "n": 1, "k": 1, "name": "Ada", "tags": ["x", "y"], "a": {"b": 1}},
            {"_id": 2, "n": 1, "k": 2, "name": "ADA", "tags": ["y"], "a": {"b": 1}},
            *[{"_id": key, "n": 2, "k": key, "tags": [key], "a": [{"b": 2}, {"b": key}]} for key in (3, 4)],
            *[{"_id": key, "n": key, "k": key, "tags": [key, key], "a": {"b": key}} for key in (5, 6)],
        ],
    )
    shop.command(index("users", {"k": 1}, "k"))
    shop.command({"create": "other"})
    shop.command({"create": "view", "viewOn": "users", "pipeline": []})


class Runs:
    """Runs of one session: the user and the lease are made once for all cases."""

    def __init__(self, shop: Shop, session: MongoMigrations) -> None:
        self.shop = shop
        self.session = session

    async def up(self, text: str) -> RunResult:
        async def ignore(_: Progress) -> None:
            pass

        plan = make_plan(load({A: text}, "MongoDB"), await self.session.history())
        return await run(
            self.session,
            plan,
            timeouts=Timeouts(),
            on_progress=ignore,
            stop=asyncio.Event(),
            may_write=lambda: None,
        )


async def test_nothing_runs_when_a_later_command_is_known_to_fail(shop: Shop) -> None:
    fill(shop)
    before = shop.dump()
    async with shop.session() as session:
        runs = Runs(shop, session)
        for case, (commands, code, why) in KNOWN_TO_FAIL.items():
            text = up(FIRST, *commands)
            error = (await runs.up(text)).migrations[0].error
            assert error is not None, case
            assert (case, error.sqlstate) == (case, code)
            assert why in error.message, case
            line = text.split("\n")[error.line - 1 :][:2]
            assert line[0].strip() == "{", case
            assert line[1].strip().startswith(f'"{next(iter(commands[-1]))}"'), case
            after = shop.dump()
            assert (after.pop("selvedge.history")[3], after.pop("selvedge.events")[3]) == ([], []), case
            assert {**after, "(users)": []} == before, case


FITS: dict[str, list[dict[str, Any]]] = {
    "duplicates go first": [
        {"delete": "users", "deletes": [{"q": {"_id": {"$in": [2, 4]}}, "limit": 0}]},
        index("users", {"n": 1}, "u", unique=True),
    ],
    "duplicates go in batches": [
        {"x-batchUpdate": {"coll": "users", "update": [{"$set": {"n": "$_id"}}]}},
        index("users", {"n": 1}, "u", unique=True),
    ],
    "only some are indexed": [
        index("users", {"n": 1}, "u", unique=True, partialFilterExpression={"_id": {"$gt": 4}}),
        index("users", {"gone": 1}, "g", unique=True, sparse=True),
    ],
    "the same element twice in one document": [
        {"drop": "other"},
        index("users", {"k": 1, "_id": 1}, "ki", unique=True),
    ],
    "the same index again": [index("users", {"k": 1}, "k")],
    "other name, tolerated": [{**index("users", {"k": 1}, "other"), "ifNotExists": True}],
    "violations go first": [
        {"update": "users", "updates": [{"q": {}, "u": {"$set": {"name": "x"}}, "multi": True}]},
        {"collMod": "users", "validator": SCHEMA},
    ],
    "violations that may be": [{"collMod": "users", "validator": SCHEMA, "validationLevel": "moderate"}],
    "violations that are logged": [{"collMod": "users", "validator": SCHEMA, "validationAction": "warn"}],
    "dropped and made again": [{"drop": "users"}, {"create": "users"}, index("users", {"n": 1}, "u", unique=True)],
    "renamed, then made": [{"renameCollection": "users", "to": "people"}, {"create": "users"}],
    "target dropped": [{"renameCollection": "users", "to": "other", "dropTarget": True}],
    "gone, tolerated": [
        {"drop": "none", "ifNotExists": True},
        {"dropIndexes": "users", "index": ["k", "none"], "ifNotExists": True},
        {"dropIndexes": "none", "index": "x", "ifNotExists": True},
    ],
    "an index without a name": [{"createIndexes": "users", "indexes": [{"key": {"n": 1, "tags": -1}}]}],
    "written by the pipeline": [
        {"aggregate": "users", "pipeline": [{"$out": "copy"}], "cursor": {}},
        index("copy", {"k": 1}, "k"),
        {"drop": "copy"},
    ],
    "read": [{"find": "users"}, {"count": "users"}, {"ping": 1}],
}


async def test_what_is_not_known_to_fail_runs(shop: Shop) -> None:
    async with shop.session() as session:
        runs = Runs(shop, session)
        for case, commands in FITS.items():
            with shop.endpoint.client() as client:
                for name in client[shop.database].list_collection_names(filter={"name": {"$not": {"$regex": "^s"}}}):
                    client[shop.database].drop_collection(name)
                client[shop.database]["selvedge.history"].delete_many({})
            fill(shop)
            result = await runs.up(up(FIRST, *commands))
            assert result.error is None, f"{case}: {result.error}"
            assert "first" in shop.dump(), case


async def test_violations_that_the_file_allows(shop: Shop) -> None:
    fill(shop)
    await shop.ok({A: up({"collMod": "users", "validator": SCHEMA}, allow=["validator-violations"])})


async def test_the_trial_of_indexes_leaves_nothing(shop: Shop) -> None:
    shop.command({"create": "users", "collation": {"locale": "de"}})
    shop.command(index("users", {"k": 1}, "k"))
    await shop.ok({A: up(index("users", {"m": 1}, "m"), index("users", {"k": 1}, "k"))})
    assert shop.indexes("users") == ["_id_", "k", "m"]
    assert "selvedge.trial" not in shop.dump()


async def test_an_index_is_named_as_drivers_do(shop: Shop) -> None:
    await shop.ok({A: up({"createIndexes": "users", "indexes": [{"key": {"n": 1, "at": -1, "t": "text"}}]})})
    assert shop.indexes("users") == ["_id_", "n_1_at_-1_t_text"]


async def test_a_message_holds_no_value(shop: Shop) -> None:
    shop.fill("users", [{"mail": "ada@example.com"}, {"mail": "ada@example.com"}])
    result = await shop.up({A: up(index("users", {"mail": 1}, "mail", unique=True))})
    assert "ada@" not in str(result.error)
    assert "unique index mail cannot be built on users" in str(result.error)


async def test_a_command_that_is_too_large_is_known_before(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migration_preflight, "_LARGEST", 5_000)
    result = await shop.up({A: up(FIRST, {"insert": "a", "documents": [{"n": [1] * 700}]})})
    error = result.migrations[0].error
    assert error is not None
    assert (error.line, error.sqlstate) == (6, "BSONObjectTooLarge")
    assert "the server takes 5000" in error.message
    assert shop.find("selvedge.history") == []
    monkeypatch.setattr(migration_history, "_LARGEST", 5_000)
    result = await shop.up({A: up({"insert": "a", "documents": [{"n": "x" * 6_000}]})})
    assert "the history keeps at most 5000; split it" in str(result.error)


async def test_a_plan_looks_without_running(shop: Shop) -> None:
    """Over all its files: what an earlier one changes is taken into account, and the database stays as it is."""
    shop.fill("users", [{"n": 1}, {"n": 1}])
    files = {
        "1_a.json": up(FIRST, index("first", {"n": 1}, "n", unique=True)),
        "2_b.json": up({"drop": "first"}, {"create": "first"}),
        "3_c.json": up({"drop": "first"}, index("users", {"n": 1}, "u", unique=True)),
    }
    before = shop.dump(raw=True)
    told: list[str] = []

    async def waiting(what: str) -> None:
        told.append(what)

    async with shop.session() as session:
        plan = make_plan(load(files, "MongoDB"), await session.history(), engine="MongoDB")
        failure = await session.preflight(plan.steps, waiting)
        assert failure is not None
        assert (failure.file, failure.line, failure.sqlstate) == ("3_c.json", 6, "DuplicateKey")
        assert await session.preflight(plan.steps[:2], waiting) is None
    assert any("duplicates before unique index" in what for what in told)
    assert shop.dump(raw=True) == before
