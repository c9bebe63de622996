"""``selvedge release``: let resources go that only the operator could let go, when there will be no operator any more.

A resource with ``deletionPolicy: Delete`` holds a finalizer. Without an operator its deletion, and that of its
namespace, would wait for ever. Databases are not touched: what the resources made stays, and so do the claims in the
databases, by which the next installation knows its own.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import click

from selvedge.config import Settings
from selvedge.core.words import count
from selvedge.kube.client import KubeClient
from selvedge.kube.errors import KubeConflict, KubeError, KubeExists
from selvedge.kube.resources import DATABASE_SCHEMAS, DATABASE_USERS, FINALIZER, LEASES, Resource

#: Who holds the Lease then: operators that are still there end, and those that are started wait.
HOLDER = "uninstalling"
#: How long they wait after the last look; by then the Deployment is gone.
LEASE_SECONDS = 30
#: Between two looks: an operator notices within its retry period that it leads no more.
PAUSE_SECONDS = 3.0
_LOOKS = 10
_NOT_FOUND, _FORBIDDEN = 404, 403


@click.command("release")
@click.option("-n", "--namespace", "namespaces", multiple=True, help="Repeatable. Else SELVEDGE_NAMESPACES, else all.")
@click.option("--kubeconfig", default="", metavar="FILE", help="Else KUBECONFIG, the pod's account, ~/.kube/config.")
@click.option("--context", default="", help="Context of the kubeconfig. Else its current one.")
@click.option(
    "--take-lease",
    is_flag=True,
    help="As the chart's Job: end operators that are there (SELVEDGE_LEASE_NAME), leave out namespaces that are gone.",
)
def release(namespaces: tuple[str, ...], kubeconfig: str, context: str, *, take_lease: bool) -> None:
    """Let resources go without an operator: takes its finalizer from every DatabaseSchema and DatabaseUser.

    For the moment when the operator goes, or is gone. Nothing in a database is changed; an operator that is installed
    again sets the finalizers again.
    """
    if kubeconfig:
        os.environ["KUBECONFIG"] = kubeconfig
    try:
        settings = Settings.from_environment(os.environ)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    settings = replace(settings, namespaces=namespaces or settings.namespaces)
    for line in asyncio.run(_release(settings, context, take_lease=take_lease)):
        click.echo(line)


async def _release(settings: Settings, context: str, *, take_lease: bool) -> list[str]:
    async with KubeClient.connect(settings, context=context) as kube:
        released: set[str] = set()
        for look in range(_LOOKS):
            if take_lease:
                await _take_lease(kube, settings)
            found = await let_go(kube, settings.namespaces, forgiving=take_lease)
            released.update(found)
            # An operator that was at work a moment ago may have set one again: twice nothing is the end.
            if not found and look:
                return [
                    *(f"released {name}" for name in sorted(released)),
                    f"{count(len(released), 'resource')} let go",
                ]
            await asyncio.sleep(PAUSE_SECONDS)
    names = ", ".join(sorted(found)[:3])
    raise click.ClickException(
        f"an operator sets the finalizer again ({names}): uninstall it first, or use --take-lease"
    )


async def let_go(kube: KubeClient, namespaces: Sequence[str], *, forgiving: bool = False) -> list[str]:
    """Take the finalizer away wherever it is; returns what had it. Raises KubeError.

    ``forgiving``: a namespace in which the account has no right is left out. A Role goes with its namespace, so that
    is what one looks like that was deleted before.
    """
    found = []
    for resource in (DATABASE_USERS, DATABASE_SCHEMAS):
        for obj in await _having(kube, resource, namespaces, forgiving=forgiving):
            metadata = obj["metadata"]
            left = [name for name in metadata["finalizers"] if name != FINALIZER]
            patch = {"metadata": {"resourceVersion": metadata["resourceVersion"], "finalizers": left}}
            shown = f"{resource.kind} {metadata['namespace']}/{metadata['name']}"
            try:
                await kube.patch(resource, metadata["namespace"], metadata["name"], patch)
            except KubeConflict:
                pass  # changed meanwhile: the next look has it
            except KubeError as error:
                if error.code == _NOT_FOUND:
                    continue
                raise
            found.append(shown)
    return found


async def _having(
    kube: KubeClient, resource: Resource, namespaces: Sequence[str], *, forgiving: bool
) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = []
    for namespace in namespaces or (None,):
        try:
            listed = [obj async for obj in kube.list(resource, namespace)]
        except KubeError as error:
            if error.code == _NOT_FOUND or (forgiving and namespace and error.code == _FORBIDDEN):
                continue  # the CustomResourceDefinitions are gone, and all resources with them; or the namespace is
            raise
        found += [obj for obj in listed if FINALIZER in (obj["metadata"].get("finalizers") or ())]
    return found


async def _take_lease(kube: KubeClient, settings: Settings) -> None:
    """Hold the Lease, whoever held it: its leader gives up at its next renewal, and all shards of it."""
    namespace, name = settings.lease_namespace, settings.lease_name
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    spec = {"holderIdentity": HOLDER, "leaseDurationSeconds": LEASE_SECONDS, "acquireTime": now, "renewTime": now}
    try:
        known = await kube.get(LEASES, namespace, name)
        if known is None:
            await kube.create(LEASES, {"metadata": {"namespace": namespace, "name": name}, "spec": spec})
        else:
            # over a fresh reading: the leader's renewal may come between, and then the next look takes it
            await kube.replace(LEASES, {**known, "spec": {**(known.get("spec") or {}), **spec}})
    except (KubeConflict, KubeExists):
        return
