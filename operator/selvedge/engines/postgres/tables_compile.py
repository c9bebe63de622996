"""From ``audit``, ``conventions`` and ``partitions`` of a declaration to the desired state; pure."""

from __future__ import annotations

from selvedge.api.postgres_data import Audit, Conventions, PartitionBy, PartitionedTable
from selvedge.core.names import shorten
from selvedge.core.postgres.audit import DesiredAudit
from selvedge.core.postgres.conventions import ColumnTrigger, DesiredConventions, SoftDelete
from selvedge.core.postgres.partitions import DesiredPartitions
from selvedge.core.postgres.periods import DEFAULT_AHEAD
from selvedge.core.unit import ObjectRef


def audit_roles(database: str) -> tuple[str, str]:
    """The role that owns a database's audit logs, and the one that may write them; nobody logs in as either."""
    return shorten(database, "_audit"), shorten(database, "_audit_writer")


def audit(member: str, database: str, declared: Audit) -> DesiredAudit:
    """The audit of a member (its uid)."""
    owner, writer = audit_roles(database)
    return DesiredAudit(
        member,
        declared.schema_name,
        owner,
        writer,
        declared.every.value,
        DEFAULT_AHEAD[declared.every.value],
        declared.retention,
        declared.legal_hold,
        declared.actor_setting or "",
        tuple((_pair(table.table), table.exclude) for table in declared.tables),
        declared.tables_in,
        declared.application_log,
    )


def conventions(member: str, declared: Conventions, actor_setting: str) -> DesiredConventions:
    """The conventions of a member; ``actor_setting`` is its audit's."""
    updated, version, soft = declared.updated_at, declared.version, declared.soft_delete
    return DesiredConventions(
        (ColumnTrigger(member, updated.column, updated.tables_in),) if updated else (),
        (ColumnTrigger(member, version.column, version.tables_in),) if version else (),
        (SoftDelete(member, soft.column, soft.tables_in, soft.by_column or "", soft.views, actor_setting),)
        if soft
        else (),
    )


def united(every: list[DesiredConventions]) -> DesiredConventions:
    """Those of all members, the oldest first."""
    return DesiredConventions(
        tuple(one for each in every for one in each.updated_at),
        tuple(one for each in every for one in each.version),
        tuple(one for each in every for one in each.soft_delete),
    )


def partitions(member: str, declared: PartitionedTable) -> DesiredPartitions:
    """One entry of a member."""
    ref = ObjectRef("partitions", declared.table)
    if declared.by is PartitionBy.HASH:
        return DesiredPartitions(member, ref, _pair(declared.table), declared.column, count=declared.count or 1)
    every = declared.every.value if declared.every else "Month"
    return DesiredPartitions(
        member,
        ref,
        _pair(declared.table),
        declared.column,
        every,
        declared.ahead if declared.ahead is not None else DEFAULT_AHEAD[every],
        declared.retention,
        hold=declared.legal_hold,
    )


def _pair(name: str) -> tuple[str, str]:
    schema, _, table = name.partition(".")
    return schema, table
