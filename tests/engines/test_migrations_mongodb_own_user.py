"""Migrations of MongoDB as a user of somebody's own: checked, used, and left as it is."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from selvedge.core.errors import InvalidError, NotPermittedError, SelvedgeError
from selvedge.engines.mongodb.connect import Server
from selvedge.engines.mongodb.migrations import MongoMigrations, open_session
from tests.engines.mongo_migrations_support import Shop, both
from tests.engines.mongodb_support import Record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from sandbox import MongoEndpoint

NAME, PASSWORD = "deployer", "its-own-password"
FILES = {
    "1_a.json": both([{"create": "a"}, {"insert": "a", "documents": [{"n": 1}]}], [{"drop": "a"}]),
    "2_b.json": both(
        [{"createIndexes": "a", "indexes": [{"key": {"n": 1}, "name": "n"}]}], [{"dropIndexes": "a", "index": "n"}]
    ),
}


class OwnShop(Shop):
    """A shop whose sessions run as the user."""

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[MongoMigrations]:
        admin = Server(self.target(), Record())
        more: dict[str, Any] = {"observer": Record(), "run": "run-uid", "login": (NAME, PASSWORD)}
        try:
            async with open_session(self.target(), admin, database=self.database, **more) as session:
                yield session
        finally:
            await admin.close()


@pytest.fixture
def shop(mongodb: MongoEndpoint, mongo_database: str) -> Iterator[OwnShop]:
    shop = OwnShop(mongodb, mongo_database)
    yield shop
    shop.command({"dropAllUsersFromDatabase": 1})
    shop.close()


def user(shop: Shop, *roles: dict[str, str] | str) -> None:
    shop.command({"createUser": NAME, "pwd": PASSWORD, "roles": list(roles), "mechanisms": ["SCRAM-SHA-256"]})


async def test_it_runs_everything_and_stays(shop: OwnShop) -> None:
    user(shop, "readWrite", "dbAdmin")
    await shop.ok(FILES)
    assert {row["appliedBy"] for row in shop.find("selvedge.history")} == {NAME}
    await shop.ok(FILES, "To", "0")
    assert [one["user"] for one in shop.command({"usersInfo": 1})["users"]] == [NAME], "neither dropped nor joined"
    assert {one["actor"] for one in shop.find("selvedge.events")} == {NAME}


async def test_what_else_it_does_goes_on(mongodb: MongoEndpoint, shop: OwnShop) -> None:
    """A session of the same user that is no migration's: an application's, with a cursor open."""
    user(shop, "readWrite", "dbAdmin")
    shop.fill("rows", [{"n": n} for n in range(300)])
    with mongodb.client(username=NAME, password=PASSWORD, authSource=shop.database) as client:
        rows = iter(client[shop.database]["rows"].find(batch_size=10))
        next(rows)
        await shop.ok(FILES)
        assert len(list(rows)) == 299


@pytest.mark.parametrize(
    ("roles", "where"),
    [
        (["readWrite", "dbAdmin", {"role": "read", "db": "another"}], "database another"),
        ([{"role": "root", "db": "admin"}], "other databases, or the whole server"),
        ([{"role": "readWriteAnyDatabase", "db": "admin"}], "other databases, or the whole server"),
        ([{"role": "clusterMonitor", "db": "admin"}], ""),
    ],
)
async def test_one_that_may_act_elsewhere_is_refused(shop: OwnShop, roles: list[Any], where: str) -> None:
    user(shop, *roles)
    result = await shop.up(FILES)
    assert isinstance(result.error, InvalidError)
    assert f"user {NAME} of runAs may act on {where}" in result.error.message
    assert shop.find("selvedge.history") == []


async def test_one_that_may_too_little_is_told_what_it_lacks(shop: OwnShop) -> None:
    user(shop, "read")
    result = await shop.up(FILES)
    assert isinstance(result.error, NotPermittedError)
    assert "may not createCollection, createIndex, insert, remove, update in database" in result.error.message
    assert result.error.statements[0].endswith(
        f'[{{role: "readWrite", db: "{shop.database}"}}, {{role: "dbAdmin", db: "{shop.database}"}}])'
    )


async def test_a_wrong_password_is_said(shop: OwnShop) -> None:
    shop.command({"createUser": NAME, "pwd": "another", "roles": ["readWrite"], "mechanisms": ["SCRAM-SHA-256"]})
    result = await shop.up(FILES)
    assert isinstance(result.error, SelvedgeError)
    assert str(result.error.reason) == "AuthenticationFailed"
    assert PASSWORD not in result.error.message
