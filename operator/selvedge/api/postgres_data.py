"""``DatabaseSchema.spec.postgres``, the parts that concern rows: row-level security, audit, conventions, partitions."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

from selvedge.api.base import (
    Bool,
    Checked,
    Ensure,
    Identifier,
    Int,
    Model,
    Rule,
    SchemaName,
    Seconds,
    TableName,
    Text,
    listed,
)


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError(f"{value!r} holds a character that cannot be seen, which no setting's name does: remove it")
    return value


SettingName = Annotated[str, StringConstraints(min_length=1, max_length=127), AfterValidator(_printable)]
Expression = Annotated[str, StringConstraints(min_length=1, max_length=4096)]


class PolicyCommand(StrEnum):
    """CREATE POLICY … FOR."""

    ALL = "All"
    SELECT = "Select"
    INSERT = "Insert"
    UPDATE = "Update"
    DELETE = "Delete"


class PolicyMode(StrEnum):
    """CREATE POLICY … AS."""

    PERMISSIVE = "Permissive"
    RESTRICTIVE = "Restrictive"


class Sees(StrEnum):
    """Which rows a role is expected to see."""

    ALL = "All"
    NONE = "None"


class Period(StrEnum):
    """A stretch of the calendar, in UTC."""

    HOUR = "Hour"
    DAY = "Day"
    WEEK = "Week"
    MONTH = "Month"
    YEAR = "Year"


class PartitionBy(StrEnum):
    """How a table is partitioned."""

    TIME = "Time"
    HASH = "Hash"


class Policy(Checked):
    """CREATE POLICY."""

    name: Identifier
    """Name of the policy."""
    command: PolicyCommand = PolicyCommand.ALL
    """FOR."""
    mode: PolicyMode = PolicyMode.PERMISSIVE
    """AS."""
    to: tuple[Identifier, ...] = listed(64, min_items=1, default=...)
    """TO: roles, or PUBLIC for everyone."""
    using: Expression | None = None
    """USING: an SQL expression; rows for which it is true are seen."""
    with_check: Expression | None = None
    """WITH CHECK: an SQL expression; rows for which it is true may be written. As using where it is left out."""
    ensure: Ensure = Ensure.PRESENT
    """Absent: DROP POLICY."""

    RULES = (
        Rule(
            "has(self.using) || has(self.withCheck) || (has(self.ensure) && self.ensure == 'Absent')",
            "a policy needs using or withCheck: write the expression",
            lambda self: bool(self.using or self.with_check) or self.ensure is Ensure.ABSENT,
        ),
    )


class TenantProbe(Model):
    """Log in as two tenants and see that neither finds the other's rows."""

    column: Identifier
    """Column that holds the tenant; two values of it are sampled."""
    setting: SettingName
    """Setting from which the policy takes the tenant."""
    role: Identifier
    """Role that the probe becomes."""
    writes: Bool = False
    """Also try INSERT, UPDATE and DELETE; rolled back."""


class Expectation(Model):
    """How many rows a role sees."""

    role: Identifier
    """Role that the probe becomes."""
    sees: Sees
    """All: as many as there are. None: none."""


class Probes(Checked):
    """Attempts that prove a policy."""

    tenant: TenantProbe | None = None
    """Two tenants, sampled from the table."""
    expect: tuple[Expectation, ...] = listed(64, "role")
    """What roles see."""


class RowLevelSecurity(Checked):
    """Row-level security of one table."""

    table: TableName
    """The table, as schema.table; ALTER TABLE … ENABLE ROW LEVEL SECURITY."""
    force: Bool = False
    """FORCE ROW LEVEL SECURITY: for the table's owner too."""
    policies: tuple[Policy, ...] = listed(50, "name")
    """Its policies; others are drift."""
    probes: Probes | None = None
    """What is tried after each change."""


