"""Leadership of one shard: a Lease for the shard, and one that all shards of the same count hold together.

The first chooses one of several processes with the same ``SELVEDGE_SHARD``. The second is the Lease that an operator
without shards holds alone, under the same name: whoever divides the servers in another way, an older version included,
waits until the last process of this way has ended. Two ways of dividing them would give a server two operators.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import replace

import structlog

from selvedge.config import Settings
from selvedge.core.shards import Shard
from selvedge.kube.client import KubeClient
from selvedge.kube.errors import KubeError
from selvedge.kube.lease import Lease
from selvedge.kube.resources import LEASES
from selvedge.telemetry.metrics import Metrics

_OK, _NOT_FOUND = 200, 404
_DIVISION = re.compile(r" of (\d+) shards$")

_log = structlog.stdlib.get_logger("selvedge.kube.shard_lease")


def lease_for(kube: KubeClient, settings: Settings, metrics: Metrics) -> Lease | ShardLease:
    """The Lease of an operator that serves everything, or those of one that serves a shard."""
    return Lease(kube, settings, metrics) if settings.shard is None else ShardLease(kube, settings, metrics)


def lease_name(name: str, index: int) -> str:
    """The name of a shard's own Lease; the chart grants rights on it by this name."""
    return f"{name}-shard-{index}"


class ShardLease:
    """What :class:`Lease` is for an operator without shards, with the same contract."""

    def __init__(
        self,
        kube: KubeClient,
        settings: Settings,
        metrics: Metrics | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shard: Shard = settings.shard or Shard(0, 1)
        self._kube = kube
        self._settings = settings
        self._metrics = metrics
        # With the division in it: the next one's shard of this index has the same Lease.
        identity = f"{settings.identity} of {self._shard.count} shards"
        own = replace(settings, lease_name=lease_name(settings.lease_name, self._shard.index), identity=identity)
        self._own = Lease(kube, own, None, clock)
        # One name for all of them: each may renew it, and to everybody else it is held.
        together = replace(settings, identity=f"{self._shard.count} shards")
        self._common = _CommonLease(kube, together, metrics, clock)
        self._watch: asyncio.Task[None] | None = None
        self.answered = self._own.answered
        self.lost = asyncio.Event()

    @property
    def held(self) -> bool:
        """True while this process leads its shard, and the servers are divided as it believes."""
        return self._own.held and self._common.held

    def check(self) -> None:
        """Call right before a write. Raises TransientError (NotLeading) where this process does not lead."""
        self._own.check()
        self._common.check()

    async def acquire(self) -> None:
        """Wait until this process leads its shard; ``lost`` may be set when this returns, if it waited in vain."""
        await self._own.acquire()
        waiting = asyncio.create_task(self._common.acquire())
        gone = asyncio.create_task(self._own.lost.wait())
        try:
            await asyncio.wait({waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                waiting.result()
        finally:
            waiting.cancel()
            gone.cancel()
        if self._own.lost.is_set():
            self.lost.set()
        self._watch = asyncio.create_task(self._until_lost(), name="shard-lease")

    async def release(self) -> None:
        """Give the shard's Lease back, and the common one where no other shard is at work; never raises."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        held = self.held
        await self._own.release()
        await self._common.leave()
        # read before the others are looked at: one who begins after that look has renewed it, and it stays his
        common = await self._common.read() if held else None
        if common is not None and await self._is_last():
            await self._common.give_back(common)

    async def _until_lost(self) -> None:
        """Either Lease is gone: this process may write nothing more."""
        events = [asyncio.create_task(lease.lost.wait()) for lease in (self._own, self._common)]
        try:
            await asyncio.wait(events, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for event in events:
                event.cancel()
        self.lost.set()
        if self._metrics is not None:
            self._metrics.leader(False)

    async def _is_last(self) -> bool:
        """Whether no other shard of this division holds its Lease. One that does not exist may be just being made."""
        for index in range(self._shard.count):
            path = LEASES.path(self._settings.lease_namespace, lease_name(self._settings.lease_name, index))
            try:
                code, document = await self._kube.request(
                    "GET", LEASES, path, timeout=self._settings.renew_deadline / 2
                )
            except KubeError as error:
                _log.warning("the other shards' leases cannot be read: the common one expires", error=str(error))
                return False
            if code != _OK or self._is_of_this_division(str((document.get("spec") or {}).get("holderIdentity") or "")):
                return False
        return True

    def _is_of_this_division(self, holder: str) -> bool:
        """Whether the holder of a shard's Lease may hold the common one with this shard: unless it says otherwise."""
        division = _DIVISION.search(holder)
        return bool(holder) and (division is None or int(division[1]) == self._shard.count)


class _CommonLease(Lease):
    """Held by several processes at once: one that another has just renewed need not be written again."""

    _looked = float("-inf")

    async def _attempt(self) -> bool:
        now, deadline = self._clock(), self._settings.renew_deadline
        if self.held:
            known = self._seen[0]
            if not await self._look():
                return False
            if self._holder() not in (self._settings.identity, ""):
                return False  # what was read is fresh: to renew it would be to take it from its holder
            if self._seen[0] != known and self._holder():
                # Another has renewed it since the last look, so whoever waits for it counts from then or later.
                until, self._looked = self._looked + deadline, now
                self._valid_until = max(self._valid_until, until)
                if until - self._clock() > deadline / 2:
                    return True
                # looks take long: one of its own counts from now, and not from the look before
        renewed = await super()._attempt()
        self._looked = now
        return renewed

    async def _look(self) -> bool:
        """Read it; False where that fails, or where it does not exist."""
        try:
            code, document = await self._kube.request("GET", LEASES, self._path, timeout=self._request_timeout)
        except KubeError as error:
            _log.warning("the lease cannot be read", lease=self._name, error=str(error))
            return False
        if code == _OK:
            self._observe(document)
        elif code == _NOT_FOUND:
            self._document = None  # whoever is first makes it again
        return code in (_OK, _NOT_FOUND)
