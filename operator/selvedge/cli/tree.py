"""Servers, their DatabaseSchemas with logins and runs, and the objects that are not as declared, as a tree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from selvedge.cli.output import clean
from selvedge.core.conditions import find
from selvedge.core.words import count
from selvedge.kube.client import KubeClient
from selvedge.kube.errors import KubeError
from selvedge.kube.resources import DATABASE_SCHEMAS, DATABASE_SERVERS, DATABASE_USERS, MIGRATION_RUNS, Resource

_SHOWN = 10


async def read(kube: KubeClient, namespace: str | None) -> list[dict[str, Any]]:
    """What the cluster says, as :func:`build` puts it together. Raises KubeError."""
    kinds = (DATABASE_SERVERS, DATABASE_SCHEMAS, DATABASE_USERS, MIGRATION_RUNS)
    objects = [obj for resource in kinds for obj in [one async for one in kube.list(resource, namespace)]]
    known = {_key(obj) for obj in objects if obj["kind"] == DATABASE_SERVERS.kind}
    named = {_server_key(obj) for obj in objects if obj["kind"] == DATABASE_SCHEMAS.kind}
    for at in sorted(named - known):
        found = await _optional(kube, DATABASE_SERVERS, *at)
        if found is not None:
            objects.append(found)
    return build(objects)


def build(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A document for each server, with its DatabaseSchemas, their logins and their runs; pure.

    What is referred to and not among ``objects`` is there as not found, so that nothing is left out.
    """
    servers: dict[tuple[str, str], dict[str, Any]] = {}
    schemas: dict[tuple[str, str], dict[str, Any]] = {}
    for obj in (one for one in objects if one["kind"] == DATABASE_SERVERS.kind):
        servers[_key(obj)] = _server(obj)
    for obj in (one for one in objects if one["kind"] == DATABASE_SCHEMAS.kind):
        at = _server_key(obj)
        if at not in servers:
            servers[at] = _absent("DatabaseServer", *at, **_NO_SERVER, schemas=[])
        schemas[_key(obj)] = _node(obj, **_contents(obj.get("spec") or {}, obj.get("status") or {}))
        servers[at]["schemas"].append(schemas[_key(obj)])
    for obj in objects:
        status = obj.get("status") or {}
        if obj["kind"] == DATABASE_USERS.kind:
            login = {key: status.get(key) for key in ("currentUsername", "previousUsername", "nextRotationTime")}
            _schema_of(obj, servers, schemas)["users"].append(_node(obj, **login))
        elif obj["kind"] == MIGRATION_RUNS.kind:
            run = {key: status.get(key) for key in ("phase", "progress", "version")}
            _schema_of(obj, servers, schemas)["migrationRuns"].append(_node(obj, **run))
    return [servers[at] for at in sorted(servers)]


def _server_key(schema: Mapping[str, Any]) -> tuple[str, str]:
    reference = (schema.get("spec") or {}).get("serverRef") or {}
    return str(reference.get("namespace") or schema["metadata"]["namespace"]), str(reference.get("name"))


def _contents(spec: Mapping[str, Any], status: Mapping[str, Any]) -> dict[str, Any]:
    """What is shown of a DatabaseSchema beside its condition."""
    return {
        "database": spec.get("database"),
        "objects": status.get("objects"),
        "plan": status.get("plan"),
        "notReady": status.get("notReady") or [],
        "rowLevelSecurity": status.get("rowLevelSecurity") or [],
        "advice": status.get("advice") or [],
        "users": [],
        "migrationRuns": [],
    }


def _server(obj: Mapping[str, Any]) -> dict[str, Any]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    return _node(
        obj,
        engine=spec.get("engine"),
        version=status.get("version"),
        role=status.get("role"),
        replicas=status.get("replicas") or [],
        missingPrivileges=[str(missing.get("statement")) for missing in status.get("missingPrivileges") or ()],
        schemas=[],
    )


def _schema_of(
    obj: Mapping[str, Any],
    servers: dict[tuple[str, str], dict[str, Any]],
    schemas: dict[tuple[str, str], dict[str, Any]],
) -> dict[str, Any]:
    """The node of the DatabaseSchema that a login or run names."""
    reference = (obj.get("spec") or {}).get("schemaRef") or {}
    at = (str(obj["metadata"]["namespace"]), str(reference.get("name")))
    if at not in schemas:
        schemas[at] = _absent("DatabaseSchema", *at, **_contents({}, {}))
        nowhere = servers.setdefault((at[0], ""), _absent("DatabaseServer", at[0], "", **_NO_SERVER, schemas=[]))
        nowhere["schemas"].append(schemas[at])
    return schemas[at]


_NO_SERVER: dict[str, Any] = {
    "engine": None,
    "version": None,
    "role": None,
    "replicas": (),
    "missingPrivileges": (),
}


