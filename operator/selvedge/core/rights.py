"""What the operator needs to be allowed in Kubernetes, why, and how a refusal is told.

The Helm chart gives exactly these (tests compare the two): in each watched namespace, or in all of them. What reaches
Secrets it gives in named namespaces only where ``rbac.secretNamespaces`` names some. The doctor asks for the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_GROUP = "selvedge.dev"
#: As the API server's RBAC authorizer words it.
_REFUSED = re.compile(
    r'User "(?P<user>[^"]+)" cannot (?P<verb>\w+) resource "(?P<resource>[^"]+)" in API group "(?P<group>[^"]*)"'
    r'(?: in the namespace "(?P<namespace>[^"]+)"| at the cluster scope)'
)
_OPERATOR = "helm upgrade gives the operator the rules of the chart, or add the verb to its Role by hand"
#: What the chart binds in named namespaces only, where ``rbac.secretNamespaces`` names some.
_NAMED = ("secrets", "jobs", "pods", "pods/log")
_OPERATOR_NAMED = (
    "helm upgrade gives the operator the rules of the chart, with the namespace in rbac.secretNamespaces where that is "
    "used, or add the verb to its Role by hand"
)
_PERSON = "ask for a role that has it, such as selvedge-view, selvedge-edit or selvedge-approve"


@dataclass(frozen=True, slots=True)
class Right:
    """Verbs on one resource (``group`` is empty for the core group), and what cannot be done without them."""

    group: str
    resource: str
    verbs: tuple[str, ...]
    why: str

    def each(self) -> Iterator[tuple[str, str, str]]:
        """Group, resource and verb, one by one."""
        for verb in self.verbs:
            yield self.group, self.resource, verb


_KINDS = ("databaseservers", "databaseschemas", "databaseusers", "migrationruns")
#: What is needed wherever resources are.
RIGHTS_BESIDE_SECRETS = (
    *(Right(_GROUP, kind, ("list", "watch"), "read what is declared") for kind in _KINDS),
    *(Right(_GROUP, f"{kind}/status", ("patch",), "say how far it is") for kind in _KINDS),
    *(
        Right(_GROUP, kind, ("patch",), "the finalizer of what is deleted with deletionPolicy Delete")
        for kind in ("databaseschemas", "databaseusers")
    ),
    Right(_GROUP, "migrationruns", ("create", "delete"), "migrations.autoApply and migrations.historyLimit"),
    Right("", "configmaps", ("get",), "read migrations and plans"),
    Right("", "configmaps", ("list", "watch"), "see at once that one with the label selvedge.dev/watch changed"),
    Right("", "configmaps", ("create", "delete"), "write the whole plan of what waits for approval"),
    Right("", "namespaces", ("get",), "the labels by which a server's access selects"),
    Right("events.k8s.io", "events", ("create",), "say what changed"),
)
#: Where Secrets are that resources name, or that the operator writes.
SECRET_RIGHTS = (
    Right("", "secrets", ("get",), "read the credentials that resources name"),
    Right("", "secrets", ("create", "update", "delete"), "write the Secrets of DatabaseUsers"),
)
#: All of it, where Secrets are watched as well.
RIGHTS = (
    *RIGHTS_BESIDE_SECRETS,
    *SECRET_RIGHTS,
    Right("", "secrets", ("list", "watch"), "see at once that one with the label selvedge.dev/watch changed"),
)
#: Beside them where ``migrationImages.enabled`` is set: who makes Jobs reads what Secrets their pods are given.
IMAGE_RIGHTS = (
    Right("batch", "jobs", ("get", "create", "delete"), "read migrations out of container images"),
    Right("", "pods", ("list",), "see how far the pod is that reads an image"),
    Right("", "pods/log", ("get",), "take the migrations of an image out of that pod's log"),
)
#: In the operator's own namespace: of the Leases of its own names, which only ``create`` cannot be bound to.
LEASE_RIGHTS = (Right("coordination.k8s.io", "leases", ("get", "update", "create"), "lead, one of several pods"),)
#: What the Job before an uninstallation needs where resources are (``selvedge release``), beside the Lease.
RELEASE_RIGHTS = tuple(
    Right(_GROUP, kind, ("list", "patch"), "find what holds the finalizer, and take it away")
    for kind in ("databaseschemas", "databaseusers")
)


def named(group: str, resource: str) -> str:
    """As kubectl names it: ``databaseschemas.selvedge.dev/status``."""
    kind, slash, part = resource.partition("/")
    return f"{kind}{'.' if group else ''}{group}{slash}{part}"


def refusal(text: str) -> str:
    """One plain sentence for what the API server's authorizer refused; empty where ``text`` is about something else.

    A 403 is not always about rights: quotas, admission and namespaces that are being deleted answer with it too.
    """
    found = _REFUSED.search(text)
    if found is None:
        return ""
    what = named(found["group"], found["resource"])
    where = f"in namespace {found['namespace']}" if found["namespace"] else "in all namespaces"
    operators = _OPERATOR_NAMED if found["resource"] in _NAMED else _OPERATOR
    then = operators if found["user"].startswith("system:serviceaccount:") else _PERSON
    return f"{found['user']} may not {found['verb']} {what} {where}: {then}"


def lacking(rules: Sequence[Mapping[str, Any]], wanted: Sequence[Right]) -> list[tuple[Right, str]]:
    """Each right of ``wanted``, and verb, that ``rules`` (of a SelfSubjectRulesReview, or of a Role) do not give."""
    return [
        (right, verb)
        for right in wanted
        for verb in right.verbs
        if not any(_gives(rule, right.group, right.resource, verb) for rule in rules)
    ]


def _gives(rule: Mapping[str, Any], group: str, resource: str, verb: str) -> bool:
    def has(key: str, *wanted: str) -> bool:
        return not {"*", *wanted}.isdisjoint(rule.get(key) or ())

    _, slash, part = resource.partition("/")
    every = f"*{slash}{part}"
    whole = not rule.get("resourceNames")
    return whole and has("apiGroups", group) and has("verbs", verb) and has("resources", resource, every)
