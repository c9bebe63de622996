"""The operator's connections to one server: never more than ``connections.max``, none kept longer than it serves.

A pool per database would hold connections without end on a server with a thousand databases (a peer ran out at 320);
so there is one budget for the server, and an idle connection gives way to whoever waits for another database.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import psycopg

from selvedge.core.errors import BudgetError, InvalidError
from selvedge.core.reasons import Reason
from selvedge.engines.base import Observer, ServerTarget
from selvedge.engines.postgres.errors import (
    DatabaseMissingError,
    is_connection_lost,
)
from selvedge.engines.postgres.session import Session, Shared, open_connection

#: Sessions of the maintenance database that give way to no other database's, where ``connections.max`` lets them.
_KEPT = 2


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
            raise BudgetError(Reason.TOO_MANY_CONNECTIONS, message) from None
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
