"""A step back that did not come to its end: the same command once more would take another one."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox import PostgresEndpoint
from tests.engines.migrate_cli_support import FILES, ORDERS, Shop, fresh
from tests.waiting import wait_for

FIRST, LAST = "20250101000000", "20250102000000"
DOWN = "-- migrate:down\nDROP TABLE orders;\n"
HELD = "DO $$ BEGIN WHILE NOT pg_try_advisory_xact_lock(7) LOOP PERFORM pg_sleep(0.05); END LOOP; END $$;"
AT_IT = "SELECT 1 FROM pg_stat_activity WHERE starts_with(query, 'DO $$') AND datname = current_database()"
ON = f"run `selvedge migrate up --target {LAST}` to go on"


@pytest.fixture
def shop(postgres18: PostgresEndpoint, tmp_path: Path) -> Iterator[Shop]:
    with fresh(postgres18, tmp_path / "migrations") as shop:
        assert shop.migrate("up").exit_code == 0
        yield shop


def stopped(shop: Shop, *command: str) -> str:
    """The last word of a command that is told to stop at :data:`HELD`, which ends when the command knows."""
    with shop.endpoint.connect(shop.name) as other:
        other.execute("SELECT pg_advisory_lock(7)")
        with shop.begin(*command, "--yes") as process:
            assert process.stdout is not None
            assert process.stderr is not None
            try:
                wait_for(lambda: process.poll() is not None or shop.query(AT_IT), 60)
                process.send_signal(signal.SIGTERM)
                next(line for line in process.stderr if "stopping after the current statement" in line)
            finally:
                other.execute("SELECT pg_advisory_unlock(7)")
            last = process.stdout.readlines()[-1]
    assert process.returncode == 143
    return str(json.loads(last)["message"])


def test_a_redo_that_is_stopped_on_its_way_up_goes_on_up(shop: Shop) -> None:
    shop.write(**{ORDERS: f"-- migrate:up\nCREATE TABLE orders (id int);\n{HELD}\nSELECT 1;\n{DOWN}"})
    assert stopped(shop, "redo").endswith(ON)
    assert shop.versions() == [FIRST]
    refused = shop.migrate("redo", "--yes", "--target", LAST)
    assert refused.exit_code == 1
    assert f"version {LAST} did not run: there is nothing to redo; run it with `selvedge migrate up`" in refused.stderr
    assert shop.migrate("up", "--target", LAST).exit_code == 0
    assert shop.versions() == [FIRST, LAST]


def test_a_redo_whose_way_up_fails_says_how_to_go_on(shop: Shop) -> None:
    shop.write(**{ORDERS: f"-- migrate:up\nSELECT 1 / 0;\n{DOWN}"})
    failed = shop.migrate("redo", "--yes")
    assert failed.exit_code == 1
    assert f"; {ON}" in failed.stderr
    shop.write(**{ORDERS: FILES[ORDERS]})
    assert shop.migrate("up", "--target", LAST).exit_code == 0


def test_a_way_down_that_is_stopped_at_its_hook_is_not_gone_once_more(shop: Shop) -> None:
    shop.write(**{"afterRun.sql": f"{HELD}\nCREATE TABLE after_run ();\n"})
    message = stopped(shop, "down")
    assert message.endswith(f"run the same command again with --target {FIRST} to go on")
    assert shop.versions() == [FIRST]
    assert shop.migrate("down", "--yes", "--target", FIRST).exit_code == 0
    assert shop.versions() == [FIRST]
    assert shop.query("SELECT to_regclass('after_run')::text") == [("after_run",)]


def test_a_redo_that_is_stopped_in_one_schema_does_not_forget_the_others(shop: Shop) -> None:
    for schema in ("one", "two"):
        shop.query(f'CREATE SCHEMA {schema} AUTHORIZATION "{shop.owner}"')
    both = ("--schema", "one", "--schema", "two")
    assert shop.migrate("up", *both).exit_code == 0
    shop.write(**{ORDERS: f"-- migrate:up\nCREATE TABLE orders (id bigint);\n{HELD}\nSELECT 1;\n{DOWN}"})
    told = stopped(shop, "redo", "--target", LAST, *both)
    on = f"run `selvedge migrate up --target {LAST} --schema one` to go on"
    assert told.endswith(f"{on}, then redo in the schemas that are left: two")
    assert shop.migrate("up", "--target", LAST, "--schema", "one").exit_code == 0
    assert shop.migrate("redo", "--target", LAST, "--schema", "two", "--yes").exit_code == 0
    query = "SELECT data_type FROM information_schema.columns WHERE table_schema IN ('one', 'two') AND table_name = "
    assert shop.query(f"{query}'orders'") == [("bigint",), ("bigint",)]
