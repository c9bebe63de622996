"""The unit of the comparison, one at a time, two hundred at once, idle, after a restart, and fifty in one database."""

from __future__ import annotations

import time
from typing import Any

from bench import manifests, outage
from bench.counters import Meter
from bench.rest import LEAST_SECONDS, interval_seconds, left_alone, of_each, pass_over_all
from bench.results import load, medians, spread
from bench.world import World, world

Figures = dict[str, Any]
_ROUNDS = 3
#: Databases that psql creates for comparison; their time is multiplied.
_BARE = 20
_INTERVAL = "5m"


def single(scale: float = 1.0) -> Figures:
    """One unit after the other, three rounds of 20: from the request to Ready, beside a bare CREATE DATABASE."""
    rounds: list[Figures] = []
    number = max(5, int(20 * scale))
    use: Figures = {}
    with world() as here:
        for turn in range(_ROUNDS):
            bare, ours = [], []
            for index in range(-1, number):
                name = f"one-{turn}-{index + 1}"
                seconds = here.create_databases([f"bare_{turn}_{index + 1}"])
                sent = here.api.create(manifests.unit(name))
                ready = here.watch.wait_ready([name], 30)[name]
                if index >= 0:
                    bare.append(seconds)
                    ours.append(ready - sent)
            rounds.append({"bare": spread(bare), "ours": spread(ours), "load": load()})
        meter = Meter(here)
        here.api.create(manifests.unit("one-last"))
        here.watch.wait_ready(["one-last"], 30)
        here.operator.settle(20)  # events follow
        use = meter.read().document()
    p50 = medians({"ours": one["ours"]["p50"], "bare": one["bare"]["p50"]} for one in rounds)
    return {
        "rows": {
            "one unit, p50 s": p50["ours"],
            "one unit, max s": medians({"max": one["ours"]["max"]} for one in rounds)["max"],
            "one unit, p50 s beyond CREATE DATABASE": round(p50["ours"] - p50["bare"], 3),
        },
        "ratio_to_create_database": round(p50["ours"] / p50["bare"], 2),
        "use_of_one": use,
        "rounds": rounds,
    }


def fleet(scale: float = 1.0) -> Figures:
    """200 units at once, three rounds."""
    number = max(10, int(200 * scale))
    rounds: list[dict[str, float]] = []
    loads = []
    for _ in range(_ROUNDS):
        with world() as here:
            rounds.append(_at_once(here, number))
            loads.append(load())
    middle = medians(rounds)
    return {
        "rows": {
            "200 units at once, all ready, s": middle["seconds"],
            "200 units: CPU s of the operator": middle["cpu_seconds"],
            "200 units: peak MiB of the operator": middle["peak_mib"],
            "200 units: logins": middle["logins"],
            "200 units: statements": middle["statements"],
            "200 units: peak connections": middle["peak_connections"],
            "200 units: API writes": middle["api_writes"],
        },
        "units": number,
        "ratio_to_create_database": round(middle["seconds"] / middle["bare_create_database_seconds"], 2),
        "rounds": rounds,
        "loads": loads,
    }


def settled(scale: float = 1.0) -> Figures:
    """200 units that are Ready: idle for an interval, after a restart, and with Postgres away."""
    number, seconds = max(10, int(200 * scale)), interval_seconds(scale)
    names = [f"unit-{index}" for index in range(number)]
    with world() as here:
        server = left_alone(here, LEAST_SECONDS)
        documents = [manifests.unit(name, interval=f"{seconds:.0f}s") for name in names]
        here.watch.wait_ready(here.api.create_all(documents), 600)
        idle = left_alone(here, seconds)
        idle |= {"interval_seconds": seconds} | of_each(idle, server, number, seconds)
        restart = _restart(here, names)
        away = outage.away(here, names)
    return {
        "rows": {
            "200 units idle: statements a minute": idle["statements_a_minute"],
            "200 units idle: logins a minute": idle["logins_a_minute"],
            "200 units idle: API writes a minute": idle["api_writes_a_minute"],
            "200 units idle: statements per unit and interval": idle["statements_per_unit_and_interval"],
            "200 units idle: logins per unit and interval": idle["logins_per_unit_and_interval"],
            "restart with 200 units, settled s": restart["seconds"],
            "restart with 200 units: API writes": restart["api_writes"],
            "Postgres away 30 s, all right after s": away["seconds"],
        },
        "units": number,
        "server_alone": server,
        "idle": idle,
        "restart": restart,
        "away": away,
    }


def _at_once(here: World, number: int) -> dict[str, float]:
    bare = here.create_databases([f"bare_{index}" for index in range(_BARE)]) * number / _BARE
    with here.sql() as connection:
        connection.execute("CHECKPOINT")
    here.operator.settle(30)
    meter = Meter(here)
    documents = [manifests.unit(f"unit-{index}", interval=_INTERVAL) for index in range(number)]
    started = time.monotonic()
    sent = here.api.create_all(documents)
    created = time.monotonic() - started
    ready = here.watch.wait_ready(sent, 600)
    seconds = max(ready.values()) - started
    here.operator.settle(20)
    use = meter.read()
    return {
        "seconds": round(seconds, 3),
        "creator_seconds": round(created, 3),
        "bare_create_database_seconds": round(bare, 3),
        **use.document(),
    }


def _restart(here: World, names: list[str]) -> Figures:
    """Stop and start the operator: until it has looked at every unit again and rests."""
    found = pass_over_all(here, len(names), 120)
    here.watch.wait_ready(names, 1)
    return found


def one_database(scale: float = 1.0) -> Figures:
    """Fifty DatabaseSchemas in one database at once."""
    number = max(5, int(50 * scale))
    rounds = []
    for _ in range(_ROUNDS):
        with world() as here:
            meter = Meter(here)
            documents = [manifests.share(f"team-{index}", "together") for index in range(number)]
            started = time.monotonic()
            ready = here.watch.wait_ready(here.api.create_all(documents), 300)
            seconds = max(ready.values()) - started
            here.operator.settle(10)
            rounds.append({"seconds": round(seconds, 3), **meter.read().document()})
    middle = medians(rounds)
    return {"rows": {"50 units in one database, all ready, s": middle["seconds"]}, "median": middle, "rounds": rounds}
