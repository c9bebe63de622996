"""Figures about a server that a probe brings along: what its own views state, at no statement of their own.

What a server does not say, or does not say to this login, is None or left out: a figure that is guessed is worse than
none. telemetry/figures.py turns them into metrics, docs/metrics.md defines each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

N = TypeVar("N", int, float)

#: What ``ServerFigures.counters`` may hold; MongoDB states the first two, counted in pages.
COUNTERS = ("blocks_hit", "blocks_read", "commits", "rollbacks", "deadlocks", "conflicts")


@dataclass(frozen=True, slots=True)
class ReplicaLag:
    """How far one replica lies behind: ``replica`` as the server that states it calls it."""

    replica: str
    seconds: float | None = None
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class ServerFigures:
    """One look at a server's own figures.

    ``counters`` are the server's sums since some past moment; two looks can be compared only while ``counted_by``,
    which names what they are summed over, is the same. ``connections`` are the server's, by state, whoever opened
    them, and ``connection_limit`` is how many those who are no superusers can open. ``slots`` are bytes of WAL that
    each replication slot keeps. ``xid_age_ratio`` and ``dirty_ratio`` are shares of 1.
    """

    connections: Mapping[str, int] = field(default_factory=dict)
    connection_limit: int | None = None
    counters: Mapping[str, int] = field(default_factory=dict)
    counted_by: str = ""
    lags: tuple[ReplicaLag, ...] = ()
    replicas_connected: int | None = None
    replicas_expected: int | None = None
    slots: Mapping[str, int] = field(default_factory=dict)
    xid_age_ratio: float | None = None
    dirty_ratio: float | None = None
    queued: int | None = None


def farthest(lags: list[ReplicaLag]) -> tuple[ReplicaLag, ...]:
    """One entry for each name, by name: of several replicas that share one, the one that lies farthest behind."""
    found: dict[str, ReplicaLag] = {}
    for lag in lags:
        other = found.get(lag.replica)
        if other is not None:
            lag = ReplicaLag(lag.replica, _most(lag.seconds, other.seconds), _most(lag.bytes, other.bytes))
        found[lag.replica] = lag
    return tuple(found[name] for name in sorted(found))


def _most(one: N | None, other: N | None) -> N | None:
    return one if other is None else other if one is None else max(one, other)
