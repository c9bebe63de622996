"""The operator's connections to one server: never more than ``connections.max``, none kept longer than it serves.

A pool per database would hold connections without end on a server with a thousand databases (a peer ran out at 320);
so there is one budget for the server, and an idle connection gives way to whoever waits for another database.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import psycopg
from psycopg import sql

from selvedge.core.errors import InvalidError, TransientError
from selvedge.core.reasons import Reason
from selvedge.engines.base import Observer, ServerTarget
from selvedge.engines.postgres.conninfo import conninfo
from selvedge.engines.postgres.errors import DatabaseMissingError, connect_error, is_connection_lost

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
}


#: What a message may take beyond the server's own limits before the connection counts as dead.
_ANSWER_MARGIN = 5.0
#: A message of many statements gets this many times ``statement_timeout``, however many they are.
_LONGEST = 4


class Session:
    """One connection of an administrator. Statements go one message at a time and are counted.

    libpq waits for an answer without end; ``statement_timeout`` (seconds) is also the client's own limit, so that a
    server or a network that went silent holds nobody. 0 means no limit, as it does on the server.
    """

    def __init__(
        self, connection: psycopg.AsyncConnection, dbname: str, observer: Observer, statement_timeout: float = 0.0
    ) -> None:
        self.connection = connection
        self.dbname = dbname
        self.opened = self.used = time.monotonic()
        self._observer = observer
        self._statement_timeout = statement_timeout

    async def run(self, operation: str, *statements: sql.Composable) -> list[list[tuple[object, ...]]]:
        """Send statements as one message and return the rows of each; the server stops at the first that fails.

        Raises psycopg's errors: who knows what was being done turns them into ours.
        """
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
            return results
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


class Connections:
    """At most ``limits.max`` sessions of one server, shared by all its databases."""

    def __init__(self, target: ServerTarget, observer: Observer) -> None:
        self._target = target
        self._observer = observer
        self._idle: OrderedDict[int, Session] = OrderedDict()
        self._open = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._closed = False
        self._reaper: asyncio.Task[None] | None = None

    def counts(self) -> dict[str, int]:
        """Connections by state."""
        return {"active": self._open - len(self._idle), "idle": len(self._idle), "waiting": len(self._waiting)}

    @asynccontextmanager
    async def session(self, dbname: str) -> AsyncIterator[Session]:
        """A session to one database, for as long as the block runs.

        Raises :class:`TransientError` or :class:`InvalidError` where no connection can be had, and
        ``DatabaseMissingError`` where the database does not exist.
        """
        session = await self._acquire(dbname)
        try:
            yield session
        except psycopg.Error as error:
            if is_connection_lost(error):
                await session.connection.close()
            raise
        finally:
            await self._release(session)

    async def _acquire(self, dbname: str) -> Session:
        deadline = time.monotonic() + self._target.limits.acquire_timeout
        while True:
            found = await self._take_idle(dbname)
            if found is not None:
                return found
            if self._open < self._target.limits.max:
                self._open += 1
                break
            if self._idle:
                _, victim = self._idle.popitem(last=False)
                await victim.connection.close()
                break
            await self._wait(deadline)
        try:
            return await self._connect(dbname)
        except BaseException:
            self._open -= 1
            self._wake()
            raise

    async def _take_idle(self, dbname: str) -> Session | None:
        for key in list(reversed(self._idle)):
            session = self._idle[key]
            if session.dbname == dbname:
                del self._idle[key]
                if not session.broken and not session.stale():
                    return session
                self._open -= 1
                await session.connection.close()
        return None

    async def _wait(self, deadline: float) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await turn
        except TimeoutError:
            limit = self._target.limits.max
            message = f"all {limit} connections of spec.connections.max are in use; raise it, or wait"
            self._pass_on(turn)
            raise TransientError(Reason.TOO_MANY_CONNECTIONS, message) from None
        except BaseException:
            self._pass_on(turn)
            raise
        finally:
            with suppress(ValueError):
                self._waiting.remove(turn)

    def _pass_on(self, turn: asyncio.Future[None]) -> None:
        """Who was woken and cannot come any more wakes the next one."""
        if turn.done() and not turn.cancelled():
            self._wake()

    def _wake(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    async def _release(self, session: Session) -> None:
        try:
            await session.rollback()
        except BaseException:
            await session.connection.close()  # cancelled: the slot must not be lost with it
            self._open -= 1
            self._wake()
            raise
        limits = self._target.limits
        expired = time.monotonic() - session.opened > limits.max_lifetime
        if self._closed or expired or session.broken or limits.idle_timeout <= 0:
            await session.connection.close()
            self._open -= 1
        else:
            session.used = time.monotonic()
            self._idle[id(session)] = session
            if self._reaper is None or self._reaper.done():
                self._reaper = asyncio.create_task(self._reap())
        self._wake()

    async def _reap(self) -> None:
        """Close what has been idle for too long; ends when nothing is idle, so a quiet server costs nothing."""
        while self._idle:
            oldest = min(self._idle.values(), key=lambda session: session.used)
            rest = oldest.used + self._target.limits.idle_timeout - time.monotonic()
            if rest > 0:
                await asyncio.sleep(rest)
                continue
            self._idle.pop(id(oldest), None)
            self._open -= 1
            await oldest.connection.close()
            self._wake()

    def done_with(self, dbname: str) -> None:
        """Nobody will soon ask for this database again: its idle sessions are the first to give way."""
        for key in [key for key, session in self._idle.items() if session.dbname == dbname]:
            self._idle.move_to_end(key, last=False)

    async def forget(self, dbname: str) -> None:
        """Close idle sessions of one database, which is about to be dropped."""
        for key in [key for key, session in self._idle.items() if session.dbname == dbname]:
            session = self._idle.pop(key)
            self._open -= 1
            await session.connection.close()

    async def _connect(self, dbname: str) -> Session:
        try:
            connection = await open_connection(self._target, dbname)
        except DatabaseMissingError:
            if dbname != self._target.maintenance_database:
                raise
            message = f"the maintenance database {dbname} does not exist: set spec.postgres.maintenanceDatabase"
            raise InvalidError(Reason.INVALID_SPEC, message) from None
        return Session(connection, dbname, self._observer, self._target.limits.statement_timeout)

    async def close(self) -> None:
        """Close what is idle now, and the rest when it comes back."""
        self._closed = True
        if self._reaper is not None:
            self._reaper.cancel()
        while self._idle:
            _, session = self._idle.popitem()
            self._open -= 1
            await session.connection.close()


async def open_connection(target: ServerTarget, dbname: str) -> psycopg.AsyncConnection:
    """A connection of the administrator with every setting pinned, in autocommit mode.

    Raises our errors, or ``DatabaseMissingError``.
    """
    params = conninfo(target, dbname)
    limits = target.limits
    settings = {
        **_PINNED,
        "statement_timeout": f"{int(limits.statement_timeout * 1000)}ms",
        "lock_timeout": f"{int(limits.lock_timeout * 1000)}ms",
    }
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    where = ", ".join(f"{host}:{port}" for host, port in target.hosts)
    try:
        async with asyncio.timeout(limits.connect_timeout * max(1, len(target.hosts)) + 1):
            info = psycopg.conninfo.make_conninfo(**params, options=options)
            return await psycopg.AsyncConnection.connect(info, autocommit=True, prepare_threshold=None)
    except TimeoutError:
        message = f"server {where} accepted the connection and did not answer in time: check that it is alive"
        raise TransientError(Reason.CONNECTION_TIMEOUT, message) from None
    except psycopg.Error as error:
        raise connect_error(error, where=where, user=target.username, dbname=dbname) from None
