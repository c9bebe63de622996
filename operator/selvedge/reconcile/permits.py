"""What a namespace may do on a server at this moment, for what runs beside the pass over a database."""

from __future__ import annotations

import time
from collections.abc import Mapping
from fnmatch import fnmatchcase

from selvedge.core.errors import RefusedError
from selvedge.core.names import reserved_role
from selvedge.core.reasons import Reason
from selvedge.engines.base import AccessRule
from selvedge.kube.resources import NAMESPACES
from selvedge.reconcile.access import access_rule, needs_labels
from selvedge.reconcile.context import Context
from selvedge.reconcile.servers import Server

#: How long the labels of a namespace are believed.
_LABELS_SECONDS = 60.0


async def permit(context: Context, server: Server, namespace: str) -> AccessRule:
    """The rule of ``DatabaseServer.spec.access`` for a namespace; raises RefusedError where none fits."""
    labels: Mapping[str, str] = {}
    if needs_labels(server.spec):
        at, labels = context.namespace_labels.get(namespace, (float("-inf"), {}))
        if time.monotonic() - at > _LABELS_SECONDS:
            found = await context.kube.get(NAMESPACES, None, namespace)
            labels = ((found or {}).get("metadata") or {}).get("labels") or {}
            context.namespace_labels[namespace] = (time.monotonic(), labels)
    return access_rule(server.spec, server.key, namespace, labels)


def check_database(rule: AccessRule, namespace: str, database: str) -> None:
    """Raise RefusedError for a database that the rule does not give."""
    if not any(fnmatchcase(database, pattern) for pattern in rule.databases):
        raise RefusedError(
            Reason.ACCESS_DENIED,
            f"the DatabaseServer's access does not let namespace {namespace} use database {database}: add it to "
            "spec.access there",
        )


def check_role(rule: AccessRule, namespace: str, what: str, role: str, *, listed: bool = True) -> None:
    """Raise RefusedError for a role that the rule does not give; ``what`` names it, as in ``role x of the migrations``.

    A reserved name passes where an access entry lists it in full; not so, without ``listed``, for what is to be made.
    """
    if listed and role in rule.role_prefixes:
        return
    why = reserved_role(role)
    if why:
        raise RefusedError(Reason.FORBIDDEN_NAME, f"{what} is refused: {why}; choose another")
    if not any(role.startswith(prefix) for prefix in rule.role_prefixes):
        raise RefusedError(
            Reason.ACCESS_DENIED,
            f"{what} is none that the DatabaseServer's access gives to namespace {namespace}: add its prefix to "
            "spec.access there",
        )
