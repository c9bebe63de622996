"""Databases for the tests of ``selvedge export``: made by hand with SQL, as a live database was over the years."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from psycopg import sql

from sandbox import PostgresEndpoint
from tests.engines.cli_support import selvedge
from tests.engines.postgres_support import run


def url_of(postgres: PostgresEndpoint, username: str = "") -> str:
    ca = f"&sslrootcert={quote(str(postgres.ca_path))}" if postgres.ca_path else ""
    user = username or postgres.username
    return f"postgresql://{user}@{postgres.host}:{postgres.port}/?sslmode={postgres.sslmode}{ca}"


def export(postgres: PostgresEndpoint, *databases: str, more: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """The manifests of these databases."""
    chosen = [word for name in databases for word in ("--database", name)]
    result = selvedge(
        *("export", "--url", url_of(postgres), "--server", "main-postgres"),
        *chosen,
        *more,
        environ={"PGPASSWORD": postgres.password},
    )
    assert result.returncode == 0, result.stderr
    assert postgres.password not in result.stdout + result.stderr
    return result


def specs(postgres: PostgresEndpoint, *databases: str) -> list[dict[str, Any]]:
    """The same as data, without what is left out."""
    return [item["spec"] for item in json.loads(export(postgres, *databases, more=("-o", "json")).stdout)["items"]]


def plan(postgres: PostgresEndpoint, manifest: Path, command: str = "plan", *more: str) -> Any:
    return selvedge(
        command, "-f", str(manifest), "--url", url_of(postgres), *more, environ={"PGPASSWORD": postgres.password}
    )


#: What a migration makes; {p} begins the name of each role, so that the test's fixture drops them.
PLAIN_OBJECTS = """
CREATE SCHEMA IF NOT EXISTS shared; CREATE SCHEMA IF NOT EXISTS avatar;
CREATE TABLE shared.users (id int PRIMARY KEY, email text, password_hash text);
CREATE TABLE shared.sessions (id int); CREATE VIEW shared.active AS SELECT id FROM shared.users;
CREATE SEQUENCE shared.numbers;
CREATE TABLE avatar.avatars (id int); CREATE TABLE avatar.parts (id int);
CREATE FUNCTION shared.soft_delete(t text, id uuid) RETURNS void LANGUAGE sql AS 'SELECT';
CREATE FUNCTION shared.soft_delete(t text) RETURNS void LANGUAGE sql AS 'SELECT';
"""

PLAIN_ROLES = """
CREATE ROLE {p}_owner; CREATE ROLE {p}_ro; CREATE ROLE {p}_rw IN ROLE {p}_ro; CREATE ROLE {p}_app LOGIN IN ROLE {p}_rw;
"""

PLAIN_ACCESS = """
ALTER DATABASE "{d}" OWNER TO {p}_owner;
ALTER SCHEMA shared OWNER TO {p}_owner; ALTER SCHEMA avatar OWNER TO {p}_owner;
COMMENT ON SCHEMA shared IS 'data of all services';
COMMENT ON ROLE {p}_ro IS 'may read';
ALTER DATABASE "{d}" SET statement_timeout = '30s'; ALTER DATABASE "{d}" SET search_path = shared, "$user", public;
ALTER ROLE {p}_rw SET idle_in_transaction_session_timeout = '60s';
REVOKE ALL ON DATABASE "{d}" FROM PUBLIC; GRANT CONNECT ON DATABASE "{d}" TO {p}_ro;
GRANT USAGE ON SCHEMA shared, avatar TO {p}_ro;
GRANT SELECT ON ALL TABLES IN SCHEMA shared, avatar TO {p}_ro;
GRANT INSERT, UPDATE, DELETE ON shared.users, avatar.avatars TO {p}_rw;
GRANT SELECT (id, email) ON shared.users TO {p}_app;
GRANT EXECUTE ON FUNCTION shared.soft_delete(text, uuid) TO {p}_rw;
REVOKE EXECUTE ON FUNCTION shared.soft_delete(text, uuid) FROM PUBLIC;
"""

#: Everything that hurts: {p} begins the roles' names, so that the fixture drops them; {d} is the database.
UGLY_ROLES = """
CREATE ROLE "{p} Ro'le"; CREATE ROLE "{p}_ÄÖ-ß"; CREATE ROLE "{p}_UPPER"; CREATE ROLE "{p}_qu""ote";
CREATE ROLE {p}_super SUPERUSER; CREATE ROLE {p}_login LOGIN; CREATE ROLE {p}_maker CREATEROLE;
CREATE ROLE {p}_monitor IN ROLE pg_monitor;
CREATE ROLE {p}_a NOINHERIT CREATEDB CONNECTION LIMIT 3 VALID UNTIL '2030-02-03 04:05:06.5+02';
CREATE ROLE {p}_b IN ROLE {p}_a; CREATE ROLE {p}_c IN ROLE {p}_b; GRANT {p}_a TO {p}_c WITH ADMIN OPTION;
CREATE ROLE {p}_child IN ROLE {p}_super; CREATE ROLE {p}_unused;
CREATE ROLE "{p}_63_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";
COMMENT ON ROLE {p}_a IS E'line one: "quoted", it''s\\n\\tline two # no comment\\n';
COMMENT ON ROLE {p}_b IS 'yes'; COMMENT ON ROLE {p}_c IS '1e3';
ALTER ROLE {p}_a SET search_path = '$user', "Odd Schema", '', "a,b", "q""q";
ALTER ROLE {p}_a IN DATABASE "{d}" SET work_mem = '1MB';
ALTER ROLE {p}_a SET "app.tenant" = '00:10'; ALTER ROLE {p}_a SET app.jwt_secret = 'hunter2hunter2';
ALTER ROLE {p}_b SET app.backend = 'postgres://me:hunter2hunter2@host/db';
ALTER ROLE {p}_b SET log_statement = 'all'; ALTER ROLE {p}_b SET role = {p}_a;
"""

UGLY_OBJECTS = """
CREATE SCHEMA "Odd Schema"; CREATE SCHEMA "dot.ted"; CREATE SCHEMA "quo""te"; CREATE SCHEMA "größe";
CREATE SCHEMA ext;
CREATE EXTENSION pg_trgm SCHEMA ext; CREATE EXTENSION "uuid-ossp" SCHEMA "Odd Schema"; CREATE EXTENSION citext;
CREATE TABLE "Odd Schema"."Table One" (id int, "Col A" text, "co""l" text, plain text);
CREATE TABLE "Odd Schema"."two" (id int); CREATE TABLE "Odd Schema"."qu""oted" (id int);
CREATE TABLE "dot.ted".t (id int);
CREATE TABLE "quo""te".t (id int); CREATE TABLE "Odd Schema"."do.t" (id int);
CREATE TABLE "größe"."tabelle_ä" (id int); CREATE MATERIALIZED VIEW "größe".m AS SELECT 1 AS one;
CREATE TABLE "größe".xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx (id int);
CREATE TABLE "größe".parts (id int, day date) PARTITION BY RANGE (day);
CREATE TABLE "größe".parts_1 PARTITION OF "größe".parts FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE "größe".parts_2 PARTITION OF "größe".parts FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
CREATE TABLE "größe"."by day" (id int, "at it" timestamptz, "Note's" text) PARTITION BY RANGE ("at it");
CREATE TABLE "größe".by_month (id int, day date) PARTITION BY RANGE (day);
CREATE TABLE "größe".by_month_old PARTITION OF "größe".by_month FOR VALUES FROM ('2001-01-01') TO ('2001-07-01');
CREATE TABLE "größe".by_hash (id int) PARTITION BY HASH (id);
CREATE TABLE "größe".by_hash_0 PARTITION OF "größe".by_hash FOR VALUES WITH (MODULUS 1, REMAINDER 0);
CREATE TABLE "größe".crooked (id int, at timestamptz) PARTITION BY RANGE (at);
CREATE TABLE "größe".crooked_1 PARTITION OF "größe".crooked FOR VALUES FROM ('2020-01-01 05:00+00') TO (MAXVALUE);
DO $$ declare part record; begin
  set local timezone = 'UTC';
  for part in select date_trunc('day', now()) + n * interval '1 day' AS a, n from generate_series(-3, 4) n loop
    execute format('CREATE TABLE "größe".%I PARTITION OF "größe"."by day" FOR VALUES FROM (%L) TO (%L)',
                   'by day ' || part.n, part.a, part.a + interval '1 day');
  end loop;
  for part in select (date_trunc('month', now()) + n * interval '1 month')::date AS a, n from generate_series(0, 2) n
  loop
    execute format('CREATE TABLE "größe".%I PARTITION OF "größe".by_month FOR VALUES FROM (%L) TO (%L)',
                   'by_month_' || part.n, part.a, (part.a + interval '1 month')::date);
  end loop;
