"""A live Postgres database as the ``spec.postgres`` of DatabaseSchemas whose plan against it is empty; pure.

Each part has a converter of its own: from the snapshot to entries in the manifest's words, with a note for whatever
exists and cannot be declared. A part that is added to the API gets one more line in :func:`export_database`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from selvedge.core.postgres.export_defaults import exported_defaults
from selvedge.core.postgres.export_grants import exported_grants
from selvedge.core.postgres.export_kept import exported_audit, exported_conventions
from selvedge.core.postgres.export_names import Found, Notes, chunks, is_identifier, is_schema, names, why_not_role
from selvedge.core.postgres.export_roles import (
    MAX_COMMENT,
    exported_roles,
    exported_settings,
    relevant_roles,
)
from selvedge.core.postgres.export_tables import exported_partitions, exported_row_security

#: How many entries each list of one DatabaseSchema may have; what is more goes into a further one.
_LIMITS: Mapping[str, int] = {
    "extensions": 64,
    "schemas": 200,
    "roles": 200,
    "grants": 500,
    "defaultPrivileges": 200,
    "rowLevelSecurity": 200,
    "partitions": 200,
}
_PUBLIC_OWNER, _PUBLIC_COMMENT = "pg_database_owner", "standard public schema"


@dataclass(frozen=True, slots=True)
class Exported:
    """One database: ``spec.postgres`` of each DatabaseSchema that is needed for it, and what is left out.

    ``logins`` are the specs of DatabaseUsers, without ``schemaRef``; ``login_notes`` what is left out of these.
    """

    database: str
    specs: tuple[dict[str, Any], ...]
    notes: tuple[str, ...] = ()
    logins: tuple[dict[str, Any], ...] = ()
    login_notes: tuple[str, ...] = ()


def places_of_roles(databases: Iterable[Found], *, whole_server: bool) -> dict[str, frozenset[str]]:
    """By database the roles that its DatabaseSchema declares: each in one only, since roles are the server's.

    That is the first database where it has settings, else the first where it may do something. ``whole_server``: roles
    that may do nothing anywhere are declared in the first.
    """
    found = list(databases)
    chosen: dict[str, str] = {}
    relevant = {one.database: relevant_roles(one) for one in found}
    for one in found:
        for name, role in one.snapshot.roles.items():
            if role.database_settings and name in relevant[one.database]:
                chosen.setdefault(name, one.database)
    for one in found:
        for name in relevant[one.database]:
            chosen.setdefault(name, one.database)
    if whole_server and found:
        for name in found[0].snapshot.roles:
            chosen.setdefault(name, found[0].database)
    return {one.database: frozenset(name for name, at in chosen.items() if at == one.database) for one in found}


def export_database(found: Found, here: frozenset[str]) -> Exported:
    """The specs of one database; ``here`` are the roles that it declares (:func:`places_of_roles`)."""
    notes = Notes()
    owner = _owner(found, notes)
    defaults, keep = exported_defaults(found, notes)
    audit, conventions = exported_audit(found, notes), exported_conventions(found, notes)
    audited = str(audit.get("schema", ""))
    parts: dict[str, list[dict[str, Any]]] = {
        "extensions": _extensions(found, notes),
        "schemas": _schemas(found, owner, audited, notes),
        "roles": exported_roles(found, relevant_roles(found) | here, here, notes),
        "grants": exported_grants(found, keep, notes),
        "defaultPrivileges": defaults,
        "rowLevelSecurity": exported_row_security(found, notes),
        "partitions": exported_partitions(found, notes, audited),
    }
    head: dict[str, Any] = {"owner": owner} if owner else {}
    settings = exported_settings(found.snapshot.database_settings, f"database {found.database}", notes)
    _others(found, notes)
    once = {"settings": settings, "audit": audit, "conventions": conventions}
    return Exported(found.database, _split(head, once, parts), notes.all())


def _split(
    head: dict[str, Any], once: Mapping[str, Mapping[str, Any]], parts: Mapping[str, list[dict[str, Any]]]
) -> tuple[dict[str, Any], ...]:
    """As many specs as the limits of the API ask for; nearly always one. ``once`` stands in the first only."""
    pieces = {name: list(chunks(entries, _LIMITS[name])) for name, entries in parts.items()}
    specs = []
    for number in range(max([1, *(len(found) for found in pieces.values())])):
        spec = dict(head)
        if number == 0:
            spec |= {name: dict(one) for name, one in once.items() if one}
        for name, found in pieces.items():
            if number < len(found):
                spec[name] = list(found[number])
        specs.append(spec)
    return tuple(specs)


def _owner(found: Found, notes: Notes) -> str:
    """The database's owner; empty for the login itself, which is the owner where none is declared."""
    owner = found.snapshot.database_owner
    if owner == found.snapshot.me:
        return ""
    why = why_not_role(owner)
    if why:
        notes.add(f"the database's owner {owner} is not declared: {why}")
        return ""
    return owner


