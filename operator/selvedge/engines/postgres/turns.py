"""The server-wide part for many units at once: all who wait go into one transaction of the maintenance database.

Roles, memberships and claims of all databases meet at one lock there. Taken one by one, a hundred new units would be a
hundred transactions and as many waits for the disk. A batch that fails is made again one by one: what is wrong with one
unit never hurts another.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import psycopg

from selvedge.core.errors import SelvedgeError
from selvedge.core.postgres import changes as c
from selvedge.engines.postgres.errors import is_connection_lost, statement_error
from selvedge.engines.postgres.looks import ClusterView
from selvedge.engines.postgres.session import Session
from selvedge.engines.postgres.transaction import ChangeFailedError, Transaction

if TYPE_CHECKING:
    from selvedge.engines.postgres.engine import PostgresEngine

#: Units in one transaction.
_MOST = 32


class Turn(Protocol):
    """What one unit wants of the server-wide part. It may be asked several times, each time with a newer view."""

    @property
    def roles(self) -> Iterable[str]:
        """The roles that it has to see."""
        ...

    @property
    def keys(self) -> Sequence[str]:
        """The objects whose claims it has to see."""
        ...

    @property
    def resources(self) -> Sequence[str]:
        """The resources whose claims it has to see."""
        ...

    def decide(self, view: ClusterView) -> list[c.Change]:
        """What it changes, seen under the lock; raises our errors."""
        ...

    def residue(self, view: ClusterView) -> list[c.Change]:
        """What is still to be done after its changes."""
        ...

    def may_write(self) -> None:
        """Raise where this process does not lead any more."""
        ...


@dataclass(slots=True, eq=False)
class _Waiting:
    turn: Turn
    done: asyncio.Future[ClusterView]

    def finish(self, view: ClusterView) -> None:
        if not self.done.done():
            self.done.set_result(view)

    def fail(self, error: BaseException) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class Turns:
    """One server's queue of turns; a task works on it while somebody waits."""

    def __init__(self, engine: PostgresEngine) -> None:
        self._engine = engine
        self._queue: deque[_Waiting] = deque()
        self._batch: list[_Waiting] = []
        self._worker: asyncio.Task[None] | None = None

    async def take(self, turn: Turn) -> ClusterView:
        """Wait for a turn, and have its changes made; what stands then.

        Raises our errors and ``ChangeFailedError``.
        """
        waiting = _Waiting(turn, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        try:
            return await waiting.done
        except asyncio.CancelledError:
            await self._leave()
            raise

    async def _leave(self) -> None:
        """Where nobody waits any more, nothing is done any more."""
        worker = self._worker
        if worker is not None and all(one.done.done() for one in (*self._queue, *self._batch)):
            self._worker = None  # who comes now needs another one
            worker.cancel()
            await asyncio.wait({worker})

    async def _work(self) -> None:
        while self._queue:
            batch: list[_Waiting] = []
            try:
                async with self._engine.maintenance() as session:
                    self._batch = batch = self._next()
                    await self._run(session, batch)
            except Exception as error:  # noqa: BLE001  # nobody may wait for ever; each raises it to its own caller
                failure = statement_error(error, "changing roles") if isinstance(error, psycopg.Error) else error
                for one in batch or self._next():
                    one.fail(failure)

    def _next(self) -> list[_Waiting]:
        found: list[_Waiting] = []
        while self._queue and len(found) < _MOST:
            one = self._queue.popleft()
            if not one.done.done():
                found.append(one)
        return found

    async def _run(self, session: Session, batch: Sequence[_Waiting]) -> None:
        """All of them together; those whose batch failed, alone. Raises what concerns all of them."""
        alone: list[_Waiting] = []
        if batch:
            alone = await self._together(session, batch)
        for one in alone:
            try:
                await self._together(session, [one])
            except (ChangeFailedError, SelvedgeError) as error:
                one.fail(error)
                if session.broken:
                    raise

    async def _together(self, session: Session, members: Sequence[_Waiting]) -> list[_Waiting]:
        """One transaction; returns those who have to be made alone, one after the other."""
        engine, batch = self._engine, _Batch(members)
        async with Transaction(session, engine.metadata_schema, batch.may_write) as transaction:
            view = await transaction.cluster(batch.roles, batch.keys, batch.resources)
            engine.remember(view, batch.keys, batch.resources)
            batch.decide(view)
            if not batch.planned:
                return batch.later
            single = len(batch.planned) == 1
            try:
                after = await transaction.apply_cluster(
                    batch.changes, view, batch.roles, batch.keys, batch.resources, batch.residue, name_culprit=single
                )
            except psycopg.Error as error:
                if is_connection_lost(error):
                    raise
                return [*batch.planned, *batch.later]
            except (SelvedgeError, ChangeFailedError) as error:
                if single:
                    batch.planned[0].fail(error)
                    return batch.later
                if session.connection.closed:
                    raise
                return [*batch.planned, *batch.later]
        engine.remember(after, batch.keys, batch.resources)
        for one in batch.planned:
            one.finish(after)
        return batch.later


class _Batch:
    """Units that share a transaction. ``planned`` are those with ``changes``, ``later`` those who have to wait."""

    def __init__(self, members: Sequence[_Waiting]) -> None:
        self._members = members
        self.roles = frozenset(role for one in members for role in one.turn.roles)
        self.keys = tuple(dict.fromkeys(key for one in members for key in one.turn.keys))
        self.resources = tuple(dict.fromkeys(name for one in members for name in one.turn.resources))
        self.planned: list[_Waiting] = []
        self.later: list[_Waiting] = []
        self.changes: list[c.Change] = []

    def decide(self, view: ClusterView) -> None:
        touched: set[str] = set()
        for one in self._members:
            if one.done.done():
                continue  # cancelled meanwhile
            try:
                wanted = one.turn.decide(view)
            except Exception as error:  # noqa: BLE001  # it is this unit's, and raised there
                one.fail(error)
                continue
            names = set(_touched(wanted))
            if not wanted:
                one.finish(view)
            elif names & touched:
                self.later.append(one)  # two who want one object: the second has to see what the first did
            else:
                touched |= names
                self.planned.append(one)
                self.changes += wanted

    def may_write(self) -> None:
        for one in self.planned:
            one.turn.may_write()

    def residue(self, after: ClusterView) -> list[c.Change]:
        return [change for one in self.planned for change in one.turn.residue(after)]


def _touched(changes: Iterable[c.Change]) -> Iterable[str]:
    """The objects that changes concern, as claims name them."""
    for change in changes:
        if isinstance(change, c.WriteClaims):
            yield from (claim.object for claim in change.claims)
        elif isinstance(change, c.DropClaims):
            yield from change.objects
        else:
            yield str(change.ref).replace(" ", ":", 1)
