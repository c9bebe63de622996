"""No DatabaseSchemas, a thousand, and five thousand, kept by one operator without shards and by three shards.

Three Postgres servers, one for each of three shards; the DatabaseSchemas are spread over them and over sixty databases.
Memory is that of each process, requests are those of all of them together as the API server
counted them, those for Leases apart. At the end fifty more point at dead servers.
"""

from __future__ import annotations

import itertools
import time
from contextlib import ExitStack
from typing import Any

from bench import manifests
from bench.counters import Meter
from bench.dead import beside_dead_servers
from bench.operator import Operator
from bench.rest import LEAST_SECONDS
from bench.results import load, machine, write
from bench.world import NAMESPACE, SETTINGS, World, declare_server, world
from sandbox.postgres import PostgresServer
from sandbox.progress import step
from selvedge.core.shards import shard_of

Figures = dict[str, Any]
_SHARDS = _SERVERS = 3
_DATABASES = 60
_NUMBERS = (0, 1000, 5000)
_ALONE_SECONDS = 120.0
#: What creating takes is no figure here.
_SETTINGS = {"fsync": "off"}
_PASSES = "selvedge_reconcile_duration_seconds_count"


def measure(scale: float = 1.0) -> None:
    """For each number with one operator, then with three; writes shards.json."""
    facts = machine()
    databases = max(_SERVERS, int(_DATABASES * scale))
    alone = max(LEAST_SECONDS, _ALONE_SECONDS * scale)
    figures: Figures = {"servers": _SERVERS, "databases": databases, "sizes": []}
    with world(settings=_SETTINGS) as here, ExitStack() as stack:
        unsharded, there = here.operator, 0
        unsharded.stop()
        servers: list[str] = []
        for full in _NUMBERS:
            number = full and max(60, int(full * scale))
            if number:
                servers = servers or _servers(here, stack)
                _create(here, servers, there, number, databases)
                there = number
            looks = databases + _SERVERS if number else 1  # every database, and every server
            size: Figures = {"resources": number}
            for count in (1, _SHARDS):
                size[f"shards_{count}"] = _kept(here, count, looks, alone)
            figures["sizes"].append(size)
        unsharded.start()
        here.operator = unsharded
        unsharded.wait_sample(_PASSES, looks, 600)
        unsharded.settle(60)
        figures["dead_servers"] = beside_dead_servers(here, there, alone)
    write("shards", facts, figures | {"load": load()}, scale)


def _servers(here: World, stack: ExitStack) -> list[str]:
    """Beside ``main`` two servers more, so that each shard has one; the DatabaseServers' names."""
    names = ["main"]
    for shard in set(range(_SHARDS)) - {_shard("main")}:
        names.append(next(n for n in map("main-{}".format, itertools.count()) if _shard(n) == shard))
        server = stack.enter_context(PostgresServer.launch("15", settings={**SETTINGS, **_SETTINGS}))
        declare_server(here.api, server, names[-1])
    return names


def _shard(name: str) -> int:
    return shard_of(NAMESPACE, name, _SHARDS)


def _create(here: World, servers: list[str], first: int, number: int, databases: int) -> None:
    """From ``first`` to ``number`` DatabaseSchemas, Ready, by an operator without shards that ends then."""
    operator = Operator(here.operator.kubeconfig, here.operator.directory)
    operator.start()
    try:
        here.servers.wait_ready(servers, 60)
        documents = []
        for index in range(first, number):
            place = index % databases
            document = manifests.small(f"small-{index}", f"shared_{place}", interval="1h")
            document["spec"]["serverRef"] = {"name": servers[place % _SERVERS]}
            documents.append(document)
        with step(f"{number} DatabaseSchemas on {_SERVERS} servers to Ready"):
            here.watch.wait_ready(here.api.create_all(documents), 1800)
    finally:
        operator.stop()


def _kept(here: World, count: int, looks: int, alone: float) -> Figures:
    crew = [
        Operator(here.operator.kubeconfig, here.operator.directory, shard=f"{index}/{count}" if count > 1 else "")
        for index in range(count)
    ]
    try:
        with step(f"a pass over all with {count} shards"):
            started = time.monotonic()
            for operator in crew:
                operator.start(wait=False)
            while sum(_sample(operator) for operator in crew) < looks:
                if time.monotonic() - started > 600:
                    raise TimeoutError(f"{count} shards have not looked at everything after 600 s")
                time.sleep(0.1)
            seconds = time.monotonic() - started
            for operator in crew:
                operator.settle(60)
            pass_cpu = sum(operator.cpu_seconds() for operator in crew)
        with step("left alone"):
            here.operator = crew[0]
            meter = Meter(here)
            time.sleep(alone)  # that nothing is asked for is what is measured
            use, minutes = meter.read(), alone / 60
        cpu = sum(operator.cpu_seconds() for operator in crew) - pass_cpu
        return {
            "from_start_to_a_pass_over_all_seconds": round(seconds, 2),
            "start_and_pass_cpu_seconds": round(pass_cpu, 2),
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
