"""A source that is an image, as far as an API server without nodes goes; tests/node has the pods."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cluster.test_migrationrun_actions import start
from tests.cluster.world import World, condition, verdict, wait_for
from tests.conftest import Kubectl

REFERENCE = "registry.example/migrations:1"
SOURCE = {"image": {"reference": REFERENCE, "path": "/app/migrations", "pullSecrets": [{"name": "registry"}]}}


@pytest.fixture
def operator_env(request: pytest.FixtureRequest) -> dict[str, str]:
    """The operator knows its own image, unless the test says otherwise."""
    return getattr(request, "param", {"SELVEDGE_IMAGE": "registry.example/selvedge:1"})


def declared(world: World, **migrations: Any) -> None:
    owner = world.role("owner")
    postgres = {"owner": owner, "roles": [{"name": owner}]}
    world.schema("shop", postgres=postgres, migrations={"source": SOURCE, **migrations})


def test_a_job_is_made_and_what_it_waits_for_is_said(world: World, kubectl: Kubectl):
    def the(kind: str, *arguments: str) -> Any:
        return json.loads(kubectl("-n", world.namespace, "get", kind, *arguments, "-o", "json").stdout)["items"]

    # what the pod is given passes the strictest of the cluster's own policies
    label = "pod-security.kubernetes.io/enforce=restricted"
    kubectl("label", "namespace", world.namespace, label)
    declared(world)
    waits = world.until("DatabaseSchema", "shop", "False", "WaitingForMigrations")
    assert "has not finished" in verdict(waits)[2]
    [job] = wait_for(lambda: the("jobs"))
    [run] = world.api.list("MigrationRun")
    owner = job["metadata"]["ownerReferences"][0]
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("MigrationRun", run["metadata"]["uid"], True)
    [pod] = wait_for(lambda: the("pods"))
    containers = [*pod["spec"]["initContainers"], *pod["spec"]["containers"]]
    assert [one["image"] for one in containers] == ["registry.example/selvedge:1", REFERENCE]
    name, pod_name = run["metadata"]["name"], pod["metadata"]["name"]
    run = world.until("MigrationRun", name, "False", "WaitingForSource")
    assert run["status"]["phase"] == "Pending"
    assert condition(run, "Stalled")["status"] == "False"
    says = f"pod {pod_name} of job {job['metadata']['name']}, which reads image {REFERENCE}, has no node yet"
    wait_for(lambda: verdict(world.api.get("MigrationRun", name))[2] == says)

    def kubelet(status: dict[str, Any]) -> None:
        patch = json.dumps({"status": status})
        kubectl("-n", world.namespace, "patch", "pod", pod_name, "--subresource=status", "--type=merge", "-p", patch)

    def reported(container: str, **state: Any) -> dict[str, Any]:
        image = {"image": REFERENCE, "imageID": "", "ready": False, "restartCount": 0}
        return {"containerStatuses": [{"name": container, **image, "state": state}]}

    refused = {"reason": "ImagePullBackOff", "message": "Back-off pulling image: 401 Unauthorized"}
    kubelet({"phase": "Pending", **reported("read", waiting=refused)})
    says = f"image {REFERENCE}: ImagePullBackOff: Back-off pulling image: 401 Unauthorized; it goes on by itself"
    wait_for(lambda: says in verdict(world.api.get("MigrationRun", name))[2])

    # a directory that the image does not have: no repetition helps, and the run says so
    said = "/app/migrations cannot be read (No such file or directory): correct source.image.path"
    broken = {"exitCode": 1, "reason": "Error", "message": said}
    kubelet({"phase": "Failed", **reported("read", terminated=broken)})
    run = world.until("MigrationRun", name, "False", "InvalidMigration")
    over = "this run is over: once that is mended, make a new run"
    assert verdict(run)[2] == f"image {REFERENCE}, /app/migrations: {said}; {over}"
    assert run["status"]["phase"] == "Failed"
    wait_for(lambda: not the("jobs"), what=lambda: the("jobs"))


@pytest.mark.parametrize("operator_env", [{}], indirect=True)
def test_an_operator_that_does_not_know_its_image_says_so(world: World):
    declared(world, autoApply=False)
    world.ready("DatabaseSchema", "shop")
    start(world, "up")
    run = world.until("MigrationRun", "up", "False", "WaitingForSource")
    assert "set SELVEDGE_IMAGE, as the chart does" in verdict(run)[2]
    start(world, "down", action="Plan", source={"image": {"reference": REFERENCE, "path": "/"}})
    wait_for(lambda: verdict(world.api.get("MigrationRun", "down"))[1] == "InvalidSpec")


def test_a_quota_is_no_missing_right(world: World, kubectl: Kubectl):
    kubectl("-n", world.namespace, "create", "quota", "jobs", "--hard=count/jobs.batch=0")
    kubectl("-n", world.namespace, "wait", "--for=jsonpath={.status.hard}", "quota/jobs", "--timeout=30s")
    declared(world, autoApply=False)
    start(world, "up")
    run = wait_for(lambda: _saying(world, "exceeded quota"))
    assert verdict(run)[1] == "WaitingForSource"
    assert "raise the ResourceQuota" in verdict(run)[2]
    assert "migrationImages" not in verdict(run)[2]
    kubectl("-n", world.namespace, "delete", "quota", "jobs")
    wait_for(lambda: _saying(world, "no node yet"), 30)


@pytest.mark.long
def test_an_evicted_pod_is_followed_by_another_after_a_pause(world: World, kubectl: Kubectl):
    def jobs() -> list[Any]:
        return json.loads(kubectl("-n", world.namespace, "get", "jobs", "-o", "json").stdout)["items"]

    declared(world, autoApply=False)
    start(world, "up")
    wait_for(lambda: _saying(world, "no node yet"))
    [first] = jobs()
    [pod] = json.loads(kubectl("-n", world.namespace, "get", "pods", "-o", "json").stdout)["items"]
    status = json.dumps({"status": {"phase": "Failed", "reason": "Evicted", "message": "the node is low on memory"}})
    kubectl("-n", world.namespace, "patch", "pod", pod["metadata"]["name"], "--subresource=status", "-p", status)
    run = wait_for(lambda: _saying(world, "at nextRetryTime, after 1 attempt"))
    assert "Evicted: the node is low on memory" in verdict(run)[2]
    assert run["status"]["nextRetryTime"]
    assert run["status"]["phase"] == "Pending"
    assert [job["metadata"]["uid"] for job in jobs()] == [first["metadata"]["uid"]], "it can be looked at meanwhile"
    [second] = wait_for(lambda: [job for job in jobs() if job["metadata"]["uid"] != first["metadata"]["uid"]], 30)
    assert second["metadata"]["annotations"]["selvedge.dev/attempt"] == "2"
    # the first pod may still be there, and says nothing about the second Job
    wait_for(lambda: _saying(world, "no node yet"), 30)
    assert [job["metadata"]["uid"] for job in jobs()] == [second["metadata"]["uid"]]


def _saying(world: World, text: str) -> Any:
    run = world.api.get("MigrationRun", "up")
    return run if run and text in str(verdict(run)[2]) else None
