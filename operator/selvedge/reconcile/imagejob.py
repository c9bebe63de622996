"""The Job that reads migration files out of a container image: its manifest, and what its state means. No I/O.

Nothing of the image is started, and it needs neither a shell nor Python: a first container, of the operator's image,
lends it an interpreter and the program that prints the files (:mod:`selvedge.cli.lend`). That works with every
container runtime; volumes of the type ``image`` need a recent one. The kubelet pulls the image, with whatever
credentials and mirrors the node has.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from selvedge.core.errors import InvalidError
from selvedge.core.reasons import Reason
from selvedge.migrate.lent import NOTHING
from selvedge.migrate.lent import command as reader_command
from selvedge.reconcile.store import Object

READER = "read"
"""The container whose log has the files."""
RUN_LABEL = "selvedge.dev/migration-run"
ATTEMPT = "selvedge.dev/attempt"
"""Annotation of a Job: how many there were for its run and image, with this one."""
DEFAULT_PATH = "/migrations"

_WORK = "/selvedge-work"
_KEPT_SECONDS = 86400
_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 10.0, 600.0
_DEADLINE_SECONDS = 3600  # an image that cannot be pulled is said all the while, and then asked for anew
_USER = 65532
#: What the kubelet says of a container that does not start, apart from what passes in a second.
_HARMLESS = frozenset({"PodInitializing", "ContainerCreating"})
#: A container began well and ended by itself: what it said is about the image or its files.
_BROKEN = frozenset({"Error", "Completed"})
_FIRST = "lend"


def job_name(run: Object, image: Mapping[str, Any]) -> str:
    """The Job's name: one for each run and image; a Job's name ends in a label, so 63 characters at most."""
    wanted = json.dumps([run["metadata"]["uid"], image.get("reference"), path_of(image)])
    digest = hashlib.sha256(wanted.encode()).hexdigest()[:10]
    return f"{str(run['metadata']['name']).replace('.', '-')[: 63 - 11].rstrip('-')}-{digest}"


def path_of(image: Mapping[str, Any]) -> str:
    """The directory in the image. Raises InvalidError for one that is not absolute, or is the whole image."""
    path = str(image.get("path") or DEFAULT_PATH)
    parts = [part for part in path.split("/") if part]
    if not path.startswith("/") or not parts or ".." in parts or "\0" in path:
        raise InvalidError(
            Reason.INVALID_SPEC, f"source.image.path is {path[:80]!r}: write a directory from the root, as /migrations"
        )
    return "/" + "/".join(parts)


def manifest(run: Object, image: Mapping[str, Any], operator_image: str, attempt: int = 1) -> dict[str, Any]:
    """The Job for one MigrationRun, which owns it. Raises InvalidError as :func:`path_of` does."""
    metadata = run["metadata"]
    name = job_name(run, image)
    labels = {"app.kubernetes.io/managed-by": "selvedge", RUN_LABEL: str(metadata["uid"])}
    owner = {
        "apiVersion": run["apiVersion"],
        "kind": run["kind"],
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
        "blockOwnerDeletion": False,
    }
    lend = _container(_FIRST, operator_image) | {"args": ["migrate", "lend-reader", _WORK]}
    read = _container(READER, str(image["reference"]), read_only=True) | {
        "command": reader_command(_WORK, path_of(image)),
        # the image's own would be loaded into what is lent
        "env": [{"name": name, "value": ""} for name in ("LD_PRELOAD", "LD_AUDIT")],
    }
    read["volumeMounts"] = [
        *read["volumeMounts"],
        {"name": "work", "mountPath": "/etc/ld.so.preload", "subPath": NOTHING, "readOnly": True},
    ]
    pod = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "imagePullSecrets": [{"name": ref["name"]} for ref in image.get("pullSecrets") or ()],
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumes": [{"name": "work", "emptyDir": {"sizeLimit": "256Mi"}}],
        "initContainers": [lend],
        "containers": [read],
    }
    return {
        "metadata": {
            "name": name,
            "namespace": metadata["namespace"],
            "labels": labels,
            "annotations": {ATTEMPT: str(attempt)},
            "ownerReferences": [owner],
        },
        "spec": {
            # whether to try again is the operator's to say, which knows why it failed
            "backoffLimit": 0,
            "activeDeadlineSeconds": _DEADLINE_SECONDS,
            "ttlSecondsAfterFinished": _KEPT_SECONDS,
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def _container(name: str, image: str, *, read_only: bool = False) -> dict[str, Any]:
    return {
        "name": name,
        "image": image,
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": "work", "mountPath": _WORK, "readOnly": read_only}],
    }


class Stage(StrEnum):
    """How far a Job is."""

    WAITING = "Waiting"
    DONE = "Done"
    BROKEN = "Broken"
    """The image or its files are wrong: no repetition helps."""
    LOST = "Lost"
    """It ended without its own doing, as by an eviction: another one may succeed."""


@dataclass(frozen=True, slots=True)
class State:
    """How far a Job is, in words; ``pod`` is the one whose log is read, ``alarming`` that waiting may not help."""

    stage: Stage
    message: str = ""
    pod: str = ""
    alarming: bool = False


def judge(job: Object, pods: Sequence[Object], image: Mapping[str, Any]) -> State:
    """What the Job and its pods say."""
    name, reference = job["metadata"]["name"], str(image["reference"])
    status = job.get("status") or {}
    ended = {c["type"]: c for c in status.get("conditions") or () if c.get("status") == "True"}
    pod = max(pods, key=lambda one: str(one["metadata"].get("creationTimestamp", "")), default=None)
    if pod is None:
        if "Failed" in ended:
            return State(Stage.LOST, f"job {name} failed and its pod is gone: {_told(ended['Failed'])}")
        if "Complete" in ended:
            return State(Stage.LOST, f"job {name} is complete and its pod is gone")
        events = f"`kubectl describe job {name}` says why, such as a quota or Pod Security, if it stays so"
        return State(Stage.WAITING, f"job {name}, which reads image {reference}, has no pod yet: {events}")
    pod_name, found = str(pod["metadata"]["name"]), pod.get("status") or {}
    if found.get("phase") == "Succeeded":
        return State(Stage.DONE, pod=pod_name)
    if found.get("phase") == "Failed":
        return _failed(pod_name, found, reference, path_of(image))
    return _starting(name, pod_name, found, reference)


def attempt_of(job: Object) -> int:
    """How many Jobs there were for the same run and image, with this one."""
    text = str((job["metadata"].get("annotations") or {}).get(ATTEMPT, ""))
    return int(text) if text.isdecimal() else 1


def pause_left(job: Object, now: datetime) -> float:
    """Seconds until a Job that is lost is worth another: each one waits twice as long, up to ten minutes.

    Counted from the Job's end by the API server's clock, so a restart of the operator does not begin anew.
    """
    pause = min(_MAX_PAUSE_SECONDS, _PAUSE_SECONDS * 2.0 ** min(attempt_of(job) - 1, 16))
    ends = [
        datetime.fromisoformat(str(c["lastTransitionTime"]))
        for c in (job.get("status") or {}).get("conditions") or ()
        if c.get("type") in ("Failed", "Complete") and c.get("status") == "True" and c.get("lastTransitionTime")
    ]
    if not ends:
        return pause  # its pod ended a moment ago, and the Job does not say so yet
    return min(pause, max(0.0, pause - (now - max(ends)).total_seconds()))


def _failed(pod: str, status: Mapping[str, Any], reference: str, path: str) -> State:
    for container in _containers(status):
        ended = (container.get("state") or {}).get("terminated") or {}
        if not ended or ended.get("exitCode") == 0:
            continue
        said = " ".join(str(ended.get("message") or "").split())[-300:]
        about = f"image {reference}, {path}: {said or 'exit status ' + str(ended.get('exitCode'))}"
        if ended.get("reason") not in _BROKEN or status.get("reason") or container.get("name") == _FIRST:
            # out of memory, evicted, its node was lost; or the operator's own image lacks something
            return State(Stage.LOST, f"pod {pod}: {status.get('reason') or ended.get('reason')}: {about}")
        return State(Stage.BROKEN, about)
    return State(Stage.LOST, f"pod {pod} failed: {_told(status)}")


def _starting(job: str, pod: str, status: Mapping[str, Any], reference: str) -> State:
    for container in _containers(status):
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason = str(waiting.get("reason") or "")
        if reason and reason not in _HARMLESS:
            image = container.get("image") or reference
            message = f"pod {pod} of job {job}: image {image}: {_told(waiting)}"
            return State(Stage.WAITING, f"{message}; it goes on by itself when that is mended", alarming=True)
    scheduled: Mapping[str, Any] = next(
        (c for c in status.get("conditions") or () if c.get("type") == "PodScheduled"), {}
    )
    if scheduled.get("status") == "False":
        return State(Stage.WAITING, f"pod {pod} of job {job} has no node: {_told(scheduled)}", alarming=True)
    if scheduled.get("status") != "True":
        return State(Stage.WAITING, f"pod {pod} of job {job}, which reads image {reference}, has no node yet")
    return State(Stage.WAITING, f"pod {pod} of job {job} reads image {reference}")


def _containers(status: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]


def _told(about: Mapping[str, Any]) -> str:
    said = [str(about.get(key) or "") for key in ("reason", "message")]
    return ": ".join(" ".join(text.split())[:300] for text in said if text) or "no reason was given"
