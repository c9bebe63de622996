"""The client against the real API server."""

from __future__ import annotations

import asyncio
import base64
import uuid
from urllib.parse import urlsplit

import pytest

from selvedge.config import Settings
from selvedge.core.errors import TransientError
from selvedge.core.reasons import Reason
from selvedge.core.redact import Redactor
from selvedge.kube.client import KubeClient
from selvedge.kube.errors import KubeConflict, KubeError, KubeExists
from selvedge.kube.events import Events
from selvedge.kube.resources import CONFIG_MAPS, EVENTS, NAMESPACES, SECRETS, Resource
from selvedge.telemetry.metrics import Metrics

# a kind that has a status and is there in every cluster, without anybody who works on it in the sandbox
CLAIMS = Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")


@pytest.fixture
def settings() -> Settings:
    return Settings()


@pytest.fixture
async def kube(kubeconfig, settings, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    async with KubeClient.connect(settings) as client:
        yield client


@pytest.fixture
async def metered(kubeconfig, settings, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    metrics = Metrics()
    async with KubeClient.connect(settings, metrics) as client:
        yield client, metrics


def config_map(namespace, name, **data):
    return {"metadata": {"name": name, "namespace": namespace}, "data": data}


async def claim(kube, namespace, name="data"):
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": "none"}
    return await kube.create(CLAIMS, {"metadata": {"name": name, "namespace": namespace}, "spec": spec})


async def test_create_get_delete(kube, namespace):
    assert await kube.get(CONFIG_MAPS, namespace, "a") is None
    created = await kube.create(CONFIG_MAPS, config_map(namespace, "a", x="1"))
    assert (await kube.configmap(namespace, "a"))["data"] == {"x": "1"}
    with pytest.raises(KubeExists) as caught:
        await kube.create(CONFIG_MAPS, config_map(namespace, "a"))
    assert (caught.value.code, caught.value.reason) == (409, Reason.KUBERNETES_API_ERROR)
    assert (await kube.get(CONFIG_MAPS, namespace, "a"))["metadata"]["uid"] == created["metadata"]["uid"]
    await kube.delete(CONFIG_MAPS, namespace, "a")
    await kube.delete(CONFIG_MAPS, namespace, "a")
    assert await kube.configmap(namespace, "a") is None


async def test_a_list_is_whole_over_several_pages_and_obeys_its_selector(kube, namespace, monkeypatch):
    monkeypatch.setattr("selvedge.kube.client._PAGE", 7)
    names = {f"item-{number}" for number in range(30)}
    for name in sorted(names):
        manifest = config_map(namespace, name)
        manifest["metadata"]["labels"] = {"even": str(int(name[-1]) % 2 == 0).lower(), "ours": namespace}
        await kube.create(CONFIG_MAPS, manifest)
    found = [item async for item in kube.list(CONFIG_MAPS, namespace, "ours")]
    assert {item["metadata"]["name"] for item in found} == names
    assert len(found) == 30
    assert {(item["apiVersion"], item["kind"]) for item in found} == {("v1", "ConfigMap")}
    assert len([item async for item in kube.list(CONFIG_MAPS, namespace, "even=true")]) == 15
    everywhere = [item async for item in kube.list(CONFIG_MAPS, label_selector=f"ours={namespace}")]
    assert len(everywhere) == 30


async def test_a_status_is_merged_and_an_old_version_is_a_conflict(kube, namespace):
    before = await claim(kube, namespace)
    version = before["metadata"]["resourceVersion"]
    patched = await kube.patch_status(CLAIMS, namespace, "data", {"phase": "Lost"}, version)
    assert patched["status"]["phase"] == "Lost"
    with pytest.raises(KubeConflict):
        await kube.patch_status(CLAIMS, namespace, "data", {"phase": "Bound"}, version)
    assert (await kube.get(CLAIMS, namespace, "data"))["status"]["phase"] == "Lost"
    again = await kube.patch_status(CLAIMS, namespace, "data", {"phase": "Bound"})
    assert again["status"]["phase"] == "Bound"
    assert again["spec"] == before["spec"]


async def test_the_status_of_what_is_gone_is_none(kube, namespace):
    assert await kube.patch_status(CLAIMS, namespace, "nothing", {"phase": "Lost"}) is None


async def test_apply_owns_its_fields_and_leaves_others(kube, namespace):
    await kube.create(CONFIG_MAPS, config_map(namespace, "a", theirs="1", ours="0"))
    await kube.apply(CONFIG_MAPS, config_map(namespace, "a", ours="1", more="2"))
    assert (await kube.configmap(namespace, "a"))["data"] == {"theirs": "1", "ours": "1", "more": "2"}
    before = await kube.apply(CONFIG_MAPS, config_map(namespace, "a", ours="1"))
    assert before["data"] == {"theirs": "1", "ours": "1"}
    after = await kube.apply(CONFIG_MAPS, config_map(namespace, "a", ours="1"))
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]


async def test_replace_refuses_an_old_version(kube, namespace):
    old = await kube.create(CONFIG_MAPS, config_map(namespace, "a", x="1"))
    await kube.replace(CONFIG_MAPS, old | {"data": {"x": "2"}})
    with pytest.raises(KubeConflict):
        await kube.replace(CONFIG_MAPS, old | {"data": {"x": "3"}})


async def test_a_secret_is_decoded(kube, namespace):
    data = {"password": base64.b64encode(b"\x00marked").decode()}
    await kube.create(SECRETS, {"metadata": {"name": "s", "namespace": namespace}, "data": data})
    assert await kube.secret(namespace, "s") == {"password": b"\x00marked"}
    await kube.create(SECRETS, {"metadata": {"name": "empty", "namespace": namespace}})
    assert await kube.secret(namespace, "empty") == {}
    assert await kube.secret(namespace, "none") is None


async def test_the_cluster_is_known_by_its_kube_system_namespace(kube, kubectl):
    uid = kubectl("get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}").stdout
    assert await kube.cluster_uid() == uid


async def test_a_refusal_is_told_and_not_repeated(metered, namespace):
    kube, metrics = metered
    with pytest.raises(KubeError, match="422") as caught:
        await kube.create(CONFIG_MAPS, config_map(namespace, "Bad_Name"))
    assert caught.value.code == 422
    assert isinstance(caught.value, TransientError)
    labels = {"verb": "post", "resource": "configmaps", "code": "422"}
    assert metrics.registry.get_sample_value("selvedge_kubernetes_requests_total", labels) == 1


async def test_twenty_calls_at_once_share_the_client(metered):
    kube, metrics = metered
    results = await asyncio.gather(*(kube.get(NAMESPACES, None, "kube-system") for _ in range(20)))
    assert len({result["metadata"]["uid"] for result in results}) == 1
    labels = {"verb": "get", "resource": "namespaces", "code": "200"}
    assert metrics.registry.get_sample_value("selvedge_kubernetes_requests_total", labels) == 20


async def test_an_expired_token_is_read_again(kube, namespace):
    kube._configuration.api_key["BearerToken"] = "Bearer expired"
    kube._configuration.cert_file = kube._configuration.key_file = None
    kube._rest = type(kube._rest)(kube._configuration)
    assert await kube.get(NAMESPACES, None, namespace) is not None


async def test_calls_that_are_refused_together_log_in_once(kube):
    kube._configuration.api_key["BearerToken"] = "Bearer expired"
    kube._configuration.cert_file = kube._configuration.key_file = None
    kube._rest = type(kube._rest)(kube._configuration)
    expired = kube._rest
    results = await asyncio.gather(*(kube.get(NAMESPACES, None, "kube-system") for _ in range(20)))
    assert None not in results
    assert kube._retired == [expired]


async def test_an_api_server_that_is_away_for_a_moment_is_waited_for(kube, namespace):
    """A call and a creation that find nobody listening succeed once somebody does."""
    target = urlsplit(kube._configuration.host)

    async def forward(reader, writer):
        upstream = await asyncio.open_connection(target.hostname, target.port)

        async def pump(source, sink):
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
            sink.close()

        await asyncio.gather(pump(reader, upstream[1]), pump(upstream[0], writer), return_exceptions=True)

    server = await asyncio.start_server(forward, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    kube._configuration.host = f"https://127.0.0.1:{port}"
    kube._configuration.tls_server_name = target.hostname
    calls = asyncio.gather(
        kube.get(NAMESPACES, None, namespace), kube.create(CONFIG_MAPS, config_map(namespace, "late"))
    )
    await asyncio.sleep(0.15)  # nothing may happen: a refused connection takes a millisecond, and no call has ended
    assert not calls.done()
    server = await asyncio.start_server(forward, "127.0.0.1", port)
    found, created = await asyncio.wait_for(calls, 20)
    assert (found["metadata"]["name"], created["metadata"]["name"]) == (namespace, "late")
    server.close()


async def test_an_api_server_that_is_gone_is_an_error_that_says_so(kube, monkeypatch):
    monkeypatch.setattr("selvedge.kube.client._ATTEMPTS", 2)
    kube._configuration.host = "https://127.0.0.1:1"
    with pytest.raises(KubeError, match="the Kubernetes API cannot be reached") as caught:
        await kube.get(NAMESPACES, None, "kube-system")
    assert (caught.value.code, caught.value.reason) == (0, Reason.KUBERNETES_API_ERROR)


async def test_without_credentials_there_is_one_sentence(settings, monkeypatch, tmp_path):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(KubeError, match="named in KUBECONFIG, does not exist: correct it, or run in a pod"):
        async with KubeClient.connect(settings):
            pass


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def notes(kube, namespace):
    return sorted([(event["reason"], event["note"], event["type"]) async for event in kube.list(EVENTS, namespace)])


async def test_an_event_is_posted_once_an_hour_for_each_object_reason_and_message(kube, settings, namespace):
    clock = Clock()
    events = Events(kube, settings, Redactor(), clock=clock)
    obj = await kube.create(CONFIG_MAPS, config_map(namespace, "a"))
    assert await events.post(obj, Reason.UNREACHABLE, "no answer", type="Warning")
    for _ in range(5):
        assert not await events.post(obj, Reason.UNREACHABLE, "no answer", type="Warning")
    await asyncio.gather(*(events.post(obj, Reason.VERIFIED, "as declared") for _ in range(5)))
    other = await kube.create(CONFIG_MAPS, config_map(namespace, "b"))
    assert await events.post(other, Reason.VERIFIED, "as declared")
    assert await notes(kube, namespace) == [
        ("Unreachable", "no answer", "Warning"),
        ("Verified", "as declared", "Normal"),
        ("Verified", "as declared", "Normal"),
    ]
    clock.now = 3601
    assert await events.post(obj, Reason.UNREACHABLE, "no answer", type="Warning")
    assert len(await notes(kube, namespace)) == 4


async def test_kubectl_shows_an_event_at_its_object(kube, settings, namespace, kubectl):
    obj = await kube.create(CONFIG_MAPS, config_map(namespace, "a"))
    await Events(kube, settings, Redactor()).post(obj, Reason.DRIFT_CORRECTED, "role app was put back")
    assert "role app was put back" in kubectl("describe", "configmap", "a", "-n", namespace).stdout


async def test_an_event_carries_no_secret_not_even_half_of_one(kube, settings, namespace):
    marked = f"marked-{uuid.uuid4().hex}"
    redactor = Redactor()
    redactor.add(marked)
    obj = await kube.create(CONFIG_MAPS, config_map(namespace, "a"))
    await Events(kube, settings, redactor).post(obj, Reason.STATEMENT_FAILED, "x" * 1010 + marked)
    assert await notes(kube, namespace) == [("StatementFailed", "x" * 1010 + "***", "Normal")]


async def test_an_event_that_cannot_be_posted_is_not_raised_and_may_be_tried_again(kube, settings, namespace):
    events = Events(kube, settings, Redactor())
    obj = await kube.create(CONFIG_MAPS, config_map(namespace, "a"))
    lost = obj | {"metadata": obj["metadata"] | {"namespace": "no-such-namespace"}}
    assert not await events.post(lost, Reason.VERIFIED, "m")
    assert not await events.post(lost, Reason.VERIFIED, "m")
    assert await events.post(obj | {"metadata": lost["metadata"] | {"namespace": namespace}}, Reason.VERIFIED, "m")
