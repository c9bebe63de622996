"""Names, markers, directives and checksums of migration files."""

from __future__ import annotations

import hashlib

import pytest

from selvedge.core.errors import InvalidError
from selvedge.core.reasons import Reason
from selvedge.migrate import load
from selvedge.migrate.checksum import checksum
from selvedge.migrate.directives import NONE, Directives, header, render
from selvedge.migrate.load import undo_only
from selvedge.migrate.names import parse_name, sort_key


def test_both_styles_and_the_order() -> None:
    found = load(
        {
            "README.md": "not a migration",
            "20250102000000_pair.up.sql": "SELECT 1;",
            "20250102000000_pair.down.sql": "SELECT 2;",
            "0001_first.sql": "SELECT 3;",
            "20250101000000_single.sql": "-- migrate:up\nSELECT 4;\n-- migrate:down\nSELECT 5;\n",
            "2025010100000001_more.sql": "SELECT 6;",
        }
    )
    assert [(one.version, one.name, one.down) for one in found] == [
        (1, "first", None),
        (20250101000000, "single", "\nSELECT 5;"),
        (2025010100000001, "more", None),
        (20250102000000, "pair", "SELECT 2;"),
    ]


@pytest.mark.parametrize("digits", ["1", "0001", "1700000000", "20250101000000", "202501010000000001", "9" * 20])
def test_versions_of_every_length(digits: str) -> None:
    name = parse_name(f"{digits}_x.sql", "Postgres")
    assert name is not None
    assert name.version == int(digits)


def test_versions_sort_by_their_first_14_digits() -> None:
    versions = [20250102000000, 202501010000000009, 2025010100000001, 20250101000000, 5, 1700000000]
    assert sorted(versions, key=sort_key) == [
        5,
        1700000000,
        20250101000000,
        2025010100000001,
        202501010000000009,
        20250102000000,
    ]


