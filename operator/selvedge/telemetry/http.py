"""Probes, health and metrics over HTTP, outside Kopf, so that a standby answers as well as the leader."""

from __future__ import annotations

import math
from typing import Any

from aiohttp import web
from prometheus_client.exposition import choose_encoder

from selvedge.config import Settings
from selvedge.telemetry.health import Health
from selvedge.telemetry.metrics import Metrics


class HttpServer:
    """``/livez /readyz /health /health/database /metrics /metrics/json``; every answer comes from memory."""

    def __init__(self, settings: Settings, metrics: Metrics, health: Health) -> None:
        self._settings = settings
        self._metrics = metrics
        self._health = health
        self._runner: web.AppRunner | None = None
        self.port = settings.http_port

    async def start(self) -> None:
        """Listen; afterwards ``port`` is the one that was taken. Raises OSError where it is in use."""
        app = web.Application()
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/health", self._summary)
        app.router.add_get("/health/database", self._databases)
        app.router.add_get("/metrics", self._prometheus)
        app.router.add_get("/metrics/json", self._json)
        # no access log: a line for each probe would drown the others
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._settings.http_host, self._settings.http_port).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Close the port and every connection."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _livez(self, _: web.Request) -> web.Response:
        if self._health.alive:
            return web.Response(text="ok\n")
        return web.Response(status=503, text="the operator's loop does not turn any more: restart it\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        if self._health.ready:
            return web.Response(text="leader\n" if self._health.leading else "standby\n")
        return web.Response(status=503, text="the Kubernetes API has not answered yet\n")

    async def _summary(self, _: web.Request) -> web.Response:
        return _answer(self._health.summary())

    async def _databases(self, _: web.Request) -> web.Response:
        return _answer(self._health.databases())

    async def _prometheus(self, request: web.Request) -> web.Response:
        encoder, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encoder(self._metrics.registry), headers={"Content-Type": content_type})

    async def _json(self, _: web.Request) -> web.Response:
        families = [
            {
                "name": family.name,
                "type": family.type,
                "help": family.documentation,
                "samples": [
                    {"name": sample.name, "labels": sample.labels, "value": _number(sample.value)}
                    for sample in family.samples
                ],
            }
            for family in self._metrics.registry.collect()
        ]
        return web.json_response({"metrics": families})


def _answer(document: dict[str, Any]) -> web.Response:
    """503 only where the operator itself is unhealthy: a dead database is degraded, and told in the document."""
    return web.json_response(document, status=503 if document["status"] == "unhealthy" else 200)


def _number(value: float) -> float | str:
    """JSON has no NaN and no infinity: those are strings, as Prometheus writes them."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
