"""What squawk is asked, what it may do while it answers, and what becomes of it where it is missing or fails."""

from __future__ import annotations

import asyncio
import re
import resource
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from selvedge.migrate import load, squawk
from selvedge.migrate.finding import Finding
from selvedge.migrate.lint import advice, lint

INDEX = {"1_a.sql": "CREATE INDEX idx_orders_a ON orders (a);"}
SECRET = "correct-horse-battery"


def program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> None:
    """A shell script takes squawk's place: what it does wrong, squawk does not do when it is asked to."""
    path = tmp_path / "squawk"
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))


def rules(found: Iterable[Finding]) -> list[tuple[str, int, str]]:
    return [(one.file, one.line, one.rule) for one in found]


def test_advice_does_not_miss_squawk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    migrations = load(INDEX)
    assert [one.rule for one in advice(migrations)] == ["require-concurrent-index-creation"]
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert advice(migrations) == ()


def test_squawk_needs_no_place_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the operator's container: its root is read-only, and there is no other directory."""
    monkeypatch.setattr("tempfile.tempdir", "/proc/nowhere")
    monkeypatch.setenv("TMPDIR", "/proc/nowhere")
    assert [one.rule for one in lint(load(INDEX))] == ["require-concurrent-index-creation"]


def test_squawk() -> None:
    """Its lines are the file's, and the rows of COPY are not SQL."""
    assert squawk.program() is not None
    files = {
        "1_a.sql": "-- x\n-- migrate:up\nCOPY t FROM stdin;\nselec\t1\n\\.\nCREATE INDEX idx_orders_a ON orders (a);\n",
        "2_b.sql": "CREATE INDEX CONCURRENTLY idx_orders_b ON orders (b);",
        "3_c.sql": "-- squawk-ignore require-concurrent-index-creation\nCREATE INDEX idx_orders_c ON orders (c);",
        "4_d.sql": "ALTER TABLE orders ADD COLUMN quantity int;",
        "5_e.sql": "-- squawk-ignore-file\nCREATE INDEX idx_orders_e ON orders (e);",
        "6_f.sql": "\n\nCREATE INDEX idx_orders_f ON orders (f)",
    }
    found = lint(load(files))
    assert [(one.file, one.line, one.rule, one.severity) for one in found] == [
        ("1_a.sql", 6, "require-concurrent-index-creation", "warning"),
        ("4_d.sql", 1, "prefer-bigint-over-int", "advice"),
        ("6_f.sql", 3, "require-concurrent-index-creation", "warning"),
    ]


def test_what_squawk_cannot_read_keeps_it_from_no_other_file() -> None:
    """Asked about together, it reads on until it understands again, or dies."""
    half, deep = "SELECT CASE WHEN;", f"SELECT {'(' * 100_000}1{')' * 100_000};"
    for unread, said in ((half, "1_a.sql"), (deep, "squawk")):
        found = squawk.ask(load({"1_a.sql": unread, "2_b.sql": INDEX["1_a.sql"]}), 18)
        assert ("2_b.sql", 1, "require-concurrent-index-creation") in rules(found)
        assert {one.file for one in found} == {said, "2_b.sql"}
    assert found[-1].message == "squawk failed on 1_a.sql: stack overflow"


def test_squawk_recurses_no_deeper_where_our_stack_has_no_limit() -> None:
    before = resource.getrlimit(resource.RLIMIT_STACK)
    resource.setrlimit(resource.RLIMIT_STACK, (before[1], before[1]))
    try:
        found = squawk.ask(load({"1_a.sql": f"SELECT {'(' * 100_000}1{')' * 100_000};"}), 18)
    finally:
        resource.setrlimit(resource.RLIMIT_STACK, before)
    assert [one.message for one in found] == ["squawk failed on 1_a.sql: stack overflow"]


def test_nobody_waits_for_a_table_that_is_new() -> None:
    """In a plan those of the files before are new as well; each file by itself knows its own only."""
    files = {
        "1_a.sql": "CREATE TABLE shop.orders (id bigint);\nCREATE INDEX idx_orders_id ON shop.orders (id);",
        "2_b.sql": (
            "CREATE UNIQUE INDEX uidx_orders_id ON shop.orders (id);\n"
            "ALTER TABLE shop.orders ALTER COLUMN id SET NOT NULL;\n"
            "CREATE INDEX idx_users_id ON shop.users (id);\n"
            "CREATE INDEX idx_orders_b ON shop.orders (b); CREATE INDEX idx_users_b ON shop.users (b);\n"
        ),
    }
    concurrently = "require-concurrent-index-creation"
    of_users = [("2_b.sql", 3, concurrently), ("2_b.sql", 4, concurrently), ("2_b.sql", 4, concurrently)]
    assert rules(advice(load(files))) == of_users
    assert [one for one in rules(lint(load(files))) if one[2] != "breaks-running-code"] == [
        ("2_b.sql", 1, concurrently),
        ("2_b.sql", 2, "adding-not-nullable-field"),
        *of_users,
    ]


def test_who_writes_a_table_waits_for_a_foreign_key_that_refers_to_it() -> None:
    files = {
        "1_a.sql": "CREATE TABLE shop.lines (id bigint);\nCREATE TABLE shop.orders (id bigint PRIMARY KEY);",
        "2_b.sql": (
            "ALTER TABLE shop.lines ADD CONSTRAINT a FOREIGN KEY (id) REFERENCES shop.orders (id);\n"
            "ALTER TABLE shop.lines ADD CONSTRAINT b FOREIGN KEY (id) REFERENCES shop.users (id);\n"
        ),
    }
    found = rules(advice(load(files)))
    assert ("2_b.sql", 2, "adding-foreign-key-constraint") in found
    assert ("2_b.sql", 1, "adding-foreign-key-constraint") not in found


