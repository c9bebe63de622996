"""The rows of a database's history, and the migration that a row still holds when its file is gone."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache
from typing import Literal

from selvedge.migrate import mongo
from selvedge.migrate.checksum import checksum
from selvedge.migrate.load import Migration, embedded_down, undo_only
from selvedge.migrate.names import EXTENSIONS, Engine, Kind


class RowState(StrEnum):
    """How far a migration of the history is. ``Partial`` runs without a transaction and did not finish yet."""

    APPLIED = "Applied"
    PARTIAL = "Partial"


MARKS = {"mark": "Marked", "unmark": "Unmarked", "accept": "Accepted"}
"""What the events call a change of the history alone."""

EVENTS = {"Applied": "up", "Undone": "down"} | {event: direction for direction, event in MARKS.items()}
"""The direction of the step that each event says is done."""

_DIRECTIVES = 100
"""More lines than a way down is kept with before it."""

AFTER_RUN_DUE, AFTER_RUN = "AfterRunDue", "AfterRun"
"""The events of the hook ``afterRun``: a run that has it began; it ran."""


def line_of_event(key: str, checksum: str, event: str) -> str:
    """The line of a step that an event says is done, as :func:`selvedge.migrate.plan.line_of` makes it of one."""
    return f"{key} {checksum} {EVENTS[event]}\n"


@cache
def tool_version() -> str:
    """The version of Selvedge that is written into every row."""
    from importlib.metadata import version  # whoever only looks writes none

    return version("selvedge")


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """One migration in the database's history.

    ``done`` statements of a partial one are complete, in its ``direction``, and ``cursor`` is their fingerprint;
    ``started`` says that the next one was sent and its end is not known. ``up`` and ``down`` are the texts that were
    there when it ran; ``up`` is empty where it is too long to be read with every row, and ``down`` has its directives
    before it (:attr:`Migration.stored_down`). ``applied_at`` is a Unix time, ``duration`` seconds.
    """

    version: int
    name: str
    checksum: str
    state: RowState = RowState.APPLIED
    done: int = 0
    total: int = 0
    cursor: str = ""
    started: bool = False
    kind: Kind = "Versioned"
    direction: Literal["up", "down"] = "up"
    down_checksum: str | None = None
    up: str = field(default="", repr=False)
    down: str | None = field(default=None, repr=False)
    applied_at: float | None = None
    duration: float | None = None
    applied_by: str = ""

    @property
    def key(self) -> str:
        """See :attr:`Migration.key`."""
        return str(self.version) if self.kind == "Versioned" else f"{self.kind}:{self.name}"

    @property
    def half_undone(self) -> bool:
        """Whether its way down began and did not end."""
        return self.state is RowState.PARTIAL and self.direction == "down"


def from_history(row: HistoryRow, engine: Engine = "Postgres") -> Migration:
    """What the history keeps of a migration whose file is gone, under the name that the file probably had."""
    stem = f"{row.version}_{row.name}" if row.kind == "Versioned" else row.name
    kept = undo_only(
        row.version, row.name, row.down, file=stem + EXTENSIONS[engine], checksum=row.checksum, engine=engine
    )
    return replace(kept, up=row.up, down_checksum=row.down_checksum, kind=row.kind)


def is_kept(row: HistoryRow, engine: Engine = "Postgres") -> bool:
    """Whether the way down that a row holds is the one whose checksum it holds.

    Raises InvalidError for what cannot be read at all.
    """
    text = row.down
    if text is None or row.down_checksum is None:
        return text is None and row.down_checksum is None
    if engine == "MongoDB":
        document = mongo.read(text, f"the way down of {row.key}")
        # a file of its own has white space around its array, which goes with the text and not with the value
        embedded = embedded_down(text)
        return row.down_checksum in (checksum(document.down or document.up), checksum(embedded))
    for _ in range(_DIRECTIVES):
        if checksum(text) == row.down_checksum:
            return True
        # its directives are written before it
        line, _, text = text.partition("\n")
        if not line.startswith("-- "):
            return False
    return False
