"""``DatabaseSchema.spec.postgres``: extensions, schemas, roles and grants of one Postgres database."""

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
    Text,
    listed,
)
from selvedge.api.postgres_data import (
    Audit,
    Conventions,
    PartitionedTable,
    RowLevelSecurity,
)
from selvedge.api.postgres_grants import DefaultPrivilege, Grant
from selvedge.api.settings import SETTINGS_MARK, SettingValue, settings_are_allowed
from selvedge.core.postgres.role_attributes import instant

Settings = Annotated[
    dict[Annotated[str, StringConstraints(min_length=1, max_length=127)], SettingValue],
    Field(max_length=64, json_schema_extra=SETTINGS_MARK),
    AfterValidator(settings_are_allowed),
]
"""Configuration settings: text, or a list of texts for settings that are lists (search_path)."""


class GrantMode(StrEnum):
    """What happens with privileges that nobody declared."""

    ADDITIVE = "Additive"
    AUTHORITATIVE = "Authoritative"


def _instant(value: str) -> str:
    try:
        instant(value)
    except ValueError:
        raise ValueError("not a time: write 2027-01-01T00:00:00Z, with its time zone, or infinity") from None
    return value


ValidUntil = Annotated[
    str,
    StringConstraints(
        max_length=40, pattern=r"^(infinity|\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,6})?(Z|[+-]\d{2}:\d{2}))$"
    ),
    AfterValidator(_instant),
]
"""A point in time with its zone, or ``infinity``."""


class Extension(Model):
    """CREATE EXTENSION."""

    name: Identifier
    """Name of the extension."""
    schema_name: SchemaName | None = Field(default=None, alias="schema")
    """CREATE EXTENSION … SCHEMA; the extension's own choice where it is left out."""
    version: Annotated[str, StringConstraints(max_length=63)] = ""
    """CREATE EXTENSION … VERSION, and ALTER EXTENSION … UPDATE TO. Where it is empty, the server's default at first,
    left as it is afterwards."""
    optional: Bool = False
    """Without the extension's files on the server the rest becomes Ready all the same, with a piece of advice."""
    ensure: Ensure = Ensure.PRESENT
    """Absent: DROP EXTENSION."""


class PostgresSchema(Model):
    """CREATE SCHEMA."""

    name: SchemaName
    """Name of the schema."""
    owner: Identifier | None = None
    """ALTER SCHEMA … OWNER TO; the database's owner where it is left out."""
    comment: Text | None = None
    """COMMENT ON SCHEMA; not looked at where it is left out."""
    ensure: Ensure = Ensure.PRESENT
    """Absent: DROP SCHEMA, if it is empty."""
    renamed_from: SchemaName | None = None
    """ALTER SCHEMA … RENAME TO: the name that it had before."""


class Membership(Model):
    """GRANT role TO member."""

    role: Identifier
    """The role whose member this one is."""
    inherit: Bool = True
    """WITH INHERIT: it has the role's privileges without SET ROLE. Postgres 16 and later; before, a property of the
    member."""
    set: Bool = True
    """WITH SET: it may become the role by SET ROLE. Postgres 16 and later."""
    admin: Bool = False
    """WITH ADMIN: it may grant the role to others, and take it from them."""


class PostgresRole(Checked):
    """CREATE ROLE … NOLOGIN: a group that privileges are granted to. Logins are DatabaseUsers."""

    name: Identifier
    """Name of the role; pg_*, public and none are refused."""
    comment: Text | None = None
    """COMMENT ON ROLE; not looked at where it is left out."""
    member_of: tuple[Membership, ...] = listed(64, "role")
    """GRANT … TO this role."""
    settings: Settings = Field(default_factory=dict)
    """ALTER ROLE … SET: of context user, or with a prefix of your own (app.tenant). Read when the role logs in."""
    database_settings: Settings = Field(default_factory=dict)
    """ALTER ROLE … IN DATABASE … SET: in this database only; they outrank settings."""
    inherit: Bool | None = None
    """INHERIT or NOINHERIT: before Postgres 16, whether it has the privileges of the roles that it is a member of; from
    then on only what later memberships say. Not looked at where it is left out."""
    connection_limit: Annotated[Int, Field(ge=-1, le=262143)] | None = None
    """CONNECTION LIMIT; -1 is none. Not looked at where it is left out."""
    valid_until: ValidUntil | None = None
    """VALID UNTIL: until when a password is good, as 2027-01-01T00:00:00Z, or infinity. Not looked at where it is left
    out."""
    ensure: Ensure = Ensure.PRESENT
    """Absent: DROP ROLE. What it owns goes to the database's owner."""
    renamed_from: Identifier | None = None
    """ALTER ROLE … RENAME TO: the name that it had before."""

    RULES = (
        Rule(
            "!self.name.lowerAscii().startsWith('pg_')",
            "names that begin with pg_ belong to Postgres: choose another name",
            lambda self: not self.name.lower().startswith("pg_"),
            path=".name",
        ),
        Rule(
            "!(self.name.lowerAscii() in ['public', 'none'])",
            "public and none are words of SQL and no roles: choose another name",
            lambda self: self.name.lower() not in ("public", "none"),
            path=".name",
        ),
    )


class PostgresDatabase(Checked):
    """What is in a Postgres database."""

    owner: Identifier | None = None
    """ALTER DATABASE … OWNER TO; the operator's login where it is left out."""
    settings: Settings = Field(default_factory=dict)
    """ALTER DATABASE … SET: of context user, or with a prefix of your own (app.tenant)."""
    extensions: tuple[Extension, ...] = listed(64, "name")
    """CREATE EXTENSION."""
    schemas: tuple[PostgresSchema, ...] = listed(200, "name")
    """CREATE SCHEMA. Declaring public takes its owner and comment over, not its privileges."""
    roles: tuple[PostgresRole, ...] = listed(200, "name")
    """CREATE ROLE … NOLOGIN. Roles are shared by all databases of a server."""
    grant_mode: GrantMode = GrantMode.ADDITIVE
    """Additive: only declared privileges are looked at. Authoritative: what else the declared roles have in the
    declared schemas is revoked."""
    grants: tuple[Grant, ...] = listed(500, "name")
    """GRANT."""
    default_privileges: tuple[DefaultPrivilege, ...] = listed(200, "name")
    """ALTER DEFAULT PRIVILEGES."""
    row_level_security: tuple[RowLevelSecurity, ...] = listed(200, "table")
    """ALTER TABLE … ENABLE ROW LEVEL SECURITY, and CREATE POLICY."""
    audit: Audit | None = None
    """Triggers that write each change of a row into a table."""
    conventions: Conventions | None = None
    """Triggers and views that many tables share."""
    partitions: tuple[PartitionedTable, ...] = listed(200, "table")
    """CREATE TABLE … PARTITION OF, ahead of time, and DETACH of what is older than its retention."""