end $$;
CREATE SEQUENCE "Odd Schema"."Seq 1"; CREATE SEQUENCE "größe".seq;
CREATE TYPE "Odd Schema"."My, Type" AS ENUM ('a'); CREATE DOMAIN public."Dom" AS int;
CREATE FUNCTION "Odd Schema"."Fn x"(a "Odd Schema"."My, Type", b numeric(10, 2)) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION "Odd Schema"."Fn x"(a int[], VARIADIC b text[]) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION "Odd Schema"."pa(ren"() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE PROCEDURE "Odd Schema".proc(a int, INOUT b int) LANGUAGE sql AS 'SELECT 1';
CREATE AGGREGATE public.agg(int) (SFUNC = int4pl, STYPE = int);
CREATE FUNCTION public.f0() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION public.f0(int) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FOREIGN DATA WRAPPER "wr 1";
CREATE SERVER "srv 1" FOREIGN DATA WRAPPER "wr 1" OPTIONS (password 'hunter2hunter2');
CREATE USER MAPPING FOR {p}_login SERVER "srv 1" OPTIONS (password 'hunter2hunter2');
ALTER TABLE "größe".parts OWNER TO {p}_a; ALTER TABLE "Odd Schema"."two" OWNER TO {p}_login;
CREATE TABLE "größe".owned_by_b (id int); ALTER TABLE "größe".owned_by_b OWNER TO {p}_b;
CREATE FUNCTION "größe".kept() RETURNS int LANGUAGE sql AS 'SELECT 1'; ALTER FUNCTION "größe".kept() OWNER TO {p}_a;
CREATE POLICY "p 1" ON "größe"."tabelle_ä" USING (true); ALTER TABLE "größe"."tabelle_ä" ENABLE ROW LEVEL SECURITY;
CREATE PUBLICATION "pub 1" FOR TABLE "größe"."tabelle_ä";
CREATE FUNCTION public.et() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE EVENT TRIGGER "et 1" ON sql_drop EXECUTE FUNCTION public.et(); ALTER EVENT TRIGGER "et 1" DISABLE;
SELECT lo_create(4711); GRANT SELECT ON LARGE OBJECT 4711 TO {p}_a;
"""

UGLY_ACCESS = """
COMMENT ON SCHEMA "Odd Schema" IS E'trailing space \\n{{not a template}} %s';
ALTER DATABASE "{d}" SET search_path = ''; ALTER DATABASE "{d}" SET DateStyle = 'SQL, DMY';
ALTER DATABASE "{d}" CONNECTION LIMIT 77; COMMENT ON DATABASE "{d}" IS 'old';
ALTER SCHEMA "größe" OWNER TO {p}_super; ALTER SCHEMA "Odd Schema" OWNER TO {p}_login;
REVOKE USAGE ON SCHEMA public FROM PUBLIC; GRANT CREATE ON SCHEMA public TO {p}_a, PUBLIC;
REVOKE TEMPORARY ON DATABASE "{d}" FROM PUBLIC; GRANT ALL ON DATABASE "{d}" TO {p}_a WITH GRANT OPTION;
GRANT USAGE ON SCHEMA "Odd Schema", "dot.ted", "quo""te", "größe" TO "{p} Ro'le", "{p}_UPPER", {p}_login;
GRANT CREATE ON SCHEMA "größe" TO {p}_a WITH GRANT OPTION;
SET ROLE {p}_a; GRANT CREATE ON SCHEMA "größe" TO {p}_b; RESET ROLE;
GRANT SELECT ON ALL TABLES IN SCHEMA "Odd Schema", "größe", "dot.ted", "quo""te" TO "{p}_UPPER", "{p}_ÄÖ-ß";
GRANT INSERT ON "Odd Schema"."Table One", "Odd Schema"."qu""oted", "Odd Schema"."do.t" TO "{p}_qu""ote",
  "{p} Ro'le" WITH GRANT OPTION;