REFUSED = {
    "no version": ({"users.sql": "SELECT 1"}, "is not YYYYMMDDHHMMSS_description.sql"),
    "spaces": ({"1_a b.sql": "SELECT 1"}, "is not YYYYMMDDHHMMSS_description.sql"),
    "too long": ({"1" * 21 + "_a.sql": "SELECT 1"}, "21 digits"),
    "zero": ({"000_a.sql": "SELECT 1"}, "version 0"),
    "twice": ({"1_a.sql": "SELECT 1", "01_b.sql": "SELECT 1"}, "version 1 is used twice"),
    "two styles": ({"1_a.sql": "SELECT 1", "1_a.down.sql": "SELECT 1"}, "version 1 is used twice"),
    "only down": ({"1_a.down.sql": "SELECT 1"}, "no up file"),
    "a pair with two names": ({"1_a.up.sql": "SELECT 1", "1_b.down.sql": "SELECT 1"}, "same description"),
    "json": ({"1_a.json": "[]"}, "this database is Postgres"),
    "0 bytes": ({"1_a.sql": ""}, "1_a.sql: the file is empty, there is nothing to run; write its statements"),
    "empty": ({"1_a.sql": "\ufeff\n \n"}, "the file is empty"),
    "empty up": ({"1_a.sql": "-- migrate:up\n\n-- migrate:down\nSELECT 1;"}, "the up part is empty"),
    "binary": ({"1_a.sql": "\0\1"}, "binary"),
    "repeatable pair": ({"R__views.up.sql": "SELECT 1"}, "rename it to R__description.sql"),
    "repeatable without a name": ({"R__.sql": "SELECT 1"}, "the name is not R__description.sql"),
    "seed without environment": ({"seeds/a.sql": "SELECT 1"}, "add a first line such as -- env: development"),
    "other directory": ({"old/1_a.sql": "SELECT 1"}, "only VERSION_description/up.sql"),
    "other file of Diesel's": ({"1_a/up.sql": "SELECT 1", "1_a/more.sql": "SELECT 1"}, "1_a/more.sql: of directories"),
    "Flyway": ({"V1__a.sql": "SELECT 1"}, "Flyway's names are not read"),
    "a program": ({"1_a.sql": "SELECT 1", "00002_b.go": "package migrations"}, "00002_b.go: a program is no migration"),
    "twice over layouts": (
        {"20240101120000_a.sql": "SELECT 1", "2024-01-01-120000_a/up.sql": "SELECT 1"},
        "2024-01-01-120000_a/up.sql, 20240101120000_a.sql: version 20240101120000 is used twice",
    ),
    "parts in two layouts": (
        {"1_a.up.sql": "SELECT 1", "1_a/down.sql": "SELECT 1"},
        "1_a.up.sql, 1_a/down.sql: version 1 is used twice",
    ),
    "marker in a pair": ({"1_a.up.sql": "-- migrate:up\nSELECT 1"}, "line 1: a marker in a file whose name says"),
    "two tools": ({"1_a.sql": "-- migrate:up\nSELECT 1;\n-- +goose Down\nSELECT 2"}, "line 3: markers of goose beside"),
    "goose without up": (
        {"1_a.sql": "-- x\n-- +goose NO TRANSACTION\nSELECT 1"},
        "line 2: markers without a direction",
    ),
    "goose twice": ({"1_a.sql": "-- +goose Up\n-- +goose Up\nSELECT 1"}, "one -- +goose Up and after it"),
    "goose's substitution": (
        {"1_a.sql": "-- +goose ENVSUB ON\n-- +goose Up\nSELECT 1"},
        "line 1: ENVSUB is not done",
    ),
    "a space in a marker": (
        {"1_a.sql": "-- migrate:up\nSELECT 1;\n-- migrate: down\nSELECT 2;"},
        "line 3: '-- migrate: down' is no marker; write -- migrate:down, at the beginning of the line",
    ),
    "a loud marker": ({"1_a.sql": "-- MIGRATE:UP\nSELECT 1"}, "line 1: '-- MIGRATE:UP' is no marker"),
    "an indented marker": (
        {"1_a.sql": "-- migrate:up\nSELECT 1;\n  -- migrate:down\n"},
        "line 3: '-- migrate:down' is",
    ),
    "tern's": (
        {"1_a.sql": "CREATE TABLE a ();\n---- create above / drop below ----\nDROP TABLE a;"},
        "line 2: '---- create above / drop below ----' is a marker that is not read, what is behind it would run",
    ),
    **{
        f"{tool}'s": ({"1_a.sql": f"SELECT 1;\n{marker}\nSELECT 2;"}, f"line 2: {marker!r} is a marker that is not")
        for tool, marker in (
            ("node-pg-migrate", "-- Down Migration"),
            ("rambler", "-- rambler down"),
            ("micrate", "-- +micrate Down"),
            ("shmig", "-- ==== DOWN ===="),
            ("MyBatis", "-- //@UNDO"),
        )
    },
    "another tool's, in a file of one direction": (
        {"1_a.up.sql": "SELECT 1;\n-- Down Migration\nSELECT 2;"},
        "line 2: '-- Down Migration' is a marker that is not read",
    ),
    "goose, unknown": ({"1_a.sql": "-- +goose Upp\nSELECT 1"}, "line 1: unknown marker '-- +goose Upp'"),
    "down first": ({"1_a.sql": "-- migrate:down\nSELECT 1;\n-- migrate:up\n"}, "line 1: markers down, up"),
    "two ups": ({"1_a.sql": "-- migrate:up\nSELECT 1;\n-- migrate:up\n"}, "markers up, up"),
    "before the marker": ({"1_a.sql": "-- x\nSELECT 1;\n-- migrate:up\nSELECT 2;"}, "line 2: a statement before"),
    "option": ({"1_a.sql": "-- migrate:up transactions:false\nSELECT 1;"}, "unknown option"),
    "transaction": ({"1_a.sql": "-- transaction: no\nSELECT 1;"}, "line 1: transaction is 'no'"),
    "timeout": ({"1_a.sql": "-- lock-timeout: 2 seconds\nSELECT 1;"}, "line 1: lock-timeout"),
    "requires": ({"1_a.sql": "-- requires-version: 16\nSELECT 1;"}, "write >=16"),
}


