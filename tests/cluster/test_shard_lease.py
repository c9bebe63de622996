"""The two Leases of a shard on the real API server: all shards of one count lead together, and nobody beside them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from dataclasses import replace

import pytest
import yaml

from selvedge.core.errors import TransientError
from selvedge.core.reasons import Reason
from selvedge.core.shards import Shard
from selvedge.kube.client import KubeClient
from selvedge.kube.resources import LEASES
from selvedge.kube.shard_lease import ShardLease, lease_for, lease_name
from selvedge.telemetry.metrics import Metrics
from tests.cluster.chart_support import render
from tests.cluster.rights import as_account
from tests.cluster.test_lease import quick
from tests.waiting import until

#: Twice those of test_lease: a shard has two to renew.
PERIODS = {"lease_duration": 6.0, "renew_deadline": 4.0, "retry_period": 0.5}


@pytest.fixture
async def contender(kubeconfig, namespace, monkeypatch):
    """Make what ``selvedge run`` makes for SELVEDGE_SHARD, with a client of its own, and the metrics of both."""
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    async with contextlib.AsyncExitStack() as stack:

        async def make(shard: str = ""):
            settings = replace(
                quick(namespace, shard or "whole"), **PERIODS, shard=Shard.parse(shard) if shard else None
            )
            metrics = Metrics(settings.shard)
            kube = await stack.enter_async_context(KubeClient.connect(settings, metrics))
            lease = lease_for(kube, settings, metrics)
            stack.push_async_callback(lease.release)
            return lease, metrics

        yield make


def requests(metrics: Metrics) -> Counter:
    found = Counter()
    for family in metrics.registry.collect():
        for sample in family.samples:
            if sample.name == "selvedge_kubernetes_requests_total":
                found[sample.labels["verb"], sample.labels["code"]] += sample.value
    return found


@pytest.mark.long
async def test_all_shards_of_one_count_lead_together_and_renew_it_only_once(contender, namespace):
    made = [await contender(f"{index}/3") for index in range(3)]
    leases = [lease for lease, _ in made]
    async with asyncio.timeout(30):
        await asyncio.gather(*(lease.acquire() for lease in leases))
    kube = leases[0]._kube
    common = await kube.get(LEASES, namespace, "selvedge")
    assert common["spec"]["holderIdentity"] == "3 shards"
    held = [await kube.get(LEASES, namespace, f"selvedge-shard-{index}") for index in range(3)]
    assert [lease["spec"]["holderIdentity"] for lease in held] == [f"{index}/3 of 3 shards" for index in range(3)]
    before = [requests(metrics) for _, metrics in made]
    # longer than a Lease lasts: it is renewed, by whoever is first
    for _ in range(16):
        await asyncio.sleep(0.5)  # between two looks: they have to hold it all through the 8 s
        assert all(lease.held for lease in leases)
    used = sum((requests(metrics) - earlier for (_, metrics), earlier in zip(made, before, strict=True)), Counter())
    assert used["put", "200"] >= 12
    # their own Leases are most of it: each round one PUT each, and one or two for the one that they share
    assert used["put", "409"] <= used["put", "200"] / 2


@pytest.mark.long
async def test_another_way_of_dividing_waits_until_the_last_has_ended(contender):
    (first, _), (second, _) = await contender("0/2"), await contender("1/2")
    whole, three = (await contender())[0], (await contender("2/3"))[0]
    async with asyncio.timeout(30):
        await asyncio.gather(first.acquire(), second.acquire())
    waiting = [asyncio.create_task(lease.acquire()) for lease in (whole, three)]
    await first.release()
    assert not first.held
    with pytest.raises(TransientError) as caught:
        first.check()
    assert caught.value.reason is Reason.NOT_LEADING
    await asyncio.sleep(PERIODS["lease_duration"] + 1)  # nothing may happen: the second one renews what both held
    assert second.held
    assert not whole.held
    assert not three.held
    await second.release()
    async with asyncio.timeout(PERIODS["lease_duration"] - 1):  # given back: nobody waits until it expires
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert whole.held is not three.held
    for task in waiting:
        task.cancel()


async def test_the_common_lease_is_given_back_to_another_number_of_shards_whose_first_wait_already(
    contender, namespace
):
    """They hold the Leases of their shards by then, under the same names."""
    (first, _), (second, _), (waits, _) = [await contender(shard) for shard in ("0/2", "1/2", "0/3")]
    async with asyncio.timeout(30):
        await asyncio.gather(first.acquire(), second.acquire())
    kube = first._kube

    async def holders() -> dict[str, str]:
        found = {name: await kube.get(LEASES, namespace, name) for name in ("selvedge", lease_name("selvedge", 0))}
        return {name: lease["spec"]["holderIdentity"] for name, lease in found.items()}

    waiting = asyncio.create_task(waits.acquire())
    await first.release()
    await until(lambda: waits._own.held, waiting)
    assert await holders() == {"selvedge": "2 shards", "selvedge-shard-0": "0/3 of 3 shards"}
    assert not waiting.done()
    await second.release()
    assert (await holders())["selvedge"] in ("", "3 shards")
    await waiting
    assert waits.held


async def test_a_shard_that_lost_its_own_lease_leads_no_more(contender, namespace):
    (first, metrics), (second, _) = await contender("0/2"), await contender("1/2")
    assert isinstance(first, ShardLease)
    async with asyncio.timeout(30):
        await asyncio.gather(first.acquire(), second.acquire())
    kube = second._kube
    stolen = await kube.get(LEASES, namespace, "selvedge-shard-0")
    await kube.patch(LEASES, namespace, "selvedge-shard-0", {"spec": {**stolen["spec"], "holderIdentity": "thief"}})
    await until(first.lost.is_set)
    assert not first.held
    assert metrics.registry.get_sample_value("selvedge_leader") == 0
    assert second.held


async def test_a_common_lease_that_somebody_has_just_renewed_is_not_given_back(contender, namespace, monkeypatch):
    """The last of the shards finds nobody else; then a standby of another shard takes over, before it is given back."""
    first, _ = await contender("0/2")
    assert isinstance(first, ShardLease)
    async with asyncio.timeout(30):
        await first.acquire()
    kube, others = first._kube, first._is_last

    async def looked() -> bool:
        alone = await others()
        common = await kube.get(LEASES, namespace, "selvedge")
        await kube.replace(LEASES, {**common, "spec": {**common["spec"], "leaseTransitions": 7}})
        return alone

    await kube.create(LEASES, {"metadata": {"name": lease_name("selvedge", 1), "namespace": namespace}, "spec": {}})
    monkeypatch.setattr(first, "_is_last", looked)
    await first.release()
    common = await kube.get(LEASES, namespace, "selvedge")
    assert common["spec"]["leaseTransitions"] == 7
    assert common["spec"]["holderIdentity"] == "2 shards"
    own = await kube.get(LEASES, namespace, lease_name("selvedge", 0))
    assert own["spec"]["holderIdentity"] == ""


async def test_with_fewer_shards_a_pod_that_ends_may_still_give_its_leases_back(
    contender, kubectl, kubeconfig, namespace, tmp_path, monkeypatch
):
    """helm takes a shard's rights in the moment in which it tells its pods to end."""

    def install(shards: int) -> None:
        documents = render(namespace, f"shards={shards}", "rbac.userRoles=false", "crds.install=false")
        rights = [d for d in documents if d["kind"] in ("ServiceAccount", "Role", "RoleBinding")]
        rights = [d for d in rights if "helm.sh/hook" not in d["metadata"].get("annotations", {})]
        kubectl("apply", "-f", "-", input="---\n".join(json.dumps(document) + "\n" for document in rights))

    install(3)
    path = tmp_path / "account"
    path.write_text(yaml.safe_dump(as_account(kubectl, kubeconfig, namespace)))
    monkeypatch.setenv("KUBECONFIG", str(path))
    leases = [(await contender(f"{index}/3"))[0] for index in range(3)]
    async with asyncio.timeout(60):
        await asyncio.gather(*(lease.acquire() for lease in leases))
    install(1)
    async with asyncio.timeout(60):
        for lease in leases:
            await lease.release()
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    for name in ("selvedge", *(lease_name("selvedge", index) for index in range(3))):
        found = json.loads(kubectl("get", "lease", name, "-n", namespace, "-o", "json").stdout)
        assert not found["spec"].get("holderIdentity"), name
