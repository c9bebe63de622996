"""The calendar of partitions: whatever the moment and the zone, no gap and no overlap."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selvedge.core.postgres import periods
from selvedge.core.postgres.periods import Range

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Apia")
moments = st.datetimes(min_value=datetime(1990, 1, 1), max_value=datetime(2100, 1, 1)).flatmap(  # noqa: DTZ001 - a zone comes next
    lambda naive: st.sampled_from(ZONES).map(lambda zone: naive.replace(tzinfo=ZoneInfo(zone)))
)
kinds = st.sampled_from(periods.PERIODS)


@given(kinds, moments, st.integers(0, 60))
def test_ranges_join_without_gap_or_overlap_and_begin_with_now(kind: str, now: datetime, ahead: int):
    found = periods.ranges(kind, now, ahead)
    assert len(found) == ahead + 1
    assert found[0].start <= now.astimezone(UTC) < found[0].end
    assert all(a.end == b.start for a, b in itertools.pairwise(found))
    assert len({periods.suffix(kind, one) for one in found}) == len(found)


@given(kinds, moments)
def test_the_zone_of_a_clock_moves_no_boundary(kind: str, now: datetime):
    assert {periods.floor(kind, now.astimezone(ZoneInfo(zone))) for zone in ZONES} == {periods.floor(kind, now)}


@given(
    kinds, moments, st.integers(1, 20), st.lists(st.tuples(st.integers(-200, 900), st.integers(1, 400)), max_size=12)
)
def test_what_is_missing_and_what_is_there_cover_all_of_it_once(
    kind: str, now: datetime, ahead: int, there: list[tuple[int, int]]
):
    now = now.astimezone(UTC)
    start = periods.floor(kind, now)
    covered = [Range(start + timedelta(hours=a), start + timedelta(hours=a + b)) for a, b in there]
    for wanted in periods.ranges(kind, now, ahead):
        missing = list(periods.uncovered(wanted, covered))
        for part in missing:
            assert wanted.start <= part.start < part.end <= wanted.end
            assert all(other.end <= part.start or other.start >= part.end for other in covered)
        inside = [Range(max(c.start, wanted.start), min(c.end, wanted.end)) for c in covered]
        inside = [one for one in inside if one.start < one.end]
        assert periods.covered_until(wanted.start, [*missing, *inside]) == wanted.end


@pytest.mark.parametrize(
    ("kind", "moment", "start", "end", "suffix"),
    [
        ("Month", "2024-02-29T23:59:59+00:00", "2024-02-01", "2024-03-01", "202402"),
        ("Month", "2025-12-31T23:30:00-01:00", "2026-01-01", "2026-02-01", "202601"),
        ("Year", "2024-12-31T23:59:59+00:00", "2024-01-01", "2025-01-01", "2024"),
        ("Week", "2024-12-31T00:00:00+00:00", "2024-12-30", "2025-01-06", "2025w01"),
        ("Day", "2025-03-30T01:30:00+00:00", "2025-03-30", "2025-03-31", "20250330"),
    ],
)
def test_ends_of_months_years_and_summer_time(kind: str, moment: str, start: str, end: str, suffix: str):
    (found,) = periods.ranges(kind, datetime.fromisoformat(moment), 0)
    assert (found.start.date().isoformat(), found.end.date().isoformat()) == (start, end)
    assert periods.suffix(kind, found) == suffix


def test_the_hour_that_exists_twice_is_two_ranges():
    zone = ZoneInfo("Europe/Berlin")
    first = datetime(2025, 10, 26, 2, 30, tzinfo=zone)
    assert periods.floor("Hour", first.replace(fold=1)) - periods.floor("Hour", first) == timedelta(hours=1)


def test_a_moment_without_a_zone_is_refused():
    with pytest.raises(ValueError, match="time zone"):
        periods.floor("Day", datetime(2025, 1, 1))  # noqa: DTZ001 - the point of the test


def test_headroom_ends_at_the_first_gap():
    now = datetime(2025, 1, 1, 12, tzinfo=UTC)
    days = periods.ranges("Day", now, 5)
    assert periods.covered_until(now, days) == datetime(2025, 1, 7, tzinfo=UTC)
    assert periods.covered_until(now, [days[0], *days[2:]]) == datetime(2025, 1, 2, tzinfo=UTC)
    assert periods.covered_until(now, days[1:]) == now
