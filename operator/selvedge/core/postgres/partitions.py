"""Partitions: made ahead of time, taken away when they are old. Desired state, what there is, and the difference.

The clock is the server's and comes with the snapshot, so the difference is a pure function. What is created is what is
missing: partitions that others made count by the range they cover, whatever they are called. No DEFAULT partition is
made: rows in it would stand in the way of the partition that they belong to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from selvedge.core.names import shorten
from selvedge.core.postgres import periods
from selvedge.core.postgres.change import Change, Problem
from selvedge.core.postgres.partition_changes import (
    AcceptRetention,
    CreateHypertable,
    CreatePartition,
    DropPartitions,
    FinalizeDetach,
    FinishDrop,
    SetChunkInterval,
    SetRetentionPolicy,
)
from selvedge.core.postgres.periods import Range
from selvedge.core.postgres.triggers import Table
from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectRef, ObjectState, ObjectStatus

#: Types that a partition key by time may have.
TIME_TYPES = ("timestamp with time zone", "timestamp without time zone", "date")

_BEGINNING = datetime(1, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class DesiredPartitions:
    """One entry of ``spec.postgres.partitions``, or a table of the audit.

    With ``every`` it is partitioned by time: ``ahead`` partitions beyond the present one, ``retention`` in seconds,
    None for ever. With ``count`` by hash. ``hold``: nothing is dropped for now, whatever its age.
    """

    member: str
    ref: ObjectRef
    table: Table
    column: str
    every: str = ""
    ahead: int = 0
    retention: float | None = None
    count: int = 0
    hold: bool = False

    @property
    def key(self) -> str:
        """The object in the book of claims."""
        return f"{self.ref.kind}:{self.ref.name}"

    @property
    def kept(self) -> float | None:
        """Seconds that rows are kept for, as things stand; None for ever."""
        return None if self.hold else self.retention


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition as it is. ``range`` or (``modulus``, ``remainder``) says what it holds; neither for a DEFAULT one.

    ``rows`` is the server's estimate, negative where it has none. One that is made again has another ``oid``.
    """

    schema: str
    name: str
    range: Range | None = None
    modulus: int = 0
    remainder: int = 0
    detaching: bool = False
    rows: int = -1
    oid: int = 0


@dataclass(frozen=True, slots=True)
class Leftover:
    """A table that the retention began to take away: it held rows up to ``end``, and its comment says of what.

    ``pending``: a DETACH CONCURRENTLY of it was interrupted; else it is detached and was not dropped.
    """

    schema: str
    name: str
    end: datetime
    rows: int = -1
    pending: bool = False


@dataclass(frozen=True, slots=True)
class Hypertable:
    """What TimescaleDB knows of a table; intervals in seconds."""

    column: str
    interval: float
    retention: float | None


@dataclass(frozen=True, slots=True)
class PartitionedTable:
    """A table that a declaration names, as it is.

    ``strategy`` is range, hash, list, or empty for a table without partitions. ``key`` are the columns of the partition
    key with their types, a None for an expression. ``privileged``: its owner is a superuser. ``relations`` are the
    names in its schema that a new partition could collide with.
    """

    table: Table
    strategy: str
    key: tuple[tuple[str, str] | None, ...]
    owner: str
    partitions: tuple[Partition, ...] = ()
    privileged: bool = False
    tablespace: str | None = None
    access_method: str | None = None
    relations: frozenset[str] = frozenset()
    columns: Mapping[str, str] = field(default_factory=dict)
    empty: bool = False
    hypertable: Hypertable | None = None
    leftovers: tuple[Leftover, ...] = ()

    def has_default(self) -> bool:
        """Whether it has a DEFAULT partition."""
        return self.strategy == "range" and any(one.range is None for one in self.partitions)

    def covered(self) -> list[Range]:
        """The ranges of its partitions. One that is being detached takes no rows any more."""
        return [one.range for one in self.partitions if one.range is not None and not one.detaching]


@dataclass(frozen=True, slots=True)
class LivePartitions:
    """What the snapshot shows of the tables that are declared, and the server's clock. ``timescale``: its version."""

    now: datetime
    tables: Mapping[Table, PartitionedTable]
    timescale: str = ""


def diff_partitions(
    desired: Sequence[DesiredPartitions],
    live: LivePartitions,
    accepted: Mapping[str, float | None],
) -> tuple[list[Change], list[Problem]]:
    """What is to be made and taken away now, and what stands in the way.

    ``accepted`` maps the claim of each table that was declared before to the retention that was in force. At
    most one partition of each table is dropped at a time, the oldest first, unless a person approved a shorter
    retention.
    """
    changes: list[Change] = []
    problems: list[Problem] = []
    for one in desired:
        table = live.tables.get(one.table)
        obstacle = _obstacle(one, table, live)
        if obstacle is not None:
            problems.append(Problem(one.member, ObjectStatus(one.ref, *obstacle)))
        elif table is not None:
            changes += _changes(one, table, live, accepted)
    return changes, problems


