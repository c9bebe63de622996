"""What is said about migrations before they run: in what order, and what silences it."""

from __future__ import annotations

from pathlib import Path

from selvedge.migrate import load
from selvedge.migrate.files import load_directory
from selvedge.migrate.lint import Finding, advice, destructive, lint
from tests.unit.migrate.lint_support import own

ROOT = Path(__file__).resolve().parents[3]


def test_advice_on_a_plan() -> None:
    """Warnings first; what any file of the plan makes is known to no running code; what the gate asks is left out."""
    files = {
        "1_a.sql": "CREATE TABLE carts (id int, note text);",
        "2_b.sql": "ALTER TABLE carts DROP note;\nCREATE INDEX cart_day ON sales (day);",
        "3_c.sql": "-- allow: drop-column\nALTER TABLE sales DROP note;\nALTER TABLE sales ADD tax int NOT NULL;",
    }
    found = advice(load(files), use_squawk=False)
    assert [(one.file, one.line, one.severity, one.rule) for one in found] == [
        ("3_c.sql", 2, "warning", "breaks-running-code"),
        ("3_c.sql", 3, "warning", "breaks-running-code"),
        ("2_b.sql", 2, "advice", "naming"),
    ]
    assert "SELECT * does" in found[0].message
    assert "which is NOT NULL without a default" in found[1].message


def test_row_security() -> None:
    assert [one.rule for one in own("ALTER TABLE a DISABLE ROW LEVEL SECURITY; DROP POLICY p ON a")] == [
        "weaken-row-security",
        "weaken-row-security",
    ]


def test_what_cannot_be_read_is_a_finding() -> None:
    found = lint(load({"1_a.sql": "SELECT 1;\nSELECT 'a;", "2_b.sql": "SELECT 1"}), use_squawk=False)
    assert found == (Finding("1_a.sql", 2, "unreadable", "error", "a string is not closed; add the '"),)
    assert str(found[0]) == "1_a.sql, line 2: a string is not closed; add the ' (unreadable)"


def test_a_way_down_without_statements_and_a_misspelt_allowance() -> None:
    text = "-- allow: drop-tabel\n-- migrate:up\nDROP TABLE a;\n-- migrate:down\n-- nothing\n"
    assert [(one.rule, one.severity) for one in lint(load({"1_a.sql": text}), use_squawk=False)] == [
        ("unknown-allow", "warning"),
        ("drop-table", "error"),
        ("breaks-running-code", "warning"),
        ("empty-down", "warning"),
    ]


def test_allow_silences_every_rule() -> None:
    allowed = "-- allow: drop-table, breaks-running-code, require-concurrent-index-creation\n"
    text = "DROP TABLE a;\nCREATE INDEX idx_t_b ON t (b);"
    assert len(lint(load({"1_a.sql": text}))) == 3
    assert lint(load({"1_a.sql": allowed + text})) == ()


def test_our_own_migrations() -> None:
    """Errors and warnings that stand there are known; a plan of all of them asks nobody."""
    postgres = load_directory(ROOT / "migrations" / "postgres")
    assert destructive(postgres) == ()
    assert destructive(load_directory(ROOT / "migrations" / "mongodb", "MongoDB")) == ()
    found = lint(postgres)
    assert not [str(one) for one in found if one.severity == "error"]
    assert not [str(one) for one in found if one.rule == "naming" and "regional_prices" not in one.message]
