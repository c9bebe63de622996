"""What a process remembers of resources, beside the resources themselves, goes with them."""

from __future__ import annotations

from collections.abc import Iterator

from selvedge.kube.resources import DATABASE_SCHEMAS, DATABASE_SERVERS, DATABASE_USERS, MIGRATION_RUNS
from selvedge.reconcile.context import Context
from selvedge.reconcile.databaseserver import secrets_of
from selvedge.reconcile.store import Object

Memory = tuple[str, ...]


class Pruning:
    """Called whenever everything was listed.

    What nobody needs is forgotten the second time in a row: a pass that is under way may still speak of a password
    whose resource was deleted a moment ago.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._unneeded: frozenset[Memory] = frozenset()

    def prune(self) -> None:
        """Forget what belonged to resources that are not known since the last time; passwords among it."""
        needed = frozenset(self._needed())
        unneeded = frozenset(memory for memory in self._remembered() if memory not in needed)
        for kind, *rest in unneeded & self._unneeded:
            if kind == "secret":
                for value in self._context.secrets_seen.pop((rest[0], rest[1]), ()):
                    self._context.redactor.remove(value)
            elif kind == "namespace":
                self._context.namespace_labels.pop(rest[0], None)
            else:
                self._forget(rest[0])
        self._unneeded = unneeded

    def _remembered(self) -> Iterator[Memory]:
        context = self._context
        for uids in (context.sources, context.drifted, context.unsaid, context.cleaned):
            for uid in uids:
                yield "uid", uid
        for uid, _ in context.images:
            yield "uid", uid
        for key in context.failures:
            if key[0] == "image":
                yield "uid", key[1]
        for secret in context.secrets_seen:
            yield "secret", *secret
        for namespace in context.namespace_labels:
            yield "namespace", namespace

    def _needed(self) -> Iterator[Memory]:
        for resource in (DATABASE_SERVERS, DATABASE_SCHEMAS, DATABASE_USERS, MIGRATION_RUNS):
            for obj in self._context.store.all(resource.plural):
                yield "uid", str(obj["metadata"].get("uid"))
                yield "namespace", str(obj["metadata"].get("namespace"))
        for obj in self._context.store.all(DATABASE_SERVERS.plural):
            for secret in secrets_of(obj):
                yield "secret", *secret
        for obj in self._context.store.all(DATABASE_SCHEMAS.plural):
            migrations = (obj.get("spec") or {}).get("migrations") or {}
            yield _secret(obj, ((migrations.get("runAs") or {}).get("secretRef") or {}).get("name"))
        for obj in self._context.store.all(DATABASE_USERS.plural):
            spec = obj.get("spec") or {}
            yield _secret(obj, ((spec.get("password") or {}).get("secretRef") or {}).get("name"))
            yield _secret(obj, (spec.get("secret") or {}).get("name") or f"{obj['metadata']['name']}-db")
            yield _secret(obj, ((obj.get("status") or {}).get("binding") or {}).get("name"))

    def _forget(self, uid: str) -> None:
        context = self._context
        context.sources.pop(uid, None)
        context.drifted.pop(uid, None)
        context.unsaid.pop(uid, None)
        context.cleaned.discard(uid)
        for image in [key for key in context.images if key[0] == uid]:
            del context.images[image]
        for key in [key for key in context.failures if key[:2] == ("image", uid)]:
            del context.failures[key]


def _secret(obj: Object, name: object) -> Memory:
    return "secret", str(obj["metadata"].get("namespace")), str(name)
