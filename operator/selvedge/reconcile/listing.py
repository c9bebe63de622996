"""What there is, listed namespace by namespace; one that may not be read is left out, and the others go on.

An operator that watches some namespaces has its rights in each of them by a Role there, which goes with the namespace,
or by somebody's hand. Nothing tells the two apart: a list is refused either way. Such a namespace is out of sight until
it can be read: its resources are forgotten, what they claim in databases is believed to be wanted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import structlog

from selvedge.config import Settings
from selvedge.core.backoff import delay
from selvedge.core.errors import SelvedgeError
from selvedge.kube.errors import KubeError
from selvedge.kube.resources import (
    CONFIG_MAPS,
    DATABASE_SCHEMAS,
    DATABASE_SERVERS,
    DATABASE_USERS,
    MIGRATION_RUNS,
    SECRETS,
    Resource,
)
from selvedge.reconcile.context import Context
from selvedge.reconcile.store import Object, key_of

_log = structlog.stdlib.get_logger("selvedge.reconcile.listing")

KINDS = (DATABASE_SERVERS, DATABASE_SCHEMAS, DATABASE_USERS, MIGRATION_RUNS)
WATCH_LABEL = "selvedge.dev/watch=true"
_FORBIDDEN = 403
#: Between two looks whether a namespace may still be read.
_LOOK_SECONDS = 30.0
#: Between two looks whether it may be read again: at first, and at last.
_AGAIN_SECONDS, _AGAIN_CAP = 2.0, 30.0


def listed(settings: Settings) -> tuple[tuple[Resource, str], ...]:
    """What is listed and watched, each with its selector. In this order: the later kinds look for the earlier ones."""
    labelled = (SECRETS, CONFIG_MAPS) if settings.watch_secrets else (CONFIG_MAPS,)
    return (*((kind, "") for kind in KINDS), *((resource, WATCH_LABEL) for resource in labelled))


class Sink(Protocol):
    """Where the objects go: the controller."""

    def put(self, resource: Resource, obj: dict[str, Any]) -> None:
        """There is such an object."""

    def gone(self, resource: Resource, obj: Object) -> None:
        """It was known, and is not there any more."""


class Listing:
    """Lists everything, and looks after the namespaces. ``context.left_out`` is its to write."""

    def __init__(self, context: Context, sink: Sink) -> None:
        self._context = context
        self._sink = sink
        self._listed = listed(context.settings)
        self._readers = 0
        self._deleted: set[str] = set()

    def deleted(self, uid: str) -> None:
        """The watch told of the end of a resource of ours: a list that is being read may still show it."""
        if self._readers:
            self._deleted.add(uid)

    async def prime(self) -> None:
        """List everything for the first time. Raises KubeError, also where not one namespace may be read."""
        await self._everything(self._read)
        namespaces, left_out = self._context.settings.namespaces, self._context.left_out
        if namespaces and left_out.keys() >= set(namespaces):
            raise KubeError(left_out[namespaces[0]], _FORBIDDEN)

    async def everything(self) -> None:
        """List everything that may be read. Raises KubeError."""
        await self._everything(lambda namespace: self._twice(lambda: self._read(namespace)))

    async def _everything(self, read: Callable[[str], Awaitable[None]]) -> None:
        for namespace in self._context.settings.namespaces:
            if namespace not in self._context.left_out:
                await self._read_or_leave_out(namespace, read)
        if not self._context.settings.namespaces:
            await self._read(None)

    async def attend(self) -> None:
        """Look after each watched namespace until cancelled; nothing to do where all of them are watched."""
        async with asyncio.TaskGroup() as group:
            for namespace in self._context.settings.namespaces:
                group.create_task(self._attend(namespace))

    async def _attend(self, namespace: str) -> None:
        attempt = 0
        while True:
            left_out = namespace in self._context.left_out
            attempt = attempt + 1 if left_out else 0
            again = delay(max(0, attempt - 1), base=_AGAIN_SECONDS, cap=_AGAIN_CAP, random=self._context.random)
            await asyncio.sleep(again if left_out else _LOOK_SECONDS * self._context.random.uniform(0.9, 1.1))
            try:
                if left_out:
                    await self._take_in(namespace)
                else:
                    await self._twice(lambda: self._context.kube.try_list(DATABASE_SERVERS, namespace))
            except KubeError as error:
                if error.code == _FORBIDDEN:
                    self._leave_out(namespace, error)
                else:
                    _log.warning("a namespace could not be looked at", watched=namespace, error=error.message)

    async def _take_in(self, namespace: str) -> None:
        """A namespace that was left out, if all of it may be read. Raises KubeError."""
        for resource, selector in self._listed:
            await self._context.kube.try_list(resource, namespace, selector)
        try:
            await self._read(namespace)
        except SelvedgeError:
            self._forget(namespace)
            raise
        del self._context.left_out[namespace]
        self._context.metrics.namespace(namespace, served=True)
        _log.info("a namespace that was left out may be read again", watched=namespace)
        await self._read(namespace)  # what the watch told meanwhile was not listened to

    async def _twice(self, attempt: Callable[[], Awaitable[None]]) -> None:
        """Refused twice in a row: one refusal alone may be an API server that has just started. Raises KubeError."""
        try:
            await attempt()
        except KubeError as error:
            if error.code != _FORBIDDEN:
                raise
            await asyncio.sleep(_AGAIN_SECONDS)
            await attempt()

    async def _read_or_leave_out(self, namespace: str, read: Callable[[str], Awaitable[None]]) -> None:
        try:
            await read(namespace)
        except KubeError as error:
            if error.code != _FORBIDDEN:
                raise
            self._leave_out(namespace, error)
        else:
            self._context.metrics.namespace(namespace, served=True)

    async def _read(self, namespace: str | None) -> None:
        self._readers += 1
        try:
            for resource, selector in self._listed:
                await self._read_kind(resource, namespace, selector)
        finally:
            self._readers -= 1
            if not self._readers:
                self._deleted.clear()

    async def _read_kind(self, resource: Resource, namespace: str | None, selector: str) -> None:
        # all pages of a list show what there was at its first: what is made or deleted meanwhile, the watch tells of
        unseen = self._context.store.known(resource.plural, namespace)
        async for obj in self._context.kube.list(resource, namespace, selector):
            if obj["metadata"].get("uid") in self._deleted:
                continue
            unseen.pop(key_of(obj), None)
            self._sink.put(resource, obj)
        for gone in self._context.store.forget(resource.plural, unseen):
            self._sink.gone(resource, gone)

    def _leave_out(self, namespace: str, error: SelvedgeError) -> None:
        known = namespace in self._context.left_out
        self._context.left_out[namespace] = error.message
        self._forget(namespace)  # each time: a list that was under way may have brought some of it back
        if known:
            return
        self._context.metrics.namespace(namespace, served=False)
        _log.error(
            "a watched namespace is left out until it may be read: it was deleted, or the operator's Role in it; "
            "helm upgrade without it in watchNamespaces, or with it once it is there again; where it hangs in "
            "Terminating, selvedge release lets its resources go",
            watched=namespace,
            error=error.message,
        )

    def _forget(self, namespace: str) -> None:
        for resource, _ in self._listed:
            known = self._context.store.known(resource.plural, namespace)
            for gone in self._context.store.forget(resource.plural, known):
                self._sink.gone(resource, gone)
