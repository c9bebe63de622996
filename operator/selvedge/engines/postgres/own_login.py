"""Migrations that run as a login of the user's own: ``migrations.runAs``, and a command that is no administrator.

Nothing is made for it and nothing is changed about it: no password, no membership. It is refused where it is a
superuser, since a migration is somebody else's code. :func:`open_for_command` decides which of the two kinds of
session a command gets.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, LiteralString

import psycopg
from psycopg import sql

from selvedge.core.errors import InvalidError, NotPermittedError
from selvedge.core.reasons import Reason
from selvedge.engines.postgres.errors import DatabaseMissingError
from selvedge.engines.postgres.migration_ledger import Ledger, keeping
from selvedge.engines.postgres.migration_shapes import SHAPE, upgrade
from selvedge.engines.postgres.migrations import PostgresMigrations
from selvedge.engines.postgres.migrator import migration_error, open_session
from selvedge.engines.postgres.session import open_connection

if TYPE_CHECKING:
    from selvedge.engines.base import ServerTarget
    from selvedge.migrate.history import HistoryRow

_LOGIN = """
SELECT pg_catalog.pg_get_userbyid(d.datdba), r.rolsuper, r.rolcreaterole
FROM pg_catalog.pg_database d, pg_catalog.pg_roles r
WHERE d.datname = pg_catalog.current_database() AND r.rolname = session_user
"""

_DANGEROUS = """
SELECT EXISTS (
    SELECT FROM pg_catalog.pg_roles p
    WHERE (p.rolsuper OR p.rolname IN ('pg_execute_server_program', 'pg_write_server_files', 'pg_read_server_files'))
      AND pg_catalog.pg_has_role(r.oid, p.oid, 'MEMBER'))
FROM pg_catalog.pg_roles r WHERE r.rolname = %s
"""

_MAY_WRITE = """
SELECT pg_catalog.has_schema_privilege(%(login)s, %(schema)s, 'USAGE')
  AND pg_catalog.has_table_privilege(%(login)s, %(history)s, 'SELECT')
  AND pg_catalog.has_table_privilege(%(login)s, %(history)s, 'INSERT')
  AND pg_catalog.has_table_privilege(%(login)s, %(history)s, 'UPDATE')
  AND pg_catalog.has_table_privilege(%(login)s, %(history)s, 'DELETE')
  AND pg_catalog.has_table_privilege(%(login)s, %(events)s, 'SELECT')
  AND pg_catalog.has_any_column_privilege(%(login)s, %(events)s, 'INSERT')
"""

_READ_EVENTS: LiteralString = "GRANT SELECT ON {history}, {events} TO {login}"

_LEFTOVERS = """
SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
WHERE usename = session_user AND pid <> pg_catalog.pg_backend_pid() AND backend_type = 'client backend'
  AND datname = pg_catalog.current_database() AND application_name = 'selvedge migrations'
