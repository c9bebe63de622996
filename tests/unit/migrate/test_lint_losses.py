"""What a plan loses, and what it made itself."""

from __future__ import annotations

import pytest

from selvedge.migrate import load, split_hooks
from selvedge.migrate.lint import destructive
from selvedge.migrate.lint_facts import Fact, facts
from selvedge.migrate.lint_fresh import Fresh

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
    "DELETE FROM ONLY (a)": "delete-all",
    "DELETE FROM a * WHERE 2 > 1": "delete-all",
    "DELETE FROM a WHERE NOT false": "delete-all",
    "DELETE FROM a WHERE (b < 3 OR (1 = 1))": "delete-all",
    "DELETE FROM a WHERE id = id": "delete-all",
    'DELETE FROM U&"\\0061"': "delete-all",
    "DELETE FROM 😀": "delete-all",
    "UPDATE ONLY (a) SET b = 1": "update-all",
    "UPDATE a SET b = CASE WHEN c THEN 1 ELSE 2 END": "update-all",
    "TRUNCATE ONLY (a), b *": "truncate",
    "ALTER TABLE ONLY (a) DROP COLUMN b": "drop-column",
    "ALTER TABLE a DROP CONSTRAINT a_pkey CASCADE": "drop-cascade",
    "DROP DOMAIN a CASCADE": "drop-cascade",
    "DROP FUNCTION f(int) CASCADE": "drop-cascade",
    "DROP MATERIALIZED VIEW a CASCADE": "drop-cascade",
    "ALTER TYPE pair ALTER ATTRIBUTE b TYPE int": "narrow-type",
    "ALTER TABLE a ALTER b TYPE text USING left(b, 1)": "narrow-type",
    "ALTER TABLE a ALTER b TYPE text USING 'x'": "narrow-type",
    "ALTER TABLE a ALTER b TYPE text USING c": "narrow-type",
    "ALTER TABLE a ALTER b TYPE text USING b::int::text": "narrow-type",
    "WITH x AS (DELETE FROM a RETURNING *) SELECT * FROM x": "delete-all",
    "(WITH x AS (DELETE FROM a RETURNING *) SELECT * FROM x)": "delete-all",
    "WITH x AS MATERIALIZED (UPDATE a SET b = 1 RETURNING *) SELECT * FROM x WHERE id = 1": "update-all",
    "CREATE TABLE old AS WITH x AS (DELETE FROM a RETURNING *) SELECT * FROM x": "delete-all",
    "COPY (DELETE FROM a RETURNING *) TO '/tmp/a'": "delete-all",
    "PREPARE p AS DELETE FROM a": "delete-all",
    "EXPLAIN (ANALYZE, BUFFERS) DELETE FROM a": "delete-all",
    "WITH RECURSIVE r AS (SELECT 1 AS n) SEARCH DEPTH FIRST BY n SET o DELETE FROM a USING r": "delete-all",
    "MERGE INTO a USING b ON a.id = b.id WHEN MATCHED THEN DELETE": "delete-all",
    "MERGE INTO a USING b ON a.id = b.id WHEN MATCHED AND true THEN DELETE": "delete-all",
    "MERGE INTO ONLY a AS t USING b ON t.id = b.id WHEN NOT MATCHED BY SOURCE THEN DELETE": "delete-all",
    "MERGE INTO a USING b ON a.id = b.id WHEN NOT MATCHED BY SOURCE THEN UPDATE SET c = 1": "update-all",
    "MERGE INTO a USING (SELECT 1) b ON true WHEN MATCHED THEN UPDATE SET c = 1": "update-all",
    "WITH x AS (MERGE INTO a USING b ON true WHEN MATCHED THEN DELETE RETURNING *) SELECT * FROM x": "delete-all",
    "DO $$ BEGIN TRUNCATE a; END $$": "truncate",
    "DO $$ BEGIN UPDATE a SET b = CASE WHEN c THEN 1 ELSE 2 END; END $$": "update-all",
    "DO $$ BEGIN MERGE INTO a USING b ON a.id = b.id WHEN MATCHED THEN DELETE; END $$": "delete-all",
    "DO $$ BEGIN IF CASE WHEN a THEN b ELSE c END THEN DELETE FROM a; END IF; END $$": "delete-all",
    "DO $$ DECLARE r record; BEGIN FOR r IN DELETE FROM a RETURNING * LOOP NULL; END LOOP; END $$": "delete-all",
    "DO $$ BEGIN WHILE x LOOP <<y>> BEGIN DROP TABLE a; END; END LOOP; END $$": "drop-table",
    "DO $$ BEGIN EXECUTE 'DELETE FROM ' || quote_ident(t); END $$": "delete-all",
    "DO $$ BEGIN EXECUTE format('UPDATE %I SET b = %L', t, 1); END $$": "update-all",
    "DO $$ BEGIN EXECUTE 'ALTER TABLE ' || t || ' DROP COLUMN b'; END $$": "drop-column",
    "DO $$ BEGIN FOR t IN EXECUTE 'DELETE FROM a RETURNING *' LOOP NULL; END LOOP; END $$": "delete-all",
    "DO $$ BEGIN EXECUTE concat('DROP TABLE ', t); END $$": "drop-table",
    "DO $$ BEGIN EXECUTE (SELECT string_agg('DROP TABLE ' || t, ';') FROM a); END $$": "drop-table",
    "DO $$ DECLARE s text := 'TRUNCATE '; BEGIN s := s || 'a'; EXECUTE s; END $$": "truncate",
    "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'DELETE FROM a'; SELECT f()": "delete-all",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'DELETE FROM a'; INSERT INTO b SELECT f()": "delete-all",
    "CREATE FUNCTION s.f() RETURNS int LANGUAGE sql BEGIN ATOMIC DELETE FROM a; END; SELECT s.f()": "delete-all",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'DELETE FROM a'; INSERT INTO b VALUES (1), (f())": "delete-all",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'DELETE FROM a'; DO $$ BEGIN INSERT INTO b SELECT f(); END $$": (
        "delete-all"
    ),
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'DELETE FROM a'; CALL p(f())": "delete-all",
    "CREATE PROCEDURE p() LANGUAGE plpgsql AS $$ BEGIN TRUNCATE a; END $$; CALL p()": "truncate",
    "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'DELETE FROM a'; DO $$ BEGIN PERFORM f(); END $$": "delete-all",
    """CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'DELETE FROM a'; CREATE FUNCTION g() RETURNS int LANGUAGE sql """
    "AS 'SELECT f()'; SELECT g()": "delete-all",
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
    "DELETE FROM a WHERE false",
    "DELETE FROM ONLY (a) WHERE b",
    "SELECT delete FROM a; SELECT a.delete FROM a",
    "ALTER TABLE a ALTER b TYPE timestamptz USING b AT TIME ZONE 'UTC'",
    "ALTER TABLE a ALTER b TYPE text USING (b::text)",
    "ALTER TABLE a ALTER b TYPE text USING CAST(b AS text)",
    "MERGE INTO a USING b ON a.id = b.id WHEN MATCHED THEN UPDATE SET c = 1 WHEN NOT MATCHED THEN INSERT VALUES (1)",
    "MERGE INTO a USING b ON a.id = b.id WHEN MATCHED AND b.gone THEN DELETE",
    "ALTER TABLE a DETACH PARTITION b",
    "CREATE RULE r AS ON DELETE TO a DO INSTEAD DELETE FROM b",
    "CREATE FUNCTION f() RETURNS void LANGUAGE sql BEGIN ATOMIC DELETE FROM a; END",
    "DO $$ BEGIN EXECUTE 'DELETE FROM ' || quote_ident(t) || ' WHERE b'; END $$",
    "CREATE TEMP TABLE t (id int); DROP TABLE t",
    "CREATE TABLE n (id int, c int); ALTER TABLE a ADD b int REFERENCES n; UPDATE n SET c = 1; DROP TABLE n CASCADE",
    "ALTER TABLE a ADD b int, ADD c int; UPDATE a SET b = x IS DISTINCT FROM y, c = 2 FROM d, e",
    "CREATE TABLE a.t (id int); ALTER TABLE a.t SET SCHEMA b; DROP TABLE b.t",
    "CREATE TABLE a.t (id int); CREATE TABLE b.t (id int); DROP TABLE a.t; DROP TABLE b.t",
    "CREATE TABLE t (id int); ALTER TABLE t ADD b int; ALTER TABLE t RENAME b TO c; ALTER TABLE t DROP c",
    """CREATE TABLE p (i int) PARTITION BY LIST (i); CREATE TABLE c (i int); ALTER TABLE p ATTACH PARTITION c DEFAULT;
    DROP TABLE p""",
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
    ("CREATE TYPE n AS ENUM ('a'); ALTER TABLE t ALTER s TYPE n USING 'a'", "every value is lost"),
    ("CREATE TABLE a.t (id int); DROP TABLE t", "t may be public.t"),
    ("CREATE TABLE t (id int); SET SCHEMA 'other'; DROP TABLE t", "the search path by another name"),
    ("CREATE TABLE t (id int); SET LOCAL search_path = other; DROP TABLE t", "the same"),
    ('CREATE TABLE t (id int); SET "search_path" = other; DROP TABLE t', "the same"),
    ("CREATE TABLE t (id int); SET ROLE other; DROP TABLE t", '"$user" is another one'),
    ("CREATE TABLE t (id int); DISCARD ALL; DROP TABLE t", "the path is another one"),
    (
        "CREATE TABLE t (id int); WITH x AS (SELECT set_config('search_path', '', true)) TABLE x; DROP TABLE t",
        "",
    ),
    ("CREATE TABLE t (id int); INSERT INTO a SELECT pg_catalog.set_config('search_path', '', false); DROP TABLE t", ""),
    ("CREATE TABLE t (id int); UPDATE pg_settings SET setting = '' WHERE name = 'search_path'; DROP TABLE t", ""),
    ("CREATE TABLE t (id int); DO $$ BEGIN PERFORM set_config('search_path', '', false); END $$; DROP TABLE t", ""),
    (
        "CREATE TABLE t(); DO $$ DECLARE x text := set_config('search_path', '', true); BEGIN END $$;DROP TABLE t",
        "",
    ),
    ("CREATE TABLE t (id int); DO $$ BEGIN EXECUTE 'SET search_path = other'; END $$; DROP TABLE t", "run at once"),
    ("CREATE TABLE t (id int); DO $$ BEGIN EXECUTE x; END $$; DROP TABLE t", "whatever x is"),
    ("CREATE TABLE t (id int); CALL p(); DROP TABLE t", "whatever p does"),
    ("CREATE TABLE a.t (id int); ALTER TABLE a.t SET SCHEMA b; DROP TABLE a.b", "moved, and not renamed to b"),
    ("CREATE TABLE a.t (id int); ALTER TABLE a.t SET SCHEMA b; DROP TABLE a.t", "that one went to b"),
    (
        "-- allow: rename\nCREATE SCHEMA s; ALTER TABLE public.t SET SCHEMA s; DROP TABLE s.t",
        "it was there before s was",
    ),
    ("-- allow: rename\nCREATE SCHEMA s; ALTER TABLE public.t SET SCHEMA s; DROP SCHEMA s CASCADE", "the same"),
    (
        "-- allow: rename\nCREATE SCHEMA s; ALTER SCHEMA s RENAME TO u; ALTER SCHEMA p RENAME TO s; DROP SCHEMA s",
        "it was p",
    ),
    (
        "-- allow: rename\nCREATE TABLE t (id int); ALTER SCHEMA a RENAME TO b; DROP TABLE t",
        "b may come first in the path",
    ),
    (
        """-- allow: rename
        ALTER TABLE a ADD b int; ALTER TABLE a RENAME b TO c; ALTER TABLE a RENAME d TO b; ALTER TABLE a DROP b""",
        "b was d",
    ),
    (
        """-- allow: rename
        ALTER TABLE a ADD b int; ALTER TABLE a RENAME TO c; ALTER TABLE d RENAME TO a; ALTER TABLE a DROP b""",
        "a was d",
    ),
    ("CREATE TABLE s (id int); DROP SCHEMA s", "a table is no schema"),
    ("CREATE TABLE hstore (id int); DROP EXTENSION hstore", "nor an extension"),
    ('CREATE TABLE u (id int); DROP TABLE U&"\\0061"', "written with escapes"),
    ("DO $$ BEGIN IF x THEN CREATE TABLE t (id int); END IF; END $$; DROP TABLE t", "it may not have been made"),
    ("DO $$ BEGIN CREATE TABLE t (id int); EXCEPTION WHEN duplicate_table THEN NULL; END $$; DROP TABLE t", "the same"),
    ("DO $$ DECLARE t int; BEGIN SELECT count(*) INTO t FROM a; END $$; DROP TABLE t", "a variable"),
    ("EXPLAIN CREATE TABLE t AS SELECT 1; DROP TABLE t", "not made at all"),
    ("SAVEPOINT a; CREATE TABLE t (id int); ROLLBACK TO a; DROP TABLE t", "taken back"),
    ("ALTER TABLE a ADD COLUMN IF NOT EXISTS b int; UPDATE a SET b = 1", "b may have been there before"),
    ("ALTER TABLE a ADD b int; UPDATE a SET b = 1, (c, d) = (SELECT 2, 3)", "c and d were there before"),
    ("CREATE VIEW v AS SELECT * FROM a; DELETE FROM v", "the rows are those of a"),
    ("CREATE SCHEMA s; CREATE VIEW s.v AS SELECT * FROM a; DELETE FROM s.v", "the same"),
    ("CREATE FOREIGN TABLE f (id int) SERVER s; TRUNCATE f", "the rows are another server's"),
    (
        "CREATE TABLE p (id int) PARTITION BY LIST (id); ALTER TABLE p ATTACH PARTITION a DEFAULT; DROP TABLE p",
        "with a",
    ),
    ("CREATE TABLE p (id int); ALTER TABLE a INHERIT p; DELETE FROM p", "of a too"),
    ("CREATE SCHEMA s; CREATE TABLE s.p (id int); ALTER TABLE a INHERIT s.p; DROP SCHEMA s CASCADE", "with a"),
    ("CREATE TABLE n (id int); ALTER TABLE a ADD b int REFERENCES n ON DELETE CASCADE; DELETE FROM n", "of a too"),
    ("CREATE TABLE n (id int); TRUNCATE n CASCADE", "and what refers to it"),
    ("CREATE TYPE n AS ENUM ('a'); ALTER TABLE t ALTER s TYPE n USING s::n; DROP TYPE n CASCADE", "with column s"),
    (
        "CREATE SCHEMA x; CREATE DOMAIN x.n AS int; ALTER TABLE t ALTER s TYPE x.n USING s::x.n; DROP SCHEMA x CASCADE",
        "with column s",
    ),
]