def _absent(kind: str, namespace: str, name: str, **more: Any) -> dict[str, Any]:
    """What is referred to, and not there or not to be seen."""
    return {
        "kind": kind,
        "namespace": namespace,
        "name": name,
        "ready": None,
        "reason": "NotFound",
        "message": "it does not exist, or you may not read it",
        "nextRetryTime": None,
        "deleting": False,
        **more,
    }


async def _optional(kube: KubeClient, resource: Resource, namespace: str, name: str) -> dict[str, Any] | None:
    """A server in a namespace that was not asked for; None too for whoever may not read it."""
    try:
        return await kube.get(resource, namespace, name)
    except KubeError as error:
        if error.code != 403:
            raise
        return None


def _key(obj: Mapping[str, Any]) -> tuple[str, str]:
    return str(obj["metadata"]["namespace"]), str(obj["metadata"]["name"])


def _node(obj: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    status = obj.get("status") or {}
    ready = find(status.get("conditions") or (), "Ready")
    current = status.get("observedGeneration") == obj["metadata"].get("generation")
    namespace, name = _key(obj)
    return {
        "kind": obj["kind"],
        "namespace": namespace,
        "name": name,
        "ready": ready.status if ready is not None and current else None,
        "reason": (ready.reason if ready is not None else "NotSeen") if current else "NotSeen",
        "message": ready.message if ready is not None and current else "the operator has not looked at it yet",
        "nextRetryTime": status.get("nextRetryTime"),
        "deleting": bool(obj["metadata"].get("deletionTimestamp")),
        **more,
    }


def all_ready(servers: list[dict[str, Any]]) -> bool:
    """Whether each server, each DatabaseSchema and each DatabaseUser is Ready; what runs did before is history."""
    return all(
        node["ready"] is True
        for server in servers
        for schema in (None, *server["schemas"])
        for node in ((server,) if schema is None else (schema, *schema["users"]))
    )


def lines(servers: list[dict[str, Any]]) -> Iterator[str]:
    """The tree for people: one line for each thing, and below it what is wrong."""
    if not servers:
        yield "no DatabaseServer and no DatabaseSchema here: see another namespace with -n, or all with -A"
    for server in servers:
        if server["name"]:
            yield _line("", server, " ".join(str(server[key]) for key in ("engine", "version", "role") if server[key]))
        for statement in server["missingPrivileges"]:
            yield f"  to run on the server: {clean(statement)};"
        for replica in server["replicas"]:
            if replica.get("state") == "Unreachable":
                yield f"  replica {clean(str(replica.get('host')))}: Unreachable"
        for schema in server["schemas"]:
            yield from _schema_lines(schema)


def _schema_lines(schema: Mapping[str, Any]) -> Iterator[str]:
    ready = int((schema["objects"] or {}).get("ready") or 0)
    objects = f", {count(ready, 'object')}" if ready else ""
    yield _line("  ", schema, f"database {schema['database']}{objects}" if schema["database"] else "")
    for problem in schema["notReady"][:_SHOWN]:
        yield f"    {problem['kind']} {clean(problem['name'])}: {problem['state']}: {clean(problem['message'])}"
    if len(schema["notReady"]) > _SHOWN:
        yield f"    … and {len(schema['notReady']) - _SHOWN} more: -o json shows them"
    if (schema["plan"] or {}).get("digest"):
        changes = int(schema["plan"]["changes"])
        risks = ", ".join(f"{number} {risk}" for risk, number in (schema["plan"].get("risks") or {}).items() if number)
        waits = f"{count(changes, 'change')} {'waits' if changes == 1 else 'wait'}" + (f" ({risks})" if risks else "")
        yield f"    {waits}: `kubectl selvedge plan {schema['name']}`"
    for table in schema["rowLevelSecurity"]:
        failed = int((table.get("probes") or {}).get("failed") or 0)
        if failed:
            yield f"    row-level security of {clean(table['table'])}: {count(failed, 'probe')} failed"
    for user in schema["users"]:
        yield _line("    ", user, f"login {user['currentUsername']}" if user["currentUsername"] else "")
    for run in schema["migrationRuns"]:
        if run["ready"] is not True:
            yield _line("    ", run, str(run["progress"] or ""))
    for advice in schema["advice"]:
        yield f"    advice: {clean(advice)}"


_WORDS = {True: "Ready", False: "NotReady", None: "Unknown"}


def _line(indent: str, node: Mapping[str, Any], what: str = "") -> str:
    head = f"{indent}{node['kind']} {node['namespace']}/{node['name']}" + (f" ({clean(what)})" if what else "")
    verdict = f"{head}: {_WORDS[node['ready']]}, {node['reason']}" + (", being deleted" if node["deleting"] else "")
    if node["ready"] is True:
        return verdict
    retried = f" (tried again at {node['nextRetryTime']})" if node["nextRetryTime"] else ""
    return f"{verdict}: {clean(node['message'])}{retried}"
