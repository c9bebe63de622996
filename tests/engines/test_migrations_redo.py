"""A step back that did not come to its end: the same command once more would take another one."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox import PostgresEndpoint
from tests.engines.migrate_cli_support import FILES, ORDERS, Shop, fresh

FIRST, LAST = "20250101000000", "20250102000000"
DOWN = "-- migrate:down\nDROP TABLE orders;\n"
ON = f"run `selvedge migrate up --target {LAST}` to go on"


@pytest.fixture
def shop(postgres18: PostgresEndpoint, tmp_path: Path) -> Iterator[Shop]:
    with fresh(postgres18, tmp_path / "migrations") as shop:
        assert shop.migrate("up").exit_code == 0
        yield shop


def stopped(shop: Shop, action: str, *seen: str) -> str:
    """The last word of a command that is told to stop once it says all of this in one line."""
    with shop.begin(action, "--yes") as process:
        assert process.stdout is not None
        next(line for line in process.stdout if all(one in line for one in seen))
        process.send_signal(signal.SIGTERM)
        last = process.stdout.readlines()[-1]
    assert process.returncode == 143
    return str(json.loads(last)["message"])


def test_a_redo_that_is_stopped_on_its_way_up_goes_on_up(shop: Shop) -> None:
    shop.write(**{ORDERS: f"-- migrate:up\nCREATE TABLE orders (id int);\nSELECT pg_sleep(1.5);\nSELECT 1;\n{DOWN}"})
    assert stopped(shop, "redo", '"direction": "up"', '"1/3"').endswith(ON)
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
    shop.write(**{"afterRun.sql": "SELECT pg_sleep(1.5);\nCREATE TABLE after_run ();\n"})
    message = stopped(shop, "down", '"state": "Undone"')
    assert message.endswith(f"run the same command again with --target {FIRST} to go on")
    assert shop.versions() == [FIRST]
    assert shop.migrate("down", "--yes", "--target", FIRST).exit_code == 0
    assert shop.versions() == [FIRST]
    assert shop.query("SELECT to_regclass('after_run')::text") == [("after_run",)]
