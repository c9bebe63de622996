"""The status of a MigrationRun while it goes on: one row for each step, its progress, and the last word on it.

The database's history is the truth. What stands here of an earlier pass is used for two things only: the rows of steps
that are done stay visible after a restart, and what else an approval was given to (``inputs``) is known for its rest.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from selvedge.core.conditions import find, timestamp
from selvedge.core.errors import SelvedgeError, TransientError
from selvedge.core.reasons import Reason
from selvedge.core.words import count
from selvedge.kube.resources import MIGRATION_RUNS
from selvedge.migrate.operation import Prepared, advice_of, newest_version
from selvedge.migrate.plan import line_of
from selvedge.migrate.protocol import MigrationSession, MigrationState, Progress
from selvedge.migrate.runner import RunResult
from selvedge.migrate.statusrows import digest_of_lines, is_redone, place_of_row
from selvedge.migrate.steps import DONE, FINAL, NOTHING_INVALID, first_row
from selvedge.reconcile.context import Context
from selvedge.reconcile.outcome import Notice, Outcome, from_error
from selvedge.reconcile.store import Object

FINISHED = ("Succeeded", "Failed")
WAITING = "WaitingForApproval"
#: Where linters run: squawk may be slow, and what waits for it is to keep nobody from resolving a host's name.
_LINTERS = ThreadPoolExecutor(4, "lint")
_REASONS = {str(reason): reason for reason in Reason}
_OVER = "; this run is over: once that is mended, make a new run"

_WRITE_SECONDS = 1.0
_MAX_ROWS = 200
_MAX_ADVICE = 50
_PENDING = frozenset(
    {
        Reason.WAITING_FOR_SCHEMA,
        Reason.WAITING_FOR_SERVER,
        Reason.WAITING_FOR_SOURCE,
        Reason.WAITING_FOR_OBJECTS,
        Reason.SECRET_NOT_FOUND,
        Reason.SECRET_KEY_MISSING,
    }
)
_APPROVAL = frozenset({Reason.WAITING_FOR_APPROVAL, Reason.SUPERSEDED})
_ENDS = {
    "Down": (Reason.UNDONE, "was undone", "were undone"),
    "Baseline": (Reason.BASELINED, "counts as run", "count as run"),
    "Repair": (Reason.REPAIRED, "was repaired in the history", "were repaired in the history"),
    "Plan": (Reason.PLANNED, "would run", "would run"),
}

#: How the engines begin when they tell how far an index build is; everything else is somebody's lock.
_BUILDS = ("index build", "the build of index")
#: How MongoDB's begins when it tells of its own work.
_WORKS = ("the update of ", "the count of ", "the search for ")

Row = dict[str, Any]


@dataclass(slots=True)
class Board:
    """Written at most once a second, and at the end. ``rows`` are the steps of this pass, ``earlier`` those before."""

    context: Context
    obj: Object
    rows: list[Progress] = field(default_factory=list)
    checksums: list[str] = field(default_factory=list)
    inputs: tuple[str, ...] = ()
    advice: list[str] = field(default_factory=list)
    image: Mapping[str, Any] | None = None
    earlier: list[Row] = field(default_factory=list)
    hidden: int = 0
    digest: str = ""
    target: str = ""
    version: str = ""
    started: str = ""
    phase: str = ""
    written: float = 0.0

    @property
    def moved(self) -> bool:
        """Whether this pass did a step."""
        return any(row.state in DONE for row in self.rows)

    # -- what was there before -----------------------------------------------------------------------------------

    @property
    def kept_target(self) -> str:
        """The target that an interrupted pass of this run settled on: one step down, planned twice, would be two."""
        return str(self._status.get("target") or "") if self._status.get("startedAt") else ""

    def approves(self, approved: str, prepared: Prepared, done: Sequence[str] = ()) -> bool:
        """Whether ``approved`` is the digest of this very plan, or of the one whose rest this is.

        ``done`` are the lines of what this run did before, as the database has them: with the rest they are the whole,
        however many steps that has. So an approval that was used is not good for the same steps once more.
        """
        if approved == prepared.digest:
            return bool(approved)
        if not done or prepared.plan.drop_invalid_indexes:
            return False
        rest = [line_of(step) for step in prepared.plan.steps]
        beside = set(prepared.plan.beside)
        for inputs in (self._status.get("inputs") or (), prepared.plan.inputs):
            # the history that was approved is gone by now; what else runs has to be what was approved with it
            lines = [*done, *rest, *(f"{line}\n" for line in inputs)]
            if beside <= set(inputs) and digest_of_lines(lines) == approved:
                return True
        return False

    def is_redone(self, prepared: Prepared, done: Sequence[str]) -> bool:
        """Whether this run did both steps of a Redo before; its rows then show them as done."""
        if not is_redone([line_of(step) for step in prepared.plan.steps], done):
            return False
        ends = {"up": MigrationState.APPLIED, "down": MigrationState.UNDONE}
        self.rows = [replace(row, state=ends[row.direction]) for row in self.rows]
        return True

    @property
    def _status(self) -> Mapping[str, Any]:
        return self.obj.get("status") or {}

    # -- while it goes on ----------------------------------------------------------------------------------------

    def begin(self, prepared: Prepared) -> None:
        """The plan is known; nothing has run in this pass."""
        steps = prepared.plan.steps
        self.digest, self.target = prepared.digest, prepared.plan.target
        self.inputs = prepared.plan.inputs
        self.version = str(prepared.plan.version or "")
        self.rows = [first_row(number, step) for number, step in enumerate(steps)]
        self.checksums = [line_of(step).split(" ")[1] for step in steps]
        if self.started_before:
            self._go_on([(place_of_row(_shown(row)), row.direction) for row in self.rows])

    def _go_on(self, new: list[tuple[tuple[str, str], str]]) -> None:
        """Keep what the status shows of the steps that are done, if ``new`` is the rest of what it shows."""
        known: list[Row] = self._status.get("migrations") or []
        total = int(str(self._status.get("progress") or "0/0").partition("/")[2] or 0)
        number = min(len(known), len(new))
        rest = [(place_of_row(row), row.get("direction")) for row in known[len(known) - number :]]
        if len(new) > total or rest != new[len(new) - number :]:
            return
        self.earlier = [_ended(row) for row in known[: len(known) - number]]
        self.hidden = max(0, total - len(new) - len(self.earlier))
        # what a person approved is the whole, and the whole is what the status shows, with what it was taken of beside
        self.digest = str(self._status.get("plan") or self.digest)
        self.inputs = tuple(self._status.get("inputs") or ())

    @property
    def advised(self) -> bool:
        """Whether the status holds the advice on this very plan."""
        return self._status.get("advice") is not None and self._status.get("plan") == self.digest

    async def advise(self, prepared: Prepared, server_version: int) -> None:
        """What the linter says of the plan; what it said of this very plan before is kept, done steps included."""
        if self.advised:
            self.advice = self._status["advice"]
            return
        found = await asyncio.get_running_loop().run_in_executor(_LINTERS, advice_of, prepared, server_version)
        self.advice = list(found)
        if len(found) > _MAX_ADVICE:
            self.advice[_MAX_ADVICE - 1 :] = [f"and {len(found) - _MAX_ADVICE + 1} more: see `selvedge migrate lint`"]

    @property
    def started_before(self) -> bool:
        """Whether an earlier pass sent statements."""
        return bool(self._status.get("startedAt"))

    def start(self) -> None:
        """From here on statements are sent."""
        self.started = str(self._status.get("startedAt") or timestamp(self.context.now()))

    async def save(self) -> None:
        """Write down what is about to run, target included, before the first statement."""
        message = f"{count(len(self.rows), 'step')} to run"
        await self.write(Outcome(False, Reason.RUNNING, message, status=self._shown_status("Running")))

    async def progress(self, row: Progress) -> None:
        """A row changed. Written once a second, and at once where a wait begins: that is told only once."""
        began = bool(row.waiting_for) and not self.rows[row.step].waiting_for
        self.rows[row.step] = row
        if began or time.monotonic() - self.written >= _WRITE_SECONDS:
            self.written = time.monotonic()
            waits = next((r for r in self.rows if r.waiting_for), None)
            reason = Reason.RUNNING if waits is None else Reason.WAITING_FOR_LOCK
            if waits is not None and waits.waiting_for.startswith(_BUILDS):
                reason = Reason.BUILDING_INDEX
            elif waits is not None and waits.waiting_for.startswith(_WORKS):
                reason = Reason.RUNNING
            current = next((r for r in self.rows if r.state is MigrationState.RUNNING), row)
            message = f"migration {current.version} {current.name}: statement {current.statements}"
            if waits:
                message += f", waits for {waits.waiting_for}"
            await self.write(Outcome(False, reason, message, status=self._shown_status("Running")))

    async def look(self, session: MigrationSession) -> None:
        """The newest version, as the history has it after the run; a connection that broke tells nothing."""
        try:
            self.version = newest_version(await session.history())
        except TransientError:
            return

    # -- the end -------------------------------------------------------------------------------------------------

    async def finish(self, result: RunResult, prepared: Prepared) -> None:
        """The last word on a run. Raises its error, which decides whether it is tried again."""
        self.rows = list(result.migrations) or self.rows
        if result.error is not None:
            raise result.error
        if result.stopped:
            message = "the operator is stopping: the run goes on with the next one"
            raise TransientError(Reason.RUNNING, message)
        await self.conclude(prepared, dropped=result.dropped)

    async def conclude(self, prepared: Prepared, dropped: tuple[str, ...] = ()) -> None:
        """It came to its end."""
        action, number = prepared.plan.action, self._total
        reason, one, many = _ENDS.get(action, (Reason.APPLIED, "was applied", "were applied"))
        if action == "To" and number and all(row.direction == "down" for row in self.rows):
            reason, one, many = _ENDS["Down"]
        if action == "Validate":
            reason, message = Reason.VALIDATED, "the files and the database's history fit"
        elif prepared.plan.drop_invalid_indexes:
            message = f"invalid indexes were dropped: {', '.join(dropped)}" if dropped else NOTHING_INVALID
        else:
            message = (
                f"{count(number, 'migration')} {one if number == 1 else many}" if number else "nothing was left to do"
            )
        if prepared.plan.warnings:
            message += "; " + "; ".join(prepared.plan.warnings)
        status = {**self._shown_status("Succeeded"), "finishedAt": timestamp(self.context.now())}
        changed = number or dropped
        notices = (Notice(reason, message),) if changed and action not in ("Plan", "Validate") else ()
        await self.write(Outcome(True, reason, message, status=status, notices=notices))

    def failed(self, error: SelvedgeError, retry_at: datetime | None = None) -> Outcome:
        """What an error means for the status: tried again, waiting for a person, or over."""
        outcome = from_error(error, retry_at)
        notices: tuple[Notice, ...] = ()
        finished, retrying, message = None, outcome.retrying, outcome.message
        if retrying:
            phase = "Pending" if error.reason in _PENDING else "Running"
        elif error.reason in _APPROVAL:
            phase, retrying = WAITING, True
            before = str(self._status.get("plan") or "")
            if before != self.digest:
                notices = (Notice(error.reason, error.message),)
        else:
            phase, message = "Failed", message + _OVER
            notices = (Notice(error.reason, error.message, True),)
            finished = timestamp(self.context.now())
        return Outcome(
            outcome.ready,
            outcome.reason,
            message,
            retrying=retrying,
            status={**self._shown_status(phase), "finishedAt": finished},
            notices=notices,
            retry_at=outcome.retry_at,
        )

    async def stay(self) -> None:
        """What is over does not start again, whatever was changed in its spec; its status says so of that, too."""
        ready = find(self._status.get("conditions") or (), "Ready")
        if ready is None or self._status.get("observedGeneration") == self.obj["metadata"].get("generation"):
            return
        good = ready.status is True
        message = ready.message if good or ready.message.endswith(_OVER) else ready.message + _OVER
        # an earlier version may have had another word for it
        reason = _REASONS.get(ready.reason, Reason.APPLIED if good else Reason.STATEMENT_FAILED)
        await self.write(Outcome(good, reason, message, retrying=False))

    async def write(self, outcome: Outcome) -> None:
        """Write the status, if that changes anything."""
        self.phase = str(outcome.status.get("phase") or self.phase)
        await self.context.write_status(MIGRATION_RUNS, self.obj, outcome)

    @property
    def _total(self) -> int:
        return self.hidden + len(self.earlier) + len(self.rows)

    def _shown_status(self, phase: str) -> dict[str, Any]:
        status: dict[str, Any] = {"phase": phase}
        if self.digest:
            done = self.hidden + len(self.earlier) + sum(row.state in DONE for row in self.rows)
            last = zip(self.rows[-_MAX_ROWS:], self.checksums[-_MAX_ROWS:], strict=True)
            rows = [_shown(row) | {"checksum": mark} for row, mark in last]
            status["progress"] = f"{done}/{self._total}"
            status["plan"] = self.digest
            status["inputs"] = list(self.inputs) or None
            status["advice"] = self.advice or None
            status["version"] = self.version or None
            status["migrations"] = [*self.earlier, *rows][-_MAX_ROWS:]
        if self.started:
            status["startedAt"] = self.started
            status["target"] = self.target or None
        return status


def _shown(row: Progress) -> Row:
    shown: Row = {
        "schema": row.scope or None,
        "version": str(row.version) if row.kind == "Versioned" else None,
        "name": row.name,
        "kind": row.kind if row.kind != "Versioned" else None,
        "direction": row.direction,
        "state": str(row.state),
        "statements": row.statements,
        "startedAt": timestamp(datetime.fromtimestamp(row.started_at, UTC)) if row.started_at else None,
        "duration": f"{row.duration:.3f}s" if row.duration is not None else None,
        "waitingFor": row.waiting_for or None,
    }
    if row.error is not None:
        error = row.error
        found = {
            "file": error.file,
            "line": error.line,
            "statement": error.statement,
            "sqlstate": error.sqlstate,
            "message": error.message,
            "hint": error.hint or None,
        }
        shown["error"] = {key: value for key, value in found.items() if value is not None}
    return {key: value for key, value in shown.items() if value is not None}


def _ended(row: Row) -> Row:
    """A row of an earlier pass whose step is done: the plan holds it no more, whatever the status said last."""
    if row.get("state") in [str(state) for state in DONE]:
        return row
    left = {key: value for key, value in row.items() if key not in ("waitingFor", "error")}
    total = str(row.get("statements") or "0/0").partition("/")[2]
    return {**left, "state": str(FINAL[row.get("direction") or "up"]), "statements": f"{total}/{total}"}
