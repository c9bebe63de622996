"""What every pass needs, in one place that is handed in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Literal

import structlog

from selvedge.api.resource import KINDS
from selvedge.config import Settings
from selvedge.core.conditions import find
from selvedge.core.errors import SelvedgeError
from selvedge.core.redact import Redactor
from selvedge.core.users import user_of
from selvedge.kube.client import KubeClient
from selvedge.kube.events import Events
from selvedge.kube.resources import DATABASE_SCHEMAS, DATABASE_USERS, Resource
from selvedge.reconcile.outcome import Notice, Outcome, finished, merge_patch
from selvedge.reconcile.servers import Servers
from selvedge.reconcile.shards import server_behind
from selvedge.reconcile.store import Object, Store, key_of
from selvedge.telemetry.health import Health
from selvedge.telemetry.metrics import Metrics

_log = structlog.stdlib.get_logger("selvedge.reconcile")

#: Keys of a Secret whose values may be shown: a message has to name the login and the host.
_PLAIN = frozenset({"username", "user", "host", "port", "dbname", "database", "type", "provider", "ca.crt", "tls.crt"})

#: How old ``status.nextRetryTime`` may grow while nothing else changes.
_RETRY_SHOWN = timedelta(seconds=30)

#: A key of the work queue: ("server", ns, name), ("unit", server's ns, its name, database), ("user", ns, name),
#: ("run", ns, name) or ("removal", ns, name, plural).
Key = tuple[str, ...]


@dataclass(slots=True)
class Context:
    """The process's parts. ``may_write`` raises when this process does not lead any more.

    ``drifted`` are the uids and generations of the DatabaseSchemas whose drift was told of and is not repaired yet,
    ``unsaid`` the events of passes by uid whose status could not be written: they are posted with the next one,
    ``writing`` the uids whose status is being written, ``cleaned`` those that only have to be let go, ``left_out`` the
    watched namespaces that may not be read, with the reason, ``awaited`` the servers whose next answer
    somebody waits for.
    """

    settings: Settings
    kube: KubeClient
    store: Store
    servers: Servers
    events: Events
    metrics: Metrics
    health: Health
    redactor: Redactor
    cluster: str
    may_write: Callable[[], None]
    enqueue: Callable[[Hashable], None] = lambda key: None
    enqueue_after: Callable[[Hashable, float], None] = lambda key, seconds: None
    random: Random = field(default_factory=Random)
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    servers_tried: set[tuple[str, str]] = field(default_factory=set)
    awaited: set[tuple[str, str]] = field(default_factory=set)
    failures: dict[Key, int] = field(default_factory=dict)
    drifted: dict[str, int] = field(default_factory=dict)
    unsaid: dict[str, tuple[Notice, ...]] = field(default_factory=dict)
    writing: set[str] = field(default_factory=set)
    cleaned: set[str] = field(default_factory=set)
    left_out: dict[str, str] = field(default_factory=dict)
    namespace_labels: dict[str, tuple[float, Mapping[str, str]]] = field(default_factory=dict)
    sources: dict[str, tuple[list[str], str]] = field(default_factory=dict)
    images: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    secrets_seen: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)

    async def secret(self, namespace: str, name: str, plain: Collection[str] = ()) -> Mapping[str, bytes] | None:
        """Read a Secret; its values are kept out of logs, events and statuses from then on.

        ``plain`` are keys whose values are no secrets, beside those that never are (user names, hosts, certificates).
        """
        found = await self.kube.secret(namespace, name)
        hidden = (found or {}).keys() - _PLAIN - set(plain)
        values = tuple(_text((found or {})[key]) for key in sorted(hidden))
        for value in values:
            self.redactor.add(value)
        for value in self.secrets_seen.get((namespace, name), ()):
            self.redactor.remove(value)
        self.secrets_seen[namespace, name] = values
        return found

    async def write_status(self, resource: Resource, obj: Object, outcome: Outcome) -> bool:
        """Write the outcome to the object's status, if that changes anything; True where it did. Posts the events."""
        key = key_of(obj)
        current = self.store.get(resource.plural, *key)
        if current is None or current["metadata"].get("uid") != obj["metadata"].get("uid"):
            return False  # deleted meanwhile
        if not self.owns(resource.plural, current):
            return False  # another shard answers for it by now
        before = current.get("status") or {}
        generation = int(obj["metadata"].get("generation", 0))
        after = finished(outcome, before, generation, self.now(), self.redactor.redact, KINDS[resource.kind].status)
        patch = merge_patch(before, after)
        if patch.keys() == {"nextRetryTime"} and _fresh(before.get("nextRetryTime"), self.now()):
            patch = {}
        uid = str(obj["metadata"]["uid"])
        notices = (*self.unsaid.pop(uid, ()), *outcome.notices)
        if patch:
            self.writing.add(uid)
            try:
                written = await self.kube.patch_status(resource, *key, patch)
            except SelvedgeError:
                # What this pass did it will not do again: the next one has nothing to say of it.
                if notices:
                    self.unsaid[uid] = notices
                raise
            finally:
                self.writing.discard(uid)
            if written is not None:
                self.store.answered(resource.plural, written)
        for notice in (*notices, *_transition(before, outcome)):
            kind: Literal["Normal", "Warning"] = "Warning" if notice.warning else "Normal"
            await self.events.post(obj, notice.reason, notice.message, type=kind)
        return bool(patch)

    def owns(self, plural: str, obj: Object) -> bool:
        """Whether this process answers for an object, and no other shard."""
        shard = self.settings.shard
        return shard is None or shard.owns(*server_behind(self.store, plural, obj))

    def alive(self, resource: str) -> bool:
        """Whether what a claim names exists; of a namespace that is not watched or left out, it is believed to.

        That is a DatabaseSchema (namespace/name), or a DatabaseUser (:func:`selvedge.core.users.resource_of`).
        """
        user = user_of(resource)
        namespace, _, name = resource.partition("/") if user is None else (user[0], "/", user[1])
        if (self.settings.namespaces and namespace not in self.settings.namespaces) or namespace in self.left_out:
            return True
        kind = DATABASE_SCHEMAS if user is None else DATABASE_USERS
        return self.store.get(kind.plural, namespace, name) is not None


def _fresh(shown: object, now: datetime) -> bool:
    """Whether the retry that is shown is to come, or was due a moment ago.

    A server that is away is asked every few seconds, and that alone is worth no write each time.
    """
    if not shown:
        return False
    return now - datetime.fromisoformat(str(shown)) < _RETRY_SHOWN


def _transition(before: Mapping[str, Any], outcome: Outcome) -> tuple[Notice, ...]:
    """An event where a resource came to a stop: something that somebody has to act on, said once."""
    ready = find(before.get("conditions") or (), "Ready")
    same = ready is not None and ready.status is outcome.ready and ready.reason == outcome.reason
    known = any(notice.reason is outcome.reason for notice in outcome.notices)
    if outcome.ready is not False or outcome.retrying or same or known:
        return ()
    return (Notice(outcome.reason, outcome.message, warning=True),)


def _text(value: bytes) -> str:
    return value.decode(errors="replace").strip("\r\n")
