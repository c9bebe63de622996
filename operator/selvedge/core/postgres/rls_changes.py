"""The typed changes of row-level security. All of a table's changes are made in one short transaction of its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from selvedge.core.postgres.change import Change
from selvedge.core.unit import Risk

TableKey = tuple[str, str]
"""Schema and name of a table."""


@dataclass(frozen=True, slots=True, order=True)
class RowPolicy:
    """A policy. ``command`` is ALL, SELECT, INSERT, UPDATE or DELETE; ``roles`` sorted, PUBLIC alone for everyone.

    In a declaration the expressions are as written, in a snapshot they are the server's own text.
    """

    name: str
    command: str = "ALL"
    permissive: bool = True
    roles: tuple[str, ...] = ("PUBLIC",)
    using: str | None = None
    check: str | None = None


@dataclass(frozen=True, slots=True)
class RowSecurityChange(Change):
    """What these changes have: they take an ACCESS EXCLUSIVE lock on the table."""

    schema: str
    table: str

    @property
    def key(self) -> TableKey:
        """The table that is locked."""
        return self.schema, self.table

    @property
    def risk(self) -> Risk:
        """Locking."""
        return Risk.LOCKING


@dataclass(frozen=True, slots=True)
class EnableRowSecurity(RowSecurityChange):
    """``ALTER TABLE … ENABLE ROW LEVEL SECURITY``."""


@dataclass(frozen=True, slots=True)
class DisableRowSecurity(RowSecurityChange):
    """``ALTER TABLE … DISABLE ROW LEVEL SECURITY``; only to put back what stood before a change that failed."""


@dataclass(frozen=True, slots=True)
class ForceRowSecurity(RowSecurityChange):
    """``ALTER TABLE … [NO] FORCE ROW LEVEL SECURITY``."""

    force: bool


@dataclass(frozen=True, slots=True)
class ClosePartition(RowSecurityChange):
    """ENABLE and FORCE on a partition that could be read by its own name, past the policies of its parent.

    Without policies of its own nobody but a superuser sees a row that way; through the parent nothing changes.
    """

    partition: TableKey
    force: bool = True


@dataclass(frozen=True, slots=True)
class CreatePolicy(RowSecurityChange):
    """``CREATE POLICY``."""

    policy: RowPolicy


@dataclass(frozen=True, slots=True)
class AlterPolicy(RowSecurityChange):
    """``ALTER POLICY``: roles and expressions; None leaves one as it is."""

    name: str
    roles: tuple[str, ...] | None = None
    using: str | None = None
    check: str | None = None


@dataclass(frozen=True, slots=True)
class DropPolicy(RowSecurityChange):
    """``DROP POLICY``. Without a permissive one fewer rows are seen, without a restrictive one more."""

    name: str
    permissive: bool = True
    partition: TableKey | None = None

    @property
    def risk(self) -> Risk:
        """Narrowing for a permissive one."""
        return Risk.NARROWING if self.permissive else Risk.LOCKING


def _position(change: Change) -> int:
    """Restrict before widen. A policy that is made anew is dropped before it is created."""
    match change:
        case EnableRowSecurity():
            return 0
        case ForceRowSecurity(force=True):
            return 1
        case ClosePartition():
            return 2
        case DropPolicy():
            return 3
        case CreatePolicy(policy=RowPolicy(permissive=False)):
            return 4
        case AlterPolicy():
            return 5
        case CreatePolicy():
            return 6
        case ForceRowSecurity():
            return 7
        case _:
            return 8


def ordered(changes: Iterable[Change]) -> list[Change]:
    """Table by table, and in each the changes that restrict before those that widen; stable."""
    return sorted(changes, key=lambda x: (x.key if isinstance(x, RowSecurityChange) else ("", ""), _position(x)))


def carries_expression(change: Change) -> bool:
    """Whether the statement holds SQL of a declaration: the server may run users' code while it reads it.

    A literal of a user's type is turned into a value when the statement is parsed; an element of an array of a domain
    is checked then, by a function that anybody may have written.
    """
    match change:
        case CreatePolicy():
            return True
        case AlterPolicy(using=using, check=check):
            return using is not None or check is not None
        case _:
            return False