def _changes(
    one: DesiredPartitions,
    table: PartitionedTable,
    live: LivePartitions,
    accepted: Mapping[str, float | None],
) -> Iterator[Change]:
    if one.every and (table.hypertable is not None or not table.strategy):
        yield from _hypertable(one, table, accepted)
        return
    finished = [left for left in table.leftovers if _old_enough(one, left.end, live.now, accepted.get(one.key))]
    for left in finished:
        yield FinishDrop(one.ref, one.member, one.table, (left.schema, left.name), left.rows, left.pending)
    taken = {(left.schema, left.name) for left in finished}
    for partition in table.partitions:
        if partition.detaching and (partition.schema, partition.name) not in taken:
            yield FinalizeDetach(one.ref, one.member, one.table, (partition.schema, partition.name))
    yield from _missing(one, table, live.now)
    if one.every and not any(partition.detaching for partition in table.partitions):  # the server takes one at a time
        yield from _expired(one, table, live.now, accepted)


def _missing(one: DesiredPartitions, table: PartitionedTable, now: datetime) -> Iterator[CreatePartition]:
    name = one.table[1]
    kind = table.key[0][1] if table.key and table.key[0] else ""
    new = CreatePartition(
        one.ref,
        one.member,
        one.table,
        name,
        table.owner,
        date=kind == "date",
        tablespace=table.tablespace,
        access_method=table.access_method,
    )
    if one.count:
        there = {partition.remainder for partition in table.partitions}
        for remainder in sorted(set(range(one.count)) - there):
            yield replace(new, name=shorten(name, f"_p{remainder}"), modulus=one.count, remainder=remainder)
        return
    covered = table.covered()
    for wanted in periods.ranges(one.every, now, one.ahead):
        for part in periods.uncovered(wanted, covered):
            yield replace(new, name=shorten(name, f"_p{periods.suffix(one.every, part)}"), range=part)


def _old_enough(one: DesiredPartitions, end: datetime, now: datetime, in_force: float | None) -> bool:
    """Whether rows up to this moment are older than what is kept, by the declaration and by what is in force."""
    return one.kept is not None and in_force is not None and max(one.kept, in_force) <= (now - end).total_seconds()


def expired(table: PartitionedTable, now: datetime, retention: float | None) -> list[Partition]:
    """The partitions whose youngest possible row is older than the retention, the oldest first."""
    if retention is None:
        return []
    if retention >= (now - _BEGINNING).total_seconds():
        return []
    limit = now - timedelta(seconds=retention)
    old = [one for one in table.partitions if one.range is not None and not one.detaching and one.range.end <= limit]
    return sorted(old, key=lambda one: one.range.end if one.range is not None else limit)


def _expired(
    one: DesiredPartitions, table: PartitionedTable, now: datetime, accepted: Mapping[str, float | None]
) -> Iterator[Change]:
    old = expired(table, now, one.kept)
    until = () if table.has_default() else tuple(p.range.end for p in old if p.range is not None)
    if shortened(one, accepted, bool(old)):
        named = tuple((p.schema, p.name, p.rows) for p in old)
        if one.key in accepted:
            yield AcceptRetention(one.ref, one.member, one.table, one.key, one.kept or 0.0)
        if named:
            yield DropPartitions(one.ref, one.member, one.table, named, shorter=True, until=until)
    elif old:
        first = old[0]
        named = ((first.schema, first.name, first.rows),)
        yield DropPartitions(one.ref, one.member, one.table, named, until=until[:1])


def shortened(one: DesiredPartitions, accepted: Mapping[str, float | None], loses: bool) -> bool:
    """Whether the declared retention is shorter than the one in force until now.

    A table that is declared for the first time was kept for ever: that its old partitions go has to be meant, but
    where there are none nobody is asked.
    """
    if one.kept is None:
        return False
    if one.key not in accepted:
        return loses
    before = accepted[one.key]
    return before is None or one.kept < before


def _hypertable(
    one: DesiredPartitions, table: PartitionedTable, accepted: Mapping[str, float | None]
) -> Iterator[Change]:
    interval = _SECONDS[one.every]
    current = table.hypertable
    if current is None:
        yield CreateHypertable(one.ref, one.member, one.table, one.column, interval)
    elif current.interval != interval:
        yield SetChunkInterval(one.ref, one.member, one.table, interval)
    if one.kept != (current.retention if current else None):
        # Whether old chunks exist is TimescaleDB's to know: a first retention on a table with rows has to be meant.
        destructive = one.kept is not None and shortened(one, accepted, not table.empty)
        yield SetRetentionPolicy(one.ref, one.member, one.table, one.kept, destructive)


