"""From ``audit``, ``conventions`` and ``partitions`` of a declaration to the desired state; pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

from selvedge.api.postgres import PostgresDatabase
from selvedge.api.postgres_data import Audit, Conventions, PartitionBy, PartitionedTable
from selvedge.core.own_roles import AUDIT, AUDIT_WRITER, own_role
from selvedge.core.postgres.audit import DesiredAudit
from selvedge.core.postgres.conventions import ColumnTrigger, DesiredConventions, SoftDelete
from selvedge.core.postgres.model import DesiredRole, DesiredSchema
from selvedge.core.postgres.partitions import DesiredPartitions
from selvedge.core.postgres.periods import DEFAULT_AHEAD
from selvedge.core.postgres.tables import DesiredTables
from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectRef
from selvedge.engines.base import Member
from selvedge.engines.postgres import audit_sql, conventions_sql


def audit_roles(database: str) -> tuple[str, str]:
    """The role that owns a database's audit logs, and the one that may write them; nobody logs in as either."""
    return own_role(database, AUDIT), own_role(database, AUDIT_WRITER)


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


class Rest(Protocol):
    """What the compilation of everything else is asked for."""

    roles: list[DesiredRole]
    schemas: list[DesiredSchema]

    def problem(self, member: Member, ref: ObjectRef, reason: Reason, message: str) -> None:
        """Tell the member why an object is left out."""

    def take(self, member: Member, ref: ObjectRef) -> bool:
        """Whether the object is the member's to declare."""

    def reserved_schema(self, name: str) -> str:
        """Whose schema it is, where nobody may declare it."""


class TablesBuilder:
    """Audit, conventions and partitions of all members. An audit's roles and schema are declared by it."""

    def __init__(self, rest: Rest, metadata_schema: str) -> None:
        self.rest = rest
        self.metadata_schema = metadata_schema
        self.audits: list[DesiredAudit] = []
        self.conventions: list[DesiredConventions] = []
        self.partitions: list[DesiredPartitions] = []

    def add(self, member: Member, spec: PostgresDatabase) -> int:
        """Take in what a member declares; returns how many objects that is."""
        if spec.audit is not None:
            one = audit(member.uid, member.spec.database, spec.audit)
            if self._may_keep(member, one.ref, (one.schema, *one.tables_in, *(name[0] for name, _ in one.tables))):
                self._audit_objects(member, one, spec)
                self.audits.append(one)
        if spec.conventions is not None:
            setting = (spec.audit.actor_setting if spec.audit else None) or ""
            shared = conventions(member.uid, spec.conventions, setting)
            ref = ObjectRef("conventions", f"{member.namespace}/{member.name}")
            if self._may_keep(member, ref, sorted(shared.schemas())):
                self.conventions.append(shared)
        for declared in spec.partitions:
            entry = partitions(member.uid, declared)
            if self._may_keep(member, entry.ref, (entry.table[0],)):
                self.partitions.append(entry)
        return len(spec.partitions) + bool(spec.audit) + bool(spec.conventions)

    def _may_keep(self, member: Member, ref: ObjectRef, schemas: Iterable[str]) -> bool:
        for schema in schemas:
            holder = self.rest.reserved_schema(schema)
            if holder:
                message = f"{ref} is about schema {schema}, which belongs to {holder}: its tables are not yours"
                self.rest.problem(member, ref, Reason.FORBIDDEN_NAME, message)
                return False
        return self.rest.take(member, ref)

    def _audit_objects(self, member: Member, audit: DesiredAudit, spec: PostgresDatabase) -> None:
        """Whoever owns a schema can drop what is in it: so it is the audit's owner, unless the declaration says so."""
        for role, comment in ((audit.owner, "owns the audit of"), (audit.writer, "writes the audit of")):
            if self.rest.take(member, ObjectRef("role", role)) and all(one.name != role for one in self.rest.roles):
                text = f"selvedge: {comment} database {member.spec.database}"
                self.rest.roles.append(DesiredRole(member.uid, role, text))
        declared = next((one for one in spec.schemas if one.name == audit.schema), None)
        for index, schema in enumerate(self.rest.schemas):
            if schema.name == audit.schema and (declared is None or declared.owner is None):
                self.rest.schemas[index] = replace(schema, owner=audit.owner)
        if declared is None and self.rest.take(member, ObjectRef("schema", audit.schema)):
            self.rest.schemas.append(DesiredSchema(member.uid, audit.schema, audit.owner))

    def build(self) -> DesiredTables | None:
        """All of it, or None where nothing is declared."""
        if not (self.audits or self.conventions or self.partitions):
            return None
        shared = united(self.conventions)
        return DesiredTables(
            tuple(self.audits),
            {one.schema: audit_sql.functions(one) for one in self.audits},
            shared,
            conventions_sql.functions(shared, self.metadata_schema),
            tuple(self.partitions),
        )
