"""The typed changes of partitions and hypertables."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from selvedge.core.postgres.periods import Range
from selvedge.core.postgres.triggers import OnTable, Table
from selvedge.core.unit import Risk


class Upkeep(OnTable):
    """A change that time makes necessary: no drift, and made even where drift is only reported."""

    __slots__ = ()
    upkeep = True


@dataclass(frozen=True, slots=True)
class CreatePartition(Upkeep):
    """A table like its parent, then ATTACH: the parent is read and written meanwhile."""

    name: str
    owner: str
    range: Range | None = None
    date: bool = False
    modulus: int = 0
    remainder: int = 0
    tablespace: str | None = None
    access_method: str | None = None


@dataclass(frozen=True, slots=True)
class FinalizeDetach(Upkeep):
    """End a DETACH CONCURRENTLY that somebody began and did not finish."""

    partition: Table


@dataclass(frozen=True, slots=True)
class DropPartitions(Upkeep):
    """Detach and drop partitions that are older than the retention.

    ``shorter``: the retention was shortened, which is destructive and shows everything that goes with it. ``until`` are
    the ends of their ranges where they are detached CONCURRENTLY, empty where the table has a DEFAULT partition, beside
    which the server cannot.
    """

    partitions: tuple[tuple[str, str, int], ...]
    shorter: bool = False
    until: tuple[datetime, ...] = ()

    @property
    def risk(self) -> Risk:
        """Destructive where a person has to say that the shorter retention is meant."""
        return Risk.DESTRUCTIVE if self.shorter else Risk.LOCKING

    @property
    def rows(self) -> int:
        """How many rows go, as the server estimates; partitions without an estimate count nothing."""
        return sum(max(0, rows) for _, _, rows in self.partitions)


@dataclass(frozen=True, slots=True)
class FinishDrop(Upkeep):
    """Drop what a pass began to take away and did not finish; ``pending``: it is not wholly detached yet."""

    partition: Table
    rows: int
    pending: bool


@dataclass(frozen=True, slots=True)
class AcceptRetention(Upkeep):
    """From now on the claim ``key`` remembers this retention, in seconds: what is older goes by itself."""

    key: str
    retention: float

    @property
    def risk(self) -> Risk:
        """Destructive."""
        return Risk.DESTRUCTIVE


@dataclass(frozen=True, slots=True)
class CreateHypertable(Upkeep):
    """TimescaleDB: ``create_hypertable``; ``interval`` in seconds."""

    column: str
    interval: float


@dataclass(frozen=True, slots=True)
class SetChunkInterval(Upkeep):
    """TimescaleDB: ``set_chunk_time_interval``."""

    interval: float


@dataclass(frozen=True, slots=True)
class SetRetentionPolicy(Upkeep):
    """TimescaleDB: ``add_retention_policy``; None removes it. ``destructive``: shorter than what was in force."""

    retention: float | None
    destructive: bool = False

    @property
    def risk(self) -> Risk:
        """Destructive where chunks would go that the declaration kept before."""
        return Risk.DESTRUCTIVE if self.destructive else Risk.LOCKING
