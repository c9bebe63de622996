"""What changes of row-level security, and of what is kept on tables, replace."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from selvedge.core.postgres import audit_changes as a
from selvedge.core.postgres import conventions as v
from selvedge.core.postgres import partition_changes as p
from selvedge.core.postgres import rls_changes as r
from selvedge.core.postgres.change import Change
from selvedge.core.postgres.partitions import Hypertable
from selvedge.core.postgres.preimage_state import State, fingerprint
from selvedge.core.postgres.rls_changes import RowPolicy
from selvedge.core.postgres.triggers import DropTrigger, Function, PutFunction, PutTrigger, Trigger


def _policy(found: RowPolicy | None) -> str:
    if found is None:
        return ""
    words = ["permissive" if found.permissive else "restrictive", found.command, "to " + ", ".join(found.roles)]
    words += [f"using ({found.using})"] if found.using is not None else []
    words += [f"with check ({found.check})"] if found.check is not None else []
    return " ".join(words)


def _table_policy(state: State, change: r.AlterPolicy | r.DropPolicy) -> str:
    table = state.table(change.key)
    if table is None:
        return ""
    partition = getattr(change, "partition", None)
    if partition is not None:
        names = [", ".join(sorted(one.policies)) for one in table.partitions if one.key == partition]
        return f"policies {names[0]}" if names else ""
    return _policy(table.policies.get(change.name))


def _row_security(state: State, change: r.RowSecurityChange) -> str:
    table = state.table(change.key)
    if table is None:
        return ""
    if isinstance(change, r.ClosePartition):
        found = [one for one in table.partitions if one.key == change.partition]
        return f"enabled {found[0].enabled}, forced {found[0].forced}, owner {found[0].owner}" if found else ""
    if isinstance(change, r.ForceRowSecurity):
        return f"forced {table.forced}, owner {table.owner}"
    return f"enabled {table.enabled}, owner {table.owner}"


def _trigger(found: Trigger | None) -> str:
    return "" if found is None else f"trigger ({fingerprint(found)})"


def _table_trigger(state: State, change: PutTrigger | DropTrigger) -> str:
    name = change.trigger.name if isinstance(change, PutTrigger) else change.trigger
    tables = state.snapshot.tables
    if tables is None:
        return ""
    table, view = tables.tables.get(change.table), tables.views.get(change.table)
    if table is not None or view is not None:
        triggers = table.triggers if table is not None else view.triggers if view is not None else {}
        return _trigger(triggers.get(name))
    inside = (one.partitions.get(change.table) for one in tables.tables.values())
    return next((_trigger(triggers.get(name)) for triggers in inside if triggers is not None), "")


def _function(state: State, change: PutFunction) -> str:
    tables = state.snapshot.tables
    found: Function | None = tables.audit.functions.get(change.table) if tables is not None else None
    return "" if found is None else f"function of {found.owner} ({fingerprint(_function_state(found))})"


def _view(state: State, change: v.PutView | v.DropView) -> str:
    tables = state.snapshot.tables
    found = tables.views.get(change.table) if tables is not None else None
    return "" if found is None else f"view of {found.owner}: {found.definition}"


def _log_owner(state: State, change: a.OwnLog) -> str:
    tables = state.snapshot.tables
    owner = tables.audit.owners.get(change.table, {}).get(change.relation) if tables is not None else None
    return f"owner {owner}" if owner is not None else ""


def _log_access(state: State, change: a.ProtectLog | a.LetWrite) -> str:
    grantee = change.grantee if isinstance(change, a.ProtectLog) else change.writer
    relation, column = (change.relation, change.column) if isinstance(change, a.ProtectLog) else (change.table, "")
    tables = state.snapshot.tables
    access = tables.audit.access.get(change.table, ()) if tables is not None else ()
    held = sorted(
        one.privilege + ("*" if one.grantable else "")
        for one in access
        if (one.relation, one.column, one.grantee) == (relation, column, grantee)
    )
    return f"{grantee}: {', '.join(held) or 'nothing'}"


def _log_hook(state: State, change: a.DropHook) -> str:
    tables = state.snapshot.tables
    hooks = tables.audit.hooks.get(change.table, ()) if tables is not None else ()
    wanted = (change.relation, change.kind, change.name)
    return next((one.definition for one in hooks if (one.relation, one.kind, one.name) == wanted), "")


def _log_member(state: State, change: a.ExpelMember) -> str:
    return f"{change.grantee} is a member"


def _dropped_partitions(state: State, change: p.DropPartitions) -> str:
    table = state.partitioned(change.table)
    known = {(one.schema, one.name): one for one in table.partitions} if table is not None else {}
    parts = []
    for schema, name, _ in change.partitions:
        one = known.get((schema, name))
        if one is not None and one.range is not None:
            bounds = f"from {one.range.start.isoformat()} to {one.range.end.isoformat()}"
            parts.append(f"{schema}.{name} {bounds}, oid {one.oid}")
    return "; ".join(parts)


def _being_detached(state: State, change: p.FinalizeDetach | p.FinishDrop) -> str:
    pending = isinstance(change, p.FinalizeDetach) or change.pending
    return "being detached" if pending else "detached, since it is older than the retention"


def _accepted(state: State, change: p.AcceptRetention) -> str:
    claim = state.snapshot.claims.get(change.key)
    kept = claim.detail.get("retention") if claim is not None else None
    return f"kept for {kept} s" if kept is not None else "kept for ever"


def _hypertable(state: State, change: p.SetChunkInterval | p.SetRetentionPolicy) -> str:
    table = state.partitioned(change.table)
    found: Hypertable | None = table.hypertable if table is not None else None
    return "" if found is None else f"chunks of {found.interval:.0f} s, kept for {found.retention}"


def _function_state(found: Function) -> tuple[object, ...]:
    """All of it, in one order."""
    return (found.name, found.source, found.definer, found.public, found.pinned, sorted(found.executors))


#: By the class of the change; empty where nothing was there.
TABLES: Mapping[type[Change], Callable[[State, Any], str]] = {
    r.AlterPolicy: _table_policy,
    r.DropPolicy: _table_policy,
    r.EnableRowSecurity: _row_security,
    r.ForceRowSecurity: _row_security,
    r.ClosePartition: _row_security,
    PutTrigger: _table_trigger,
    DropTrigger: _table_trigger,
    PutFunction: _function,
    v.PutView: _view,
    v.DropView: _view,
    a.OwnLog: _log_owner,
    a.ProtectLog: _log_access,
    a.LetWrite: _log_access,
    a.ExpelMember: _log_member,
    a.DropHook: _log_hook,
    p.DropPartitions: _dropped_partitions,
    p.FinalizeDetach: _being_detached,
    p.FinishDrop: _being_detached,
    p.AcceptRetention: _accepted,
    p.SetChunkInterval: _hypertable,
    p.SetRetentionPolicy: _hypertable,
}
