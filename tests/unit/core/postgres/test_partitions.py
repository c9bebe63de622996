"""What of partitions is made and taken away, and what needs a person's word."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from selvedge.core.postgres import periods
from selvedge.core.postgres.partition_changes import (
    AcceptRetention,
    CreateHypertable,
    CreatePartition,
    DropPartitions,
    FinalizeDetach,
    SetChunkInterval,
    SetRetentionPolicy,
)
from selvedge.core.postgres.partitions import (
    DesiredPartitions,
    Hypertable,
    LivePartitions,
    Partition,
    PartitionedTable,
    diff_partitions,
    headroom,
)
from selvedge.core.unit import ObjectRef, Risk

NAME = ("app", "events")
NOW = datetime(2025, 6, 15, 10, tzinfo=UTC)
DAY = 86_400.0
TIME = DesiredPartitions("m", ObjectRef("partitions", "app.events"), NAME, "at", "Day", 3, 30 * DAY)
HASH = DesiredPartitions("m", ObjectRef("partitions", "app.events"), NAME, "user_id", count=4)
TABLE = PartitionedTable(NAME, "range", (("at", "timestamp with time zone"),), "owner")


def days(first: int, last: int) -> tuple[Partition, ...]:
    found = []
    for offset in range(first, last + 1):
        start = periods.floor("Day", NOW) + timedelta(days=offset)
        found.append(Partition("app", f"p{offset}", periods.Range(start, start + timedelta(days=1)), rows=10))
    return tuple(found)


def found(
    one: DesiredPartitions, table: PartitionedTable, accepted: Any = None, now: datetime = NOW, timescale: str = ""
):
    return diff_partitions([one], LivePartitions(now, {NAME: table}, timescale), accepted or {})


def test_what_is_missing_is_made_and_what_is_there_counts_by_its_range():
    changes, problems = found(TIME, replace(TABLE, partitions=days(0, 1)))
    assert problems == []
    assert [change.name for change in changes if isinstance(change, CreatePartition)] == [
        "events_p20250617",
        "events_p20250618",
    ]
    assert found(TIME, replace(TABLE, partitions=days(-3, 3)), {TIME.key: 30 * DAY}) == ([], [])


def test_headroom_after_the_operator_was_away_for_48_hours():
    """T39: rows still find their partition, and the number says for how long."""
    one = replace(TIME, ahead=7)
    away = LivePartitions(NOW + timedelta(hours=48), {NAME: replace(TABLE, partitions=days(0, 7))})
    (left,) = headroom([one], away)
    assert left.until - away.now == timedelta(days=5, hours=14)
    changes, _ = diff_partitions([one], away, {one.key: 30 * DAY})
    assert len(changes) == 2


def test_one_partition_at_a_time_goes_the_oldest_first():
    table = replace(TABLE, partitions=days(-40, 3))
    (change,), _ = found(TIME, table, {TIME.key: 30 * DAY})
    assert isinstance(change, DropPartitions)
    assert (change.risk, change.partitions) == (Risk.LOCKING, (("app", "p-40", 10),))


@pytest.mark.parametrize(
    ("accepted", "destructive"),
    [
        ({}, True),
        ({TIME.key: None}, True),
        ({TIME.key: 90 * DAY}, True),
        ({TIME.key: 30 * DAY}, False),
        ({TIME.key: 7 * DAY}, False),
    ],
)
def test_a_shorter_retention_waits_for_a_person_and_shows_all_that_goes(accepted: Any, destructive: bool):
    changes, _ = found(TIME, replace(TABLE, partitions=days(-40, 3)), accepted)
    assert (
        [type(x) for x in changes] == [AcceptRetention, DropPartitions]
        if destructive and accepted
        else [DropPartitions]
    )
    (change,) = (x for x in changes if isinstance(x, DropPartitions))
    assert {x.risk is Risk.DESTRUCTIVE for x in changes} == {destructive}
    assert (len(change.partitions), change.rows) == ((10, 100) if destructive else (1, 10))


def test_a_first_declaration_that_takes_nothing_away_asks_nobody_but_a_shorter_one_does():
    table = replace(TABLE, partitions=days(-3, 3))
    assert found(TIME, table) == ([], [])
    (change,), _ = found(TIME, table, {TIME.key: 90 * DAY})
    assert isinstance(change, AcceptRetention)
    assert change.risk is Risk.DESTRUCTIVE


def test_a_legal_hold_keeps_everything_and_lifting_it_is_destructive():
    table = replace(TABLE, partitions=days(-40, 3))
    assert found(replace(TIME, hold=True), table, {TIME.key: 30 * DAY}) == ([], [])
    changes, _ = found(TIME, table, {TIME.key: None})
    assert {change.risk for change in changes} == {Risk.DESTRUCTIVE}


def test_a_detach_that_was_interrupted_is_finished_and_its_range_made_anew():
    """T37."""
    pending = replace(days(3, 3)[0], detaching=True)
    changes, _ = found(TIME, replace(TABLE, partitions=(*days(0, 2), pending)), {TIME.key: 30 * DAY})
    assert [type(change) for change in changes] == [FinalizeDetach, CreatePartition]


def test_a_name_that_is_taken_is_told():
    _, (problem,) = found(TIME, replace(TABLE, relations=frozenset({"events_p20250615"})))
    assert problem.status.message == (
        "app.events_p20250615 exists and is no partition of app.events: attach it, rename it or drop it"
    )


def test_hash_partitions_are_completed_and_never_renumbered():
    table = replace(
        TABLE, strategy="hash", key=(("user_id", "uuid"),), partitions=(Partition("app", "events_p1", None, 4, 1),)
    )
    changes, _ = found(HASH, table)
    assert [(x.name, x.remainder) for x in changes if isinstance(x, CreatePartition)] == [
        ("events_p0", 0), ("events_p2", 2), ("events_p3", 3)]  # fmt: skip
    _, (problem,) = found(replace(HASH, count=8), table)
    assert "modulus 4 and 8 is declared" in problem.status.message


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (replace(TABLE, strategy="list"), "partitioned by list"),
        (replace(TABLE, key=(None,)), "partitioned by an expression"),
        (replace(TABLE, key=(("id", "uuid"), ("at", "date"))), "partitioned by id, at"),
        (replace(TABLE, key=(("at", "bigint"),)), "is bigint"),
        (replace(TABLE, strategy="", key=()), "with the extension timescaledb it would become a hypertable"),
    ],
)
def test_a_table_that_is_otherwise_is_told_what_to_do(table: PartitionedTable, words: str):
    changes, (problem,) = found(TIME, table)
    assert changes == []
    assert words in problem.status.message


def test_hypertables():
    plain = replace(TABLE, strategy="", key=(), columns={"at": "timestamp with time zone"}, empty=True)
    changes, problems = found(TIME, plain, timescale="2.17.2")
    assert [type(change) for change in changes] == [CreateHypertable, SetRetentionPolicy]
    assert problems == []
    same = replace(plain, empty=False, hypertable=Hypertable("at", DAY, 30 * DAY))
    assert found(TIME, same, {TIME.key: 30 * DAY}, timescale="2.17.2") == ([], [])
    other = replace(same, hypertable=Hypertable("at", 7 * DAY, 90 * DAY))
    changes, _ = found(TIME, other, {TIME.key: 90 * DAY}, timescale="2.17.2")
    assert [(type(change), change.risk) for change in changes] == [
        (SetChunkInterval, Risk.LOCKING), (SetRetentionPolicy, Risk.DESTRUCTIVE)]  # fmt: skip
    _, (problem,) = found(TIME, replace(plain, empty=False), timescale="2.17.2")
    assert "holds rows already" in problem.status.message
