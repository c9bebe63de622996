"""Who may do what in Kubernetes: the operator's ServiceAccount, and whoever asks the doctor."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from selvedge.cli.doctor_cluster import Operator
from selvedge.cli.findings import Finding, Ref, Report, Severity
from selvedge.core.reasons import Reason
from selvedge.core.rights import IMAGE_RIGHTS, RIGHTS, RIGHTS_BESIDE_SECRETS, SECRET_RIGHTS, Right, named
from selvedge.core.words import some
from selvedge.kube.client import KubeClient
from selvedge.kube.errors import KubeError
from selvedge.kube.resources import FINALIZER, GROUP, NAMESPACES, Resource

_AUTHORIZATION = "authorization.k8s.io"
SUBJECT_REVIEWS = Resource(_AUTHORIZATION, "v1", "subjectaccessreviews", "SubjectAccessReview")
SELF_REVIEWS = Resource(_AUTHORIZATION, "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview")
_ADMISSION = "admissionregistration.k8s.io"
POLICIES = Resource(_ADMISSION, "v1", "validatingadmissionpolicies", "ValidatingAdmissionPolicy")
BINDINGS = Resource(_ADMISSION, "v1", "validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding")
#: What gives the operator the rights that it needs wherever resources are.
_STEP = "helm upgrade with the chart's rbac, or bind the rules of charts/selvedge/templates/rbac.yaml to it"


async def operators(
    kube: KubeClient,
    report: Report,
    operator: Operator,
    namespace: str | None,
    objects: Mapping[str, list[dict[str, Any]]],
) -> None:
    """Ask the API server what the operator's ServiceAccount may do. Raises KubeError.

    One that watches some namespaces is asked about for each of those where resources are, or for all of them. What
    reaches Secrets, where that was given in some namespaces only, for each where it is needed.
    """
    if operator.account is None:
        return
    if operator.watched and namespace not in (None, *operator.watched):
        return  # that it is not watched is said of each resource there
    for at, rights, step in _needed(operator, namespace, objects):
        try:
            rules = [rule async for rule in _lacking(kube, operator.account, at, rights)]
        except KubeError as error:
            if error.code != 403:
                raise
            report.unchecked.append("the rights of the operator's ServiceAccount: you may not ask for another's")
            return
        if rules:
            ref = Ref("ServiceAccount", operator.account[1], operator.account[0])
            message = f"it may not do {'everywhere' if not at else f'in namespace {at}'} what the operator needs"
            report.add(Finding(Severity.ERROR, ref, "KubernetesForbidden", message, step, tuple(rules)))


async def namespaces(
    kube: KubeClient, report: Report, operator: Operator, objects: Mapping[str, Sequence[Mapping[str, Any]]]
) -> None:
    """Look whether what the operator is told to watch is there, and stays: it leaves out what is not. Raises KubeError.

    ``objects`` are all resources, by kind.
    """
    held = {
        str(obj["metadata"]["namespace"])
        for found in objects.values()
        for obj in found
        if FINALIZER in (obj["metadata"].get("finalizers") or ())
    }
    for name in operator.watched:
        try:
            found = await kube.get(NAMESPACES, None, name)
        except KubeError as error:
            if error.code != 403:
                raise
            report.unchecked.append("whether the watched namespaces exist: you may not read them")
            return
        if found is None:
            message = "the operator is told to watch it and it does not exist: it is left out"
            step = (
                "create it and run helm upgrade, which brings the Role, or take it out of the chart's watchNamespaces"
            )
            report.add(Finding(Severity.ERROR, Ref("Namespace", name), "NamespaceGone", message, step))
        elif found["metadata"].get("deletionTimestamp") and name in held:
            message = (
                "it is being deleted, and its resources wait for the operator, whose Role may have gone before them"
            )
            step = f"if it does not go by itself: selvedge release -n {name}, which leaves the databases as they are"
            report.add(Finding(Severity.ERROR, Ref("Namespace", name), "NamespaceHeld", message, step))


def _needed(
    operator: Operator, namespace: str | None, objects: Mapping[str, list[dict[str, Any]]]
) -> Iterator[tuple[str, Sequence[Right], str]]:
    """Where (an empty name: in all namespaces) which rights are needed, and what gives them."""
    used = {str(obj["metadata"]["namespace"]) for kind in objects.values() for obj in kind}
    where = [namespace] if namespace else sorted(used.intersection(operator.watched))
    images = set(_in(objects, _reads_image))
    rights: tuple[Right, ...] = RIGHTS_BESIDE_SECRETS
    if operator.watches_secrets:
        rights = (*RIGHTS, *IMAGE_RIGHTS) if images else RIGHTS
    for at in where or operator.watched or [""]:
        yield at, rights, _STEP
    if not operator.watches_secrets:
        for at in sorted({*images, *_in(objects, _names_secret)}):
            step = f"helm upgrade with {at} in rbac.secretNamespaces; docs/guide/security.md has the binding by hand"
            if at in images:
                step = f"helm upgrade with migrationImages.enabled, and {at} in rbac.secretNamespaces"
            yield at, (*SECRET_RIGHTS, *(IMAGE_RIGHTS if at in images else ())), step


def _in(objects: Mapping[str, list[dict[str, Any]]], wanted: Callable[[str, Mapping[str, Any]], bool]) -> Iterator[str]:
    """The namespaces of the resources that are ``wanted`` by their kind and spec."""
    for kind, found in objects.items():
        for obj in found:
            if wanted(kind, obj.get("spec") or {}):
                yield str(obj["metadata"]["namespace"])


def _reads_image(_: str, spec: Mapping[str, Any]) -> bool:
    """Whether its migrations are in a container image, which takes rights that the chart gives apart."""
    return bool(((spec.get("migrations") or spec).get("source") or {}).get("image"))


def _names_secret(kind: str, spec: Mapping[str, Any]) -> bool:
    """Whether the operator reads or writes a Secret beside it."""
    return kind in ("DatabaseServer", "DatabaseUser") or "runAs" in (spec.get("migrations") or spec)


async def _lacking(
    kube: KubeClient, account: tuple[str, str], namespace: str, rights: Sequence[Right]
) -> AsyncIterator[str]:
    """Each right that the account does not have as a whole, with the verbs that it lacks and what they are for."""
    asked = [(right, each) for right in rights for each in right.each()]
    user = f"system:serviceaccount:{account[0]}:{account[1]}"
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{account[0]}", "system:authenticated"]
    answers = await asyncio.gather(
        *(_allowed(kube, SUBJECT_REVIEWS, namespace, *each, user=user, groups=groups) for _, each in asked)
    )
    refused: dict[Right, list[str]] = {}
    for (right, (_, _, verb)), allowed in zip(asked, answers, strict=True):
        if not allowed:
            refused.setdefault(right, []).append(verb)
    for right, verbs in refused.items():
        yield f"{some(verbs, len(verbs))} {named(right.group, right.resource)}: {right.why}"


async def _allowed(
    kube: KubeClient, reviews: Resource, namespace: str, group: str, resource: str, verb: str, **subject: Any
) -> bool:
    plural, _, sub = resource.partition("/")
    attributes = {"group": group, "resource": plural, "subresource": sub, "verb": verb, "namespace": namespace}
    if namespace and plural == NAMESPACES.plural:
        attributes["name"] = namespace
    answer = await kube.create(reviews, {"metadata": {}, "spec": {"resourceAttributes": attributes, **subject}})
    return bool((answer.get("status") or {}).get("allowed"))


async def approval(kube: KubeClient, report: Report, operator: Operator) -> None:
    """Look whether approving is a right of its own here, where the operator is installed. Raises KubeError."""
    if not operator.installed:
        return
    try:
        policies = {str(one["metadata"]["name"]) for one in [p async for p in kube.list(POLICIES)] if _is_ours(one)}
        bindings = [binding["spec"] async for binding in kube.list(BINDINGS)]
    except KubeError as error:
        if error.code != 403:
            raise
        report.unchecked.append("whether approving is a right of its own: you may not list admission policies")
        return
    if any(b.get("policyName") in policies and "Deny" in (b.get("validationActions") or ()) for b in bindings):
        return
    message = "nothing keeps who may edit a resource from approving his own plan, or loosening what guards it"
    step = "helm upgrade with approval.enforce=true, and bind selvedge-approve to who is to approve"
    ref = Ref(POLICIES.kind, "selvedge")
    report.add(Finding(Severity.NOTICE, ref, "ApprovalNotEnforced", message, step))


def _is_ours(policy: Mapping[str, Any]) -> bool:
    rules = ((policy.get("spec") or {}).get("matchConstraints") or {}).get("resourceRules") or ()
    return any(GROUP in (rule.get("apiGroups") or ()) for rule in rules)


async def callers(kube: KubeClient, report: Report, objects: Mapping[str, list[dict[str, Any]]]) -> None:
    """Say to who waits for an approval whether he may give it himself. Raises KubeError."""
    waiting = list(_waiting(report))
    asked = {(finding.ref.kind, finding.ref.namespace) for finding in waiting}
    may = {
        (kind, namespace): await _allowed(kube, SELF_REVIEWS, namespace, GROUP, f"{kind.lower()}s", "approve")
        for kind, namespace in sorted(asked)
    }
    lacking = [finding for finding in waiting if not may[finding.ref.kind, finding.ref.namespace]]
    report.replace(lambda finding: _for_another(finding) if finding in lacking else finding)


def _for_another(finding: Finding) -> Finding:
    step = f"{finding.step}; you lack the verb approve: ask somebody who is bound to selvedge-approve"
    return replace(finding, step=step)


def _waiting(report: Report) -> Iterator[Finding]:
    for finding in report.findings:
        if finding.reason in (Reason.WAITING_FOR_APPROVAL, Reason.SUPERSEDED):
            yield finding
