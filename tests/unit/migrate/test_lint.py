"""What is said about a migration before it runs: losses, what running code meets, names, and squawk's rules."""

from __future__ import annotations

from pathlib import Path

import pytest

from selvedge.core.errors import InvalidError
from selvedge.migrate import load, squawk
from selvedge.migrate.conventions import Conventions
from selvedge.migrate.files import load_directory
from selvedge.migrate.lint import Finding, advice, destructive, lint

ROOT = Path(__file__).resolve().parents[3]

LOSES = {
    "DROP TABLE a": "drop-table",
    "drop table if exists shop.a, b cascade": "drop-table",
    "DROP FOREIGN TABLE a": "drop-table",
    "DROP SCHEMA a CASCADE": "drop-schema",
    "DROP DATABASE a": "drop-database",
    "DROP SEQUENCE a": "drop-sequence",
    "DROP EXTENSION hstore": "drop-extension",
    "DROP OWNED BY app": "drop-owned",
    "DROP VIEW a CASCADE": "drop-cascade",
    "DROP TYPE a CASCADE": "drop-cascade",
    "ALTER TABLE a DROP b": "drop-column",
    "ALTER TABLE ONLY shop.a ADD COLUMN x int, DROP COLUMN IF EXISTS b": "drop-column",
    "ALTER TYPE pair DROP ATTRIBUTE b": "drop-column",
    "TRUNCATE a": "truncate",
    "TRUNCATE TABLE ONLY a, b RESTART IDENTITY CASCADE": "truncate",
    "DELETE FROM a": "delete-all",
    "DELETE FROM a WHERE true RETURNING id": "delete-all",
    "DELETE FROM a USING b": "delete-all",
    "WITH gone AS (DELETE FROM a RETURNING *) INSERT INTO b SELECT * FROM gone WHERE true": "delete-all",
    "EXPLAIN ANALYZE DELETE FROM a": "delete-all",
    "UPDATE a SET b = 1": "update-all",
    "UPDATE a SET b = (SELECT max(c) FROM d WHERE e)": "update-all",
    "ALTER TABLE a ALTER b TYPE varchar(20)": "narrow-type",
    "ALTER TABLE a ALTER COLUMN b SET DATA TYPE int USING b::int": "narrow-type",
    "ALTER TABLE a RENAME TO b": "rename",
    "ALTER TABLE a RENAME b TO c": "rename",
    "ALTER TABLE a SET SCHEMA archive": "rename",
    "ALTER TYPE role RENAME VALUE 'a' TO 'b'": "rename",
    "ALTER FUNCTION f(int) RENAME TO g": "rename",
    "ALTER SCHEMA a RENAME TO b": "rename",
    "ALTER TABLE a SET UNLOGGED": "set-unlogged",
    "DO $$ BEGIN IF true THEN DROP TABLE a; END IF; END $$": "drop-table",
    "DO LANGUAGE plpgsql 'BEGIN DELETE FROM a; END'": "delete-all",
    "DO $$ BEGIN EXECUTE format('DROP TABLE %I', 'a'); END $$": "drop-table",
    "DO $$ BEGIN EXECUTE 'ALTER TABLE a DROP COLUMN b'; END $$": "drop-column",
}

