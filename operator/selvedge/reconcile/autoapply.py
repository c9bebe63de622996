"""``migrations.autoApply``: one MigrationRun for each state of the source, named after its digest.

The name makes the creation idempotent: a repeated pass, a restarted operator or two operators at once make no
second run.
"""

from __future__ import annotations

from typing import Any

from selvedge.api.databaseschema import Migrations
from selvedge.core.conditions import find
from selvedge.core.errors import TransientError
from selvedge.core.reasons import Reason
from selvedge.kube.errors import KubeExists
from selvedge.kube.resources import CONFIG_MAPS, MIGRATION_RUNS
from selvedge.reconcile.context import Context
from selvedge.reconcile.runboard import FINISHED, WAITING
from selvedge.reconcile.servers import Server
from selvedge.reconcile.sources import digest_of, read_files, source_of
from selvedge.reconcile.store import Object, Store, key_of, version_of

SCHEMA_LABEL = "selvedge.dev/schema"
_DIGITS = 10


async def apply_migrations(context: Context, obj: Object, migrations: Migrations, server: Server) -> str:
    """Make the run for the present source where there is none; returns what the database waits for, or nothing."""
    if not migrations.auto_apply:
        return ""
    namespace, name = key_of(obj)
    try:
        digest = await _digest(context, obj, migrations.target_version)
    except TransientError as error:
        return error.message
    run_name, run = run_for(context.store, namespace, name, digest, migrations.environment)
    if run is None:
        back = _taken_back(context, obj)
        if back is not None and not migrations.target_version:
            return (
                f"MigrationRun {key_of(back)[1]} took the database back, and autoApply does not undo that: set "
                "spec.migrations.targetVersion to the version to keep, or make a MigrationRun with action Up"
            )
        context.may_write()
        try:
            created = await context.kube.create(MIGRATION_RUNS, _manifest(obj, run_name, migrations))
            context.store.put(MIGRATION_RUNS.plural, created)
        except KubeExists:
            pass  # the watch has not shown it yet
        context.enqueue(("run", namespace, run_name))
        return f"MigrationRun {run_name} was made for the present migrations and has not finished"
    await _prune(context, obj, run_name, migrations.history_limit)
    status = run.get("status") or {}
    if status.get("phase") == "Succeeded":
        return ""
    if status.get("phase") == "Failed":
        return (
            f"MigrationRun {run_name} failed: see its status, then correct the migrations; where the cause was "
            "elsewhere, mend that and delete the run: it is made anew"
        )
    context.enqueue(("run", namespace, run_name))
    if status.get("phase") == WAITING:
        return f"MigrationRun {run_name} waits for a person: read its status, then set its spec.approvedPlan"
    return f"MigrationRun {run_name} has not finished"


def run_for(store: Store, namespace: str, name: str, digest: str, environment: str) -> tuple[str, Object | None]:
    """The run of this DatabaseSchema for a source and an environment, or the name that it is to have.

    It is named after the source alone, as by versions that knew no other name; after the environment as well where
    that name is taken by the run for another environment.
    """
    names = [f"{name[: 253 - _DIGITS - 1]}-{text[:_DIGITS]}" for text in (digest, digest_of({}, [digest, environment]))]
    runs = [store.get(MIGRATION_RUNS.plural, namespace, each) for each in names]
    for each, run in zip(names, runs, strict=True):
        if run is not None and (run.get("spec") or {}).get("environment", "") == environment:
            return each, run
    return names[0 if runs[0] is None else 1], None


def _taken_back(context: Context, obj: Object) -> Object | None:
    """The run by which a person took this database back, if nothing has gone forward since."""
    last = _last_change(context, obj)
    if last is None:
        return None
    ready = find(last["status"].get("conditions") or (), "Ready")
    return last if ready is not None and ready.reason == Reason.UNDONE else None


