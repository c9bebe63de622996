"""``selvedge release``: let resources go that only the operator could let go, when there will be no operator any more.

A resource with ``deletionPolicy: Delete`` holds a finalizer. Without an operator its deletion, and that of its
namespace, would wait for ever. Databases are not touched: what the resources made stays, and so do the claims in the
databases, by which the next installation knows its own.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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
    help="As the chart's Job: end operators that are there (SELVEDGE_LEASE_NAME); a namespace may be gone.",
)
def release(namespaces: tuple[str, ...], kubeconfig: str, context: str, *, take_lease: bool) -> None:
    """Let resources go without an operator: takes its finalizer from every DatabaseSchema and DatabaseUser.

    For the moment when the operator goes, or is gone. Nothing in a database is changed; an operator that is installed
    again sets the finalizers again. What may not be read or changed is named, and the exit status is 1.
    """
    if kubeconfig:
        os.environ["KUBECONFIG"] = kubeconfig
    try:
        settings = Settings.from_environment(os.environ)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    settings = replace(settings, namespaces=namespaces or settings.namespaces)
    done = asyncio.run(_release(settings, context, take_lease=take_lease))
    for name in sorted(done.released):
        click.echo(f"released {name}")
    click.echo(f"{count(len(done.released), 'resource')} let go")
    for what, why in sorted({**done.unseen, **done.refused}.items()):
        click.echo(f"not released: {what}: {why}", err=True)
    # A Role goes with its namespace, and a namespace that is gone does not keep the chart from going.
    if done.refused or (done.unseen and not take_lease):
        raise SystemExit(1)


@dataclass(slots=True)
class Released:
    """What was let go; and, with the reason, the resources that were not and the namespaces that may not be read."""

    released: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)
    unseen: dict[str, str] = field(default_factory=dict)


async def _release(settings: Settings, context: str, *, take_lease: bool) -> Released:
    done = Released()
    async with KubeClient.connect(settings, context=context) as kube:
        for look in range(_LOOKS):
            if take_lease:
                await _take_lease(kube, settings)
            found = await let_go(kube, settings.namespaces, done)
            done.released.update(found)
            # An operator that was at work a moment ago may have set one again: twice nothing is the end.
            if not found and look:
                return done
            await asyncio.sleep(PAUSE_SECONDS)
    names = ", ".join(sorted(found)[:3])
    raise click.ClickException(
        f"an operator sets the finalizer again ({names}): uninstall it first, or use --take-lease"
    )


async def let_go(kube: KubeClient, namespaces: Sequence[str], done: Released) -> list[str]:
    """Take the finalizer away wherever it is; returns what had it. Raises KubeError.

    What may not be read or changed is noted in ``done``, and the rest goes on.
    """
    found = []
    for resource in (DATABASE_USERS, DATABASE_SCHEMAS):
        for obj in await _having(kube, resource, namespaces, done):
            metadata = obj["metadata"]
            left = [name for name in metadata["finalizers"] if name != FINALIZER]
            patch = {"metadata": {"resourceVersion": metadata["resourceVersion"], "finalizers": left}}
            shown = f"{resource.kind} {metadata['namespace']}/{metadata['name']}"
            try:
                await kube.patch(resource, metadata["namespace"], metadata["name"], patch)
            except KubeConflict:
                pass  # changed meanwhile: the next look has it
            except KubeError as error:
                if error.code == _FORBIDDEN:
                    done.refused[shown] = error.message
                elif error.code != _NOT_FOUND:
                    raise
                continue
            done.refused.pop(shown, None)
            found.append(shown)
    return found


async def _having(
    kube: KubeClient, resource: Resource, namespaces: Sequence[str], done: Released
) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = []
    for namespace in namespaces or (None,):
        try:
            listed = [obj async for obj in kube.list(resource, namespace)]
        except KubeError as error:
            if error.code == _NOT_FOUND:
                continue  # the CustomResourceDefinitions are gone, and all resources with them
            if error.code != _FORBIDDEN or namespace is None:
                raise
            done.unseen[f"{resource.kind}s in namespace {namespace}"] = (
                f"{error.message}; if the namespace hangs in Terminating: selvedge release -n {namespace}, by somebody "
                "who may"
            )
            continue
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
