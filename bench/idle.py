"""A thousand DatabaseSchemas that match, left alone, and five thousand watched: memory, CPU, requests, statements.

What the DatabaseServer's own probes cost is measured first, with no DatabaseSchema at all, and taken off: the rest is
what the units cost. The bare tool is one psql that logs in to every database once and runs `SELECT 1`.

The thousand have a database each. The five thousand share fifty databases, a hundred in each, and declare one schema,
one role and one grant: none is suspended, each is looked at. They have an interval of an hour, so that the time between
two sweeps can be measured apart from a sweep.
"""

from __future__ import annotations

import time
from typing import Any

from bench import manifests
from bench.rest import LEAST_SECONDS, interval_seconds, left_alone, of_each, pass_over_all
from bench.results import load, machine, write
from bench.world import World, require_disk, world
from sandbox.progress import step

Figures = dict[str, Any]
_SERVER_SECONDS = 120.0
_BETWEEN_SECONDS = 120.0
_BARE = 50
_IN_ONE_DATABASE = 100
#: What creating takes is no figure here: it costs the same with and without fsync where it counts.
_SETTINGS = {"fsync": "off"}


def measure(scale: float = 1.0, part: str = "") -> None:
    """``units``, ``watched``, or both; one interval of 5 minutes at full scale; writes idle.json and watched.json."""
    if part not in ("", "units", "watched"):
        raise ValueError(f"idle has no part {part}: write idle.units or idle.watched")
    if part != "watched":
        facts = machine()
        write("idle", facts, _units(scale) | {"load": load()}, scale)
    if part != "units":
        facts = machine()
        write("watched", facts, _watched(scale) | {"load": load()}, scale)


def _units(scale: float) -> Figures:
    number = max(20, int(1000 * scale))
    require_disk(number)
    names = [f"unit-{index}" for index in range(number)]
    seconds = interval_seconds(scale)
    with world(settings=_SETTINGS) as here:
        with step("the server's own probes, without any DatabaseSchema"):
            server = left_alone(here, max(LEAST_SECONDS, _SERVER_SECONDS * scale))
        with step(f"{number} databases"):
            here.create_databases([name.replace("-", "_") for name in names])
        with step(f"{number} DatabaseSchemas to Ready"):
            documents = [manifests.unit(name, adoption="Allow", interval=f"{seconds:.0f}s") for name in names]
            here.watch.wait_ready(here.api.create_all(documents), 900)
            here.operator.settle(60)
        figures: Figures = {"units": number, "peak_mib_after_creation": round(here.operator.peak_mib(), 1)}
        with step("a pass over all, by a restart"):
            bare = _bare(here, [name.replace("-", "_") for name in names[:_BARE]])
            figures["pass_over_all"] = _of_all(pass_over_all(here, number), number, bare)
        with step("left alone"):
            idle = left_alone(here, seconds)
        idle |= of_each(idle, server, number, seconds)
        return figures | {"interval_seconds": seconds, "server_alone": server, "idle": idle}


def _watched(scale: float) -> Figures:
    number = max(100, int(5000 * scale))
    databases = max(1, number // _IN_ONE_DATABASE)
    documents = [
        manifests.small(f"small-{index}", f"shared_{index % databases}", interval="1h") for index in range(number)
    ]
    with world(settings=_SETTINGS) as here:
        with step("the server's own probes, without any DatabaseSchema"):
            server = left_alone(here, LEAST_SECONDS)
        with step(f"{number} DatabaseSchemas in {databases} databases to Ready"):
            started = time.monotonic()
            here.watch.wait_ready(here.api.create_all(documents), 1800)
            created = time.monotonic() - started
            here.operator.settle(60)
        peak = round(here.operator.peak_mib(), 1)
        after_creation = round(here.operator.rss_mib(), 1)
        with step("a pass over all, by a restart"):
            sweep = _of_all(pass_over_all(here, databases), number, None)
        with step("between two sweeps"):
            between = left_alone(here, max(LEAST_SECONDS, _BETWEEN_SECONDS * scale))
    return {
        "resources": number,
        "databases": databases,
        "interval": "1h",
        "to_ready_seconds": round(created, 1),
        "rss_mib_after_creation": after_creation,
        "peak_mib_after_creation": peak,
        "pass_over_all": sweep,
        "between_sweeps": between,
        "server_alone": server,
        "budget_rss_mib": 200,
        "budget_cpu_percent_of_a_core": 1,
    }


def _of_all(found: Figures, number: int, bare: float | None) -> Figures:
    """The same for each of ``number`` resources, beside psql's seconds for one database where it was run."""
    alone = found["seconds"] - found["until_it_leads_seconds"]
    figures = found | {
        "resources_a_second": round(number / alone, 1),
        "ms_a_resource": round(1000 * alone / number, 2),
        "statements_a_resource": round(found["statements"] / number, 2),
        "operator_cpu_ms_a_resource": round(1000 * found["operator_cpu_seconds"] / number, 2),
    }
    if bare is not None:
        figures["psql_login_and_select_1_ms_a_database"] = round(1000 * bare, 2)
        figures["ratio_to_psql"] = round(alone / number / bare, 2)
    return figures


def _bare(here: World, databases: list[str]) -> float:
    """The seconds that psql takes for one database."""
    started = time.monotonic()
    here.postgres.psql("".join(f"\\connect {name}\nSELECT 1;\n" for name in databases))
    return (time.monotonic() - started) / len(databases)