#: The length of a chunk: TimescaleDB takes no calendar months, as its own documentation says.
_SECONDS = {
    periods.HOUR: 3_600.0,
    periods.DAY: 86_400.0,
    periods.WEEK: 7 * 86_400.0,
    periods.MONTH: 30 * 86_400.0,
    periods.YEAR: 365 * 86_400.0,
}


def _obstacle(
    one: DesiredPartitions, table: PartitionedTable | None, live: LivePartitions
) -> tuple[ObjectState, Reason, str] | None:
    """Why nothing can be done about the table: state, reason and message."""
    name = ".".join(one.table)
    if table is None:
        return ObjectState.WAITING, Reason.WAITING_FOR_OBJECTS, f"table {name} does not exist yet: a migration makes it"
    if one.count:
        text = _wrong_hash(one, table, name)
    elif table.strategy or table.hypertable is not None:
        text = _wrong_range(one, table, name)
    else:
        text = _wrong_plain(one, table, name, live)
    if text:
        return ObjectState.FAILED, Reason.INVALID_SPEC, text
    taken = _taken(one, table, live.now)
    if taken:
        message = f"{taken} exists and is no partition of {name}: attach it, rename it or drop it"
        return ObjectState.FAILED, Reason.CONFLICT, message
    return None


def _wrong_hash(one: DesiredPartitions, table: PartitionedTable, name: str) -> str:
    if table.strategy != "hash":
        return f"table {name} is not partitioned by hash: a migration has to make it PARTITION BY HASH ({one.column})"
    if table.key[0] is None or (one.column,) != tuple(part[0] if part else "" for part in table.key):
        return f"table {name} is partitioned by {_key(table)} and not by {one.column}: declare what it is"
    others = {partition.modulus for partition in table.partitions} - {one.count}
    if others:
        count = ", ".join(str(modulus) for modulus in sorted(others))
        return (
            f"table {name} has partitions of modulus {count} and {one.count} is declared: rows do not move by "
            "themselves; declare what there is, or move them in a migration"
        )
    return ""


def _wrong_range(one: DesiredPartitions, table: PartitionedTable, name: str) -> str:
    if table.hypertable is not None:
        if table.hypertable.column != one.column:
            return f"hypertable {name} is divided by {table.hypertable.column} and not by {one.column}"
        return ""
    if table.strategy != "range":
        return f"table {name} is partitioned by {table.strategy}: a migration has to make it PARTITION BY RANGE"
    if len(table.key) != 1 or table.key[0] is None or table.key[0][0] != one.column:
        return f"table {name} is partitioned by {_key(table)} and not by {one.column} alone: declare what it is"
    kind = table.key[0][1]
    if kind not in TIME_TYPES:
        return f"column {one.column} of {name} is {kind}: partitions by time need a timestamp or a date"
    if kind == "date" and one.every == periods.HOUR:
        return f"column {one.column} of {name} is a date, which has no hours: declare every: Day or longer"
    return ""


def _wrong_plain(one: DesiredPartitions, table: PartitionedTable, name: str, live: LivePartitions) -> str:
    if not live.timescale:
        return (
            f"table {name} is not partitioned: a migration has to make it PARTITION BY RANGE ({one.column}); with the "
            "extension timescaledb it would become a hypertable"
        )
    kind = table.columns.get(one.column, "")
    if kind not in TIME_TYPES:
        return f"column {one.column} of {name} is {kind or 'missing'}: a hypertable needs a timestamp or a date"
    if not table.empty:
        return f"table {name} holds rows already: make it a hypertable in a migration, with migrate_data"
    return ""


def _key(table: PartitionedTable) -> str:
    return ", ".join(part[0] if part else "an expression" for part in table.key)


def _taken(one: DesiredPartitions, table: PartitionedTable, now: datetime) -> str:
    """A relation that has the name of a partition that is to be made."""
    if one.every and (table.hypertable is not None or not table.strategy):
        return ""
    for change in _missing(one, table, now):
        if change.name in table.relations:
            return f"{one.table[0]}.{change.name}"
    return ""


@dataclass(frozen=True, slots=True)
class Headroom:
    """How far the partitions of a table reach without a gap."""

    table: Table
    until: datetime


def headroom(desired: Iterable[DesiredPartitions], live: LivePartitions) -> tuple[Headroom, ...]:
    """For each table by time: until when rows find a partition. Hypertables make their chunks by themselves."""
    found = []
    for one in desired:
        table = live.tables.get(one.table)
        if one.every and table is not None and table.strategy == "range" and table.hypertable is None:
            found.append(Headroom(one.table, periods.covered_until(live.now, table.covered())))
    return tuple(found)
