"""What the watch tells while something else is under way, and what it never tells, is not lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml

from selvedge.core.shards import Shard
from selvedge.kube.client import KubeClient
from selvedge.kube.errors import KubeError
from selvedge.kube.resources import DATABASE_USERS, JOBS, Resource
from selvedge.reconcile import imagesource
from selvedge.reconcile.accounts import Place
from selvedge.reconcile.context import Context
from selvedge.reconcile.controller import Controller
from selvedge.reconcile.databaseuser import _write_down
from selvedge.reconcile.imagejob import Stage, State, attempt_of, job_name
from tests.cluster.rights import as_account
from tests.cluster.test_status_writes import serving
from tests.cluster.user_support import user_document
from tests.cluster.world import World
from tests.conftest import Kubectl
from tests.waiting import until


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


async def test_what_went_between_the_first_list_and_the_watches_is_found_when_they_stand(
    unwatched: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("selvedge.reconcile.controller._FIRST_RELIST_SECONDS", 0.01)
    monkeypatch.setattr("selvedge.reconcile.controller._SETTLE_SECONDS", 0.01)
    unwatched.api.apply(user_document(unwatched, "a"))
    async with controlling(unwatched, monkeypatch) as (context, controller):
        await controller.prime()
        assert context.store.known(DATABASE_USERS.plural)
        unwatched.api.delete("DatabaseUser", "a")
        sweep = asyncio.create_task(controller._sweep())
        await until(lambda: not context.store.known(DATABASE_USERS.plural), sweep)
        sweep.cancel()


class _Refusing:
    """Lists for an account without rights so many times, and as the operator from then on."""

    def __init__(self, kube: KubeClient, stranger: KubeClient, times: int) -> None:
        self._as_before = {name: getattr(kube, name) for name in ("list", "try_list")}
        self._stranger = stranger
        self.left = times
        self.done = 0

    def _call(self, name: str, *asked: Any) -> Any:
        self.left -= 1
        self.done += 1
        return getattr(self._stranger, name)(*asked) if self.left >= 0 else self._as_before[name](*asked)

    def list(self, *asked: Any) -> Any:
        return self._call("list", *asked)

    def try_list(self, *asked: Any) -> Any:
        return self._call("try_list", *asked)


@pytest.mark.parametrize("how", ["list", "look"])
async def test_a_namespace_is_left_out_where_it_is_refused_twice_and_not_once(
    unwatched: World, monkeypatch: pytest.MonkeyPatch, kubectl: Kubectl, tmp_path: Path, how: str
) -> None:
    """An API server that has just started refuses now and then what it allows."""
    listing = "selvedge.reconcile.listing"
    for name in ("_AGAIN_SECONDS", "_LOOK_SECONDS"):
        monkeypatch.setattr(f"{listing}.{name}", 0.01)
    namespace = unwatched.namespace
    kubectl("create", "serviceaccount", "stranger", "-n", namespace)
    config = tmp_path / "stranger"
    config.write_text(yaml.safe_dump(as_account(kubectl, unwatched.kubeconfig, namespace, "stranger")))
    monkeypatch.setenv("KUBECONFIG", str(config))
    unwatched.api.apply(user_document(unwatched, "a"))
    async with serving(Shard(0, 1)) as alien, controlling(unwatched, monkeypatch) as (context, controller):
        await controller.prime()
        monkeypatch.setattr(controller._listing, "_take_in", lambda _: asyncio.Event().wait())  # not within this test
        for times in (1, 2):
            refusing = _Refusing(context.kube, alien.kube, times)
            for name in ("list", "try_list"):
                monkeypatch.setattr(context.kube, name, getattr(refusing, name))
            if how == "list":
                await controller._listing.everything()
            else:
                attending = asyncio.create_task(controller._listing.attend())
                await until(lambda: refusing.done > 4 or context.left_out, attending)  # noqa: B023 - of this turn
                attending.cancel()
            assert (namespace in context.left_out) is (times == 2)
            assert bool(context.store.known(DATABASE_USERS.plural)) is (times == 1)
            for name in ("list", "try_list"):
                monkeypatch.setattr(context.kube, name, refusing._as_before[name])


async def test_the_pauses_between_jobs_go_on_growing_where_the_next_one_could_not_be_made(
    unwatched: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the Job that was lost goes the number of attempts, which stands on it."""
    image = {"reference": "registry.example.com/fashion-wallet@sha256:" + "0" * 64, "path": "/migrations"}
    spec = {"schemaRef": {"name": "shop"}, "action": "Up", "source": {"image": image}}
    run = unwatched.api.apply({"kind": "MigrationRun", "metadata": {"name": "up"}, "spec": spec})
    lost = State(Stage.LOST, "the node is gone")
    monkeypatch.setattr(imagesource, "judge", lambda *_: lost)
    monkeypatch.setattr(imagesource, "pause_left", lambda *_: 0.0)
    async with controlling(unwatched, monkeypatch) as (context, _):
        context.settings = replace(context.settings, image="selvedge:test")

        async def refuse(*_: Any) -> None:
            raise KubeError("the API server does not answer")

        attempts = []
        for turn in range(5):
            with monkeypatch.context() as patch:
                if turn == 2:
                    patch.setattr(context.kube, "create", refuse)
                with pytest.raises(KubeError if turn == 2 else imagesource.ReadingError):
                    await imagesource.read_image(context, run, image)
            job = await context.kube.get(JOBS, unwatched.namespace, job_name(run, image))
            attempts.append(attempt_of(job) if job is not None else None)
        assert attempts == [1, 2, None, 3, 4]
        await imagesource.forget_image(context, run, image)
        assert not context.failures


async def test_what_a_login_writes_of_its_place_is_not_taken_for_the_word_of_another_shard(
    unwatched: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = unwatched.api.apply(user_document(unwatched, "a"))
    async with controlling(unwatched, monkeypatch) as (context, controller):
        controller.put(DATABASE_USERS, user)
        woken: list[object] = []
        monkeypatch.setattr(controller.queue, "add", woken.append)
        write = context.kube.patch_status

        async def told_at_once(*asked: Any) -> Any:
            written = await write(*asked)
            controller.seen(DATABASE_USERS, written, deleted=False)
            return written

        monkeypatch.setattr(context.kube, "patch_status", told_at_once)
        place = SimpleNamespace(server=SimpleNamespace(name=f"{unwatched.namespace}/main"), database="wallet")
        await _write_down(context, user, cast("Place", place))
        known = context.store.get(DATABASE_USERS.plural, unwatched.namespace, "a")
        assert known is not None
        assert known["status"]["database"] == "wallet"
        assert woken == []
