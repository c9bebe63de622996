"""The Secret of a DatabaseUser in Kubernetes: read as the truth about the password, written where it differs.

A Secret that is not ours is never overwritten: it is made with POST, which refuses one that exists, and replaced at the
version that was read.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from selvedge.api.base import DeletionPolicy
from selvedge.api.databaseuser import DatabaseUserSpec
from selvedge.core.binding import content_hash
from selvedge.core.conditions import timestamp
from selvedge.core.errors import ConflictError
from selvedge.core.reasons import Reason
from selvedge.core.users import Credentials, Published
from selvedge.kube.errors import KubeConflict, KubeError, KubeExists
from selvedge.kube.resources import DATABASE_USERS, GROUP, SECRETS
from selvedge.reconcile.context import Context
from selvedge.reconcile.store import Object, key_of

USER = f"{GROUP}/user"
ROTATED = f"{GROUP}/rotated-at"
REQUEST = f"{GROUP}/rotate"
HASH = f"{GROUP}/content-hash"
MANAGED = f"{GROUP}/managed"
_LABELS = {"app.kubernetes.io/managed-by": "selvedge", f"{GROUP}/watch": "true"}


@dataclass(frozen=True, slots=True)
class Held:
    """The Secret as it was read; ``obj`` is None where there is none."""

    obj: Object | None = field(default=None, repr=False)
    data: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def published(self) -> Published | None:
        """The credentials in it."""
        if self.obj is None:
            return None
        annotations = self.obj["metadata"].get("annotations") or {}
        return Published(
            self.data.get("username", ""),
            self.data.get("password", ""),
            _moment(annotations.get(ROTATED, "")),
            annotations.get(REQUEST, ""),
        )


def secret_name(obj: Object, spec: DatabaseUserSpec) -> str:
    """The name of a DatabaseUser's Secret."""
    return spec.secret.name or f"{obj['metadata']['name']}-db"


async def read_binding(context: Context, obj: Object, name: str) -> Held:
    """The Secret of a DatabaseUser; its password is kept out of everything from then on.

    Raises ConflictError for a Secret that is somebody else's.
    """
    namespace, _ = key_of(obj)
    found = await context.kube.get(SECRETS, namespace, name)
    if found is None:
        return Held()
    if not _ours(obj, found):
        raise ConflictError(
            Reason.CONFLICT,
            f"secret {name} exists and is not of this DatabaseUser: it stays as it is; choose another spec.secret.name",
        )
    data = {}
    for key, text in (found.get("data") or {}).items():
        try:
            data[key] = base64.b64decode(text).decode()
        except (binascii.Error, ValueError):
            data[key] = ""  # nothing of ours: it is written again
    hide(context, namespace, name, data.get("password", ""))
    return Held(found, data)


async def read_former(context: Context, obj: Object, name: str) -> Held:
    """The Secret that a DatabaseUser wrote before ``spec.secret.name`` was changed to ``name``; empty where none is."""
    former = str(((obj.get("status") or {}).get("binding") or {}).get("name") or "")
    if not former or former == name:
        return Held()
    try:
        return await read_binding(context, obj, former)
    except ConflictError:
        return Held()  # somebody else has it by now


def hide(context: Context, namespace: str, name: str, *passwords: str) -> None:
    """Keep these passwords of a Secret out of logs, events and statuses, in place of those before."""
    values = tuple(password for password in passwords if password)
    for value in values:
        context.redactor.add(value)
    for value in context.secrets_seen.get((namespace, name), ()):
        context.redactor.remove(value)
    context.secrets_seen[namespace, name] = values


async def write_binding(
    context: Context,
    obj: Object,
    spec: DatabaseUserSpec,
    held: Held,
    data: Mapping[str, str],
    credentials: Credentials,
) -> bool:
    """Make the Secret hold this; True where it was written. Raises KubeError, and ConflictError for another's."""
    namespace, _ = key_of(obj)
    name = secret_name(obj, spec)
    manifest = _manifest(obj, spec, held, data, credentials)
    if held.obj is not None and _same(held.obj, manifest):
        return False
    context.may_write()
    try:
        if held.obj is None:
            await context.kube.create(SECRETS, manifest)
        else:
            await context.kube.replace(SECRETS, manifest)
    except KubeExists:
        message = f"secret {name} was made by somebody else at this moment: it is looked at again"
        raise KubeError(message) from None
    except KubeConflict:
        raise KubeError(f"secret {name} was changed at this moment: it is looked at again") from None
    hide(context, namespace, name, credentials.password)
    return True