GRANT ALL ON "größe".parts_1 TO {p}_a; GRANT TRUNCATE, TRIGGER, REFERENCES ON "größe".m TO {p}_a;
GRANT SELECT ON "größe".parts TO pg_monitor; GRANT SELECT ON "größe"."tabelle_ä" TO PUBLIC;
GRANT SELECT ("Col A", plain), UPDATE (plain) ON "Odd Schema"."Table One" TO {p}_b, {p}_login;
GRANT SELECT ("co""l") ON "Odd Schema"."Table One" TO {p}_b WITH GRANT OPTION;
GRANT UPDATE (id) ON "größe".parts_2 TO {p}_c;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA "Odd Schema", "größe" TO {p}_b;
REVOKE ALL ON FUNCTION "Odd Schema"."Fn x"("Odd Schema"."My, Type", numeric) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION "Odd Schema"."Fn x"(int[], text[]) TO {p}_a WITH GRANT OPTION;
REVOKE ALL ON FUNCTION "Odd Schema"."pa(ren"() FROM PUBLIC;
REVOKE ALL ON PROCEDURE "Odd Schema".proc(int, int) FROM PUBLIC;
GRANT EXECUTE ON PROCEDURE "Odd Schema".proc(int, int) TO {p}_b;
REVOKE EXECUTE ON FUNCTION public.agg(int) FROM PUBLIC; GRANT EXECUTE ON FUNCTION public.agg(int) TO {p}_c;
REVOKE EXECUTE ON FUNCTION public.citext_eq FROM PUBLIC; GRANT EXECUTE ON FUNCTION ext.similarity TO {p}_a;
REVOKE USAGE ON TYPE "Odd Schema"."My, Type" FROM PUBLIC;
GRANT USAGE ON TYPE "Odd Schema"."My, Type", public."Dom" TO {p}_b;
REVOKE USAGE ON LANGUAGE plpgsql FROM PUBLIC; GRANT USAGE ON LANGUAGE plpgsql TO {p}_a WITH GRANT OPTION;
GRANT USAGE ON FOREIGN SERVER "srv 1" TO {p}_a; GRANT USAGE ON FOREIGN DATA WRAPPER "wr 1" TO {p}_b;
REVOKE DELETE ON "Odd Schema"."two" FROM {p}_login;
GRANT SELECT ON "größe".owned_by_b TO {p}_c;
ALTER DEFAULT PRIVILEGES FOR ROLE {p}_b IN SCHEMA "größe" GRANT SELECT ON TABLES TO {p}_c;
ALTER DEFAULT PRIVILEGES FOR ROLE {p}_b IN SCHEMA "größe" GRANT INSERT ON TABLES TO {p}_c;
ALTER DEFAULT PRIVILEGES FOR ROLE {p}_a REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE {p}_a GRANT USAGE ON SEQUENCES TO {p}_b WITH GRANT OPTION;
ALTER DEFAULT PRIVILEGES FOR ROLE {p}_login, {p}_super GRANT CREATE ON SCHEMAS TO {p}_c;
GRANT EXECUTE ON FUNCTION "größe".kept() TO PUBLIC;
REVOKE EXECUTE ON FUNCTION pg_catalog.pg_ls_waldir() FROM pg_monitor;
"""

#: Tables that an operator keeps on the ugly database: columns of conventions, a key, names that hurt.
KEPT_OBJECTS = """
CREATE SCHEMA "kept ö";
CREATE TABLE "kept ö"."it's" (id int PRIMARY KEY, "secret, \\ one" text, "{a}" text, changed timestamptz,
  "row version" int, gone timestamptz, "gone by" text);