KEEPS = [
    "DROP INDEX a",
    "DROP VIEW a",
    "DROP FUNCTION f(int)",
    "DROP TRIGGER t ON a",
    "ALTER TABLE a DROP CONSTRAINT b",
    "ALTER TABLE a ALTER b DROP DEFAULT",
    "ALTER INDEX a RENAME TO b",
    "ALTER TABLE a RENAME CONSTRAINT b TO c",
    "ALTER TABLE a ALTER b TYPE text",
    "ALTER TABLE a ALTER b TYPE bigint USING b::bigint",
    "ALTER TABLE a ALTER b TYPE timestamp with time zone",
    "DELETE FROM a WHERE b < 3",
    "DELETE FROM a WHERE id IN (SELECT id FROM b WHERE true)",
    "UPDATE a SET b = 1 WHERE b IS NULL",
    "INSERT INTO a VALUES (1) ON CONFLICT (id) DO UPDATE SET b = 1",
    "SELECT * FROM a FOR UPDATE",
    "COMMENT ON TABLE a IS 'never DROP TABLE a; or DELETE FROM a'",
    "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN DELETE FROM a; DROP TABLE b; END $$",
    "CREATE TRIGGER t BEFORE DELETE OR UPDATE ON a FOR EACH ROW EXECUTE FUNCTION f()",
    "CREATE TABLE b (a_id int REFERENCES a ON DELETE CASCADE ON UPDATE CASCADE)",
    "CREATE TABLE t (id int); DROP TABLE t",
    "CREATE TABLE s.t AS SELECT 1; TRUNCATE s.t; DELETE FROM s.t; ALTER TABLE s.t DROP COLUMN a",
    "SELECT 1 AS a INTO scratch FROM b; DROP TABLE scratch",
    "CREATE SCHEMA s; CREATE TABLE s.t (id int); DROP SCHEMA s CASCADE",
    "CREATE TABLE t (id int); ALTER TABLE t RENAME TO u; DROP TABLE u",
    "ALTER TABLE a ADD COLUMN b int; UPDATE a SET b = c * 2; ALTER TABLE a DROP COLUMN b",
    "ALTER TABLE a ADD b int, ADD c int; UPDATE a SET b = 1, c = (SELECT max(x) FROM d)",
    "DO $$ BEGIN DELETE FROM a WHERE b; END $$",
    """CREATE TYPE new_state AS ENUM ('a'); ALTER TABLE t ALTER s TYPE new_state USING (s::text::new_state);
    DROP TYPE state; ALTER TYPE new_state RENAME TO state""",
    "CREATE VIEW v AS SELECT 1; ALTER VIEW v RENAME TO w",
]


@pytest.mark.parametrize(("text", "rule"), LOSES.items())
def test_what_loses_data(text: str, rule: str) -> None:
    found = destructive(load({"1_a.sql": f"SELECT 1;\n{text};"}))
    assert {one.rule for one in found} == {rule}
    assert found[0].file == "1_a.sql"
    assert found[0].line == 2
    assert f"-- allow: {rule}" in found[0].next_step
    assert destructive(load({"1_a.sql": f"-- allow: {rule}\n{text};"})) == ()


@pytest.mark.parametrize("text", KEEPS)
def test_what_loses_nothing(text: str) -> None:
    assert destructive(load({"1_a.sql": text})) == ()


NOT_FRESH = [
    ("CREATE TABLE IF NOT EXISTS t (id int); DROP TABLE t", "it may have been there before"),
    ("CREATE TABLE s.t (id int); DROP TABLE t", "t may be in another schema"),
    ("CREATE TABLE t (id int); SET search_path TO other; DROP TABLE t", "t is in another schema now"),
    ("CREATE TABLE t (id int); SELECT set_config('search_path', '', false); DELETE FROM t", "the same"),
    ("CREATE TABLE t (id int); ALTER TABLE t RENAME TO u; DROP TABLE t", "t is somebody else's by now"),
    ("CREATE TABLE t (id int); DROP TABLE t; DROP TABLE t", "the second one was there before"),
    ("ALTER TABLE a ADD b int; UPDATE a SET b = 1, c = 2", "c was there before"),
    ("CREATE FUNCTION t() RETURNS int LANGUAGE sql AS 'SELECT 1'; DROP TABLE t", "a function is no table"),
    ("CREATE TYPE n AS ENUM ('a'); ALTER TABLE t ALTER s TYPE n USING (CASE s WHEN 'b' THEN 'a' END)::n", "b is lost"),
    ("CREATE TYPE n AS ENUM ('a'); ALTER TABLE t ALTER s TYPE n USING left(s, 1)::n", "the rest is lost"),
]


@pytest.mark.parametrize(("text", "why"), NOT_FRESH)
def test_what_is_not_fresh(text: str, why: str) -> None:
    assert len(destructive(load({"1_a.sql": text}))) == 1, why


def test_fresh_in_the_same_plan() -> None:
    plan = load({"1_a.sql": "CREATE TABLE shop.t (id int);", "2_b.sql": "DROP TABLE shop.t;"})
    assert destructive(plan) == ()
    assert [one.file for one in destructive(plan[1:])] == ["2_b.sql"]


