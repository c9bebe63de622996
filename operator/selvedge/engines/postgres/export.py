"""A live server's databases as DatabaseSchemas: read like for a pass, converted, and planned against what was read.

Nothing is believed that was not looked at: the engine plans each manifest against its own database, and an entry that
would change something, or cannot be had, is taken out again and told of.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import psycopg
from pydantic import ValidationError

from selvedge.api import databaseschema, postgres_data
from selvedge.api.base import Model
from selvedge.api.databaseschema import DatabaseSchemaSpec
from selvedge.api.resource import explain
from selvedge.api.settings import settings_are_allowed
from selvedge.core.errors import InvalidError, SelvedgeError
from selvedge.core.postgres.audit import DesiredAudit
from selvedge.core.postgres.conventions import ColumnTrigger, DesiredConventions, SoftDelete
from selvedge.core.postgres.export import Exported, export_database, places_of_roles
from selvedge.core.postgres.export_names import Found
from selvedge.core.postgres.model import (
    AuthoritativeScope,
    Desired,
    DesiredDatabase,
    DesiredDefault,
    DesiredGrant,
    DesiredRole,
    DesiredSchema,
    GrantTarget,
)
from selvedge.core.postgres.partitions import DesiredPartitions
from selvedge.core.postgres.rights import quoted
from selvedge.core.postgres.rls_model import DesiredRowSecurity
from selvedge.core.postgres.tables import DesiredTables
from selvedge.core.reasons import Reason
from selvedge.core.unit import MemberResult, ObjectRef
from selvedge.engines.base import Member, Unit
from selvedge.engines.postgres.engine import PostgresEngine
from selvedge.engines.postgres.errors import DatabaseMissingError, statement_error
from selvedge.engines.postgres.export_logins import with_logins
from selvedge.engines.postgres.export_sql import Inventory, databases_statement, inventory_statement, parse_inventory
from selvedge.engines.postgres.looks import read_snapshot
from selvedge.engines.postgres.session import Session
from selvedge.engines.postgres.tables_compile import audit_roles

#: The list of ``spec.postgres`` whose entries a status names by this kind, and the entry's key.
_LISTS: Mapping[str, tuple[str, str]] = {
    "role": ("roles", "name"),
    "schema": ("schemas", "name"),
    "extension": ("extensions", "name"),
    "grant": ("grants", "name"),
    "defaultPrivilege": ("defaultPrivileges", "name"),
    "rowLevelSecurity": ("rowLevelSecurity", "table"),
    "partitions": ("partitions", "table"),
}
_MODELS: Mapping[str, type[Model]] = {
    "extensions": databaseschema.Extension,
    "schemas": databaseschema.PostgresSchema,
    "roles": databaseschema.PostgresRole,
    "grants": databaseschema.Grant,
    "defaultPrivileges": databaseschema.DefaultPrivilege,
    "rowLevelSecurity": postgres_data.RowLevelSecurity,
    "partitions": postgres_data.PartitionedTable,
}
#: What is one document and no list, with the kinds of object by which a status names parts of it.
_SINGLE: Mapping[str, tuple[type[Model], tuple[str, ...]]] = {
    "audit": (postgres_data.Audit, ("audit", "auditLog")),
    "conventions": (postgres_data.Conventions, ("conventions", "updatedAt", "version", "softDelete", "view")),
}
_ROUNDS = 4
_LACKING = 20
_NOBODY = "export"


async def export_server(
    engine: PostgresEngine, databases: Sequence[str] = ()
) -> tuple[list[Exported], list[SelvedgeError]]:
    """The databases of these names, or all that the login may connect to, each with its specs and notes.

    One that cannot be read or declared keeps no other from being exported: its error stands in the second list.
    Raises our errors where nothing can be said of any.
    """
    async with engine.maintenance() as session:
        there = cast("list[str]", json.loads(await _text(session, databases_statement(), "listing the databases")))
    missing = sorted(set(databases) - set(there))
    if missing:
        message = f"database {missing[0]} does not exist, is a template, or the login may not connect to it"
        raise InvalidError(Reason.INVALID_SPEC, f"{message}: these can be exported: {', '.join(there)}")
    found: list[Found] = []
    exported: list[Exported] = []
    errors: list[SelvedgeError] = []
    for name in sorted(set(databases)) or there:
        try:
            found.append(await _read(engine, name))
        except DatabaseMissingError as error:
            # One that was not named was dropped since they were listed, and is none of them any more.
            errors += [_about(name, InvalidError(Reason.INVALID_SPEC, str(error)))] if databases else []
        except SelvedgeError as error:
            errors.append(_about(name, error))
    here = places_of_roles(found, whole_server=not databases)
    for one in found:
        try:
            proven = await _proven(engine, one, export_database(one, here[one.database]))
            exported.append(await with_logins(engine, one, proven))
        except SelvedgeError as error:
            errors.append(_about(one.database, error))
    return exported, errors


def _about(database: str, error: SelvedgeError) -> SelvedgeError:
    return InvalidError(error.reason, f"database {database}: {error.message}")


async def _read(engine: PostgresEngine, database: str) -> Found:
    async with engine.pool.session(database) as session:
        statement = inventory_statement(engine.metadata_schema)
        inventory = parse_inventory(await _text(session, statement, f"looking at database {database}"))
        snapshot = await read_snapshot(session, _everything(database, inventory), engine.metadata_schema)
    engine.pool.done_with(database)
    return Found(
        database,
        snapshot,
        initial=inventory.initial,
        extensions=inventory.extensions,
        others=inventory.others,
    )


async def _text(session: Session, statement: Any, doing: str) -> str:
    try:
        rows = await session.run("snapshot", statement)
    except psycopg.Error as error:
        raise statement_error(error, doing) from None
    return cast("str", rows[-1][0][0])


def _everything(database: str, inventory: Inventory) -> Desired:
    """A declaration for which everything matters, so that the engine's own snapshot shows all of it."""
    targets = (
        GrantTarget(languages=inventory.languages),
        GrantTarget(servers=inventory.servers),
        GrantTarget(wrappers=inventory.wrappers),
    )
    kinds = ("table", "sequence", "function", "type", "schema")
    return Desired(
        DesiredDatabase(_NOBODY, database),
        schemas=tuple(DesiredSchema(_NOBODY, name) for name in inventory.schemas),
        roles=tuple(DesiredRole(_NOBODY, name) for name in inventory.roles),
        grants=tuple(DesiredGrant(_NOBODY, "", frozenset(), target, ()) for target in targets if target.names),
        authoritative=(AuthoritativeScope(_NOBODY, frozenset(), frozenset()),),
        row_security=tuple(DesiredRowSecurity(_NOBODY, *table) for table in inventory.protected),
        tables=DesiredTables(
            audits=tuple(
                DesiredAudit(_NOBODY, schema, *audit_roles(database), "Month", 1, application_log=True)
                for schema in inventory.audits
            ),
            conventions=DesiredConventions(
                (ColumnTrigger(_NOBODY, "", inventory.conventions),) if inventory.conventions else (),
                soft_delete=(SoftDelete(_NOBODY, "", inventory.conventions),) if inventory.conventions else (),
            ),
            partitions=tuple(
                DesiredPartitions(_NOBODY, ObjectRef("partitions", ".".join(table)), table, "", count=1)
                for table in inventory.partitioned
            ),
        ),
        defaults=tuple(DesiredDefault(_NOBODY, "", inventory.roles, (), kind, frozenset(), ()) for kind in kinds),
    )


