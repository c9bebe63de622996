"""How much data a change would lose, and how it was found out: people decide by it, and it is no part of a digest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Counted(StrEnum):
    """How a number was found out."""

    EXACT = "Exact"
    ESTIMATE = "Estimate"
    AT_LEAST = "AtLeast"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class RowCount:
    """So many rows (documents) go with a change; ``rows`` is 0 where nobody could count them."""

    rows: int
    how: Counted = Counted.EXACT
    unit: str = "row"

    def document(self) -> dict[str, str | int]:
        """The form for machines."""
        return {"count": self.rows, "counted": str(self.how), "unit": self.unit, "text": str(self)}

    def __str__(self) -> str:
        """As a person reads it: ``1,204 rows (counted)``."""
        noun = self.unit if self.rows == 1 else self.unit + "s"
        match self.how:
            case Counted.EXACT:
                return f"{self.rows:,} {noun} (counted)"
            case Counted.ESTIMATE:
                return f"about {self.rows:,} {noun} (the server's estimate)"
            case Counted.AT_LEAST:
                return f"more than {self.rows:,} {noun} (not counted further)"
            case _:
                return f"an unknown number of {self.unit}s (they could not be counted)"


def united(counts: Iterable[RowCount]) -> RowCount | None:
    """All of them together, as sure as the least sure of them; None where there is nothing."""
    found = tuple(counts)
    if not found:
        return None
    total, kinds = sum(one.rows for one in found), {one.how for one in found}
    if kinds == {Counted.UNKNOWN}:
        how = Counted.UNKNOWN
    elif kinds & {Counted.UNKNOWN, Counted.AT_LEAST}:
        how = Counted.AT_LEAST
    else:
        how = Counted.ESTIMATE if Counted.ESTIMATE in kinds else Counted.EXACT
    return RowCount(total, how, found[0].unit)
