"""The tables of `pods` for docs/performance.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Figures = dict[str, Any]
_STARTS = {
    "pod_seconds": "asked for a pod, its process starts (scheduler, kubelet, containerd)",
    "loaded_seconds": "process started, modules loaded, probes answer",
    "leads_seconds": "process started, it leads",
    "first_ready_seconds": "process started, a change declared before is made, verified and Ready",
}
_ENDS = {
    "told_to_stop": "told to stop: eviction, upgrade, `kubectl delete pod`",
    "container_killed": "its container is killed",
    "pod_lost": "lost with its machine",
}


def pods(found: Figures, when: str) -> Iterator[str]:
    """The image, starts and hand-overs."""
    image, start = found["image"], found["start"]
    yield from ("### The operator in pods", "", when, "")
    layers = " + ".join(str(size) for size in image["layers_mb"])
    yield f"The image: {image['pull_mb']} MB to pull ({layers}), {image['unpacked_mb']} MB on the node."
    yield from ("", f"| a start, {start['rounds']} times | min s | p50 s | max s |", "|---|---|---|---|")
    for name, what in _STARTS.items():
        yield f"| {what} | {_three(start[name])} |"
    yield ""
    yield f"With two pods and a Lease of {found['lease_duration_seconds']} s, from the leader's end:"
    yield from ("", "| the leader's pod is | | min s | p50 s | max s |", "|---|---|---|---|---|")
    for name, what in _ENDS.items():
        one = found["handover"][name]
        if one["another_leads_seconds"]:
            yield f"| {what} | another leads | {_three(one['another_leads_seconds'])} |"
        yield f"| {what} | a change is made | {_three(one['works_again_seconds'])} |"


def _three(one: dict[str, float]) -> str:
    return f"{one['min']:.2f} | {one['p50']:.2f} | {one['max']:.2f}"
