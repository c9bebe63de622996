"""One process from start to end: wait for the Lease, lead, and exit when it is lost.

Probes and metrics are served from the first moment, by leaders and standbys alike, outside Kopf. A process that lost
its Lease exits: the one that is started anew has no half-finished work in its memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Coroutine
from typing import Any

import kopf
import structlog

from selvedge.config import Settings
from selvedge.core.redact import Redactor
from selvedge.handlers.watch import registry_for
from selvedge.kube.client import KubeClient
from selvedge.kube.events import Events
from selvedge.kube.lease import Lease
from selvedge.kube.rights import tell_missing
from selvedge.kube.shard_lease import ShardLease, lease_for
from selvedge.reconcile.context import Context
from selvedge.reconcile.controller import Controller
from selvedge.reconcile.servers import Servers
from selvedge.reconcile.store import Store
from selvedge.telemetry.health import Health
from selvedge.telemetry.http import HttpServer
from selvedge.telemetry.logs import configure
from selvedge.telemetry.metrics import Metrics

_log = structlog.stdlib.get_logger("selvedge.runtime")
_GRACE_SECONDS = 20.0
_WATCH_SECONDS = 1.0


def main(settings: Settings) -> int:
    """Run the operator until it is told to stop; the exit status: 0 told to, 1 Lease lost or failed."""
    redactor = Redactor()
    configure(settings, redactor)
    return asyncio.run(_run(settings, redactor))


async def _run(settings: Settings, redactor: Redactor) -> int:
    told = asyncio.Event()
    _on_signals(told)
    metrics, health = Metrics(settings.shard), Health(redactor, shard=settings.shard)
    http = HttpServer(settings, metrics, health)
    await http.start()
    beat = asyncio.create_task(_beat(health, metrics))
    try:
        async with KubeClient.connect(settings, metrics) as kube:
            lease = lease_for(kube, settings, metrics)
            reached = asyncio.create_task(_ready_when_answered(lease, health))
            try:
                if await _first(lease.acquire(), told.wait()) == 1:
                    return 0
                health.leading = True
                return await _lead(settings, redactor, kube, lease, metrics, health, told)
            finally:
                reached.cancel()
                health.leading = False
                await lease.release()
    finally:
        beat.cancel()
        await http.stop()


async def _ready_when_answered(lease: Lease | ShardLease, health: Health) -> None:
    """A standby is as ready as a leader: it could lead at any moment."""
    await lease.answered.wait()
    health.reached_api()


async def _lead(
    settings: Settings,
    redactor: Redactor,
    kube: KubeClient,
    lease: Lease | ShardLease,
    metrics: Metrics,
    health: Health,
    told: asyncio.Event,
) -> int:
    await tell_missing(kube, settings, settings.namespaces)
    context = Context(
        settings=settings,
        kube=kube,
        store=Store(),
        servers=Servers(metrics.observer, settings),
        events=Events(kube, settings, redactor),
        metrics=metrics,
        health=health,
        redactor=redactor,
        cluster=settings.cluster_uid or await kube.cluster_uid(),
        may_write=lease.check,
    )
    controller = Controller(context)
    await controller.prime()
    work = asyncio.create_task(controller.run())
    watch_stop, watching = asyncio.Event(), asyncio.Event()
    watch = asyncio.create_task(
        kopf.operator(
            registry=registry_for(controller),
            clusterwide=not settings.namespaces,
            namespaces=list(settings.namespaces),
            stop_flag=watch_stop,
            ready_flag=watching,
        )
    )
    # Kopf takes the signals for itself when it starts: they are taken back, since it is not the first to end.
    signals = asyncio.create_task(_take_signals(watching, told))
    told_task = asyncio.create_task(told.wait())
    lost = asyncio.create_task(lease.lost.wait())
    try:
        await asyncio.wait({work, watch, told_task, lost}, return_when=asyncio.FIRST_COMPLETED)
        if told.is_set():
            _log.info("told to stop: ending what is under way")
            return 0
        for name, task in (("work", work), ("watch", watch)):
            if task.done():
                _log.error("a part of the operator ended: exiting", part=name, error=repr(_error(task)))
        return 1
    finally:
        context.stopping.set()
        watch_stop.set()
        signals.cancel()
        told_task.cancel()
        lost.cancel()
        if lease.held:
            await _settle(controller)
        work.cancel()
        await asyncio.wait({work})
        await context.servers.close()
        # No write is under way any more: the next leader need not wait until the watch has ended too.
        await lease.release()
        await asyncio.wait({watch}, timeout=_WATCH_SECONDS)


def _on_signals(told: asyncio.Event) -> None:
    """SIGTERM and SIGINT set ``told``."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)


async def _take_signals(started: asyncio.Event, told: asyncio.Event) -> None:
    await started.wait()
    _on_signals(told)


async def _settle(controller: Controller) -> None:
    """Give passes that are under way a moment to end by themselves; migrations stop after their statement."""
    controller.queue.close()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_GRACE_SECONDS):
            while controller.queue.running():  # noqa: ASYNC110 - a moment at the end of the process
                await asyncio.sleep(0.05)


def _error(task: asyncio.Task[Any]) -> BaseException | None:
    return None if task.cancelled() else task.exception()


async def _first(*coroutines: Coroutine[Any, Any, Any]) -> int:
    """Run until the first ends, cancel the others; the index of the first."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        winner = next(index for index, task in enumerate(tasks) if task.done())
        tasks[winner].result()
        return winner
    finally:
        for task in tasks:
            task.cancel()


async def _beat(health: Health, metrics: Metrics) -> None:
    watching = asyncio.create_task(metrics.watch_event_loop())
    try:
        while True:
            health.beat()
            await asyncio.sleep(1.0)
    finally:
        watching.cancel()