def test_the_way_down_has_its_own_allowance() -> None:
    text = "-- migrate:up\nCREATE TABLE t (id int);\n-- migrate:down\n{}DROP TABLE t;"
    (bare,) = load({"1_a.sql": text.format("")})
    (allowed,) = load({"1_a.sql": text.format("-- allow: drop-table\n")})
    assert [(one.rule, one.line) for one in destructive([bare], direction="down")] == [("drop-table", 4)]
    assert destructive([allowed], direction="down") == ()


def test_lines_in_a_block() -> None:
    (found,) = destructive(load({"1_a.sql": "SELECT 1;\nDO $$\nBEGIN\n  DROP TABLE a;\nEND $$;"}))
    assert found.line == 4


def test_mongodb() -> None:
    text = """[
  {"create": "new"}, {"drop": "new"},
  {"drop": "designs"},
  {"delete": "designs", "deletes": [{"q": {}, "limit": 0}]},
  {"delete": "designs", "deletes": [{"q": {"a": 1}, "limit": 0}]},
  {"renameCollection": "a.b", "to": "a.c"}
]"""
    found = destructive(load({"1_a.json": text}, "MongoDB"))
    assert [(one.rule, one.line) for one in found] == [("drop-collection", 3), ("delete-all", 4), ("rename", 6)]
    allowed = '{"allow": ["drop-collection"], "up": [{"drop": "designs"}]}'
    assert destructive(load({"1_a.json": allowed}, "MongoDB")) == ()


MONGO_LOSSES = {
    '{"aggregate": "a", "pipeline": [{"$match": {}}, {"$out": "b"}], "cursor": {}}': "replace-collection: takes every "
    "document out of b and puts a result there ($out)",
    '{"aggregate": "a", "pipeline": [{"$out": {"db": "other", "coll": "b"}}], "cursor": {}}': "replace-collection: "
    "takes every document out of other.b and puts a result there ($out)",
    '{"aggregate": "a", "pipeline": [{"$merge": "b"}], "cursor": {}}': "overwrite-documents: writes over documents of "
    "b that have the same key ($merge)",
    '{"aggregate": "a", "pipeline": [{"$merge": {"into": {"db": "x", "coll": "b"}, "whenMatched": "replace"}}]}': (
        "overwrite-documents: writes over documents of x.b that have the same key ($merge)"
    ),
    '{"aggregate": "a", "pipeline": [{"$merge": {"into": "b", "whenMatched": "keepExisting"}}]}': "",
    '{"update": "a", "updates": [{"q": {}, "u": {"$set": {"x": 1}}, "multi": true}]}': "update-all: changes every "
    "document of a",
    '{"update": "a", "updates": [{"q": {}, "u": {"$set": {"x": 1}}}]}': "",
    '{"x-batchUpdate": {"coll": "a", "update": {"$set": {"x": 1}}}}': "update-all: changes every document of a",
    '{"x-batchUpdate": {"coll": "a", "filter": {"x": null}, "update": {"$set": {"x": 1}}}}': "",
    '{"delete": "a", "deletes": [{"q": {}, "limit": {"$numberInt": "1"}}]}': "",
    '{"delete": "a", "deletes": [{"q": {}, "limit": {"$numberInt": "0"}}]}': "delete-all: deletes every document of a",
    '{"createIndexes": "a", "indexes": [{"key": {"x": 1}, "name": "x", "expireAfterSeconds": 60}]}': "expire-documents:"
    " has the server delete documents of a that are older than 60 s",
    '{"collMod": "a", "index": {"name": "x", "expireAfterSeconds": {"$numberLong": "60"}}}': "expire-documents: has "
    "the server delete documents of a that are older than 60 s",
    '{"collMod": "a", "expireAfterSeconds": "off"}': "",
    '{"convertToCapped": "a", "size": 1000}': "convert-to-capped: drops the oldest documents of a beyond its new size",
}


@pytest.mark.parametrize("command", MONGO_LOSSES)
def test_what_mongodb_loses(command: str) -> None:
    found = [f"{one.rule}: {one.message}" for one in destructive(load({"1_a.json": f"[{command}]"}, "MongoDB"))]
    assert found == ([MONGO_LOSSES[command]] if MONGO_LOSSES[command] else [])


def test_a_rename_over_another_collection_drops_that() -> None:
    text = '[{"renameCollection": "a", "to": "b", "dropTarget": true}]'
    found = destructive(load({"1_a.json": text}, "MongoDB"))
    assert [one.rule for one in found] == ["rename", "drop-collection"]


