"""The finalizer, only where a deletion has work to do (``deletionPolicy: Delete``), and that work.

It is set and taken away by whoever answers for the resource, and by nobody else: a second operator that took it away
would let a resource go whose database still holds what it made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog

from selvedge.core.backoff import delay
from selvedge.core.errors import SelvedgeError
from selvedge.kube.errors import KubeConflict, KubeError
from selvedge.kube.resources import DATABASE_SCHEMAS, DATABASE_USERS, FINALIZER, GROUP, Resource
from selvedge.reconcile.context import Context
from selvedge.reconcile.databaseschema import remove_schema
from selvedge.reconcile.databaseuser import remove_user
from selvedge.reconcile.finalizer import has_work, is_due, without
from selvedge.reconcile.outcome import from_error
from selvedge.reconcile.shards import server_behind
from selvedge.reconcile.store import Object, key_of

#: Lets a resource go whose server does not answer, with everything that it made left behind.
ABANDON = f"{GROUP}/abandon"

_KINDS = {resource.plural: resource for resource in (DATABASE_SCHEMAS, DATABASE_USERS)}
_REMOVALS = {DATABASE_SCHEMAS.plural: remove_schema, DATABASE_USERS.plural: remove_user}
_GONE = 404
_AGAIN_SECONDS = 0.2

_log = structlog.stdlib.get_logger("selvedge.reconcile.removal")


def abandoned(obj: Mapping[str, Any]) -> bool:
    """Whether somebody said to let it go without cleaning up."""
    return (obj["metadata"].get("annotations") or {}).get(ABANDON) == "true"


async def reconcile_removal(context: Context, namespace: str, name: str, plural: str) -> None:
    """One pass over the finalizer of a resource; raises KubeError where the Kubernetes API fails."""
    resource = _KINDS[plural]
    obj = context.store.get(plural, namespace, name)
    key = ("removal", namespace, name, plural)
    if obj is None or not is_due(resource, obj):
        context.failures.pop(key, None)
        return
    held = list(obj["metadata"].get("finalizers") or ())
    if not obj["metadata"].get("deletionTimestamp"):
        wanted = [*held, FINALIZER] if has_work(obj) else without(obj)
    else:
        if has_work(obj) and not abandoned(obj) and not await _removed(context, resource, obj, key):
            return
        wanted = without(obj)
    await _write(context, resource, obj, wanted, key)


def wake_removals(context: Context, server: tuple[str, str]) -> None:
    """A server is usable now: what is being deleted on it need not wait for its next turn."""
    for plural in _KINDS:
        for obj in context.store.all(plural):
            if obj["metadata"].get("deletionTimestamp") and server_behind(context.store, plural, obj) == server:
                context.enqueue(("removal", *key_of(obj), plural))


async def _removed(context: Context, resource: Resource, obj: Object, key: tuple[str, ...]) -> bool:
    """Clean up; False where that failed, which stands in the status then and is tried again."""
    uid = str(obj["metadata"]["uid"])
    if uid in context.cleaned:
        return True  # the finalizer could not be taken away: what was done is not done, and told, once more
    try:
        await _REMOVALS[resource.plural](context, obj)
    except (SelvedgeError, TimeoutError) as error:
        attempt = context.failures[key] = context.failures.get(key, 0) + 1
        text = str(error) or "it took too long"
        _log.warning("the resource is not cleaned up yet", resource=resource.kind, attempt=attempt, error=text)
        context.enqueue_after(key, delay(attempt - 1, base=1.0, cap=60.0, random=context.random))
        if resource is DATABASE_USERS and isinstance(error, SelvedgeError):
            await context.write_status(resource, obj, from_error(error))
        return False
    context.failures.pop(key, None)
    context.cleaned.add(uid)
    return True


async def _write(
    context: Context, resource: Resource, obj: Object, finalizers: list[str], key: tuple[str, ...]
) -> None:
    metadata = {"resourceVersion": obj["metadata"].get("resourceVersion"), "finalizers": finalizers}
    written: dict[str, Any] | None = None
    try:
        written = await context.kube.patch(resource, *key_of(obj), {"metadata": metadata})
    except KubeConflict:
        context.enqueue_after(key, _AGAIN_SECONDS)  # by then the watch has shown what was changed
        return
    except KubeError as error:
        if error.code != _GONE:
            raise
    context.cleaned.discard(str(obj["metadata"]["uid"]))
    if written is not None and not written["metadata"].get("deletionTimestamp"):
        context.store.answered(resource.plural, written)
