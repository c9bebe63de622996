"""The login that migrations run as, and how a run's session is opened.

A migration is somebody else's code. ``SET ROLE`` alone is no boundary: ``RESET ROLE`` leads back to the login of the
session. So the session is authenticated as ``<database>_migrator``, which owns nothing and inherits nothing: it may
become the migrations' role and write the migrations' history. Its password is random, lives for one run, and reaches
the server as a SCRAM verifier only.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING

import psycopg

from selvedge.core.errors import InvalidError, SelvedgeError
from selvedge.core.own_roles import MIGRATOR, own_role
from selvedge.core.reasons import Reason
from selvedge.engines.postgres.errors import connect_error, is_connection_lost, statement_error
from selvedge.engines.postgres.login_renewal import OperatorLogin, renew, switch_off
from selvedge.engines.postgres.migrations import PostgresMigrations
from selvedge.engines.postgres.session import Session

if TYPE_CHECKING:
    from selvedge.engines.base import ServerTarget

_ROLES = """
SELECT r.rolname, r.rolsuper OR EXISTS (
    SELECT FROM pg_catalog.pg_roles p
    WHERE (p.rolsuper OR p.rolname IN ('pg_execute_server_program', 'pg_write_server_files', 'pg_read_server_files'))
      AND pg_catalog.pg_has_role(r.oid, p.oid, 'MEMBER'))
FROM pg_catalog.pg_roles r WHERE r.rolname = ANY(%s)
"""


def login_name(database: str) -> str:
    """The login of a database's migrations, at most 63 bytes."""
    return own_role(database, MIGRATOR)


class MigratorLogin:
    """The login of one database, made and renewed over the administrator's connection."""

    def __init__(self, admin: psycopg.AsyncConnection, database: str, run_as: str, owner: str | None) -> None:
        self.admin = admin
        self.database = database
        self.run_as = run_as
        self.owner = owner
        self.name = login_name(database)
        self._version = admin.info.server_version // 10000
        self._session = Session(admin, database, _Unobserved())

    async def role(self) -> str:
        """The role that migrations run as: the owner where ``run_as`` may become it, else ``run_as`` itself.

        Raises InvalidError where one does not exist or is as good as a superuser.
        """
        wanted = [name for name in (self.run_as, self.owner) if name]
        cursor = await self.admin.execute(_ROLES, [wanted])
        found: dict[str, bool] = dict(await cursor.fetchall())
        if self.run_as not in found:
            raise InvalidError(
                Reason.ROLE_NOT_FOUND,
                f"role {self.run_as} of the migrations does not exist; declare it, or name another",
            )
        if found[self.run_as]:
            raise InvalidError(
                Reason.INVALID_SPEC,
                f"role {self.run_as} may act as a superuser or on the server's files, so no migration runs as it; "
                "name a role without these rights in migrations.role",
            )
        if not self.owner or self.owner not in found or found[self.owner]:
            return self.run_as
        privilege = "SET" if self._version >= 16 else "MEMBER"
        cursor = await self.admin.execute(
            "SELECT pg_catalog.pg_has_role(%s, %s, %s)", [self.run_as, self.owner, privilege]
        )
        row = await cursor.fetchone()
        return self.owner if row and row[0] else self.run_as

    async def refresh(self) -> str:
        """Create the login or renew it, and return its new password.

        Raises RefusedError where a role of this name exists that is not ours, NotPermittedError where the
        administrator lacks a right.
        """
        comment = f"selvedge: runs the migrations of database {self.database}"
        login = OperatorLogin(self.name, self.database, comment, bypasses=True)
        return await renew(self._session, login, self.run_as)

    async def retire(self) -> None:
        """Nobody logs in by this name until the next run."""
        await self.admin.execute(switch_off(self.name))


class _Unobserved:
    """A run's own statements are not counted among the operator's."""

    def statement(self, operation: str, seconds: float, error: str = "") -> None:
        """Nothing."""


@contextlib.asynccontextmanager
async def open_session(
    target: ServerTarget,
    admin: psycopg.AsyncConnection,
    *,
    database: str,
    run_as: str,
    owner: str | None = None,
    schema: str = "selvedge",
    run: str = "",
    closed: Iterable[tuple[str, str]] = (),
    table: str = "history",
    scope: str = "",
    search_path: Iterable[str] = (),
) -> AsyncIterator[PostgresMigrations]:
    """A session for one run of migrations on one database.

    ``admin`` is a connection of the administrator to that database, in autocommit mode; it is used by this session
    alone until the block ends, and stays open. Nothing is written before the session's ``lock``. When the block ends,
    the connections are closed, the login is switched off and the lock is free. ``run`` (a resource's uid) is written
    into the history. ``closed`` are tables that get row-level security in the transaction that makes them.
    ``schema`` and ``table`` name the history. ``scope`` is a schema that the migrations run in, with a history of its
    own: one set of files serves several schemas, each in its own session; ``search_path`` comes after it (schemas of
    extensions). Raises the errors of ``core/errors.py``.
    """
    login = MigratorLogin(admin, database, run_as, owner)
    session = PostgresMigrations(
        target,
        login,
        database=database,
        schema=schema,
        run=run,
        closed=closed,
        table=table,
        scope=scope,
        search_path=search_path,
    )
    try:
        yield session
    except psycopg.Error as error:
        raise migration_error(error, target, login.name, database) from None
    finally:
        await session.close()


def migration_error(error: psycopg.Error, target: ServerTarget, user: str, database: str) -> SelvedgeError:
    """The project's error for whatever a driver raised outside of a migration's own statements."""
    if is_connection_lost(error) or error.sqlstate is not None:
        return statement_error(error, f"preparing the migrations of database {database}")
    where = ", ".join(f"{host}:{port}" for host, port in target.hosts)
    mapped = connect_error(error, where=where, user=user, dbname=database)
    if isinstance(mapped, SelvedgeError):
        return mapped
    return InvalidError(Reason.INVALID_SPEC, f"database {database} does not exist on server {where}")
