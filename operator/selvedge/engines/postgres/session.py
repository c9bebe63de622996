"""One connection of an administrator: how it is opened, what is pinned in it, and how statements are sent."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import psycopg
from psycopg import sql
from psycopg.errors import Diagnostic

from selvedge.core.errors import TransientError
from selvedge.core.reasons import Reason
from selvedge.engines.base import Observer, ServerTarget
from selvedge.engines.postgres.conninfo import conninfo
from selvedge.engines.postgres.errors import (
    NothingGrantedError,
    connect_error,
)

#: The server, too, notices that the other end is gone, within a minute: by the kernel's default it would keep a session
#: with its locks for two hours.
KEEPALIVE = {"tcp_keepalives_idle": "30", "tcp_keepalives_interval": "10", "tcp_keepalives_count": "3"}

#: An administrator's session pins whatever a database or role could have changed: startup options outrank both.
_PINNED = {
    "search_path": "pg_catalog",
    "TimeZone": "UTC",
    "DateStyle": "ISO",
    "IntervalStyle": "postgres",
    "jit": "off",
    "role": "none",
    "row_security": "off",  # nobody's policy is evaluated by the administrator: reading such a table is an error
    "default_transaction_read_only": "off",
    "default_transaction_isolation": "read\\ committed",
    "default_transaction_deferrable": "off",
    "standard_conforming_strings": "on",
    "quote_all_identifiers": "off",
    "check_function_bodies": "on",
    "client_min_messages": "warning",
    "bytea_output": "hex",
    "default_tablespace": "",
    "default_table_access_method": "heap",
    "idle_in_transaction_session_timeout": "60s",
    "idle_session_timeout": "0",
    **KEEPALIVE,
}


#: How long it is believed that an extension is installed on the server.
_EXTENSIONS_SECONDS = 300.0

_PINNED_FROM_17 = {"transaction_timeout": "0"}

#: privilege_not_granted, privilege_not_revoked: the command tag says GRANT, and nothing was granted.
_IN_VAIN = ("01007", "01006")

#: What a message may take beyond the server's own limits before the connection counts as dead.
_ANSWER_MARGIN = 5.0
#: A message of many statements gets this many times ``statement_timeout``, however many they are.
_LONGEST = 4


@dataclass(slots=True)
class Shared:
    """What is known of a server by all its sessions.

    ``reads_xml``: it was built with XML, as nearly all are, and lets us use it. ``version`` is ``server_version_num``,
    0 while unknown. ``extensions`` are those that could be created, with the schema that their control file demands:
    the same for all databases, and the server needs 5 ms to find it out.
    """

    reads_xml: bool = True
    version: int = 0
    extensions: dict[str, str | None] = field(default_factory=dict)
    extensions_until: float = 0.0

    def installed(self) -> dict[str, str | None]:
        """The extensions that are known to be installed; forgotten after a while, since packages come and go."""
        if time.monotonic() > self.extensions_until:
            self.extensions = {}
            self.extensions_until = time.monotonic() + _EXTENSIONS_SECONDS
        return self.extensions


class Session:
    """One connection of an administrator. Statements go one message at a time and are counted.

    libpq waits for an answer without end; ``statement_timeout`` (seconds) is also the client's own limit, so that a
    server or a network that went silent holds nobody. 0 means no limit, as it does on the server.
    """

    def __init__(
        self,
        connection: psycopg.AsyncConnection,
        dbname: str,
        observer: Observer,
        statement_timeout: float = 0.0,
        shared: Shared | None = None,
    ) -> None:
        self.connection = connection
        self.dbname = dbname
        self.shared = shared or Shared()
        self.opened = self.used = time.monotonic()
        self._observer = observer
        self._statement_timeout = statement_timeout
        self._in_vain: list[str] = []
        connection.add_notice_handler(self._notice)

    def _notice(self, found: Diagnostic) -> None:
        if found.sqlstate in _IN_VAIN:
            self._in_vain.append(found.message_primary or "nothing was granted or revoked")

    async def run(self, operation: str, *statements: sql.Composable) -> list[list[tuple[object, ...]]]:
        """Send statements as one message and return the rows of each; the server stops at the first that fails.

        Raises psycopg's errors: who knows what was being done turns them into ours. A GRANT or REVOKE that did nothing,
        because the role may grant none of it, is one of them: the server only warns of it.
        """
        self._in_vain.clear()
        query = sql.SQL("; ").join(statements).as_string(self.connection)
        started = time.monotonic()
        error = ""
        try:
            async with self._limit(len(statements)):
                cursor = await self.connection.execute(query.encode(), prepare=False)
            results = []
            more: bool | None = True
            while more:
                results.append(await cursor.fetchall() if cursor.description else [])
                more = cursor.nextset()
            if self._in_vain:
                raise NothingGrantedError(self._in_vain[0])
            return results
        except psycopg.Error as failure:
            error = (failure.sqlstate or "08000")[:2]
            raise
        finally:
            self._observer.statement(operation, time.monotonic() - started, error)

    async def send(self, operation: str, query: bytes, parameters: Sequence[str]) -> None:
        """Send one statement with parameters, for what must stand in no text of a query. Raises psycopg's errors."""
        started = time.monotonic()
        error = ""
        try:
            async with self._limit(1):
                await self.connection.execute(query, parameters, prepare=False)
        except psycopg.Error as failure:
            error = (failure.sqlstate or "08000")[:2]
            raise
        finally:
            self._observer.statement(operation, time.monotonic() - started, error)

    @asynccontextmanager
    async def _limit(self, statements: int) -> AsyncIterator[None]:
        """Break the connection when no answer comes in time: a cancelled call would wait for the same answer."""
        if self._statement_timeout <= 0:
            yield
            return
        limit = self._statement_timeout * min(max(1, statements), _LONGEST) + _ANSWER_MARGIN
        alarm = asyncio.get_running_loop().call_later(limit, self._hang_up)
        try:
            yield
        finally:
            alarm.cancel()

    def _hang_up(self) -> None:
        """Shut the socket down below libpq, which then reports a lost connection."""
        with suppress(OSError), socket.socket(fileno=os.dup(self.connection.fileno())) as handle:
            handle.shutdown(socket.SHUT_RDWR)

    async def rollback(self) -> None:
        """Leave a transaction, if the session still lives."""
        if not self.connection.closed and self.connection.info.transaction_status:
            with suppress(psycopg.Error):  # a broken session is thrown away by the caller's release
                async with self._limit(1):
                    await self.connection.execute("ROLLBACK")

    def stale(self) -> bool:
        """Whether an idle session has something to read: that is the server's farewell, or the end of the stream."""
        poll = select.poll()
        poll.register(self.connection.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    @property
    def broken(self) -> bool:
        """Whether the session cannot serve again."""
        return self.connection.closed or self.connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE


async def open_connection(target: ServerTarget, dbname: str, shared: Shared | None = None) -> psycopg.AsyncConnection:
    """A connection of the administrator with every setting pinned, in autocommit mode.

    ``shared`` spares a statement where the server's version is known to it. Raises our errors, or
    ``DatabaseMissingError``.
    """
    shared = shared or Shared()
    limits = target.limits
    settings = {
        **_PINNED,
        "statement_timeout": f"{int(limits.statement_timeout * 1000)}ms",
        "lock_timeout": f"{int(limits.lock_timeout * 1000)}ms",
    }
    newer = _PINNED_FROM_17 if shared.version >= 170000 else {}
    where = ", ".join(f"{host}:{port}" for host, port in target.hosts)
    try:
        async with asyncio.timeout(limits.connect_timeout * max(1, len(target.hosts)) + 1):
            connection = await _connect(target, dbname, {**settings, **newer})
            shared.version = connection.info.server_version
            if not newer and shared.version >= 170000:
                await _pin(connection)
            return connection
    except TimeoutError:
        message = f"server {where} accepted the connection and did not answer in time: check that it is alive"
        raise TransientError(Reason.CONNECTION_TIMEOUT, message) from None
    except psycopg.Error as error:
        shared.version = 0  # another server may answer by now
        raise connect_error(error, where=where, user=target.username, dbname=dbname) from None


async def _connect(target: ServerTarget, dbname: str, settings: dict[str, str]) -> psycopg.AsyncConnection:
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    info = psycopg.conninfo.make_conninfo(**conninfo(target, dbname), options=options)
    return await psycopg.AsyncConnection.connect(info, autocommit=True, prepare_threshold=None)


async def _pin(connection: psycopg.AsyncConnection) -> None:
    """What an older server does not know, and refuses a login for: so it is set after the login that shows the version.

    Closes the connection where that fails.
    """
    try:
        for name, value in _PINNED_FROM_17.items():
            await connection.execute(sql.SQL("SET {} TO {}").format(sql.Identifier(name), sql.Literal(value)))
    except BaseException:
        await connection.close()
        raise
