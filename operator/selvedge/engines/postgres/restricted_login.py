"""Logins as which users' code may run: authenticated, owner of nothing, member of one role at a time.

``SET ROLE`` is no boundary: a function can set the role back to the session's login. So whatever could run code of a
declaration or of a migration runs in a session that was *authenticated* as such a login, which may become one role and
nothing else. Its password is random, lives for one use, and reaches the server as a SCRAM verifier only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from selvedge.core.errors import TransientError
from selvedge.core.own_roles import own_role
from selvedge.core.reasons import Reason
from selvedge.engines.base import ServerTarget
from selvedge.engines.postgres.conninfo import conninfo
from selvedge.engines.postgres.errors import DatabaseMissingError, connect_error, statement_error
from selvedge.engines.postgres.login_renewal import OperatorLogin, renew, switch_off
from selvedge.engines.postgres.session import Session

#: Who uses such a login of this database holds this lock, on the administrator's session, for as long.
_LOCK = (int.from_bytes(b"selv"), int.from_bytes(b"logi"))

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
        self.name = own_role(database, suffix)
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
        return await renew(admin, OperatorLogin(self.name, self.database, self._comment), role)

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
        ends = sql.SQL(
            "SELECT pg_catalog.pg_terminate_backend(a.pid) FROM pg_catalog.pg_stat_activity a "
            "WHERE a.usename = {} AND current_setting('is_superuser') = 'on'"
        ).format(sql.Literal(self.name))
        exists = sql.SQL("SELECT 1 FROM pg_catalog.pg_roles r WHERE r.rolname = {}").format(sql.Literal(self.name))
        try:
            if (await admin.run("login", exists))[0]:
                await admin.run("login", switch_off(self.name), ends)
            await admin.run("login", _advisory("pg_advisory_unlock"))
        except psycopg.Error as error:
            await admin.connection.close()  # and the lock with it
            raise statement_error(error, f"switching off login {self.name}") from None


def _advisory(function: str) -> sql.Composed:
    return sql.SQL("SELECT pg_catalog.{}({}, {})").format(sql.Identifier(function), *map(sql.Literal, _LOCK))
