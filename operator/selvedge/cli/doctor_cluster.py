"""What the doctor looks at before any resource: the CRDs, the operator's Lease and its Deployment."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from selvedge.api import crd
from selvedge.api.resource import KINDS
from selvedge.cli.findings import Finding, Ref, Report, Severity
from selvedge.core.shards import Shard
from selvedge.core.words import count, some
from selvedge.kube.client import KubeClient
from selvedge.kube.errors import KubeError
from selvedge.kube.resources import DATABASE_SERVERS, GROUP, LEASES, PODS, VERSION, Resource
from selvedge.kube.shard_lease import lease_name

CRDS = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition")
DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment")

_SELECTOR = "app.kubernetes.io/name=selvedge"
_INSTALL = "install the chart, which brings them, or: selvedge crds | kubectl apply --server-side -f -"
_LOOKS, _LOOK_SECONDS = 3, 2.0
_NO_LEADER = "nobody works on the resources"


@dataclass(frozen=True, slots=True)
class Operator:
    """What is known of the operator; ``watched`` are its namespaces, none of them meaning all.

    ``watches_secrets``: it lists and watches Secrets wherever resources are, and not only reads those that are named.
    ``installed``: it runs in this cluster, by a Deployment.
    """

    finding: Finding | None = None
    account: tuple[str, str] | None = None
    watched: tuple[str, ...] = ()
    watches_secrets: bool = True
    installed: bool = False


async def crds(kube: KubeClient, report: Report) -> set[str]:
    """Look at the CRDs; the plurals that the API server serves. Raises KubeError where it does not answer."""
    code, document = await kube.request("GET", DATABASE_SERVERS, f"/apis/{GROUP}/{VERSION}")
    if code == 401:
        raise KubeError("the Kubernetes API refused the credentials", code)
    served = {str(entry["name"]) for entry in document.get("resources") or ()} if code == 200 else set()
    for kind in KINDS.values():
        name = f"{kind.plural}.{GROUP}"
        ref = Ref(CRDS.kind, name)
        try:
            found = await kube.get(CRDS, None, name)
        except KubeError as error:
            if error.code != 403:
                raise
            if kind.plural not in served:
                report.add(_missing(ref))
            elif "whether the CRDs are of this version: you may not read them" not in report.unchecked:
                report.unchecked.append("whether the CRDs are of this version: you may not read them")
            continue
        if found is None:
            report.add(_missing(ref))
            continue
        problem = _problem(found, crd.crd(kind))
        if problem is not None:
            report.add(Finding(Severity.ERROR, ref, *problem))
    return {kind.plural for kind in KINDS.values() if kind.plural in served}


def _missing(ref: Ref) -> Finding:
    return Finding(Severity.ERROR, ref, "CRDMissing", "it is not installed: no such resource can exist", _INSTALL)


def _problem(found: Mapping[str, Any], ours: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """Reason, message and next step, or None where the CRD is as this version has it."""
    if found["metadata"].get("deletionTimestamp"):
        message = "it is being deleted, and all resources of its kind with it"
        step = f"see what is left: kubectl get {found['spec']['names']['plural']} -A; then install it again"
        return "CRDTerminating", message, step
    states = {c["type"]: c for c in (found.get("status") or {}).get("conditions") or ()}
    for wanted in ("NamesAccepted", "Established"):
        if (states.get(wanted) or {}).get("status") != "True":
            message = str((states.get(wanted) or {}).get("message") or "the API server has not taken it up")
            return "CRDNotEstablished", message, "see kubectl describe crd: another CRD may have taken its names"
    versions = {v["name"]: v for v in found["spec"]["versions"]}
    if not (versions.get(VERSION) or {}).get("served"):
        message = f"it serves {some(sorted(versions))} and not {VERSION}"
        return "CRDVersion", message, "apply the CRDs of the operator's version; docs/api-changes.md says what changes"
    theirs = set(_paths(versions[VERSION]["schema"]["openAPIV3Schema"]))
    wanted_paths = set(_paths(ours["spec"]["versions"][0]["schema"]["openAPIV3Schema"]))
    lacks, more = sorted(wanted_paths - theirs), sorted(theirs - wanted_paths)
    if not lacks and not more:
        return None
    ours_version = version("selvedge")
    parts = [f"lacks {_some(lacks)}"] if lacks else []
    parts += [f"has {_some(more)}, which version {ours_version} does not know"] if more else []
    step = "apply the CRDs of the operator's version (helm upgrade does)"
    if not lacks:
        step = f"use the kubectl-selvedge of the operator's version: this one is {ours_version}"
    return "CRDVersion", f"it is not that of version {ours_version}: it {' and '.join(parts)}", step


def _some(paths: list[str]) -> str:
    """Fields by their path; below one that is missing as a whole, nothing is named again."""
    tops = [path for path in paths if not any(path.startswith(f"{other}.") for other in paths)]
    return f"{count(len(tops), 'field')}: {some(tops)}"


def _paths(schema: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Every field, and every value of an enum, by its path."""
    yield from (f"{path}={value}" for value in schema.get("enum") or ())
    for name, inner in (schema.get("properties") or {}).items():
        below = f"{path}.{name}" if path else name
        yield below
        yield from _paths(inner, below)
    for part in ("items", "additionalProperties"):
        if isinstance(schema.get(part), dict):
            yield from _paths(schema[part], path)


