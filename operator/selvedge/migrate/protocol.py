"""What the runner asks of an engine, and what a run tells while it goes on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Protocol

from selvedge.migrate.history import HistoryRow
from selvedge.migrate.load import Migration
from selvedge.migrate.names import Kind
from selvedge.migrate.plan import Direction, Step

SHOWN = 200
"""How many characters of a statement a message shows."""


class MigrationState(StrEnum):
    """How far one migration of a run is."""

    PENDING = "Pending"
    RUNNING = "Running"
    APPLIED = "Applied"
    FAILED = "Failed"
    SKIPPED = "Skipped"
    UNDONE = "Undone"
    MARKED = "Marked"
    UNMARKED = "Unmarked"
    ACCEPTED = "Accepted"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a migration failed; ``line`` is the statement's in the file, ``sqlstate`` MongoDB's code name there."""

    file: str
    line: int
    statement: str
    sqlstate: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        """One sentence with file, line, statement and the server's message."""
        code = f" ({self.sqlstate})" if self.sqlstate else ""
        hint = f"; {self.hint}" if self.hint else ""
        return f"{self.file}, line {self.line}: {self.message}{code} in: {self.statement}{hint}"


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of a run, as it is now. ``started_at`` is a Unix time, ``duration`` seconds.

    ``step`` is its place in the plan, from 0: a redo has the same version twice. ``scope`` is the step's.
    """

    version: int
    name: str
    state: MigrationState = MigrationState.PENDING
    done: int = 0
    total: int = 0
    started_at: float | None = None
    duration: float | None = None
    waiting_for: str = ""
    error: Failure | None = None
    direction: Direction = "up"
    step: int = 0
    kind: Kind = "Versioned"
    scope: str = ""

    @property
    def statements(self) -> str:
        """Statements that ran, of all: ``3/5``."""
        return f"{self.done}/{self.total}"


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits of a run in seconds: for a lock on a table, for a statement (0: none), for all waiting together."""

    lock: float = 5.0
    statement: float = 0.0
    lock_wait: float = 600.0


class StatementFailedError(Exception):
    """The server refused a statement. ``retry`` says that the same migration may succeed a moment later."""

    def __init__(self, failure: Failure, *, retry: bool = False) -> None:
        super().__init__(str(failure))
        self.failure = failure
        self.retry = retry


class StoppedError(Exception):
    """The run was asked to stop, between two statements."""


@dataclass(frozen=True, slots=True)
class Control:
    """The runner's side of one attempt. A session calls these; all but ``advance`` may raise.

    ``checkpoint`` stands before every statement: raises :class:`StoppedError`, or what ``may_write`` raises.
    ``may_write`` stands before every commit. ``advance`` reports statements that are done, ``waiting`` what the
    statement waits for (empty: nothing). ``before`` and ``after`` are scripts that run as part of the migration.
    """

    timeouts: Timeouts
    checkpoint: Callable[[], None]
    may_write: Callable[[], None]
    advance: Callable[[int], Awaitable[None]]
    waiting: Callable[[str], Awaitable[None]]
    before: Migration | None = None
    after: Migration | None = None


class MigrationSession(Protocol):
    """One run's connection to one database. Raises the errors of ``core/errors.py`` and no driver's."""

    server_version: int
    """The server's major version."""

    async def history(self) -> tuple[HistoryRow, ...]:
        """What the database's history holds; writes nothing, and is empty where there is no history yet."""
        ...

    async def check_place(self) -> None:
        """Raise TransientError where a schema that the migrations run in is not there (yet).

        The history is read without it: the last migration may have dropped its own schema.
        """
        ...

    async def done(self) -> tuple[str, ...]:
        """A line for each step that this run (``run``) did before, in order, as a plan's digest is taken of it.

        Writes nothing. What no run is named for has none.
        """
        ...

    async def preflight(self, steps: Sequence[Step], waiting: Callable[[str], Awaitable[None]]) -> Failure | None:
        """The first command of these steps that is known to fail; None where none is, or where nobody can know.

        Looks, counts and writes nothing; that may take long in large collections. ``waiting`` is told what is counted.
        """
        ...

    async def lock(self, seconds: float, waiting: Callable[[str], Awaitable[None]]) -> None:
        """Take the migrations' lock of this database, end what a run before us left behind, prepare history and login.

        Polls for at most ``seconds``, then raises TransientError (WaitingForLock). ``waiting`` is told of the holder at
        each poll, and of nobody ("") before the first write; it may raise.
        """
        ...

    async def attempt(
        self,
        migration: Migration,
        row: HistoryRow | None,
        control: Control,
        direction: Literal["up", "down"] = "up",
    ) -> None:
        """Run one part of a migration once, from where ``row`` stopped, and write the history. Needs the lock.

        Up leaves a row that says Applied, down leaves none; both leave an event. A transactional part leaves nothing
        behind where this raises; another leaves its cursor. Raises :class:`StatementFailedError`,
        :class:`StoppedError`, TransientError when the connection broke.
        """
        ...

    async def attempt_all(self, steps: Sequence[Step], controls: Sequence[Control]) -> None:
        """Run all steps, which are up or down, in one transaction with their rows; otherwise as :meth:`attempt`.

        Raises InvalidError (Unsupported) where the engine has no such transaction.
        """
        ...

    async def run_hook(self, hook: Migration, control: Control, *, event: str = "") -> None:
        """Run a script of the user's beside the migrations, as the same role, in a transaction of its own.

        The history does not know it; where there is an ``event``, it is written in that transaction.
        """
        ...

    async def owes_after_run(self) -> bool:
        """Whether a run that has the hook ``afterRun`` began and did not come to it. Writes nothing."""
        ...

    async def owe_after_run(self, hook: Migration) -> None:
        """Write down that a run begins that has this hook at its end. Needs the lock."""
        ...

    async def record(
        self, migration: Migration, direction: Literal["mark", "unmark", "accept"], *, actor: str, reason: str
    ) -> None:
        """Change the history alone, with an event that names actor and reason. Needs the lock."""
        ...

    async def drop_invalid_indexes(self, *, actor: str, reason: str) -> tuple[str, ...]:
        """Drop indexes that a broken build left invalid, and return their names; each leaves an event.

        A valid one is never dropped, nor one that is being built right now. Needs the lock.
        """
        ...


def shorten_statement(text: str) -> str:
    """A statement on one line, as messages show it."""
    line = " ".join(text[: 4 * SHOWN].split())
    return line if len(line) <= SHOWN else line[: SHOWN - 1] + "…"
