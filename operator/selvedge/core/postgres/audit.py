"""The audit of row changes: a log that only grows, and triggers that write it. Desired state and the difference.

A statement trigger with transition tables writes all rows of a statement in one INSERT. It needs a primary key, to find
the old and the new form of a row together, and it does not fire for what is done to a partition by its own name: tables
without a key and partitioned tables get a row trigger, which Postgres clones to every partition.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from selvedge.core.postgres.audit_changes import DropHook, ExpelMember, LetWrite, MakeLog, OwnLog, ProtectLog
from selvedge.core.postgres.change import Change, Problem
from selvedge.core.postgres.partitions import DesiredPartitions
from selvedge.core.postgres.triggers import (
    DELETE,
    INSERT,
    ROW,
    TRUNCATE,
    UPDATE,
    Function,
    LiveTable,
    Table,
    Trigger,
    put_functions,
    put_triggers,
)
from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectRef, ObjectState, ObjectStatus

CHANGES = "database_operations"
EVENTS = "audit_logs"

NAMES = tuple(f"selvedge_audit_{event}" for event in ("insert", "update", "delete", "row", "truncate"))
STAMP = "selvedge_audit_stamp"

#: The columns that the functions write, and their types: a table of this name that lacks one is somebody else's.
COLUMNS: Mapping[str, Mapping[str, str]] = {
    CHANGES: {
        "id": "uuid",
        "executed_at": "timestamp with time zone",
        "transaction_id": "bigint",
        "table_name": "text",
        "operation": "text",
        "record_id": "text",
        "user_id": "text",
        "session_role": "text",
        "active_role": "text",
        "application_name": "text",
        "ip_address": "inet",
        "old_values": "jsonb",
        "new_values": "jsonb",
    },
    EVENTS: {
        "id": "uuid",
        "created_at": "timestamp with time zone",
        "user_id": "text",
        "entity_type": "text",
        "entity_id": "text",
        "action": "text",
        "old_values": "jsonb",
        "new_values": "jsonb",
        "metadata": "jsonb",
        "ip_address": "inet",
        "user_agent": "text",
        "session_role": "text",
        "active_role": "text",
    },
}
#: By column (empty: the whole table) and grantee the privileges that may be and are declared on a log.
Meant = Mapping[tuple[str, str], frozenset[str]]

TIME_COLUMN = {CHANGES: "executed_at", EVENTS: "created_at"}


@dataclass(frozen=True, slots=True)
class DesiredAudit:
    """``spec.postgres.audit``. ``owner`` owns the log, ``writer`` the functions and may insert and nothing else."""

    member: str
    schema: str
    owner: str
    writer: str
    every: str
    ahead: int
    retention: float | None = None
    hold: bool = False
    actor_setting: str = ""
    tables: tuple[tuple[Table, tuple[str, ...]], ...] = ()
    tables_in: tuple[str, ...] = ()
    application_log: bool = False

    @property
    def ref(self) -> ObjectRef:
        """The audit as statuses name it."""
        return ObjectRef("audit", self.schema)

    @property
    def key(self) -> str:
        """Its claim."""
        return f"audit:{self.schema}"

    def logs(self) -> tuple[str, ...]:
        """The tables of the log."""
        return (CHANGES, EVENTS) if self.application_log else (CHANGES,)

    def partitions(self) -> tuple[DesiredPartitions, ...]:
        """The log's own partitions, which are looked after as all others are."""
        return tuple(
            DesiredPartitions(
                self.member,
                ObjectRef("auditLog", f"{self.schema}.{name}"),
                (self.schema, name),
                TIME_COLUMN[name],
                self.every,
                self.ahead,
                self.retention,
                hold=self.hold,
            )
            for name in self.logs()
        )


@dataclass(frozen=True, slots=True, order=True)
class LogAccess:
    """A privilege of somebody else than its owner on a log or a partition of one, or on a ``column`` of these.

    ``grantor`` is empty where the owner gave it.
    """

    relation: Table
    column: str
    grantee: str
    privilege: str
    grantable: bool = False
    grantor: str = ""


@dataclass(frozen=True, slots=True, order=True)
class LogHook:
    """A trigger on a log or a partition of one, with the schema of its function, or a rule; ``kind`` says which."""

    relation: Table
    kind: str
    name: str
    schema: str
    definition: str


@dataclass(frozen=True, slots=True)
class LiveAudit:
    """The functions, who may do what on the logs, who may use their schemas, and members of the two roles.

    ``access``, ``owners`` and ``hooks`` are by log and tell of its partitions too; ``members`` are (role, member,
    grantor), the grantor empty where the server keeps one membership whoever gave it.
    """

    functions: Mapping[Table, Function]
    access: Mapping[Table, frozenset[LogAccess]] = field(default_factory=dict)
    owners: Mapping[Table, Mapping[Table, str]] = field(default_factory=dict)
    schema_users: frozenset[tuple[str, str]] = frozenset()
    members: tuple[tuple[str, str, str], ...] = ()
    hooks: Mapping[Table, tuple[LogHook, ...]] = field(default_factory=dict)