async def operator(
    kube: KubeClient, report: Report, *, lease: tuple[str, str] | None, account: tuple[str, str] | None
) -> Operator:
    """Look at the operator: is there one, does it lead, do its pods run? Raises KubeError."""
    deployments = await _deployments(kube, report, lease[0] if lease else None)
    named = [lease] if lease else [_lease_of(deployment) for deployment in deployments]
    finding = await _leader(kube, report, named)
    for deployment in deployments:
        problem = await _rollout(kube, deployment)
        if problem is not None:
            report.add(problem)
            finding = finding or (problem if problem.severity is Severity.ERROR else None)
    watched: tuple[str, ...] = ()
    watches_secrets = True
    if deployments and account is None:
        template = deployments[0]["spec"]["template"]["spec"]
        account = (str(deployments[0]["metadata"]["namespace"]), str(template.get("serviceAccountName") or "default"))
    if deployments:
        environments = [_environment(deployment) for deployment in deployments]
        watches_secrets = all(one.get("SELVEDGE_WATCH_SECRETS", "").lower() != "false" for one in environments)
        listed = [environment.get("SELVEDGE_NAMESPACES", "") for environment in environments]
        if all(listed):
            watched = tuple(sorted({name.strip() for text in listed for name in text.split(",") if name.strip()}))
    return Operator(finding, account, watched, watches_secrets, bool(deployments))


async def _deployments(kube: KubeClient, report: Report, namespace: str | None) -> list[dict[str, Any]]:
    """Those of the operator: in the namespace of its Lease where that was named, else wherever there are any."""
    try:
        found = [one async for one in kube.list(DEPLOYMENTS, namespace, _SELECTOR)]
    except KubeError as error:
        if error.code != 403:
            raise
        report.unchecked.append(
            "the operator's Deployment: you may not list deployments; --lease and --service-account name what it has"
        )
        return []
    if not found:
        report.unchecked.append(
            f"the operator's pods: no Deployment is labelled {_SELECTOR}; its ServiceAccount can be named with "
            "--service-account, its Lease with --lease"
        )
    return found


def _environment(deployment: Mapping[str, Any]) -> dict[str, str]:
    containers = deployment["spec"]["template"]["spec"]["containers"]
    return {e["name"]: str(e.get("value") or "") for c in containers for e in c.get("env") or ()}


def _lease_of(deployment: Mapping[str, Any]) -> tuple[str, str]:
    metadata, environment = deployment["metadata"], _environment(deployment)
    namespace = environment.get("SELVEDGE_LEASE_NAMESPACE") or str(metadata["namespace"])
    name = environment.get("SELVEDGE_LEASE_NAME") or "selvedge"
    try:
        shard = Shard.parse(environment.get("SELVEDGE_SHARD") or "0/1")
    except ValueError:
        shard = None  # its pods do not start, which their Deployment is found for
    return namespace, name if shard is None else lease_name(name, shard.index)


async def _leader(kube: KubeClient, report: Report, named: list[tuple[str, str]]) -> Finding | None:
    """The finding about the Lease that is added where nobody leads."""
    try:
        leases = await _leases(kube, named)
    except KubeError as error:
        if error.code != 403:
            raise
        report.unchecked.append("whether an operator leads: you may not read its Lease; name it with --lease")
        return None
    shown = "/".join(named[0]) if named else "selvedge"
    if not leases:
        message = f"there is no Lease {shown}: no operator has ever led here; {_NO_LEADER}"
        step = "install the operator (helm install selvedge charts/selvedge); a Lease of another name: --lease"
        finding = Finding(
            Severity.ERROR, Ref(LEASES.kind, shown.split("/")[-1], _space(shown)), "NoOperator", message, step
        )
        report.add(finding)
        return finding
    stale = [problem for one in leases if (problem := await _stale(kube, one)) is not None]
    for finding in stale:
        report.add(finding)
    return stale[0] if len(stale) == len(leases) else None


