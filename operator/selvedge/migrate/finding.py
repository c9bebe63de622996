"""What a linter says about a line of a migration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "advice"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding: ``error`` will not run, ``warning`` may hurt, ``advice`` is a matter of convention.

    ``rule`` is the word that ``-- allow:`` takes, ``next_step`` what to do about it.
    """

    file: str
    line: int
    rule: str
    severity: Severity
    message: str
    next_step: str = ""

    def __str__(self) -> str:
        """One line, as compilers write them."""
        step = f"; {self.next_step}" if self.next_step else ""
        return f"{self.file}, line {self.line}: {self.message}{step} ({self.rule})"
