"""What the probes and ``/health`` answer from: plain memory, so that an answer never waits for a database."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from selvedge.core.redact import Redactor
from selvedge.core.shards import Shard


@dataclass(frozen=True, slots=True)
class ServerHealth:
    """The last probe of one DatabaseServer. ``seconds`` is how long it took."""

    healthy: bool
    seconds: float
    connections: Mapping[str, int] = field(default_factory=dict)
    reason: str = ""
    probed: str = ""

    def to_json(self) -> dict[str, Any]:
        """As ``/health/database`` shows it."""
        active, idle = self.connections.get("active", 0), self.connections.get("idle", 0)
        return {
            "healthy": self.healthy,
            "reason": self.reason,
            "responseTime": round(self.seconds * 1000, 3),
            "lastProbe": self.probed,
            "connections": {"total": active + idle, "active": active, "idle": idle},
        }


class Health:
    """The runtime beats it, reconcile reports servers to it, the HTTP server reads it."""

    def __init__(
        self,
        redactor: Redactor | None = None,
        *,
        stale_after: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
        shard: Shard | None = None,
    ) -> None:
        """``stale_after``: seconds without a beat after which the process counts as hung; ``shard``: what it serves."""
        self._redactor = redactor or Redactor()
        self._stale_after = stale_after
        self._clock = clock
        self._shard = shard
        self._beat = clock()
        self._servers: dict[str, ServerHealth] = {}
        self.leading = False
        self.api_reached = False

    def beat(self) -> None:
        """Called by the runtime's own loop once a second or so: proof that it still turns."""
        self._beat = self._clock()

    def reached_api(self) -> None:
        """The Kubernetes API answered once: this process can lead or stand by."""
        self.api_reached = True

    def server(
        self, name: str, healthy: bool, seconds: float, connections: Mapping[str, int], reason: str = ""
    ) -> None:
        """The outcome of a probe of DatabaseServer ``name`` (namespace/name), which took ``seconds``."""
        probed = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._servers[name] = ServerHealth(healthy, seconds, dict(connections), self._redactor.redact(reason), probed)

    def forget_server(self, name: str) -> None:
        """The DatabaseServer was deleted."""
        self._servers.pop(name, None)

    @property
    def alive(self) -> bool:
        """False where the runtime's loop has not beaten for too long: only a restart helps. No database counts here."""
        return self._clock() - self._beat < self._stale_after

    @property
    def ready(self) -> bool:
        """True for a leader and for a standby, as soon as the Kubernetes API answered once. No database counts here."""
        return self.alive and self.api_reached

    def summary(self) -> dict[str, Any]:
        """For ``/health``: ``status`` is healthy, degraded (some server is not) or unhealthy (this process is not)."""
        broken = sum(not server.healthy for server in self._servers.values())
        return {
            "status": "unhealthy" if not self.alive else "degraded" if broken else "healthy",
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "leader": self.leading,
            **({"shard": str(self._shard)} if self._shard is not None else {}),
            "databases": {"total": len(self._servers), "healthy": len(self._servers) - broken},
        }

    def databases(self) -> dict[str, Any]:
        """For ``/health/database``: the summary with each server."""
        servers = {name: server.to_json() for name, server in sorted(self._servers.items())}
        return self.summary() | {"databases": servers}
