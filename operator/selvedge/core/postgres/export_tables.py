"""What stands on tables of a live database: row-level security and partitions, as entries of the manifest."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from selvedge.core.duration import format_duration
from selvedge.core.postgres.audit import CHANGES, EVENTS
from selvedge.core.postgres.export_names import Found, Notes, dotted, is_identifier, why_not_role
from selvedge.core.postgres.partitions import TIME_TYPES, PartitionedTable
from selvedge.core.postgres.periods import PERIODS, ranges
from selvedge.core.postgres.rls_changes import RowPolicy
from selvedge.core.postgres.rls_model import TableState

_POLICIES = 50
_EXPRESSION = 4096
#: What the API takes.
_AHEAD = 1000


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


def exported_partitions(found: Found, notes: Notes, logs: str = "") -> list[dict[str, Any]]:
    """The entries of ``partitions``, by hash and by time. ``logs`` is the audit's schema: its logs are declared there.

    By time it is declared what stands: the period, and as many ahead as there are, so that nothing is to be made now.
    What goes by itself is what the operator was told before; where it was not, nothing does.
    """
    if found.snapshot.tables is None:
        return []
    live = found.snapshot.tables.partitions
    documents = []
    for key, table in sorted(live.tables.items()):
        if key[0] == logs and key[1] in (CHANGES, EVENTS):
            continue
        name = ".".join(key)
        column = table.key[0][0] if len(table.key) == 1 and table.key[0] else ""
        if not dotted(*key) or not is_identifier(column):
            notes.listed("partitions of table", "the API does not take its name, or that of its key", name)
        elif count := _modulus(table):
            documents.append({"table": name, "by": "Hash", "column": column, "count": count})
        elif table.strategy == "range":
            documents += _by_time(found, table, column, live.now, notes)
        else:
            notes.listed("partitions of table", "only those by time or by one whole hash can be declared", name)
    return documents


def _by_time(found: Found, table: PartitionedTable, column: str, now: datetime, notes: Notes) -> list[dict[str, Any]]:
    name = ".".join(table.table)
    every, ahead = period_of(table, now)
    if not every or not ahead:
        why = (
            "they are no whole hours, days, weeks, months or years in UTC from the present one on; declare every and "
            "ahead to have them made ahead of time"
        )
        notes.listed("partitions by range of table", why, name)
        return []
    document: dict[str, Any] = {"table": name, "by": "Time", "column": column, "every": every, "ahead": ahead}
    retention = kept_for(found, f"partitions:{name}")
    if retention is not None:
        document["retention"] = format_duration(retention)
    return [document]


def period_of(table: PartitionedTable, now: datetime) -> tuple[str, int]:
    """The period of the partitions by time from the present one on, and how many there are ahead; ``""`` for none."""
    if table.strategy != "range" or len(table.key) != 1 or not table.key[0] or table.key[0][1] not in TIME_TYPES:
        return "", 0
    there = set(table.covered())
    for period in PERIODS:
        present = ranges(period, now, 0)[0]
        if present in there:
            ahead = 0
            while ahead < _AHEAD and ranges(period, now, ahead + 1)[-1] in there:
                ahead += 1
            return period, ahead
    return "", 0


def kept_for(found: Found, key: str) -> float | None:
    """The retention, in seconds, that a claim remembers of a table; None for ever."""
    claim = found.snapshot.claims.get(key)
    value = claim.detail.get("retention") if claim is not None else None
    return float(value) if isinstance(value, (int, float)) else None


def _modulus(table: PartitionedTable) -> int:
    """By how many partitions the table is hashed, when all of them stand; 0 otherwise."""
    moduli = {one.modulus for one in table.partitions}
    if table.strategy != "hash" or len(moduli) != 1 or any(one.detaching for one in table.partitions):
        return 0
    (modulus,) = moduli
    return modulus if {one.remainder for one in table.partitions} == set(range(modulus)) else 0
