"""Logins as which users' code may run: authenticated, owner of nothing, member of one role at a time.

``SET ROLE`` is no boundary: a function can set the role back to the session's login. So whatever could run code of a
declaration or of a migration runs in a session that was *authenticated* as such a login, which may become one role and
nothing else. Its password is random, lives for one use, and reaches the server as a SCRAM verifier only.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from selvedge.core.errors import NotPermittedError, RefusedError, TransientError
from selvedge.core.names import shorten
from selvedge.core.reasons import Reason
from selvedge.engines.base import ServerTarget
from selvedge.engines.postgres.acting import as_role
from selvedge.engines.postgres.conninfo import conninfo
from selvedge.engines.postgres.errors import DatabaseMissingError, connect_error, statement_error
from selvedge.engines.postgres.session import Session

_VALID_FOR = "10 minutes"

#: Who uses such a login of this database holds this lock, on the administrator's session, for as long.
_LOCK = (int.from_bytes(b"selv"), int.from_bytes(b"logi"))

_KNOWN = sql.SQL("""
SELECT r.oid IS NOT NULL, pg_catalog.shobj_description(r.oid, 'pg_authid'),
  (pg_catalog.clock_timestamp() + {valid}::interval)::text, current_setting('is_superuser') = 'on',
  current_setting('server_version_num')::int,
  pg_catalog.has_database_privilege(coalesce(r.rolname, 'public'), current_database(), 'CONNECT'),
  (SELECT pg_catalog.pg_get_userbyid(d.datdba) FROM pg_catalog.pg_database d WHERE d.datname = current_database()),
  (SELECT json_agg(json_build_array(g.rolname, pg_catalog.pg_get_userbyid(m.grantor)))
     FROM pg_catalog.pg_auth_members m JOIN pg_catalog.pg_roles g ON g.oid = m.roleid WHERE m.member = r.oid)