@pytest.mark.parametrize(("text", "why"), NOT_FRESH)
def test_what_is_not_fresh(text: str, why: str) -> None:
    assert len(destructive(load({"1_a.sql": text}))) == 1, why


def test_fresh_in_the_same_plan() -> None:
    plan = load({"1_a.sql": "CREATE TABLE shop.t (id int);", "2_b.sql": "DROP TABLE shop.t;"})
    assert destructive(plan) == ()
    assert [one.file for one in destructive(plan[1:])] == ["2_b.sql"]


def test_a_file_begins_with_the_path_of_the_run() -> None:
    """What one file makes by an unqualified name under a path of its own is nobody's in the next."""
    assert destructive(load({"1_a.sql": "CREATE TABLE t (id int);", "2_b.sql": "DROP TABLE t;"})) == ()
    for first in (
        "SET search_path = a; CREATE TABLE t (id int);",
        "SELECT set_config('search_path', 'a', true); CREATE TABLE t (id int);",
        "CREATE TEMP TABLE t (id int);",
        "CREATE TABLE t (id int); ALTER ROLE fw_owner SET search_path = a;",
        "CREATE TABLE t (id int); ALTER DATABASE shop SET search_path = a;",
    ):
        plan = load({"1_a.sql": first, "2_b.sql": "DROP TABLE t;"})
        assert [one.file for one in destructive(plan)] == ["2_b.sql"], first
    between = {"1_a.sql": "CREATE TABLE t (id int);", "2_b.sql": "SET search_path = a;", "3_c.sql": "DROP TABLE t;"}
    assert destructive(load(between)) == ()
    between["2_b.sql"] = "-- allow: drop-table\nSET search_path = a; DROP TABLE IF EXISTS t;"
    assert [one.file for one in destructive(load(between))] == ["3_c.sql"]