def _last_change(context: Context, obj: Object) -> Object | None:
    """The newest run that did anything to this database."""
    namespace, name = key_of(obj)
    ended = [
        run
        for run in context.store.all(MIGRATION_RUNS.plural)
        if run["metadata"].get("namespace") == namespace
        and ((run.get("spec") or {}).get("schemaRef") or {}).get("name") == name
        and (run.get("status") or {}).get("phase") == "Succeeded"
        and (run["status"].get("progress") or "0/0") != "0/0"
    ]
    return max(ended, key=lambda run: (str(run["status"].get("finishedAt")), _created(run)), default=None)


def _created(run: Object) -> tuple[str, int]:
    """Since when it is there. Times are whole seconds: within one, what was written last is the later one."""
    return str(run["metadata"].get("creationTimestamp", "")), version_of(run)


async def _digest(context: Context, obj: Object, target: str) -> str:
    """The digest of the source; ConfigMaps that are watched are read again only when they changed."""
    namespace = key_of(obj)[0]
    source = source_of(obj)
    versions = []
    for ref in source.get("configMaps") or ():
        seen = context.store.get(CONFIG_MAPS.plural, namespace, str(ref["name"]))
        versions.append(str(seen["metadata"].get("resourceVersion")) if seen else "")
    migrations = (obj.get("spec") or {}).get("migrations") or {}
    # other values, hooks or schemas are another run, as other files are
    beside = {name: migrations[name] for name in ("hooks", "placeholders", "schemas") if migrations.get(name)}
    # the generation stands for the spec, which may hold the files themselves: the text is not kept for that
    state, uid = [str(obj["metadata"].get("generation")), *versions], str(obj["metadata"]["uid"])
    known = context.sources.get(uid)
    if known is not None and all(versions) and known[0] == state:
        return known[1]
    if source.get("image"):
        # what is in it is known when a run has read it: another reference is another source, a tag that moves is not
        return digest_of({}, [source["image"], target, beside])
    digest = digest_of(await read_files(context, namespace, source), [target, beside] if beside else target)
    context.sources[uid] = (state, digest)
    return digest


def _manifest(obj: Object, name: str, migrations: Migrations) -> dict[str, Any]:
    metadata = obj["metadata"]
    owner = {
        "apiVersion": obj["apiVersion"],
        "kind": obj["kind"],
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
        "blockOwnerDeletion": False,
    }
    spec: dict[str, Any] = {"schemaRef": {"name": metadata["name"]}, "action": "Up"}
    if migrations.target_version:
        spec["target"] = migrations.target_version
    if migrations.environment:
        spec["environment"] = migrations.environment
    return {
        "metadata": {
            "name": name,
            "namespace": metadata["namespace"],
            "labels": {SCHEMA_LABEL: metadata["name"][:63]},
            "ownerReferences": [owner],
        },
        "spec": spec,
    }


async def _prune(context: Context, obj: Object, current: str, limit: int) -> None:
    """Delete finished runs that autoApply made, beyond ``historyLimit``; the history in the database stays.

    The last that did anything stays too: without it a Down before it would be taken for the last word.
    """
    uid = obj["metadata"]["uid"]
    last = _last_change(context, obj)
    kept = {current, last["metadata"]["name"]} if last is not None else {current}
    finished = [
        run
        for run in context.store.all(MIGRATION_RUNS.plural)
        if run["metadata"].get("namespace") == obj["metadata"]["namespace"]
        and run["metadata"]["name"] not in kept
        and any(owner.get("uid") == uid for owner in run["metadata"].get("ownerReferences") or ())
        and (run.get("status") or {}).get("phase") in FINISHED
    ]
    finished.sort(key=_created, reverse=True)
    for run in finished[max(0, limit - 1) :]:
        context.may_write()
        await context.kube.delete(MIGRATION_RUNS, *key_of(run))


def wake_runs(context: Context, obj: Object) -> None:
    """Unfinished runs of this DatabaseSchema may go on now."""
    namespace, name = key_of(obj)
    for run in context.store.all(MIGRATION_RUNS.plural):
        metadata = run["metadata"]
        ref = ((run.get("spec") or {}).get("schemaRef") or {}).get("name")
        waits = (run.get("status") or {}).get("phase") not in FINISHED
        if waits and ref == name and metadata.get("namespace") == namespace:
            context.enqueue(("run", namespace, str(metadata["name"])))