FROM (SELECT) AS one LEFT JOIN pg_catalog.pg_roles r ON r.rolname = {name}
""")

_LEFTOVERS = """
SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
WHERE usename = session_user AND pid <> pg_catalog.pg_backend_pid() AND backend_type = 'client backend'
"""

#: What every such session has, whatever the database or the login's own settings say.
_SETTINGS = {
    "row_security": "on",
    "client_connection_check_interval": "1s",
    "idle_in_transaction_session_timeout": "60s",
    "client_min_messages": "error",
    "standard_conforming_strings": "on",
    "quote_all_identifiers": "off",
    "default_transaction_read_only": "off",
    "default_transaction_isolation": "read\\ committed",
}


class RestrictedLogin:
    """One login of one database; ``suffix`` and ``purpose`` say what for (``_probe``, ``proves the policies``)."""

    def __init__(self, target: ServerTarget, database: str, suffix: str, purpose: str) -> None:
        self._target = target
        self.database = database
        self.name = shorten(database, suffix)
        self._comment = f"selvedge: {purpose} of database {database}"

    @asynccontextmanager
    async def in_use(self, admin: Session) -> AsyncIterator[None]:
        """Hold the login: nobody else renews it meanwhile; afterwards nobody can log in as it and its sessions end.

        Raises :class:`TransientError` while another operator uses it.
        """
        try:
            await admin.run("login", _advisory("pg_advisory_lock"))
        except psycopg.Error as error:
            raise statement_error(error, f"taking login {self.name} into use") from None
        try:
            yield
        finally:
            await self._retire(admin)

    async def renew(self, admin: Session, role: str) -> str:
        """Create the login or renew it as a member of ``role`` alone, and return its new password.

        Raises RefusedError where a role of this name exists that is not ours, NotPermittedError where the
        administrator lacks a right.
        """
        rows = await admin.run("login", _KNOWN.format(valid=sql.Literal(_VALID_FOR), name=sql.Literal(self.name)))
        exists, comment, until, superuser, version, connects, owner, members = rows[0][0]
        if exists and comment != self._comment:
            message = f"role {self.name} exists and was not made by selvedge, which needs the name: rename or drop it"
            raise RefusedError(Reason.ADOPTION_REQUIRED, message)
        password = secrets.token_urlsafe(32)
        verifier = admin.connection.pgconn.encrypt_password(password.encode(), self.name.encode(), b"scram-sha-256")
        login = sql.Identifier(self.name)
        # Only a superuser may name these attributes at all, even to take them away.
        attributes = "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOINHERIT NOREPLICATION NOBYPASSRLS"
        statements = [
            sql.SQL("BEGIN"),
            sql.SQL("{} ROLE {} {} PASSWORD {} VALID UNTIL {}").format(
                sql.SQL("ALTER" if exists else "CREATE"),
                login,
                sql.SQL(attributes if superuser else "LOGIN NOCREATEDB NOCREATEROLE NOINHERIT"),
                sql.Literal(verifier.decode()),
                sql.Literal(until),
            ),
        ]
        if not exists:
            statements.append(sql.SQL("COMMENT ON ROLE {} IS {}").format(login, sql.Literal(self._comment)))
        statements += _memberships(login, role, members if isinstance(members, list) else [], int(str(version)))
        if not connects:
            connect = sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(sql.Identifier(self.database), login)
            mine = superuser or owner == admin.connection.info.user
            statements.append(as_role(connect, "" if mine else str(owner)))
        try:
            await admin.run("login", *statements, sql.SQL("COMMIT"))
        except psycopg.errors.InsufficientPrivilege as error:
            await admin.rollback()
            message = (
                f"the operator's login may not make login {self.name} a member of {role}: {error.diag.message_primary}"
            )
            needed = sql.SQL("GRANT {} TO {} WITH ADMIN OPTION").format(
                sql.Identifier(role), sql.Identifier(admin.connection.info.user)
            )
            raise NotPermittedError(Reason.INSUFFICIENT_PRIVILEGES, message, (needed.as_string(None),)) from None
        except psycopg.Error as error:
            await admin.rollback()
            raise statement_error(error, f"renewing login {self.name}") from None
        return password

    @asynccontextmanager
    async def connect(
        self, password: str, settings: Mapping[str, str], *, limit: float
    ) -> AsyncIterator[psycopg.AsyncConnection]:
        """A session of the login in autocommit mode; ``limit`` seconds for all of it, then it is cut off.

        Raises our errors; psycopg's pass through from the block. TimeoutError when ``limit`` is over.
        """
        options = " ".join(f"-c {name}={value}" for name, value in {**_SETTINGS, **settings}.items())
        params = conninfo(
            self._target, self.database, username=self.name, password=password, application_name="selvedge"
        )
        try:
            async with asyncio.timeout(self._target.limits.connect_timeout + 1):
                info = make_conninfo(**params, options=options)
                connection = await psycopg.AsyncConnection.connect(info, autocommit=True, prepare_threshold=None)
        except TimeoutError:
            message = f"the server did not answer login {self.name} in time; tried again by itself"
            raise TransientError(Reason.CONNECTION_TIMEOUT, message) from None
        except psycopg.Error as error:
            where = ", ".join(f"{host}:{port}" for host, port in self._target.hosts)
            raised = connect_error(error, where=where, user=self.name, dbname=self.database)
            if isinstance(raised, DatabaseMissingError):
                message = f"database {self.database} is gone; tried again by itself"
                raise TransientError(Reason.UNREACHABLE, message) from None
            raise raised from None
        try:
            async with asyncio.timeout(limit):
                await connection.execute(_LEFTOVERS)
                yield connection
        finally:
            await connection.close()

    async def _retire(self, admin: Session) -> None:
        """Nobody logs in by this name until the next use, and whoever still is in goes."""
        if admin.connection.closed:
            return  # the lock went with the connection, and the password ends by itself
        await admin.rollback()
        login = sql.Identifier(self.name)
        ends = sql.SQL(
            "SELECT pg_catalog.pg_terminate_backend(a.pid) FROM pg_catalog.pg_stat_activity a "
            "WHERE a.usename = {} AND current_setting('is_superuser') = 'on'"
        ).format(sql.Literal(self.name))
        exists = sql.SQL("SELECT 1 FROM pg_catalog.pg_roles r WHERE r.rolname = {}").format(sql.Literal(self.name))
        try:
            if (await admin.run("login", exists))[0]:
                off = sql.SQL("ALTER ROLE {} NOLOGIN PASSWORD NULL").format(login)
                await admin.run("login", off, ends)
            await admin.run("login", _advisory("pg_advisory_unlock"))
        except psycopg.Error as error:
            await admin.connection.close()  # and the lock with it
            raise statement_error(error, f"switching off login {self.name}") from None


def _advisory(function: str) -> sql.Composed:
    return sql.SQL("SELECT pg_catalog.{}({}, {})").format(sql.Identifier(function), *map(sql.Literal, _LOCK))


def _memberships(login: sql.Identifier, role: str, members: list[list[str]], version: int) -> list[sql.Composable]:
    """Member of this role and of nothing else."""
    statements: list[sql.Composable] = []
    for held, grantor in members:
        if held != role:
            statement = sql.SQL("REVOKE {} FROM {} GRANTED BY {} CASCADE")
            statements.append(statement.format(sql.Identifier(held), login, sql.Identifier(grantor)))
    if role not in {held for held, _ in members}:
        how = sql.SQL(" WITH INHERIT FALSE, SET TRUE" if version >= 160000 else "")
        statements.append(sql.SQL("GRANT {} TO {}{}").format(sql.Identifier(role), login, how))
    return statements
