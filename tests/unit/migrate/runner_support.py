"""A session over a history in memory, and the runner over it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from selvedge.migrate import HistoryRow, Migration, Progress, RunPlan, RunResult, Step, Timeouts, run
from selvedge.migrate.protocol import Control


@dataclass
class Memory:
    """A session whose database is a dictionary. ``fail`` is asked before each attempt and may raise."""

    rows: dict[str, HistoryRow] = field(default_factory=dict)
    fail: Callable[[Migration], None] = lambda _: None
    server_version: int = 16
    done: list[str] = field(default_factory=list)
    locked: bool = False
    owes: bool = False

    async def history(self) -> tuple[HistoryRow, ...]:
        return tuple(self.rows.values())

    async def lock(self, seconds: float, waiting: Callable[[str], Awaitable[None]]) -> None:
        await waiting("somebody")
        await waiting("")
        self.locked = True

    async def attempt(
        self, migration: Migration, row: HistoryRow | None, control: Control, direction: str = "up"
    ) -> None:
        assert self.locked
        control.checkpoint()
        self.fail(migration)
        await control.advance(1)
        control.may_write()
        self._apply(migration, direction)

    async def attempt_all(self, steps: Sequence[Step], controls: Sequence[Control]) -> None:
        for step in steps:
            self.fail(step.migration)
        for step in steps:
            self._apply(step.migration, step.direction)
        self.done.append("commit")

    async def run_hook(self, hook: Migration, control: Control, *, event: str = "") -> None:
        await control.waiting("somebody")
        self.fail(hook)
        self.done.append(hook.name)
        if event:
            self.owes = False

    async def owes_after_run(self) -> bool:
        return self.owes

    async def owe_after_run(self, hook: Migration) -> None:
        assert self.locked
        self.owes = True
        self.done.append(f"owe {hook.name}")

    async def record(self, migration: Migration, direction: str, *, actor: str, reason: str) -> None:
        self._apply(migration, "down" if direction == "unmark" else direction)
        self.done[-1] += f" {actor} {reason}"

    async def drop_invalid_indexes(self, *, actor: str, reason: str) -> tuple[str, ...]:
        return ("shop.bad",)

    def _apply(self, migration: Migration, direction: str) -> None:
        self.done.append(f"{direction} {migration.version}")
        if direction == "down":
            self.rows.pop(migration.key)
        else:
            self.rows[migration.key] = HistoryRow(migration.version, migration.name, migration.checksum)


class Perform:
    """Runs plans and remembers what was told."""

    def __init__(self, session: Memory) -> None:
        self.session = session
        self.told: list[Progress] = []
        self.stop = asyncio.Event()
        self.may_write: Callable[[], None] = lambda: None

    async def __call__(self, plan: RunPlan, **options: Any) -> RunResult:
        async def tell(row: Progress) -> None:
            self.told.append(row)

        known: dict[str, Any] = {"timeouts": Timeouts(), "random": Random(1), **options}
        return await run(
            self.session,
            plan,
            on_progress=tell,
            stop=self.stop,
            may_write=self.may_write,
            **known,
        )
