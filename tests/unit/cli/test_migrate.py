"""``selvedge migrate``: what needs no server."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from selvedge.cli import main
from selvedge.cli.migrate_files import create
from selvedge.cli.migrate_run import _Call
from selvedge.cli.migrate_session import place_of
from selvedge.core.errors import InvalidError
from selvedge.migrate.operation import Operation, Prepared
from selvedge.migrate.plan import RunPlan

#: Nothing listens on port 1.
URL = "postgresql://selvedge@localhost:1/shop?sslmode=disable"
NOW = datetime(2026, 3, 1, 12, 30, 0, tzinfo=UTC)
COMMANDS = ("up", "down", "to", "redo", "status", "plan", "validate", "baseline", "repair", "new", "lint", "wait")


def migrate(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["migrate", *arguments])


def test_help_lists_every_command_and_the_exit_statuses() -> None:
    result = migrate("--help")
    assert result.exit_code == 0
    assert all(f"\n  {name} " in result.output for name in COMMANDS)
    assert "\n    130  stopped by SIGINT" in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("status",),
        ("status", "--url", URL),
        ("to", "--url", URL, "--dir", "."),
        ("up", "--url", "postgresql://selvedge@localhost:1/", "--dir", "."),
        ("up", "--url", URL, "--dir", ".", "--lock-timeout", "soon"),
        ("up", "--url", "mongodb://localhost:1/shop", "--dir", ".", "--role", "owner"),
        ("up", "--url", "mongodb://localhost:1/shop", "--dir", ".", "--schema", "one"),
        ("up", "--url", URL, "--dir", "/nowhere"),
        ("wait", "--url", URL),
        ("wait", "--url", URL, "--version", "latest", "--timeout", "1s"),
        ("repair", "--url", URL, "--reason", "x"),
        ("repair", "--url", URL, "--reason", "x", "--mark-applied", "1", "--drop-invalid-indexes"),
        ("lint", "--dir", "/nowhere"),
        ("new", "../up", "--dir", "."),
    ],
)
def test_a_wrong_call_is_an_error_in_one_sentence(arguments: tuple[str, ...]) -> None:
    result = migrate(*arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert isinstance(result.exception, SystemExit)


def test_a_server_that_is_not_there_is_an_error_and_waited_for() -> None:
    refused = migrate("down", "--url", URL)
    assert refused.exit_code == 1
    assert refused.stderr.startswith("error: server localhost:1 cannot be reached")
    waited = migrate("wait", "--url", URL, "--version", "1", "--timeout", "1s")
    assert waited.exit_code == 2
    assert waited.stderr.startswith("note: server localhost:1 cannot be reached")
    assert waited.stderr.endswith("not there after 1 s\n")


def test_the_database_is_the_urls_or_named() -> None:
    assert place_of(URL, environ={}).database == "shop"
    assert place_of("postgresql://u@h/my%20shop", environ={}).database == "my shop"
    assert place_of(URL, environ={}, database="other").database == "other"
    assert place_of("mongodb://u@h/shop?authSource=admin", environ={}).target.auth_source == "admin"
    secret = place_of("postgresql://u:hidden%21word@h/shop", environ={})
    assert "hidden" not in repr(secret)
    with pytest.raises(InvalidError, match="names no database"):
        place_of("postgresql://u@h/", environ={})


@pytest.mark.parametrize(
    ("there", "made"),
    [
        ([], "20260301123000_add_wishlists.sql"),
        (["20260101000000_old.sql"], "20260301123000_add_wishlists.sql"),
        (["20260301123000_now.sql"], "20260301123001_add_wishlists.sql"),
        (["20991231235959_late.sql"], "21000101000000_add_wishlists.sql"),
        (["20269999000000_no_time.sql"], "20269999000001_add_wishlists.sql"),
        (["20260101000000_items.json"], "20260301123000_add_wishlists.json"),
        (["0001_first.sql", "README.md"], "20260301123000_add_wishlists.sql"),
    ],
)
def test_a_new_file_comes_after_every_other(tmp_path: Path, there: list[str], made: str) -> None:
    for name in there:
        (tmp_path / name).touch()
    path = create(str(tmp_path), "add wishlists", None, NOW)
    assert path == tmp_path / made
    text = path.read_text()
    if made.endswith(".sql"):
        assert text == "-- migrate:up\n\n\n-- migrate:down\n\n"
    else:
        assert json.loads(text) == {"up": [], "down": []}


def test_new_makes_the_directory_and_takes_no_path_for_a_name(tmp_path: Path) -> None:
    result = migrate("new", "first", "--dir", str(tmp_path / "a" / "b"), "--engine", "mongodb")
    assert result.exit_code == 0
    assert Path(result.stdout.strip()).suffix == ".json"
    for name in ("", "../up", "a/b", "ümlaut", "-dash"):
        with pytest.raises(InvalidError, match="no description"):
            create(str(tmp_path), name, None, NOW)


def test_lint_prints_file_line_rule_and_message(tmp_path: Path) -> None:
    (tmp_path / "20260101000000_gone.sql").write_text("-- one\n\nDROP TABLE users;\n")
    result = migrate("lint", "--dir", str(tmp_path), "--no-squawk")
    assert result.exit_code == 2
    assert result.stdout.startswith("20260101000000_gone.sql:3: error drop-table: ")
    lines = migrate("lint", "--dir", str(tmp_path), "--no-squawk", "-o", "json").stdout.splitlines()
    first = json.loads(lines[0])
    assert (first["line"], first["rule"], first["severity"]) == (3, "drop-table", "error")
    rules = tmp_path / "rules.yaml"
    rules.write_text("plural_tables: maybe\n")
    refused = migrate("lint", "--dir", str(tmp_path), "--conventions", str(rules))
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "plural_tables is true or false" in refused.stderr


def test_status_imports_what_it_needs_and_no_more(tmp_path: Path) -> None:
    """The time to start is the time to import: each of these costs more than all that ``status`` does."""
    script = (
        "import sys; from selvedge.cli import main\n"
        f"try: main(['migrate', 'status', '--url', {URL!r}, '--dir', {str(tmp_path)!r}])\n"
        "except SystemExit as end: print(end.code)\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    status, modules = ended.stdout.splitlines()
    assert status == "1"
    assert "psycopg" in modules.split()
    heavy = {
        "pydantic",
        "kubernetes",
        "kopf",
        "aiohttp",
        "yaml",
        "rich",
        "pymongo",
        "bson",
        "structlog",
        "prometheus_client",
    }
    assert heavy & set(modules.split()) == set()


def test_a_redo_that_goes_on_leaves_out_the_schemas_that_are_redone() -> None:
    places = [replace(place_of(URL, environ={}), scope=scope) for scope in ("one", "two", "three")]
    operation = Operation("Redo", "2")
    prepared = Prepared(operation, RunPlan("Redo", (), target="2"))
    calls = [_Call(places, index, operation, "human", yes=True) for index in range(3)]
    same = "run the same command again with --target 2"
    assert [call._again(prepared) for call in calls] == [
        f"{same} to go on",
        f"{same} for --schema two --schema three alone to go on",
        f"{same} for --schema three alone to go on",
    ]
    calls[2].undone = True
    assert calls[2]._again(prepared) == "run `selvedge migrate up --target 2 --schema three` to go on"
