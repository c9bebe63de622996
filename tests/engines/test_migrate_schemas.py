"""``--schema``, several times: each schema has a plan and a history, and one approval is for all of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psycopg
import pytest

from sandbox import PostgresEndpoint
from selvedge.core.errors import TransientError
from selvedge.core.reasons import Reason
from selvedge.engines.postgres.migrator import open_session
from selvedge.migrate.operation import Operation, source_of
from selvedge.migrate.protocol import Progress
from selvedge.migrate.scopes import InTurn, prepare_part
from tests.engines.migrate_cli_support import FILES, ORDERS, USERS, Shop, fresh, lines
from tests.engines.migrations_support import fresh_shop
from tests.engines.test_cli_offline import on_a_terminal

BOTH = ("--schema", "one", "--schema", "two")


@pytest.fixture
def shop(postgres18: PostgresEndpoint, tmp_path: Path) -> Iterator[Shop]:
    with fresh(postgres18, tmp_path / "migrations") as shop:
        for schema in ("one", "two"):
            shop.query(f'CREATE SCHEMA {schema} AUTHORIZATION "{shop.owner}"')
        yield shop


def test_one_approval_is_for_all_schemas(shop: Shop) -> None:
    up = shop.migrate("up", *BOTH, "-o", "json")
    assert up.exit_code == 0, up.stderr
    told = [json.loads(line) for line in up.stdout.splitlines()]
    assert {one["schema"] for one in told} == {"one", "two"}, "each line says of which schema it is"

    back = ("--target", USERS[:14], *BOTH)
    planned = shop.migrate("plan", "--action", "down", *back, "-o", "json")
    assert planned.exit_code == 2
    one, two, whole = (json.loads(line) for line in planned.stdout.splitlines())
    assert (one["schema"], two["schema"], whole["schema"]) == ("one", "two", "")
    assert [(step["schema"], step["file"]) for step in whole["steps"]] == [("one", ORDERS), ("two", ORDERS)]
    assert len({one["digest"], two["digest"], whole["digest"]}) == 3
    shown = shop.migrate("plan", "--action", "down", *back)
    assert shown.stdout.splitlines()[-1] == f"{shop.name}: digest of all 2 schemas: {whole['digest']}"

    asked = shop.migrate("down", *back)
    assert (asked.exit_code, f"add --yes, or --approve {whole['digest']} as" in asked.stderr) == (1, True)
    # an approval of one schema is not one of the other, nor of both
    for digest in (one["digest"], two["digest"]):
        refused = shop.migrate("down", *back, "--approve", digest)
        assert refused.exit_code == 1
        assert f"is not the digest of what would run now, {whole['digest']}: plan again" in refused.stderr
    assert shop.migrate("status", *BOTH).exit_code == 0, "nothing ran"
    down = shop.migrate("down", *back, "--approve", whole["digest"])
    assert down.exit_code == 0, down.stderr
    rows = shop.query("SELECT scope, version::text FROM selvedge.history ORDER BY scope")
    assert rows == [("one", USERS[:14]), ("two", USERS[:14])]
    nowhere = shop.migrate("status", "--schema", "three")
    assert nowhere.exit_code == 1
    assert "schema three, in which migrations are to run, does not exist" in nowhere.stderr
    alone = json.loads(shop.migrate("plan", "--action", "down", "--schema", "one", "-o", "json").stdout)
    assert shop.migrate("down", "--schema", "two", "--approve", alone["digest"]).exit_code == 1
    assert shop.migrate("down", "--schema", "one", "--approve", alone["digest"]).exit_code == 0


def test_every_schema_is_planned_before_anything_runs_in_the_first(shop: Shop) -> None:
    assert shop.migrate("up", "--schema", "two", "--target", USERS[:14]).exit_code == 0
    shop.write(**{USERS: FILES[USERS].replace("int", "bigint")})
    misfit = shop.migrate("up", *BOTH, "-o", "json")
    assert misfit.exit_code == 1
    assert f"schema two: {USERS} changed after it ran" in misfit.stderr
    [told] = lines(misfit)
    assert (told["event"], told["command"], told["reason"]) == ("error", "up", "ChecksumMismatch")
    assert told["message"].startswith(f"schema two: {USERS} changed")
    assert shop.tables("one") == []

    # who says yes says it to all of them, and before the first
    shop.write(**{USERS: FILES[USERS], ORDERS: "-- allow: drop-table\nDROP TABLE IF EXISTS users CASCADE;\n"})
    refused = shop.migrate("up", *BOTH)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "schema two: 20250102000000_orders.sql, line 2: drops table users" in refused.stderr
    assert shop.tables("one") == []
    status, screen = on_a_terminal(["migrate", "up", *BOTH], shop.environ(), "n\n")
    assert (status, "nothing was changed" in screen, shop.tables("one")) == (1, True, [])
    status, screen = on_a_terminal(["migrate", "up", *BOTH], shop.environ(), "y\n")
    assert status == 0, screen
    assert screen.count("Run this?") == 1
    assert shop.migrate("status", *BOTH).exit_code == 0

    for command in (("down", "--yes"), ("plan", "--action", "down")):
        aimless = shop.migrate(*command, *BOTH)
        assert aimless.exit_code == 1
        assert "Down in 2 schemas needs a target" in aimless.stderr
    shop.write(**{"20250103000000_last.sql": "SELECT 1 / (current_schema <> 'two')::int;\n"})
    failed = shop.migrate("up", *BOTH)
    assert failed.exit_code == 1
    assert f"{shop.name}, schema one: 1 step done" in failed.stdout
    assert failed.stderr.startswith("error: schema two: 20250103000000_last.sql, line 1: division by zero")


LEAVES = {
    "1_users.sql": "CREATE TABLE users (id int);\n",
    "2_leave.sql": "-- allow: drop-schema\nDROP SCHEMA tenant CASCADE;\n",
}


async def test_a_schema_may_drop_itself_with_its_last_migration(postgres18: PostgresEndpoint) -> None:
    """Its history stays, and says that nothing is left to do; what would run in it is refused."""

    async def tell(row: Progress) -> None:
        """Nobody looks."""

    with fresh_shop(postgres18) as shop:
        shop.query(f'CREATE SCHEMA tenant AUTHORIZATION "{shop.owner}"')
        conninfo = postgres18.conninfo(shop.database)
        async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as admin:
            opened = partial(
                open_session,
                shop.target(),
                admin,
                database=shop.database,
                run_as=shop.owner,
                owner=shop.owner,
                run="run-uid",
            )

            async def turn(files: dict[str, str] = LEAVES, scope: str = "tenant", action: str = "Up") -> InTurn:
                async with opened(scope=scope) as session:
                    return InTurn(
                        (await prepare_part(session, source_of(files, "Postgres"), Operation(action), scope),)
                    )

            first = await turn()
            result = await first.perform(
                lambda scope: opened(scope=scope), on_progress=tell, stop=asyncio.Event(), may_write=lambda: None
            )
            assert (result.error, result.applied, first.version) == (None, 2, "2")
            # as the next pass finds it, where this one was cut off before its last word
            second = await turn()
            assert (second.prepared.plan.steps, second.version) == ((), "2")
            for files, scope, action in (
                ({**LEAVES, "3_late.sql": "CREATE TABLE late (id int);\n"}, "tenant", "Up"),
                ({}, "tenent", "Down"),
            ):
                with pytest.raises(TransientError, match=f"schema {scope}, in which migrations are to run"):
                    await turn(files, scope, action)
            # somebody was faster: seen under the lock, before anything is made in the next schema of the path
            shop.query("DELETE FROM selvedge.history WHERE version = 2")
            late = await first.perform(
                lambda scope: opened(scope=scope), on_progress=tell, stop=asyncio.Event(), may_write=lambda: None
            )
            assert isinstance(late.error, TransientError)
            assert late.error.reason is Reason.WAITING_FOR_OBJECTS
            assert shop.tables("public") == []


def test_the_command_line_migrates_a_schema_that_drops_itself(shop: Shop) -> None:
    leave = "20250103000000_leave.sql"
    shop.write(**{leave: "-- allow: drop-schema\nDROP SCHEMA one CASCADE;\n"})
    planned = json.loads(shop.migrate("plan", "--schema", "one", "-o", "json").stdout)
    up = shop.migrate("up", "--schema", "one", "--approve", planned["digest"])
    assert up.exit_code == 0, up.stderr
    assert shop.query("SELECT count(*) FROM pg_namespace WHERE nspname = 'one'") == [(0,)]
    for command in ("up", "status", "wait"):
        again = shop.migrate(command, "--schema", "one")
        assert again.exit_code == 0, f"{command}: {again.stdout} {again.stderr}"