def test_squawk_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    found = lint(load({"1_a.sql": "DROP TABLE a;"}))
    assert [one.rule for one in found] == ["squawk", "drop-table", "breaks-running-code"]
    assert str(found[0]) == (
        "squawk, line 0: squawk is not installed, so its rules were not asked; pip install 'selvedge[lint]' (squawk)"
    )


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo no JSON", "what it printed is no list of findings"),
        ("echo '[{}]'", "what it printed is no list of findings"),
        ("echo \"error: unexpected argument '--reporter' found\" >&2; exit 2", "error: unexpected argument"),
        ("read -r sql; echo \"thread 'main' panicked at a/b.rs:1:2: $sql\" >&2; exit 101", "panicked at a/b.rs:1:2"),
        ('read -r sql; echo "$sql" >&2; exit 3', "exit status 3"),
        ("kill -SEGV $$", "signal 11"),
        ("read -r sql; exec head -c 9000000 /dev/zero", "it had more to say than 4 MB"),
        ("read -r sql; exec head -c 9000000 /dev/zero >&2", "it had more to say than 4 MB"),
    ],
)
def test_squawk_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, why: str) -> None:
    """One line says so, and quotes nothing of the file, in which a password may stand."""
    program(monkeypatch, tmp_path, script)
    found = lint(load({"1_a.sql": f"SELECT '{SECRET}';", "2_b.sql": f"SELECT '{SECRET}';"}))
    assert [(one.file, one.severity) for one in found] == [("squawk", "advice")]
    assert found[0].message.startswith(f"squawk failed on 1_a.sql, 2_b.sql: {why}")
    assert SECRET not in str(found)


def test_squawk_takes_too_long(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is ended with what it started; no file gets more than the rest of the time."""
    monkeypatch.setattr(squawk, "TIMEOUT", 3.0)
    program(monkeypatch, tmp_path, f"sleep 600 & echo $! > {tmp_path}/child; wait")
    began = time.monotonic()
    found = lint(load({"1_a.sql": "SELECT 1;", "2_b.sql": "SELECT 2;"}))
    assert time.monotonic() - began < 30
    assert [one.message for one in found] == ["squawk failed on 1_a.sql, 2_b.sql: it did not answer within 3 s"]
    child = Path("/proc") / (tmp_path / "child").read_text().strip() / "stat"
    while child.exists() and child.read_text().rpartition(") ")[2][0] != "Z":
        assert time.monotonic() - began < 30


def test_what_squawk_may_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable of ours, no directory to write in, and limits before it has a line of SQL."""
    monkeypatch.setenv("PGPASSWORD", SECRET)
    ulimits = "echo $(($(ulimit -v) * 1024)); ulimit -S -t; echo $(($(ulimit -f) * 1024)); ulimit -c"
    program(monkeypatch, tmp_path, f"read -r sql; (/usr/bin/env; pwd; {ulimits}) > {tmp_path}/said; echo '[]'")
    assert lint(load({"1_a.sql": "SELECT 1;"})) == ()
    said = (tmp_path / "said").read_text()
    assert SECRET not in said
    assert not {"PGPASSWORD", "HOME", "KUBECONFIG"} & {line.partition("=")[0] for line in said.splitlines()}
    assert "\n/\n" in said
    assert said.splitlines()[-4:] == [str(squawk.MEMORY), "10", str(squawk.MOST_OUTPUT), "0"]


def test_squawk_gets_no_more_of_the_processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(squawk._LIMITS, resource.RLIMIT_CPU, (1, 2))
    monkeypatch.setattr(squawk, "TIMEOUT", 300.0)
    program(monkeypatch, tmp_path, "read -r sql; while :; do :; done")
    found = squawk.ask(load(INDEX), 18)
    assert [one.message for one in found] == ["squawk failed on 1_a.sql: it computed for more than 10 s"]


@pytest.mark.long
def test_what_squawk_says_is_bounded() -> None:
    """Half a megabyte with a finding in each statement; for the largest file that it is asked about there is memory."""
    found = squawk.ask(load({"1_a.sql": "CREATE INDEX ON a (b);" * 20_000}), 18)
    assert [one.message for one in found] == ["squawk failed on 1_a.sql: it had more to say than 4 MB"]
    rows = ",\n".join(["(1, 'a', now()), (2, 'b', now()), (3, 'c', now())"] * 35_000)
    assert squawk.ask(load({"1_a.sql": f"INSERT INTO orders VALUES {rows};"}), 18) == []


def test_squawk_gets_no_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(squawk._LIMITS, resource.RLIMIT_AS, (36 * 1024 * 1024,) * 2)
    found = squawk.ask(load({"1_a.sql": f"SELECT {'1,' * 50_000}1;"}), 18)
    assert re.fullmatch(r"squawk failed on 1_a.sql: memory allocation of \d+ bytes failed", found[0].message)


async def test_the_event_loop_does_not_wait_for_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Asked from many threads at once, as by many plans, one runs at a time."""
    log = tmp_path / "log"
    program(monkeypatch, tmp_path, f"echo begin >> {log}; read -r sql; echo end >> {log}; echo '[]'")
    asked = [asyncio.to_thread(lint, load({"1_a.sql": "SELECT 1;"})) for _ in range(5)]
    assert await asyncio.gather(*asked) == [()] * 5
    assert log.read_text().split() == ["begin", "end"] * 5


def test_what_squawk_is_not_asked_about_is_said() -> None:
    found = lint(load({"1_a.sql": f"INSERT INTO orders VALUES ('{'x' * 2_100_000}');"}))
    assert [str(one) for one in found] == [
        "1_a.sql, line 1: squawk was not asked, as the file is larger than 2 MB (squawk)"
    ]
