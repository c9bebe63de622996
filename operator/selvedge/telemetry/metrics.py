"""The operator's metrics, in a registry of their own. docs/metrics.md explains each one.

A series says only what the operator itself saw: durations are those of its own statements, pool sizes those of its own
connections. Label values are bounded: kinds, results, codes, and DatabaseServers as ``namespace/name``, whose series go
when the server goes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from selvedge.core.figures import ServerFigures
from selvedge.core.shards import Shard
from selvedge.telemetry.figures import FiguresCollector

QUERY_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_RECONCILE_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
POOL_STATES: Final = ("active", "idle", "waiting")


class Metrics:
    """Every metric of one process; small methods, so that no caller knows a metric's name."""

    def __init__(self, shard: Shard | None = None) -> None:
        """``shard``: what this process serves of the DatabaseServers, if not all of them."""
        self.registry = registry = CollectorRegistry()
        self._reconciles = Counter(
            "selvedge_reconcile", "Reconciles that ended, by result.", ("kind", "result"), registry=registry
        )
        self._reconcile_seconds = Histogram(
            "selvedge_reconcile_duration_seconds",
            "Duration of one reconcile.",
            ("kind",),
            buckets=_RECONCILE_BUCKETS,
            registry=registry,
        )
        self._drift_found = Counter(
            "selvedge_drift_found",
            "Objects that were verified before and differed later.",
            ("kind",),
            registry=registry,
        )
        self._drift_repaired = Counter(
            "selvedge_drift_repaired", "Objects that differed and were put back.", ("kind",), registry=registry
        )
        self._resources = Gauge(
            "selvedge_resources", "Custom resources by their Ready condition.", ("kind", "ready"), registry=registry
        )
        self._leader = Gauge("selvedge_leader", "1 while this process holds the Lease, else 0.", registry=registry)
        self._requests = Counter(
            "selvedge_kubernetes_requests",
            "Requests to the Kubernetes API by the operator's own client; code is `error` where no answer came.",
            ("verb", "resource", "code"),
            registry=registry,
        )
        self._namespaces = Gauge(
            "selvedge_namespace_served",
            "1 for each watched namespace that the operator may read, 0 for one that is left out until it may.",
            ("namespace",),
            registry=registry,
        )
        self._queue = Gauge("selvedge_queue_depth", "Resources that wait for a free worker.", registry=registry)
        self._lag = Histogram(
            "selvedge_event_loop_lag_seconds",
            "How much later than asked for the event loop woke a sleeper.",
            buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0),
            registry=registry,
        )
        self._query_seconds = Histogram(
            "db_query_duration_seconds",
            "Duration of the operator's own statements, as the operator waited for them.",
            ("engine", "database", "operation", "status"),
            buckets=QUERY_BUCKETS,
            registry=registry,
        )
        self._queries = Counter(
            "db_queries", "The operator's own statements.", ("database", "operation"), registry=registry
        )
        self._query_errors = Counter(
            "db_query_errors",
            "The operator's own statements that failed, by SQLSTATE class or error code.",
            ("database", "error_type"),
            registry=registry,
        )
        self._pool = Gauge(
            "db_connection_pool_size",
            "Connections in the operator's own pool to the server (not the server's connections), by state.",
            ("database", "state"),
            registry=registry,
        )
        self._pool_share = Gauge(
            "db_connection_pool_utilization",
            "Connections in use of the operator's own pool, as a share (0 to 1) of spec.connections.max.",
            ("database",),
            registry=registry,
        )
        self._health = Gauge(
            "db_health_status",
            "1 if the last probe of the server succeeded, 0 if not.",
            ("database",),
            registry=registry,
        )
        self._probed = Gauge(
            "db_last_probe_timestamp_seconds",
            "When the server was last probed, in Unix time: a health that is not renewed says nothing.",
            ("database",),
            registry=registry,
        )
        self._health_info = Gauge(
            "db_health_info",
            "1, with the reason for which the last probe of the server failed.",
            ("database", "reason"),
            registry=registry,
        )
        self._figures = FiguresCollector()
        registry.register(self._figures)
        self._partitions = Gauge(
            "db_partition_end_timestamp_seconds",
            "Until when, in Unix time, rows of a partitioned table find a partition without a gap.",
            ("database", "schema", "table"),
            registry=registry,
        )
        if shard is not None:
            info = Gauge(
                "selvedge_shard_info", "1, with the shard that this process serves.", ("index", "count"),
                registry=registry,
            )  # fmt: skip
            info.labels(str(shard.index), str(shard.count)).set(1)
        self._leader.set(0)
        self._queue.set(0)
        self._per_server: tuple[MetricWrapperBase, ...] = (
            self._query_seconds,
            self._queries,
            self._query_errors,
            self._pool,
            self._pool_share,
            self._health,
            self._health_info,
            self._probed,
            self._partitions,
        )

    def reconciled(self, kind: str, result: str, seconds: float) -> None:
        """One reconcile ended: ``result`` is a short word such as ready, waiting, error."""
        self._reconciles.labels(kind, result).inc()
        self._reconcile_seconds.labels(kind).observe(seconds)

    def drift(self, kind: str, *, found: int = 0, repaired: int = 0) -> None:
        """Objects (``kind`` is theirs: role, grant, index …) found changed by others, and put back."""
        self._drift_found.labels(kind).inc(found)
        self._drift_repaired.labels(kind).inc(repaired)

    def resources(self, kind: str, counts: Mapping[str, int]) -> None:
        """How many resources of ``kind`` have Ready=True, False and Unknown; a state left out counts 0."""
        for ready in {"True", "False", "Unknown"} | counts.keys():
            self._resources.labels(kind, ready).set(counts.get(ready, 0))

    def leader(self, leading: bool) -> None:
        """Whether this process holds the Lease."""
        self._leader.set(int(leading))

    def kubernetes_request(self, verb: str, resource: str, code: str) -> None:
        """One attempt of a request: ``verb`` the HTTP method in lower case, ``resource`` the plural."""
        self._requests.labels(verb, resource, code).inc()

    def namespace(self, name: str, *, served: bool) -> None:
        """Whether a watched namespace may be read."""
        self._namespaces.labels(name).set(int(served))

    def queue_depth(self, waiting: int) -> None:
        """Resources that wait for a free worker."""
        self._queue.set(waiting)

    def event_loop_lag(self, seconds: float) -> None:
        """How late the event loop was."""
        self._lag.observe(seconds)

    async def watch_event_loop(self, period: float = 1.0) -> None:
        """Measure the event loop's lag until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            before = loop.time()
            await asyncio.sleep(period)
            self.event_loop_lag(max(0.0, loop.time() - before - period))

    def server(
        self,
        server: str,
        *,
        healthy: bool,
        connections: Mapping[str, int],
        limit: int = 0,
        reason: str = "",
        figures: ServerFigures | None = None,
    ) -> None:
        """The outcome of a probe of ``server`` (namespace/name) and the operator's connections to it by state.

        ``limit`` is ``spec.connections.max``; 0 leaves the utilization unstated. ``reason`` says why it is not healthy;
        ``figures`` are the server's own, None where the probe brought none.
        """
        self._health.labels(server).set(int(healthy))
        self._health_info.remove_by_labels({"database": server})
        if reason:
            self._health_info.labels(server, reason).set(1)
        self._probed.labels(server).set(time.time())
        self._figures.update(server, figures)
        self.pool(server, connections, limit)

    def pool(self, server: str, connections: Mapping[str, int], limit: int = 0) -> None:
        """The operator's connections to ``server`` by state: active, idle, waiting."""
        for state in POOL_STATES:
            self._pool.labels(server, state).set(connections.get(state, 0))
        if limit > 0:
            self._pool_share.labels(server).set(min(1.0, connections.get("active", 0) / limit))

    def observer(self, server: str, engine: str) -> StatementObserver:
        """What an engine tells its statements to; ``server`` is namespace/name, ``engine`` Postgres or MongoDB."""
        return StatementObserver(self, server, engine)

    def statement(self, server: str, engine: str, operation: str, seconds: float, error: str) -> None:
        """One of the operator's own statements; ``error`` is empty where it succeeded."""
        self._query_seconds.labels(engine, server, operation, "error" if error else "success").observe(seconds)
        self._queries.labels(server, operation).inc()
        if error:
            self._query_errors.labels(server, error).inc()

    def headroom(self, server: str, schema: str, tables: Iterable[tuple[str, float]]) -> None:
        """Until when (Unix time) the partitions reach of the tables that a DatabaseSchema (namespace/name) declares."""
        self._partitions.remove_by_labels({"schema": schema})
        for table, until in tables:
            self._partitions.labels(server, schema, table).set(until)

    def forget_server(self, server: str) -> None:
        """Remove every series of a DatabaseServer that was deleted, or it would look alive for ever."""
        for metric in self._per_server:
            metric.remove_by_labels({"database": server})
        self._figures.forget(server)


class StatementObserver:
    """``engines.base.Observer`` for one DatabaseServer."""

    __slots__ = ("_engine", "_metrics", "_server")

    def __init__(self, metrics: Metrics, server: str, engine: str) -> None:
        self._metrics = metrics
        self._server = server
        self._engine = engine

    def statement(self, operation: str, seconds: float, error: str = "") -> None:
        """Record one statement: ``error`` is an SQLSTATE class or code, empty for success."""
        self._metrics.statement(self._server, self._engine, operation, seconds, error)
