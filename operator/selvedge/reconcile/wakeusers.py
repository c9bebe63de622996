"""Which DatabaseUsers are looked at when something else changed."""

from __future__ import annotations

import time
from collections.abc import Sequence

from selvedge.core.breaker import BreakerState
from selvedge.kube.resources import DATABASE_USERS
from selvedge.reconcile.binding import REQUEST
from selvedge.reconcile.context import Context
from selvedge.reconcile.databaseuser import is_verified
from selvedge.reconcile.store import Object, key_of


def wake_users_of_schema(context: Context, schemas: Sequence[Object]) -> None:
    """Those that are not Ready may go on now: their database or a role of theirs may exist by now."""
    keys = {key_of(schema) for schema in schemas}
    for obj in context.store.all(DATABASE_USERS.plural):
        if _schema_key(obj) in keys and not is_verified(obj):
            context.enqueue(("user", *key_of(obj)))


def wake_users_of_server(context: Context, server: tuple[str, str]) -> None:
    """Every DatabaseUser on a server whose address, CA or replicas changed, or that answers again."""
    schemas = {
        key_of(schema) for database in context.store.units_of(server) for schema in context.store.unit(server, database)
    }
    for obj in context.store.all(DATABASE_USERS.plural):
        if _schema_key(obj) in schemas:
            context.enqueue(("user", *key_of(obj)))


def wake_users_of_secret(context: Context, namespace: str, name: str) -> None:
    """Those that read their password from this Secret, or whose own it is."""
    for obj in context.store.all(DATABASE_USERS.plural):
        spec = obj.get("spec") or {}
        given = ((spec.get("password") or {}).get("secretRef") or {}).get("name")
        own = (spec.get("secret") or {}).get("name") or f"{obj['metadata']['name']}-db"
        if obj["metadata"].get("namespace") == namespace and name in (given, own):
            context.enqueue(("user", *key_of(obj)))


def footing(context: Context, server: tuple[str, str]) -> object:
    """What a DatabaseUser's Secret and its passes depend on of a server; compared before and after its pass."""
    found = context.servers.get(server)
    if found is None:
        return None
    return found.target, found.breaker.state(time.monotonic()) is BreakerState.CLOSED, found.blocked is None


def rotation_request(obj: Object) -> str:
    """The rotation that is asked for by annotation: it does not change the generation."""
    return str((obj["metadata"].get("annotations") or {}).get(REQUEST, ""))


def _schema_key(obj: Object) -> tuple[str, str]:
    ref = ((obj.get("spec") or {}).get("schemaRef") or {}).get("name")
    return str(obj["metadata"].get("namespace", "")), str(ref)
