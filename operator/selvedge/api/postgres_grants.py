"""``DatabaseSchema.spec.postgres``: grants and default privileges."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import StringConstraints
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
    listed,
)
from selvedge.core.names import PUBLIC


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
    "languages",
    "foreign_servers",
    "foreign_data_wrappers",
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
    """GRANT … ON TYPE: types and domains, as schema.type."""
    languages: tuple[Identifier, ...] = listed(32)
    """GRANT … ON LANGUAGE. Of trusted languages only: the others are refused."""
    foreign_servers: tuple[Identifier, ...] = listed(64)
    """GRANT … ON FOREIGN SERVER."""
    foreign_data_wrappers: tuple[Identifier, ...] = listed(32)
    """GRANT … ON FOREIGN DATA WRAPPER."""

    RULES = (
        Rule(
            f"[{', '.join(_given('self', kind) for kind in OBJECT_KINDS)}].filter(given, given).size() == 1",
            "objects needs exactly one of database, schemas, tables, tablesIn, sequences, sequencesIn, functions,"
            " functionsIn, columns, types, languages, foreignServers and foreignDataWrappers: split the grant",
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
    "languages": ("USAGE",),
    "foreign_servers": ("USAGE",),
    "foreign_data_wrappers": ("USAGE",),
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

_NO_OPTION_FOR_PUBLIC = Rule(
    "!(has(self.grantOption) && self.grantOption) || !('PUBLIC' in self.to)",
    "the grant option cannot go to PUBLIC: name roles, or remove grantOption",
    lambda self: not (self.grant_option and PUBLIC in self.to),
    path=".grantOption",
)


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
    grant_option: Bool = False
    """WITH GRANT OPTION: they may grant the privileges to others. PUBLIC cannot have it."""
    ensure: Ensure = Ensure.PRESENT
    """Absent: REVOKE."""

    RULES = (*(_privileges_rule(kind) for kind in OBJECT_KINDS), _NO_OPTION_FOR_PUBLIC)

    @property
    def to_public(self) -> bool:
        """True when everyone is among the grantees."""
        return PUBLIC in self.to


_DEFAULTS = {
    DefaultPrivilegeObjects.TABLES: _TABLE,
    DefaultPrivilegeObjects.SEQUENCES: _SEQUENCE,
    DefaultPrivilegeObjects.FUNCTIONS: ("EXECUTE",),
    DefaultPrivilegeObjects.TYPES: ("USAGE",),
    DefaultPrivilegeObjects.SCHEMAS: ("USAGE", "CREATE"),
}


def _default_rule(kind: DefaultPrivilegeObjects) -> Rule:
    allowed = _DEFAULTS[kind]
    return Rule(
        f"self.objectType != '{kind.value}' || self.privileges.all(privilege, privilege in {list(allowed)})",
        f"default privileges on {kind.value} can be {', '.join(allowed)}: remove the others",
        lambda self: self.object_type is not kind or all(privilege in allowed for privilege in self.privileges),
        path=".privileges",
    )


class DefaultPrivilege(Checked):
    """ALTER DEFAULT PRIVILEGES FOR ROLE creator, and the same privileges on what the creators own by now."""

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
    grant_option: Bool = False
    """WITH GRANT OPTION: they may grant the privileges to others. PUBLIC cannot have it."""
    ensure: Ensure = Ensure.PRESENT
    """Absent: REVOKE. What PUBLIC has by itself (EXECUTE on functions, USAGE on types) goes only without schemas."""

    RULES = (
        *(_default_rule(kind) for kind in DefaultPrivilegeObjects),
        Rule(
            "self.objectType != 'Schemas' || !has(self.schemas) || size(self.schemas) == 0",
            "schemas are in no schema: remove schemas",
            lambda self: self.object_type is not DefaultPrivilegeObjects.SCHEMAS or not self.schemas,
            path=".schemas",
        ),
        _NO_OPTION_FOR_PUBLIC,
    )
