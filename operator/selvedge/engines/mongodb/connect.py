"""One client for each server: options, certificates, counters, and how a command is sent."""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Any

from pymongo import AsyncMongoClient, ReadPreference
from pymongo.errors import AutoReconnect, OperationFailure, PyMongoError, WTimeoutError
from pymongo.monitoring import (
    CommandFailedEvent,
    CommandListener,
    CommandStartedEvent,
    CommandSucceededEvent,
    ConnectionCheckedInEvent,
    ConnectionCheckedOutEvent,
    ConnectionCheckOutFailedEvent,
    ConnectionCheckOutStartedEvent,
    ConnectionClosedEvent,
    ConnectionCreatedEvent,
    ConnectionPoolListener,
    ConnectionReadyEvent,
    PoolClearedEvent,
    PoolClosedEvent,
    PoolCreatedEvent,
    PoolReadyEvent,
)

from selvedge.core.errors import InvalidError
from selvedge.core.reasons import Reason
from selvedge.engines.mongodb.errors import host_not_found, translate
from selvedge.engines.pem import PemPath

if TYPE_CHECKING:
    from collections.abc import Mapping

    from selvedge.engines.base import Observer, ServerTarget, TlsOptions

Doc = dict[str, Any]
Client = AsyncMongoClient[Doc]

operation: contextvars.ContextVar[str] = contextvars.ContextVar("selvedge_mongodb_operation", default="connect")
"""What the running pass is doing, for the observer: probe, snapshot, lock, apply, verify …"""


