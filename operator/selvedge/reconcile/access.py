"""Who may use a server, and for what: ``DatabaseServer.spec.access``, evaluated; pure."""

from __future__ import annotations

from collections.abc import Mapping

from selvedge.api.databaseserver import Access, DatabaseServerSpec, LabelSelector, NamespacesFrom, SelectorOperator
from selvedge.core.errors import RefusedError
from selvedge.core.reasons import Reason
from selvedge.engines.base import AccessRule


def access_rule(
    server: DatabaseServerSpec, server_key: tuple[str, str], namespace: str, labels: Mapping[str, str]
) -> AccessRule:
    """What resources of ``namespace`` (with these labels) may do on the server.

    Without entries: the server's own namespace, everything. Several entries that fit add up. Raises RefusedError where
    none fits.
    """
    own = namespace == server_key[0]
    if not server.access:
        if own:
            return AccessRule()
        raise _refused(server_key, namespace)
    entries = [entry for entry in server.access if _fits(entry, own, labels)]
    if not entries:
        raise _refused(server_key, namespace)
    return AccessRule(
        databases=tuple(pattern for entry in entries for pattern in entry.databases),
        role_prefixes=tuple(prefix for entry in entries for prefix in entry.role_prefixes),
        extensions=tuple(pattern for entry in entries for pattern in entry.extensions),
    )


def needs_labels(server: DatabaseServerSpec) -> bool:
    """Whether the namespace's labels have to be read at all."""
    return any(entry.namespaces.from_ is NamespacesFrom.SELECTOR for entry in server.access)


def _refused(server_key: tuple[str, str], namespace: str) -> RefusedError:
    server = "/".join(server_key)
    return RefusedError(
        Reason.ACCESS_DENIED,
        f"namespace {namespace} may not use DatabaseServer {server}: add it to spec.access there",
    )


def _fits(entry: Access, own: bool, labels: Mapping[str, str]) -> bool:
    match entry.namespaces.from_:
        case NamespacesFrom.ALL:
            return True
        case NamespacesFrom.SAME:
            return own
        case _:
            return entry.namespaces.selector is not None and _matches(entry.namespaces.selector, labels)


def _matches(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    """Kubernetes' label selector; an empty one matches everything."""
    if any(labels.get(key) != value for key, value in selector.match_labels.items()):
        return False
    for requirement in selector.match_expressions:
        value = labels.get(requirement.key)
        ok = {
            SelectorOperator.IN: value in requirement.values,
            SelectorOperator.NOT_IN: value not in requirement.values,
            SelectorOperator.EXISTS: value is not None,
            SelectorOperator.DOES_NOT_EXIST: value is None,
        }[requirement.operator]
        if not ok:
            return False
    return True