def test_a_hook_runs_before_the_plan_made_anything() -> None:
    hooks, _ = split_hooks({"beforeRun.sql": "DROP TABLE shop.t;"})
    plan = load({"1_a.sql": "CREATE TABLE shop.t (id int);"})
    assert [one.file for one in destructive([*plan, *hooks.all])] == ["beforeRun.sql"]


def test_the_way_down_has_its_own_allowance() -> None:
    text = "-- migrate:up\nCREATE TABLE t (id int);\n-- migrate:down\n{}DROP TABLE t;"
    (bare,) = load({"1_a.sql": text.format("")})
    (allowed,) = load({"1_a.sql": text.format("-- allow: drop-table\n")})
    assert [(one.rule, one.line) for one in destructive([bare], direction="down")] == [("drop-table", 4)]
    assert destructive([allowed], direction="down") == ()


def test_what_a_routine_of_the_plan_does_where_it_is_called() -> None:
    files = {
        "1_a.sql": "CREATE FUNCTION shop.clean() RETURNS void LANGUAGE sql AS 'DELETE FROM shop.carts';",
        "2_b.sql": "SELECT 1;\nSELECT shop.clean();",
    }
    (found,) = destructive(load(files))
    assert str(found).startswith(
        "2_b.sql, line 2: calls shop.clean, which deletes every row of shop.carts; add a WHERE"
    )


