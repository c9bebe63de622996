"""One Postgres server: the passes over its databases, in the order inspect → diff → plan → apply → verify.

A pass over what matches is one statement. A pass that writes takes the lock in the database that it writes to, looks
again, applies, looks again, and commits only when nothing is left to do.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from random import Random

import psycopg

from selvedge.core.errors import InvalidError, TransientError
from selvedge.core.postgres.model import Snapshot
from selvedge.core.reasons import Reason
from selvedge.core.rowcount import RowCount
from selvedge.core.unit import ObjectState, ObjectStatus, UnitResult
from selvedge.engines.base import Observer, ServerFacts, ServerTarget, Unit
from selvedge.engines.postgres.compile import compile_unit
from selvedge.engines.postgres.connections import Connections
from selvedge.engines.postgres.errors import ConcurrentChangeError, statement_error
from selvedge.engines.postgres.logins import PostgresLogins
from selvedge.engines.postgres.looks import ClusterView, ServerBook, read_cluster
from selvedge.engines.postgres.migrator import open_session
from selvedge.engines.postgres.own_login import open_own_session
from selvedge.engines.postgres.passes import Pass
from selvedge.engines.postgres.probe import probe
from selvedge.engines.postgres.removal import remove_members
from selvedge.engines.postgres.rls_memory import RowSecurityMemory
from selvedge.engines.postgres.session import Session, open_connection
from selvedge.engines.postgres.transaction import ChangeFailedError, Transaction
from selvedge.engines.postgres.turns import Turns
from selvedge.engines.postgres.work import Work
from selvedge.migrate.protocol import MigrationSession

#: How long the server's claims and databases are believed before they are read again, by passes that only look …
_BOOK_SECONDS = 30.0
#: … and after a probe that saw that they had not been changed; probes are made about every 30 s.
_CONFIRMED_SECONDS = 90.0
#: Objects that may fail one by one in a pass before the pass itself is given up.
_MAX_FAILURES = 25
#: How often a pass is made again at once because somebody else changed the same catalogue rows.
_MAX_ATTEMPTS = 3


class PostgresEngine:
    """The engine for one DatabaseServer with ``engine: Postgres``."""

    def __init__(
        self,
        target: ServerTarget,
        observer: Observer,
        *,
        metadata_schema: str = "selvedge",
        history_table: str = "history",
        system_identifier: str = "",
    ) -> None:
        self.target = target
        self.metadata_schema = metadata_schema
        self._history_table = history_table
        self.pool = Connections(target, observer)
        self.turns = Turns(self)
        self._logins = PostgresLogins(self)
        self._slots = asyncio.Semaphore(2 if target.limits.max > 3 else 1)
        self._system_identifier = system_identifier
        self._random = Random()
        self._book: ServerBook | None = None
        self._book_until = 0.0
        self._stamp: str | None = None
        self._seen: dict[str, frozenset[tuple[str, str, str]]] = {}
        self.rows = RowSecurityMemory()
        #: By database, what was counted of the rows that go with changes that wait.
        self.lost: dict[str, dict[tuple[str, str], RowCount]] = {}

    async def probe(self) -> ServerFacts:
        """Log in and look; see :meth:`Engine.probe`."""
        facts, stamp = await probe(self.pool, self.target, self.metadata_schema)
        if stamp is not None and stamp == self._stamp:
            self._book_until = max(self._book_until, time.monotonic() + _CONFIRMED_SECONDS)
        elif stamp is not None:
            self._stamp, self._book_until = stamp, 0.0
        # From here on, whatever answers at this address has to be the same server.
        self._system_identifier = self._system_identifier or facts.system_identifier
        return facts

    @asynccontextmanager
    async def migrations(
        self,
        database: str,
        *,
        run_as: str = "",
        owner: str = "",
        run: str = "",
        closed: Iterable[tuple[str, str]] = (),
        login: tuple[str, str] | None = None,
        scope: str = "",
    ) -> AsyncIterator[MigrationSession]:
        """See :meth:`selvedge.engines.base.Engine.migrations`."""
        schema = self.metadata_schema
        async with await open_connection(self.target, database) as admin:
            if login is None:
                opened = open_session(
                    self.target,
                    admin,
                    database=database,
                    run_as=run_as,
                    owner=owner or None,
                    schema=schema,
                    run=run,
                    closed=closed,
                    table=self._history_table,
                    scope=scope,
                )
            else:
                opened = open_own_session(
                    self.target,
                    admin,
                    database=database,
                    username=login[0],
                    password=login[1],
                    run_as=run_as,
                    schema=schema,
                    run=run,
                    closed=closed,
                    table=self._history_table,
                    scope=scope,
                )
            async with opened as session:
                yield session

    def logins(self) -> PostgresLogins:
        """See :meth:`selvedge.engines.base.Engine.logins`."""
        return self._logins

    def connections(self) -> dict[str, int]:
        """Connections by state."""
        return self.pool.counts()

    async def close(self) -> None:
        """Close every connection."""
        await self.pool.close()

    async def converge(self, unit: Unit, may_write: Callable[[], None]) -> UnitResult:
        """See :meth:`Engine.converge`."""
        return await self._run(unit, may_write, plan_only=False)

    async def plan(self, unit: Unit) -> UnitResult:
        """See :meth:`Engine.plan`."""

        def refuse() -> None:
            raise AssertionError("a plan writes nothing")

        return await self._run(unit, refuse, plan_only=True)

    async def remove(self, unit: Unit, may_write: Callable[[], None]) -> UnitResult:
        """Take away what only the unit's deleting members made, where their ``deletionPolicy`` is Delete."""
        self._book = None
        self._seen.pop(unit.database, None)
        self.lost.pop(unit.database, None)
        self.rows.forget(unit.database)
        return await remove_members(self.pool, self.target, self.metadata_schema, unit, may_write, self.check_identity)

    async def _run(self, unit: Unit, may_write: Callable[[], None], *, plan_only: bool) -> UnitResult:
        work = Work(self, unit, compile_unit(unit, self.metadata_schema), may_write, plan_only)
        attempts = 0
        while len(work.failed) <= _MAX_FAILURES:
            try:
                result = await Pass(work).run()
                self.pool.done_with(unit.database)
                return result
            except ChangeFailedError as failure:
                work.failed[failure.change] = ObjectStatus(
                    failure.change.ref, ObjectState.FAILED, failure.error.reason, failure.error.message
                )
            except ConcurrentChangeError:
                attempts += 1
                if attempts > _MAX_ATTEMPTS:
                    raise
                await asyncio.sleep(self._random.uniform(0.02, 0.2) * attempts)
            except psycopg.Error as error:
                raise statement_error(error, f"working on database {unit.database}") from None
        raise next(iter(InvalidError(s.reason, s.message) for s in work.failed.values()))

    @asynccontextmanager
    async def maintenance(self) -> AsyncIterator[Session]:
        """A session to the maintenance database for work on the whole server; at most two such work at a time."""
        async with self._slots, self.pool.session(self.target.maintenance_database) as session:
            yield session

    async def view(self, keys: Sequence[str], resources: Sequence[str], *, fresh: bool = False) -> ClusterView:
        """What is known of the server, as far as it concerns these; for passes that only look.

        It is read again when the probe sees that the claims were changed, and where no probe is made, after a while;
        ``fresh``: now.
        """
        if fresh or self._book is None or time.monotonic() > self._book_until:
            async with self.maintenance() as session:
                self._book = ServerBook(await read_cluster(session, self.metadata_schema))
            self._book_until = time.monotonic() + _BOOK_SECONDS
        return self._book.shown(keys, resources)

    def remember(self, view: ClusterView, keys: Sequence[str], resources: Sequence[str]) -> None:
        """Take over what a transaction saw of these, so that the next pass need not read it."""
        if self._book is not None:
            self._book.take(view, keys, resources)

    def made(self, database: str) -> None:
        """Remember a database that exists by now."""
        if self._book is not None:
            self._book.made(database)

    def check_identity(self, snapshot: Snapshot) -> None:
        """Refuse to write to a server that is not the one that was there before, or that is a standby."""
        if self._system_identifier and snapshot.system_identifier != self._system_identifier:
            message = (
                f"the server's system identifier is {snapshot.system_identifier} and was {self._system_identifier}: "
                "it was replaced; delete and apply the DatabaseServer again once you are sure that it is the right one"
            )
            raise InvalidError(Reason.SERVER_REPLACED, message)
        if snapshot.standby:
            raise TransientError(
                Reason.STANDBY, "the server is a standby and takes no writes: point spec.hosts to the primary"
            )

    def transaction(self, session: Session, may_write: Callable[[], None]) -> Transaction:
        """A transaction under the lock in the session's database."""
        return Transaction(session, self.metadata_schema, may_write)

    def seen(self, database: str) -> frozenset[tuple[str, str, str]] | None:
        """The objects that stood there at the last verified pass of this process."""
        return self._seen.get(database)

    def saw(self, database: str, snapshot: Snapshot) -> None:
        """Remember the objects of a verified pass."""
        kinds = ("table", "partition", "sequence", "function", "column")
        self._seen[database] = frozenset(
            (group.kind, group.schema, name) for group in snapshot.groups if group.kind in kinds for name in group.names
        )
