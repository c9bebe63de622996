"""A status is written by the shard that answers for the resource now, not by the one that began the pass."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from selvedge.config import Settings
from selvedge.core.reasons import Reason
from selvedge.core.redact import Redactor
from selvedge.core.shards import Shard, shard_of
from selvedge.kube.client import KubeClient
from selvedge.kube.events import Events
from selvedge.kube.resources import DATABASE_SCHEMAS
from selvedge.reconcile.context import Context
from selvedge.reconcile.outcome import Outcome
from selvedge.reconcile.servers import Servers
from selvedge.reconcile.store import Store
from selvedge.telemetry.health import Health
from selvedge.telemetry.metrics import Metrics
from tests.cluster.kube_api import Document, KubeApi
from tests.cluster.world import condition

SHARDS = 2


@asynccontextmanager
async def serving(shard: Shard) -> AsyncIterator[Context]:
    """What a process of this shard has at hand; nothing runs in it."""
    settings, metrics, redactor = Settings(shard=shard), Metrics(), Redactor()
    async with KubeClient.connect(settings, metrics) as kube:
        yield Context(
            settings=settings,
            kube=kube,
            store=Store(),
            servers=Servers(metrics.observer, settings),
            events=Events(kube, settings, redactor),
            metrics=metrics,
            health=Health(redactor),
            redactor=redactor,
            cluster="here",
            may_write=lambda: None,
        )


def server_of(namespace: str, index: int) -> str:
    """A name of a DatabaseServer that belongs to this shard."""
    names = (f"server-{number}" for number in itertools.count())
    return next(name for name in names if shard_of(namespace, name, SHARDS) == index)


def wallet(server: str) -> Document:
    spec = {"serverRef": {"name": server}, "database": "wallet", "postgres": {"schemas": [{"name": "shop"}]}}
    return {"kind": "DatabaseSchema", "metadata": {"name": "wallet"}, "spec": spec}


@pytest.mark.parametrize("owner", [0, 1])
async def test_a_shard_that_a_resource_has_left_does_not_write_its_status(
    api: KubeApi, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch, owner: int
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    began = api.apply(wallet(server_of(api.namespace, 0)))
    now = api.apply(wallet(server_of(api.namespace, owner)))  # declared anew while the pass of shard 0 is under way
    written = []
    for index in range(SHARDS):
        async with serving(Shard(index, SHARDS)) as context:
            context.store.put(DATABASE_SCHEMAS.plural, now)
            outcome = Outcome(True, Reason.VERIFIED, f"by shard {index}")
            written.append(await context.write_status(DATABASE_SCHEMAS, began, outcome))
    assert written == [index == owner for index in range(SHARDS)]
    assert condition(api.get("DatabaseSchema", "wallet"))["message"] == f"by shard {owner}"
