"""To which DatabaseServer a resource belongs, and so which shard answers for it: exactly one, at any time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selvedge.kube.resources import DATABASE_SCHEMAS, DATABASE_SERVERS
from selvedge.reconcile.store import Store, key_of, unit_of


def server_behind(store: Store, plural: str, obj: Mapping[str, Any]) -> tuple[str, str]:
    """Namespace and name of the server, whether it exists or not.

    A login or a run whose DatabaseSchema does not exist belongs nowhere yet: the DatabaseSchema's own name decides, so
    that somebody says that it is missing. A login that is being deleted belongs to where it was made.
    """
    if plural == DATABASE_SERVERS.plural:
        return key_of(obj)
    if plural == DATABASE_SCHEMAS.plural:
        return unit_of(obj)[:2]
    namespace, _ = key_of(obj)
    made = str((obj.get("status") or {}).get("server") or "")
    if made and obj["metadata"].get("deletionTimestamp"):
        at, _, name = made.partition("/")
        return at, name
    ref = str(((obj.get("spec") or {}).get("schemaRef") or {}).get("name") or "")
    schema = store.get(DATABASE_SCHEMAS.plural, namespace, ref)
    return unit_of(schema)[:2] if schema is not None else (namespace, ref)
