"""Triggers, functions and views that the operator keeps on users' tables: as they should be, and as they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from selvedge.core.postgres.change import Change
from selvedge.core.unit import Risk

#: A table by schema and name.
Table = tuple[str, str]

#: Bits of ``pg_trigger.tgtype``.
ROW, BEFORE, INSERT, DELETE, UPDATE, TRUNCATE, INSTEAD = 1, 2, 4, 8, 16, 32, 64

#: The names of all triggers of the operator begin with this; nobody else's are touched.
PREFIX = "selvedge_"


@dataclass(frozen=True, slots=True)
class Trigger:
    """A trigger; ``kind`` is ``tgtype``, ``always`` says that it fires in a replica's session too.

    ``changed``: only where the row differs (a WHEN clause). ``old`` and ``new`` name the transition tables.
    """

    name: str
    function: tuple[str, str]
    kind: int
    args: tuple[str, ...] = ()
    old: str = ""
    new: str = ""
    changed: bool = False
    always: bool = False


@dataclass(frozen=True, slots=True)
class Function:
    """A trigger function. ``source`` is what stands between the quotes; ``definer`` runs it with the owner's rights.

    ``executors`` are roles that may put it on tables: who attaches a partition needs that for triggers that are cloned.
    """

    name: tuple[str, str]
    source: str
    definer: bool = False
    owner: str = ""
    public: bool = False
    pinned: bool = True
    executors: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class View:
    """A view as it is. ``definition`` is the server's text on one line; ``invoker``: read with the reader's rights."""

    owner: str
    invoker: bool
    definition: str
    triggers: Mapping[str, Trigger] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LiveTable:
    """A table as it is; partitions are not among those, but for ``partitions``, their names and triggers.

    ``columns`` maps names to types in the order of the table, ``quoted`` to the names as the server writes them.
    """

    name: Table
    owner: str
    partitioned: bool = False
    columns: Mapping[str, str] = field(default_factory=dict)
    quoted: Mapping[str, str] = field(default_factory=dict)
    quoted_name: str = ""
    key: tuple[str, ...] = ()
    triggers: Mapping[str, Trigger] = field(default_factory=dict)
    partitions: Mapping[Table, Mapping[str, Trigger]] = field(default_factory=dict)


class TableChange(Change):
    """What locks one table: it is made in a short transaction for each, after the database's own."""

    __slots__ = ()
    upkeep = False

    @property
    def risk(self) -> Risk:
        """Locking."""
        return Risk.LOCKING


@dataclass(frozen=True, slots=True)
class OnTable(TableChange):
    """A change of one table; ``table`` is the one that is locked."""

    table: Table


@dataclass(frozen=True, slots=True)
class PutTrigger(OnTable):
    """``CREATE OR REPLACE TRIGGER``: no change of a row goes unseen meanwhile."""

    trigger: Trigger
    view: bool = False


@dataclass(frozen=True, slots=True)
class DropTrigger(OnTable):
    """``DROP TRIGGER``."""

    trigger: str


@dataclass(frozen=True, slots=True)
class PutFunction(OnTable):
    """``CREATE OR REPLACE FUNCTION``; ``table`` is its name."""

    function: Function
    revoke: tuple[str, ...] = ()

    @property
    def risk(self) -> Risk:
        """Additive: nothing is locked."""
        return Risk.ADDITIVE


def put_functions(change: Change, wanted: Iterable[Function], live: Mapping[Table, Function]) -> Iterator[PutFunction]:
    """The functions that are missing or are not as they should be; ``change`` says for what and whom."""
    for function in wanted:
        current = live.get(function.name)
        if current != function:
            others = sorted(current.executors - function.executors) if current is not None else ()
            yield PutFunction(change.ref, change.member, function.name, function, tuple(others))


def put_triggers(
    change: Change, table: Table, wanted: Iterable[Trigger], live: Mapping[str, Trigger], names: Iterable[str]
) -> Iterator[Change]:
    """What makes the triggers of these ``names`` on a table or view the ``wanted`` ones."""
    expected = {trigger.name: trigger for trigger in wanted}
    for name in names:
        trigger = expected.get(name)
        if trigger is not None and live.get(name) != trigger:
            yield PutTrigger(change.ref, change.member, table, trigger, bool(trigger.kind & INSTEAD))
        elif trigger is None and name in live:
            yield DropTrigger(change.ref, change.member, table, name)
