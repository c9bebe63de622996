"""Metrics of the servers themselves, from the figures that probes brought; a figure that is not known has no sample."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from selvedge.core.figures import COUNTERS, ServerFigures

#: Blocks that have to be asked for between two probes before their ratio says anything.
MIN_BLOCKS: Final = 1000

_COUNTERS: Final = {
    "blocks_hit": ("db_blocks_hit", "Blocks (MongoDB: pages) that the server found in its own cache.", {}),
    "blocks_read": ("db_blocks_read", "Blocks (MongoDB: pages) that the server had to read into its cache.", {}),
    "commits": ("db_transactions", "Transactions of the whole server that ended, by outcome.", {"outcome": "commit"}),
    "rollbacks": (
        "db_transactions",
        "Transactions of the whole server that ended, by outcome.",
        {"outcome": "rollback"},
    ),
    "deadlocks": ("db_deadlocks", "Deadlocks that the server ended.", {}),
    "conflicts": ("db_conflicts", "Queries on a standby that were cancelled in favour of replay.", {}),
}


@dataclass(slots=True)
class _Server:
    """What is known of one server: the last look, and what was counted from look to look."""

    last: ServerFigures | None = None
    counted: ServerFigures | None = None
    totals: dict[str, int] = field(default_factory=dict)
    ratio: float | None = None


class FiguresCollector(Collector):
    """The series of every server's own figures, by DatabaseServer as ``namespace/name``."""

    def __init__(self) -> None:
        self._servers: dict[str, _Server] = {}

    def update(self, server: str, figures: ServerFigures | None) -> None:
        """A probe brought ``figures``; None: it failed, and what was seen before is not stated any more."""
        known = self._servers.setdefault(server, _Server())
        known.last, known.ratio = figures, None
        if figures is not None:
            _count(known, figures)

    def forget(self, server: str) -> None:
        """The DatabaseServer was deleted."""
        self._servers.pop(server, None)

    def collect(self) -> Iterator[Metric]:
        """Every family, with or without samples."""
        known = self._servers
        seen = {name: server.last for name, server in known.items() if server.last is not None}
        yield _gauge("db_cache_hit_ratio", "Share (0 to 1) of blocks found in the cache between two probes.", (),
                     [((name,), server.ratio) for name, server in known.items()])  # fmt: skip
        yield from _counters({name: server.totals for name, server in known.items()})
        yield from _replication(seen)
        yield from _load(seen)


def _count(known: _Server, figures: ServerFigures) -> None:
    """Add what the server counted since the look before.

    Sums over databases fall when one is dropped, and a counter that falls looks to Prometheus like one that began again
    at 0: it would add the whole sum. So the operator counts for itself, and an interval in which the sums were not of
    the same things is left out.
    """
    before, known.counted = known.counted, figures
    for name in figures.counters:
        known.totals.setdefault(name, 0)
    if before is None or before.counted_by != figures.counted_by or not figures.counters:
        return
    grown = {name: value - before.counters.get(name, value) for name, value in figures.counters.items()}
    if min(grown.values()) < 0:
        return
    for name, more in grown.items():
        known.totals[name] += more
    asked = grown.get("blocks_hit", 0) + grown.get("blocks_read", 0)
    if asked >= MIN_BLOCKS:
        known.ratio = grown["blocks_hit"] / asked


def _counters(totals: dict[str, dict[str, int]]) -> Iterator[Metric]:
    families: dict[str, CounterMetricFamily] = {}
    for key in COUNTERS:
        name, text, labels = _COUNTERS[key]
        family = families.setdefault(name, CounterMetricFamily(name, text, labels=("database", *labels)))
        for server, found in totals.items():
            if key in found:
                family.add_metric((server, *labels.values()), found[key])
    yield from families.values()


def _replication(seen: dict[str, ServerFigures]) -> Iterator[Metric]:
    lags = [(name, lag) for name, figures in seen.items() for lag in figures.lags]
    yield _gauge("db_replication_lag_seconds", "Time by which a replica lies behind.", ("replica",),
                 [((name, lag.replica), lag.seconds) for name, lag in lags])  # fmt: skip
    yield _gauge("db_replication_lag_bytes", "WAL that a replica has still to replay.", ("replica",),
                 [((name, lag.replica), lag.bytes) for name, lag in lags])  # fmt: skip
    yield _gauge("db_replicas_connected", "Replicas that receive changes.", (),
                 [((name,), figures.replicas_connected) for name, figures in seen.items()])  # fmt: skip
    yield _gauge("db_replicas_expected", "Replicas that should.", (),
                 [((name,), figures.replicas_expected) for name, figures in seen.items()])  # fmt: skip
    yield _gauge("db_slot_retained_bytes", "WAL that a replication slot keeps from being removed.", ("slot",),
                 [((name, slot), size) for name, figures in seen.items()
                  for slot, size in figures.slots.items()])  # fmt: skip


def _load(seen: dict[str, ServerFigures]) -> Iterator[Metric]:
    yield _gauge("db_connections", "Client connections of the whole server, by state.", ("state",),
                 [((name, state), count) for name, figures in seen.items()
                  for state, count in figures.connections.items()])  # fmt: skip
    yield _gauge("db_connection_limit", "Connections that the server's users can open.", (),
                 [((name,), figures.connection_limit) for name, figures in seen.items()])  # fmt: skip
    yield _gauge("db_xid_age_ratio", "Age of the oldest unfrozen transaction, as a share of 2 billion.", (),
                 [((name,), figures.xid_age_ratio) for name, figures in seen.items()])  # fmt: skip
    yield _gauge("db_mongo_cache_dirty_ratio", "Changed bytes in the cache, as a share of its size.", (),
                 [((name,), figures.dirty_ratio) for name, figures in seen.items()])  # fmt: skip
    yield _gauge("db_mongo_queued_ops", "Operations that wait for their turn.", (),
                 [((name,), figures.queued) for name, figures in seen.items()])  # fmt: skip


def _gauge(
    name: str, text: str, labels: tuple[str, ...], samples: list[tuple[tuple[str, ...], float | None]]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=("database", *labels))
    for values, value in samples:
        if value is not None:
            family.add_metric(values, value)
    return family
