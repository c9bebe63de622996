"""Frozen data: the desired state compiled from all DatabaseSchemas of a database, and the snapshot of the live one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from selvedge.core.names import PUBLIC as PUBLIC
from selvedge.core.postgres.change import Problem as Problem
from selvedge.core.postgres.default_privileges import DesiredDefault as DesiredDefault
from selvedge.core.postgres.default_privileges import LiveDefaults as LiveDefaults
from selvedge.core.postgres.retirement import Elsewhere as Elsewhere
from selvedge.core.postgres.retirement import Holdings, Owner
from selvedge.core.postgres.role_attributes import DesiredAttributes, LiveAttributes
from selvedge.core.unit import ObjectRef

if TYPE_CHECKING:
    from selvedge.core.postgres.rls_changes import TableKey
    from selvedge.core.postgres.rls_model import DesiredRowSecurity, TableState
    from selvedge.core.postgres.tables import DesiredTables, LiveTables

#: What ``ALL`` means for each kind of object; MAINTAIN exists from Postgres 17 on.
ALL_PRIVILEGES: Mapping[str, frozenset[str]] = {
    "database": frozenset({"CREATE", "CONNECT", "TEMPORARY"}),
    "schema": frozenset({"USAGE", "CREATE"}),
    "table": frozenset({"SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"}),
    "sequence": frozenset({"USAGE", "SELECT", "UPDATE"}),
    "function": frozenset({"EXECUTE"}),
    "column": frozenset({"SELECT", "INSERT", "UPDATE", "REFERENCES"}),
    "type": frozenset({"USAGE"}),
    "language": frozenset({"USAGE"}),
    "server": frozenset({"USAGE"}),
    "wrapper": frozenset({"USAGE"}),
}


@dataclass(frozen=True, slots=True)
class Membership:
    """``role`` is what the declared role becomes a member of; the options exist on the server from Postgres 16 on."""

    role: str
    admin: bool = False
    inherit: bool = True
    set: bool = True


@dataclass(frozen=True, slots=True)
class DesiredRole:
    """A group role (NOLOGIN). ``settings`` are what ``ALTER ROLE … SET`` stores: text, lists joined by the renderer.

    ``database_settings`` are those of the unit's database alone.
    """

    member: str
    name: str
    comment: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    memberships: tuple[Membership, ...] = ()
    absent: bool = False
    database_settings: Mapping[str, str] = field(default_factory=dict)
    attributes: DesiredAttributes = field(default_factory=DesiredAttributes)
    renamed_from: str | None = None


@dataclass(frozen=True, slots=True)
class DesiredSchema:
    """A schema; ``owner`` None leaves the owner alone."""

    member: str
    name: str
    owner: str | None = None
    comment: str | None = None
    absent: bool = False
    renamed_from: str | None = None


@dataclass(frozen=True, slots=True)
class DesiredExtension:
    """An extension; ``schema`` None means wherever the control file says, else public."""

    member: str
    name: str
    schema: str | None = None
    version: str | None = None
    optional: bool = False
    absent: bool = False


@dataclass(frozen=True, slots=True)
class DesiredDatabase:
    """The database itself; belongs to the member that claims it first."""

    member: str
    name: str
    owner: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GrantTarget:
    """The objects of one grant, unexpanded; exactly one of the fields is set (the API's rule).

    ``tables``, ``sequences``, ``types`` and ``columns`` are (schema, name) pairs; ``functions`` are signatures as
    written. ``languages``, ``servers`` and ``wrappers`` stand in no schema.
    """

    database: bool = False
    schemas: tuple[str, ...] = ()
    tables: tuple[tuple[str, str], ...] = ()
    tables_in: tuple[str, ...] = ()
    sequences: tuple[tuple[str, str], ...] = ()
    sequences_in: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    functions_in: tuple[str, ...] = ()
    columns: tuple[tuple[str, str, tuple[str, ...]], ...] = ()
    types: tuple[tuple[str, str], ...] = ()
    languages: tuple[str, ...] = ()
    servers: tuple[str, ...] = ()
    wrappers: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """The kind of object whose privileges are meant, as in :data:`ALL_PRIVILEGES`."""
        found = {
            "database": self.database,
            "schema": self.schemas,
            "table": self.tables or self.tables_in,
            "sequence": self.sequences or self.sequences_in,
            "column": self.columns,
            "type": self.types,
            "language": self.languages,
            "server": self.servers,
            "wrapper": self.wrappers,
        }
        return next((kind for kind, given in found.items() if given), "function")

    @property
    def names(self) -> tuple[str, ...]:
        """The objects that stand in no schema."""
        return (*self.languages, *self.servers, *self.wrappers)

    def schema_names(self) -> frozenset[str]:
        """Every schema that the grant names or has objects in."""
        names = {*self.schemas, *self.tables_in, *self.sequences_in, *self.functions_in}
        names.update(pair[0] for pair in (*self.tables, *self.sequences, *self.types))
        names.update(column[0] for column in self.columns)
        names.update(signature.partition("(")[0].partition(".")[0] for signature in self.functions)
        return frozenset(names)


@dataclass(frozen=True, slots=True)
class DesiredGrant:
    """One entry of ``spec.postgres.grants``; ``absent`` means that the privileges must not be there."""

    member: str
    name: str
    privileges: frozenset[str]
    target: GrantTarget
    to: tuple[str, ...]
    absent: bool = False
    grantable: bool = False

    @property
    def ref(self) -> ObjectRef:
        """The grant as statuses name it."""
        return ObjectRef("grant", self.name)


@dataclass(frozen=True, slots=True)
class AuthoritativeScope:
    """``grantMode: Authoritative`` of one member: nothing but what is declared, for these roles in these schemas."""

    member: str
    roles: frozenset[str]
    schemas: frozenset[str]


@dataclass(frozen=True, slots=True)
class Remembered:
    """What claims say was declared before and is not any more: the snapshot shows it, so that it can be taken away."""

    roles: frozenset[str] = frozenset()
    schemas: frozenset[str] = frozenset()
    grants: tuple[DesiredGrant, ...] = ()
    #: Those of the roles that are to be dropped: nothing is granted to them any more.
    dropped: frozenset[str] = frozenset()
    #: The same with the uid of the member whose each was.
    retiring: frozenset[tuple[str, str]] = frozenset()
    defaults: tuple[DesiredDefault, ...] = ()
    #: Tables whose row-level security was declared.
    tables: frozenset[TableKey] = frozenset()
    #: (member, claim) of audits, conventions, views and partitions.
    kept: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Desired:
    """What all members of a unit of work declare together. Conflicts between members are left out already."""

    database: DesiredDatabase
    extensions: tuple[DesiredExtension, ...] = ()
    schemas: tuple[DesiredSchema, ...] = ()
    roles: tuple[DesiredRole, ...] = ()
    grants: tuple[DesiredGrant, ...] = ()
    authoritative: tuple[AuthoritativeScope, ...] = ()
    remembered: Remembered = Remembered()
    defaults: tuple[DesiredDefault, ...] = ()
    #: Claims of what a member declares and may not have (any more): neither changed nor taken away.
    refused: frozenset[str] = frozenset()
    row_security: tuple[DesiredRowSecurity, ...] = ()
    #: What is kept on tables: audit, conventions, partitions; None where nothing is declared.
    tables: DesiredTables | None = None

    def schema_names(self) -> frozenset[str]:
        """Every schema whose contents the snapshot has to show."""
        names = {schema.name for schema in self.schemas} | self.remembered.schemas
        for grant in self._grants():
            names.update(grant.target.schema_names())
        names.update(schema for one in self._defaults() for schema in one.schemas)
        names.update(schema.renamed_from for schema in self.schemas if schema.renamed_from)
        if self.tables is not None:
            names.update(self.tables.schema_names())
        return frozenset(names)

    def every_schema(self) -> bool:
        """Whether global default privileges concern the objects of every schema."""
        return any(not one.schemas for one in self._defaults())

    def role_names(self) -> frozenset[str]:
        """Every role whose existence or attributes matter."""
        names = {role.name for role in self.roles}
        names.update(membership.role for role in self.roles for membership in role.memberships)
        names.update(self.remembered.roles)
        names.update(name for grant in self._grants() for name in grant.to if name != PUBLIC)
        names.update(schema.owner for schema in self.schemas if schema.owner)
        names.update(name for one in self._defaults() for name in (*one.creators, *one.to) if name != PUBLIC)
        names.update(role.renamed_from for role in self.roles if role.renamed_from)
        if self.database.owner:
            names.add(self.database.owner)
        return frozenset(names).union(*(entry.role_names() for entry in self.row_security))

    def row_security_tables(self) -> frozenset[TableKey]:
        """The tables whose row-level security the snapshot has to show."""
        return self.remembered.tables.union(entry.key for entry in self.row_security)

    def function_signatures(self) -> tuple[str, ...]:
        """Function signatures that the server has to resolve."""
        return tuple(sorted({signature for grant in self._grants() for signature in grant.target.functions}))

    def shows_columns(self) -> bool:
        """Whether the privileges of single columns matter."""
        return any(grant.target.columns for grant in self._grants())

    def shows_types(self) -> bool:
        """Whether the privileges of types matter."""
        named = any(grant.target.types for grant in self._grants())
        return named or bool(self.authoritative) or any(one.kind == "type" for one in self._defaults())

    def names_without_schema(self, kind: str) -> frozenset[str]:
        """The languages, foreign servers or wrappers that grants name."""
        return frozenset(name for grant in self._grants() if grant.target.kind == kind for name in grant.target.names)

    def creators(self) -> frozenset[str]:
        """The roles whose default privileges matter."""
        return frozenset(name for one in self._defaults() for name in one.creators)

    def _grants(self) -> tuple[DesiredGrant, ...]:
        return (*self.grants, *self.remembered.grants)

    def _defaults(self) -> tuple[DesiredDefault, ...]:
        return (*self.defaults, *self.remembered.defaults)


Detail = Mapping[str, object]
"""What a claim remembers of a declaration; JSON."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A row of ``selvedge.claims``: ``resource`` (namespace/name) of ``cluster`` (uid) owns ``object``.

    ``detail`` is what the resource declared for it last: by it, access that left the declaration is found again.
    """

    object: str
    cluster: str
    resource: str
    uid: str
    detail: Detail = field(default_factory=dict)

    def belongs_to(self, cluster: str, resource: str) -> bool:
        """A resource is known by cluster and name: deleted and made again, it finds its objects again."""
        return self.cluster == cluster and self.resource == resource


@dataclass(frozen=True, slots=True)
class CurrentRole:
    """A role as it is. ``memberships`` are what it is a member of, all grantors' together; ``granted`` each alone.

    ``privileged``: it is a superuser, may make roles, replicate, bypass row-level security or reach the server's files,
    or can become a role that may. ``can_admin``: the operator's login may grant the role
    and, from Postgres 16 on, alter it.
    """

    name: str
    comment: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    memberships: Mapping[str, Membership] = field(default_factory=dict)
    login: bool = False
    superuser: bool = False
    privileged: bool = False
    database_settings: Mapping[str, str] = field(default_factory=dict)
    attributes: LiveAttributes = field(default_factory=LiveAttributes)
    granted: tuple[tuple[str, Membership], ...] = ()
    can_admin: bool = True


@dataclass(frozen=True, slots=True)
class AclGroup:
    """Objects of one kind in one schema that share owner and privileges (facts/sql: the fold that makes it fast).

    ``kind`` is one of :data:`ALL_PRIVILEGES` or ``partition``; ``grants`` maps a grantee to its privileges, whoever
    gave them. For columns a name is ``table.column`` with the parts kept apart by a NUL byte. ``given`` are the entries
    (grantor, grantee, privilege, grantable) of each privilege of a grantee that somebody else than the owner gave, or
    that it can grant on. ``alike`` are grantors whom the server takes for the owner, since they are members of it.
    """

    kind: str
    schema: str
    owner: str
    names: tuple[str, ...]
    grants: Mapping[str, frozenset[str]]
    given: frozenset[tuple[str, str, str, bool]] = frozenset()
    alike: frozenset[str] = frozenset()

    def options(self, grantee: str) -> frozenset[str]:
        """The privileges that the grantee may grant on."""
        if not self.given:
            return frozenset()
        return frozenset(name for _, to, name, grantable in self.given if to == grantee and grantable)

    def grantors(self, grantee: str, privilege: str) -> frozenset[str]:
        """Who gave it."""
        found = frozenset(by for by, to, name, _ in self.given if to == grantee and name == privilege)
        return found or frozenset({self.owner})


def owners(groups: Iterable[AclGroup]) -> dict[tuple[str, str], frozenset[str]]:
    """Whose the objects are, by (kind, schema)."""
    found: dict[tuple[str, str], set[str]] = {}
    for group in groups:
        found.setdefault((group.kind, group.schema), set()).add(group.owner)
    return {key: frozenset(names) for key, names in found.items()}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one round trip saw of a live database."""

    version: int
    me: str
    superuser: bool
    standby: bool
    system_identifier: str
    database_owner: str
    database_settings: Mapping[str, str]
    roles: Mapping[str, CurrentRole]
    schemas: Mapping[str, tuple[str, str | None]]
    extensions: Mapping[str, tuple[str, str]]
    groups: tuple[AclGroup, ...]
    functions: Mapping[str, tuple[str, str] | None]
    #: Declared extensions that are not created yet and could be, with the schema that their control file demands.
    available: Mapping[str, str | None] = field(default_factory=dict)
    #: Of the extensions: one that is dropped and made again has another, and its tables hold other rows.
    extension_oids: Mapping[str, int] = field(default_factory=dict)
    claims: Mapping[str, Claim] = field(default_factory=dict)
    has_claims_table: bool = False
    has_metadata_schema: bool = False
    defaults: LiveDefaults = field(default_factory=LiveDefaults)
    #: What roles that go hold in this database, and in which others they hold something.
    holdings: Mapping[str, Holdings] = field(default_factory=dict)
    #: The database's owner, or who is to be that; only where roles go.
    next_owner: Owner = field(default_factory=lambda: Owner("", privileged=True))
    elsewhere: Mapping[str, tuple[Elsewhere, ...]] = field(default_factory=dict)
    #: The roles that the operator's login can become by SET ROLE; not asked for a superuser's.
    become: frozenset[str] = frozenset()
    #: It may make schemas and extensions in this database.
    may_create: bool = True
    #: Row-level security of the tables for which it is declared, or was.
    row_security: Mapping[TableKey, TableState] = field(default_factory=dict)
    #: Tables with their triggers, views and partitions, where something is kept on them.
    tables: LiveTables | None = None
