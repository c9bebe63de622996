"""Default privileges of a live database as entries of ``defaultPrivileges``.

Declaring one also asks for the same privileges on what the creators own by now. So one is written down only where
those objects have them; the others are told of, since declaring them would change the database.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

from selvedge.core.names import PUBLIC, shorten
from selvedge.core.postgres.default_privileges import DefaultKey, LiveDefaults
from selvedge.core.postgres.export_names import Found, Notes, chunks, is_schema, shown, why_not_role
from selvedge.core.postgres.export_words import in_order, unique, verb
from selvedge.core.postgres.grants_wanted import base
from selvedge.core.postgres.model import AclGroup

_TYPES = {"table": "Tables", "sequence": "Sequences", "function": "Functions", "type": "Types", "schema": "Schemas"}
_SCHEMAS = 200
_ROLES = 64


class _One(NamedTuple):
    """One privilege of one grantee that differs from what Postgres gives by itself."""

    key: DefaultKey
    absent: bool
    grantable: bool
    grantee: str
    privilege: str


def exported_defaults(found: Found, notes: Notes) -> tuple[list[dict[str, Any]], list[tuple[str, str, str]]]:
    """The entries, and (kind, owner, privilege) that grants have to keep for PUBLIC beside them."""
    kept: list[_One] = []
    keep: list[tuple[str, str, str]] = []
    for one in sorted(_differing(found)):
        why = _why_not(one, found)
        if why:
            where = f" in schema {one.key.schema}" if one.key.schema else ""
            does = "take from" if one.absent else "give to"
            what = f"the default privileges of {one.key.creator}{where} that {does} {one.grantee}, on {one.key.kind}s,"
            notes.listed(what, why, one.privilege)
            continue
        kept.append(one)
        if one.absent and one.grantee == PUBLIC:
            keep.append((one.key.kind, one.key.creator, one.privilege))
    return _entries(kept), keep


def _differing(found: Found) -> Iterator[_One]:
    version = found.snapshot.version
    for key, held in found.snapshot.defaults.rows.items():
        built_in = LiveDefaults().of(key, version)
        for grantee, privileges in held.items():
            for privilege, grantable in privileges.items():
                known = privilege in built_in.get(grantee, {})
                if not known or (grantable and grantee != key.creator):
                    yield _One(key, False, grantable and grantee not in (PUBLIC, key.creator), grantee, privilege)
        for grantee, privileges in built_in.items():
            for privilege in privileges:
                if privilege not in held.get(grantee, {}):
                    yield _One(key, True, False, grantee, privilege)


def _why_not(one: _One, found: Found) -> str:
    for role in (one.key.creator, one.grantee):
        why = why_not_role(role)
        if why:
            return f"role {role} cannot be declared, {why}"
    if one.key.schema and (not is_schema(one.key.schema) or one.key.schema not in found.snapshot.schemas):
        return "the schema cannot be declared"
    if one.absent:
        return ""
    without = [
        shown((group.kind, group.schema, name))
        for group in found.snapshot.groups
        if group.kind == one.key.kind and _concerns(group, one.key) and not _has(group, one)
        for name in group.names
    ]
    if not without:
        return ""
    example = without[0] if len(without) == 1 else f"{without[0]} and {len(without) - 1} more"
    return f"{example} would be given it too; grant it there, and declare it then"


def _concerns(group: AclGroup, key: DefaultKey) -> bool:
    return (
        group.owner == key.creator and (not key.schema or key.schema == group.schema) and base(group.kind) == key.kind
    )


def _has(group: AclGroup, one: _One) -> bool:
    there = one.privilege in group.grants.get(one.grantee, frozenset())
    return there and (not one.grantable or one.privilege in group.options(one.grantee))


def _entries(found: list[_One]) -> list[dict[str, Any]]:
    privileges: defaultdict[tuple[str, bool, bool, str, DefaultKey], set[str]] = defaultdict(set)
    for one in found:
        privileges[one.key.kind, one.absent, one.grantable, one.grantee, one.key].add(one.privilege)
    schemas: defaultdict[tuple[str, bool, bool, str, str, bool, tuple[str, ...]], set[str]] = defaultdict(set)
    for (kind, absent, grantable, grantee, key), words in privileges.items():
        schemas[kind, absent, grantable, grantee, key.creator, not key.schema, in_order(words)].add(key.schema)
    grantees: defaultdict[tuple[str, bool, bool, str, tuple[str, ...], tuple[str, ...]], set[str]] = defaultdict(set)
    for (kind, absent, grantable, grantee, creator, _, listed), places in schemas.items():
        grantees[kind, absent, grantable, creator, tuple(sorted(places - {""})), listed].add(grantee)
    creators: defaultdict[tuple[str, bool, bool, tuple[str, ...], tuple[str, ...], tuple[str, ...]], set[str]]
    creators = defaultdict(set)
    for (kind, absent, grantable, creator, where, listed), receiving in grantees.items():
        creators[kind, absent, grantable, where, listed, tuple(sorted(receiving))].add(creator)
    kinds = list(_TYPES)
    taken: set[str] = set()
    documents = []
    for entry in sorted(creators, key=lambda entry: (kinds.index(entry[0]), *entry[1:])):
        kind, absent, grantable, where, listed, grantees_ = entry
        for by in chunks(sorted(creators[entry]), _ROLES):
            for some in chunks(grantees_, _ROLES):
                for within in chunks(where, _SCHEMAS) if where else ((),):
                    documents.append(_document(kind, absent, grantable, within, listed, some, by, taken))
    return documents


def _document(
    kind: str,
    absent: bool,
    grantable: bool,
    schemas: tuple[str, ...],
    privileges: tuple[str, ...],
    to: tuple[str, ...],
    creators: tuple[str, ...],
    taken: set[str],
) -> dict[str, Any]:
    where = schemas[0] if len(schemas) == 1 else _TYPES[kind].lower()
    words = [
        "no" if absent else "",
        verb(privileges, kind),
        where,
        to[0] if len(to) == 1 else f"{to[0]}-and-{len(to) - 1}",
    ]
    document: dict[str, Any] = {
        "name": unique(shorten("-".join(word for word in words if word)), taken),
        "creators": list(creators),
    }
    if schemas:
        document["schemas"] = list(schemas)
    document |= {"objectType": _TYPES[kind], "privileges": list(privileges), "to": list(to)}
    if grantable:
        document["grantOption"] = True
    if absent:
        document["ensure"] = "Absent"
    return document
