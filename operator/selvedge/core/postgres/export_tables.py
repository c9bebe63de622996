"""What stands on tables of a live database: row-level security and partitions, as entries of the manifest."""

from __future__ import annotations

from typing import Any

from selvedge.core.postgres.export_names import Found, Notes, dotted, is_identifier, why_not_role
from selvedge.core.postgres.partitions import PartitionedTable
from selvedge.core.postgres.rls_changes import RowPolicy
from selvedge.core.postgres.rls_model import TableState

_POLICIES = 50
_EXPRESSION = 4096


def exported_row_security(found: Found, notes: Notes) -> list[dict[str, Any]]:
    """The entries of ``rowLevelSecurity``, by table. Probes are for a person to write: they say what is meant."""
    tables = found.snapshot.row_security
    below = {partition.key: parent for parent, table in tables.items() for partition in table.partitions}
    documents = []
    for key, table in sorted(tables.items()):
        parent = tables.get(below[key]) if key in below else None
        if parent is not None and parent.enabled and not table.policies:
            continue  # closed together with its table
        name = ".".join(key)
        why = _why_not(table)
        if why:
            notes.listed("row-level security of table", why, name)
            continue
        document: dict[str, Any] = {"table": name}
        if table.forced:
            document["force"] = True
        if table.policies:
            document["policies"] = [_policy(table.policies[one]) for one in sorted(table.policies)]
        documents.append(document)
    return documents


def _why_not(table: TableState) -> str:
    if dotted(*table.key) is None:
        return "the API does not take such a name"
    if not table.enabled:
        return "it is not enabled, and a declaration would enable it"
    if len(table.policies) > _POLICIES:
        return f"the API takes {_POLICIES} policies"
    for policy in table.policies.values():
        if not is_identifier(policy.name):
            return f"the API does not take the name of policy {policy.name}"
        if max(len(policy.using or ""), len(policy.check or "")) > _EXPRESSION:
            return f"an expression of policy {policy.name} is longer than {_EXPRESSION} characters"
        for role in policy.roles:
            why = why_not_role(role)
            if why:
                return f"policy {policy.name} is for role {role}, which cannot be declared: {why}"
    return ""


def _policy(policy: RowPolicy) -> dict[str, Any]:
    document: dict[str, Any] = {"name": policy.name}
    if policy.command != "ALL":
        document["command"] = policy.command.capitalize()
    if not policy.permissive:
        document["mode"] = "Restrictive"
    document["to"] = list(policy.roles)
    if policy.using is not None:
        document["using"] = policy.using
    if policy.check is not None:
        document["withCheck"] = policy.check
    return document


def exported_partitions(found: Found, notes: Notes) -> list[dict[str, Any]]:
    """The entries of ``partitions``: tables by hash. By time it is a person who says what is made and what goes."""
    if found.snapshot.tables is None:
        return []
    documents = []
    for key, table in sorted(found.snapshot.tables.partitions.tables.items()):
        name = ".".join(key)
        count = _modulus(table)
        column = table.key[0][0] if len(table.key) == 1 and table.key[0] else ""
        if count and dotted(*key) and is_identifier(column):
            documents.append({"table": name, "by": "Hash", "column": column, "count": count})
        elif table.strategy == "range" and column:
            notes.listed(
                "partitions by range of table",
                "declare them in partitions, with every and ahead, to have them made ahead of time",
                name,
            )
        else:
            notes.listed("partitions of table", "only those by time or by one whole hash can be declared", name)
    return documents


def _modulus(table: PartitionedTable) -> int:
    """By how many partitions the table is hashed, when all of them stand; 0 otherwise."""
    moduli = {one.modulus for one in table.partitions}
    if table.strategy != "hash" or len(moduli) != 1 or any(one.detaching for one in table.partitions):
        return 0
    (modulus,) = moduli
    return modulus if {one.remainder for one in table.partitions} == set(range(modulus)) else 0