LARGE = "x" * 2_100_000


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        (f"DO $$ BEGIN PERFORM '{LARGE}'; DELETE FROM a; END $$", {"unread"}),
        (f"WITH v AS (VALUES ('{LARGE}')) UPDATE a SET b = 1", {"unread"}),
        (f"TRUNCATE a /* {LARGE} */", {"unread"}),
        (f"INSERT INTO a VALUES ('delete {LARGE}')", set()),
        (f"SELECT '{LARGE}'", set()),
        (f"CREATE TABLE t (id int); SELECT '{LARGE}'; DROP TABLE t", {"drop-table"}),
    ],
    ids=["block", "update", "comment", "insert", "select", "path"],
)
def test_a_statement_too_large_to_be_looked_through_is_asked_about(text: str, rules: set[str]) -> None:
    found = destructive(load({"1_a.sql": f"SELECT 1;\n{text};"}))
    assert {one.rule for one in found} == rules
    if "unread" in rules:
        assert "a statement of 2 MB is not looked through and may lose data; split it" in str(found[0])
        assert found[0].line == 2
        assert destructive(load({"1_a.sql": f"-- allow: unread\n{text};"})) == ()


def test_lines_in_a_block() -> None:
    (found,) = destructive(load({"1_a.sql": "SELECT 1;\nDO $$\nBEGIN\n  DROP TABLE a;\nEND $$;"}))
    assert found.line == 4