CREATE TABLE "kept ö".plain (id int PRIMARY KEY, changed timestamptz, gone timestamptz);
CREATE TABLE "kept ö".nothing (id int);
"""

KEPT: dict[str, Any] = {
    "audit": {
        "schema": "trail",
        "every": "Month",
        "retention": "365d",
        "actorSetting": "app.current_user_id",
        "applicationLog": True,
        "tables": [
            {"table": "kept ö.it's", "exclude": ["secret, \\ one", "{a}"]},
            {"table": "kept ö.plain"},
        ],
    },
    "conventions": {
        "updatedAt": {"column": "changed", "tablesIn": ["kept ö"]},
        "version": {"column": "row version", "tablesIn": ["kept ö"]},
        "softDelete": {"column": "gone", "byColumn": "gone by", "views": "live {table}", "tablesIn": ["kept ö"]},
    },
}

#: A database that grew: the administrator owns it, a login owns some tables, whole schemas are granted and defaulted.
GROWN_ROLES = """
CREATE ROLE {p}_owner; CREATE ROLE {p}_reader; CREATE ROLE {p}_writer IN ROLE {p}_reader;
CREATE ROLE {p}_legacy LOGIN IN ROLE {p}_writer; CREATE ROLE {p}_reports NOINHERIT IN ROLE {p}_reader;
GRANT {p}_owner TO {p}_legacy WITH ADMIN OPTION;
"""

GROWN_OBJECTS = """
CREATE EXTENSION pgcrypto; CREATE EXTENSION hstore;
CREATE SCHEMA IF NOT EXISTS shop; CREATE SCHEMA IF NOT EXISTS stock;
CREATE TABLE shop.orders (id bigserial PRIMARY KEY, total numeric); CREATE TABLE shop.lines (id bigserial PRIMARY KEY);
CREATE TABLE stock.items (id int PRIMARY KEY); CREATE TABLE stock.moves (id int, day date) PARTITION BY RANGE (day);
CREATE TABLE stock.moves_1 PARTITION OF stock.moves FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE stock.hashed (id int) PARTITION BY HASH (id);
CREATE TABLE stock.hashed_0 PARTITION OF stock.hashed FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE stock.hashed_1 PARTITION OF stock.hashed FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE FUNCTION shop.total(bigint) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION shop.total(bigint, text) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE TYPE shop.state AS ENUM ('open', 'paid');
ALTER TABLE shop.orders OWNER TO {p}_owner; ALTER TABLE shop.lines OWNER TO {p}_owner;
ALTER FUNCTION shop.total(bigint) OWNER TO {p}_owner; ALTER FUNCTION shop.total(bigint, text) OWNER TO {p}_owner;
ALTER TABLE stock.items OWNER TO {p}_legacy; ALTER TABLE stock.moves OWNER TO {p}_legacy;
"""

GROWN_ACCESS = """
CREATE POLICY own ON shop.orders TO {p}_reader
  USING (id = (SELECT nullif(current_setting('app.id', true), '')::bigint));
