"""What code that runs now meets in the new schema."""

from __future__ import annotations

import pytest

from tests.unit.migrate.lint_support import own

BREAKS = {
    "ALTER TABLE a RENAME b TO c": "knows column b of a by its old name",
    "ALTER TABLE a DROP b": "may still read column b of a",
    "DROP TABLE a": "may still use table a",
    "DROP FUNCTION f(int)": "may still use function f",
    "ALTER TABLE a ADD b int NOT NULL": "inserts rows without column b of a",
    "ALTER TABLE a ALTER b SET NOT NULL": "may write no value into column b of a",
    "ALTER TABLE a ALTER b DROP DEFAULT": "may rely on the default of column b of a",
    "ALTER TABLE a ALTER b TYPE text": "reads and writes column b of a with its old type",
    "ALTER TABLE a RENAME TO b": "knows table a by its old name",
    "ALTER VIEW a RENAME TO b": "knows view a by its old name",
    "ALTER VIEW a RENAME COLUMN b TO c": "knows column b of a by its old name",
    "ALTER TYPE a RENAME VALUE 'b' TO 'c'": "knows value 'b' of a by its old name",
    "ALTER TYPE a RENAME ATTRIBUTE b TO c": "knows attribute b of a by its old name",
    "ALTER FUNCTION f(int) RENAME TO g": "knows function f by its old name",
    "ALTER TABLE a SET SCHEMA b": "looks for table a where it was",
    "ALTER TABLE a ADD UNIQUE (b)": "may write rows into a that are there already",
    "ALTER TABLE a ADD CONSTRAINT unq_a_b UNIQUE (b)": "may write rows into a that are there already",
    "ALTER TABLE a ADD PRIMARY KEY (b)": "may write rows into a that are there already",
    "ALTER TABLE a ADD EXCLUDE USING gist (b WITH &&)": "may write rows into a that are there already",
    "CREATE UNIQUE INDEX CONCURRENTLY uidx_a_b ON a (b)": "may write rows into a that are there already",
    "ALTER TABLE a ADD CHECK (b > 0)": "may write values into a that the new check refuses",
    "ALTER TABLE a ADD CONSTRAINT chk_a_b CHECK (b > 0) NOT VALID": "may write values into a that the new",
    "ALTER TABLE a ADD CONSTRAINT b_given NOT NULL b": "may write no value into column b of a",
    "ALTER TABLE a ADD FOREIGN KEY (b_id) REFERENCES b": "may write rows into a of which b knows nothing",
    "ALTER TABLE a ALTER b ADD GENERATED ALWAYS AS IDENTITY": "may write column b of a, which is refused from here on",
    "ALTER TABLE a DETACH PARTITION b": "finds the rows of b in a no more",
    "ALTER DOMAIN a ADD CHECK (VALUE > 0)": "may write values into a that the new check refuses",
    "ALTER DOMAIN a SET NOT NULL": "may write no value into domain a",
    "ALTER DOMAIN a DROP DEFAULT": "may rely on the default of domain a",
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
    "ALTER TABLE a DROP CONSTRAINT b",
    "ALTER TABLE a ALTER b DROP NOT NULL",
    "ALTER TABLE a ALTER b SET DEFAULT 1",
    "ALTER TABLE a VALIDATE CONSTRAINT c",
    "ALTER TABLE a ADD CONSTRAINT unq_a_b UNIQUE USING INDEX uidx_a_b",
    "ALTER TABLE a ADD b int REFERENCES b CHECK (b > 0) UNIQUE",
    "ALTER TABLE a ADD b_id int; ALTER TABLE a ADD FOREIGN KEY (b_id) REFERENCES b",
    "ALTER TABLE a DETACH PARTITION b FINALIZE",
    "ALTER TYPE a ADD VALUE 'b'",
    "CREATE TABLE a (b int, UNIQUE (b), CHECK (b > 0)); CREATE UNIQUE INDEX uidx_a_b ON a (b)",
    "ALTER TABLE a ADD b int; ALTER TABLE a RENAME b TO c; ALTER TABLE a DROP c",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'; DROP FUNCTION f()",
    "CREATE TABLE a (b int); ALTER TABLE a RENAME TO c; ALTER TABLE c ALTER b SET NOT NULL",
]
NOT_NEW = {
    "CREATE FUNCTION a() RETURNS int LANGUAGE sql AS 'SELECT 1'; DROP TABLE a": "may still use table a",
    "CREATE TABLE x.a (b int); DROP TABLE a": "may still use table a",
    "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'; DROP FUNCTION f()": "may still use",
}


@pytest.mark.parametrize(("text", "what"), [*BREAKS.items(), *NOT_NEW.items()])
def test_what_running_code_does_not_survive(text: str, what: str) -> None:
    (found,) = [one for one in own(text) if one.rule == "breaks-running-code"]
    assert what in found.message
    assert found.next_step
    assert found.severity == "warning"


@pytest.mark.parametrize("text", HOLDS)
def test_what_running_code_survives(text: str) -> None:
    assert not [one for one in own(text) if one.rule == "breaks-running-code"]


UNREAD = {
    "DO $$ BEGIN EXECUTE statement; END $$": "a text that is put together at run time is executed",
    "DO $$ BEGIN EXECUTE format(template, 'a'); END $$": "a text that is put together at run time is executed",
    "DO LANGUAGE plpython3u 'plpy.execute(1)'": "a block is written in plpython3u",
    "CALL shop.clean()": "procedure shop.clean is called",
    "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE x; END $$; SELECT f()": "a text that is put",
}
READ = [
    "DO $$ BEGIN EXECUTE format('GRANT SELECT ON %I TO app', t); END $$",
    "CREATE PROCEDURE clean() LANGUAGE sql AS 'SELECT 1'; CALL clean()",
    "CREATE TRIGGER t BEFORE INSERT ON a FOR EACH ROW EXECUTE FUNCTION f()",
    "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE x; END $$",
    "GRANT EXECUTE ON FUNCTION f() TO app",
]


@pytest.mark.parametrize(("text", "what"), UNREAD.items())
def test_what_cannot_be_looked_through_is_said(text: str, what: str) -> None:
    (found,) = [one for one in own(text) if one.rule == "unread"]
    assert found.message.startswith(what)
    assert found.message.endswith("is not looked through: it may lose data")
    assert (found.severity, found.next_step) == ("advice", "look yourself what it does")
    assert not [one for one in own(f"-- allow: unread\n{text}") if one.rule == "unread"]


@pytest.mark.parametrize("text", READ)
def test_what_is_looked_through(text: str) -> None:
    assert not [one for one in own(text) if one.rule == "unread"]
