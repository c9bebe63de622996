"""The operator in pods on a real node: what the image weighs, how soon it works, and who goes on when one goes.

Needs what the sandbox's node needs: root, and Debian's packages. A start is measured from the moment at which the
kernel started the container's first process, as it notes it itself; who leads is read from the Lease, twenty times a
second.
"""

from __future__ import annotations

import json
import os
import tarfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.results import machine, spread, write
from sandbox import Sandbox, image
from sandbox.image_archive import read
from tests.cluster.kube_api import Document
from tests.cluster.world import verdict, wait_for
from tests.node.availability_support import Deployed, handover

Figures = dict[str, Any]
_STARTS, _ENDS = 10, 5
_WAIT_SECONDS = 120.0
_MB = 1_000_000


def measure(scale: float = 1.0) -> None:
    """Image, starts and hand-overs; writes pods.json."""
    facts = machine()
    starts, ends = max(2, int(_STARTS * scale)), max(1, int(_ENDS * scale))
    archive = image.build()
    figures: Figures = {"image": _image(archive)}
    with Sandbox.start(postgres=(), mongodb=False, kubernetes=False) as sandbox, _deployed(sandbox, archive) as here:
        figures["start"] = _starts(here, starts)
        here.install("replicas=2")
        ways: dict[str, Callable[[Deployed, str], None]] = {
            "told_to_stop": _told_to_stop,
            "container_killed": _container_killed,
            "pod_lost": _pod_lost,
        }
        figures["handover"] = {name: _handovers(here, way, ends) for name, way in ways.items()}
        figures["lease_duration_seconds"] = 15
    write("pods", facts, figures, scale)


def _image(archive: Path) -> Figures:
    """Megabytes as a node pulls them, and as they lie on its disk."""
    layers = read(archive).layers
    unpacked = 0
    with tarfile.open(archive) as tar:
        manifest = tar.extractfile("manifest.json")
        if manifest is None:
            raise RuntimeError(f"{archive} is no image")
        for name in json.load(manifest)[0]["Layers"]:
            with tarfile.open(fileobj=tar.extractfile(name)) as layer:
                unpacked += sum(entry.size for entry in layer)
    sizes = [round(layer.size / _MB, 1) for layer in layers]
    return {
        "pull_mb": round(sum(layer.size for layer in layers) / _MB, 1),
        "layers_mb": sizes,
        "unpacked_mb": round(unpacked / _MB, 1),
    }


@contextmanager
def _deployed(sandbox: Sandbox, archive: Path) -> Iterator[Deployed]:
    """One pod of the operator, and a database that it looks after."""
    node = sandbox.node
    suffix = uuid.uuid4().hex[:8]
    here = Deployed(node, archive, f"operator-{suffix}", f"shop-{suffix}")
    for namespace in (here.namespace, here.watched):
        node.kubectl("create", "namespace", namespace)
    here.install("replicas=1")
    here.server()
    here.schema("one", "bench", ["shared"])
    here.ready("DatabaseSchema", "one")
    yield here


def _starts(here: Deployed, number: int) -> Figures:
    """From the process's start to its answering, leading, and having made a change that was declared before."""
    rounds: list[dict[str, float]] = []
    for index in range(number):
        _scale(here, 0)
        wait_for(lambda: not here.own.list("Pod"), _WAIT_SECONDS)
        here.schema("one", "bench", ["shared", f"start_{index}"])
        asked = time.time()
        _scale(here, 1)
        wait_for(lambda: verdict(here.api.get("DatabaseSchema", "one"))[0] == "True", _WAIT_SECONDS)
        ready = time.time()
        (pod,) = here.names()
        began = _started(here, pod)
        log = [json.loads(line) for line in here.node.kubectl("logs", pod, "-n", here.namespace).stdout.splitlines()]
        waits, leads = (_logged(log, event) for event in ("waiting for the lease", "leading"))
        rounds.append(
            {
                "pod_seconds": began - asked,
                "loaded_seconds": waits - began,
                "leads_seconds": leads - began,
                "first_ready_seconds": ready - began,
            }
        )
    return {"rounds": number, **{name: spread([one[name] for one in rounds]) for name in rounds[0]}}


def _scale(here: Deployed, replicas: int) -> None:
    here.node.kubectl("scale", "deployment/selvedge", "-n", here.namespace, f"--replicas={replicas}")


def _logged(log: list[Document], event: str) -> float:
    """When the operator wrote this line, in seconds of the Unix time."""
    stamp = next(str(line["timestamp"]) for line in log if line["event"] == event)
    return datetime.fromisoformat(stamp).timestamp()


def _started(here: Deployed, pod: str) -> float:
    """When the kernel started the first process of a pod's container, in seconds of the Unix time."""
    shown = here.node.enter("cat", f"/proc/{here.process(pod)}/stat").stdout
    ticks = int(shown.rpartition(")")[2].split()[19])
    since_boot = time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.time() - since_boot + ticks / os.sysconf("SC_CLK_TCK")


def _handovers(here: Deployed, way: Callable[[Deployed, str], None], number: int) -> Figures:
    """From the leader's end until the Lease is another's, and until a change declared at that moment is made."""
    leads, works = [], []
    for index in range(number):
        wait_for(lambda: len(here.ready_pods()) == 2, _WAIT_SECONDS)
        leader = here.wait_leader()
        here.schema("one", "bench", ["shared", f"{way.__name__}_{index}"])
        here.ready("DatabaseSchema", "one")
        began = time.monotonic()
        if way is _container_killed:
            # it goes on under its own name: what shows it is a change that is made
            way(here, leader)
        else:
            with handover(here, _WAIT_SECONDS) as seen:
                way(here, leader)
            leads.append(seen.seconds)
        here.schema("one", "bench", ["shared", f"{way.__name__}_{index}", "after"])
        here.ready("DatabaseSchema", "one", _WAIT_SECONDS)
        works.append(time.monotonic() - began)
    return {"another_leads_seconds": spread(leads) if leads else None, "works_again_seconds": spread(works)}


def _told_to_stop(here: Deployed, pod: str) -> None:
    """As an eviction, an upgrade, or `kubectl delete pod`."""
    here.node.kubectl("delete", "pod", pod, "-n", here.namespace, "--wait=false")


def _container_killed(here: Deployed, pod: str) -> None:
    """As by the kernel where memory ends."""
    here.signal(pod, "KILL")


def _pod_lost(here: Deployed, pod: str) -> None:
    """As with its machine: it renews nothing and releases nothing."""
    here.signal(pod, "STOP")
    here.node.kubectl("delete", "pod", pod, "-n", here.namespace, "--force", "--grace-period=0", "--wait=false")
