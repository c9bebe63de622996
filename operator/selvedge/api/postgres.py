"""``DatabaseSchema.spec.postgres``: extensions, schemas, roles and grants of one Postgres database."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints
from pydantic.alias_generators import to_camel

from selvedge.api.base import (
    Bool,
    Checked,
    Ensure,
    FunctionName,
    Identifier,
    Model,
    Rule,
    SchemaName,
    TableName,
    Text,
    listed,
)
from selvedge.api.postgres_data import (
    Audit,
    Conventions,
    PartitionedTable,
    RowLevelSecurity,
)
from selvedge.api.settings import SETTINGS_MARK, SettingValue, settings_are_allowed
from selvedge.core.names import PUBLIC

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


class Privilege(StrEnum):
    """A privilege in SQL's own word."""

    SELECT = "SELECT"
    INSERT = "INSERT"
    UPDATE = "UPDATE"
    DELETE = "DELETE"
    TRUNCATE = "TRUNCATE"
    REFERENCES = "REFERENCES"
    TRIGGER = "TRIGGER"
    MAINTAIN = "MAINTAIN"
    USAGE = "USAGE"
    CREATE = "CREATE"
    CONNECT = "CONNECT"
    TEMPORARY = "TEMPORARY"
    EXECUTE = "EXECUTE"


class DefaultPrivilegeObjects(StrEnum):
    """What default privileges are for."""

    TABLES = "Tables"
    SEQUENCES = "Sequences"
    FUNCTIONS = "Functions"
    TYPES = "Types"
    SCHEMAS = "Schemas"


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


class PostgresRole(Checked):
    """CREATE ROLE … NOLOGIN: a group that privileges are granted to. Logins are DatabaseUsers."""

    name: Identifier
    """Name of the role; pg_*, public and none are refused."""
    comment: Text | None = None
    """COMMENT ON ROLE; not looked at where it is left out."""
    member_of: tuple[Membership, ...] = listed(64, "role")
    """GRANT … TO this role."""
    settings: Settings = Field(default_factory=dict)
    """ALTER ROLE … IN DATABASE … SET: of context user, or with a prefix of your own (app.tenant)."""
    ensure: Ensure = Ensure.PRESENT
    """Absent: DROP ROLE, if it owns nothing."""
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


class ColumnSet(Model):
    """Some columns of one table."""

    table: TableName
    """The table, as schema.table."""
    columns: tuple[Identifier, ...] = listed(200, min_items=1, default=...)
    """Its columns."""


OBJECT_KINDS = (
    "database",
    "schemas",
    "tables",
    "tables_in",
    "sequences",
    "sequences_in",
    "functions",
    "functions_in",
    "columns",
    "types",
)
"""The attributes of :class:`GrantObjects`, of which exactly one is given."""


def _given(owner: str, kind: str) -> str:
    """CEL: ``owner`` has this kind of object."""
    field = f"{owner}.{to_camel(kind)}"
    return f"has({field}) && {field}" if kind == "database" else f"has({field}) && size({field}) > 0"


