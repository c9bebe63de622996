"""Whether the operator's account may do what it will have to, asked before it is needed."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from selvedge.config import Settings
from selvedge.core.errors import SelvedgeError
from selvedge.core.rights import RIGHTS, RIGHTS_BESIDE_SECRETS, Right, lacking, named
from selvedge.kube.client import KubeClient
from selvedge.kube.resources import Resource

_RULES = Resource("authorization.k8s.io", "v1", "selfsubjectrulesreviews", "SelfSubjectRulesReview")
_ACCESS = Resource("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview")
#: A name that no namespace has (labels do not begin with a dash): only rights in all namespaces count there.
_NOWHERE = "-"

_log = structlog.stdlib.get_logger("selvedge.kube.rights")


async def missing(kube: KubeClient, namespaces: Sequence[str], wanted: Sequence[Right]) -> list[str]:
    """What the account lacks in each of the namespaces (none: in all of them), one sentence each. Raises KubeError.

    One question for each namespace. The answer is not whole where rights come from elsewhere than RBAC, so what seems
    to be missing is asked for by itself.
    """
    found = []
    for namespace in namespaces or ("",):
        review = await kube.create(_RULES, {"metadata": {}, "spec": {"namespace": namespace or _NOWHERE}})
        where = f"in namespace {namespace}" if namespace else "in all namespaces"
        for right, verb in lacking((review.get("status") or {}).get("resourceRules") or (), wanted):
            if not await _allowed(kube, namespace, right.group, right.resource, verb):
                found.append(f"{verb} {named(right.group, right.resource)} {where}: {right.why}")
    return found


async def _allowed(kube: KubeClient, namespace: str, group: str, resource: str, verb: str) -> bool:
    kind, _, part = resource.partition("/")
    asked = {"namespace": namespace, "group": group, "resource": kind, "subresource": part, "verb": verb}
    if namespace and kind == "namespaces":
        asked["name"] = namespace
    review = await kube.create(_ACCESS, {"metadata": {}, "spec": {"resourceAttributes": asked}})
    return bool((review.get("status") or {}).get("allowed"))


async def tell_missing(kube: KubeClient, settings: Settings, namespaces: Sequence[str]) -> None:
    """Log every right that is missing, in one line; never raises, since the work itself says so again.

    Where Secrets are not watched, which of them are needed is known with the resources that name them.
    """
    try:
        lacks = await missing(kube, namespaces, RIGHTS if settings.watch_secrets else RIGHTS_BESIDE_SECRETS)
    except SelvedgeError as error:
        _log.warning("the account's rights could not be looked at", error=error.message)
        return
    if lacks:
        _log.error("the operator's account lacks rights: helm upgrade gives it the rules of the chart", missing=lacks)
