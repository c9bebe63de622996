"""Who waits for a server that was left alone goes on when it answers, whoever closed its circuit."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from selvedge.core.errors import TransientError
from selvedge.core.reasons import Reason
from selvedge.core.shards import Shard
from selvedge.kube.errors import KubeError, KubeForbidden
from selvedge.kube.resources import DATABASE_SCHEMAS, DATABASE_SERVERS, DATABASE_USERS, Resource
from selvedge.reconcile.context import Context
from selvedge.reconcile.controller import Controller
from selvedge.reconcile.servers import Server
from tests.cluster.test_status_writes import serving
from tests.cluster.user_support import user_document
from tests.cluster.world import World, verdict

UNREACHABLE = TransientError(Reason.UNREACHABLE, "it does not answer")


@asynccontextmanager
async def shop(world: World, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Context, Controller]]:
    """A controller that knows a server, a database and a login; nothing runs in it."""
    monkeypatch.setenv("KUBECONFIG", str(world.kubeconfig))
    world.server()
    world.schema("shop", postgres={"schemas": [{"name": "shop"}]})
    world.api.apply(user_document(world, "app"))
    async with serving(Shard(0, 1)) as context:
        controller = Controller(context)
        for resource, name in ((DATABASE_SERVERS, "main"), (DATABASE_SCHEMAS, "shop"), (DATABASE_USERS, "app")):
            context.store.put(resource.plural, world.api.get(resource.kind, name))
        yield context, controller
        await context.servers.close()


def keys(world: World) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Those of the server, the database and the login."""
    main = (world.namespace, "main")
    return ("server", *main), ("unit", *main, world.name), ("user", world.namespace, "app")


def opened(context: Context, world: World) -> Server:
    """The server, whose circuit opens now."""
    server = context.servers.get((world.namespace, "main"))
    assert server is not None
    for _ in range(server.breaker.threshold):
        server.note(UNREACHABLE, time.monotonic())
    return server


async def test_a_pass_that_began_before_the_circuit_opened_closes_it_and_nobody_is_forgotten(
    unwatched: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    main, *waiting = keys(unwatched)
    async with shop(unwatched, monkeypatch) as (context, controller):
        await controller._work(main)
        server = opened(context, unwatched)
        for key in waiting:
            await controller._work(key)
        assert verdict(unwatched.api.get("DatabaseUser", "app"))[1] == "CircuitOpen"

        server.breaker.success()  # as by a pass that had its connection before
        woken: list[object] = []
        context.enqueue = woken.append
        await controller._work(main)
        assert sorted(map(str, woken)) == sorted(map(str, waiting))
        woken.clear()
        await controller._work(main)
        assert woken == []


async def test_who_waits_is_woken_once_by_the_probe_that_closes_the_circuit(
    unwatched: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    main, *waiting = keys(unwatched)
    async with shop(unwatched, monkeypatch) as (context, controller):
        await controller._work(main)
        opened(context, unwatched)
        for key in waiting:
            await controller._work(key)
        woken: list[object] = []
        context.enqueue = woken.append
        await controller._work(main)
        assert sorted(map(str, woken)) == sorted(map(str, waiting))


async def test_a_circuit_that_opens_while_the_status_of_the_server_is_written_is_probed_soon(
    unwatched: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several delays the last one counts, and that was the interval of a server that answers."""
    main, unit, _ = keys(unwatched)
    async with shop(unwatched, monkeypatch) as (context, controller):
        delays: dict[object, float] = {}
        context.enqueue_after = delays.__setitem__
        write = context.kube.patch_status

        async def dies_meanwhile(resource: Resource, *asked: Any) -> Any:
            if resource is DATABASE_SERVERS:
                opened(context, unwatched)
                await controller._work(unit)
            return await write(resource, *asked)

        monkeypatch.setattr(context.kube, "patch_status", dies_meanwhile)
        await controller._work(main)
        assert main[1:] in context.awaited
        assert delays[main] <= 5.0


_SILENT = KubeError("no answer")


@pytest.mark.parametrize(
    ("error", "changed", "stays"),
    [
        (_SILENT, False, True),
        (_SILENT, True, False),
        (KubeForbidden("a may not get secrets"), False, False),
        (KubeError("who are you", 401), False, False),
    ],
    ids=["silent", "silent-and-changed", "forbidden", "unknown"],
)
async def test_a_server_whose_secrets_cannot_be_read_is_used_on_where_nothing_is_known_of_them(
    unwatched: World, monkeypatch: pytest.MonkeyPatch, error: KubeError, changed: bool, stays: bool
) -> None:
    """An API server that is away for a moment is no reason to close connections.

    A Secret that was taken away is one, and so is a spec that may be stricter by now.
    """
    main, unit, _ = keys(unwatched)
    async with shop(unwatched, monkeypatch) as (context, controller):
        await controller._work(main)

        async def refuse(*_: Any) -> Any:
            raise error

        if changed:
            unwatched.server(policy={"destructive": "Refuse"})
            context.store.put(DATABASE_SERVERS.plural, unwatched.api.get("DatabaseServer", "main"))
        with monkeypatch.context() as patch:
            patch.setattr(context.kube, "secret", refuse)
            await controller._work(main)
        assert verdict(unwatched.api.get("DatabaseServer", "main"))[1] == str(error.reason)
        await controller._work(unit)
        assert verdict(unwatched.api.get("DatabaseSchema", "shop"))[0] == ("True" if stays else "False")


async def test_a_change_of_what_a_server_lets_its_databases_do_wakes_all_of_them(
    unwatched: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    main, *waiting = keys(unwatched)
    async with shop(unwatched, monkeypatch) as (context, controller):
        await controller._work(main)
        woken: list[object] = []
        context.enqueue = woken.append
        await controller._work(main)
        assert woken == []
        for rules in ({"policy": {"destructive": "Refuse"}}, {"access": [{"namespaces": {"from": "All"}}]}):
            unwatched.server(**rules)
            context.store.put(DATABASE_SERVERS.plural, unwatched.api.get("DatabaseServer", "main"))
            await controller._work(main)
            assert sorted(map(str, woken)) == sorted(map(str, waiting))
            woken.clear()


async def test_logins_are_woken_by_a_server_whose_status_could_not_be_written(
    unwatched: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    main, unit, user = keys(unwatched)
    async with shop(unwatched, monkeypatch) as (context, controller):

        async def refuse(*_: Any) -> Any:
            raise KubeError("the API server does not answer")

        woken: set[object] = set()
        context.enqueue = woken.add
        with monkeypatch.context() as patch:
            patch.setattr(context.kube, "patch_status", refuse)
            await controller._work(main)
        await controller._work(main)
        assert woken >= {unit, user}
