"""``kubectl selvedge rotate``: ask the operator for a new password of a DatabaseUser, and wait until it stands."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import click

from selvedge.core.conditions import find
from selvedge.kube.client import KubeClient
from selvedge.kube.resources import DATABASE_USERS, GROUP

#: A value that was not there before asks for a rotation.
ANNOTATION = f"{GROUP}/rotate"
_POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Asked:
    """A rotation that was asked for; ``before`` is when the password was changed last."""

    namespace: str
    name: str
    before: str


async def ask(kube: KubeClient, namespace: str, name: str, *, now: bool = False) -> Asked:
    """Annotate the DatabaseUser, if its password is the operator's to change.

    ``now``: also while the login before the last rotation is in use, which gets a new password then. Raises
    ClickException with the next step, KubeConflict where the resource changed meanwhile, and KubeError.
    """
    obj = await kube.get(DATABASE_USERS, namespace, name)
    shown = f"databaseuser {namespace}/{name}"
    if obj is None:
        raise click.ClickException(f"{shown} does not exist")
    _refuse(obj, shown, now=now)
    metadata = obj["metadata"]
    before = str((obj.get("status") or {}).get("lastRotationTime") or "")
    if before and abs((datetime.now(UTC) - datetime.fromisoformat(before)).total_seconds()) < 1.0:
        await asyncio.sleep(1.0)  # the status counts in seconds: a second rotation within one would not show
    annotations = {ANNOTATION: uuid.uuid4().hex}
    patch = {"metadata": {"resourceVersion": metadata["resourceVersion"], "annotations": annotations}}
    await kube.patch(DATABASE_USERS, namespace, name, patch)
    return Asked(namespace, name, before)


def _refuse(obj: Mapping[str, Any], shown: str, *, now: bool) -> None:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    password = spec.get("password") or {}
    if password.get("management") == "External":
        raise click.ClickException(f"{shown} has password.management External: change the password where it is kept")
    if password.get("secretRef"):
        secret = password["secretRef"].get("name", "")
        raise click.ClickException(f"{shown} takes its password from secret {secret}: change it there")
    if spec.get("suspend"):
        raise click.ClickException(f"{shown} is suspended: set spec.suspend to false first")
    if obj["metadata"].get("deletionTimestamp"):
        raise click.ClickException(f"{shown} is being deleted")
    previous = status.get("previousUsername")
    if previous and not now:
        raise click.ClickException(
            f"login {previous} of the last rotation still works and would get a new password: who has not read the "
            "Secret since would be locked out; wait until status.previousUsername is gone, or add --now"
        )


async def wait(kube: KubeClient, asked: Asked, seconds: float) -> str:
    """Wait until the new password stands; a sentence that says where.

    Raises ClickException with what the operator says after that time, and KubeError.
    """
    end = time.monotonic() + seconds
    shown = f"databaseuser {asked.namespace}/{asked.name}"
    while True:
        obj = await kube.get(DATABASE_USERS, asked.namespace, asked.name)
        if obj is None:
            raise click.ClickException(f"{shown} was deleted meanwhile")
        status = obj.get("status") or {}
        rotated = str(status.get("lastRotationTime") or "")
        ready = find(status.get("conditions") or (), "Ready")
        if rotated != asked.before and ready is not None and ready.status is True:
            secret = (status.get("binding") or {}).get("name", "")
            return (
                f"{shown}: login {status.get('currentUsername', '')} has a new password; it stands in secret {secret}"
            )
        if time.monotonic() > end:
            why = f": {ready.message}" if ready is not None and ready.status is not True else ""
            raise click.ClickException(
                f"{shown} was asked to rotate and has not in {seconds:g} s{why}; it goes on by itself: see its status"
            )
        await asyncio.sleep(_POLL_SECONDS)
