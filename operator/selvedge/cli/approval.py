"""The plan of a DatabaseSchema that waits for a person, as the cluster shows it, and how it is approved."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import click

from selvedge.core.digest import plan_digest
from selvedge.kube.client import KubeClient
from selvedge.kube.resources import DATABASE_SCHEMAS


@dataclass(frozen=True, slots=True)
class Waiting:
    """A plan whose digest was computed here, and the version of the resource that it was read with."""

    namespace: str
    name: str
    plan: dict[str, Any]
    resource_version: str

    async def approve(self, kube: KubeClient) -> None:
        """Set ``spec.approvedPlan``, if the resource is still the one that was read.

        Raises KubeConflict where it changed, and KubeError (403) for whoever lacks the right to approve.
        """
        patch = {
            "metadata": {"resourceVersion": self.resource_version},
            "spec": {"approvedPlan": self.plan["digest"]},
        }
        await kube.patch(DATABASE_SCHEMAS, self.namespace, self.name, patch)


async def waiting(kube: KubeClient, namespace: str, name: str) -> Waiting | None:
    """What waits, or None. Raises ClickException where there is no such resource, or its plan is not what it says."""
    obj = await kube.get(DATABASE_SCHEMAS, namespace, name)
    if obj is None:
        raise click.ClickException(f"databaseschema {namespace}/{name} does not exist")
    status = obj.get("status") or {}
    if status.get("observedGeneration") != obj["metadata"].get("generation"):
        message = (
            f"the operator has not looked at the newest version of databaseschema {namespace}/{name} yet: try again"
        )
        raise click.ClickException(message)
    shown = status.get("plan") or {}
    if not shown.get("digest"):
        return None
    map_name = str(shown.get("configMap") or "")
    found = await kube.configmap(namespace, map_name) if map_name else None
    text = ((found or {}).get("data") or {}).get("plan.json")
    if text is None:
        message = f"configmap {namespace}/{map_name} with the plan does not exist or is too long: use `selvedge plan`"
        raise click.ClickException(message)
    plan = json.loads(text)
    computed = plan_digest(
        plan["systemIdentifier"],
        plan["database"],
        ((str(change["statement"]), str(change["before"])) for change in plan["changes"]),
    )
    if not computed == plan["digest"] == shown["digest"]:
        message = (
            f"configmap {namespace}/{map_name} does not hold the plan that waits: its digest is {computed}, "
            f"and the status says {shown['digest']}: delete the ConfigMap, and the operator writes it again"
        )
        raise click.ClickException(message)
    return Waiting(namespace, name, plan, str(obj["metadata"]["resourceVersion"]))
