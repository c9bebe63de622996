"""From a key of the work queue to a pass, and from an object that was seen to the keys that it concerns."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Hashable, Mapping
from typing import Any

import structlog

from selvedge.core.backoff import delay
from selvedge.core.errors import SelvedgeError
from selvedge.core.reasons import Reason
from selvedge.kube.resources import (
    CONFIG_MAPS,
    DATABASE_SCHEMAS,
    DATABASE_SERVERS,
    DATABASE_USERS,
    MIGRATION_RUNS,
    SECRETS,
    Resource,
)
from selvedge.kube.rights import tell_missing
from selvedge.reconcile.context import Context
from selvedge.reconcile.databaseschema import counts, reconcile_unit
from selvedge.reconcile.databaseserver import reconcile_server, secrets_of
from selvedge.reconcile.databaseuser import reconcile_user
from selvedge.reconcile.finalizer import holds, is_due
from selvedge.reconcile.listing import KINDS, Listing
from selvedge.reconcile.migrationrun import reconcile_run
from selvedge.reconcile.outcome import Outcome
from selvedge.reconcile.pruning import Pruning
from selvedge.reconcile.queue import WorkQueue
from selvedge.reconcile.removal import abandoned, reconcile_removal
from selvedge.reconcile.shards import server_behind
from selvedge.reconcile.store import Object, key_of, unit_of
from selvedge.reconcile.wakeusers import rotation_request, wake_users_of_schema, wake_users_of_secret
from selvedge.telemetry.logs import bind

_log = structlog.stdlib.get_logger("selvedge.reconcile")

#: Another value of this annotation asks for a pass now, as `kubectl annotate --overwrite` sets it.
RECONCILE_NOW = "selvedge.dev/reconcile-now"
#: Everything is listed so often, and for the first time when the watches stand: what went between the first list and
#: theirs, nobody tells.
_RELIST_SECONDS, _FIRST_RELIST_SECONDS = 600.0, 20.0
_SETTLE_SECONDS = 1.0
_MOST_SETTLE_SECONDS = 60.0
_COUNT_SECONDS = 10.0
_INTERNAL_RETRY = 60.0
_EARLY_SECONDS = 5.0
_NAMES = {"server": "DatabaseServer", "unit": "DatabaseSchema", "user": "DatabaseUser", "run": "MigrationRun"}


class Controller:
    """Owns the queue; everything else is in the context."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.queue = WorkQueue(self._work, context.settings.workers)
        self._listing = Listing(context, self)
        self._pruning = Pruning(context)
        self._listed: set[str] = set()
        self._interrupted = asyncio.Event()
        context.enqueue = self.queue.add
        context.enqueue_after = self.queue.add_after

    async def prime(self) -> None:
        """List everything into the store, which queues what is new to it. No work begins before: see :meth:`run`.

        A unit has to know all its members before its first pass. Raises KubeError.
        """
        await self._listing.prime()

    async def run(self) -> None:
        """Work, and list again now and then, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.queue.run())
            group.create_task(self._sweep())
            group.create_task(self._listing.attend())
            group.create_task(self._count())

    def seen(self, resource: Resource, obj: Mapping[str, Any], *, deleted: bool) -> None:
        """The watch showed an object."""
        store = self.context.store
        if deleted:
            if resource in KINDS:  # a Secret that only lost its label is told as deleted, and keeps its uid
                self._listing.deleted(_uid(obj))
            known = store.get(resource.plural, *key_of(obj))
            if known is not None and _uid(known) != _uid(obj):
                return  # made again under its name, and seen already: Kopf keeps the order of one uid only
            before = store.remove(resource.plural, *key_of(obj))
            if before is not None:
                self.gone(resource, before)
        elif key_of(obj)[0] not in self.context.left_out:  # else it is listed, as a whole, when it may be read again
            self.put(resource, obj)

    def gone(self, resource: Resource, obj: Object) -> None:
        """An object is not known any more."""
        self._enqueue(resource, obj)
        self._listed.discard(_uid(obj))
        if resource is DATABASE_SCHEMAS:
            self.context.metrics.headroom("", "/".join(key_of(obj)), ())
            if self.context.settings.shard is not None:
                self._enqueue_dependents(obj)

    def put(self, resource: Resource, obj: Mapping[str, Any]) -> None:
        """An object is there, as seen by the watch or in a list."""
        store = self.context.store
        before = store.put(resource.plural, obj)
        stored = store.get(resource.plural, *key_of(obj)) or dict(obj)
        changed = before is None or _uid(before) != _uid(obj) or _wanted(before) != _wanted(obj)
        if resource is SECRETS or resource is CONFIG_MAPS:
            changed = before is None or _version(before) != _version(obj)
        elif resource is DATABASE_USERS and before is not None:
            changed = changed or rotation_request(before) != rotation_request(dict(obj))
        if changed:
            self._enqueue(resource, stored)
        elif (
            before is not None
            and is_due(resource, stored)
            and (not is_due(resource, before) or abandoned(before) is not abandoned(stored))
        ):
            self._enqueue_removal(resource, stored)
        if resource is DATABASE_SCHEMAS and before is not None and unit_of(before) != unit_of(stored):
            self.queue.add(("unit", *unit_of(before)))  # the others there are one less
            self._enqueue_dependents(stored)
        if self.context.settings.shard is not None and before is not stored:
            self._shared(resource, before, stored)

    def listed(self, obj: Mapping[str, Any]) -> None:
        """The watch showed an object as part of a list; for the second time, if the watch was interrupted.

        After an interruption (410 Gone, a restarted API server) it never reports what was deleted meanwhile: all is
        listed again soon, or this process would go on with resources that are gone.
        """
        uid = str(obj["metadata"].get("uid"))
        if uid in self._listed:
            self._interrupted.set()
        self._listed.add(uid)

    def _enqueue(self, resource: Resource, obj: Object) -> None:
        namespace, name = key_of(obj)
        if resource is DATABASE_SERVERS:
            self.queue.add(("server", namespace, name))
        elif resource is DATABASE_SCHEMAS:
            self.queue.add(("unit", *unit_of(obj)))
        elif resource is MIGRATION_RUNS:
            self.queue.add(("run", namespace, name))
        elif resource is DATABASE_USERS:
            self.queue.add(("user", namespace, name))
        elif resource is SECRETS:
            for server in self.context.store.all(DATABASE_SERVERS.plural):
                if (namespace, name) in secrets_of(server):
                    self.context.servers.read_again(key_of(server))
                    self.queue.add(("server", *key_of(server)))
            wake_users_of_secret(self.context, namespace, name)
        elif resource is CONFIG_MAPS:
            self._enqueue_users(namespace, name)
        if is_due(resource, obj) and holds(obj):  # else its pass sets it, before it makes anything
            self._enqueue_removal(resource, obj)

    def _enqueue_removal(self, resource: Resource, obj: Object) -> None:
        self.queue.add(("removal", *key_of(obj), resource.plural))

    def _shared(self, resource: Resource, before: Object | None, obj: Object) -> None:
        """What a change means where other shards are at work."""
        if resource is DATABASE_SCHEMAS and before is None:
            self._enqueue_dependents(obj)  # until now its name decided whose they are
        elif before is None or resource not in KINDS or before.get("status") == obj.get("status"):
            return
        elif self.context.owns(resource.plural, obj) and str(obj["metadata"].get("uid")) not in self.context.writing:
            # Another shard had the last word, with an older view of things than this one: it is looked at again.
            self._enqueue(resource, obj)

    def _enqueue_dependents(self, schema: Object) -> None:
        """The logins and runs of a DatabaseSchema go where it goes."""
        namespace, name = key_of(schema)
        for resource in (DATABASE_USERS, MIGRATION_RUNS):
            for obj in self.context.store.all(resource.plural):
                ref = ((obj.get("spec") or {}).get("schemaRef") or {}).get("name")
                if ref == name and obj["metadata"].get("namespace") == namespace:
                    self._enqueue(resource, obj)

    def _is_ours(self, kind: str, rest: list[str]) -> bool:
        """Whether this process answers for a key, at this moment."""
        shard = self.context.settings.shard
        if shard is None:
            return True
        if kind in ("server", "unit"):
            return shard.owns(rest[0], rest[1])
        resource, objects = self._objects(kind, rest)
        return all(self.context.owns(resource.plural, obj) for obj in objects)

    def _enqueue_users(self, namespace: str, configmap: str) -> None:
        for schema in self.context.store.all(DATABASE_SCHEMAS.plural):
            source = ((schema.get("spec") or {}).get("migrations") or {}).get("source") or {}
            names = {str(ref.get("name")) for ref in source.get("configMaps") or ()}
            if schema["metadata"].get("namespace") == namespace and configmap in names:
                self.queue.add(("unit", *unit_of(schema)))

    def _is_early(self, kind: str, rest: list[str]) -> bool:
        """Whether this process has not looked at the server yet on which a login or a run is.

        It would say that the server cannot be used, and so after every hand-over. The server's first pass wakes the
        logins, and the databases, which wake their runs; whatever they miss has its turn a little later.
        """
        if kind not in ("user", "run"):
            return False
        resource, objects = self._objects(kind, rest)
        servers = {server_behind(self.context.store, resource.plural, obj) for obj in objects if self._placed(obj)}
        known = self.context.store
        return any(
            key not in self.context.servers_tried and known.get(DATABASE_SERVERS.plural, *key) is not None
            for key in servers
        )

    def _placed(self, obj: Object) -> bool:
        """Whether the DatabaseSchema of a login or a run exists."""
        ref = ((obj.get("spec") or {}).get("schemaRef") or {}).get("name")
        return self.context.store.get(DATABASE_SCHEMAS.plural, key_of(obj)[0], str(ref)) is not None

    async def _work(self, key: Hashable) -> None:
        kind, *rest = (str(part) for part in key) if isinstance(key, tuple) else ("", str(key))
        if not self._is_ours(kind, rest):
            return
        if self._is_early(kind, rest):
            self.queue.add_after(key, _EARLY_SECONDS)
            return
        with bind(**_describe(kind, rest), generation=self._generation(kind, rest), reconcile=secrets.token_hex(4)):
            started = time.monotonic()
            try:
                if kind == "server":
                    await reconcile_server(self.context, rest[0], rest[1])
                elif kind == "unit":
                    await reconcile_unit(self.context, rest[0], rest[1], rest[2])
                    wake_users_of_schema(self.context, self._objects(kind, rest)[1])
                elif kind == "user":
                    await reconcile_user(self.context, rest[0], rest[1])
                elif kind == "removal":
                    await reconcile_removal(self.context, rest[0], rest[1], rest[2])
                else:
                    await reconcile_run(self.context, rest[0], rest[1])
            except SelvedgeError as error:
                # Only the Kubernetes API fails out here: every other failure has become a status.
                _log.warning("the pass could not be finished", reason=str(error.reason), error=error.message)
                self.queue.add_after(key, self.context.random.uniform(1.0, 5.0))
            except Exception:  # noqa: BLE001 - one resource never ends the operator; the log has the traceback
                _log.exception("a defect ended the pass; it is tried again", retry_seconds=_INTERNAL_RETRY)
                self.context.metrics.reconciled(
                    _NAMES.get(kind, kind), str(Reason.INTERNAL_ERROR), time.monotonic() - started
                )
                self.queue.add_after(key, _INTERNAL_RETRY)
                await self._confess(kind, rest)
        self.context.metrics.queue_depth(self.queue.depth())

    def _objects(self, kind: str, rest: list[str]) -> tuple[Resource, list[Object]]:
        """The objects that a key is about."""
        store = self.context.store
        if kind == "unit":
            return DATABASE_SCHEMAS, store.unit((rest[0], rest[1]), rest[2])
        resource = {"server": DATABASE_SERVERS, "user": DATABASE_USERS}.get(kind, MIGRATION_RUNS)
        if kind == "removal":
            resource = DATABASE_SCHEMAS if rest[2] == DATABASE_SCHEMAS.plural else DATABASE_USERS
        found = store.get(resource.plural, rest[0], rest[1])
        return resource, [found] if found is not None else []

    def _generation(self, kind: str, rest: list[str]) -> object:
        """For the log: the generation of the one object, or of each DatabaseSchema of the database by its name."""
        _, objects = self._objects(kind, rest)
        if kind != "unit":
            return objects[0]["metadata"].get("generation") if objects else None
        return {"/".join(key_of(obj)): obj["metadata"].get("generation") for obj in objects}

    async def _confess(self, kind: str, rest: list[str]) -> None:
        """A defect shows in the status too: an empty one would leave its reader with nothing to go on."""
        resource, objects = self._objects(kind, rest)
        message = f"a defect in the operator ended the pass; it is tried again every {_INTERNAL_RETRY:g} s: see its log"
        for obj in objects:
            try:
                await self.context.write_status(resource, obj, Outcome(False, Reason.INTERNAL_ERROR, message))
            except SelvedgeError as error:
                _log.warning("the status could not be written", error=error.message)

    async def _sweep(self) -> None:
        """List again now and then, and soon after the watch was interrupted: it does not report every deletion."""
        failures, rest = 0, _FIRST_RELIST_SECONDS
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(rest * self.context.random.uniform(0.9, 1.1)):
                    await self._interrupted.wait()
                # the watches of all kinds come back one after the other
                pause = delay(failures, base=_SETTLE_SECONDS, cap=_MOST_SETTLE_SECONDS, random=self.context.random)
                await asyncio.sleep(max(_SETTLE_SECONDS, pause))
            self._interrupted.clear()
            rest = _RELIST_SECONDS
            try:
                await self._listing.everything()
                self._pruning.prune()
                failures = 0
            except SelvedgeError as error:
                _log.warning("the resources could not be listed; tried again soon", error=error.message)
                failures += 1
                self._interrupted.set()
            if failures <= 1:
                await self._tell_rights()

    async def _tell_rights(self) -> None:
        """A right that was taken away meanwhile is named: a watch that is refused only tries again."""
        watched = self.context.settings.namespaces
        served = tuple(namespace for namespace in watched if namespace not in self.context.left_out)
        if served or not watched:
            await tell_missing(self.context.kube, self.context.settings, served)

    async def _count(self) -> None:
        """Keep the metric of the resources true: more often than it is scraped, and not at each change of thousands."""
        while True:
            for resource in KINDS:
                objects = list(self.context.store.all(resource.plural))
                if self.context.settings.shard is not None:
                    objects = [obj for obj in objects if self.context.owns(resource.plural, obj)]
                self.context.metrics.resources(resource.kind, counts(objects))
            await asyncio.sleep(_COUNT_SECONDS)


def _uid(obj: Mapping[str, Any]) -> str:
    return str(obj["metadata"].get("uid", ""))


def _wanted(obj: Mapping[str, Any]) -> tuple[object, object]:
    """What makes a pass when it changes: the spec, and the annotation by which a person asks for one now."""
    metadata = obj["metadata"]
    return metadata.get("generation"), (metadata.get("annotations") or {}).get(RECONCILE_NOW)


def _version(obj: Mapping[str, Any]) -> str:
    return str(obj["metadata"].get("resourceVersion", ""))


def _describe(kind: str, rest: list[str]) -> dict[str, str]:
    described = {"resource": _NAMES.get(kind, kind), "namespace": rest[0], "name": rest[1]}
    if kind == "removal":
        return {**described, "resource": _NAMES["unit" if rest[2] == DATABASE_SCHEMAS.plural else "user"]}
    return {**described, "database": rest[2]} if kind == "unit" else described