def test_what_a_mongodb_plan_makes_is_nobodys() -> None:
    files = {
        "1_a.json": '[{"create": "new"}, {"create": "old", "ifNotExists": true}]',
        "2_b.json": '[{"drop": "new"}, {"drop": "old"}, {"renameCollection": "new", "to": "newer"}]',
    }
    assert [str(one).split(":")[0] for one in destructive(load(files, "MongoDB"))] == ["2_b.json, line 1"]
    assert [one.message for one in advice(load(files, "MongoDB"))] == [
        "code that runs now may still use collection old"
    ]


MONGO_BREAKS = {
    '{"drop": "a"}': "may still use collection a",
    '{"renameCollection": "a", "to": "b"}': "knows collection a by its old name",
    '{"dropIndexes": "a", "index": "x"}': "may need the index of a that is dropped",
    '{"collMod": "a", "validator": {"x": 1}}': "may write documents into a that the new validator refuses",
    '{"collMod": "a", "validator": {"x": 1}, "validationAction": "warn"}': "",
    '{"update": "a", "updates": [{"q": {"x": 1}, "u": {"$unset": {"x": ""}}, "multi": true}]}': "may still read field "
    "x of a",
    '{"x-batchUpdate": {"coll": "a", "filter": {"x": 1}, "update": [{"$unset": ["x"]}]}}': "may still read field x "
    "of a",
    '{"update": "a", "updates": [{"q": {"x": 1}, "u": {"$rename": {"x": "y"}}}]}': "knows field x of a by its old name",
    '{"insert": "a", "documents": [{"x": 1}]}': "",
}


@pytest.mark.parametrize("command", MONGO_BREAKS)
def test_what_code_meets_that_runs_now(command: str) -> None:
    found = advice(load({"1_a.json": f"[{command}]"}, "MongoDB"))
    said = MONGO_BREAKS[command]
    assert [one.message for one in found] == ([f"code that runs now {said}"] if said else [])
    silenced = f'{{"allow": ["breaks-running-code"], "up": [{command}]}}'
    assert advice(load({"1_a.json": silenced}, "MongoDB")) == ()


def test_a_word_of_mongodbs_that_allows_nothing() -> None:
    text = '{"allow": ["drop-table", "drop-collection", "validator-violations"], "up": [{"drop": "a"}]}'
    (_, found) = lint(load({"1_a.json": text}, "MongoDB"))
    assert (found.rule, found.message) == ("unknown-allow", '"allow": ["drop-table"] is no rule and allows nothing')


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


BREAKS = {
    "ALTER TABLE a RENAME b TO c": "knows column b of a by its old name",
    "ALTER TABLE a DROP b": "may still read column b of a",
    "DROP TABLE a": "may still use table a",
    "DROP FUNCTION f(int)": "may still use function f",
    "ALTER TABLE a ADD b int NOT NULL": "inserts rows without column b of a",
    "ALTER TABLE a ALTER b SET NOT NULL": "may write no value into column b of a",
    "ALTER TABLE a ALTER b DROP DEFAULT": "may rely on the default of column b of a",
    "ALTER TABLE a ALTER b TYPE text": "reads and writes column b of a with its old type",
}
HOLDS = [
    "ALTER TABLE a ADD b int",
    "ALTER TABLE a ADD b int NOT NULL DEFAULT 1",
    "ALTER TABLE a ADD b bigint GENERATED ALWAYS AS IDENTITY NOT NULL",
    "ALTER TABLE a ADD b bigserial PRIMARY KEY",
    "CREATE TABLE a (b int NOT NULL); ALTER TABLE a ALTER b DROP DEFAULT",
    "DROP VIEW v; CREATE VIEW v AS SELECT 1",
    "DROP FUNCTION f(int); CREATE OR REPLACE FUNCTION f(a int) RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "DROP INDEX a",
]


@pytest.mark.parametrize(("text", "what"), BREAKS.items())
def test_what_running_code_does_not_survive(text: str, what: str) -> None:
    (found,) = [one for one in own(text) if one.rule == "breaks-running-code"]
    assert what in found.message
    assert found.next_step
    assert found.severity == "warning"