CREATE POLICY "all of it" ON shop.orders AS RESTRICTIVE FOR UPDATE USING (true) WITH CHECK (total > 0);
ALTER TABLE shop.orders ENABLE ROW LEVEL SECURITY; ALTER TABLE shop.orders FORCE ROW LEVEL SECURITY;
ALTER TABLE shop.lines ENABLE ROW LEVEL SECURITY;
ALTER SCHEMA shop OWNER TO {p}_owner; ALTER SCHEMA stock OWNER TO {p}_legacy;
GRANT USAGE ON SCHEMA shop, stock TO {p}_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA shop, stock TO {p}_reader, {p}_reports;
REVOKE ALL ON stock.moves_1, stock.hashed_0, stock.hashed_1 FROM {p}_reader, {p}_reports;
GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA shop TO {p}_writer;
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA shop TO {p}_writer;
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA shop FROM PUBLIC;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA shop TO {p}_writer;
ALTER DEFAULT PRIVILEGES FOR ROLE {p}_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE {p}_owner IN SCHEMA shop GRANT SELECT ON TABLES TO {p}_reader, {p}_reports;
ALTER DEFAULT PRIVILEGES FOR ROLE {p}_owner IN SCHEMA shop GRANT INSERT, UPDATE, DELETE ON TABLES TO {p}_writer;
ALTER DEFAULT PRIVILEGES FOR ROLE {p}_owner IN SCHEMA shop GRANT EXECUTE ON FUNCTIONS TO {p}_writer;
ALTER DATABASE "{d}" SET statement_timeout = '30s';
"""

DATABASES = {
    "plain": (PLAIN_ROLES, PLAIN_OBJECTS, PLAIN_ACCESS),
    "grown": (GROWN_ROLES, GROWN_OBJECTS, GROWN_ACCESS),
    "ugly": (UGLY_ROLES, UGLY_OBJECTS, UGLY_ACCESS),
}


def fill(postgres: PostgresEndpoint, name: str, *parts: str, roles_of: str = "", create: bool = True) -> None:
    """Make the database and run these parts in it; ``{p}`` is the prefix of its roles, ``{d}`` its name."""
    if create:
        with postgres.connect() as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    for part in parts:
        run(postgres, part.replace("{p}", roles_of or name).replace("{d}", name), dbname=name)


def drop(postgres: PostgresEndpoint, database: str, roles: Iterable[str]) -> None:
    """Remove a database, and then its roles."""
    with postgres.connect() as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database)))
        for role in roles:
            connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))
