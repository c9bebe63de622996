"""What claims remember of grants and default privileges: by it, access that left a declaration is found again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TypeVar

from selvedge.core.postgres.cluster_diff import ClaimBook, dropped_roles, retired_roles, retiring
from selvedge.core.postgres.model import Claim, Desired, DesiredDefault, DesiredGrant, GrantTarget, Remembered
from selvedge.core.postgres.rls_record import remembered_tables
from selvedge.core.postgres.tables import left_tables

Entry = TypeVar("Entry")


def grant_key(grant: DesiredGrant, book: ClaimBook) -> str:
    """The claim of a grant."""
    return f"grant:{book.resources[grant.member]}:{grant.name}"


def grant_detail(grant: DesiredGrant) -> dict[str, object]:
    """What the claim of a grant remembers; what is empty and new in this version is left out."""
    target = grant.target
    more: dict[str, object] = {
        "types": [list(pair) for pair in target.types],
        "languages": list(target.languages),
        "servers": list(target.servers),
        "wrappers": list(target.wrappers),
        "grantOption": grant.grantable,
    }
    return {
        **{key: value for key, value in more.items() if value},
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


def _strings(detail: Mapping[str, object], key: str) -> tuple[str, ...]:
    value = detail.get(key)
    return tuple(str(item) for item in value) if isinstance(value, (list, tuple)) else ()


def _grant_of(name: str, member: str, detail: Mapping[str, object]) -> DesiredGrant:
    """The declaration that a claim remembers."""
    strings = partial(_strings, detail)

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
        types=pairs("types"),
        languages=strings("languages"),
        servers=strings("servers"),
        wrappers=strings("wrappers"),
    )
    return DesiredGrant(member, name, frozenset(strings("privileges")), target, strings("to"))


def default_key(default: DesiredDefault, book: ClaimBook) -> str:
    """The claim of an entry of default privileges."""
    return f"defaultPrivilege:{book.resources[default.member]}:{default.name}"


def default_detail(default: DesiredDefault) -> dict[str, object]:
    """What the claim of an entry remembers."""
    return {
        "creators": list(default.creators),
        "schemas": list(default.schemas),
        "kind": default.kind,
        "privileges": sorted(default.privileges),
        "to": list(default.to),
        "grantOption": default.grantable,
        "absent": default.absent,
    }


def _default_of(name: str, member: str, detail: Mapping[str, object]) -> DesiredDefault:
    strings = partial(_strings, detail)
    kind, privileges = str(detail.get("kind")), frozenset(strings("privileges"))
    return DesiredDefault(member, name, strings("creators"), strings("schemas"), kind, privileges, strings("to"))


#: What one kind of entry makes of a claim: its name without the prefix, the member, and what is remembered.
_Read = Callable[[str, str, Mapping[str, object]], Entry]


def _claimed(kind: str, book: ClaimBook, read: _Read[Entry]) -> list[Entry]:
    """What the members' claims of this kind say that they declared before, but for what was declared absent."""
    return [
        read(claim.object.removeprefix(prefix), member, claim.detail)
        for prefix, member, claim in _claims(kind, book)
        if not claim.detail.get("absent")
    ]


def _left(
    kind: str, now: Mapping[str, Mapping[str, object]], desired: Desired, book: ClaimBook, read: _Read[Entry]
) -> tuple[list[Entry], list[str]]:
    """Entries that were declared differently before, and the claims of those that are gone altogether.

    ``now`` is what the claims of the present entries are to remember.
    """
    left: list[Entry] = []
    dropped: list[str] = []
    for prefix, member, claim in _claims(kind, book):
        before = {key: value for key, value in claim.detail.items() if key != "created"}
        if now.get(claim.object) == before or claim.object in desired.refused:
            continue
        if not claim.detail.get("absent"):
            left.append(read(claim.object.removeprefix(prefix), member, claim.detail))
        if claim.object not in now:
            dropped.append(claim.object)
    return left, dropped


def _claims(kind: str, book: ClaimBook) -> Iterator[tuple[str, str, Claim]]:
    for member, resource in book.resources.items():
        prefix = f"{kind}:{resource}:"
        for claim in book.owned(prefix, member):
            yield prefix, member, claim


def remembered_defaults(book: ClaimBook) -> list[DesiredDefault]:
    """What the members' claims say of default privileges that they declared before."""
    return _claimed("defaultPrivilege", book, _default_of)