def triggers_of(audit: DesiredAudit, table: LiveTable, exclude: Sequence[str]) -> tuple[Trigger, ...]:
    """The triggers that one table gets."""
    args = (array(table.key), array(sorted(exclude)))
    statement, row = (audit.schema, "record_changes"), (audit.schema, "record_change")
    truncate = Trigger("selvedge_audit_truncate", statement, TRUNCATE, args, always=True)
    if table.partitioned or not table.key:
        return (Trigger("selvedge_audit_row", row, ROW | INSERT | UPDATE | DELETE, args, always=True), truncate)
    old, new = "selvedge_old", "selvedge_new"
    return (
        Trigger("selvedge_audit_insert", statement, INSERT, args, new=new, always=True),
        Trigger("selvedge_audit_update", statement, UPDATE, args, old, new, always=True),
        Trigger("selvedge_audit_delete", statement, DELETE, args, old, always=True),
        truncate,
    )


def array(names: Iterable[str]) -> str:
    """The text of a ``text[]``; a name holds no quote and no control character, a backslash is doubled."""
    return "{" + ",".join('"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"' for name in names) + "}"


def diff_audit(
    audits: Sequence[DesiredAudit],
    left: Iterable[tuple[str, str]],
    tables: Mapping[Table, LiveTable],
    live: LiveAudit,
    functions: Mapping[str, Sequence[Function]],
    meant: Mapping[Table, Meant],
    ours: Container[str] = (),
) -> tuple[list[Change], list[Problem]]:
    """Changes and problems of all audits of a database.

    ``left`` are (member, schema) of audits that were declared before: their triggers go, their logs stay. ``functions``
    are by schema those that an audit needs. ``meant`` is what may be and is granted on the logs; ``ours`` are the
    claims of the unit.
    """
    changes: list[Change] = []
    problems: list[Problem] = []
    taken: dict[Table, DesiredAudit] = {}
    for audit in audits:
        obstacle = log_obstacle(audit, tables, ours)
        if obstacle:
            status = ObjectStatus(audit.ref, ObjectState.FAILED, Reason.CONFLICT, obstacle)
            problems.append(Problem(audit.member, status))
            continue
        owners_of_partitions = frozenset(
            tables[name].owner for name, _ in _targets(audit, tables) if name in tables and tables[name].partitioned
        )
        wanted = [
            replace(one, executors=owners_of_partitions) if one.name[1] == "record_change" else one
            for one in functions[audit.schema]
        ]
        changes += _log(audit, tables, live, wanted, meant, frozenset(functions))
        for name, exclude in _targets(audit, tables):
            table = tables.get(name)
            holder = taken.setdefault(name, audit)
            problem = _table_obstacle(audit, name, table, exclude, holder)
            if problem is not None:
                problems.append(problem)
            elif table is not None:
                changes += _on_table(Change(audit.ref, audit.member), table, triggers_of(audit, table, exclude))
    schemas = {audit.schema for audit in audits}
    owners = dict.fromkeys(schemas, "") | {schema: member for member, schema in left}
    for table in tables.values():
        mine = {t.function[0] for t in table.triggers.values() if t.name in NAMES}
        for schema in sorted(mine & owners.keys()):
            member = owners[schema] or next(audit.member for audit in audits if audit.schema == schema)
            if taken.get(table.name) is None:
                changes += _on_table(Change(ObjectRef("audit", schema), member), table, ())
    return changes, problems


def _targets(audit: DesiredAudit, tables: Mapping[Table, LiveTable]) -> Iterator[tuple[Table, tuple[str, ...]]]:
    named = dict(audit.tables)
    yield from audit.tables
    own = {(audit.schema, log) for log in (CHANGES, EVENTS)}
    for name in sorted(tables):
        if name[0] in audit.tables_in and name not in named and name not in own:
            yield name, ()


def _on_table(change: Change, table: LiveTable, wanted: Sequence[Trigger]) -> Iterator[Change]:
    yield from put_triggers(change, table.name, wanted, table.triggers, NAMES)
    # Statement triggers are not cloned: emptying a partition by its name would leave no trace.
    truncate = [trigger for trigger in wanted if trigger.kind == TRUNCATE]
    for name, triggers in sorted(table.partitions.items()):
        yield from put_triggers(change, name, truncate, triggers, ("selvedge_audit_truncate",))


def log_obstacle(audit: DesiredAudit, tables: Mapping[Table, LiveTable], ours: Container[str] = ()) -> str:
    """Why the log cannot be kept: a table of its name that is somebody else's. Empty where nothing is in the way.

    A table that has the right columns and another owner is the log only where our claim says so: its triggers are
    somebody's, and could lose entries.
    """
    for log in audit.logs():
        table = tables.get((audit.schema, log))
        if table is None:
            continue
        name = f"{audit.schema}.{log}"
        missing = [column for column, kind in COLUMNS[log].items() if table.columns.get(column) != kind]
        if missing:
            why = f"column {missing[0]} is missing or of another type"
        elif not table.partitioned:
            why = "it has no partitions"
        elif table.owner != audit.owner and audit.key not in ours:
            why = f"{table.owner} owns it and not {audit.owner}"
        else:
            continue
        return (
            f"table {name} exists and is not the operator's ({why}): rename it in a migration, or declare the audit "
            "in another schema"
        )
    return ""


