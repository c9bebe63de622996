"""What the demo prints: each step with one sentence, what was run and seen, and at the end how long each step took."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator

# As wide as `kubectl get` prints; a terminal's own width wins where there is one.
_PIPED_WIDTH = 160


@dataclass(slots=True)
class _Step:
    title: str
    seconds: float
    held: bool


class Narrator:
    """Writes to standard output: with colours on a terminal, as plain text in a pipe."""

    def __init__(self) -> None:
        self.console = Console(highlight=False, markup=False)
        if not self.console.is_terminal:
            self.console = Console(highlight=False, markup=False, width=_PIPED_WIDTH)
        self._steps: list[_Step] = []

    @contextmanager
    def step(self, title: str, shows: str) -> Iterator[None]:
        """One step: ``title`` for the table at the end, ``shows`` the sentence that says what is shown."""
        self.console.print()
        self._line(f"{len(self._steps) + 1}. {title}", "bold")
        self._line(shows, "italic")
        started = time.monotonic()
        held = False
        try:
            yield
            held = True
        finally:
            self._steps.append(_Step(title, time.monotonic() - started, held))

    def command(self, text: str) -> None:
        """What a person would type."""
        self._line(f"   $ {text}", "cyan")

    def output(self, text: str) -> None:
        """What a program answered, as it is."""
        for line in text.rstrip().splitlines():
            self._line(f"   {line}")

    def good(self, text: str) -> None:
        """Something that was checked and holds."""
        self._line(f"   ✓ {text}", "green")

    def bad(self, text: str) -> None:
        """Why a step does not hold."""
        self._line(f"   ✗ {text}", "red")

    def say(self, text: str) -> None:
        """A line of its own."""
        self._line(text)

    def summary(self) -> None:
        """The table of steps and seconds."""
        table = Table(title="How long each step took", title_justify="left", title_style="bold", show_footer=True)
        table.add_column("step", footer="together")
        table.add_column("seconds", justify="right", footer=f"{sum(step.seconds for step in self._steps):.1f}")
        table.add_column("held", footer="")
        for number, step in enumerate(self._steps, 1):
            mark = Text("yes", "green") if step.held else Text("NO", "bold red")
            table.add_row(Text(f"{number}. {step.title}"), f"{step.seconds:.1f}", mark)
        self.console.print()
        self.console.print(table)

    def _line(self, text: str, style: str = "") -> None:
        # Not wrapped: what kubectl prints is a table, and a statement that was cut in two cannot be copied.
        self.console.print(Text(text, style), soft_wrap=True)
