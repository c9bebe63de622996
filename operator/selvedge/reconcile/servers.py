"""The servers that this process talks to: one engine, one circuit breaker and one limit for each."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from random import Random

from selvedge.api.databaseserver import DatabaseServerSpec, EngineType
from selvedge.config import Settings
from selvedge.core.breaker import BreakerState, CircuitBreaker
from selvedge.core.errors import BudgetError, SelvedgeError, TransientError
from selvedge.core.reasons import Reason
from selvedge.engines.base import Engine, Observer, ServerTarget
from selvedge.engines.postgres.engine import PostgresEngine

ServerKey = tuple[str, str]

#: Failures that say that the server cannot be reached at all; only they open the circuit.
_CONNECTION = frozenset(
    {
        Reason.UNREACHABLE,
        Reason.HOST_NOT_FOUND,
        Reason.CONNECTION_TIMEOUT,
        Reason.CONNECTION_LOST,
        Reason.SERVER_STARTING,
        Reason.TOO_MANY_CONNECTIONS,
        Reason.TIMEOUT,
    }
)


#: Units of one Postgres server that are worked on at once.
_TOGETHER = 32
#: A server that is away is probed at least this often, by one connection: its users should not wait longer.
_PROBE_CAP = 5.0
#: While a server is away its Secrets are read this often; one with the label selvedge.dev/watch at each change as well.
_SECRETS_SECONDS = 30.0


@dataclass(slots=True)
class Server:
    """One DatabaseServer as this process uses it."""

    key: ServerKey
    spec: DatabaseServerSpec
    target: ServerTarget
    engine: Engine
    breaker: CircuitBreaker
    gate: asyncio.Semaphore
    system_identifier: str
    read_at: float
    """When its Secrets were read, as the monotonic clock counts; -inf where they have changed since."""
    last_error: str = ""
    blocked: SelvedgeError | None = None
    runs: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))

    @property
    def name(self) -> str:
        """Namespace/name."""
        return "/".join(self.key)

    @asynccontextmanager
    async def use(self, clock: Callable[[], float] = time.monotonic) -> AsyncIterator[Engine]:
        """The engine, within the server's limits and while its circuit is closed.

        Raises :class:`TransientError` with ``CircuitOpen`` while the server is left alone.
        """
        self.check(clock())
        async with self.gate:
            self.check(clock())
            try:
                yield self.engine
            except SelvedgeError as error:
                self.note(error, clock())
                raise
            self.breaker.success()

    @asynccontextmanager
    async def migrating(self, clock: Callable[[], float] = time.monotonic) -> AsyncIterator[None]:
        """The right to run migrations, which bring connections of their own: only so many at once.

        Raises :class:`TransientError` with ``CircuitOpen`` while the server is left alone.
        """
        async with self.runs:
            self.check(clock())
            try:
                yield
            except SelvedgeError as error:
                self.note(error, clock())
                raise

    def check(self, now: float) -> None:
        """Raise what keeps everybody from this server: another server in its place, or an open circuit."""
        if self.blocked is not None:
            raise self.blocked
        if self.breaker.state(now) is not BreakerState.CLOSED:
            raise self.circuit_open(now)

    def may_keep(self, spec: DatabaseServerSpec, now: float) -> bool:
        """Whether a probe may log in with what the Secrets held a moment ago.

        A server that is away is probed every few seconds, and reading its Secrets costs the API server more than the
        probe costs anybody.
        """
        away = self.breaker.state(now) is not BreakerState.CLOSED
        return away and self.spec == spec and now - self.read_at < _SECRETS_SECONDS

    def circuit_open(self, now: float) -> TransientError:
        """The error for who comes while the server is left alone."""
        rest = max(1, round(self.breaker.retry_after(now)))
        return TransientError(
            Reason.CIRCUIT_OPEN,
            f"DatabaseServer {self.name} failed several times in a row and is probed again about every {rest} s; "
            f"last error: {self.last_error}"
            if self.last_error
            else f"DatabaseServer {self.name} is not used until a probe succeeds",
        )

    def note(self, error: SelvedgeError, now: float) -> None:
        """Count a failure, if it is one of the connection."""
        if isinstance(error, BudgetError):
            return  # nobody asked the server
        if error.reason in _CONNECTION:
            self.last_error = error.message
            self.breaker.failure(now)
        elif error.reason is not Reason.NOT_LEADING:
            self.breaker.success()  # it answered


class Servers:
    """All of them, by namespace and name."""

    def __init__(self, observer: Callable[[str, str], Observer], settings: Settings) -> None:
        self._servers: dict[ServerKey, Server] = {}
        self._told: dict[ServerKey, float] = {}
        self._observer = observer
        self._settings = settings
        self._random = Random()

    def get(self, key: ServerKey) -> Server | None:
        """The server, if its Secrets could be read."""
        return self._servers.get(key)

    async def put(
        self, key: ServerKey, spec: DatabaseServerSpec, target: ServerTarget, system: str, began: float
    ) -> Server:
        """The server for this target: the known one where nothing changed, a new engine where something did.

        ``began`` is when the reading of its Secrets began, as the monotonic clock counts.
        """
        read_at = began if began > self._told.get(key, -math.inf) else -math.inf
        known = self._servers.get(key)
        if known is not None and known.target == target:
            known.spec, known.read_at = spec, read_at
            return known
        name = "/".join(key)
        observer = self._observer(name, spec.engine.value)
        engine: Engine
        # Of connections.max, each run of migrations needs three of its own; the rest is the pool's.
        runs = max(1, target.limits.max // 10)
        pooled = replace(target, limits=replace(target.limits, max=max(1, target.limits.max - 3 * runs)))
        if spec.engine is EngineType.POSTGRES:
            engine = PostgresEngine(
                pooled,
                observer,
                metadata_schema=self._settings.metadata_schema,
                history_table=self._settings.history_table,
                system_identifier=system,
            )
        else:
            # Imported when it is needed: its driver is 15 MiB of memory, and most operators have Postgres only.
            from selvedge.engines.mongodb.engine import MongoEngine

            engine = MongoEngine(pooled, observer, metadata_schema=self._settings.metadata_schema)
        # A Postgres engine bounds its connections by itself, and units that wait together share a transaction.
        together = _TOGETHER if spec.engine is EngineType.POSTGRES else 0
        gate = asyncio.Semaphore(max(1, pooled.limits.max - 1, together))
        breaker = CircuitBreaker(random=self._random, pause=1.0, cap=_PROBE_CAP)
        server = Server(key, spec, target, engine, breaker, gate, system, read_at, runs=asyncio.Semaphore(runs))
        self._servers[key] = server
        if known is not None:
            await known.engine.close()
        return server

    def read_again(self, key: ServerKey) -> None:
        """A Secret of this server changed: the next probe reads it, however short ago that was done."""
        self._told[key] = time.monotonic()
        server = self._servers.get(key)
        if server is not None:
            server.read_at = -math.inf

    async def remove(self, key: ServerKey) -> None:
        """Close the connections of a server that was deleted or whose Secrets are gone."""
        self._told.pop(key, None)
        server = self._servers.pop(key, None)
        if server is not None:
            await server.engine.close()

    async def close(self) -> None:
        """Close everything."""
        for key in list(self._servers):
            await self.remove(key)