def test_functions_that_call_each_other_are_looked_through_so_far_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """With each level there may be ten times as many calls: 1 KB of them would be looked through for ever."""
    looked: list[Fact] = []
    learn = Fresh.learn
    monkeypatch.setattr(Fresh, "learn", lambda self, fact: (looked.append(fact), learn(self, fact))[1])
    text = "CREATE FUNCTION f0() RETURNS void LANGUAGE sql AS 'DELETE FROM a WHERE id = 1';\n"
    for level in range(1, 13):
        calls = f"SELECT f{level - 1}(); " * 10
        text += f"CREATE FUNCTION f{level}() RETURNS void LANGUAGE sql AS '{calls}';\n"
    found = destructive(load({"1_a.sql": f"{text}SELECT f2();"}))
    assert found == (), "each call is gone through where they are few"
    assert len(looked) < 1000
    looked.clear()
    found = destructive(load({"1_a.sql": f"{text}SELECT f12();"}))
    assert [(one.line, one.rule) for one in found] == [(14, "unread")]
    assert found[0].message == "calls f12, of whose calls there are too many to look through: they may lose data"
    assert len(looked) < 110_000
    assert destructive(load({"1_a.sql": f"-- allow: unread\n{text}SELECT f12();"})) == ()
    (once,) = destructive(load({"1_a.sql": f"{text.replace(' WHERE id = 1', '')}SELECT f2();"}))
    assert once.message == "calls f2, which deletes every row of a"


def test_a_long_chain_of_functions() -> None:
    text = "CREATE FUNCTION f0() RETURNS void LANGUAGE sql AS 'DELETE FROM a';\n" + "".join(
        f"CREATE FUNCTION f{one}() RETURNS void LANGUAGE sql AS 'SELECT f{one - 1}()';\n" for one in range(1, 2000)
    )
    (found,) = destructive(load({"1_a.sql": f"{text}SELECT f1999();"}))
    assert "calls f1999, which deletes every row of a" in found.message


def test_what_is_called_again_may_lose_what_it_did_not_lose_the_first_time() -> None:
    text = """CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'DROP TABLE t';
    CREATE FUNCTION g() RETURNS void LANGUAGE sql AS 'CREATE TEMP TABLE t (id int); SELECT f(); {}';
    SELECT g();"""
    assert destructive(load({"1_a.sql": text.format("")})) == ()
    (found,) = destructive(load({"1_a.sql": text.format("SELECT f()")}))
    assert "calls g, which drops table t" in found.message


def test_a_function_that_is_replaced_does_what_each_of_its_texts_does_once() -> None:
    fresh = Fresh()
    one, other = (
        facts(f"CREATE OR REPLACE FUNCTION f() RETURNS void LANGUAGE sql AS 'DELETE FROM {table}'")[0]
        for table in ("a", "b")
    )
    for made in (one, other, one, one, other):
        fresh.learn(made)
    (call,) = (fact for fact in facts("SELECT f()") if fact.what == "call")
    assert [fact.name for fact in fresh.body(call)] == ["a", "b"]
