"""Replacing an index drops it and builds it anew, for nothing where the new one cannot be built: not at each pass.

The server refuses the new index, the old one is built again, and the next pass would do the same: on a large collection
that is hours of building and of queries without an index. The second failure in a row makes the next attempt wait,
longer each time, until the declaration changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from selvedge.core.mongodb.changes import CreateIndex, ReplaceIndex

if TYPE_CHECKING:
    from selvedge.core.mongodb.changes import Change
    from selvedge.core.unit import ObjectRef, ObjectStatus

#: Seconds until the third attempt, and at most between two.
FIRST, LONGEST = 600.0, 6 * 3600.0


@dataclass(frozen=True, slots=True)
class _Failed:
    wanted: object
    attempts: int
    until: datetime
    status: ObjectStatus


class Retries:
    """The indexes of one server that could not be replaced. Nothing is kept beyond the process: a restart tries again.

    ``now`` is the clock; tests have one of their own.
    """

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._failed: dict[tuple[str, ObjectRef], _Failed] = {}

    def held(self, database: str, generation: int, change: Change) -> ObjectStatus | None:
        """What is said of a replacement that is not tried now; None where it may be."""
        if not isinstance(change, ReplaceIndex):
            return None
        found = self._failed.get((database, change.ref))
        if found is None or found.wanted != (generation, change.desired) or self._now() >= found.until:
            return None
        return found.status

    def failed(self, database: str, generation: int, change: Change, status: ObjectStatus) -> ObjectStatus:
        """Remember that the index was dropped and put back; what is said of it from now on."""
        if not isinstance(change, (ReplaceIndex, CreateIndex)):
            return status
        key, wanted = (database, change.ref), (generation, change.desired)
        before = self._failed.get(key)
        attempts = before.attempts + 1 if before is not None and before.wanted == wanted else 1
        until = self._now()
        if attempts > 1:
            until += timedelta(seconds=min(LONGEST, FIRST * 2.0 ** (attempts - 2)))
            message = (
                f"{status.message}; it was dropped and built again {attempts} times for this, so the next attempt is "
                f"at {until:%Y-%m-%d %H:%M} UTC, or when the resource's spec changes"
            )
            status = replace(status, message=message)
        self._failed[key] = _Failed(wanted, attempts, until, status)
        return status

    def done(self, database: str, change: Change) -> None:
        """Forget it: the index stands."""
        self._failed.pop((database, change.ref), None)
