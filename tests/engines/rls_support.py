"""What the tests of row-level security share: a table of two tenants, and one round of the engine's own steps."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from psycopg import sql

from sandbox import PostgresEndpoint
from selvedge.core.postgres.cluster_diff import ClaimBook
from selvedge.core.postgres.model import Claim, CurrentRole
from selvedge.core.postgres.rls import diff_row_security
from selvedge.core.postgres.rls_changes import RowPolicy, TableKey
from selvedge.core.postgres.rls_model import (
    DesiredRowSecurity,
    Expectation,
    RowSecurityDiff,
    TableState,
    TenantProbe,
)
from selvedge.engines.base import ServerTarget
from selvedge.engines.postgres.connections import Connections
from selvedge.engines.postgres.restricted_login import RestrictedLogin
from selvedge.engines.postgres.rls_apply import Applied, Known, apply_tables, learn, policies_login
from selvedge.engines.postgres.rls_probe import Verdict, probe_login, prove
from selvedge.engines.postgres.rls_sql import parse_row_security, row_security_statement
from tests.engines.postgres_support import Count, lead, run, target

MEMBER = "uid-1"
ANNA = "11111111-1111-1111-1111-111111111111"
BEN = "22222222-2222-2222-2222-222222222222"
OWN_ROW = "id = (select nullif(current_setting('app.current_user_id', true), '')::uuid)"


#: Becomes whatever the session lets it become, and then a superuser if it can. Leaves a trace of who it ran as.
EVIL = """
CREATE TABLE shared.trace (who text, session text);
GRANT INSERT ON shared.trace TO PUBLIC;
CREATE FUNCTION shared.evil(x text) RETURNS boolean LANGUAGE plpgsql AS $f$
DECLARE role_name text;
BEGIN
  FOR role_name IN SELECT 'none' UNION ALL SELECT session_user UNION ALL SELECT 'postgres'
      UNION ALL SELECT rolname FROM pg_catalog.pg_roles WHERE rolname LIKE 'OTHER_PREFIX%' LOOP
    BEGIN
      PERFORM pg_catalog.set_config('role', role_name, false);
      EXECUTE 'ALTER ROLE "EVIL_ROLE" SUPERUSER';
    EXCEPTION WHEN OTHERS THEN NULL;
    END;
    BEGIN
      PERFORM pg_catalog.set_config('session_authorization', role_name, false);
      EXECUTE 'ALTER ROLE "EVIL_ROLE" SUPERUSER';
    EXCEPTION WHEN OTHERS THEN NULL;
    END;
    BEGIN
      EXECUTE 'ALTER TABLE shared.users DISABLE ROW LEVEL SECURITY';
    EXCEPTION WHEN OTHERS THEN NULL;
    END;
  END LOOP;
  BEGIN
    INSERT INTO shared.trace VALUES (current_user, session_user);
  EXCEPTION WHEN OTHERS THEN NULL;
  END;
  RETURN true;