@pytest.mark.parametrize("text", HOLDS)
def test_what_running_code_survives(text: str) -> None:
    assert not [one for one in own(text) if one.rule == "breaks-running-code"]


NAMES = {
    "CREATE TABLE shop.order (id int)": "table order is not in the plural",
    'CREATE TABLE "Orders" (id int)': "table Orders is not in snake_case",
    'CREATE TABLE orders ("userId" int)': "column userId of orders is not in snake_case",
    "CREATE TABLE orders (paid boolean NOT NULL)": "boolean column paid of orders asks no question",
    "CREATE INDEX orders_paid ON shop.orders (paid_at)": "index orders_paid of table orders is named otherwise",
    "CREATE UNIQUE INDEX idx_orders_number ON orders (number)": "unique index idx_orders_number",
    "ALTER TABLE orders ADD CONSTRAINT positive CHECK (price > 0)": "check positive of table orders",
    "CREATE TABLE orders (id int, CONSTRAINT orders_pkey PRIMARY KEY (id))": "primary key orders_pkey",
    "ALTER TABLE orders ADD CONSTRAINT x FOREIGN KEY (user_id) REFERENCES users (id)": "foreign key x",
    "ALTER TABLE orders ADD CONSTRAINT u UNIQUE (number)": "unique u of table orders",
    "ALTER TABLE orders ADD buyer uuid REFERENCES shared.users (id)": "column buyer of orders refers to shared.users",
}
GOOD_NAMES = [
    """CREATE TABLE shop.orders (id int CONSTRAINT pk_orders PRIMARY KEY, user_id uuid REFERENCES shared.users (id),
    created_by uuid REFERENCES shared.users, is_paid boolean, category_id int REFERENCES categories,
    CONSTRAINT chk_orders_price CHECK (true), CONSTRAINT unq_orders_user_id_number UNIQUE (user_id, number),
    CONSTRAINT fk_orders_users_user_id FOREIGN KEY (user_id) REFERENCES shared.users (id))""",
    "CREATE INDEX idx_orders_price ON shop.orders (price)",
    "CREATE INDEX ON shop.orders (price)",
    "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS uidx_orders_number ON ONLY shop.orders (lower(number))",
    "CREATE TABLE orders_p0 PARTITION OF orders FOR VALUES FROM (1) TO (2)",
    "CREATE TABLE user_activity (id int)",
]


@pytest.mark.parametrize(("text", "what"), NAMES.items())
def test_names(text: str, what: str) -> None:
    (found,) = [one for one in own(text) if one.rule == "naming"]
    assert what in found.message
    assert (found.severity, bool(found.next_step)) == ("advice", True)


@pytest.mark.parametrize("text", GOOD_NAMES)
def test_names_that_keep_the_conventions(text: str) -> None:
    assert not [one for one in own(text) if one.rule == "naming"]


def test_conventions_are_configurable() -> None:
    wanted = Conventions.from_mapping(
        {"index": "{table}_{columns}_idx", "plural_tables": False, "boolean_prefixes": []}
    )
    text = "CREATE TABLE item (paid boolean); CREATE INDEX item_paid_idx ON item (paid)"
    assert not own(text, wanted)
    for given, why in (
        ({"indexes": "x"}, "'indexes' is not known"),
        ({"index": 1}, "index is a text"),
        ({"plural_tables": "yes"}, "plural_tables is true or false"),
        ({"boolean_prefixes": "is_"}, "boolean_prefixes is a list of texts"),
    ):
        with pytest.raises(InvalidError, match=why):
            Conventions.from_mapping(given)


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


def test_our_own_migrations() -> None:
    """Errors and warnings that stand there are known; a plan of all of them asks nobody."""
    postgres = load_directory(ROOT / "migrations" / "postgres")
    assert destructive(postgres) == ()
    assert destructive(load_directory(ROOT / "migrations" / "mongodb", "MongoDB")) == ()
    found = lint(postgres)
    assert not [str(one) for one in found if one.severity == "error"]
    assert not [str(one) for one in found if one.rule == "naming" and "regional_prices" not in one.message]


def own(text: str, conventions: Conventions | None = None) -> list[Finding]:
    found = lint(load({"1_a.sql": text}), conventions=conventions, use_squawk=False)
    return [one for one in found if one.severity != "error"]
