"""Leadership on the real API server: two contenders, a killed holder, an API server that hangs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from urllib.parse import urlsplit

import pytest
import yaml

from selvedge.config import Settings
from selvedge.core.errors import TransientError
from selvedge.core.reasons import Reason
from selvedge.kube.client import KubeClient
from selvedge.kube.lease import Lease
from selvedge.kube.resources import LEASES
from selvedge.telemetry.metrics import Metrics
from tests.waiting import until

LEADER = """
import asyncio, sys
from selvedge.config import Settings
from selvedge.kube.client import KubeClient
from selvedge.kube.lease import Lease

async def main():
    settings = Settings(lease_namespace=sys.argv[1], identity="killed")
    async with KubeClient.connect(settings) as kube:
        await Lease(kube, settings).acquire()
        print("leading", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


def quick(namespace: str, identity: str) -> Settings:
    """Short periods, so that the tests are; the ratios are those of the defaults."""
    return Settings(
        lease_namespace=namespace, identity=identity, lease_duration=3.0, renew_deadline=2.0, retry_period=0.4
    )


@pytest.fixture
async def contender(kubeconfig, namespace, monkeypatch):
    """Make a Lease with a client of its own; everything is released at the end."""
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    async with contextlib.AsyncExitStack() as stack:

        async def make(identity: str, settings: Settings | None = None, metrics: Metrics | None = None) -> Lease:
            settings = settings or quick(namespace, identity)
            kube = await stack.enter_async_context(KubeClient.connect(settings))
            lease = Lease(kube, settings, metrics)
            stack.push_async_callback(lease.release)
            return lease

        yield make


async def read(lease: Lease) -> dict:
    return (await lease._kube.get(LEASES, lease._settings.lease_namespace, "selvedge"))["spec"]


async def test_one_of_two_leads_and_a_release_hands_over_at_once(contender):
    metrics = Metrics()
    first, second = await contender("first", metrics=metrics), await contender("second")
    await first.acquire()
    waiting = asyncio.create_task(second.acquire())
    end = time.monotonic() + 5  # longer than the Lease lasts, so only renewal can keep it
    while time.monotonic() < end:
        assert first.held
        assert not second.held
        await asyncio.sleep(0.05)  # between two looks: it has to hold all through the 5 s
    first.check()
    assert metrics.registry.get_sample_value("selvedge_leader") == 1
    began = time.monotonic()
    await first.release()
    assert not first.held
    assert metrics.registry.get_sample_value("selvedge_leader") == 0
    await asyncio.wait_for(waiting, 20)
    assert time.monotonic() - began < first._settings.lease_duration, "it did not wait until the Lease had ended"
    assert second.held
    spec = await read(second)
    assert (spec["holderIdentity"], spec["leaseTransitions"]) == ("second", 2)


async def test_twelve_contenders_at_once_make_one_leader(contender):
    leases = [await contender(f"c{number}") for number in range(12)]
    tasks = [asyncio.create_task(lease.acquire()) for lease in leases]
    await until(lambda: any(lease.held for lease in leases), seconds=20)
    for _ in range(40):
        assert sum(lease.held for lease in leases) == 1
        await asyncio.sleep(0.05)  # between two looks: it has to hold all through 2 s
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.long  # with whole operators, and the same periods: test_faults_leader, in every run
async def test_the_lease_of_a_killed_holder_is_taken_over_within_20_seconds(contender, namespace):
    """With the default periods, since they are what the promise is about."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LEADER, namespace, stdout=asyncio.subprocess.PIPE, env=dict(os.environ)
    )
    try:
        async with asyncio.timeout(20):
            while await process.stdout.readline() != b"leading\n":
                assert not process.stdout.at_eof()
        standby = await contender("standby", Settings(lease_namespace=namespace, identity="standby"))
        waiting = asyncio.create_task(standby.acquire())
        await asyncio.sleep(3)  # nothing may happen: the holder lives and renews
        assert not standby.held
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()
    began = time.monotonic()
    await asyncio.wait_for(waiting, 20)
    assert standby.held
    assert time.monotonic() - began > 10, "taken over before the holder could have noticed"


async def test_a_lease_that_another_took_is_lost_at_the_next_renewal(contender, kubectl, namespace):
    lease = await contender("first")
    await lease.acquire()
    patch = '{"spec":{"holderIdentity":"thief"}}'
    kubectl("patch", "lease", "selvedge", "-n", namespace, "--type=merge", "-p", patch)
    await asyncio.wait_for(lease.lost.wait(), 20)
    assert not lease.held
    with pytest.raises(TransientError) as caught:
        lease.check()
    assert caught.value.reason is Reason.NOT_LEADING


async def test_a_lease_that_was_deleted_is_made_again_by_its_holder(contender, kubectl, namespace):
    lease = await contender("first")
    await lease.acquire()
    kubectl("delete", "lease", "selvedge", "-n", namespace)
    async with asyncio.timeout(5):
        while (found := await lease._kube.get(LEASES, namespace, "selvedge")) is None:  # noqa: ASYNC110 - it is on another machine
            await asyncio.sleep(0.02)  # between two requests
    assert lease.held
    assert found["spec"]["holderIdentity"] == "first"


async def test_times_are_written_in_utc_with_microseconds(contender, kubectl, namespace):
    lease = await contender("first")
    before = time.time()
    await lease.acquire()
    spec = await read(lease)
    assert spec["renewTime"] == spec["acquireTime"]
    from datetime import datetime

    assert len(spec["renewTime"]) == len("2025-11-20T12:00:00.000000Z")
    assert abs(datetime.fromisoformat(spec["renewTime"]).timestamp() - before) < 5


class Proxy:
    """Forwards TCP to the API server until ``hang`` is set; then it reads, and answers nothing, on any connection."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._tasks: set[asyncio.Task[None]] = set()
        self.flowing = asyncio.Event()
        self.flowing.set()

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader, writer) -> None:
        self._tasks.add(task := asyncio.current_task())
        task.add_done_callback(self._tasks.discard)
        upstream_reader, upstream_writer = await asyncio.open_connection(*self._target)
        try:
            await asyncio.gather(self._pump(reader, upstream_writer), self._pump(upstream_reader, writer))
        except ConnectionError:
            pass  # the other side went away: so does this one
        finally:
            writer.close()
            upstream_writer.close()

    async def _pump(self, reader, writer) -> None:
        while data := await reader.read(65536):
            await self.flowing.wait()
            writer.write(data)
            await writer.drain()
        writer.close()

    async def stop(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@pytest.fixture
async def proxied(kubeconfig, tmp_path, monkeypatch):
    """A proxy in front of the API server, and KUBECONFIG pointing at it."""
    config = yaml.safe_load(kubeconfig.read_text())
    cluster = config["clusters"][0]["cluster"]
    server = urlsplit(cluster["server"])
    proxy = Proxy(server.hostname, server.port or 443)
    port = await proxy.start()
    cluster["server"] = f"https://127.0.0.1:{port}"
    cluster.setdefault("tls-server-name", server.hostname)
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    path.chmod(0o600)
    monkeypatch.setenv("KUBECONFIG", str(path))
    yield proxy
    await proxy.stop()


async def test_held_turns_false_in_time_when_the_api_server_hangs(proxied, namespace):
    metrics = Metrics()
    settings = quick(namespace, "first")
    async with KubeClient.connect(settings, metrics) as kube:
        lease = Lease(kube, settings, metrics)
        await lease.acquire()
        await asyncio.sleep(1)  # nothing may happen: two renewals pass and it is held
        assert lease.held
        proxied.flowing.clear()
        began = time.monotonic()
        await asyncio.wait_for(lease.lost.wait(), 20)
        # before anybody else may take it, and not at the first hiccup
        assert 1.0 < time.monotonic() - began < settings.lease_duration
        assert not lease.held
        assert metrics.registry.get_sample_value("selvedge_leader") == 0
        await asyncio.wait_for(lease.release(), 10)
        proxied.flowing.set()


async def test_held_turns_false_by_the_clock_alone(proxied, namespace):
    """Even if the task that renews never gets to run: a blocked event loop must not write afterwards."""
    settings = quick(namespace, "first")
    async with KubeClient.connect(settings) as kube:
        lease = Lease(kube, settings)
        await lease.acquire()
        assert lease.held
        time.sleep(settings.renew_deadline)  # noqa: ASYNC251 - blocking is the point
        assert not lease.held
        await lease.release()


async def test_a_short_hang_does_not_lose_the_lease(proxied, namespace):
    settings = quick(namespace, "first")
    async with KubeClient.connect(settings) as kube:
        lease = Lease(kube, settings)
        await lease.acquire()
        proxied.flowing.clear()
        await asyncio.sleep(0.8)  # the hang itself
        proxied.flowing.set()
        await asyncio.sleep(2.5)  # nothing may happen: longer than the deadline of the renewal that hung
        assert lease.held
        await lease.release()
