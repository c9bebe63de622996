"""The plan of a DatabaseSchema or a MigrationRun that waits for a person, as the cluster shows it, and its approval."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import click

from selvedge.cli.output import clean
from selvedge.core.digest import plan_digest
from selvedge.core.unit import NO_APPROVAL, Risk
from selvedge.core.words import count
from selvedge.kube.client import KubeClient
from selvedge.kube.resources import DATABASE_SCHEMAS, MIGRATION_RUNS, Resource


@dataclass(frozen=True, slots=True)
class Waiting:
    """A plan whose digest was computed here, and the version of the resource that it was read with.

    ``refused`` is how many of its changes no approval lets be made, and ``why`` what the resource says of itself.
    """

    namespace: str
    name: str
    plan: dict[str, Any]
    resource_version: str
    resource: Resource = DATABASE_SCHEMAS
    refused: int = 0
    why: str = ""

    def stays(self) -> str:
        """What stays undone whatever is approved; empty where nothing does. Raises ClickException where all does."""
        changes = len(self.plan["changes"])
        if not self.refused:
            return ""
        why = clean(self.why)
        if self.refused == changes:
            raise click.ClickException(f"nothing was approved, since nothing would be done: {why}")
        stays = "stays" if self.refused == 1 else "stay"
        return f"{self.refused} of {count(changes, 'change')} {stays} undone: {why}"

    async def approve(self, kube: KubeClient) -> None:
        """Set ``spec.approvedPlan``, if the resource is still the one that was read.

        Raises KubeConflict where it changed, and KubeError (403) for whoever lacks the right to approve.
        """
        patch = {
            "metadata": {"resourceVersion": self.resource_version},
            "spec": {"approvedPlan": self.plan["digest"]},
        }
        await kube.patch(self.resource, self.namespace, self.name, patch)


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
    version = str(obj["metadata"]["resourceVersion"])
    why = next((str(c["message"]) for c in status.get("conditions") or () if c["type"] == "Ready"), "")
    return Waiting(namespace, name, plan, version, refused=_refused(plan, status), why=why)


def _refused(plan: dict[str, Any], status: dict[str, Any]) -> int:
    """How many of the plan's changes are refused whoever approves them: lost data of objects that say so."""
    entries = status.get("notReady") or ()
    kept = {(one.get("kind"), one.get("name")) for one in entries if NO_APPROVAL in str(one.get("message"))}
    return sum(x["risk"] == Risk.DESTRUCTIVE and (x["kind"], x["name"]) in kept for x in plan["changes"])


_RUNS = ("mig", "migrationrun", "migrationruns")


def run_named(name: str) -> str:
    """The MigrationRun of ``mig/NAME``, as kubectl writes it; empty for the name of a DatabaseSchema."""
    kind, _, rest = name.partition("/")
    return rest if kind.lower() in _RUNS else ""


async def waiting_run(kube: KubeClient, namespace: str, name: str) -> Waiting | None:
    """What of a MigrationRun waits, or None. Raises ClickException as :func:`waiting` does."""
    from selvedge.migrate.statusrows import NO_STEPS, digest_of_lines, line_of_row

    obj = await kube.get(MIGRATION_RUNS, namespace, name)
    if obj is None:
        raise click.ClickException(f"migrationrun {namespace}/{name} does not exist")
    status = obj.get("status") or {}
    if status.get("observedGeneration") != obj["metadata"].get("generation"):
        raise click.ClickException(
            f"the operator has not looked at the newest version of migrationrun {namespace}/{name} yet: try again"
        )
    if status.get("phase") != "WaitingForApproval":
        return None
    rows = status.get("migrations") or []
    lines = [line_of_row(row) for row in rows] or [NO_STEPS]
    digest = digest_of_lines([*lines, *(f"{line}\n" for line in status.get("inputs") or ())])
    if digest != status.get("plan"):
        raise click.ClickException(
            f"migrationrun {namespace}/{name} shows steps whose digest is {digest}, and says {status.get('plan')}: it "
            "has more than 200, or was altered; compare with `selvedge migrate plan`, and set spec.approvedPlan"
        )
    changes = [
        {
            "risk": "Destructive" if row.get("direction") == "down" else "",
            "kind": row.get("direction", ""),
            "name": f"{row['schema'] + ': ' if row.get('schema') else ''}{row.get('version', '')} "
            f"{row.get('name', '')}".strip(),
            "statement": f"{str(row.get('statements') or '').partition('/')[2] or '0'} statements",
        }
        for row in rows
    ]
    message = next((c["message"] for c in status.get("conditions") or () if c["type"] == "Ready"), "")
    if status.get("inputs"):
        message += f"; with {', '.join(status['inputs'])}"
    plan = {"database": obj["spec"]["schemaRef"]["name"], "changes": changes, "digest": digest, "message": message}
    plan["advice"] = status.get("advice") or []
    return Waiting(namespace, name, plan, str(obj["metadata"]["resourceVersion"]), MIGRATION_RUNS)