# --- the proof ---


async def _proven(engine: PostgresEngine, found: Found, exported: Exported) -> Exported:
    """The same without what the engine would change or cannot have; each round takes out what the last one found."""
    notes = list(exported.notes)
    specs = tuple(_acceptable(spec, notes) for spec in exported.specs)
    claims = found.snapshot.claims.values()
    keepers = frozenset(claim.resource for claim in claims)
    cluster = min((claim.cluster for claim in claims), default=_NOBODY)
    if keepers:
        notes.append(
            f"the database is kept by DatabaseSchema {', '.join(sorted(keepers))} of cluster {cluster} already: under "
            "another name a manifest is a stranger to its objects; give that cluster with --cluster-uid"
        )
    for _ in range(_ROUNDS):
        try:
            results = await _plan(engine, found.database, specs, cluster, keepers)
        except SelvedgeError as error:
            if error.reason is not Reason.INSUFFICIENT_PRIVILEGES:
                raise
            # Who may read a database need not be let into the operator's own schema.
            notes.append(f"it was not planned against the database, as this login may not: {error.message}")
            return Exported(found.database, specs, tuple(notes))
        objections: dict[ObjectRef, str] = {}
        lacking: list[str] = []
        for result in results:
            _object(result, found.snapshot.me, objections, lacking)
        if not objections:
            notes += [f"to keep it, this login lacks a right: {text}" for text in lacking[:_LACKING]]
            return Exported(found.database, specs, tuple(notes))
        for ref, why in sorted(objections.items()):
            notes.append(f"{ref} is left out, since the database would not stay as it is: {why}")
        specs = tuple(_without(spec, objections) for spec in specs)
    message = f"it changes while it is being exported, or cannot be declared: {notes[-1]}"
    raise InvalidError(Reason.NOT_CONVERGED, message)