class GrantObjects(Checked):
    """What a grant is on: exactly one of these."""

    database: Bool = False
    """GRANT … ON DATABASE: this one."""
    schemas: tuple[SchemaName, ...] = listed(200)
    """GRANT … ON SCHEMA."""
    tables: tuple[TableName, ...] = listed(500)
    """GRANT … ON TABLE: tables, views and materialized views, as schema.table."""
    tables_in: tuple[SchemaName, ...] = listed(200)
    """GRANT … ON TABLE for each table of these schemas, later ones too; partitions are left out."""
    sequences: tuple[TableName, ...] = listed(500)
    """GRANT … ON SEQUENCE, as schema.sequence."""
    sequences_in: tuple[SchemaName, ...] = listed(200)
    """GRANT … ON SEQUENCE for each sequence of these schemas, later ones too."""
    functions: tuple[FunctionName, ...] = listed(500)
    """GRANT … ON ROUTINE, as schema.function(type, type)."""
    functions_in: tuple[SchemaName, ...] = listed(200)
    """GRANT … ON ROUTINE for each function and procedure of these schemas, later ones too."""
    columns: tuple[ColumnSet, ...] = listed(200, "table")
    """GRANT privilege (column, …) ON TABLE."""
    types: tuple[TableName, ...] = listed(200)
    """GRANT … ON TYPE, as schema.type."""

    RULES = (
        Rule(
            f"[{', '.join(_given('self', kind) for kind in OBJECT_KINDS)}].filter(given, given).size() == 1",
            "objects needs exactly one of database, schemas, tables, tablesIn, sequences, sequencesIn, functions,"
            " functionsIn, columns and types: split the grant",
            lambda self: sum(1 for kind in OBJECT_KINDS if getattr(self, kind)) == 1,
        ),
    )

    @property
    def kind(self) -> str:
        """The attribute that is given: ``database``, ``tables_in`` and so on."""
        return next(kind for kind in OBJECT_KINDS if getattr(self, kind))


_TABLE = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER", "MAINTAIN")
_SEQUENCE = ("USAGE", "SELECT", "UPDATE")
PRIVILEGES: dict[str, tuple[str, ...]] = {
    "database": ("CREATE", "CONNECT", "TEMPORARY"),
    "schemas": ("USAGE", "CREATE"),
    "tables": _TABLE,
    "tables_in": _TABLE,
    "sequences": _SEQUENCE,
    "sequences_in": _SEQUENCE,
    "functions": ("EXECUTE",),
    "functions_in": ("EXECUTE",),
    "columns": ("SELECT", "INSERT", "UPDATE", "REFERENCES"),
    "types": ("USAGE",),
}
"""The privileges that each kind of object has."""


def _privileges_rule(kind: str) -> Rule:
    allowed = PRIVILEGES[kind]
    return Rule(
        f"!({_given('self.objects', kind)}) || self.privileges.all(privilege, privilege in {list(allowed)})",
        f"privileges on {to_camel(kind)} can be {', '.join(allowed)}: remove the others",
        lambda self: not getattr(self.objects, kind) or all(privilege in allowed for privilege in self.privileges),
        path=".privileges",
    )


Grantee = Identifier
"""A role, or PUBLIC for everyone."""


class Grant(Checked):
    """GRANT privileges ON objects TO roles."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=63)]
    """A name of your own for this grant; messages use it."""
    privileges: tuple[Privilege, ...] = listed(13, min_items=1, default=...)
    """The privileges, in SQL's words."""
    objects: GrantObjects
    """What they are on."""
    to: tuple[Grantee, ...] = listed(64, min_items=1, default=...)
    """Roles, or PUBLIC for everyone. They need not be declared here."""
    ensure: Ensure = Ensure.PRESENT
    """Absent: REVOKE."""

    RULES = tuple(_privileges_rule(kind) for kind in OBJECT_KINDS)

    @property
    def to_public(self) -> bool:
        """True when everyone is among the grantees."""
        return PUBLIC in self.to


class DefaultPrivilege(Model):
    """ALTER DEFAULT PRIVILEGES FOR ROLE creator."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=63)]
    """A name of your own; messages use it."""
    creators: tuple[Identifier, ...] = listed(64, min_items=1, default=...)
    """FOR ROLE: whose new objects get the privileges."""
    schemas: tuple[SchemaName, ...] = listed(200)
    """IN SCHEMA; in all of them where it is empty."""
    object_type: DefaultPrivilegeObjects
    """ON TABLES, SEQUENCES, FUNCTIONS, TYPES or SCHEMAS."""
    privileges: tuple[Privilege, ...] = listed(13, min_items=1, default=...)
    """The privileges, in SQL's words."""
    to: tuple[Grantee, ...] = listed(64, min_items=1, default=...)
    """Roles, or PUBLIC for everyone."""
    ensure: Ensure = Ensure.PRESENT
    """Absent: REVOKE."""


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
