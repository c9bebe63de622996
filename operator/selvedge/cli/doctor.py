"""``kubectl selvedge doctor``: looks at a set-up from the CRDs to the last object, and says what to do.

It reads with the rights of whoever calls it and changes nothing. What he may not see is named as not checked.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from selvedge.cli import doctor_cluster, doctor_resources, doctor_rights, doctor_secrets
from selvedge.cli.findings import Finding, Ref, Report, Severity
from selvedge.kube.client import KubeClient
from selvedge.kube.errors import KubeError
from selvedge.kube.resources import DATABASE_SCHEMAS, DATABASE_SERVERS, DATABASE_USERS, MIGRATION_RUNS, Resource

KINDS = (DATABASE_SERVERS, DATABASE_SCHEMAS, DATABASE_USERS, MIGRATION_RUNS)


@dataclass(frozen=True, slots=True)
class Options:
    """What to look at; ``namespace`` None is all of them. ``lease`` and ``account`` are (namespace, name) or None.

    ``patience``: seconds after which something that is under way counts as stuck.
    """

    namespace: str | None
    lease: tuple[str, str] | None = None
    account: tuple[str, str] | None = None
    patience: float = 60.0
    now: datetime = field(default_factory=lambda: datetime.now(UTC))


async def examine(kube: KubeClient, options: Options) -> Report:
    """Look at everything. Raises KubeError only for what makes any further look useless: no API server."""
    report = Report()
    try:
        served = await doctor_cluster.crds(kube, report)
    except KubeError as error:
        if error.code in (0, 401):
            report.add(_unreachable(error))
            return report
        raise
    objects = await _read(kube, options, report, [resource for resource in KINDS if resource.plural in served])
    operator = await doctor_cluster.operator(kube, report, lease=options.lease, account=options.account)
    await doctor_rights.operators(kube, report, operator, options.namespace, objects)
    await doctor_rights.namespaces(kube, report, operator, objects)
    await doctor_rights.approval(kube, report, operator)
    doctor_resources.examine(report, objects, operator, patience=options.patience, now=options.now)
    await doctor_resources.references(kube, report, objects)
    await doctor_secrets.examine(kube, report, objects, watched=operator.watches_secrets)
    await doctor_rights.callers(kube, report, objects)
    return report


async def _read(
    kube: KubeClient, options: Options, report: Report, resources: list[Resource]
) -> dict[str, list[dict[str, Any]]]:
    async def one(resource: Resource) -> list[dict[str, Any]]:
        try:
            return [obj async for obj in kube.list(resource, options.namespace)]
        except KubeError as error:
            if error.code != 403:
                raise
            report.add(_may_not_list(resource, options.namespace))
            return []

    lists = await asyncio.gather(*(one(resource) for resource in resources))
    found = {resource.kind: objects for resource, objects in zip(resources, lists, strict=True)}
    report.looked = {kind: len(objects) for kind, objects in found.items()}
    return {resource.kind: found.get(resource.kind, []) for resource in KINDS}


def _may_not_list(resource: Resource, namespace: str | None) -> Finding:
    where = f"in namespace {namespace}" if namespace else "in all namespaces"
    step = "have the ClusterRole selvedge-view (or the cluster's own view) bound to you"
    return Finding(
        Severity.ERROR,
        Ref("Namespace", namespace) if namespace else Ref("Cluster", "kubernetes"),
        "Forbidden",
        f"you may not list {resource.plural} {where}: nothing is known of them",
        step if namespace else f"{step}, or look at one namespace with -n",
    )


def _unreachable(error: KubeError) -> Finding:
    step = "check the server of the kubeconfig's context and your network: `kubectl get --raw /readyz`"
    if error.code:
        step = "log in again: the API server does not accept the kubeconfig's credentials"
    return Finding(Severity.ERROR, Ref("Cluster", "kubernetes"), "KubernetesApiError", error.message, step)
