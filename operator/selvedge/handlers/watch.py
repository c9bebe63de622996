"""Kopf's part: watching.

What the watch shows goes to the controller, which puts the object's key into the work queue if its generation is new.
Handlers of create, update, resume and delete would add nothing but writes: Kopf notes the last handled spec in an
annotation of each object, and an exception's text in another. The finalizer is the queue's work as well
(``reconcile/removal.py``): Kopf takes its own from every object that no handler of this very process wants.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator
from itertools import repeat
from typing import Any

import kopf
from kopf import Body, OperatorRegistry, OperatorSettings

from selvedge.kube.resources import GROUP, Resource
from selvedge.reconcile.controller import Controller
from selvedge.reconcile.listing import listed

#: Kopf's logger of the requests of its watches.
_WATCHING = "kopf._cogs.clients.watching"


class _Pauses:
    """Seconds between attempts of a request, without end.

    A watch that gives up ends the process, and so with all namespaces where one was deleted or may not be read. What
    has to end when the API server stays away is the Lease. A watched namespace that may not be listed is told, and left
    out, by the listing; any other right that is missing is told whenever everything is listed again.
    """

    def __iter__(self) -> Iterator[float]:
        yield from (0.2, 0.5, 1, 1, 2, 2, 3, 5, 5, 5)
        yield from repeat(10)


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
    settings.networking.error_backoffs = _Pauses()
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

    # each kind's watch would repeat every few seconds what the listing has told once
    logging.getLogger(_WATCHING).addFilter(lambda record: not _is_known(record, controller.context.left_out))
    kopf.on.startup(registry=registry, id="configure")(configure)
    kopf.on.login(registry=registry, id="login")(login)
    for resource, _ in listed(controller.context.settings):
        _observe(registry, resource, controller)
    return registry


def _is_known(record: logging.LogRecord, left_out: Collection[str]) -> bool:
    """Whether a line is about an attempt in a namespace that is left out."""
    if not left_out:
        return False
    message = record.getMessage()
    return any(f"/namespaces/{namespace}/" in message for namespace in left_out)


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
    plain: dict[str, Any] = json.loads(json.dumps(dict(body), default=dict))
    return plain
