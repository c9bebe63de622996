"""What tests of the linter share."""

from __future__ import annotations

from selvedge.migrate import load
from selvedge.migrate.conventions import Conventions
from selvedge.migrate.lint import Finding, lint


def own(text: str, conventions: Conventions | None = None) -> list[Finding]:
    """What is said beside errors."""
    found = lint(load({"1_a.sql": text}), conventions=conventions, use_squawk=False)
    return [one for one in found if one.severity != "error"]
