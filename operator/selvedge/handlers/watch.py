"""Kopf's part: watching.

What the watch shows goes to the controller, which puts the object's key into the work queue if its generation is new.
Handlers of create, update, resume and delete would add nothing but writes: Kopf notes the last handled spec in an
annotation of each object, and an exception's text in another. The finalizer is the queue's work as well
(``reconcile/removal.py``): Kopf takes its own from every object that no handler of this very process wants.
"""

from __future__ import annotations

import json
from typing import Any

import kopf
from kopf import Body, OperatorRegistry, OperatorSettings

from selvedge.kube.resources import CONFIG_MAPS, GROUP, SECRETS, Resource
from selvedge.reconcile.controller import KINDS, Controller


def settings_for(settings: OperatorSettings) -> None:
    """Kopf's settings, each with its reason."""
    settings.peering.standalone = True  # the Lease elects
    settings.scanning.disabled = True  # our CRDs are installed first; scanning would list every CRD of the cluster
    settings.persistence.finalizer = f"{GROUP}/no-finalizer"  # on no object: ours would be taken from those of others
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


def _plain(body: Body) -> dict[str, Any]:
    """The object itself: Kopf hands out a read-only view whose parts stay bound to it."""
    return json.loads(json.dumps(dict(body), default=dict))  # type: ignore[no-any-return]
