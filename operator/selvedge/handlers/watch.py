"""Kopf's part: watching, and the finalizer where deletion has work to do.

What the watch shows goes to the controller, which puts the object's key into the work queue if its generation is new.
Handlers of create, update and resume would add nothing but a write: Kopf notes the last handled spec in an annotation
of each object, and an exception's text in another. Only ``deletionPolicy: Delete`` has a handler, and so annotations.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import kopf
from kopf import (
    AnnotationsDiffBaseStorage,
    AnnotationsProgressStorage,
    Body,
    BodyEssence,
    OperatorRegistry,
    OperatorSettings,
)

from selvedge.core.backoff import delay
from selvedge.core.errors import SelvedgeError
from selvedge.kube.resources import CONFIG_MAPS, DATABASE_SCHEMAS, DATABASE_USERS, GROUP, SECRETS, VERSION, Resource
from selvedge.reconcile.controller import KINDS, Controller
from selvedge.reconcile.databaseschema import remove_schema
from selvedge.reconcile.databaseuser import remove_user

PREFIX = GROUP

_REMOVALS = {DATABASE_SCHEMAS.plural: remove_schema, DATABASE_USERS.plural: remove_user}


class HashedSpec(AnnotationsDiffBaseStorage):
    """Remembers a hash of the spec: the whole spec would not fit beside others in 256 KiB of annotations."""

    def build(self, *, body: Body, extra_fields: Any = None) -> BodyEssence:
        """What counts as a change: the spec, and that the object is there."""
        text = json.dumps(body.get("spec") or {}, sort_keys=True, default=str)
        essence: Any = {"spec": hashlib.sha256(text.encode()).hexdigest()[:16]}
        return essence  # type: ignore[no-any-return]


def settings_for(settings: OperatorSettings) -> None:
    """Kopf's settings, each with its reason."""
    settings.peering.standalone = True  # the Lease elects
    settings.scanning.disabled = True  # our CRDs are installed first; scanning would list every CRD of the cluster
    settings.persistence.finalizer = f"{GROUP}/cleanup"
    # Kopf's default prefix collides with other operators: both would rewrite the same annotations for ever.
    settings.persistence.progress_storage = AnnotationsProgressStorage(prefix=PREFIX, v1=False)
    settings.persistence.diffbase_storage = HashedSpec(prefix=PREFIX, v1=False)
    settings.queueing.worker_limit = None  # a slot is held through idle time; the work queue has its own limit
    settings.queueing.idle_timeout = 0.1  # after a list, each object has a worker for so long, and each costs memory
    settings.queueing.exit_timeout = 2.0  # handlers only enqueue; the queue is ended by the runtime
    settings.networking.connect_timeout = 5
    settings.networking.request_timeout = 30
    # An API server that restarts is away for seconds: give up only when the Lease is lost anyway.
    settings.networking.error_backoffs = [0.2, 0.5, 1, 1, 2, 2, 3, 5, 5, 5, 10, 10, 10]
    settings.watching.chunk_size = 500
    settings.watching.label_selectors["secrets"] = f"{GROUP}/watch=true"
    settings.watching.label_selectors["configmaps"] = f"{GROUP}/watch=true"
    settings.posting.enabled = False  # our own events, deduplicated
    settings.posting.loggers = False
    settings.process.ultimate_exiting_timeout = 30


def registry_for(controller: Controller) -> OperatorRegistry:
    """The handlers, bound to one controller; nothing is registered globally."""
    registry = OperatorRegistry()

    async def configure(settings: OperatorSettings, **_: Any) -> None:
        settings_for(settings)

    def login(**kwargs: Any) -> Any:
        return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)

    kopf.on.startup(registry=registry, id="configure")(configure)
    kopf.on.login(registry=registry, id="login")(login)
    for resource in KINDS:
        _observe(registry, resource, controller)
    for resource in (SECRETS, CONFIG_MAPS):
        _observe(registry, resource, controller)
    _register_removal(registry, controller)
    return registry


def _observe(registry: OperatorRegistry, resource: Resource, controller: Controller) -> None:
    async def observe(event: Any, body: Body, **_: Any) -> None:
        controller.seen(resource, _plain(body), deleted=event.get("type") == "DELETED")
        if event.get("type") is None:
            controller.listed(body)

    if resource.group:
        kopf.on.event(resource.group, resource.version, resource.plural, registry=registry, id="observe")(observe)
    else:
        labels = {f"{GROUP}/watch": "true"}
        kopf.on.event(resource.version, resource.plural, registry=registry, id="observe", labels=labels)(observe)


def _register_removal(registry: OperatorRegistry, controller: Controller) -> None:
    """``deletionPolicy: Delete`` is the only work that a deletion has; without it there is no finalizer."""

    def has_work(spec: Any, **_: Any) -> bool:
        return bool(spec.get("deletionPolicy") == "Delete")

    async def remove(body: Body, resource: Any, retry: int, **_: Any) -> None:
        if body.metadata.annotations.get(f"{GROUP}/abandon") == "true":
            return
        try:
            await _REMOVALS[str(resource.plural)](controller.context, _plain(body))
        except (SelvedgeError, TimeoutError) as error:
            # Kopf keeps the text in an annotation until the deletion is done: redacted, and no driver's.
            text = controller.context.redactor.redact(str(error) or "it took too long")
            pause = delay(retry, base=1.0, cap=60.0, random=controller.context.random)
            raise kopf.TemporaryError(text, delay=pause) from None

    for plural in _REMOVALS:
        kopf.on.delete(GROUP, VERSION, plural, registry=registry, id="remove", when=has_work)(remove)


def _plain(body: Body) -> dict[str, Any]:
    """The object itself: Kopf hands out a read-only view whose parts stay bound to it."""
    return json.loads(json.dumps(dict(body), default=dict))  # type: ignore[no-any-return]
