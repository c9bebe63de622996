"""What a plan loses, and what it made itself."""

from __future__ import annotations

import pytest

from selvedge.migrate import load
from selvedge.migrate.lint import destructive

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