def left_defaults(desired: Desired, book: ClaimBook) -> tuple[list[DesiredDefault], list[str]]:
    """Default privileges that were declared differently before, and the claims of those that are gone altogether."""
    now = {default_key(one, book): default_detail(one) for one in desired.defaults}
    left, dropped = _left("defaultPrivilege", now, desired, book, _default_of)
    return [_renamed_default(one, desired) for one in left], dropped


def remembered_grants(book: ClaimBook) -> list[DesiredGrant]:
    """What the members' claims say they granted before; the snapshot has to show those objects too."""
    return _claimed("grant", book, _grant_of)


def left_grants(desired: Desired, book: ClaimBook) -> tuple[list[DesiredGrant], list[str]]:
    """Grants that were declared differently before, and the claims of those that are gone altogether."""
    now = {grant_key(grant, book): grant_detail(grant) for grant in desired.grants}
    left, dropped = _left("grant", now, desired, book, _grant_of)
    return [_renamed_grant(one, desired) for one in left], dropped


def _new_names(desired: Desired) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """What roles and schemas that are renamed will be called: claims may still say how they were."""
    roles = {role.renamed_from: role.name for role in desired.roles if role.renamed_from}
    return roles, {schema.renamed_from: schema.name for schema in desired.schemas if schema.renamed_from}


def _renamed_grant(grant: DesiredGrant, desired: Desired) -> DesiredGrant:
    roles, schemas = _new_names(desired)
    if not roles and not schemas:
        return grant

    def pairs(found: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        return tuple((schemas.get(schema, schema), name) for schema, name in found)

    def names(found: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(schemas.get(schema, schema) for schema in found)

    def function(signature: str) -> str:
        schema, _, rest = signature.partition(".")
        return f"{schemas.get(schema, schema)}.{rest}"

    target = grant.target
    target = replace(
        target,
        schemas=names(target.schemas),
        tables=pairs(target.tables),
        tables_in=names(target.tables_in),
        sequences=pairs(target.sequences),
        sequences_in=names(target.sequences_in),
        functions=tuple(function(signature) for signature in target.functions),
        functions_in=names(target.functions_in),
        columns=tuple((schemas.get(schema, schema), table, found) for schema, table, found in target.columns),
        types=pairs(target.types),
    )
    return replace(grant, target=target, to=tuple(roles.get(role, role) for role in grant.to))


def _renamed_default(default: DesiredDefault, desired: Desired) -> DesiredDefault:
    roles, schemas = _new_names(desired)
    return replace(
        default,
        creators=tuple(roles.get(role, role) for role in default.creators),
        schemas=tuple(schemas.get(schema, schema) for schema in default.schemas),
        to=tuple(roles.get(role, role) for role in default.to),
    )


def defaults_of_dropped_roles(desired: Desired) -> list[DesiredDefault]:
    """What roles that are to be dropped still get by default: it would keep them from being dropped."""
    gone = desired.remembered.dropped
    return [
        replace(one, to=tuple(role for role in one.to if role in gone))
        for one in desired.defaults
        if not one.absent and gone.intersection(one.to)
    ]


def grants_of_dropped_roles(desired: Desired) -> list[DesiredGrant]:
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
    left, _ = left_grants(desired, book)
    roles = {claim.object.removeprefix("role:") for claims in retired_roles(desired, book).values() for claim in claims}
    kept = {schema.name for schema in desired.schemas}
    schemas = {
        claim.object.removeprefix("schema:")
        for member in book.resources
        if prune.get(member)
        for claim in book.owned("schema:", member)
    }
    defaults, _ = left_defaults(desired, book)
    return Remembered(
        frozenset(roles),
        frozenset(schemas - kept),
        tuple(left),
        dropped_roles(desired, book),
        frozenset(retiring(desired, book).items()),
        tuple(defaults),
        remembered_tables(book) - {entry.key for entry in desired.row_security},
        left_tables(desired, book),
    )


def united(a: Remembered, b: Remembered) -> Remembered:
    """Both."""
    grants = tuple(dict.fromkeys((*a.grants, *b.grants)))
    return Remembered(
        a.roles | b.roles,
        a.schemas | b.schemas,
        grants,
        a.dropped | b.dropped,
        a.retiring | b.retiring,
        tuple(dict.fromkeys((*a.defaults, *b.defaults))),
        a.tables | b.tables,
        a.kept | b.kept,
    )
