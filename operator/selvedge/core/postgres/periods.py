"""Stretches of the calendar and how they cover time: pure arithmetic in UTC.

Everything is in UTC because a boundary that follows a clock on the wall has hours that exist twice and hours that do
not exist. A range is half open: ``start <= t < end``, as Postgres has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

HOUR, DAY, WEEK, MONTH, YEAR = "Hour", "Day", "Week", "Month", "Year"
PERIODS = (HOUR, DAY, WEEK, MONTH, YEAR)

#: Partitions beyond the present one where the declaration names no number: enough for an operator that is away for a
#: long weekend.
DEFAULT_AHEAD = {HOUR: 72, DAY: 7, WEEK: 4, MONTH: 3, YEAR: 2}

_FIXED = {HOUR: timedelta(hours=1), DAY: timedelta(days=1), WEEK: timedelta(weeks=1)}
_SUFFIX = {HOUR: "%Y%m%d%H", DAY: "%Y%m%d", WEEK: "%Gw%V", MONTH: "%Y%m", YEAR: "%Y"}


@dataclass(frozen=True, slots=True, order=True)
class Range:
    """``start <= t < end``, both in UTC."""

    start: datetime
    end: datetime


def floor(period: str, moment: datetime) -> datetime:
    """The beginning of the period that holds the moment, in UTC. ``moment`` has to know its zone (ValueError)."""
    if moment.tzinfo is None:
        raise ValueError("a moment without a time zone is no moment")
    moment = moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    if period == HOUR:
        return moment
    moment = moment.replace(hour=0)
    if period == WEEK:
        return moment - timedelta(days=moment.weekday())
    if period == MONTH:
        return moment.replace(day=1)
    if period == YEAR:
        return moment.replace(month=1, day=1)
    if period != DAY:
        raise ValueError(period)
    return moment


def following(period: str, start: datetime) -> datetime:
    """The beginning of the period after the one that begins at ``start``."""
    if period in _FIXED:
        return start + _FIXED[period]
    if period == YEAR or start.month == 12:
        return start.replace(year=start.year + 1, month=1)
    return start.replace(month=start.month + 1)


def ranges(period: str, now: datetime, ahead: int) -> list[Range]:
    """The period that holds ``now`` and ``ahead`` more, without gap or overlap."""
    found = []
    start = floor(period, now)
    for _ in range(ahead + 1):
        end = following(period, start)
        found.append(Range(start, end))
        start = end
    return found


def uncovered(wanted: Range, covered: Iterable[Range]) -> Iterator[Range]:
    """The parts of ``wanted`` that no range of ``covered`` holds, in order. ``covered`` may overlap each other."""
    start = wanted.start
    for other in sorted(covered):
        if other.end <= start:
            continue
        if other.start >= wanted.end:
            break
        if other.start > start:
            yield Range(start, other.start)
        start = other.end
        if start >= wanted.end:
            return
    yield Range(start, wanted.end)


def covered_until(now: datetime, covered: Iterable[Range]) -> datetime:
    """How far the ranges reach from ``now`` on without a gap; ``now`` itself where none holds it."""
    reached = now
    for other in sorted(covered):
        if other.start > reached:
            break
        reached = max(reached, other.end)
    return reached


def suffix(period: str, part: Range) -> str:
    """What names the partition of a range: ``202511`` for a whole November, the second it starts where it is a part."""
    whole = floor(period, part.start) == part.start and following(period, part.start) == part.end
    return part.start.strftime(_SUFFIX[period] if whole else "%Y%m%d%H%M%S")