def _extensions(found: Found, notes: Notes) -> list[dict[str, Any]]:
    documents: list[dict[str, Any]] = []
    for name, (version, schema) in sorted(found.snapshot.extensions.items()):
        if (name, schema) == ("plpgsql", "pg_catalog"):
            continue  # every new database has it
        if not is_identifier(name):
            notes.listed("extension", "the API does not take the name", name)
            continue
        document: dict[str, Any] = {"name": name}
        known = found.extensions.get(name)
        # The control file's own schema needs no word, and neither does public, which is our choice for all others.
        if schema != "public" and not (known and known.home):
            if is_schema(schema):
                document["schema"] = schema
            else:
                notes.listed("the schema of extension", "the API does not take its name", name)
        if known and known.default and known.default != version:
            document["version"] = version
        documents.append(document)
    if "plpgsql" not in found.snapshot.extensions:
        documents.append({"name": "plpgsql", "ensure": "Absent"})
    return documents


def _schemas(found: Found, database_owner: str, audited: str, notes: Notes) -> list[dict[str, Any]]:
    snapshot, own = found.snapshot, found.own_roles()
    documents: list[dict[str, Any]] = []
    for name, (owner, comment) in sorted(snapshot.schemas.items()):
        if ("schema", "", name) in found.initial:
            continue  # CREATE EXTENSION makes it
        if name == "public" and (owner, comment or _PUBLIC_COMMENT) == (_PUBLIC_OWNER, _PUBLIC_COMMENT):
            continue
        if owner in own:
            _audits_schema(name, audited, notes)
            continue
        if not is_schema(name):
            notes.listed("schema", "the API does not take the name", name)
            continue
        document: dict[str, Any] = {"name": name}
        inherited = "" if name == "public" else database_owner
        why = why_not_role(owner)
        # Where nothing is declared, the login that makes it has it, and nobody looks at it afterwards.
        implied = not inherited and (owner == snapshot.me or (name == "public" and owner == _PUBLIC_OWNER))
        if why and not implied:
            if inherited:
                notes.add(f"schema {name} is not declared: its owner {owner} cannot be, {why}")
                continue
            notes.listed("the owner of schema", f"role {owner} cannot be declared, {why}", name)
        elif owner != inherited and not implied:
            document["owner"] = owner
        if comment and (name, comment) != ("public", _PUBLIC_COMMENT):
            if len(comment) <= MAX_COMMENT:
                document["comment"] = comment
            else:
                notes.listed("the comment of schema", f"the API takes {MAX_COMMENT} characters", name)
        documents.append(document)
    if "public" not in snapshot.schemas:
        documents.append({"name": "public", "ensure": "Absent"})
    return documents


def _audits_schema(name: str, audited: str, notes: Notes) -> None:
    """A schema that the audit makes needs no word where the audit is declared."""
    if name != audited:
        notes.listed("schema", "the operator's own role has it, for an audit: declare audit", name)


def _others(found: Found, notes: Notes) -> None:
    for what, listed in found.others:
        if listed:
            notes.add(f"{what}: {names(listed)}")