def _log(
    audit: DesiredAudit,
    tables: Mapping[Table, LiveTable],
    live: LiveAudit,
    functions: Sequence[Function],
    meant: Mapping[Table, Meant],
    schemas: Container[str],
) -> Iterator[Change]:
    # Before everything else: while somebody is a member of the owner, what he granted on is not revoked with his own.
    for role, grantee, grantor in live.members:
        if role in (audit.owner, audit.writer):
            yield ExpelMember(audit.ref, audit.member, (audit.schema, role), role, grantee, grantor)
    for log in audit.logs():
        name = (audit.schema, log)
        if name not in tables:
            yield MakeLog(audit.ref, audit.member, name, audit.owner, audit.writer)
            continue
        for relation, owner in sorted(live.owners.get(name, {}).items()):
            if owner != audit.owner:
                yield OwnLog(audit.ref, audit.member, name, relation, audit.owner)
        for hook in live.hooks.get(name, ()):
            if not _ours(hook, schemas):
                yield DropHook(audit.ref, audit.member, name, hook.relation, hook.kind, hook.name)
        access = live.access.get(name, frozenset())
        writes = any(
            (x.relation, x.column, x.grantee, x.privilege) == (name, "", audit.writer, "INSERT") for x in access
        )
        if not writes or (audit.schema, audit.writer) not in live.schema_users:
            yield LetWrite(audit.ref, audit.member, name, audit.writer)
        yield from _protect(audit, name, access, meant.get(name, {}))
    change = Change(audit.ref, audit.member)
    yield from put_functions(change, functions, live.functions)
    events = tables.get((audit.schema, EVENTS))
    stamp = Trigger(STAMP, (audit.schema, "stamp_event"), ROW | 2 | INSERT, always=True)
    if audit.application_log:
        there = events.triggers if events is not None else {}
        yield from put_triggers(change, (audit.schema, EVENTS), [stamp], there, (STAMP,))


def _ours(hook: LogHook, schemas: Container[str]) -> bool:
    """Whether the audit put it there, or another one that audits this log; what differs of these is compared anew."""
    return hook.kind == "trigger" and hook.name in (*NAMES, STAMP) and hook.schema in schemas


def _protect(audit: DesiredAudit, log: Table, access: Iterable[LogAccess], meant: Meant) -> Iterator[ProtectLog]:
    """What is granted and not meant."""
    excess: dict[tuple[Table, str, str], tuple[set[str], set[str], set[str]]] = {}
    for one in access:
        allowed = meant.get((one.column, one.grantee), frozenset()) if one.relation == log else frozenset()
        if (one.relation, one.column, one.grantee) == (log, "", audit.writer):
            allowed |= {"INSERT"}
        if one.privilege in allowed and not one.grantable and not one.grantor:
            continue
        whole, options, grantors = excess.setdefault((one.relation, one.column, one.grantee), (set(), set(), set()))
        (options if one.privilege in allowed and not one.grantor else whole).add(one.privilege)
        grantors |= {one.grantor} - {""}
    for (relation, column, grantee), found in sorted(excess.items()):
        words = [tuple(sorted(some)) for some in found]
        yield ProtectLog(audit.ref, audit.member, log, relation, column, grantee, *words)


def _table_obstacle(
    audit: DesiredAudit, name: Table, table: LiveTable | None, exclude: Sequence[str], holder: DesiredAudit
) -> Problem | None:
    text = ".".join(name)

    def problem(state: ObjectState, reason: Reason, message: str) -> Problem:
        return Problem(audit.member, ObjectStatus(ObjectRef("audit", text), state, reason, message))

    if table is None:
        return problem(ObjectState.WAITING, Reason.WAITING_FOR_OBJECTS, f"table {text} does not exist yet: not audited")
    if holder is not audit:
        message = f"table {text} is audited in schema {holder.schema} already: declare it in one of the two"
        return problem(ObjectState.CONFLICT, Reason.CONFLICT, message)
    missing = sorted(set(exclude) - table.columns.keys())
    if missing:
        # A typing error here would write a password down for a year: rather no trigger than one that does.
        message = f"table {text} has no column {missing[0]} to exclude: it is not audited until it has"
        return problem(ObjectState.WAITING, Reason.WAITING_FOR_OBJECTS, message)
    in_key = sorted(set(exclude) & set(table.key))
    if in_key:
        message = f"column {in_key[0]} is part of the primary key of {text}, by which entries name rows: keep it"
        return problem(ObjectState.FAILED, Reason.INVALID_SPEC, message)
    return None
