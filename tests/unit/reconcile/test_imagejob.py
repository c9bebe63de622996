"""The Job that reads an image: its manifest, and what its pod's state means."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from selvedge.core.errors import InvalidError
from selvedge.reconcile.imagejob import Stage, attempt_of, job_name, judge, manifest, path_of, pause_left

RUN: dict[str, Any] = {
    "apiVersion": "selvedge.dev/v1alpha1",
    "kind": "MigrationRun",
    "metadata": {"name": "fashion-wallet-3f9a1c77d2", "namespace": "shop", "uid": "u-1"},
}
IMAGE = {"reference": "registry.example/migrations:1", "path": "/migrations", "pullSecrets": [{"name": "registry"}]}
OWN = "registry.example/selvedge:1"


def pod(name: str = "p", created: str = "2026-01-01T00:00:00Z", **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "creationTimestamp": created}, "status": status}


def ended(name: str, code: int, message: str = "", reason: str = "Error") -> dict[str, Any]:
    return {"name": name, "state": {"terminated": {"exitCode": code, "message": message, "reason": reason}}}


JOB = {"metadata": {"name": "j"}, "status": {}}


def test_nothing_of_the_image_is_started_and_the_pod_may_do_nothing() -> None:
    job = manifest(RUN, IMAGE, OWN)
    spec = job["spec"]["template"]["spec"]
    assert job["metadata"]["ownerReferences"][0]["uid"] == "u-1"
    [lend], [read] = spec["initContainers"], spec["containers"]
    assert (lend["name"], lend["image"], lend["args"][:2]) == ("lend", OWN, ["migrate", "lend-reader"])
    assert "command" not in lend, "the image's own entry point"
    assert (read["name"], read["image"]) == ("read", "registry.example/migrations:1")
    assert read["command"][0] == "/selvedge-work/loader"
    assert read["command"][-1] == "/migrations"
    assert all(mount["readOnly"] for mount in read["volumeMounts"])
    assert read["volumeMounts"][1]["mountPath"] == "/etc/ld.so.preload"
    assert spec["automountServiceAccountToken"] is False
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert read["env"] == [{"name": name, "value": ""} for name in ("LD_PRELOAD", "LD_AUDIT")], "no password reaches it"
    assert "env" not in lend
    for container in (lend, read):
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert container["resources"]["limits"] == {"memory": "256Mi"}
    assert job["spec"]["backoffLimit"] == 0
    assert job["spec"]["activeDeadlineSeconds"] == 3600


def test_a_job_has_one_name_for_one_run_and_image() -> None:
    name = job_name(RUN, IMAGE)
    assert name == job_name(RUN, {**IMAGE, "path": "/migrations/", "pullSecrets": []})
    other = {**RUN, "metadata": {**RUN["metadata"], "uid": "u-2"}}
    assert len({name, job_name(other, IMAGE), job_name(RUN, {**IMAGE, "reference": "x"})}) == 3
    long = {**RUN, "metadata": {**RUN["metadata"], "name": "a.b-" * 60 + "z"}}
    assert len(job_name(long, IMAGE)) <= 63
    assert "." not in job_name(long, IMAGE)


@pytest.mark.parametrize("path", ["/", "//", "migrations", "/a/../b", "/a\0b", "."])
def test_a_path_is_a_directory_from_the_root(path: str) -> None:
    with pytest.raises(InvalidError, match=r"source\.image\.path"):
        path_of({"path": path})


def test_a_path_is_written_in_one_way() -> None:
    assert path_of({}) == "/migrations"
    assert path_of({"path": "/app//migrations/"}) == "/app/migrations"


WAITS = {
    "no pod": ([], "job j, which reads image registry.example/migrations:1, has no pod yet: `kubectl describe", False),
    "new": (
        [pod(phase="Pending")],
        "pod p of job j, which reads image registry.example/migrations:1, has no node",
        False,
    ),
    "no node": (
        [
            pod(
                phase="Pending",
                conditions=[
                    {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes fit"}
                ],
            )
        ],
        "pod p of job j has no node: Unschedulable: 0/3 nodes fit",
        True,
    ),
    "no image": (
        [
            pod(
                phase="Pending",
                initContainerStatuses=[
                    {"name": "lend", "state": {"terminated": {"exitCode": 0}}},
                    {
                        "name": "read",
                        "image": "registry.example/migrations:1",
                        "state": {"waiting": {"reason": "ErrImagePull", "message": "401 Unauthorized"}},
                    },
                ],
            )
        ],
        "pod p of job j: image registry.example/migrations:1: ErrImagePull: 401 Unauthorized; it goes on by itself",
        True,
    ),
    "starting": (
        [
            pod(
                phase="Pending",
                conditions=[{"type": "PodScheduled", "status": "True"}],
                initContainerStatuses=[{"name": "lend", "state": {"waiting": {"reason": "PodInitializing"}}}],
            )
        ],
        "pod p of job j reads image registry.example/migrations:1",
        False,
    ),
}


@pytest.mark.parametrize("case", WAITS)
def test_what_is_waited_for_is_said(case: str) -> None:
    pods, message, alarming = WAITS[case]
    state = judge(JOB, pods, IMAGE)
    assert (state.stage, state.alarming) == (Stage.WAITING, alarming)
    assert state.message.startswith(message), state.message


NOWHERE = "/migrations cannot be read (No such file or directory): correct source.image.path"
FAILURES = {
    "no such directory": ([ended("lend", 0), ended("read", 1, NOWHERE)], Stage.BROKEN, NOWHERE),
    "no such file": ([ended("read", 1, "error: there is no file")], Stage.BROKEN, "error: there is no file"),
    "out of memory": ([ended("read", 137, "", "OOMKilled")], Stage.LOST, "pod p: OOMKilled"),
    "no such program": ([ended("lend", 128, "exec: not found", "StartError")], Stage.LOST, "exec: not found"),
    "disk full": ([ended("lend", 1, "No space left on device")], Stage.LOST, "No space left on device"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_failure_is_the_images_or_it_may_pass(case: str) -> None:
    containers, stage, message = FAILURES[case]
    state = judge(JOB, [pod(phase="Failed", initContainerStatuses=containers)], IMAGE)
    assert (state.stage, message in state.message) == (stage, True), state.message


def test_an_eviction_is_not_the_images_fault() -> None:
    found = pod(phase="Failed", reason="Evicted", message="node is low on memory", containerStatuses=[ended("read", 1)])
    assert judge(JOB, [found], IMAGE).stage is Stage.LOST


def test_the_newest_pod_counts_and_a_job_without_one_is_made_anew() -> None:
    pods = [pod("old", phase="Failed"), pod("new", "2026-01-02T00:00:00Z", phase="Succeeded")]
    assert judge(JOB, pods, IMAGE).pod == "new"
    for kind in ("Complete", "Failed"):
        job = {"metadata": {"name": "j"}, "status": {"conditions": [{"type": kind, "status": "True"}]}}
        assert judge(job, [], IMAGE).stage is Stage.LOST


def test_each_job_that_is_lost_waits_twice_as_long_up_to_ten_minutes() -> None:
    now = datetime(2026, 1, 1, 0, 0, 30, tzinfo=UTC)
    failed = {"type": "Failed", "status": "True", "lastTransitionTime": "2026-01-01T00:00:30Z"}
    pauses = []
    for attempt in (1, 2, 3, 7, 100):
        job = manifest(RUN, IMAGE, OWN, attempt)
        assert attempt_of(job) == attempt
        assert pause_left(job, now) == pause_left({**job, "status": {"conditions": [failed]}}, now)
        job["status"] = {"conditions": [failed]}
        pauses.append(pause_left(job, now))
        assert pause_left(job, now + timedelta(seconds=4)) == pauses[-1] - 4, "a restarted operator counts on"
        assert pause_left(job, now + timedelta(hours=1)) == 0
        assert pause_left(job, now - timedelta(hours=1)) == pauses[-1], "a clock that is behind"
    assert pauses == [10, 20, 40, 600, 600]
    assert attempt_of({"metadata": {"annotations": {"selvedge.dev/attempt": "many"}}}) == 1
