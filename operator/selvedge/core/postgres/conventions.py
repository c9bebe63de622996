"""What many tables share: the time of the last change, a version, soft delete. Desired state and the difference."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from selvedge.core.names import shorten
from selvedge.core.postgres.audit import array
from selvedge.core.postgres.change import Change, Problem
from selvedge.core.postgres.triggers import (
    BEFORE,
    DELETE,
    INSTEAD,
    ROW,
    UPDATE,
    Function,
    LiveTable,
    OnTable,
    Table,
    Trigger,
    View,
    put_functions,
    put_triggers,
)
from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectRef, ObjectState, ObjectStatus, Risk

UPDATED_AT, VERSION, DELETE_MARK = "selvedge_updated_at", "selvedge_version", "selvedge_soft_delete"

_TIMES = ("timestamp with time zone", "timestamp without time zone", "date")
_NUMBERS = ("smallint", "integer", "bigint", "numeric")


@dataclass(frozen=True, slots=True)
class ColumnTrigger:
    """``updatedAt`` or ``version`` of one member."""

    member: str
    column: str
    schemas: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SoftDelete:
    """``softDelete`` of one member; ``views`` holds ``{table}``. ``setting`` names who deletes."""

    member: str
    column: str
    schemas: tuple[str, ...]
    by_column: str = ""
    views: str = "active_{table}"
    setting: str = ""

    def view(self, table: Table) -> Table:
        """The view of a table."""
        return table[0], shorten(self.views.replace("{table}", table[1]))


@dataclass(frozen=True, slots=True)
class DesiredConventions:
    """Of all members of a database, the oldest first: the first that names a schema has it."""

    updated_at: tuple[ColumnTrigger, ...] = ()
    version: tuple[ColumnTrigger, ...] = ()
    soft_delete: tuple[SoftDelete, ...] = ()

    def __bool__(self) -> bool:
        """Whether anything is declared."""
        return bool(self.updated_at or self.version or self.soft_delete)

    def schemas(self) -> frozenset[str]:
        """The schemas whose tables matter."""
        columns = {schema for one in (*self.updated_at, *self.version) for schema in one.schemas}
        return frozenset(columns.union(*(one.schemas for one in self.soft_delete)))


@dataclass(frozen=True, slots=True)
class PutView(OnTable):
    """The view of rows that are not marked as deleted; ``table`` is the view, ``of`` its table."""

    of: Table
    owner: str
    column: str
    columns: tuple[str, ...]

    @property
    def risk(self) -> Risk:
        """Additive: readers of the table go on."""
        return Risk.ADDITIVE


@dataclass(frozen=True, slots=True)
class DropView(OnTable):
    """``DROP VIEW … RESTRICT``: a view holds no data."""

    @property
    def risk(self) -> Risk:
        """Narrowing."""
        return Risk.NARROWING


def column_function(schema: str, kind: str, column: str) -> Table:
    """The name of the function that sets a column: one for each name of a column, whatever the number of tables."""
    return schema, shorten(f"{kind}_{column}")


def ref_of(kind: str, table: Table) -> ObjectRef:
    """A convention on a table as statuses name it."""
    return ObjectRef(kind, ".".join(table))


def view_key(view: Table) -> str:
    """The claim of a view."""
    return "view:" + ".".join(view)


def diff_conventions(
    desired: DesiredConventions,
    tables: Mapping[Table, LiveTable],
    views: Mapping[Table, View],
    functions: Mapping[Table, Function],
    wanted: Sequence[Function],
    metadata_schema: str,
    owned: Mapping[Table, str],
    adopt: Mapping[str, bool],
    members: Sequence[str],
) -> tuple[list[Change], list[Problem], dict[Table, str]]:
    """Changes, problems, and the views that are to be claimed with their members.

    ``owned`` are the views that members claim already; ``adopt`` says who may take over one that nobody does.
    """
    changes: list[Change] = []
    problems: list[Problem] = []
    made: dict[Table, str] = {}
    first = members[0] if members else ""
    changes += put_functions(Change(ObjectRef("conventions", metadata_schema), first), wanted, functions)
    claimed: dict[Table, str] = {}
    for name in sorted(tables):
        table = tables[name]
        if any(trigger.function[0] != metadata_schema for trigger in _ours(table)):
            continue  # another operator's, with a metadata schema of its own
        expected: dict[str, tuple[ColumnTrigger, Trigger]] = {}
        for kind, entries, types, label, verb in (
            (UPDATED_AT, desired.updated_at, _TIMES, "updatedAt", "set"),
            (VERSION, desired.version, _NUMBERS, "version", "count"),
        ):
            one = _for(entries, table)
            if one is None:
                continue
            if table.columns[one.column] not in types:
                message = f"column {one.column} of {'.'.join(name)} is {table.columns[one.column]}: it cannot be kept"
                status = ObjectStatus(ref_of(label, name), ObjectState.FAILED, Reason.INVALID_SPEC, message)
                problems.append(Problem(one.member, status))
                continue
            function = column_function(metadata_schema, verb, one.column)
            expected[kind] = (one, Trigger(kind, function, ROW | BEFORE | UPDATE, changed=True))
        for kind, label in ((UPDATED_AT, "updatedAt"), (VERSION, "version")):
            member = expected[kind][0].member if kind in expected else first
            triggers = [expected[kind][1]] if kind in expected else []
            changes += put_triggers(Change(ref_of(label, name), member), name, triggers, table.triggers, (kind,))
        soft = next((one for one in desired.soft_delete if name[0] in one.schemas), None)
        if soft is not None and soft.column in table.columns:
            view = soft.view(name)
            claimed[view] = soft.member
            found, problem = _view(soft, table, view, views, view in owned, adopt, metadata_schema)
            changes += found
            if problem is not None:
                problems.append(problem)
            else:
                made[view] = soft.member
    for view, member in owned.items():
        if view not in claimed and view in views:
            changes.append(DropView(ref_of("softDelete", view), member, view))
    return changes, problems, made


def plain_view(soft: SoftDelete, table: LiveTable, view: View) -> bool:
    """Whether the view is what it should be: every column but the marks, where the mark is null.

    Until Postgres 15 the server writes the table's name before each column.
    """
    names = [quoted for name, quoted in table.quoted.items() if name not in (soft.column, soft.by_column)]
    mark = table.quoted.get(soft.column, "")
    for prefix in ("", table.quoted_name.rpartition(".")[2] + "."):
        columns = ", ".join(prefix + name for name in names)
        parts = ("SELECT", columns, "FROM", table.quoted_name, "WHERE", f"({prefix}{mark} IS NULL);")
        if view.definition == " ".join(parts):
            return True
    return False


def _ours(table: LiveTable) -> Iterator[Trigger]:
    return (trigger for name, trigger in table.triggers.items() if name in (UPDATED_AT, VERSION))


def _for(entries: Iterable[ColumnTrigger], table: LiveTable) -> ColumnTrigger | None:
    return next((one for one in entries if table.name[0] in one.schemas and one.column in table.columns), None)


def _view(
    soft: SoftDelete,
    table: LiveTable,
    view: Table,
    views: Mapping[Table, View],
    owned: bool,
    adopt: Mapping[str, bool],
    metadata_schema: str,
) -> tuple[list[Change], Problem | None]:
    ref = ref_of("softDelete", view)
    live = views.get(view)
    text = ".".join(view)
    plain = live is not None and live.invoker and plain_view(soft, table, live)
    if live is not None and not owned and not plain and not adopt.get(soft.member):
        message = (
            f"view {text} exists and nobody claims it: drop it in a migration, name the views otherwise, or set "
            "spec.adoption to Allow to have it replaced"
        )
        return [], Problem(soft.member, ObjectStatus(ref, ObjectState.CONFLICT, Reason.ADOPTION_REQUIRED, message))
    changes: list[Change] = []
    columns = tuple(name for name in table.columns if name not in (soft.column, soft.by_column))
    if live is None or not plain or live.owner != table.owner:
        changes.append(PutView(ref, soft.member, view, table.name, table.owner, soft.column, columns))
    wanted = []
    if table.key:
        by = soft.by_column if soft.by_column in table.columns and soft.setting else ""
        args = (*table.name, soft.column, by, soft.setting if by else "", array(table.key))
        wanted.append(Trigger(DELETE_MARK, (metadata_schema, "soft_delete"), ROW | INSTEAD | DELETE, args))
    there = live.triggers if live is not None else {}
    changes += put_triggers(Change(ref, soft.member), view, wanted, there, (DELETE_MARK,))
    return changes, None
