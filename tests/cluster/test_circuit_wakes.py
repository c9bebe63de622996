"""Who waits for a server that was left alone goes on when it answers, whoever closed its circuit."""

from __future__ import annotations

import time

import pytest

from selvedge.core.errors import TransientError
from selvedge.core.reasons import Reason
from selvedge.core.shards import Shard
from selvedge.kube.resources import DATABASE_SCHEMAS, DATABASE_SERVERS, DATABASE_USERS
from selvedge.reconcile.controller import Controller
from tests.cluster.test_status_writes import serving
from tests.cluster.user_support import user_document
from tests.cluster.world import World, verdict


async def test_a_pass_that_began_before_the_circuit_opened_closes_it_and_nobody_is_forgotten(
    unwatched: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(unwatched.kubeconfig))
    unwatched.server()
    unwatched.schema("shop", postgres={"schemas": [{"name": "shop"}]})
    unwatched.api.apply(user_document(unwatched, "app"))
    main = (unwatched.namespace, "main")
    async with serving(Shard(0, 1)) as context:
        controller = Controller(context)
        for resource, name in ((DATABASE_SERVERS, "main"), (DATABASE_SCHEMAS, "shop"), (DATABASE_USERS, "app")):
            context.store.put(resource.plural, unwatched.api.get(resource.kind, name))
        await controller._work(("server", *main))
        server = context.servers.get(main)
        assert server is not None
        waiting = {("user", unwatched.namespace, "app"), ("unit", *main, unwatched.name)}
        for _ in range(server.breaker.threshold):
            server.note(TransientError(Reason.UNREACHABLE, "it does not answer"), time.monotonic())
        for key in waiting:
            await controller._work(key)
        assert verdict(unwatched.api.get("DatabaseUser", "app"))[1] == "CircuitOpen"

        server.breaker.success()  # as by a pass that had its connection before
        woken = set()
        context.enqueue = woken.add
        await controller._work(("server", *main))
        assert waiting <= woken
        woken.clear()
        await controller._work(("server", *main))
        assert woken == set()
        await context.servers.remove(main)
