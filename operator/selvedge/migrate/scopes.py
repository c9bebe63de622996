"""One set of files for several schemas: planned in each, told and approved as one, and run in one after the other.

Each schema has a history of its own, so a run that was cut off is planned again like any other: what is left of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field, replace

from selvedge.core.errors import InvalidError, SelvedgeError
from selvedge.core.reasons import Reason
from selvedge.core.words import some
from selvedge.migrate.names import sort_key
from selvedge.migrate.operation import Operation, Prepared, Source, newest_version, perform, prepare
from selvedge.migrate.plan import line_of, states_line
from selvedge.migrate.protocol import MigrationSession, Progress
from selvedge.migrate.runner import OnProgress, RunResult
from selvedge.migrate.statusrows import is_redone
from selvedge.migrate.steps import first_row

Opened = Callable[[str], AbstractAsyncContextManager[MigrationSession]]
"""Opens a session whose migrations run in the schema of this name."""

_STEPS_BACK = ("Down", "Redo")


@dataclass(frozen=True, slots=True)
class Part:
    """What runs in one schema. ``done`` are the lines of what this very run did there before."""

    scope: str
    prepared: Prepared
    done: tuple[str, ...] = ()


def check_scopes(scopes: Sequence[str], operation: Operation) -> None:
    """Raise InvalidError for what cannot be asked of several schemas at once."""
    if operation.engine != "Postgres":
        raise InvalidError(
            Reason.INVALID_SPEC, f"schemas are for Postgres, and {operation.engine} has none: leave schemas out"
        )
    if len(scopes) > 1 and operation.action in _STEPS_BACK and not operation.target:
        raise InvalidError(
            Reason.INVALID_SPEC,
            f"{operation.action} in {len(scopes)} schemas needs a target: each may be at another version, so say which "
            "one is meant, or name one schema",
        )


def scoped(prepared: Prepared, scope: str) -> Prepared:
    """The same plan, whose digest says in which schema it runs; an empty ``scope`` is none."""
    steps = tuple(replace(step, scope=scope) for step in prepared.plan.steps)
    return replace(prepared, plan=replace(prepared.plan, steps=steps))


async def prepare_part(session: MigrationSession, source: Source, operation: Operation, scope: str) -> Part:
    """Plan the operation in the schema of ``session``; writes nothing. Raises what ``prepare`` raises."""
    with told_of(scope):
        prepared = scoped(await prepare(session, source, operation), scope)
        done = tuple(f"{line.removesuffix(chr(10))} {scope}\n" for line in await session.done())
    lines = tuple(line_of(step) for step in prepared.plan.steps)
    if operation.action == "Redo" and is_redone(lines, done):
        # cut off in another schema: planned anew, this one would be redone once more
        prepared = replace(prepared, plan=replace(prepared.plan, steps=()))
    return Part(scope, prepared, done)


@dataclass(slots=True)
class InTurn:
    """An operation in several schemas. ``versions`` are the newest that ran, by schema; empty for none."""

    parts: tuple[Part, ...]
    versions: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.versions = {part.scope: str(part.prepared.plan.version or "") for part in self.parts}

    @property
    def version(self) -> str:
        """The newest version that every schema has; empty where one has none."""
        return min(self.versions.values(), key=lambda one: sort_key(int(one or 0)))

    @property
    def done(self) -> tuple[str, ...]:
        """What this very run did before, in all schemas."""
        return tuple(line for part in self.parts for line in part.done)

    @property
    def prepared(self) -> Prepared:
        """All parts as one: its digest is what a person approves."""
        plans = [part.prepared.plan for part in self.parts]
        whole = replace(
            plans[0],
            steps=tuple(step for one in plans for step in one.steps),
            version=int(self.version or 0),
            warnings=self._told([one.warnings for one in plans]),
            drop_invalid_indexes=any(one.drop_invalid_indexes for one in plans),
            hooks=max((one.hooks for one in plans), key=len),
            owes_after_run=any(one.owes_after_run for one in plans),
            state=states_line([one.state for one in plans]),
        )
        return replace(
            self.parts[0].prepared,
            plan=whole,
            concerns=self._told([part.prepared.concerns for part in self.parts]),
            unmarked=self._told([part.prepared.unmarked for part in self.parts]),
        )

    @property
    def once(self) -> Prepared:
        """As :attr:`prepared`, with each migration once: for what is said of the files alone."""
        whole = self.prepared
        seen = {(step.migration.key, step.direction): step for step in reversed(whole.plan.steps)}
        return replace(whole, plan=replace(whole.plan, steps=tuple(reversed(seen.values()))))

    async def perform(
        self, opened: Opened, *, on_progress: OnProgress, stop: asyncio.Event, may_write: Callable[[], None]
    ) -> RunResult:
        """Run each part in a session of its own, and stop at the first that does not come to its end.

        The rows of the result are those of all parts; an error names its schema. Raises as
        :func:`selvedge.migrate.runner.run` does.
        """
        rows = [first_row(number, step) for number, step in enumerate(self.prepared.plan.steps)]
        dropped: tuple[str, ...] = ()
        first = 0
        for part in self.parts:
            after = first + len(part.prepared.plan.steps)
            if part.prepared.does_something:

                async def tell(row: Progress, first: int = first) -> None:
                    rows[first + row.step] = replace(row, step=first + row.step)
                    await on_progress(rows[first + row.step])

                try:
                    result = await self._perform(part, opened, tell, stop, may_write)
                except SelvedgeError as error:
                    if error.reason is Reason.NOT_LEADING:
                        raise
                    result = RunResult((), error)
                dropped += result.dropped
                if result.error is not None:
                    return RunResult(tuple(rows), _told(part.scope, result.error), dropped=dropped)
                if result.stopped:
                    return RunResult(tuple(rows), stopped=True, dropped=dropped)
            first = after
        return RunResult(tuple(rows), dropped=dropped)

    async def _perform(
        self, part: Part, opened: Opened, tell: OnProgress, stop: asyncio.Event, may_write: Callable[[], None]
    ) -> RunResult:
        async with opened(part.scope) as session:
            result = await perform(session, part.prepared, on_progress=tell, stop=stop, may_write=may_write)
            if result.error is None:
                self.versions[part.scope] = newest_version(await session.history())
            return result

    def _told(self, lists: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
        """Each sentence once, with the schemas that it is about where these are not all of them."""
        about: dict[str, list[str]] = {}
        for part, sentences in zip(self.parts, lists, strict=True):
            for sentence in sentences:
                about.setdefault(sentence, []).append(part.scope)
        return tuple(
            sentence if len(scopes) == len(self.parts) else f"{_schemas(scopes)}: {sentence}"
            for sentence, scopes in about.items()
        )


def _schemas(scopes: list[str]) -> str:
    return f"schema {scopes[0]}" if len(scopes) == 1 else f"schemas {some(scopes)}"


@contextmanager
def told_of(scope: str) -> Iterator[None]:
    """Errors that are raised within say which schema they are about; an empty ``scope`` is none."""
    try:
        yield
    except SelvedgeError as error:
        raise _told(scope, error) from None


def _told(scope: str, error: SelvedgeError) -> SelvedgeError:
    if scope and not error.message.startswith(f"schema {scope}"):
        error.message = f"schema {scope}: {error.message}"
        error.args = (error.message,)
    return error
