"""What a server is: version, role, members, and what the operator's user may not do on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pymongo import ReadPreference
from pymongo.errors import OperationFailure, PyMongoError

from selvedge.core.errors import InvalidError
from selvedge.core.reasons import Reason
from selvedge.engines.base import ReplicaState, ServerFacts
from selvedge.engines.mongodb import claims, lock
from selvedge.engines.mongodb.errors import UNAUTHORIZED
from selvedge.engines.mongodb.figures import SERVER_STATUS, figures_of
from selvedge.engines.mongodb.shell import granting

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from selvedge.engines.mongodb.connect import Doc, Server

MINIMUM = (6, 0)
_INTERNAL = frozenset({"admin", "config", "local"})
_DATA = frozenset(
    {"find", "insert", "update", "remove", "listCollections", "listIndexes", "createCollection", "createIndex"}
    | {"dropIndex", "collMod", "dropCollection"}
)
_DOCUMENTS = frozenset({"find", "insert", "update", "remove"})
_USERS = frozenset({"createUser", "dropUser", "grantRole", "revokeRole", "viewUser", "createRole", "viewRole"})
_CLUSTER = frozenset({"replSetGetStatus", "replSetGetConfig", "serverStatus"})


# NoReplicationEnabled; a mongos does not know the command.
_NO_REPLICATION = frozenset({76, 59})


class _NoReplicationError(Exception):
    """The server is no member of a replica set."""


async def probe(server: Server, metadata: str) -> ServerFacts:
    """Log in and look; ``metadata`` is the operator's own database.

    Raises InvalidError UnsupportedVersion below MongoDB 6, and what the connection gives.
    """
    build = await _any_member(server, {"buildInfo": 1})
    version = str(build["version"])
    if tuple(build.get("versionArray", [0, 0]))[:2] < MINIMUM:
        raise InvalidError(
            Reason.UNSUPPORTED_VERSION, f"{server.where} is MongoDB {version}; 6.0 or later is needed: upgrade it"
        )
    hello = await _any_member(server, {"hello": 1})
    status = await _any_member(server, {"connectionStatus": 1, "showPrivileges": True})
    role = "Standalone"
    if hello.get("setName"):
        role = "Primary" if hello.get("isWritablePrimary") else "Standby"
    elif hello.get("msg") == "isdbgrid":
        role = "Primary"
    members = await _allowed(server, {"replSetGetStatus": 1}) if hello.get("setName") else None
    return ServerFacts(
        version=version,
        role=role,
        system_identifier=await system_identifier(server),
        replicas=_replicas(hello, members) if hello.get("setName") else (),
        capabilities=_capabilities(build, hello),
        missing_privileges=missing_privileges(status["authInfo"], server.target.auth_source, metadata),
        figures=figures_of(await _allowed(server, SERVER_STATUS), members),
    )


async def system_identifier(server: Server) -> str:
    """What tells this replica set from every other: its id, or its name where that may not be read.

    A standalone server has neither, and says so by an empty text.
    """
    try:
        config = await _allowed(server, {"replSetGetConfig": 1})
    except _NoReplicationError:
        return ""
    identifier = ((config or {}).get("config") or {}).get("settings", {}).get("replicaSetId")
    if identifier is not None:
        return str(identifier)
    return str((await _any_member(server, {"hello": 1})).get("setName") or "")


def missing_privileges(auth: Mapping[str, Any], source: str, metadata: str) -> tuple[str, ...]:
    """The commands for an administrator, from ``connectionStatus`` with privileges. A server without users needs none.

    Rights on one database that is not the server's own are enough: what it may do beyond them, it does not need. The
    documents of ``metadata``, the operator's own database, it has to read and write in any case.
    """
    users = auth.get("authenticatedUsers") or []
    if not users:
        return ()
    granted = auth.get("authenticatedUserPrivileges") or []
    everywhere = _actions(entry for entry in granted if _anywhere(entry["resource"]))
    roles: list[tuple[str, str]] = []
    for needed, role in ((_DATA, "readWriteAnyDatabase"), (_USERS, "userAdminAnyDatabase")):
        databases = {entry["resource"].get("db", "") for entry in granted} - _INTERNAL - {"", metadata}
        somewhere = any(
            needed <= everywhere | _actions(e for e in granted if e["resource"].get("db") == name) for name in databases
        )
        if not needed <= everywhere and not somewhere:
            roles += [(name, "admin") for name in ([role, "dbAdminAnyDatabase"] if needed is _DATA else [role])]
    if ("readWriteAnyDatabase", "admin") not in roles and not all(
        everywhere | _actions(e for e in granted if _on(e["resource"], metadata, collection)) >= _DOCUMENTS
        for collection in (claims.COLLECTION, lock.COLLECTION)
    ):
        roles.append(("readWrite", metadata))
    cluster = _actions(e for e in granted if e["resource"].get("cluster") or e["resource"].get("anyResource"))
    if not cluster >= _CLUSTER:
        roles.append(("clusterMonitor", "admin"))
    if not roles:
        return ()
    user, database = users[0]["user"], users[0].get("db", source)
    return (granting(database, user, roles),)


def _anywhere(resource: Mapping[str, Any]) -> bool:
    return bool(resource.get("anyResource")) or (resource.get("db") == "" and resource.get("collection") == "")


def _on(resource: Mapping[str, Any], database: str, collection: str) -> bool:
    return resource.get("db") == database and resource.get("collection") in ("", collection)


def _actions(entries: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    actions: set[str] = set()
    for entry in entries:
        actions.update(_DATA | _USERS | _CLUSTER if "anyAction" in entry["actions"] else entry["actions"])
    return frozenset(actions)


def _replicas(hello: Mapping[str, Any], status: Doc | None) -> tuple[ReplicaState, ...]:
    """The members besides the primary; without the right to ask (``status`` None), those that hello names."""
    if status is None:
        hosts = [host for host in hello.get("hosts", []) if host != hello.get("primary")]
        return tuple(ReplicaState(host, "Reachable") for host in sorted(hosts))
    states = {"SECONDARY": "Streaming", "RECOVERING": "Reachable", "STARTUP2": "Reachable", "ROLLBACK": "Reachable"}
    members = [member for member in status["members"] if member["stateStr"] not in ("PRIMARY", "ARBITER")]
    return tuple(
        ReplicaState(member["name"], states.get(member["stateStr"], "Unreachable"))
        for member in sorted(members, key=lambda member: str(member["name"]))
    )


def _capabilities(build: Mapping[str, Any], hello: Mapping[str, Any]) -> tuple[str, ...]:
    found = {"CollMod", "PrepareUnique", "TimeSeries"}
    if hello.get("setName") or hello.get("msg") == "isdbgrid":
        found |= {"Transactions", "MajorityWrites"}
    if hello.get("msg") == "isdbgrid":
        found.add("Sharded")
    if "enterprise" in (build.get("modules") or ()):
        found.add("Enterprise")
    return tuple(sorted(found))


async def _any_member(server: Server, command: Doc) -> Doc:
    """Ask the primary, or a secondary where there is none at the moment: that is an answer too."""
    client = await server.client()
    try:
        reply: Doc = await client.admin.command(
            command | {"maxTimeMS": int(server.target.limits.statement_timeout * 1000)},
            read_preference=ReadPreference.PRIMARY_PREFERRED,
        )
    except (PyMongoError, OSError) as error:
        raise server.error(error, next(iter(command))) from None
    return reply


async def _allowed(server: Server, command: Doc) -> Doc | None:
    """The answer, or None where the user may not ask: missing_privileges says so."""
    client = await server.client()
    try:
        reply: Doc = await client.admin.command(command, read_preference=ReadPreference.PRIMARY_PREFERRED)
    except OperationFailure as error:
        if error.code == UNAUTHORIZED:
            return None
        if error.code in _NO_REPLICATION:
            raise _NoReplicationError from None
        raise server.error(error, next(iter(command))) from None
    except (PyMongoError, OSError) as error:
        raise server.error(error, next(iter(command))) from None
    return reply