class AuditedTable(Model):
    """A table whose changes are written down."""

    table: TableName
    """The table, as schema.table."""
    exclude: tuple[Identifier, ...] = listed(200)
    """Columns whose values are never written down."""


class Audit(Checked):
    """Triggers that write each change of a row into a table that only grows."""

    schema_name: SchemaName = Field(alias="schema")
    """Schema of the audit's tables."""
    every: Period = Period.MONTH
    """Length of a partition of the audit's table."""
    retention: Seconds | None = None
    """Age at which a partition is dropped; never where it is left out. Shortening it is destructive."""
    legal_hold: Bool = False
    """While true nothing is dropped, whatever its age. Lifting it is as destructive as a shorter retention."""
    actor_setting: SettingName | None = None
    """Setting that names the person for whom the application acts."""
    tables: tuple[AuditedTable, ...] = listed(500, "table")
    """Tables whose changes are written down."""
    tables_in: tuple[SchemaName, ...] = listed(200)
    """Schemas all tables of which are, later ones too."""
    application_log: Bool = False
    """Also a table that applications write their own events into."""


class UpdatedAt(Model):
    """BEFORE UPDATE trigger that sets a column to clock_timestamp(), where the row differs."""

    column: Identifier = "updated_at"
    """The column."""
    tables_in: tuple[SchemaName, ...] = listed(200, min_items=1, default=...)
    """Schemas in which each table with that column gets the trigger."""


class RowVersion(Model):
    """BEFORE UPDATE trigger that counts a column up, where the row differs."""

    column: Identifier = "version"
    """The column."""
    tables_in: tuple[SchemaName, ...] = listed(200, min_items=1, default=...)
    """Schemas in which each table with that column gets the trigger."""


class SoftDelete(Model):
    """Views of the rows that are not marked as deleted; DELETE on a view marks the row."""

    column: Identifier = "deleted_at"
    """The column that marks a row."""
    by_column: Identifier | None = None
    """The column that names who did it: the audit's actorSetting, where that is declared."""
    views: Text = "active_{table}"
    """Name of each view; {table} is the table's."""
    tables_in: tuple[SchemaName, ...] = listed(200, min_items=1, default=...)
    """Schemas in which each table with that column gets a view."""


class Conventions(Model):
    """What many tables share."""

    updated_at: UpdatedAt | None = None
    """The time of the last change."""
    version: RowVersion | None = None
    """A number that each change counts up."""
    soft_delete: SoftDelete | None = None
    """Rows that are marked as deleted instead of being deleted."""


class PartitionedTable(Checked):
    """Partitions that are made ahead of time and taken away when they are old."""

    table: TableName
    """The partitioned table, as schema.table; a migration makes it."""
    by: PartitionBy
    """Time: PARTITION BY RANGE. Hash: PARTITION BY HASH."""
    column: Identifier
    """Column of the partition key."""
    every: Period | None = None
    """With Time: length of a partition."""
    ahead: Annotated[Int, Field(ge=1, le=1000)] | None = None
    """With Time: partitions that exist beyond the present one; by default 72 hours, 7 days, 4 weeks, 3 months or 2
    years."""
    retention: Seconds | None = None
    """With Time: age at which a partition is detached and dropped; never where it is left out. Shortening it is
    destructive."""
    count: Annotated[Int, Field(ge=1, le=1024)] | None = None
    """With Hash: number of partitions (MODULUS)."""
    legal_hold: Bool = False
    """While true nothing is dropped, whatever its age. Lifting it is as destructive as a shorter retention."""

    RULES = (
        Rule(
            "self.by == 'Time' ? has(self.every) && !has(self.count)"
            " : has(self.count) && !has(self.every) && !has(self.ahead) && !has(self.retention)",
            "by: Time needs every, and may have ahead and retention; by: Hash needs count and nothing else",
            lambda self: (
                self.every is not None and self.count is None
                if self.by is PartitionBy.TIME
                else self.count is not None and self.every is None and self.ahead is None and self.retention is None
            ),
        ),
    )
