"""Fashion Wallet's migrations by the runner give what psql gives."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from sandbox.postgres import PostgresServer
from selvedge.migrate import load
from tests.engines.fashion_wallet import DECLARATION, MIGRATIONS, declare, migrations
from tests.engines.migrations_support import Shop

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module", params=["15", "18"])
def server(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    with PostgresServer.launch(request.param) as running:
        yield running


class Wallet(Shop):
    owner = DECLARATION["owner"]
    run_as = "migration_runner"


async def test_the_runner_gives_what_psql_gives(server: PostgresServer) -> None:
    oracle = declare(server, "by_psql")
    for migration in migrations():
        oracle.run(migration.up)
    made = declare(server, "by_runner")
    files = {path.name: path.read_text() for path in MIGRATIONS.glob("*.sql")}
    wallet = Wallet(server, "by_runner")
    result = await wallet.up(files)
    assert result.error is None, result.error
    assert len(result.migrations) == len(load(files))
    assert (await wallet.up(files)).migrations == ()
    with server.connect("by_runner") as connection:
        connection.execute("DROP SCHEMA selvedge CASCADE")
    assert _schema(made.dump()) == _schema(oracle.dump())


def _schema(dump: str) -> list[str]:
    return [line for line in dump.splitlines() if not re.match(r"--|$", line)]
