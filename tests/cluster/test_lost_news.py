"""What the watch tells while something else is under way, and what it never tells, is not lost."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from selvedge.core.shards import Shard
from selvedge.kube.resources import DATABASE_USERS, Resource
from selvedge.reconcile.context import Context
from selvedge.reconcile.controller import Controller
from tests.cluster.test_status_writes import serving
from tests.cluster.user_support import user_document
from tests.cluster.world import World


@asynccontextmanager
async def controlling(world: World, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Context, Controller]]:
    """A controller of the test's namespace; nothing runs in it."""
    monkeypatch.setenv("KUBECONFIG", str(world.kubeconfig))
    async with serving(Shard(0, 1)) as context:
        context.settings = replace(context.settings, namespaces=(world.namespace,))
        yield context, Controller(context)


async def test_what_is_deleted_while_a_list_is_read_does_not_come_back_out_of_it(
    unwatched: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("selvedge.kube.client._PAGE", 1)
    for name in ("a", "b", "c"):
        unwatched.api.apply(user_document(unwatched, name))
    async with controlling(unwatched, monkeypatch) as (context, controller):
        put = controller.put

        def delete_the_next(resource: Resource, obj: Mapping[str, Any]) -> None:
            put(resource, obj)
            if obj["metadata"]["name"] == "a":
                gone = unwatched.api.get("DatabaseUser", "b")
                assert gone is not None
                unwatched.api.delete("DatabaseUser", "b")
                controller.seen(DATABASE_USERS, gone, deleted=True)

        monkeypatch.setattr(controller, "put", delete_the_next)
        await controller.prime()
        assert {name for _, name in context.store.known(DATABASE_USERS.plural)} == {"a", "c"}
        # under its name there may be another by the next list
        unwatched.api.apply(user_document(unwatched, "b"))
        monkeypatch.setattr(controller, "put", put)
        await controller.prime()
        assert {name for _, name in context.store.known(DATABASE_USERS.plural)} == {"a", "b", "c"}
