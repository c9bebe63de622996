"""An operator that keeps a database of 5,000 tables, 500 roles and 2,000 policies: its memory, and what a pass costs.

The same database and declarations as in `inspect` (13 DatabaseSchemas on one database), with the operator as a process
of its own. Memory is looked at before, when all is Ready for the first time, and after each of many passes: what grows
with passes would be seen.
"""

from __future__ import annotations

import time
from typing import Any

from bench import large
from bench.counters import Meter
from bench.results import load, machine, write
from bench.world import World, world
from sandbox.progress import step

Figures = dict[str, Any]
_PASSES = 30
_METRIC = "selvedge_reconcile_duration_seconds"


def measure(scale: float = 1.0) -> None:
    """Without and with policies in the declaration, one after the other; writes memory.json."""
    facts, size = machine(), large.Size.of(scale)
    figures: Figures = {"tables": size.tables, "roles": size.roles, "policies": size.policies}
    with world(settings=large.SETTINGS) as here:
        here.operator.settle(30)
        figures["rss_mib_before"] = round(here.operator.rss_mib(), 1)
        with step("making the database"):
            large.fill(here.postgres, size)
        without = large.documents(size, policies=False)
        figures["without_policies"] = _kept(here, without, without)
        everything = large.documents(size, policies=True)
        figures["policies_declared"] = _kept(here, everything, everything[len(without) :])
    write("memory", facts, figures | {"load": load()}, scale)


def _kept(here: World, documents: list[dict[str, Any]], new: list[dict[str, Any]]) -> Figures:
    names = [document["metadata"]["name"] for document in documents]
    with step(f"{len(new)} DatabaseSchemas to Ready"):
        started = time.monotonic()
        here.watch.wait_ready(here.api.create_all(new), 600)
        seconds = max(here.watch.wait_ready(names, 600).values()) - started
        here.operator.settle(60)
    first = round(here.operator.rss_mib(), 1)
    rss = []
    meter, before = Meter(here), here.operator.sample(f"{_METRIC}_sum")
    with step(f"{_PASSES} passes over what matches"):
        for turn in range(_PASSES):
            _pass(here, names[0], turn)
            rss.append(round(here.operator.rss_mib(), 1))
    use = meter.read().document()
    return {
        "database_schemas": len(names),
        "to_ready_seconds": round(seconds, 2),
        "rss_mib_when_ready": first,
        "rss_mib_after_passes": rss[-1],
        "rss_mib_after_half_of_the_passes": rss[len(rss) // 2],
        "peak_mib": round(here.operator.peak_mib(), 1),
        "seconds_a_pass": round((here.operator.sample(f"{_METRIC}_sum") - before) / _PASSES, 4),
        "operator_cpu_ms_a_pass": round(1000 * use["cpu_seconds"] / _PASSES, 1),
        "statements_a_pass": round(use["statements"] / _PASSES, 2),
        "wal_mib": use["wal_mib"],
        "api_writes": use["api_writes"],
    }


def _pass(here: World, name: str, turn: int) -> None:
    """Ask for a pass, and wait until it ended."""
    before = here.operator.sample(f"{_METRIC}_count")
    here.api.patch(name, {"metadata": {"annotations": {"selvedge.dev/reconcile-now": f"{time.time()}-{turn}"}}})
    here.operator.wait_sample(f"{_METRIC}_count", before + 1, 60)
