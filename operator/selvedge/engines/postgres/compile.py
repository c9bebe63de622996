"""From the DatabaseSchemas of one database to one desired state; pure.

What a member may not do (names refused to everyone, the server's ``access``) and what two members both declare is
left out of the desired state and becomes a problem of that object: the rest goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from selvedge.api.base import Ensure
from selvedge.api.databaseschema import (
    Adoption,
    DefaultPrivilege,
    Extension,
    Grant,
    GrantMode,
    PostgresDatabase,
    PostgresRole,
    PostgresSchema,
    Prune,
)
from selvedge.api.postgres_data import RowLevelSecurity
from selvedge.api.postgres_grants import DefaultPrivilegeObjects
from selvedge.core.names import PUBLIC, reserved_role
from selvedge.core.own_roles import is_shortened, own_roles
from selvedge.core.postgres.gate import Policy
from selvedge.core.postgres.model import (
    AuthoritativeScope,
    Desired,
    DesiredDatabase,
    DesiredDefault,
    DesiredExtension,
    DesiredGrant,
    DesiredRole,
    DesiredSchema,
    GrantTarget,
    Membership,
)
from selvedge.core.postgres.rls_model import DesiredRowSecurity
from selvedge.core.postgres.role_attributes import DesiredAttributes, instant
from selvedge.core.postgres.settings import stored
from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectRef, ObjectState, ObjectStatus
from selvedge.engines.base import AccessRule, Member, Unit
from selvedge.engines.postgres.approvals import policy
from selvedge.engines.postgres.elder import disagreements
from selvedge.engines.postgres.rls_compile import row_security
from selvedge.engines.postgres.tables_compile import TablesBuilder

_DEFAULT_KINDS = {
    DefaultPrivilegeObjects.TABLES: "table",
    DefaultPrivilegeObjects.SEQUENCES: "sequence",
    DefaultPrivilegeObjects.FUNCTIONS: "function",
    DefaultPrivilegeObjects.TYPES: "type",
    DefaultPrivilegeObjects.SCHEMAS: "schema",
}


@dataclass(slots=True)
class Compiled:
    """The desired state of a unit of work, with what each member is told beside it."""

    desired: Desired
    policies: dict[str, Policy]
    resources: dict[str, str]
    prune: dict[str, bool]
    adopt: dict[str, bool]
    declared: dict[str, int]
    problems: dict[str, list[ObjectStatus]] = field(default_factory=dict)
    advice: dict[str, list[str]] = field(default_factory=dict)


def compile_unit(unit: Unit, metadata_schema: str = "selvedge") -> Compiled:
    """Compile all members that are not being deleted, the oldest first: its claim wins where two want the same.

    ``metadata_schema`` is the operator's own and nobody's to declare.
    """
    members = sorted((m for m in unit.members if not m.deleting), key=lambda m: (m.created, m.namespace, m.name))
    builder = _Builder(unit, metadata_schema)
    for member in members:
        builder.add(member)
    return builder.build()


class _Builder:
    def __init__(self, unit: Unit, metadata_schema: str) -> None:
        self.unit = unit
        self.metadata_schema = metadata_schema
        self.own_roles = own_roles(unit.database)
        self.owner: dict[ObjectRef, Member] = {}
        self.renamed: dict[ObjectRef, ObjectRef] = {}
        self.members: list[Member] = []
        self.problems: dict[str, list[ObjectStatus]] = {}
        self.database: DesiredDatabase | None = None
        self.roles: list[DesiredRole] = []
        self.schemas: list[DesiredSchema] = []
        self.extensions: list[DesiredExtension] = []
        self.grants: list[DesiredGrant] = []
        self.defaults: list[DesiredDefault] = []
        self.scopes: list[AuthoritativeScope] = []
        self.row_security: list[DesiredRowSecurity] = []
        self.kept = TablesBuilder(self, metadata_schema)
        self.declared: dict[str, int] = {}
        self.admitted: list[Member] = []

    def add(self, member: Member) -> None:
        spec = member.spec.postgres or PostgresDatabase()
        self.members.append(member)
        self.problems[member.uid] = []
        access = self.unit.access(member) if self.unit.access else AccessRule(role_prefixes=("",))
        lists = (spec.roles, spec.schemas, spec.extensions, spec.grants, spec.default_privileges)
        self.declared[member.uid] = 1 + sum(map(len, lists)) + len(spec.row_level_security)
        if not any(fnmatchcase(member.spec.database, pattern) for pattern in access.databases):
            message = (
                f"the DatabaseServer's access does not let namespace {member.namespace} use database "
                f"{member.spec.database}: add it to spec.access there"
            )
            self.problem(member, ObjectRef("database", member.spec.database), Reason.ACCESS_DENIED, message)
            return
        self.admitted.append(member)
        migrations = member.spec.migrations
        if migrations is not None and migrations.role:
            # They are somebody's code, and run as this role: without access nobody may name it.
            self._may_use_role(member, ObjectRef("role", migrations.role), migrations.role, access)
        settings = _settings(spec.settings)
        if self.database is None:
            ref = ObjectRef("database", member.spec.database)
            owner = spec.owner if spec.owner and self._may_use_role(member, ref, spec.owner, access) else None
            self.database = DesiredDatabase(member.uid, member.spec.database, owner, settings)
        else:
            elder = next(one for one in self.admitted if one.uid == self.database.member)
            self.problems[member.uid] += disagreements(self.database, elder, spec.owner, settings)
        for role in spec.roles:
            self._role(member, role, access)
        for schema in spec.schemas:
            self._schema(member, schema, spec, access)
        for extension in spec.extensions:
            self._extension(member, extension, access)
        for grant in spec.grants:
            self._grant(member, grant, access)
        for default in spec.default_privileges:
            self._default(member, default, access)
        for table in spec.row_level_security:
            self._row_security(member, table, access)
        if spec.grant_mode is GrantMode.AUTHORITATIVE:
            mine = [ref.name for ref, owner in self.owner.items() if owner is member and ref.kind == "role"]
            theirs = [ref.name for ref, owner in self.owner.items() if owner is member and ref.kind == "schema"]
            self.scopes.append(AuthoritativeScope(member.uid, frozenset(mine), frozenset(theirs)))
        # What an audit needs beside it is not declared, and in nobody's scope.
        self.declared[member.uid] += self.kept.add(member, spec)

    def problem(
        self, member: Member, ref: ObjectRef, reason: Reason, message: str, state: ObjectState = ObjectState.FAILED
    ) -> None:
        self.problems[member.uid].append(ObjectStatus(ref, state, reason, message))

    def take(self, member: Member, ref: ObjectRef) -> bool:
        """Whether the object is the member's to declare; the elder member's claim wins."""
        holder = self.owner.setdefault(ref, member)
        if holder is member:
            return True
        message = f"{ref} is claimed by DatabaseSchema {holder.namespace}/{holder.name}: remove it from one of the two"
        self.problem(member, ref, Reason.CONFLICT, message, ObjectState.CONFLICT)
        return False

    def _may_rename(self, member: Member, ref: ObjectRef, old: str | None) -> bool:
        """Whether the object may be what was called ``old``: only one can, and nobody else's."""
        if old is None:
            return True
        before = ObjectRef(ref.kind, old)
        first = self.renamed.setdefault(before, ref)
        if first != ref:
            message = f"{before} is to be renamed to {first.name} already: remove one renamedFrom"
            self.problem(member, ref, Reason.CONFLICT, message, ObjectState.CONFLICT)
            return False
        holder = self.owner.setdefault(before, member)
        if holder is not member:
            message = f"{before} is claimed by DatabaseSchema {holder.namespace}/{holder.name}: it cannot be renamed"
            self.problem(member, ref, Reason.CONFLICT, message, ObjectState.CONFLICT)
        return holder is member

    def _may_use_role(self, member: Member, ref: ObjectRef, name: str, access: AccessRule) -> bool:
        if name in self.own_roles or is_shortened(name):
            message = f"{ref} names role {name}, which is the operator's own: choose another"
            self.problem(member, ref, Reason.FORBIDDEN_NAME, message)
            return False
        if name in access.role_prefixes:
            return True
        why = reserved_role(name)
        if why:
            message = f"{ref} names role {name}, which is refused: {why}; choose another"
            self.problem(member, ref, Reason.FORBIDDEN_NAME, message)
            return False
        if not any(name.startswith(prefix) for prefix in access.role_prefixes):
            message = (
                f"{ref} names role {name}, which the DatabaseServer's access does not give to namespace "
                f"{member.namespace}: add its prefix to spec.access there"
            )
            self.problem(member, ref, Reason.ACCESS_DENIED, message)
            return False
        return True

    def _role(self, member: Member, role: PostgresRole, access: AccessRule) -> None:
        ref = ObjectRef("role", role.name)
        names = [role.name, *(membership.role for membership in role.member_of)]
        names += [role.renamed_from] if role.renamed_from else []
        if not all(self._may_use_role(member, ref, name, access) for name in names) or not self.take(member, ref):
            return
        if not self._may_rename(member, ref, role.renamed_from):
            return
        until = instant(role.valid_until) if role.valid_until else None
        self.roles.append(
            DesiredRole(
                member.uid,
                role.name,
                role.comment,
                _settings(role.settings),
                tuple(Membership(m.role, m.admin, m.inherit, m.set) for m in role.member_of),
                role.ensure is Ensure.ABSENT,
                _settings(role.database_settings),
                DesiredAttributes(role.inherit, role.connection_limit, until),
                role.renamed_from,
            )
        )

    def reserved_schema(self, name: str) -> str:
        """Whose schema it is, where nobody may declare it or grant anything in it; empty for all others."""
        if name.startswith("pg_") or name == "information_schema":
            return "Postgres"
        return "the operator" if name == self.metadata_schema else ""

    def _schema(self, member: Member, schema: PostgresSchema, spec: PostgresDatabase, access: AccessRule) -> None:
        ref = ObjectRef("schema", schema.name)
        owner = schema.owner or (None if schema.name == "public" else spec.owner)
        holder = self.reserved_schema(schema.name) or self.reserved_schema(schema.renamed_from or "")
        if holder:
            name = schema.name if self.reserved_schema(schema.name) else schema.renamed_from
            message = f"schema {name} belongs to {holder}: choose another name"
            self.problem(member, ref, Reason.FORBIDDEN_NAME, message)
        elif owner and not self._may_use_role(member, ref, owner, access):
            return
        elif self.take(member, ref) and self._may_rename(member, ref, schema.renamed_from):
            absent = schema.ensure is Ensure.ABSENT
            self.schemas.append(
                DesiredSchema(member.uid, schema.name, owner, schema.comment, absent, schema.renamed_from)
            )

    def _extension(self, member: Member, extension: Extension, access: AccessRule) -> None:
        ref = ObjectRef("extension", extension.name)
        if not any(fnmatchcase(extension.name, pattern) for pattern in access.extensions):
            message = (
                f"the DatabaseServer's access does not let namespace {member.namespace} use extension "
                f"{extension.name}: add it to spec.access there"
            )
            self.problem(member, ref, Reason.ACCESS_DENIED, message)
        elif self.take(member, ref):
            self.extensions.append(
                DesiredExtension(
                    member.uid,
                    extension.name,
                    extension.schema_name,
                    extension.version or None,
                    extension.optional,
                    extension.ensure is Ensure.ABSENT,
                )
            )

    def _grant(self, member: Member, grant: Grant, access: AccessRule) -> None:
        ref = ObjectRef("grant", grant.name)
        target = _target(grant)
        if self._in_reserved_schema(member, ref, target.schema_names()):
            return
        if not all(name == PUBLIC or self._may_use_role(member, ref, name, access) for name in grant.to):
            return
        self.grants.append(
            DesiredGrant(
                member.uid,
                grant.name,
                frozenset(privilege.value for privilege in grant.privileges),
                target,
                grant.to,
                grant.ensure is Ensure.ABSENT,
                grant.grant_option,
            )
        )

    def _in_reserved_schema(self, member: Member, ref: ObjectRef, schemas: Iterable[str]) -> bool:
        for schema in sorted(schemas):
            holder = self.reserved_schema(schema)
            if holder:
                message = f"{ref} is on schema {schema}, which belongs to {holder}: nothing in it is granted"
                self.problem(member, ref, Reason.FORBIDDEN_NAME, message)
                return True
        return False

    def _default(self, member: Member, default: DefaultPrivilege, access: AccessRule) -> None:
        ref = ObjectRef("defaultPrivilege", default.name)
        if self._in_reserved_schema(member, ref, default.schemas):
            return
        names = (*default.creators, *(name for name in default.to if name != PUBLIC))
        if all(self._may_use_role(member, ref, name, access) for name in names):
            self.defaults.append(
                DesiredDefault(
                    member.uid,
                    default.name,
                    default.creators,
                    default.schemas,
                    _DEFAULT_KINDS[default.object_type],
                    frozenset(privilege.value for privilege in default.privileges),
                    default.to,
                    default.grant_option,
                    default.ensure is Ensure.ABSENT,
                )
            )

    def _row_security(self, member: Member, declared: RowLevelSecurity, access: AccessRule) -> None:
        entry = row_security(member.uid, declared)
        holder = self.reserved_schema(entry.schema)
        if holder:
            message = f"table {declared.table} is in a schema that belongs to {holder}: its rows are not yours to guard"
            self.problem(member, entry.ref, Reason.FORBIDDEN_NAME, message)
            return
        allowed = all(self._may_use_role(member, entry.ref, name, access) for name in sorted(entry.role_names()))
        if allowed and self.take(member, entry.ref):
            self.row_security.append(entry)

    def build(self) -> Compiled:
        database = self.database or DesiredDatabase("", self.unit.database)
        desired = Desired(
            database,
            tuple(self.extensions),
            tuple(self.schemas),
            tuple(self.roles),
            tuple(self.grants),
            tuple(self.scopes),
            defaults=tuple(self.defaults),
            refused=self._refused(),
            row_security=tuple(self.row_security),
            tables=self.kept.build(),
        )
        return Compiled(
            desired,
            policies={member.uid: policy(member) for member in self.members},
            resources={member.uid: f"{member.namespace}/{member.name}" for member in self.admitted},
            prune={member.uid: member.spec.prune is Prune.OWNED for member in self.members},
            adopt={member.uid: member.spec.adoption is Adoption.ALLOW for member in self.members},
            declared=self.declared,
            problems=self.problems,
        )

    def _refused(self) -> frozenset[str]:
        """The claims of what a member declares and may not have: it is left as it is, not taken away."""
        names = set()
        for member in self.admitted:
            for status in self.problems[member.uid]:
                own = status.ref.kind in ("grant", "defaultPrivilege")
                middle = f"{member.namespace}/{member.name}:" if own else ""
                names.add(f"{status.ref.kind}:{middle}{status.ref.name}")
        return frozenset(names)


def _settings(declared: Mapping[str, str | tuple[str, ...]]) -> dict[str, str]:
    """Settings by lower-case name: Postgres takes any case, and two of them would be one."""
    return {name.lower(): stored(name.lower(), value) for name, value in declared.items()}


def _pair(name: str) -> tuple[str, str]:
    schema, _, rest = name.partition(".")
    return schema, rest


def _target(grant: Grant) -> GrantTarget:
    objects = grant.objects
    return GrantTarget(
        database=objects.database,
        schemas=objects.schemas,
        tables=tuple(_pair(name) for name in objects.tables),
        tables_in=objects.tables_in,
        sequences=tuple(_pair(name) for name in objects.sequences),
        sequences_in=objects.sequences_in,
        functions=objects.functions,
        functions_in=objects.functions_in,
        columns=tuple((*_pair(entry.table), entry.columns) for entry in objects.columns),
        types=tuple(_pair(name) for name in objects.types),
        languages=objects.languages,
        servers=objects.foreign_servers,
        wrappers=objects.foreign_data_wrappers,
    )