@pytest.mark.parametrize(("files", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(files: dict[str, str], why: str) -> None:
    with pytest.raises(InvalidError) as error:
        load(files)
    assert why in str(error.value)
    assert error.value.reason in (Reason.INVALID_MIGRATION, Reason.UNSUPPORTED)


def test_directives() -> None:
    (found,) = load(
        {
            "1_a.sql": "-- Adds users.\n-- lock-timeout: 2s\n-- statement-timeout: 0\n"
            "-- allow: drop-table, drop-column\n"
            "-- requires-version: >=16\n-- env: staging\n-- irreversible\n-- note: nothing\n\n-- transaction: false\n"
            "SELECT 1;\n-- lock-timeout: 9s\n"
        }
    )
    directives = found.directives
    assert (directives.lock_timeout, directives.statement_timeout, directives.transaction) == (2.0, 0.0, False)
    assert directives.allow == ("drop-table", "drop-column")
    assert (directives.requires_version, directives.environments, directives.irreversible) == (16, ("staging",), True)


@pytest.mark.parametrize(
    "text",
    [
        "/* whose it is */\n-- transaction: false\nSELECT 1;",
        "/* several\n   lines /* nested */\n*/\n\n-- transaction: false\nSELECT 1;",
        "/* a */ /* b */ -- transaction: false\nSELECT 1;",
        "-- note\n/* a\n*/ -- transaction: false\nSELECT 1;",
        "/* licence\n*/\n-- migrate:up transaction:false\nSELECT 1;",
        "/* licence */\n-- transaction: false\n-- migrate:up\nSELECT 1;",
        "-- migrate:up\n/* a */\n-- transaction: false\nSELECT 1;\n-- migrate:down\nSELECT 2;",
    ],
)
def test_directives_behind_a_block_comment(text: str) -> None:
    [migration] = load({"1_a.sql": text})
    assert migration.directives.transaction is False
    assert not migration.script.transactional


@pytest.mark.parametrize(
    "text",
    [
        "/* -- transaction: false */ SELECT 1;",
        "/*\n-- transaction: false\n*/\nSELECT 1;",
        "/* a */ SELECT 1;\n-- transaction: false\n",
    ],
)
def test_what_is_commented_out_or_follows_a_statement_is_no_directive(text: str) -> None:
    [migration] = load({"1_a.sql": text})
    assert migration.directives == NONE


def test_a_statement_behind_a_block_comment_before_the_marker_would_never_run() -> None:
    with pytest.raises(InvalidError, match=r"1_a\.sql, line 2: a statement before -- migrate:up would never run"):
        load({"1_a.sql": "/* a\n*/ SELECT 1;\n-- migrate:up\nSELECT 2;"})


def test_directives_of_each_direction() -> None:
    text = (
        "-- lock-timeout: 3s\n-- migrate:up transaction:false\nSELECT 1;\n"
        "-- migrate:down\n-- lock-timeout: 4s\nSELECT 2;"
    )
    (found,) = load({"1_a.sql": text})
    assert (found.directives.transaction, found.directives.lock_timeout) == (False, 3.0)
    assert (found.down_directives.transaction, found.down_directives.lock_timeout) == (None, 4.0)


def test_lines_are_those_of_the_file() -> None:
    (found,) = load({"1_a.sql": "-- header\n-- migrate:up\n\nSELECT 1;\n"})
    assert [statement.line for statement in found.script.statements] == [4]


def test_checksum_survives_editors_but_not_changes() -> None:
    texts = [
        "SELECT 1;\n-- a\nSELECT 2;\n",
        "\ufeffSELECT 1;\r\n-- a\r\nSELECT 2;\r\n\r\n",
        "SELECT 1;\n-- a\nSELECT 2;",
    ]
    assert len({load({"1_a.sql": text})[0].checksum for text in texts}) == 1
    assert load({"1_a.sql": "SELECT 1;\n-- b\nSELECT 2;\n"})[0].checksum != load({"1_a.sql": texts[0]})[0].checksum


def test_a_checksum_of_several_pieces() -> None:
    text = "SELECT 'é€𝄞';\n" * 200_000
    assert checksum(text) == hashlib.sha256(text.rstrip("\n").encode()).hexdigest()


def test_the_way_down_has_a_checksum_of_its_own() -> None:
    one, other = (
        load({"1_a.sql": f"-- migrate:up\nSELECT 1;\n-- migrate:down\nSELECT {number};"})[0] for number in (1, 2)
    )
    assert one.checksum == other.checksum
    assert one.down_checksum != other.down_checksum


def test_diesel() -> None:
    initial, found, only_up = load(
        {
            "00000000000000_diesel_initial_setup/up.sql": "SELECT 0;",
            "00000000000000_diesel_initial_setup/down.sql": "SELECT 1;",
            "2024-01-01-120000_users/up.sql": "SELECT 2;",
            "2024-01-01-120000_users/down.sql": "-- lock-timeout: 2s\nSELECT 3;",
            "2024-01-01-120001_more/up.sql": "SELECT 4;",
            "2024-01-01-120001_more/metadata.toml": "run_in_transaction = true",
        }
    )
    assert (initial.version, initial.name, found.version, found.name) == (
        0,
        "diesel_initial_setup",
        20240101120000,
        "users",
    )
    assert (found.file, found.down_file, found.down_directives.lock_timeout) == (
        "2024-01-01-120000_users/up.sql",
        "2024-01-01-120000_users/down.sql",
        2.0,
    )
    assert only_up.down is None


def test_diesels_metadata() -> None:
    files = {
        "1_a/up.sql": "SELECT 1;",
        "1_a/down.sql": "SELECT 2;",
        "1_a/metadata.toml": "run_in_transaction = false\n",
    }
    (found,) = load(files)
    assert (found.script.transactional, found.down_script.transactional) == (False, False)
    assert found.checksum == load({"1_a/up.sql": "SELECT 1;"})[0].checksum
    for text, why in (("run_in_transaction =", "it is no TOML"), ("run_in_transaction = 1", "is true or false")):
        with pytest.raises(InvalidError, match=f"^1_a/metadata.toml: .*{why}"):
            load({**files, "1_a/metadata.toml": text})


def test_goose() -> None:
    (found,) = load(
        {
            "00001_a.sql": "-- a header\n-- +goose NO TRANSACTION\n-- +goose Up\n-- +goose StatementBegin\n"
            "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$ SELECT 1; $$;\n-- +goose StatementEnd\n"
            "SELECT 2;\n\n-- +goose Down\nDROP FUNCTION f();\n"
        }
    )
    assert [(one.text.split()[0], one.line) for one in found.script.statements] == [("CREATE", 5), ("SELECT", 7)]
    assert [(one.text, one.line) for one in found.down_script.statements] == [("DROP FUNCTION f()", 10)]
    assert (found.directives.transaction, found.down_directives.transaction) == (False, False)


def test_sql_migrate() -> None:
    (found,) = load({"1_a.sql": "-- +migrate Up notransaction\nSELECT 1;\n-- +migrate Down\nSELECT 2;"})
    assert not found.script.transactional
    assert found.down == "\nSELECT 2;"


def test_repeatables_and_seeds_come_last() -> None:
    found = load(
        {
            "R__views.sql": "SELECT 1;",
            "R__functions.sql": "SELECT 2;",
            "seeds/20240101000000_users.sql": "-- env: development, test\n-- migrate:up\nSELECT 3;",
            "seeds/README.md": "",
            "20250101000000_a.sql": "SELECT 4;",
        }
    )
    assert [(one.kind, one.version, one.name, one.key) for one in found] == [
        ("Versioned", 20250101000000, "a", "20250101000000"),
        ("Repeatable", 0, "functions", "Repeatable:functions"),
        ("Repeatable", 0, "views", "Repeatable:views"),
        ("Seed", 0, "20240101000000_users", "Seed:20240101000000_users"),
    ]
    assert found[3].directives.environments == ("development", "test")


def test_an_empty_way_down_is_none() -> None:
    """dbmate's template has the marker and nothing below it; to undo nothing is said with a comment."""
    empty, file, said = load(
        {
            "1_a.sql": "-- migrate:up\nSELECT 1;\n-- migrate:down\n\n",
            "2_b.up.sql": "SELECT 1;",
            "2_b.down.sql": "",
            "3_c.sql": "-- migrate:up\nSELECT 1;\n-- migrate:down\n-- nothing to undo\n",
        }
    )
    assert (empty.down, file.down) == (None, None)
    assert said.down is not None
    assert said.down_script.statements == ()


def test_reasons_behind_allow() -> None:
    (found,) = load({"1_a.sql": "-- allow: drop-column nobody reads it, drop-table\n-- allow: truncate\nSELECT 1;"})
    assert found.directives.allow == ("drop-column", "drop-table", "truncate")


def test_the_way_down_that_the_history_keeps() -> None:
    """What a direction asks for may stand outside of its text: above the markers, or behind them."""
    text = "-- lock-timeout: 1500ms\n-- migrate:up\nSELECT 1;\n-- migrate:down transaction:false\n-- note: x\nSELECT 2;"
    (found,) = load({"1_a.sql": text})
    kept = undo_only(1, "a", found.stored_down, file="1_a.sql")
    assert kept.down_directives == found.down_directives
    assert (kept.down_directives.transaction, kept.down_directives.lock_timeout) == (False, 1.5)
    assert [one.text for one in kept.down_script.statements] == ["SELECT 2"]
    (json_file,) = load(
        {"1_a.json": '{"transaction": true, "up": [{"find": "a"}], "down": [{"find": "b"}]}'}, "MongoDB"
    )
    kept = undo_only(1, "a", json_file.stored_down, file="1_a.json", engine="MongoDB")
    assert (kept.down_directives.transaction, kept.down_commands[0].document) == (True, {"find": "b"})
    (plain,) = load({"1_a.json": '{"up": [{"ping": 1}], "down": [{"ping": 2}]}'}, "MongoDB")
    assert undo_only(1, "a", plain.stored_down, file="1_a.json", engine="MongoDB").down == plain.down
    assert undo_only(1, "a", None, file="1_a.sql").reversible is False


def test_directives_survive_being_written_down() -> None:
    every = Directives(False, 2.0, 0.0, ("drop-table", "rename"), True, 16, ("staging", "test"))
    assert header("a.sql", render(every), 1) == every
    assert render(Directives()) == ""


@pytest.mark.parametrize("rest", ["", "\n-- DROP TABLE a;", "\n/* nothing\n to do */\n"])
def test_a_way_down_of_another_tool_that_says_nothing_is_a_comment(rest: str) -> None:
    (one,) = load({"1_a.sql": f"SELECT 1;\n-- Down Migration{rest}"})
    assert len(one.script.statements) == 1


def test_a_comment_like_another_tools_marker_beside_our_own() -> None:
    (one,) = load({"1_a.sql": "-- migrate:up\nSELECT 1;\n-- migrate:down\n-- Down Migration\nSELECT 2;"})
    assert one.down == "\n-- Down Migration\nSELECT 2;"
