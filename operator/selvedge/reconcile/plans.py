"""The whole plan of changes that wait for a person, in an immutable ConfigMap (design §4).

The status shows the first statements only. Who approves has to be able to read all of them, and to compute from them
the digest that he approves: the ConfigMap holds exactly what the digest is made of.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from selvedge.core.errors import RefusedError
from selvedge.core.reasons import Reason
from selvedge.core.rowcount import Counted, RowCount
from selvedge.core.unit import ChangeSummary, MemberResult
from selvedge.core.words import count
from selvedge.kube.resources import CONFIG_MAPS
from selvedge.reconcile.context import Context
from selvedge.reconcile.store import Object, key_of

#: What the API server lets a ConfigMap hold is 1 MiB; metadata and the second form have to fit too.
_MAX_BYTES = 900_000
_MAX_NAME = 63


def plan_name(schema: str, digest: str) -> str:
    """The ConfigMap's name: the same plan has the same name, whoever writes it and how often."""
    short = digest.removeprefix("sha256:")[:10]
    return f"{schema[: _MAX_NAME - len('-plan-') - len(short)].rstrip('-.')}-plan-{short}"


def plan_document(
    obj: Object, database: str, result: MemberResult, system_identifier: str, redact: Callable[[str], str] = str
) -> dict[str, Any]:
    """The ConfigMap: ``plan.json`` for machines, ``plan.txt`` for people. Where it is too long for one, it says so.

    No statement holds a secret; should a declaration repeat one, it is hidden, and the plan cannot be approved.
    """
    namespace, name = key_of(obj)
    changes = [_change(change) for change in result.pending]
    document = {
        "schema": f"{namespace}/{name}",
        "systemIdentifier": system_identifier,
        "database": database,
        "digest": result.digest,
        "changes": changes,
    }
    text = redact("\n".join(_lines(database, result.digest, result.pending)) + "\n")
    machine = redact(json.dumps(document, ensure_ascii=False, indent=1))
    data = {"plan.txt": text, "plan.json": machine}
    if len(text.encode()) + len(machine.encode()) > _MAX_BYTES:
        head = text.encode()[: _MAX_BYTES // 2].decode(errors="ignore")
        hint = f"-- cut off here: {len(changes)} changes are too long for a ConfigMap; read them with `selvedge plan`\n"
        data = {"plan.txt": f"{head.rpartition(chr(10))[0]}\n{hint}"}
    metadata = obj["metadata"]
    return {
        "metadata": {
            "name": plan_name(name, result.digest),
            "namespace": namespace,
            "labels": {"app.kubernetes.io/managed-by": "selvedge", "selvedge.dev/schema": name[:_MAX_NAME]},
            "ownerReferences": [
                {
                    "apiVersion": obj.get("apiVersion", "selvedge.dev/v1alpha1"),
                    "kind": "DatabaseSchema",
                    "name": name,
                    "uid": metadata["uid"],
                }
            ],
        },
        "immutable": True,
        "data": data,
    }


def _change(change: ChangeSummary) -> dict[str, Any]:
    """A change for machines; ``rows`` only where some are lost."""
    found: dict[str, Any] = {
        "kind": change.ref.kind,
        "name": change.ref.name,
        "risk": str(change.risk),
        "statement": change.statement,
        "before": change.before,
    }
    if change.rows is not None:
        found["rows"] = change.rows.document()
    return found


def _lines(database: str, digest: str, pending: Sequence[ChangeSummary]) -> Iterator[str]:
    risks = Counter(str(change.risk) for change in pending)
    yield f"-- {count(len(pending), 'change')} to database {database}: " + ", ".join(
        f"{n} {r}" for r, n in sorted(risks.items())
    )
    yield f"-- to approve: spec.approvedPlan: {digest}"
    for change in pending:
        lost = f", loses {change.rows}" if change.rows is not None else ""
        yield f"-- {change.risk}: {change.ref}{lost}"
        if change.before:
            yield f"--   replaces: {' '.join(change.before.split())}"
        yield change.statement.rstrip(";") + ";"


async def keep_plan(
    context: Context, obj: Object, database: str, result: MemberResult, system_identifier: str
) -> tuple[str, MemberResult]:
    """Have the ConfigMap of what waits, and no other; its name, or ``""`` where nothing waits.

    The result comes back with the rows that the ConfigMap names: whoever decides reads the same everywhere. Writes only
    where the plan is another one, or somebody took the ConfigMap away. Raises KubeError, and RefusedError where
    somebody else's stands in the way.
    """
    namespace, name = key_of(obj)
    before = str((((obj.get("status") or {}).get("plan")) or {}).get("configMap") or "")
    wanted = plan_name(name, result.digest) if result.pending and result.digest else ""
    if wanted:

        def document(of: MemberResult) -> dict[str, Any]:
            return plan_document(obj, database, of, system_identifier, context.redactor.redact)

        found = await context.kube.configmap(namespace, wanted)
        if found is not None:
            kept = _with_rows(result, found.get("data") or {})
            if found.get("data") == document(kept)["data"]:
                result, wanted_document = kept, None
            elif _is_ours(found, obj):
                # Of a pass that ended before its status was written, or changed by somebody who took it for his own.
                await context.kube.delete(CONFIG_MAPS, namespace, wanted)
                wanted_document = document(result)
            else:
                message = f"configmap {namespace}/{wanted} exists and does not hold the plan that waits: delete it"
                raise RefusedError(Reason.CONFLICT, message)
        else:
            wanted_document = document(result)
        if wanted_document is not None:
            await context.kube.create(CONFIG_MAPS, wanted_document)
    if before and before != wanted:
        found = await context.kube.configmap(namespace, before)
        # A status can be written by others: nothing is deleted on its word alone.
        if found is not None and _is_ours(found, obj):
            await context.kube.delete(CONFIG_MAPS, namespace, before)
    return wanted, result


def _is_ours(found: Mapping[str, Any], obj: Object) -> bool:
    owners = (found.get("metadata") or {}).get("ownerReferences") or ()
    return any(owner.get("uid") == obj["metadata"]["uid"] for owner in owners)


def _with_rows(result: MemberResult, data: Mapping[str, str]) -> MemberResult:
    """The result with the rows that a plan names that was written before; as it is where that cannot be read."""
    try:
        told = [change.get("rows") for change in json.loads(data["plan.json"])["changes"]]
        rows = [RowCount(int(x["count"]), Counted(x["counted"]), str(x["unit"])) if x else None for x in told]
    except (ValueError, KeyError, TypeError, AttributeError):
        return result
    if len(rows) != len(result.pending):
        return result
    pending = tuple(replace(change, rows=one) for change, one in zip(result.pending, rows, strict=True))
    return replace(result, pending=pending)
