"""The same thousand resources kept by one operator without shards and by three shards: memory, requests, a pass.

Twelve DatabaseServers, four for each of three shards, are one Postgres; the DatabaseSchemas are spread over them and
share databases, twenty in each. Memory is that of each process, requests are those of all of them together as the API
server counted them, those for Leases apart.
"""

from __future__ import annotations

import itertools
import time
from typing import Any

from bench import manifests
from bench.counters import Meter
from bench.operator import Operator
from bench.rest import LEAST_SECONDS
from bench.results import load, machine, write
from bench.world import NAMESPACE, World, world
from sandbox.progress import step
from selvedge.core.shards import shard_of

Figures = dict[str, Any]
_SHARDS, _SERVERS = 3, 12
_IN_ONE_DATABASE = 20
_ALONE_SECONDS = 120.0
#: What creating takes is no figure here.
_SETTINGS = {"fsync": "off"}
_PASSES = "selvedge_reconcile_duration_seconds_count"


def measure(scale: float = 1.0) -> None:
    """With one operator, then with three; writes shards.json."""
    facts, number = machine(), max(60, int(1000 * scale))
    databases = max(_SERVERS, number // _IN_ONE_DATABASE)
    with world(settings=_SETTINGS) as here:
        names = _declare(here, number, databases)
        with step(f"{number} DatabaseSchemas on {_SERVERS} servers to Ready"):
            here.watch.wait_ready(names, 1800)
        figures: Figures = {"resources": number, "servers": _SERVERS, "databases": databases}
        here.operator.stop()
        for count in (1, _SHARDS):
            figures[f"shards_{count}"] = _kept(here, count, databases, scale)
    write("shards", facts, figures | {"load": load()}, scale)


def _declare(here: World, number: int, databases: int) -> list[str]:
    """The servers and what is on them; returns the names of the DatabaseSchemas."""
    servers = [_name(index % _SHARDS, index) for index in range(_SERVERS)]
    main = here.api.get("databaseservers", "main")
    for server in servers:
        document = {"apiVersion": main["apiVersion"], "kind": main["kind"], "metadata": {"name": server}}
        here.api.text("POST", here.api.path("databaseservers"), {**document, "spec": main["spec"]})
    here.servers.wait_ready(servers, 60)
    documents = []
    for index in range(number):
        place = index % databases
        document = manifests.small(f"small-{index}", f"shared_{place}", interval="1h")
        document["spec"]["serverRef"] = {"name": servers[place % _SERVERS]}
        documents.append(document)
    return list(here.api.create_all(documents))


def _name(shard: int, number: int) -> str:
    """A name of a DatabaseServer that belongs to this one of three shards."""
    names = (f"server-{number}-{turn}" for turn in itertools.count())
    return next(name for name in names if shard_of(NAMESPACE, name, _SHARDS) == shard)


def _kept(here: World, count: int, databases: int, scale: float) -> Figures:
    crew = [
        Operator(here.operator.kubeconfig, here.operator.directory, shard=f"{index}/{count}") for index in range(count)
    ]
    try:
        with step(f"a pass over all with {count} shards"):
            started = time.monotonic()
            for operator in crew:
                operator.start(wait=False)
            # every database, and every server with the one that the world brings
            while sum(_sample(operator) for operator in crew) < databases + _SERVERS + 1:
                if time.monotonic() - started > 600:
                    raise TimeoutError(f"{count} shards have not looked at everything after 600 s")
                time.sleep(0.1)
            seconds = time.monotonic() - started
            for operator in crew:
                operator.settle(60)
        with step("left alone"):
            here.operator = crew[0]
            meter, before = Meter(here), [operator.cpu_seconds() for operator in crew]
            alone = max(LEAST_SECONDS, _ALONE_SECONDS * scale)
            time.sleep(alone)  # that nothing is asked for is what is measured
            use, minutes = meter.read(), alone / 60
        cpu = sum(operator.cpu_seconds() - earlier for operator, earlier in zip(crew, before, strict=True))
        return {
            "from_start_to_a_pass_over_all_seconds": round(seconds, 2),
            "rss_mib": [round(operator.rss_mib(), 1) for operator in crew],
            "peak_mib": [round(operator.peak_mib(), 1) for operator in crew],
            "passes": [_sample(operator) for operator in crew],
            "api_reads_a_minute": round(use.api_reads / minutes, 1),
            "api_writes_a_minute": round(use.api_writes / minutes, 1),
            "lease_requests_a_minute": round(use.api_leases / minutes, 1),
            "cpu_percent_of_a_core": round(100 * cpu / alone, 2),
        }
    finally:
        for operator in crew:
            operator.stop()


def _sample(operator: Operator) -> float:
    try:
        return operator.sample(_PASSES)
    except OSError:
        return 0.0  # it does not listen yet
