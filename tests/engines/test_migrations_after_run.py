"""The hook ``afterRun`` runs once for each run that had something to do, wherever the run was cut off."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from selvedge.core.errors import TransientError
from selvedge.engines.postgres.migrator import open_session
from selvedge.migrate import Progress, RunResult
from selvedge.migrate.operation import Operation, Prepared, perform, prepare, source_of
from tests.engines.migrations_support import Shop, fresh_shop
from tests.engines.test_migrations_commit import cut

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox import PostgresEndpoint

A, B = "20250101000000_a.sql", "20250102000000_b.sql"
LOG = "INSERT INTO shop.log (what) VALUES ('{}');"
FILES = {
    A: f"-- migrate:up\n{LOG.format('a')}\n-- migrate:down\n{LOG.format('-a')}\n",
    B: f"-- migrate:up\n{LOG.format('b')}\n-- migrate:down\n{LOG.format('-b')}\n",
    "afterRun.sql": LOG.format("afterRun"),
}


@pytest.fixture
def shop(postgres18: PostgresEndpoint) -> Iterator[Shop]:
    with fresh_shop(postgres18) as shop:
        shop.query("CREATE TABLE shop.log (n int GENERATED ALWAYS AS IDENTITY, what text)")
        shop.query(f"ALTER TABLE shop.log OWNER TO {shop.owner}")
        yield shop


def log(shop: Shop) -> list[str]:
    return [row[0] for row in shop.query("SELECT what FROM shop.log ORDER BY n")]


async def go(
    shop: Shop, files: dict[str, str] = FILES, *, server: Any = None, **asked: str
) -> tuple[Prepared, RunResult]:
    """What the operator and ``selvedge migrate`` do."""

    async def tell(_: Progress) -> None:
        """Nobody looks."""

    async with (
        await psycopg.AsyncConnection.connect(shop.endpoint.conninfo(shop.database), autocommit=True) as admin,
        open_session(
            server or shop.target(), admin, database=shop.database, run_as=shop.run_as, owner=shop.owner
        ) as session,
    ):
        prepared = await prepare(session, source_of(files, "Postgres"), Operation(**asked))
        result = await perform(session, prepared, on_progress=tell, stop=asyncio.Event(), may_write=lambda: None)
        return prepared, result


@pytest.mark.parametrize("arrives", [True, False])
@pytest.mark.parametrize(("mode", "at"), [("PerMigration", 2), ("PerMigration", 3), ("All", 1), ("All", 2)])
async def test_cut_off_before_the_hook_or_in_it(shop: Shop, mode: str, at: int, arrives: bool) -> None:
    async with cut(shop, at, arrives=arrives) as options:
        _, first = await go(shop, transaction=mode, **options)
    last = at == (3 if mode == "PerMigration" else 2)
    assert isinstance(first.error, TransientError) or (arrives and not last)
    _, second = await go(shop, transaction=mode)
    assert second.error is None
    assert log(shop) == ["a", "b", "afterRun"]
    events = shop.query("SELECT event, message FROM selvedge.events WHERE event LIKE 'AfterRun%' ORDER BY id")
    assert events == [("AfterRunDue", "afterRun"), ("AfterRun", "afterRun")]
    prepared, third = await go(shop)
    assert not prepared.does_something
    assert third.error is None
    assert log(shop) == ["a", "b", "afterRun"]


async def test_a_hook_that_failed_runs_once_it_is_mended(shop: Shop) -> None:
    _, result = await go(shop, {**FILES, "afterRun.sql": "SELECT 1 / 0;"})
    assert "division by zero" in str(result.error)
    assert log(shop) == ["a", "b"]
    prepared, result = await go(shop)
    assert prepared.does_something
    assert prepared.plan.hooks == (f"hook afterRun {source_of(FILES, 'Postgres').hooks.lines[0].split()[2]}",)
    assert result.error is None
    assert log(shop) == ["a", "b", "afterRun"]


async def test_what_a_hook_loses_waits_for_a_person_also_when_it_alone_is_left(shop: Shop) -> None:
    losing = {**FILES, "afterRun.sql": "-- allow: truncate\nSELECT 1 / 0;\nTRUNCATE shop.log;"}
    whole, _ = await go(shop, losing)
    rest, _ = await go(shop, losing)
    assert len(whole.concerns) == len(rest.concerns) == 1
    assert rest.concerns == whole.concerns
    assert (rest.plan.steps, rest.plan.hooks) == ((), whole.plan.hooks)


async def test_it_is_not_run_for_what_is_not_its_business(shop: Shop) -> None:
    _, result = await go(shop, {A: FILES[A]})
    assert result.error is None
    _, result = await go(shop, {A: FILES[A], "afterRun.sql": FILES["afterRun.sql"]})
    assert (result.error, log(shop)) == (None, ["a"]), "nothing to do, and nothing owed"
    _, result = await go(shop, {**FILES, B: "SELECT nope;"})
    assert result.error is not None
    _, result = await go(shop, FILES, action="Baseline", target="20250102000000")
    assert (result.error, log(shop)) == (None, ["a"])
    _, result = await go(shop, action="Down")
    assert (result.error, log(shop)) == (None, ["a", "-b", "afterRun"])
