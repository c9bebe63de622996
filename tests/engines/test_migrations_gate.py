"""What the gate lets pass loses nothing: random scripts on a real server, beside what stood there before.

Each script holds the statements that the server took, in one or two files. Where the gate has no finding, or only
renames that the file allows, every row that was there before is still there afterwards, in its table and its columns.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, LiteralString, cast

import psycopg
import pytest
from psycopg import sql

from selvedge.migrate import load
from selvedge.migrate.lint import destructive
from tests.engines.migrations_support import fresh_shop

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox import PostgresEndpoint

BEFORE: LiteralString = """
CREATE SCHEMA a; CREATE SCHEMA b; SET search_path = public;
CREATE TABLE public.t (id int, v int); CREATE TABLE a.t (id int, v int); CREATE TABLE b.n (id int, v int);
INSERT INTO public.t VALUES (1, 1), (2, 2); INSERT INTO a.t VALUES (1, 1); INSERT INTO b.n VALUES (2, 2);
RESET search_path
"""
ROWS = {"public.t": {("1", "1"), ("2", "2")}, "a.t": {("1", "1")}, "b.n": {("2", "2")}}
WORDS = {
    "T": ["t", "n", "public.t", "public.n", "a.t", "a.n", "b.t", "b.n", "s.t", "s.n"],
    "S": ["a", "b", "s", "public"],
    "N": ["t", "n", "m"],
    "C": ["v", "w", "x"],
    "E": ["e", "a.e", "s.e"],
}
STATEMENTS = """
CREATE TABLE {T} (id int, v int)
CREATE TABLE IF NOT EXISTS {T} (id int, v int)
CREATE TEMP TABLE {N} (id int, v int)
CREATE TABLE {T} AS SELECT * FROM {T}
CREATE TABLE {T} (id int, v int) PARTITION BY LIST (id)
CREATE VIEW {T} AS SELECT id, v FROM {T}
ALTER TABLE {T} ATTACH PARTITION {T} DEFAULT
ALTER TABLE {T} INHERIT {T}
ALTER TABLE {T} ADD COLUMN w int
ALTER TABLE {T} ADD COLUMN IF NOT EXISTS {C} int
ALTER TABLE {T} DROP COLUMN {C}
ALTER TABLE {T} RENAME {C} TO {C}
ALTER TABLE {T} RENAME TO {N}
ALTER TABLE {T} SET SCHEMA {S}
ALTER TABLE {T} ADD PRIMARY KEY (id)
ALTER TABLE {T} ADD FOREIGN KEY (id) REFERENCES {T} (id) ON DELETE CASCADE
ALTER TABLE {T} ALTER v TYPE {E} USING v::text::{E}
DROP TABLE {T}
DROP TABLE IF EXISTS {T}
DROP TABLE {T} CASCADE
DELETE FROM {T}
TRUNCATE {T}
TRUNCATE {T} CASCADE
UPDATE {T} SET v = 0
UPDATE {T} SET w = 0
UPDATE {T} SET w = 0, v = 0
INSERT INTO {T} VALUES (1, 1)
MERGE INTO {T} x USING {T} y ON x.id = y.id WHEN MATCHED THEN DELETE
WITH d AS (DELETE FROM {T} RETURNING *) SELECT * FROM d
CREATE SCHEMA {S}
CREATE SCHEMA IF NOT EXISTS {S}
DROP SCHEMA {S}
DROP SCHEMA {S} CASCADE
ALTER SCHEMA {S} RENAME TO {S}
SET search_path = {S}
SET search_path = {S}, public
SET SCHEMA '{S}'
RESET search_path
SELECT set_config('search_path', '{S}', false)
DO $$ BEGIN PERFORM set_config('search_path', '{S}', false); END $$
DO $$ BEGIN IF to_regclass('{T}') IS NULL THEN CREATE TABLE {T} (id int, v int); END IF; END $$
DO $$ BEGIN CREATE TABLE {T} (id int, v int); EXCEPTION WHEN duplicate_table THEN NULL; END $$
DO $$ BEGIN DELETE FROM {T}; END $$
CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'DELETE FROM {T}'
SELECT f()
DROP FUNCTION f()
SAVEPOINT x
ROLLBACK TO x
CREATE TYPE {E} AS ENUM ('1', '2')
CREATE DOMAIN {E} AS int
ALTER TYPE {E} SET SCHEMA {S}
DROP TYPE {E} CASCADE
DROP DOMAIN {E} CASCADE
""".strip().split("\n")


@pytest.fixture
def connection(postgres18: PostgresEndpoint) -> Iterator[psycopg.Connection]:
    with fresh_shop(postgres18) as shop, psycopg.connect(postgres18.conninfo(shop.database)) as connection:
        yield connection
        connection.rollback()


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 12))])
def test_what_the_gate_lets_pass_loses_nothing(connection: psycopg.Connection, seed: int) -> None:
    random, passed = Random(seed), 0
    for _ in range(250):
        connection.execute(BEFORE)
        tables = {name: connection.execute("SELECT %s::regclass::oid", [name]).fetchone() for name in ROWS}
        files = {f"{number}_a.sql": script(connection, random) for number in range(1, random.randint(2, 3))}
        if not destructive(load({name: text for name, text in files.items() if text})):
            passed += 1
            connection.execute("RESET search_path")
            for name, oid in tables.items():
                assert oid is not None
                assert rows(connection, oid[0]) >= ROWS[name], (name, files)
        connection.rollback()
    assert passed > 25


def script(connection: psycopg.Connection, random: Random) -> str:
    """The statements of a file that the server took, run as the runner runs a file."""
    connection.execute("RESET search_path; DISCARD TEMP")
    done = []
    for _ in range(random.randint(4, 14)):
        text = random.choice(STATEMENTS)
        for letter, words in WORDS.items():
            while f"{{{letter}}}" in text:
                text = text.replace(f"{{{letter}}}", random.choice(words), 1)
        connection.execute("SAVEPOINT one")
        try:
            connection.execute(cast("LiteralString", text))
        except psycopg.Error:
            connection.execute("ROLLBACK TO one")
        else:
            done.append(text)
    return random.choice(["", "-- allow: rename\n"]) + ";\n".join(done) if done else ""


def rows(connection: psycopg.Connection, oid: int) -> set[tuple[str, ...]]:
    """The rows of a table of its own, as texts of its first two columns, whatever both are called by now."""
    query = (
        "SELECT attname FROM pg_attribute WHERE attrelid = %s AND attnum IN (1, 2) AND NOT attisdropped ORDER BY attnum"
    )
    columns = [sql.SQL("{}::text").format(sql.Identifier(name)) for (name,) in connection.execute(query, [oid])]
    place = connection.execute(
        "SELECT nspname, relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE c.oid = %s", [oid]
    ).fetchone()
    if place is None or len(columns) < 2:
        return set()
    found = sql.SQL("SELECT {} FROM ONLY {}").format(sql.SQL(", ").join(columns), sql.Identifier(*place))
    return set(connection.execute(found))
