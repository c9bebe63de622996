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
    UpdateExtension,
    WriteClaims,
)
from selvedge.core.postgres.cluster_diff import ClaimBook, conflict, dropped_roles, retired_roles
from selvedge.core.postgres.grants_diff import diff_grants
from selvedge.core.postgres.model import (
    AclGroup,
    AuthoritativeScope,
    Desired,
    DesiredExtension,
    DesiredGrant,
    DesiredSchema,
    GrantTarget,
    Problem,
    Remembered,
    Snapshot,
)
from selvedge.core.postgres.settings import changed
from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectRef, ObjectState, ObjectStatus


def diff_database(
    desired: Desired, snapshot: Snapshot, book: ClaimBook, prune: Mapping[str, bool]
) -> tuple[list[Change], list[Problem]]:
    """Changes and problems inside the database.

    ``prune`` says for each member's uid whether data-bearing objects that left its declaration are to be dropped.
    """
    changes: list[Change] = []
    problems: list[Problem] = []
    changes += _database(desired, snapshot, book)
    known_roles = frozenset(snapshot.roles) - desired.remembered.dropped
    for schema in desired.schemas:
        _add(_schema(schema, snapshot, book, known_roles), changes, problems)
    for extension in desired.extensions:
        _add(_extension(extension, snapshot, book), changes, problems)
    kept = {f"schema:{schema.name}" for schema in desired.schemas}
    kept |= {f"extension:{extension.name}" for extension in desired.extensions} | desired.refused
    changes += _left_objects(kept, book, snapshot, prune)
    left, dropped = _left_grants(desired, book)
    left += _of_dropped_roles(desired)
    for grant in desired.grants:
        book.want(_grant_key(grant, book), grant.member, _grant_detail(grant))
    scopes = [_existing(scope, known_roles) for scope in desired.authoritative]
    snapshot = _with_new_schemas(snapshot, changes)
    _add(diff_grants(desired.grants, left, scopes, snapshot, known_roles), changes, problems)
    ref = ObjectRef("database", desired.database.name)
    if dropped:
        changes.append(DropClaims(ref, desired.database.member, tuple(sorted(dropped))))
    if book.new:
        rows = tuple(book.new[name] for name in sorted(book.new))
        changes.append(WriteClaims(ref, desired.database.member, rows))
    return changes, problems


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


def _grant_key(grant: DesiredGrant, book: ClaimBook) -> str:
    return f"grant:{book.resources[grant.member]}:{grant.name}"


def _grant_detail(grant: DesiredGrant) -> dict[str, object]:
    target = grant.target
    return {
        "privileges": sorted(grant.privileges),
        "to": list(grant.to),
        "absent": grant.absent,
        "database": target.database,
        "schemas": list(target.schemas),
        "tables": [list(pair) for pair in target.tables],
        "tablesIn": list(target.tables_in),
        "sequences": [list(pair) for pair in target.sequences],
        "sequencesIn": list(target.sequences_in),
        "functions": list(target.functions),
        "functionsIn": list(target.functions_in),
        "columns": [[schema, table, list(columns)] for schema, table, columns in target.columns],
    }


def _grant_of(name: str, member: str, detail: Mapping[str, object]) -> DesiredGrant:
    """The declaration that a claim remembers."""

    def strings(key: str) -> tuple[str, ...]:
        value = detail.get(key)
        return tuple(str(item) for item in value) if isinstance(value, (list, tuple)) else ()

    def pairs(key: str) -> tuple[tuple[str, str], ...]:
        value = detail.get(key)
        return tuple((str(a), str(b)) for a, b in value) if isinstance(value, (list, tuple)) else ()

    columns = detail.get("columns")
    target = GrantTarget(
        database=bool(detail.get("database")),
        schemas=strings("schemas"),
        tables=pairs("tables"),
        tables_in=strings("tablesIn"),
        sequences=pairs("sequences"),
        sequences_in=strings("sequencesIn"),
        functions=strings("functions"),
        functions_in=strings("functionsIn"),
        columns=tuple((str(s), str(t), tuple(map(str, c))) for s, t, c in columns)
        if isinstance(columns, (list, tuple))
        else (),
    )
    return DesiredGrant(member, name, frozenset(strings("privileges")), target, strings("to"))


def remembered_grants(book: ClaimBook) -> list[DesiredGrant]:
    """What the members' claims say they granted before; the snapshot has to show those objects too."""
    grants: list[DesiredGrant] = []
    for member, resource in book.resources.items():
        prefix = f"grant:{resource}:"
        for claim in book.owned(prefix, member):
            if not claim.detail.get("absent"):
                grants.append(_grant_of(claim.object.removeprefix(prefix), member, claim.detail))
    return grants


def _left_grants(desired: Desired, book: ClaimBook) -> tuple[list[DesiredGrant], list[str]]:
    """Grants that were declared differently before, and the claims of those that are gone altogether."""
    now = {_grant_key(grant, book): _grant_detail(grant) for grant in desired.grants}
    left: list[DesiredGrant] = []
    dropped: list[str] = []
    for member, resource in book.resources.items():
        prefix = f"grant:{resource}:"
        for claim in book.owned(prefix, member):
            remembered = {key: value for key, value in claim.detail.items() if key != "created"}
            if now.get(claim.object) == remembered or claim.object in desired.refused:
                continue
            if not claim.detail.get("absent"):
                left.append(_grant_of(claim.object.removeprefix(prefix), member, claim.detail))
            if claim.object not in now:
                dropped.append(claim.object)
    return left, dropped


def _of_dropped_roles(desired: Desired) -> list[DesiredGrant]:
    """What is still granted to roles that are to be dropped: it would keep them from being dropped."""
    gone = desired.remembered.dropped
    return [
        replace(grant, to=tuple(role for role in grant.to if role in gone))
        for grant in desired.grants
        if not grant.absent and gone.intersection(grant.to)
    ]


def remembered(desired: Desired, book: ClaimBook, prune: Mapping[str, bool]) -> Remembered:
    """What the claims in ``book`` say was declared before and is not any more.

    The claims of roles stand in the maintenance database and all others in the database itself: it is asked for each
    of the two books, and the answers are put together by :func:`united`.
    """
    left, _ = _left_grants(desired, book)
    roles = {claim.object.removeprefix("role:") for claims in retired_roles(desired, book).values() for claim in claims}
    kept = {schema.name for schema in desired.schemas}
    schemas = {
        claim.object.removeprefix("schema:")
        for member in book.resources
        if prune.get(member)
        for claim in book.owned("schema:", member)
    }
    return Remembered(frozenset(roles), frozenset(schemas - kept), tuple(left), dropped_roles(desired, book))


def united(a: Remembered, b: Remembered) -> Remembered:
    """Both."""
    grants = tuple(dict.fromkeys((*a.grants, *b.grants)))
    return Remembered(a.roles | b.roles, a.schemas | b.schemas, grants, a.dropped | b.dropped)
