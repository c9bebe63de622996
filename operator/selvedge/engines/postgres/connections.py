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
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import psycopg
from psycopg import sql
from psycopg.errors import Diagnostic

from selvedge.core.errors import InvalidError, TransientError
from selvedge.core.reasons import Reason
from selvedge.engines.base import Observer, ServerTarget
from selvedge.engines.postgres.conninfo import conninfo
from selvedge.engines.postgres.errors import (
    DatabaseMissingError,
    NothingGrantedError,
    connect_error,
    is_connection_lost,
)

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


#: How long it is believed that an extension is installed on the server.
_EXTENSIONS_SECONDS = 300.0

_PINNED_FROM_17 = {"transaction_timeout": "0"}

#: Sessions of the maintenance database that give way to no other database's, where ``connections.max`` lets them.
_KEPT = 2
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
        self.shared = Shared()
        self._idle: OrderedDict[int, Session] = OrderedDict()
        self._open = 0
        self._waiting: deque[tuple[str, asyncio.Future[None]]] = deque()
        self._closed = False
        self._second = asyncio.Lock()
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

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Room for one connection that somebody else opens, as another login; counted with all others.

        To be taken before a session is, by whoever needs both: one at a time has it, so nobody waits for anybody who
        waits. Where ``limits.max`` is 1, that is exceeded by this one connection. Raises as :meth:`session` does.
        """
        async with self._second:
            if self._target.limits.max > 1:
                await self._room("")
            else:
                self._open += 1
            try:
                yield
            finally:
                self._open -= 1
                self._wake()

    async def _acquire(self, dbname: str) -> Session:
        found = await self._room(dbname)
        if found is not None:
            return found
        try:
            return await self._connect(dbname)
        except BaseException:
            self._open -= 1
            self._wake()
            raise

    async def _room(self, dbname: str) -> Session | None:
        """An idle session of this database, or None where there is room for a new one, which is counted already."""
        deadline = time.monotonic() + self._target.limits.acquire_timeout
        waited = False
        while True:
            found = await self._take_idle(dbname)
            if found is not None:
                return found
            if self._open < self._target.limits.max:
                self._open += 1
                return None
            victim = next(self._spare(), None)
            if victim is not None:
                del self._idle[id(victim)]
                await victim.connection.close()
                return None
            await self._wait(dbname, deadline, again=waited)
            waited = True

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

    def _spare(self) -> Iterator[Session]:
        """Idle sessions that give way to who wants another database, the first to go first.

        Those of the maintenance database stay, as far as two are in use now and then: it is asked for again and again.
        """
        kept = _KEPT if self._target.limits.max > _KEPT + 1 else 0
        for session in list(self._idle.values()):
            if session.dbname == self._target.maintenance_database and kept > 0:
                kept -= 1
            else:
                yield session

    async def _wait(self, dbname: str, deadline: float, *, again: bool) -> None:
        """Wait to be woken; who was woken in vain, because somebody else was faster, is the first in the queue."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if again:
            self._waiting.appendleft((dbname, turn))
        else:
            self._waiting.append((dbname, turn))
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
                self._waiting.remove((dbname, turn))

    def _pass_on(self, turn: asyncio.Future[None]) -> None:
        """Who was woken and cannot come any more wakes the next one."""
        if turn.done() and not turn.cancelled():
            self._wake()

    def _wake(self) -> None:
        """Wake the first who can go on with what is free now."""
        anyone = self._open < self._target.limits.max or next(self._spare(), None) is not None
        there = {session.dbname for session in self._idle.values()}
        for dbname, turn in self._waiting:
            if not turn.done() and (anyone or dbname in there):
                turn.set_result(None)
                self._waiting.remove((dbname, turn))
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
            connection = await open_connection(self._target, dbname, self.shared)
        except DatabaseMissingError:
            if dbname != self._target.maintenance_database:
                raise
            message = f"the maintenance database {dbname} does not exist: set spec.postgres.maintenanceDatabase"
            raise InvalidError(Reason.INVALID_SPEC, message) from None
        return Session(connection, dbname, self._observer, self._target.limits.statement_timeout, self.shared)

    async def close(self) -> None:
        """Close what is idle now, and the rest when it comes back."""
        self._closed = True
        if self._reaper is not None:
            self._reaper.cancel()
        while self._idle:
            _, session = self._idle.popitem()
            self._open -= 1
            await session.connection.close()


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
