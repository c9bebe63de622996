"""Postgres away for 30 seconds, and the operator killed amid its work."""

from __future__ import annotations

import time
from typing import Any

from bench import manifests
from bench.counters import Meter
from bench.results import load, medians
from bench.world import World, world

Figures = dict[str, Any]
_AWAY_SECONDS = 30.0
_NEW = 5


def away(here: World, names: list[str]) -> Figures:
    """Stop Postgres for 30 s, apply five more units meanwhile; seconds from its return until everything is Ready.

    Everything: the DatabaseServer, the units that were there and the new ones.
    """
    meter = Meter(here)
    here.postgres.stop()
    stopped = time.monotonic()
    noticed = here.servers.wait_not_ready("main", _AWAY_SECONDS)
    noticed_after = time.monotonic() - stopped
    new = [f"during-{index}" for index in range(_NEW)]
    for name in new:
        here.api.create(manifests.unit(name))
    # The outage itself: nothing is waited for.
    time.sleep(max(0.0, _AWAY_SECONDS - (time.monotonic() - stopped)))
    here.postgres.start()
    back = time.monotonic()
    server = here.servers.wait_ready(["main"], 300)["main"]
    ready = here.watch.wait_ready([*names, *new], 300)
    use = meter.read()
    return {
        "seconds": round(max(*ready.values(), server) - back, 3),
        "server_ready_after_seconds": round(server - back, 3),
        "outage_seen_in_status": noticed,
        "outage_seen_after_seconds": round(noticed_after, 3),
        "peak_connections": use.peak_connections,
        "logins": use.logins,
        "api_writes": use.api_writes,
    }


def killed(scale: float = 1.0) -> Figures:
    """Kill -9 when a third of 50 units is Ready, start again at once: as the same holder of the Lease, and as another.

    A container that is restarted in its pod keeps the pod's name; with SELVEDGE_IDENTITY set to it, it takes its own
    Lease back. Another pod waits until the Lease has expired.
    """
    number = max(10, int(50 * scale))
    found: Figures = {}
    for who, identity in (("same_holder", "selvedge-0"), ("another_holder", "")):
        rounds = []
        for turn in range(3 if who == "same_holder" else 1):
            with world(identity=identity) as here:
                names = [f"cut-{index}" for index in range(number)]
                here.api.create_all([manifests.unit(name) for name in names])
                here.watch.wait_count(number // 3, 60)
                here.operator.kill()
                before = here.watch.count()
                started = time.monotonic()
                here.operator.start(wait=False)
                ready = here.watch.wait_ready(names, 180)
                seconds = max(*ready.values()) - started
                rounds.append({"seconds": round(seconds, 3), "ready_at_the_kill": before, "turn": turn})
        found[who] = {"median": medians(rounds), "rounds": rounds, "load": load()}
    return {
        "rows": {
            "kill -9 amid 50 creations, all right after s": found["same_holder"]["median"]["seconds"],
            "kill -9, another pod takes over, all right after s": found["another_holder"]["median"]["seconds"],
        },
        **found,
    }
