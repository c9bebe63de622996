"""Which resources hold the finalizer, and that none makes anything before it does.

Only a deletion that has work to do (``deletionPolicy: Delete``) holds it. Set after something was made, it would leave
a moment in which the resource can go and what it made stays, without anybody who knows of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selvedge.core.errors import TransientError
from selvedge.core.reasons import Reason
from selvedge.kube.errors import KubeConflict, KubeError
from selvedge.kube.resources import DATABASE_SCHEMAS, DATABASE_USERS, FINALIZER, Resource
from selvedge.reconcile.context import Context
from selvedge.reconcile.store import Object, key_of

_KINDS = frozenset({DATABASE_SCHEMAS.plural, DATABASE_USERS.plural})
_GONE = 404
_ATTEMPTS = 3


def has_work(obj: Mapping[str, Any]) -> bool:
    """Whether the deletion of a resource has something to do."""
    return bool((obj.get("spec") or {}).get("deletionPolicy") == "Delete")


def holds(obj: Mapping[str, Any]) -> bool:
    """Whether the resource has the finalizer."""
    return FINALIZER in (obj["metadata"].get("finalizers") or ())


def without(obj: Mapping[str, Any]) -> list[str]:
    """The finalizers of others."""
    return [name for name in obj["metadata"].get("finalizers") or () if name != FINALIZER]


def is_due(resource: Resource, obj: Mapping[str, Any]) -> bool:
    """Whether the finalizer has to be set or taken away, or the resource cleaned up."""
    if resource.plural not in _KINDS:
        return False
    return holds(obj) if obj["metadata"].get("deletionTimestamp") else holds(obj) is not has_work(obj)


async def hold(context: Context, resource: Resource, obj: Object) -> None:
    """Set the finalizer, where it has to be and is not. Raises KubeError, TransientError where it is being deleted."""
    for attempt in range(_ATTEMPTS):
        if not has_work(obj) or holds(obj):
            return
        version = obj["metadata"].get("resourceVersion")
        metadata = {"resourceVersion": version, "finalizers": [*without(obj), FINALIZER]}
        try:
            written = await context.kube.patch(resource, *key_of(obj), {"metadata": metadata})
            context.store.answered(resource.plural, written)
            return
        except KubeConflict:
            if attempt == _ATTEMPTS - 1:
                raise
        except KubeError as error:
            if error.code != _GONE:
                raise
        found = await context.kube.get(resource, *key_of(obj))
        if (
            found is None
            or found["metadata"]["uid"] != obj["metadata"]["uid"]
            or found["metadata"].get("deletionTimestamp")
        ):
            raise TransientError(Reason.RECONCILING, "the resource is being deleted")
        obj = found
