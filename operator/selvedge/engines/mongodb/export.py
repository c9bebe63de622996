"""A live server's databases as DatabaseSchemas: read like for a pass, converted, and planned against what was read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from pymongo.errors import OperationFailure

from selvedge.api.databaseschema import Collection, DatabaseSchemaSpec, Index
from selvedge.api.resource import explain
from selvedge.core.errors import InvalidError, SelvedgeError
from selvedge.core.mongodb.export import Exported, Found, FoundCollection, export_database
from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectRef
from selvedge.engines.base import Member, Unit
from selvedge.engines.mongodb.bson_json import to_json
from selvedge.engines.mongodb.connect import Server
from selvedge.engines.mongodb.engine import MongoEngine
from selvedge.engines.mongodb.inspect import Snapshot, snapshot

if TYPE_CHECKING:
    from selvedge.engines.base import Observer, ServerTarget

_SERVERS_OWN = ("admin", "config", "local")
_ROUNDS = 4
_NOBODY = "export"
_METADATA = "selvedge"


async def export_mongodb(
    target: ServerTarget, observer: Observer, databases: Sequence[str] = ()
) -> tuple[list[Exported], list[SelvedgeError]]:
    """The databases of these names, or all that the login sees, each with its specs and notes.

    One that cannot be read or declared keeps no other from being exported: its error stands in the second list.
    Raises our errors where nothing can be said of any.
    """
    server, engine = Server(target, observer), MongoEngine(target, observer, metadata_schema=_METADATA)
    try:
        await engine.probe()
        reply = await server.command(
            "admin", {"listDatabases": 1, "nameOnly": True, "authorizedDatabases": True}, _limit(server)
        )
        hidden = (*_SERVERS_OWN, _METADATA)
        there = sorted(entry["name"] for entry in reply["databases"] if entry["name"] not in hidden)
        missing = sorted(set(databases) - set(there))
        if missing:
            message = f"database {missing[0]} does not exist, belongs to MongoDB, or the login may not see it"
            raise InvalidError(Reason.INVALID_SPEC, f"{message}: these can be exported: {', '.join(there)}")
        exported: list[Exported] = []
        errors: list[SelvedgeError] = []
        for name in sorted(set(databases)) or there:
            try:
                exported.append(await _export(server, engine, name))
            except SelvedgeError as error:
                errors.append(InvalidError(error.reason, f"database {name}: {error.message}"))
        return exported, errors
    finally:
        await engine.close()
        await server.close()


def _limit(server: Server) -> float:
    return server.target.limits.statement_timeout


async def _export(server: Server, engine: MongoEngine, database: str) -> Exported:
    first = await snapshot(server, _METADATA, database, ())
    found = await snapshot(server, _METADATA, database, first.foreign)
    exported = export_database(await _found(server, database, found))
    return await _proven(engine, found, exported)


async def _found(server: Server, database: str, seen: Snapshot) -> Found:
    reply = await server.command(database, {"listCollections": 1, "cursor": {"batchSize": 100_000}}, _limit(server))
    options = {entry["name"]: to_json(entry.get("options") or {}) for entry in reply["cursor"]["firstBatch"]}
    collections = []
    for name in sorted(seen.foreign):
        live = seen.live.collections[name]
        indexes: Mapping[str, Mapping[str, Any]] = {}
        if live.kind != "view":
            listed = await server.command(database, {"listIndexes": name}, _limit(server))
            indexes = {entry["name"]: to_json(entry) for entry in listed["cursor"]["firstBatch"]}
        collections.append(FoundCollection(live, options.get(name, {}), indexes))
    others = [
        ("roles of the database are not exported by this version", await _names(server, database, "rolesInfo")),
        ("users are no part of a DatabaseSchema: declare DatabaseUsers", await _names(server, database, "usersInfo")),
    ]
    return Found(database, tuple(collections), tuple(others))


async def _names(server: Server, database: str, command: str) -> tuple[str, ...]:
    """The roles or users that the database holds; says so where the login may not look."""
    try:
        reply = await server.run(database, {command: 1}, _limit(server))
    except OperationFailure as error:
        if error.code != 13:
            raise server.error(error, command) from None
        return ("the login may not look at them",)
    key = "roles" if command == "rolesInfo" else "users"
    return tuple(entry["role" if key == "roles" else "user"] for entry in reply[key])


# --- the proof ---


async def _proven(engine: MongoEngine, found: Snapshot, exported: Exported) -> Exported:
    """The same without what the engine would change or cannot have; each round takes out what the last one found."""
    notes = list(exported.notes)
    specs = tuple(_acceptable(spec, notes) for spec in exported.specs)
    claims = found.claims.values()
    cluster = min((claim.cluster for claim in claims), default=_NOBODY)
    if claims:
        holders = ", ".join(sorted({claim.holder for claim in claims}))
        notes.append(
            f"the database is kept by DatabaseSchema {holders} of cluster {cluster} already: under another name a "
            "manifest is a stranger to its objects; give that cluster with --cluster-uid"
        )
    for _ in range(_ROUNDS):
        members = tuple(
            Member(f"{_NOBODY}-{number}", f"{_NOBODY}:", str(number), 1, str(number), _spec(exported.database, spec))
            for number, spec in enumerate(specs)
        )
        result = await engine.plan(Unit(exported.database, members, cluster, alive=lambda _: False))
        objections: dict[ObjectRef, str] = {}
        for member in result.members.values():
            objections.update({change.ref: change.statement for change in member.pending})
            objections.update({problem.ref: problem.message for problem in member.problems})
        if not objections:
            return Exported(exported.database, specs, tuple(notes))
        for ref, why in sorted(objections.items()):
            notes.append(f"{ref} is left out, since the database would not stay as it is: {why}")
        specs = tuple(_without(spec, frozenset(objections)) for spec in specs)
    message = f"it changes while it is being exported, or cannot be declared: {notes[-1]}"
    raise InvalidError(Reason.NOT_CONVERGED, message)


def _spec(database: str, mongodb: Mapping[str, Any]) -> DatabaseSchemaSpec:
    document = {"serverRef": {"name": _NOBODY}, "database": database, "adoption": "Allow", "mongodb": dict(mongodb)}
    return DatabaseSchemaSpec.model_validate(document, extra="forbid", by_alias=True, by_name=False)


def _acceptable(spec: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """The spec without what the API refuses: names with a dollar, above all."""
    collections = []
    for entry in spec.get("collections", ()):
        indexes = []
        for index in entry.get("indexes", ()):
            try:
                Index.model_validate(index, extra="forbid", by_alias=True, by_name=False)
            except ValidationError as error:
                notes.append(f"index {entry['name']}.{index['name']} is left out: {explain(error)}")
            else:
                indexes.append(index)
        kept = {key: value for key, value in entry.items() if key != "indexes"}
        try:
            Collection.model_validate(kept, extra="forbid", by_alias=True, by_name=False)
        except ValidationError as error:
            notes.append(f"collection {entry['name']} is left out: {explain(error)}")
        else:
            collections.append(kept | ({"indexes": indexes} if indexes else {}))
    return {"collections": collections} if collections else {}


def _without(spec: Mapping[str, Any], refs: frozenset[ObjectRef]) -> dict[str, Any]:
    collections = []
    for entry in spec.get("collections", ()):
        if ObjectRef("collection", entry["name"]) in refs:
            continue
        kept = dict(entry)
        indexes = [
            index
            for index in kept.pop("indexes", ())
            if ObjectRef("index", f"{entry['name']}.{index['name']}") not in refs
        ]
        collections.append(kept | ({"indexes": indexes} if indexes else {}))
    return {"collections": collections} if collections else {}
