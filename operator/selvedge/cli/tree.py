"""Servers, their DatabaseSchemas and the objects that are not as declared, as a tree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from selvedge.cli.output import clean
from selvedge.core.conditions import find
from selvedge.core.words import count
from selvedge.kube.client import KubeClient
from selvedge.kube.resources import DATABASE_SCHEMAS, DATABASE_SERVERS, MIGRATION_RUNS, Resource

_SHOWN = 10


async def read(kube: KubeClient, namespace: str | None) -> list[dict[str, Any]]:
    """What the cluster says: a document for each server with its schemas. Raises KubeError."""
    servers = {_key(obj): _node(obj, schemas=[]) async for obj in kube.list(DATABASE_SERVERS, namespace)}
    schemas: dict[tuple[str, str], dict[str, Any]] = {}
    async for obj in kube.list(DATABASE_SCHEMAS, namespace):
        spec = obj.get("spec") or {}
        status = obj.get("status") or {}
        reference = spec.get("serverRef") or {}
        at = (str(reference.get("namespace") or obj["metadata"]["namespace"]), str(reference.get("name")))
        node = schemas[_key(obj)] = _node(
            obj,
            database=spec.get("database"),
            objects=status.get("objects"),
            plan=status.get("plan"),
            notReady=status.get("notReady") or [],
            advice=status.get("advice") or [],
            migrationRuns=[],
        )
        if at not in servers:
            servers[at] = await _elsewhere(kube, *at)
        servers[at]["schemas"].append(node)
    async for obj in kube.list(MIGRATION_RUNS, namespace):
        reference = (obj.get("spec") or {}).get("schemaRef") or {}
        owner = schemas.get((str(obj["metadata"]["namespace"]), str(reference.get("name"))))
        if owner is not None:
            owner["migrationRuns"].append(_node(obj, progress=(obj.get("status") or {}).get("progress")))
    return [servers[at] for at in sorted(servers)]


async def _elsewhere(kube: KubeClient, namespace: str, name: str) -> dict[str, Any]:
    """A server in a namespace that was not asked for; whoever may not read it sees that it is there."""
    found = await _optional(kube, DATABASE_SERVERS, namespace, name)
    if found is not None:
        return _node(found, schemas=[])
    return {
        "kind": "DatabaseServer",
        "namespace": namespace,
        "name": name,
        "ready": None,
        "reason": "NotFound",
        "message": "it does not exist, or you may not read it",
        "schemas": [],
    }


async def _optional(kube: KubeClient, resource: Resource, namespace: str, name: str) -> dict[str, Any] | None:
    from selvedge.kube.errors import KubeError

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
        **more,
    }


def all_ready(servers: list[dict[str, Any]]) -> bool:
    """Whether each server and each DatabaseSchema is Ready."""
    return all(node["ready"] is True for server in servers for node in (server, *server["schemas"]))


def lines(servers: list[dict[str, Any]]) -> Iterator[str]:
    """The tree for people: one line for each thing, and below it what is wrong."""
    if not servers:
        yield "no DatabaseServer and no DatabaseSchema here: see another namespace with -n, or all with -A"
    for server in servers:
        yield _line("", server)
        for schema in server["schemas"]:
            yield _line("  ", schema, f"database {schema['database']}")
            for problem in schema["notReady"][:_SHOWN]:
                yield f"    {problem['kind']} {clean(problem['name'])}: {problem['state']}: {clean(problem['message'])}"
            if len(schema["notReady"]) > _SHOWN:
                yield f"    … and {len(schema['notReady']) - _SHOWN} more: -o json shows them"
            if (schema["plan"] or {}).get("digest"):
                changes = int(schema["plan"]["changes"])
                waits = f"{count(changes, 'change')} {'waits' if changes == 1 else 'wait'}"
                yield f"    {waits}: `kubectl selvedge plan {schema['name']}`"
            for run in schema["migrationRuns"]:
                if run["ready"] is not True:
                    yield _line("    ", run, str(run["progress"] or ""))
            for advice in schema["advice"]:
                yield f"    advice: {clean(advice)}"


_WORDS = {True: "Ready", False: "NotReady", None: "Unknown"}


def _line(indent: str, node: Mapping[str, Any], what: str = "") -> str:
    head = f"{indent}{node['kind']} {node['namespace']}/{node['name']}" + (f" ({clean(what)})" if what else "")
    verdict = f"{head}: {_WORDS[node['ready']]}, {node['reason']}"
    return verdict if node["ready"] is True else f"{verdict}: {clean(node['message'])}"
