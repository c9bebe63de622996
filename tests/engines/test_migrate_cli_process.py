"""``selvedge migrate`` as a process of its own: signals, waiting, and what others on the machine can see."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from sandbox import PostgresEndpoint
from tests.engines.migrate_cli_support import ORDERS, Shop, fresh


@pytest.fixture
def shop(postgres18: PostgresEndpoint, tmp_path: Path) -> Iterator[Shop]:
    with fresh(postgres18, tmp_path / "migrations") as shop:
        yield shop


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_stops_after_the_statement(shop: Shop, sent: signal.Signals, status: int) -> None:
    shop.write(**{ORDERS: "-- migrate:up\nCREATE TABLE orders (id int);\nSELECT pg_sleep(1.5);\nSELECT 1;\n"})
    with shop.begin("up") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        seen = next(line for line in process.stdout if '"1/3"' in line)
        assert json.loads(seen)["state"] == "Running"
        process.send_signal(sent)
        last = process.stdout.readlines()[-1]
        said = process.stderr.read()
    assert process.returncode == status
    result = json.loads(last)
    assert (result["state"], result["done"]) == ("Stopped", 1)
    assert "1 of 2 migrations are done: run the same command again to go on" in result["message"]
    assert "stopping after the current statement" in said
    assert shop.versions() == ["20250101000000"]
    assert shop.migrate("up").exit_code == 0
    assert shop.versions() == ["20250101000000", "20250102000000"]


def test_a_second_signal_breaks_the_statement_off(shop: Shop) -> None:
    shop.write(**{ORDERS: "-- migrate:up\nCREATE TABLE orders (id int);\nSELECT pg_sleep(60);\n"})
    with shop.begin("up") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        next(line for line in process.stdout if '"1/2"' in line)
        process.send_signal(signal.SIGINT)
        assert "stopping after" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        result = json.loads(process.stdout.readlines()[-1])
    assert process.returncode == 130
    assert "was rolled back" in result["message"]
    assert shop.query("SELECT to_regclass('orders')") == [(None,)]
    assert shop.query(f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{shop.name}_migrator'") == [(0,)]


def test_what_it_waits_for_is_told(shop: Shop) -> None:
    assert shop.migrate("up").exit_code == 0
    shop.write(**{"20250103000000_more.sql": "ALTER TABLE users ADD COLUMN name text;\n"})
    with closing(shop.endpoint.connect(shop.name)) as other:
        other.execute("BEGIN")
        other.execute("LOCK TABLE users IN ACCESS SHARE MODE")
        with shop.begin("up", "--lock-timeout", "2s") as process:
            assert process.stdout is not None
            waits = next(json.loads(line) for line in process.stdout if '"waitingFor": ""' not in line)
            assert waits["waitingFor"]
            other.execute("COMMIT")
            result = json.loads(process.stdout.readlines()[-1])
    assert (process.returncode, result["state"]) == (0, "Succeeded")


def test_the_password_is_nowhere(shop: Shop) -> None:
    secret = f"marked{uuid.uuid4().hex}"
    for arguments in (
        ("status",),
        ("up", "--yes"),
        ("plan", "-o", "json"),
        ("wait", "--version", "1", "--timeout", "1s"),
    ):
        result = shop.migrate(*arguments, password=secret)
        assert result.exit_code == 1
        assert result.stderr.count("error: ") == 1
        assert secret not in result.stdout + result.stderr
    typed = shop.url().replace("@", f":{secret}@", 1)
    result = shop.migrate("status", "--url", typed)
    assert "the password in --url can be read in the list of processes" in result.stderr
    assert secret not in result.stdout + result.stderr
    shop.write(**{ORDERS: "SELECT pg_sleep(1);\n"})
    with shop.begin("up") as process:
        assert process.stdout is not None
        next(line for line in process.stdout if '"20250102000000"' in line)
        shown = Path(f"/proc/{process.pid}/cmdline").read_text()
        process.stdout.read()
    assert shop.endpoint.password not in shown
    assert process.returncode == 0


def test_waiting_ends_when_the_version_comes(shop: Shop) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "selvedge", "migrate", "wait", "--version", "20250102000000"],
        env=shop.environ(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "note: version 20250102000000 has not run yet\n"
        assert shop.migrate("up").exit_code == 0
        process.communicate(timeout=30)
    assert process.returncode == 0


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_waiting_ends_when_it_is_told_to(shop: Shop, sent: signal.Signals, status: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "selvedge", "migrate", "wait", "--version", "20250102000000"],
        env=shop.environ(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        process.stderr.readline()
        process.send_signal(sent)
        assert process.stderr.read() == "stopped: nothing was changed\n"
    assert process.returncode == status