def _ours(obj: Object, secret: Mapping[str, Any]) -> bool:
    """Owned by the DatabaseUser of this name, or by nobody and marked as its Secret (restored, retained).

    By the name and not by the uid: one that was deleted and made again finds the Secret before the garbage collector.
    """
    metadata = secret["metadata"]
    owners = metadata.get("ownerReferences") or []
    if owners:
        wanted = (DATABASE_USERS.kind, obj["metadata"]["name"])
        return any((owner.get("kind"), owner.get("name")) == wanted for owner in owners if _group(owner) == GROUP)
    marked = (metadata.get("annotations") or {}).get(USER) == obj["metadata"]["name"]
    managed = (metadata.get("labels") or {}).get("app.kubernetes.io/managed-by") == "selvedge"
    return bool(marked and managed)


def _group(owner: Mapping[str, Any]) -> str:
    return str(owner.get("apiVersion", "")).partition("/")[0]


async def delete_binding(context: Context, obj: Object, name: str) -> None:
    """Delete the Secret of a DatabaseUser whose login is gone, at once and not when the garbage collector comes by.

    Nothing happens to one that is somebody else's. Raises KubeError.
    """
    namespace, _ = key_of(obj)
    found = await context.kube.get(SECRETS, namespace, name)
    if found is not None and _ours(obj, found):
        await context.kube.delete(SECRETS, namespace, name)


def _manifest(
    obj: Object, spec: DatabaseUserSpec, held: Held, data: Mapping[str, str], credentials: Credentials
) -> dict[str, Any]:
    before: Mapping[str, Any] = (held.obj or {}).get("metadata") or {}
    namespace, owner = key_of(obj)
    labels = {**spec.secret.labels, **_LABELS}
    annotations = {
        **spec.secret.annotations,
        USER: owner,
        ROTATED: timestamp(credentials.rotated),
        HASH: content_hash(data),
    }
    if credentials.request:
        annotations[REQUEST] = credentials.request
    ours = sorted([*(f"label {key}" for key in labels), *(f"annotation {key}" for key in annotations)])
    annotations[MANAGED] = json.dumps(ours)
    kept = {"resourceVersion", "uid", "finalizers"}
    metadata: dict[str, Any] = {key: before[key] for key in kept if key in before}
    metadata |= {
        "name": secret_name(obj, spec),
        "namespace": namespace,
        "labels": _others(before, "labels", "label") | labels,
        "annotations": _others(before, "annotations", "annotation") | annotations,
    }
    if spec.deletion_policy is DeletionPolicy.DELETE:
        metadata["ownerReferences"] = [
            {
                "apiVersion": DATABASE_USERS.api_version,
                "kind": DATABASE_USERS.kind,
                "name": owner,
                "uid": obj["metadata"]["uid"],
                "controller": True,
                "blockOwnerDeletion": False,
            }
        ]
    return {
        "metadata": metadata,
        "type": f"servicebinding.io/{data['type']}",
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in sorted(data.items())},
    }


def _others(before: Mapping[str, Any], part: str, word: str) -> dict[str, str]:
    """Labels or annotations that others put on the Secret: they stay."""
    annotations = before.get("annotations") or {}
    try:
        ours = set(json.loads(annotations.get(MANAGED, "[]")))
    except (ValueError, TypeError):
        ours = set()
    mine = {USER, ROTATED, REQUEST, HASH, MANAGED}
    found: Mapping[str, str] = before.get(part) or {}
    return {key: value for key, value in found.items() if f"{word} {key}" not in ours and key not in mine}


def _same(found: Object, manifest: Mapping[str, Any]) -> bool:
    """Whether the Secret is as wanted; of owners only whether it has the ones that it is to have."""
    before, after = found["metadata"], manifest["metadata"]
    return (
        (found.get("data") or {}) == manifest["data"]
        and (before.get("labels") or {}) == after["labels"]
        and (before.get("annotations") or {}) == after["annotations"]
        and [o.get("uid") for o in before.get("ownerReferences") or ()]
        == [o["uid"] for o in after.get("ownerReferences") or ()]
    )


def _moment(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        return None