def _space(shown: str) -> str:
    return shown.partition("/")[0] if "/" in shown else ""


async def _leases(kube: KubeClient, named: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """The Leases of these names, or of the shards of them; without names whatever is called selvedge."""
    if not named:
        return [one async for one in kube.list(LEASES) if "selvedge" in one["metadata"]["name"]]
    found = []
    for namespace, name in dict.fromkeys(named):
        exact = await kube.get(LEASES, namespace, name)
        if exact is not None:
            found.append(exact)
            continue
        shards = f"{name}-shard-"
        found += [one async for one in kube.list(LEASES, namespace) if one["metadata"]["name"].startswith(shards)]
    return found


async def _stale(kube: KubeClient, lease: Mapping[str, Any]) -> Finding | None:
    metadata, spec = lease["metadata"], lease.get("spec") or {}
    namespace, name = str(metadata["namespace"]), str(metadata["name"])
    ref = Ref(LEASES.kind, name, namespace)
    see = f"see why it does not run: kubectl -n {namespace} get deploy,pods -l {_SELECTOR}, and its log"
    if not spec.get("holderIdentity"):
        message = f"nobody holds it: the operator was stopped; {_NO_LEADER}"
        return Finding(Severity.ERROR, ref, "LeaseNotHeld", message, see)
    age = _age(str(spec.get("renewTime") or ""))
    if age <= float(spec.get("leaseDurationSeconds") or 15):
        return None
    # this machine's clock may be wrong: a Lease that is alive changes
    for _ in range(_LOOKS):
        await asyncio.sleep(_LOOK_SECONDS)
        again = await kube.get(LEASES, namespace, name)
        if again is not None and again["metadata"]["resourceVersion"] != metadata["resourceVersion"]:
            return None
    message = f"{spec['holderIdentity']} holds it and has not renewed it for {age:.0f} s; {_NO_LEADER}"
    step = f"{see}; if that operator was removed for good, delete the Lease"
    return Finding(Severity.ERROR, ref, "LeaseExpired", message, step)


def _age(moment: str) -> float:
    """Seconds since a time of Kubernetes; infinite where there is none."""
    try:
        return (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()
    except (ValueError, TypeError):
        return float("inf")


async def _rollout(kube: KubeClient, deployment: Mapping[str, Any]) -> Finding | None:
    metadata, status = deployment["metadata"], deployment.get("status") or {}
    namespace, name = str(metadata["namespace"]), str(metadata["name"])
    ref = Ref(DEPLOYMENTS.kind, name, namespace)
    wanted, available = int(deployment["spec"].get("replicas", 1)), int(status.get("availableReplicas") or 0)
    if wanted == 0:
        step = f"kubectl -n {namespace} scale deploy {name} --replicas=2"
        return Finding(Severity.ERROR, ref, "ScaledToZero", "it is scaled to 0: no operator runs", step)
    if available >= wanted:
        return None
    why = await _why_not(kube, namespace, deployment)
    message = f"{available} of {count(wanted, 'pod')} {'is' if wanted == 1 else 'are'} available{why}"
    step = f"kubectl -n {namespace} describe pods -l {_SELECTOR}, and their logs (--previous)"
    return Finding(Severity.NOTICE if available else Severity.ERROR, ref, "PodsNotAvailable", message, step)


async def _why_not(kube: KubeClient, namespace: str, deployment: Mapping[str, Any]) -> str:
    """What the pods say, as far as one may see them."""
    labels = deployment["spec"]["selector"].get("matchLabels") or {}
    selector = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
    try:
        pods = [pod async for pod in kube.list(PODS, namespace, selector)]
    except KubeError as error:
        if error.code != 403:
            raise
        return ""
    reasons = sorted({reason for pod in pods for reason in _waiting(pod)})
    for condition in (deployment.get("status") or {}).get("conditions") or ():
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            reasons.append(str(condition.get("message")))
    return f": {some(reasons)}" if reasons else ""


def _waiting(pod: Mapping[str, Any]) -> Iterator[str]:
    status = pod.get("status") or {}
    for container in status.get("containerStatuses") or ():
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason"):
            yield str(waiting["reason"])
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            yield str(condition.get("message") or condition.get("reason"))
