"""Leadership by a ``coordination.k8s.io`` Lease: one of several operators writes.

Two clocks are kept apart. Whether *we* may write is decided by our own monotonic clock, counted from before the request
of the last successful renewal, so it runs out even if the API server hangs. Whether *another* holder is gone is decided
by how long its Lease stood unchanged in front of us, never by comparing its time stamps with our wall clock.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from random import Random
from typing import Any

import structlog

from selvedge.config import Settings
from selvedge.core.errors import TransientError
from selvedge.core.reasons import Reason
from selvedge.core.rights import refusal
from selvedge.kube.client import KubeClient
from selvedge.kube.errors import KubeError
from selvedge.kube.resources import LEASES
from selvedge.telemetry.metrics import Metrics

_OK, _CREATED, _NOT_FOUND, _CONFLICT = 200, 201, 404, 409
_HELD_BY_ANOTHER = 0

_log = structlog.stdlib.get_logger("selvedge.kube.lease")


class Lease:
    """``acquire`` waits for leadership and keeps it renewed until ``release``; ``held`` is the only truth in between.

    ``answered`` is set once the API server let this process see the Lease, whoever holds it: a standby is ready then.
    ``lost`` is set once leadership that was had is gone; the process has to end then (a fresh one starts clean), so
    a Lease is not acquired twice.
    """

    def __init__(
        self,
        kube: KubeClient,
        settings: Settings,
        metrics: Metrics | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kube = kube
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._random = Random()
        self._valid_until = float("-inf")
        self._document: dict[str, Any] | None = None
        self._seen: tuple[Any, float] = (None, clock())
        self._keeper: asyncio.Task[None] | None = None
        self.answered = asyncio.Event()
        self.lost = asyncio.Event()

    @property
    def held(self) -> bool:
        """True while this process leads; False as soon as ``renew_deadline`` passed since the last renewal."""
        return not self.lost.is_set() and self._clock() < self._valid_until

    def check(self) -> None:
        """Call right before a write. Raises TransientError (NotLeading) where this process does not lead."""
        if not self.held:
            raise TransientError(
                Reason.NOT_LEADING, "this process does not hold the lease any more: another operator goes on"
            )

    async def acquire(self) -> None:
        """Wait, for as long as it takes, until this process leads; then keep it so in the background."""
        _log.info("waiting for the lease", lease=self._name, identity=self._settings.identity)
        while not await self._attempt():  # noqa: ASYNC110 - the Lease is on another machine
            # jitter, or two standbys would always ask at the same moment
            await asyncio.sleep(self._settings.retry_period * self._random.uniform(0.7, 1.0))
        _log.info("leading", lease=self._name, identity=self._settings.identity)
        self._show(leading=True)
        self._keeper = asyncio.create_task(self._keep(), name="lease-keeper")

    async def release(self) -> None:
        """Stop renewing and give the Lease back, so that the next operator need not wait; never raises."""
        held = self.held
        await self.leave()
        if held and (document := await self.read()) is not None:
            await self.give_back(document)

    async def leave(self) -> None:
        """Stop renewing: the Lease expires by itself, where nobody else renews it."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
            self._keeper = None

    async def read(self) -> dict[str, Any] | None:
        """The Lease as it stands, for :meth:`give_back`; None where that fails, which is logged."""
        try:
            # read again: a renewal that was cancelled under way may have changed the version
            code, document = await self._kube.request("GET", LEASES, self._path, timeout=self._request_timeout)
        except KubeError as error:
            code, document = 0, {"message": error.message}
        if code == _OK:
            return document
        if code != _NOT_FOUND:
            self._not_released(code, document)
        return None

    async def give_back(self, document: dict[str, Any]) -> None:
        """Let others take the Lease at once, if it is ours and stands as it was read; never raises."""
        self._document = document
        if self._holder() != self._settings.identity:
            return
        spec = {**document["spec"], "holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _micro_time()}
        try:
            code, answer = await self._put({**document, "spec": spec})
        except KubeError as error:
            code, answer = 0, {"message": error.message}
        if code == _OK:
            _log.info("released the lease", lease=self._name)
        elif code == _CONFLICT:
            _log.info("the lease is not given back: somebody has just renewed it", lease=self._name)
        else:
            self._not_released(code, answer)

    def _not_released(self, code: int, document: dict[str, Any]) -> None:
        _log.warning(
            "the lease could not be released: it expires by itself",
            lease=self._name,
            code=code,
            error=_message(document),
        )

    async def _keep(self) -> None:
        """Renew until it fails for ``renew_deadline``; set ``lost`` at that very moment, hanging request or not."""
        try:
            while True:
                left = self._valid_until - self._clock()
                await asyncio.sleep(max(0.0, min(self._settings.retry_period, left)))
                left = self._valid_until - self._clock()
                try:
                    async with asyncio.timeout(max(0.0, left)):
                        renewed = await self._attempt()
                except TimeoutError:
                    renewed = False
                if self._clock() >= self._valid_until:
                    _log.error("lost the lease: it could not be renewed in time", lease=self._name)
                    return
                if not renewed and self._holder() not in (self._settings.identity, None):
                    _log.error("lost the lease: another holds it", lease=self._name, holder=self._holder())
                    return
        finally:
            self.lost.set()
            self._valid_until = float("-inf")
            self._show(leading=False)

    async def _attempt(self) -> bool:
        """Renew the Lease, or take it where that is allowed; True where it is ours now."""
        began = self._clock()
        try:
            code, document = await self._renew_or_take()
        except KubeError as error:
            _log.warning("the lease cannot be read or renewed", lease=self._name, error=str(error))
            return False
        if code in (_OK, _CREATED, _HELD_BY_ANOTHER, _CONFLICT):
            self.answered.set()
        if code not in (_OK, _CREATED):
            # a standby hears it every two seconds, and a conflict is only another who was faster
            level = logging.DEBUG if code in (_HELD_BY_ANOTHER, _CONFLICT) else logging.WARNING
            _log.log(level, "the lease was not granted", lease=self._name, code=code, error=_message(document))
            return False
        self._observe(document)
        # counted from before the request: the others count from when it arrived, which is later
        self._valid_until = began + self._settings.renew_deadline
        return True

    async def _renew_or_take(self) -> tuple[int, dict[str, Any]]:
        """The answer that decides; code 0 where another holds the Lease."""
        if self.held and self._document is not None:
            # as we left it, most likely: one request instead of two, and a conflict tells if it is not so
            code, document = await self._put({**self._document, "spec": self._spec(self._document["spec"])})
            if code == _OK:
                return code, document
        code, document = await self._kube.request("GET", LEASES, self._path, timeout=self._request_timeout)
        if code == _NOT_FOUND:
            self._document = None
            return await self._create()
        if code != _OK:
            return code, document
        self._observe(document)
        if not self._free():
            return _HELD_BY_ANOTHER, {}
        return await self._put({**document, "spec": self._spec(document.get("spec") or {})})

    def _observe(self, document: dict[str, Any]) -> None:
        """Remember since when, by our own clock, the Lease has looked like this."""
        self._document = document
        version = (document.get("metadata") or {}).get("resourceVersion")
        if self._seen[0] != version:
            self._seen = (version, self._clock())

    def _holder(self) -> str | None:
        """Who holds the Lease, as last read; None where it does not exist or was not read."""
        return None if self._document is None else str((self._document.get("spec") or {}).get("holderIdentity") or "")

    def _free(self) -> bool:
        if self._holder() in (self._settings.identity, ""):
            return True
        spec = (self._document or {}).get("spec") or {}
        # the holder's own duration counts: it may have been configured differently
        duration = float(spec.get("leaseDurationSeconds") or self._settings.lease_duration)
        return self._clock() >= self._seen[1] + duration

    def _spec(self, before: dict[str, Any]) -> dict[str, Any]:
        now = _micro_time()
        mine = before.get("holderIdentity") == self._settings.identity
        return {
            **before,
            "holderIdentity": self._settings.identity,
            # whole seconds, upwards: a shorter one would let others in before we gave up
            "leaseDurationSeconds": -int(-self._settings.lease_duration // 1),
            "acquireTime": before.get("acquireTime", now) if mine else now,
            "renewTime": now,
            "leaseTransitions": int(before.get("leaseTransitions") or 0) + (0 if mine else 1),
        }

    async def _create(self) -> tuple[int, dict[str, Any]]:
        metadata = {"name": self._settings.lease_name, "namespace": self._settings.lease_namespace}
        body = {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": metadata, "spec": self._spec({})}
        path = LEASES.path(self._settings.lease_namespace)
        return await self._kube.request("POST", LEASES, path, body=body, timeout=self._request_timeout)

    async def _put(self, document: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        # the document carries the resourceVersion that was read: whoever was faster wins
        return await self._kube.request("PUT", LEASES, self._path, body=document, timeout=self._request_timeout)

    @property
    def _path(self) -> str:
        return LEASES.path(self._settings.lease_namespace, self._settings.lease_name)

    @property
    def _name(self) -> str:
        return f"{self._settings.lease_namespace}/{self._settings.lease_name}"

    @property
    def _request_timeout(self) -> float:
        """Half of the deadline: one request that hangs still leaves time for another on a new connection."""
        return self._settings.renew_deadline / 2

    def _show(self, *, leading: bool) -> None:
        if self._metrics is not None:
            self._metrics.leader(leading)


def _micro_time() -> str:
    """Now as ``metav1.MicroTime``: UTC, six digits."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _message(document: dict[str, Any]) -> str:
    text = str(document.get("message") or "")
    return refusal(text) or text[:300]