class _Statements(CommandListener):
    """Reports the duration of each command to the observer."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def started(self, event: CommandStartedEvent) -> None:
        """Nothing: the end of the command carries its duration."""

    def succeeded(self, event: CommandSucceededEvent) -> None:
        """Record a command that the server answered."""
        self._observer.statement(operation.get(), event.duration_micros / 1e6)

    def failed(self, event: CommandFailedEvent) -> None:
        """Record a command that failed, with the server's code or the exception's class."""
        failure: Any = event.failure
        code = failure.get("codeName") or failure.get("code") or failure.get("errtype") or "error"
        self._observer.statement(operation.get(), event.duration_micros / 1e6, str(code))


class PoolCounter(ConnectionPoolListener):
    """Counts connections by state, over the pools of all members of a replica set."""

    def __init__(self) -> None:
        self.open = 0
        self.active = 0
        self.waiting = 0

    def connection_created(self, event: ConnectionCreatedEvent) -> None:
        """One more connection."""
        self.open += 1

    def connection_closed(self, event: ConnectionClosedEvent) -> None:
        """One connection less."""
        self.open -= 1

    def connection_check_out_started(self, event: ConnectionCheckOutStartedEvent) -> None:
        """Someone waits for a connection."""
        self.waiting += 1

    def connection_check_out_failed(self, event: ConnectionCheckOutFailedEvent) -> None:
        """He got none."""
        self.waiting -= 1

    def connection_checked_out(self, event: ConnectionCheckedOutEvent) -> None:
        """He got one."""
        self.waiting -= 1
        self.active += 1

    def connection_checked_in(self, event: ConnectionCheckedInEvent) -> None:
        """He gave it back."""
        self.active -= 1

    def connection_ready(self, event: ConnectionReadyEvent) -> None:
        """Not counted: created is."""

    def pool_created(self, event: PoolCreatedEvent) -> None:
        """Not counted."""

    def pool_ready(self, event: PoolReadyEvent) -> None:
        """Not counted."""

    def pool_cleared(self, event: PoolClearedEvent) -> None:
        """Not counted: each connection reports its own end."""

    def pool_closed(self, event: PoolClosedEvent) -> None:
        """Not counted."""


class Server:
    """The connections to one server. The client is made at the first use, in the event loop that uses it."""

    def __init__(self, target: ServerTarget, observer: Observer) -> None:
        self.target = target
        self.pool = PoolCounter()
        self._observer = observer
        self._client: Client | None = None
        self._files: tuple[PemPath, ...] = ()
        self._opening = asyncio.Lock()

    @property
    def where(self) -> str:
        """Hosts and ports, for messages."""
        return ",".join(f"{host}:{port}" for host, port in self.target.hosts)

    async def client(self) -> Client:
        """The client. Raises TransientError HostNotFound when no host has an address, InvalidError for bad options."""
        async with self._opening:
            if self._client is None:
                if not self.target.srv:
                    await self._resolve()
                try:
                    self._client = self._open()
                except (
                    PyMongoError,
                    ValueError,
                    OSError,
                ):  # ssl.SSLError, for a certificate that is none, is an OSError
                    raise InvalidError(
                        Reason.INVALID_SPEC,
                        f"the connection to {self.where} cannot be set up: check the certificates of spec.tls, "
                        "spec.hosts and spec.mongodb",
                    ) from None
            return self._client

    async def run(self, database: str, command: Mapping[str, Any], limit: float | None, read: bool = True) -> Doc:
        """Send one command and return the reply.

        Reads carry ``maxTimeMS``; writes (``read=False``) wait for a majority. ``limit`` in seconds is for the
        answer of the server; None waits as long as the connection lives. Raises the driver's exceptions: callers that
        are not about one object use :meth:`command`.
        """
        client = await self.client()
        document = dict(command)
        if limit is not None:
            document.setdefault("maxTimeMS", int(limit * 1000))
        if not read:
            document.setdefault("writeConcern", {"w": "majority", "wtimeout": int(self._patience * 1000)})
        # The server's own limit comes first; ours is for a server that has stopped to answer.
        async with asyncio.timeout(None if limit is None else limit + self.target.limits.connect_timeout + 1):
            reply: Doc = await client[database].command(document, read_preference=ReadPreference.PRIMARY)
        # The driver leaves these two to whoever sends a command by hand.
        if reply.get("writeErrors"):
            first = reply["writeErrors"][0]
            raise OperationFailure(str(first.get("errmsg")), first.get("code"), first)
        if reply.get("writeConcernError"):
            raise WTimeoutError("majority not reached", 64, reply["writeConcernError"])
        return reply

    async def command(self, database: str, command: Mapping[str, Any], limit: float | None, read: bool = True) -> Doc:
        """:meth:`run`, with the driver's exceptions as the project's errors."""
        try:
            return await self.run(database, command, limit, read)
        except (PyMongoError, OSError) as error:
            raise self.error(error, next(iter(command))) from None

    def error(self, error: BaseException, doing: str = "") -> Exception:
        """A driver's exception as the project's error."""
        if isinstance(error, AutoReconnect) and self._client is not None:
            # Why no member could be chosen, or its pool was closed, stands with the members.
            found = self._client.topology_description.server_descriptions().values()
            error = next((member.error for member in found if isinstance(member.error, OperationFailure)), error)
        tls = self.target.tls
        anonymous = tls.mode != "Disable" and not tls.client_certificate
        return translate(error, self.where, doing, anonymous=anonymous)

    def connections(self) -> dict[str, int]:
        """Open connections by state."""
        pool = self.pool
        return {"active": pool.active, "idle": max(0, pool.open - pool.active), "waiting": pool.waiting}

    async def close(self) -> None:
        """Close the connections and let go of the certificates."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()
        self._files = ()

    @property
    def _patience(self) -> float:
        return self.target.limits.statement_timeout

    async def _resolve(self) -> None:
        """An unknown host is said at once; the driver would go on trying until its selection timeout."""
        loop = asyncio.get_running_loop()
        missing = 0
        for host, port in self.target.hosts:
            try:
                async with asyncio.timeout(self.target.limits.connect_timeout):
                    await loop.getaddrinfo(host, port)
            except OSError:  # TimeoutError is one too
                missing += 1
        if missing == len(self.target.hosts):
            raise host_not_found(self.where)

    def _open(self) -> Client:
        target, limits = self.target, self.target.limits
        options: Doc = {
            "appname": "selvedge",
            "maxPoolSize": limits.max,
            "maxIdleTimeMS": int(limits.idle_timeout * 1000),
            "waitQueueTimeoutMS": int(limits.acquire_timeout * 1000),
            "connectTimeoutMS": int(limits.connect_timeout * 1000),
            "serverSelectionTimeoutMS": int(limits.connect_timeout * 1000),
            "w": "majority",
            "event_listeners": [_Statements(self._observer), self.pool],
        } | self._tls(target.tls)
        if target.username:
            options |= {"username": target.username, "password": target.password, "authSource": target.auth_source}
        if target.replica_set:
            options["replicaSet"] = target.replica_set
        if target.srv:
            return AsyncMongoClient(f"mongodb+srv://{target.hosts[0][0]}/", **options)
        return AsyncMongoClient([_address(host, port) for host, port in target.hosts], **options)

    def _tls(self, tls: TlsOptions) -> Doc:
        """The driver takes certificates as paths only, and may read them again for a new connection: we hold them."""
        if tls.mode == "Disable":
            return {"tls": False}
        options: Doc = {"tls": True}
        if tls.mode == "Require":
            options["tlsAllowInvalidCertificates"] = True
        elif tls.mode == "VerifyCA":
            options["tlsAllowInvalidHostnames"] = True
        if tls.ca and tls.mode != "Require":
            options["tlsCAFile"] = self._file(tls.ca)
        if tls.client_certificate:
            options["tlsCertificateKeyFile"] = self._file(f"{tls.client_certificate}\n{tls.client_key}\n")
        return options

    def _file(self, pem: str) -> str:
        path = PemPath.of(pem)
        self._files += (path,)
        return path


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
