"""What fifty DatabaseSchemas at dead servers cost the others: a change of one of the others to Ready, before and with.

Half of the dead servers refuse connections, the other half take them and never answer. The changes are made one after
the other, each of another resource, by one operator that keeps all.
"""

from __future__ import annotations

import socket
import statistics
import time
from typing import Any

from bench import manifests
from bench.rest import left_alone
from bench.world import World
from sandbox.ports import LOOPBACK, free_port
from sandbox.progress import step

Figures = dict[str, Any]
_SERVERS, _ON_EACH = 10, 5
_ROUNDS = 60


def beside_dead_servers(here: World, number: int, seconds: float) -> Figures:
    """The running operator keeps ``number`` resources ``small-…``; with the dead ones it is left alone ``seconds``."""
    with step(f"{_ROUNDS} changes while all servers answer"):
        before = _changes(here, number, 1)
    with socket.create_server((LOOPBACK, 0), backlog=4096) as silent:
        with step(f"{_SERVERS * _ON_EACH} DatabaseSchemas at {_SERVERS} dead servers"):
            dead = _declare(here, silent.getsockname()[1])
            _wait_told(here, dead)
        with step(f"{_ROUNDS} changes beside them"):
            beside = _changes(here, number, 2)
        with step("left alone with them"):
            alone = left_alone(here, seconds)
    return {"at_dead_servers": len(dead), "changes": _ROUNDS, "before": before, "beside": beside, "left_alone": alone}


def _changes(here: World, number: int, turn: int) -> Figures:
    found = []
    for round_ in range(_ROUNDS):
        index = (round_ * 79) % number
        name = f"small-{index}"
        role = {"name": f"small_{index}_reader", "comment": f"turn {turn}"}
        started = time.monotonic()
        here.api.patch(name, {"spec": {"postgres": {"roles": [role]}}})
        found.append(here.watch.wait_again([name], started, 60)[name] - started)
    found.sort()
    return {
        "p50_seconds": round(statistics.median(found), 3),
        "p95_seconds": round(found[int(0.95 * len(found))], 3),
        "max_seconds": round(found[-1], 3),
    }


def _declare(here: World, silent: int) -> list[str]:
    main = here.api.get("databaseservers", "main")
    names = []
    for server in range(_SERVERS):
        port = silent if server % 2 else free_port()
        spec = {**main["spec"], "hosts": [{"host": LOOPBACK, "port": port}]}
        document = {"apiVersion": main["apiVersion"], "kind": main["kind"], "metadata": {"name": f"dead-{server}"}}
        here.api.text("POST", here.api.path("databaseservers"), {**document, "spec": spec})
        for place in range(_ON_EACH):
            name = f"dead-{server}-{place}"
            document = manifests.small(name, f"dead_{place}", interval="1m")
            document["spec"]["serverRef"] = {"name": f"dead-{server}"}
            here.api.create(document)
            names.append(name)
    return names


def _wait_told(here: World, names: list[str]) -> None:
    """Wait until each says why it is not Ready."""
    deadline, missing = time.monotonic() + 120, set(names)
    while missing:
        missing -= {sight.name for sight in list(here.watch.history) if sight.reason and not sight.ready}
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(missing)} of {len(names)} at dead servers say nothing after 120 s")
        time.sleep(0.2)  # between two looks at what the watch has shown