END $f$;
CREATE DOMAIN shared.evil_text AS text CHECK (shared.evil(VALUE));
CREATE TYPE shared.evil_row AS (x shared.evil_text);
"""

AT_PARSE_TIME = [
    "name = any ('{x}'::shared.evil_text[]::text[])",
    "('(x)'::shared.evil_row).x = name",
    "name = any (array['a'::text]) and '{a,b}'::shared.evil_text[] is not null",
]


@dataclass(slots=True)
class Shop:
    """A database with ``shared.users``, owned by ``owner``; ``app`` and ``admin`` may read and write it."""

    endpoint: PostgresEndpoint
    name: str
    target: ServerTarget
    pool: Connections
    claims: dict[str, Claim] = field(default_factory=dict)
    learned: Known = field(default_factory=dict)

    @property
    def owner(self) -> str:
        return f"{self.name}_owner"

    @property
    def app(self) -> str:
        return f"{self.name}_app"

    @property
    def admin(self) -> str:
        return f"{self.name}_admin"

    @property
    def policies_login(self) -> RestrictedLogin:
        return policies_login(self.target, self.name)

    def sql(self, statements: str) -> None:
        run(
            self.endpoint,
            statements.replace("OWNER_ROLE", f'"{self.owner}"').replace("APP_ROLE", f'"{self.app}"'),
            self.name,
        )

    def rows(self, query: str, *, role: str = "", tenant: str | None = None) -> list[tuple[Any, ...]]:
        """The rows of a query as the administrator, or as a role with a tenant."""
        with self.endpoint.connect(self.name) as connection, connection.transaction(force_rollback=True):
            if role:
                connection.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(role)))
            if tenant is not None:
                connection.execute("SELECT set_config('app.current_user_id', %s, true)", [tenant])
            return connection.execute(query.encode()).fetchall()

    def policy(self, name: str = "own_row", *, to: tuple[str, ...] = (), **fields: Any) -> RowPolicy:
        return RowPolicy(name, roles=to or (self.app,), **{"using": OWN_ROW, **fields})

    def entry(self, *policies: RowPolicy, **fields: Any) -> DesiredRowSecurity:
        known = {"schema": "shared", "table": "users", "force": True, "policies": policies or (self.policy(),)}
        return DesiredRowSecurity(MEMBER, **{**known, **fields})

    def probed(self, *policies: RowPolicy, writes: bool = False, **fields: Any) -> DesiredRowSecurity:
        tenant = TenantProbe("id", "app.current_user_id", self.app, writes)
        return self.entry(*policies, **{"tenant": tenant, **fields})

    def sees_all(self, role: str = "") -> Expectation:
        return Expectation(role or self.admin, True)

    async def look(self, *keys: TableKey) -> dict[TableKey, TableState]:
        async with self.pool.session(self.name) as session:
            rows = await session.run("snapshot", row_security_statement(keys or [("shared", "users")]))
        return parse_row_security(json.loads(str(rows[0][0][0])))

    async def diff(self, *entries: DesiredRowSecurity) -> tuple[RowSecurityDiff, dict[TableKey, TableState], ClaimBook]:
        tables = await self.look(*(entry.key for entry in entries))
        book = ClaimBook(self.claims, "cluster", {MEMBER: "shop/shop"}, lambda _: True)
        roles = {name: CurrentRole(name) for name in (self.owner, self.app, self.admin)}
        return diff_row_security(entries, tables, roles, book, self.learned), tables, book

    async def learn(self, found: RowSecurityDiff, tables: dict[TableKey, TableState]) -> None:
        self.learned.update(await learn(self.pool, self.policies_login, found.unlearned, tables))

    async def make(self, *entries: DesiredRowSecurity) -> Applied:
        """Look, learn, change, and write the claims down."""
        found, tables, _ = await self.diff(*entries)
        await self.learn(found, tables)
        found, tables, _ = await self.diff(*entries)
        applied = await apply_tables(self.pool, self.policies_login, found.changes, tables, lead)
        self.learned.update(applied.learned)
        await self.settle(*entries)
        return applied

    async def settle(self, *entries: DesiredRowSecurity) -> RowSecurityDiff:
        found, _, book = await self.diff(*entries)
        self.claims.update(book.new)
        return found

    async def prove(self, entry: DesiredRowSecurity) -> Verdict:
        tables = await self.look(entry.key)
        return await prove(self.pool, probe_login(self.target, self.name), entry, tables[entry.key])

    def forget(self) -> None:
        """As another process: what was learned is gone, the claims stand."""
        self.learned = {}


@asynccontextmanager
async def shop(endpoint: PostgresEndpoint, database: str, *, rows: bool = True) -> AsyncIterator[Shop]:
    """The table with a row each for Anna and Ben."""
    server = target(endpoint)
    one = Shop(endpoint, database, server, Connections(server, Count()))
    owner, app, admin = (sql.Identifier(name) for name in (one.owner, one.app, one.admin))
    with endpoint.connect(database) as connection:
        connection.execute(
            sql.SQL(
                "CREATE ROLE {owner}; CREATE ROLE {app}; CREATE ROLE {admin};"
                "CREATE SCHEMA shared AUTHORIZATION {owner}; GRANT USAGE ON SCHEMA shared TO {app}, {admin};"
                "SET ROLE {owner}; CREATE TABLE shared.users (id uuid PRIMARY KEY, name text);"
                "GRANT SELECT, INSERT, UPDATE, DELETE ON shared.users TO {app}, {admin}; RESET ROLE"
            ).format(owner=owner, app=app, admin=admin)
        )
        if rows:
            connection.execute("INSERT INTO shared.users VALUES (%s, 'Anna'), (%s, 'Ben')", [ANNA, BEN])
    try:
        yield one
    finally:
        await one.pool.close()


def cleared(entry: DesiredRowSecurity) -> DesiredRowSecurity:
    """The entry without probes."""
    return replace(entry, tenant=None, expect=())