"""


class OwnLogin:
    """A login that exists, with its password; the counterpart of ``migrator.MigratorLogin``."""

    def __init__(self, admin: psycopg.AsyncConnection, name: str, password: str, run_as: str = "") -> None:
        self.admin = admin
        self.name = name
        self.run_as = run_as or name
        self._password = password
        self._version = admin.info.server_version // 10000

    async def role(self) -> str:
        """The role that migrations run as. Raises our errors where it does not exist or may not be used."""
        for name in dict.fromkeys((self.name, self.run_as)):
            cursor = await self.admin.execute(_DANGEROUS, [name])
            found = await cursor.fetchone()
            if found is None:
                raise InvalidError(
                    Reason.ROLE_NOT_FOUND, f"role {name} of the migrations does not exist; create it, or name another"
                )
            if found[0]:
                raise InvalidError(
                    Reason.INVALID_SPEC,
                    f"role {name} may act as a superuser or on the server's files, so no migration runs as it; "
                    "use a login without these rights",
                )
        if self.run_as != self.name:
            privilege = "SET" if self._version >= 16 else "MEMBER"
            cursor = await self.admin.execute(
                "SELECT pg_catalog.pg_has_role(%s, %s, %s)", [self.name, self.run_as, privilege]
            )
            row = await cursor.fetchone()
            if row is None or not row[0]:
                grant = sql.SQL("GRANT {} TO {}").format(sql.Identifier(self.run_as), sql.Identifier(self.name))
                statement = grant.as_string(self.admin)
                raise NotPermittedError(
                    Reason.INSUFFICIENT_PRIVILEGES,
                    f"login {self.name} may not run migrations as role {self.run_as}: run {statement}",
                    (statement,),
                )
        return self.run_as

    async def refresh(self) -> str:
        """The password, as it was given."""
        return self._password

    async def retire(self) -> None:
        """Nothing: the login is not ours."""


class OwnLedger(Ledger):
    """The history where the login itself has to make it, and gives itself nothing."""

    borrows = False

    async def ensure(self, admin: psycopg.AsyncConnection, login: str) -> None:
        """Create the tables as the login, unless they are there and it may write them. Raises NotPermittedError."""
        shape, _ = await self.shape(admin, writes=True)
        if shape == SHAPE:
            tables = {name: self._names[name].as_string(admin) for name in ("history", "events")}
            cursor = await admin.execute(_MAY_WRITE, {"login": login, "schema": self.schema, **tables})
            row = await cursor.fetchone()
            if row is not None and row[0]:
                return
        await super().ensure(admin, login)

    async def _lacking(
        self, admin: psycopg.AsyncConnection, login: str, why: str, shape: int, primary: str
    ) -> NotPermittedError:
        if not shape:
            return await self._no_place(admin, login, why)
        old = tuple(statement.as_string(admin) for statement in upgrade(shape, primary, self._tables))
        return keeping(login, why, old + self._needed(admin, login))

    async def read(self, connection: psycopg.AsyncConnection) -> tuple[HistoryRow, ...]:
        """See :meth:`Ledger.read`; raises NotPermittedError where the login may not."""
        try:
            return await super().read(connection)
        except psycopg.errors.InsufficientPrivilege as error:
            raise self._unread(connection, error, "GRANT SELECT ON {history} TO {login}") from None

    async def done(self, connection: psycopg.AsyncConnection) -> tuple[str, ...]:
        """See :meth:`Ledger.done`; raises NotPermittedError where the login may not read the events."""
        try:
            return await super().done(connection)
        except psycopg.errors.InsufficientPrivilege as error:
            raise self._unread(connection, error, _READ_EVENTS) from None

    async def owes_after_run(self, connection: psycopg.AsyncConnection) -> bool:
        """See :meth:`Ledger.owes_after_run`; raises NotPermittedError where the login may not read the events."""
        try:
            return await super().owes_after_run(connection)
        except psycopg.errors.InsufficientPrivilege as error:
            raise self._unread(connection, error, _READ_EVENTS) from None

    def _unread(
        self, connection: psycopg.AsyncConnection, error: psycopg.Error, grant: LiteralString
    ) -> NotPermittedError:
        login = connection.info.user
        names = {"login": sql.Identifier(login), **self._names}
        texts: tuple[LiteralString, ...] = ("GRANT USAGE ON SCHEMA {schema} TO {login}", grant)
        statements = tuple(sql.SQL(text).format(**names).as_string(connection) for text in texts)
        return NotPermittedError(
            Reason.INSUFFICIENT_PRIVILEGES,
            f"login {login} may not read the migrations' history: {error.diag.message_primary}; run "
            f"{'; '.join(statements)}",
            statements,
        )

    def _needed(self, admin: psycopg.AsyncConnection, login: str) -> tuple[str, ...]:
        names = {"login": sql.Identifier(login), **self._names}
        texts: tuple[LiteralString, ...] = (
            "GRANT USAGE ON SCHEMA {schema} TO {login}",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON {history} TO {login}",
            "GRANT SELECT, INSERT ON {events} TO {login}",
        )
        return tuple(sql.SQL(text).format(**names).as_string(admin) for text in texts)


class OwnLoginMigrations(PostgresMigrations):
    """A session of such a login; other sessions of the same login, which may be an application's, are left alone.

    What an earlier run left behind is known by the name that it gave itself.
    """

    leftovers = _LEFTOVERS


@contextlib.asynccontextmanager
async def open_own_session(
    target: ServerTarget,
    admin: psycopg.AsyncConnection,
    *,
    database: str,
    username: str,
    password: str,
    run_as: str = "",
    schema: str = "selvedge",
    run: str = "",
    closed: Iterable[tuple[str, str]] = (),
    table: str = "history",
    scope: str = "",
    search_path: Iterable[str] = (),
) -> AsyncIterator[PostgresMigrations]:
    """As ``migrator.open_session``, as a login that exists. ``admin`` may be a connection of that very login."""
    login = OwnLogin(admin, username, password, run_as)
    own = admin.info.user == username
    session = OwnLoginMigrations(
        target,
        login,
        database=database,
        schema=schema,
        run=run,
        closed=closed,
        scope=scope,
        search_path=search_path,
        ledger=(OwnLedger if own else Ledger)(schema, run, table=table, scope=scope),
    )
    try:
        yield session
    except psycopg.Error as error:
        raise migration_error(error, target, username, database) from None
    finally:
        await session.close()


@contextlib.asynccontextmanager
async def open_for_command(
    target: ServerTarget,
    database: str,
    *,
    role: str = "",
    schema: str = "selvedge",
    table: str = "history",
    scope: str = "",
    run: str = "",
) -> AsyncIterator[PostgresMigrations]:
    """A session for a command: of the migrator where the login may make one, else of the login itself.

    ``role`` is the one that new objects belong to, the database's owner by default. Nothing is written before the
    session's ``lock``. Raises the errors of ``core/errors.py``.
    """
    try:
        admin = await open_connection(target, database)
    except DatabaseMissingError:
        where = ", ".join(f"{host}:{port}" for host, port in target.hosts)
        raise InvalidError(
            Reason.INVALID_SPEC, f"database {database} does not exist on server {where}; create it first"
        ) from None
    async with admin:
        cursor = await admin.execute(_LOGIN)
        owner, superuser, creates = await cursor.fetchone() or ("", False, False)
        run_as = role or owner
        if not superuser and (not creates or run_as == target.username):
            sessions = open_own_session(
                target,
                admin,
                database=database,
                username=target.username,
                password=target.password,
                run_as=role,
                schema=schema,
                table=table,
                scope=scope,
                run=run,
            )
        else:
            sessions = open_session(
                target,
                admin,
                database=database,
                run_as=run_as,
                owner=owner,
                schema=schema,
                table=table,
                scope=scope,
                run=run,
            )
        async with sessions as session:
            yield session
