"""What ``kubectl selvedge doctor`` found: each finding with its object, what is wrong, and the next step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from selvedge.cli.output import clean
from selvedge.core.words import count

_DETAILS = 5


class Severity(StrEnum):
    """What a finding asks for, the gravest first."""

    __slots__ = ()

    ERROR = "Error"
    """Something does not work until somebody changes something, or it passes."""
    DECISION = "Decision"
    """Something waits for a person's yes or no."""
    NOTICE = "Notice"
    """Worth knowing; the exit status does not count it."""


_ORDER = (Severity.ERROR, Severity.DECISION, Severity.NOTICE)


@dataclass(frozen=True, slots=True)
class Ref:
    """The object that a finding is about; without a namespace one of the whole cluster."""

    kind: str
    name: str
    namespace: str = ""

    def __str__(self) -> str:
        """``DatabaseServer shop/main``."""
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or waits. ``reason`` is one of the reference's, or the doctor's own word."""

    severity: Severity
    ref: Ref
    reason: str
    message: str
    step: str
    details: tuple[str, ...] = ()
    affects: tuple[Ref, ...] = ()

    def affecting(self, ref: Ref) -> Finding:
        """The same, with one more object that cannot be well before this is."""
        return replace(self, affects=(*self.affects, ref))

    def document(self) -> dict[str, Any]:
        """The form for machines; every key is always there."""
        return {
            "severity": str(self.severity),
            "object": _document(self.ref),
            "reason": self.reason,
            "message": self.message,
            "next": self.step,
            "details": list(self.details),
            "affects": [_document(ref) for ref in self.affects],
        }


def _document(ref: Ref) -> dict[str, str]:
    return {"kind": ref.kind, "namespace": ref.namespace, "name": ref.name}


@dataclass(slots=True)
class Report:
    """Everything that was found; ``unchecked`` is what the caller may not see, or what was not there to look at."""

    findings: list[Finding] = field(default_factory=list)
    looked: dict[str, int] = field(default_factory=dict)
    unchecked: list[str] = field(default_factory=list)
    _at: dict[Ref, int] = field(default_factory=dict, repr=False)
    _causes: dict[Ref, Ref] = field(default_factory=dict, repr=False)

    def add(self, finding: Finding) -> None:
        """Add a finding."""
        if finding.severity is not Severity.NOTICE:
            self._at.setdefault(finding.ref, len(self.findings))
        self.findings.append(finding)

    def of(self, ref: Ref) -> Finding | None:
        """The first finding about an object that is more than a notice."""
        at = self._at.get(ref)
        return None if at is None else self.findings[at]

    def cause_of(self, ref: Ref) -> Finding | None:
        """The finding that ``ref`` is named at as suffering from it."""
        cause = self._causes.get(ref)
        return None if cause is None else self.of(cause)

    def blame(self, cause: Ref, ref: Ref) -> None:
        """Say at the finding about ``cause`` that ``ref`` suffers from it."""
        at = self._at[cause]
        self.findings[at] = self.findings[at].affecting(ref)
        self._causes[ref] = cause

    def replace(self, change: Callable[[Finding], Finding | None]) -> None:
        """Put what ``change`` makes of each finding into its place; None takes it out."""
        kept = [changed for finding in self.findings if (changed := change(finding)) is not None]
        self.findings = []
        self._at.clear()
        for finding in kept:
            self.add(finding)

    @property
    def healthy(self) -> bool:
        """Whether nothing was found that somebody has to act on."""
        return all(finding.severity is Severity.NOTICE for finding in self.findings)

    def sorted(self) -> list[Finding]:
        """The gravest first, and otherwise in the order in which one thing depends on another."""
        return sorted(self.findings, key=lambda finding: _ORDER.index(finding.severity))

    def document(self) -> dict[str, Any]:
        """The form for machines; every key is always there."""
        return {
            "healthy": self.healthy,
            "looked": dict(self.looked),
            "findings": [finding.document() for finding in self.sorted()],
            "unchecked": list(self.unchecked),
        }

    def lines(self) -> Iterator[str]:
        """The form for people."""
        for finding in self.sorted():
            yield f"{finding.severity}: {finding.ref}: {finding.reason}: {clean(finding.message)}"
            yield from (f"    {clean(detail)}" for detail in finding.details[:_DETAILS])
            if len(finding.details) > _DETAILS:
                yield f"    … and {len(finding.details) - _DETAILS} more: -o json shows them"
            if finding.affects:
                yield f"    affects: {_few(finding.affects)}"
            yield f"    next: {clean(finding.step)}"
        yield from (f"not checked: {clean(reason)}" for reason in self.unchecked)
        yield self._summary()

    def _summary(self) -> str:
        looked = ", ".join(count(number, kind) for kind, number in self.looked.items() if number) or "no resource"
        numbers: Mapping[Severity, int] = {s: sum(f.severity is s for f in self.findings) for s in _ORDER}
        found = ", ".join(count(n, str(severity).lower()) for severity, n in numbers.items() if n)
        return f"{found or 'nothing found'}; looked at {looked}"


def _few(refs: tuple[Ref, ...]) -> str:
    shown = ", ".join(str(ref) for ref in refs[:_DETAILS])
    return shown + (f" and {len(refs) - _DETAILS} more" if len(refs) > _DETAILS else "")