async def _plan(
    engine: PostgresEngine, database: str, specs: Iterable[dict[str, Any]], cluster: str, keepers: frozenset[str]
) -> Iterable[MemberResult]:
    """What the engine would do. The claims of this database's own keepers do not hold: it is about what is in it."""
    members = tuple(
        Member(f"{_NOBODY}-{number}", f"{_NOBODY}:", str(number), 1, str(number), _spec(database, spec))
        for number, spec in enumerate(specs)
    )
    unit = Unit(database, members, cluster, alive=lambda resource: resource not in keepers)
    return (await engine.plan(unit)).members.values()


def _acceptable(spec: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """The spec without what the API refuses whatever the server says: settings of a superuser above all."""
    kept = dict(spec)
    _allowed(kept, "settings", "the database", notes)
    for field, model in _MODELS.items():
        entries = []
        for entry in kept.pop(field, ()):
            if field == "roles":
                entry = dict(entry)
                _allowed(entry, "settings", f"role {entry['name']}", notes)
                _allowed(entry, "databaseSettings", f"role {entry['name']}", notes)
            if _valid(model, entry, f"{field} {entry.get('name') or entry['table']}", notes):
                entries.append(entry)
        if entries:
            kept[field] = entries
    for field, (model, _) in _SINGLE.items():
        if field in kept and not _valid(model, kept[field], field, notes):
            del kept[field]
    return kept


def _valid(model: type[Model], document: dict[str, Any], what: str, notes: list[str]) -> bool:
    """Whether the API takes it; else that is told."""
    try:
        model.model_validate(document, extra="forbid", by_alias=True, by_name=False)
    except ValidationError as error:
        notes.append(f"{what} is left out: {explain(error)}")
        return False
    return True


def _allowed(document: dict[str, Any], field: str, whose: str, notes: list[str]) -> None:
    settings = {}
    for name, value in document.pop(field, {}).items():
        try:
            settings_are_allowed({name: value})
        except ValueError as error:
            notes.append(f"of {whose}, {error}")
        else:
            settings[name] = value
    if settings:
        document[field] = settings


def _spec(database: str, postgres: dict[str, Any]) -> DatabaseSchemaSpec:
    document = {"serverRef": {"name": _NOBODY}, "database": database, "adoption": "Allow", "postgres": postgres}
    return DatabaseSchemaSpec.model_validate(document, extra="forbid", by_alias=True, by_name=False)


def _object(result: MemberResult, me: str, objections: dict[ObjectRef, str], lacking: list[str]) -> None:
    """Sort what the engine says of a manifest: what would change or cannot be had, and what the login may not do.

    The latter is about the login and not about the database; so is that it would make itself a member of roles first.
    """
    for change in result.pending:
        if not (change.ref.kind == "role" and change.statement.startswith("GRANT ") and quoted(me) in change.statement):
            objections[change.ref] = change.statement
    for problem in result.problems:
        if problem.reason is Reason.INSUFFICIENT_PRIVILEGES:
            lacking.append(problem.message)
        else:
            objections[problem.ref] = problem.message


def _without(spec: dict[str, Any], refs: Iterable[ObjectRef]) -> dict[str, Any]:
    kept = dict(spec)
    for ref in refs:
        if ref.kind == "database":
            kept.pop("owner", None)
            kept.pop("settings", None)
        for name, (_, kinds) in _SINGLE.items():
            if ref.kind in kinds:
                kept.pop(name, None)
        if ref.kind in _LISTS:
            field, key = _LISTS[ref.kind]
            entries = [entry for entry in kept.get(field, ()) if entry[key] != ref.name]
            if entries:
                kept[field] = entries
            else:
                kept.pop(field, None)
    return kept
