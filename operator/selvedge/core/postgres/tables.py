"""What is kept on tables, together: audit, conventions, partitions. Desired, live, remembered, and the difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from selvedge.core.postgres.audit import DesiredAudit, LiveAudit, diff_audit, log_obstacle
from selvedge.core.postgres.audit_guard import guard_logs
from selvedge.core.postgres.change import Change, Problem
from selvedge.core.postgres.changes import DropClaims
from selvedge.core.postgres.cluster_diff import ClaimBook, conflict
from selvedge.core.postgres.conventions import DesiredConventions, diff_conventions, view_key
from selvedge.core.postgres.model import Desired, Snapshot
from selvedge.core.postgres.partitions import DesiredPartitions, LivePartitions, diff_partitions, headroom
from selvedge.core.postgres.triggers import Function, LiveTable, OnTable, Table, View
from selvedge.core.unit import ObjectRef, Risk

_KINDS = ("audit", "conventions", "view", "partitions", "auditLog")


@dataclass(frozen=True, slots=True)
class DesiredTables:
    """What all members declare. ``functions`` are by schema of an audit those that it needs.

    ``hypertables``: TimescaleDB is there and is asked about the tables.
    """

    audits: tuple[DesiredAudit, ...] = ()
    functions: Mapping[str, tuple[Function, ...]] = field(default_factory=dict)
    conventions: DesiredConventions = field(default_factory=DesiredConventions)
    convention_functions: tuple[Function, ...] = ()
    partitions: tuple[DesiredPartitions, ...] = ()
    hypertables: bool = False

    def all_partitions(self) -> tuple[DesiredPartitions, ...]:
        """The declared ones and those of the audits."""
        return (*self.partitions, *(one for audit in self.audits for one in audit.partitions()))

    def schema_names(self) -> frozenset[str]:
        """The schemas of all tables on which something is kept."""
        named = {name[0] for audit in self.audits for name, _ in audit.tables}
        named |= {schema for audit in self.audits for schema in (audit.schema, *audit.tables_in)}
        return frozenset(named | self.conventions.schemas() | {one.table[0] for one in self.partitions})


@dataclass(frozen=True, slots=True)
class Wanted:
    """What of the tables the snapshot has to show."""

    schemas: frozenset[str] = frozenset()
    tables: frozenset[Table] = frozenset()
    views: frozenset[str] = frozenset()
    partitioned: frozenset[Table] = frozenset()
    functions: frozenset[str] = frozenset()
    logs: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()
    hypertables: bool = False

    def __bool__(self) -> bool:
        """Whether anything is asked for."""
        return bool(self.functions or self.partitioned)


@dataclass(frozen=True, slots=True)
class LiveTables:
    """All of it, as it is."""

    partitions: LivePartitions
    tables: Mapping[Table, LiveTable] = field(default_factory=dict)
    views: Mapping[Table, View] = field(default_factory=dict)
    audit: LiveAudit = field(default_factory=lambda: LiveAudit({}))


def wanted(desired: Desired, metadata_schema: str) -> Wanted:
    """What the declarations, and the claims of what left them, need to see. Nothing where there is neither."""
    tables = desired.tables or DesiredTables()
    left = [name for _, name in desired.remembered.kept if not name.startswith(("partitions:", "auditLog:"))]
    audits = {audit.schema for audit in tables.audits}
    audits |= {name.removeprefix("audit:") for name in left if name.startswith("audit:")}
    views = {name.removeprefix("view:").partition(".")[0] for name in left if name.startswith("view:")}
    soft = {schema for one in tables.conventions.soft_delete for schema in one.schemas}
    ours = {metadata_schema} if tables.conventions or any(not name.startswith("audit:") for name in left) else set()
    return Wanted(
        schemas=tables.conventions.schemas() | {schema for audit in tables.audits for schema in audit.tables_in},
        tables=frozenset(name for audit in tables.audits for name, _ in audit.tables)
        | {(audit.schema, log) for audit in tables.audits for log in audit.logs()},
        views=frozenset(views | soft),
        partitioned=frozenset(one.table for one in tables.all_partitions()),
        functions=frozenset(audits | ours),
        logs=frozenset(audits),
        roles=frozenset(role for audit in tables.audits for role in (audit.owner, audit.writer)),
        hypertables=tables.hypertables and any(one.every for one in tables.partitions),
    )


def left_tables(desired: Desired, book: ClaimBook) -> frozenset[tuple[str, str]]:
    """(member, claim) of what members of the unit declared before and do not any more."""
    kept = _keys(desired.tables or DesiredTables(), book)
    softly = {schema for one in (desired.tables or DesiredTables()).conventions.soft_delete for schema in one.schemas}
    found = set()
    for member in book.resources:
        for kind in _KINDS:
            for claim in book.owned(f"{kind}:", member):
                shown = kind == "view" and claim.object.removeprefix("view:").partition(".")[0] in softly
                if claim.object not in kept and claim.object not in desired.refused and not shown:
                    found.add((member, claim.object))
    return frozenset(found)


def _keys(tables: DesiredTables, book: ClaimBook) -> set[str]:
    keys = {audit.key for audit in tables.audits} | {one.key for one in tables.all_partitions()}
    conventions = tables.conventions
    members = {one.member for one in (*conventions.updated_at, *conventions.version)}
    members |= {one.member for one in conventions.soft_delete}
    return keys | {f"conventions:{book.resources[member]}" for member in members}


def diff_tables(
    desired: Desired, snapshot: Snapshot, book: ClaimBook, adopt: Mapping[str, bool], metadata_schema: str
) -> tuple[list[Change], list[Problem]]:
    """Changes and problems; claims what stands in ``book``. To be asked before the claims are written."""
    live, tables = snapshot.tables, desired.tables or DesiredTables()
    if live is None:
        return [], []
    left = sorted(desired.remembered.kept)
    roles = frozenset(snapshot.roles)
    # Roles and schema are made by the database's own transaction, which comes before.
    tables, held_by_others = _ours(tables, book)
    audits = [one for one in tables.audits if {one.owner, one.writer} <= roles and one.schema in snapshot.schemas]
    gone = [(member, name.removeprefix("audit:")) for member, name in left if name.startswith("audit:")]
    meant = guard_logs(desired, snapshot, book).meant
    ours = {one.key for one in audits if book.mine(one.key, one.member)}
    changes, problems = diff_audit(audits, gone, live.tables, live.audit, tables.functions, meant, ours)
    kept = [audit for audit in audits if not log_obstacle(audit, live.tables, ours)]
    logs = [log for audit in kept for log in audit.partitions() if log.table in live.partitions.tables]
    accepted = {one.key: _retention(book, one) for one in tables.all_partitions() if one.key in book.claims}
    found, trouble = diff_partitions([*tables.partitions, *logs], live.partitions, accepted)
    changes += found
    problems += [*trouble, *held_by_others]
    failed = {problem.status.ref for problem in trouble}
    held = {change.ref for change in found if change.risk is Risk.DESTRUCTIVE}
    for one in (*tables.partitions, *logs):
        # Where a shorter retention waits for approval, its claim waits with it.
        if one.ref not in failed and one.ref not in held and one.table in live.partitions.tables:
            book.want(one.key, one.member, {"retention": one.kept})
    for audit in kept:
        book.want(audit.key, audit.member, {})
    changes += _conventions(tables, left, snapshot, live, book, adopt, metadata_schema, problems)
    if not any(isinstance(change, OnTable) for change in changes):  # else what it remembers is still there
        for member, name in left:
            if name in book.claims and not name.startswith("view:"):
                changes.append(DropClaims(_ref(name), member, (name,)))
    return changes, problems


def _ours(tables: DesiredTables, book: ClaimBook) -> tuple[DesiredTables, list[Problem]]:
    """Without what a resource outside of this unit claims: the older claim holds."""
    problems: list[Problem] = []

    def free(one: DesiredAudit | DesiredPartitions) -> bool:
        holder = book.foreign(one.key)
        if holder is not None:
            problems.append(conflict(one.ref, one.member, holder, book.cluster))
        return holder is None

    audits = tuple(one for one in tables.audits if free(one))
    return replace(tables, audits=audits, partitions=tuple(one for one in tables.partitions if free(one))), problems


def ask_timescale(tables: DesiredTables | None, snapshot: Snapshot) -> DesiredTables | None:
    """What the next snapshot is to be made for, where TimescaleDB turns out to be there and was not asked yet."""
    live = snapshot.tables
    if tables is None or tables.hypertables or live is None or not live.partitions.timescale:
        return None
    return replace(tables, hypertables=True) if any(one.every for one in tables.partitions) else None


def headroom_of(desired: Desired, snapshot: Snapshot) -> dict[str, tuple[tuple[str, float], ...]]:
    """By member, for each table by time: until when, in Unix time, rows find a partition."""
    if desired.tables is None or snapshot.tables is None:
        return {}
    found: dict[str, tuple[tuple[str, float], ...]] = {}
    for one in desired.tables.all_partitions():
        for left in headroom([one], snapshot.tables.partitions):
            found[one.member] = (*found.get(one.member, ()), (".".join(left.table), left.until.timestamp()))
    return found


def _ref(name: str) -> ObjectRef:
    kind, _, rest = name.partition(":")
    return ObjectRef(kind, rest)


def _retention(book: ClaimBook, one: DesiredPartitions) -> float | None:
    value = book.claims[one.key].detail.get("retention")
    return float(value) if isinstance(value, (int, float)) else None


def _conventions(
    tables: DesiredTables,
    kept: Sequence[tuple[str, str]],
    snapshot: Snapshot,
    live: LiveTables,
    book: ClaimBook,
    adopt: Mapping[str, bool],
    metadata_schema: str,
    problems: list[Problem],
) -> list[Change]:
    conventions = tables.conventions
    owned: dict[Table, str] = {}
    ours = any(name.startswith("conventions:") for _, name in kept)
    for member in book.resources:
        for claim in book.owned("view:", member):
            schema, _, name = claim.object.removeprefix("view:").partition(".")
            owned[schema, name] = member
    if not conventions and not ours and not owned:
        return []
    members = [one.member for one in (*conventions.updated_at, *conventions.version)]
    members += [one.member for one in conventions.soft_delete]
    functions = [replace(function, owner=snapshot.me) for function in tables.convention_functions]
    changes, trouble, made = diff_conventions(
        conventions,
        live.tables,
        live.views,
        live.audit.functions,
        functions if conventions else (),
        metadata_schema,
        owned,
        adopt,
        members or list(book.resources),
    )
    problems += trouble
    for view, member in made.items():
        book.want(view_key(view), member, {})
    for member in dict.fromkeys(members):
        book.want(f"conventions:{book.resources[member]}", member, {})
    for view, member in owned.items():
        if view not in made and view not in live.views:
            changes.append(DropClaims(_ref(view_key(view)), member, (view_key(view),)))
    return changes
