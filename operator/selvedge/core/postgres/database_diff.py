"""The difference inside one database: owner, settings, extensions, schemas, and (by grants_diff) privileges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from selvedge.core.postgres.changes import (
    AlterDatabaseOwner,
    AlterSchemaOwner,
    Change,
    CommentSchema,
    CreateExtension,
    CreateSchema,
    DropClaims,
    DropExtension,
    DropSchema,
    SetDatabaseSetting,
    SetRoleSettingHere,
    UpdateExtension,
    WriteClaims,
)
from selvedge.core.postgres.cluster_diff import ClaimBook, conflict
from selvedge.core.postgres.default_privileges import diff_defaults
from selvedge.core.postgres.grants_diff import diff_grants
from selvedge.core.postgres.model import (
    AclGroup,
    AuthoritativeScope,
    Desired,
    DesiredExtension,
    DesiredRole,
    DesiredSchema,
    Problem,
    Snapshot,
)
from selvedge.core.postgres.remembering import (
    default_detail,
    default_key,
    defaults_of_dropped_roles,
    grant_detail,
    grant_key,
    grants_of_dropped_roles,
    left_defaults,
    left_grants,
)
from selvedge.core.postgres.renames import Rename, plan_renames, rename_changes, renamed_snapshot
from selvedge.core.postgres.retirement import Owner, diff_retirement
from selvedge.core.postgres.settings import changed
from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectRef, ObjectState, ObjectStatus


def diff_database(
    desired: Desired,
    snapshot: Snapshot,
    book: ClaimBook,
    prune: Mapping[str, bool],
    adopt: Mapping[str, bool] | None = None,
) -> tuple[list[Change], list[Problem]]:
    """Changes and problems inside the database.

    ``prune`` says for each member's uid whether data-bearing objects that left its declaration are to be dropped,
    ``adopt`` whether it may take over what nobody claims.
    """
    changes: list[Change] = []
    problems: list[Problem] = []
    snapshot, kept_back = _renames(desired, snapshot, book, adopt or {}, changes, problems)
    changes += _database(desired, snapshot, book)
    known_roles = frozenset(snapshot.roles) - desired.remembered.dropped
    changes += _role_settings(desired, snapshot, book)
    for schema in desired.schemas:
        if ObjectRef("schema", schema.name) not in kept_back:
            _add(_schema(schema, snapshot, book, known_roles), changes, problems)
    for extension in desired.extensions:
        _add(_extension(extension, snapshot, book), changes, problems)
    kept = {f"schema:{schema.name}" for schema in desired.schemas} | desired.refused
    kept |= {f"schema:{schema.renamed_from}" for schema in desired.schemas if schema.renamed_from}
    kept |= {f"extension:{extension.name}" for extension in desired.extensions}
    changes += _left_objects(kept, book, snapshot, prune)
    snapshot = _with_new_schemas(snapshot, changes)
    dropped = _access(desired, snapshot, book, known_roles, changes, problems)
    _add(_retirement(desired, snapshot), changes, problems)
    ref = ObjectRef("database", desired.database.name)
    if dropped:
        changes.append(DropClaims(ref, desired.database.member, tuple(sorted(dropped))))
    if book.new:
        rows = tuple(book.new[name] for name in sorted(book.new))
        changes.append(WriteClaims(ref, desired.database.member, rows))
    return changes, problems


def _renames(
    desired: Desired,
    snapshot: Snapshot,
    book: ClaimBook,
    adopt: Mapping[str, bool],
    changes: list[Change],
    problems: list[Problem],
) -> tuple[Snapshot, set[ObjectRef]]:
    """The snapshot with what is renamed, and the schemas that cannot be."""
    wanted = (
        Rename(schema.member, ObjectRef("schema", schema.name), schema.renamed_from)
        for schema in desired.schemas
        if schema.renamed_from and not schema.absent
    )
    renamed, trouble = plan_renames(wanted, frozenset(snapshot.schemas), book, adopt)
    book.move(renamed)
    changes += rename_changes(renamed)
    changes += [DropClaims(one.ref, one.member, (one.old_key,)) for one in renamed if one.new_key in book.moved]
    problems += trouble
    return renamed_snapshot(snapshot, renamed), {problem.status.ref for problem in trouble}


def _access(
    desired: Desired,
    snapshot: Snapshot,
    book: ClaimBook,
    known_roles: frozenset[str],
    changes: list[Change],
    problems: list[Problem],
) -> list[str]:
    """Privileges, and what new objects get; returns the claims of what is declared no more."""
    left, dropped = left_grants(desired, book)
    left += grants_of_dropped_roles(desired)
    gone, dropped_too = left_defaults(desired, book)
    gone += defaults_of_dropped_roles(desired)
    for grant in desired.grants:
        book.want(grant_key(grant, book), grant.member, grant_detail(grant))
    for default in desired.defaults:
        book.want(default_key(default, book), default.member, default_detail(default))
    scopes = [_existing(scope, known_roles) for scope in desired.authoritative]
    found = diff_grants(desired.grants, left, scopes, snapshot, known_roles, desired.defaults, gone)
    _add(found, changes, problems)
    schemas = frozenset(name for group in snapshot.groups if group.kind == "schema" for name in group.names)
    roles = frozenset(snapshot.roles)
    _add(
        diff_defaults(desired.defaults, gone, snapshot.defaults, known_roles, schemas, snapshot.version, roles),
        changes,
        problems,
    )
    return [*dropped, *dropped_too]


def going(desired: Desired, snapshot: Snapshot) -> dict[str, str]:
    """The roles that are to be dropped and exist, each with the uid of the member whose it was."""
    return {role: member for role, member in sorted(desired.remembered.retiring) if role in snapshot.roles}


def stuck(desired: Desired, snapshot: Snapshot) -> frozenset[str]:
    """Those of them that this database holds for good."""
    return frozenset(problem.status.ref.name for problem in _retirement(desired, snapshot)[1])


def _retirement(desired: Desired, snapshot: Snapshot) -> tuple[list[Change], list[Problem]]:
    retiring = going(desired, snapshot)
    if not retiring:
        return [], []
    owner, wanted = snapshot.next_owner, desired.database.owner
    if wanted and wanted != owner.name and wanted in snapshot.roles:
        owner = Owner(wanted)  # this plan makes it
    return diff_retirement(retiring, snapshot.holdings, owner, desired.database.name)


def _role_settings(desired: Desired, snapshot: Snapshot, book: ClaimBook) -> list[Change]:
    """Settings of roles in this database; what was declared once goes again."""
    changes: list[Change] = []
    declared: set[str] = set()
    for role in desired.roles:
        key = f"roleSettings:{role.name}"
        current = snapshot.roles.get(role.name)
        if current is None or role.absent:
            continue
        declared.add(key)
        before = book.claims.get(key)
        listed = before.detail.get("settings") if before is not None and book.mine(key, role.member) else None
        once = {str(name) for name in listed} if isinstance(listed, (list, tuple)) else set()
        changes += _settings_here(role, current.database_settings, once)
        if role.database_settings:
            book.want(key, role.member, {"settings": sorted(role.database_settings)})
        elif before is not None and book.mine(key, role.member):
            changes.append(DropClaims(ObjectRef("role", role.name), role.member, (key,)))
    for member in book.resources:
        for claim in book.owned("roleSettings:", member):
            if claim.object not in declared:
                role_name = claim.object.removeprefix("roleSettings:")
                if role_name not in {role.renamed_from for role in desired.roles}:
                    changes.append(DropClaims(ObjectRef("role", role_name), member, (claim.object,)))
    return changes


def _settings_here(role: DesiredRole, live: Mapping[str, str], once: set[str]) -> list[Change]:
    ref = ObjectRef("role", role.name)
    found: list[Change] = [
        SetRoleSettingHere(ref, role.member, role.name, setting, value)
        for setting, value in changed(live, role.database_settings)
    ]
    gone = sorted((once - role.database_settings.keys()) & live.keys())
    return [*found, *(SetRoleSettingHere(ref, role.member, role.name, setting, None) for setting in gone)]


def _add(found: tuple[list[Change], list[Problem]], changes: list[Change], problems: list[Problem]) -> None:
    changes += found[0]
    problems += found[1]


def _with_new_schemas(snapshot: Snapshot, changes: list[Change]) -> Snapshot:
    """The snapshot as it will be when the schemas of this plan stand, so that grants on them go in the same round."""
    new = [change for change in changes if isinstance(change, CreateSchema)]
    groups = tuple(AclGroup("schema", "", change.owner or snapshot.me, (change.schema,), {}) for change in new)
    return replace(snapshot, groups=(*snapshot.groups, *groups))


def _existing(scope: AuthoritativeScope, known: frozenset[str]) -> AuthoritativeScope:
    return AuthoritativeScope(scope.member, scope.roles & known, scope.schemas)


def _database(desired: Desired, snapshot: Snapshot, book: ClaimBook) -> list[Change]:
    database = desired.database
    ref = ObjectRef("database", database.name)
    changes: list[Change] = []
    if database.owner and database.owner != snapshot.database_owner and database.owner in snapshot.roles:
        changes.append(AlterDatabaseOwner(ref, database.member, database.name, database.owner))
    key = "database"
    before = book.claims.get(key)
    listed = before.detail.get("settings") if before and book.mine(key, database.member) else None
    declared_before = {str(name) for name in listed} if isinstance(listed, (list, tuple)) else set()
    book.want(key, database.member, {"settings": sorted(database.settings)})
    for setting, value in changed(snapshot.database_settings, database.settings):
        changes.append(SetDatabaseSetting(ref, database.member, database.name, setting, value))
    for setting in sorted((declared_before - database.settings.keys()) & snapshot.database_settings.keys()):
        changes.append(SetDatabaseSetting(ref, database.member, database.name, setting, None))
    return changes


def _schema(
    schema: DesiredSchema, snapshot: Snapshot, book: ClaimBook, known_roles: frozenset[str]
) -> tuple[list[Change], list[Problem]]:
    ref = ObjectRef("schema", schema.name)
    key = f"schema:{schema.name}"
    holder = book.foreign(key)
    if holder is not None:
        return [], [conflict(ref, schema.member, holder, book.cluster)]
    current = snapshot.schemas.get(schema.name)
    if schema.absent:
        return ([DropSchema(ref, schema.member, schema.name)] if current else []), []
    if schema.owner and schema.owner not in known_roles:
        message = f"schema {schema.name} is to be owned by role {schema.owner}, which does not exist: declare it"
        status = ObjectStatus(ref, ObjectState.WAITING, Reason.ROLE_NOT_FOUND, message)
        return [], [Problem(schema.member, status)]
    book.want(key, schema.member, {"created": current is None})
    changes: list[Change] = []
    if current is None:
        changes.append(CreateSchema(ref, schema.member, schema.name, schema.owner))
        current = (schema.owner or snapshot.me, None)
    owner, comment = current
    if schema.owner and owner != schema.owner:
        changes.append(AlterSchemaOwner(ref, schema.member, schema.name, schema.owner))
    if schema.comment is not None and schema.comment != (comment or ""):
        changes.append(CommentSchema(ref, schema.member, schema.name, schema.comment))
    return changes, []


def _extension(extension: DesiredExtension, snapshot: Snapshot, book: ClaimBook) -> tuple[list[Change], list[Problem]]:
    ref = ObjectRef("extension", extension.name)
    key = f"extension:{extension.name}"
    holder = book.foreign(key)
    if holder is not None:
        return [], [conflict(ref, extension.member, holder, book.cluster)]
    current = snapshot.extensions.get(extension.name)
    if extension.absent:
        return ([DropExtension(ref, extension.member, extension.name)] if current else []), []
    if current is None:
        if extension.name not in snapshot.available:
            if extension.optional:
                return [], []
            message = (
                f"extension {extension.name} is not installed on the server: install its package there, "
                "or mark it optional"
            )
            status = ObjectStatus(ref, ObjectState.FAILED, Reason.EXTENSION_NOT_AVAILABLE, message)
            return [], [Problem(extension.member, status)]
        book.want(key, extension.member, {"created": True})
        # The control file's own schema wins (naming another is an error); else public, since search_path is pinned.
        schema = extension.schema or (None if snapshot.available[extension.name] else "public")
        return [CreateExtension(ref, extension.member, extension.name, schema, extension.version)], []
    book.want(key, extension.member, {"created": False})
    version, schema = current
    changes: list[Change] = []
    problems: list[Problem] = []
    if extension.version and version != extension.version:
        changes.append(UpdateExtension(ref, extension.member, extension.name, extension.version))
    if extension.schema and schema != extension.schema:
        message = (
            f"extension {extension.name} stands in schema {schema} and is declared in {extension.schema}: "
            f"move it by hand (ALTER EXTENSION … SET SCHEMA) or declare schema {schema}"
        )
        status = ObjectStatus(ref, ObjectState.FAILED, Reason.UNSUPPORTED, message)
        problems.append(Problem(extension.member, status))
    return changes, problems


def _left_objects(kept: set[str], book: ClaimBook, snapshot: Snapshot, prune: Mapping[str, bool]) -> list[Change]:
    """Schemas and extensions that we made and that left the declaration go only where ``prune: Owned`` says so."""
    changes: list[Change] = []
    for member in book.resources:
        for claim in (*book.owned("schema:", member), *book.owned("extension:", member)):
            kind, _, name = claim.object.partition(":")
            there = snapshot.schemas if kind == "schema" else snapshot.extensions
            if claim.object in kept or not prune.get(member):
                continue
            ref = ObjectRef(kind, name)
            if name in there and claim.detail.get("created"):
                changes.append(DropSchema(ref, member, name) if kind == "schema" else DropExtension(ref, member, name))
            changes.append(DropClaims(ref, member, (claim.object,)))
    return changes
