"""What squawk is asked, and what becomes of it where it is missing or fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from selvedge.migrate import load, squawk
from selvedge.migrate.lint import advice, lint


def test_advice_does_not_miss_squawk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    migrations = load({"1_a.sql": "CREATE INDEX idx_orders_a ON orders (a);"})
    assert [one.rule for one in advice(migrations)] == ["require-concurrent-index-creation"]
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert advice(migrations) == ()


def test_squawk_has_no_place_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/proc/nowhere")
    found = lint(load({"1_a.sql": "CREATE TABLE orders (id int);"}))
    assert [one.message for one in found] == ["squawk failed: FileNotFoundError"]


def test_squawk() -> None:
    """Its lines are the file's, and the rows of COPY are not SQL."""
    assert squawk.program() is not None
    files = {
        "1_a.sql": "-- x\n-- migrate:up\nCOPY t FROM stdin;\nselec\t1\n\\.\nCREATE INDEX idx_orders_a ON orders (a);\n",
        "2_b.sql": "CREATE INDEX CONCURRENTLY idx_orders_b ON orders (b);",
        "3_c.sql": "-- squawk-ignore require-concurrent-index-creation\nCREATE INDEX idx_orders_c ON orders (c);",
        "4_d.sql": "ALTER TABLE orders ADD COLUMN quantity int;",
    }
    found = lint(load(files))
    assert [(one.file, one.line, one.rule, one.severity) for one in found] == [
        ("1_a.sql", 6, "require-concurrent-index-creation", "warning"),
        ("4_d.sql", 1, "prefer-bigint-over-int", "advice"),
    ]


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
        ("echo no JSON", "squawk failed: JSONDecodeError"),
        ("echo '[]'; echo 'thread panicked: why' >&2; exit 101", "squawk failed: thread panicked: why"),
    ],
)
def test_squawk_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, why: str) -> None:
    program = tmp_path / "squawk"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    found = lint(load({"1_a.sql": "CREATE TABLE orders (id int);"}))
    assert [(one.file, one.message, one.severity) for one in found] == [("squawk", why, "advice")]


def test_what_squawk_is_not_asked_about_is_said() -> None:
    found = lint(load({"1_a.sql": f"INSERT INTO orders VALUES ('{'x' * 2_100_000}');"}))
    assert [str(one) for one in found] == [
        "1_a.sql, line 1: squawk was not asked, as the file is larger than 2 MB (squawk)"
    ]
