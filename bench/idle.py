"""A thousand DatabaseSchemas that match, left alone: memory, CPU, requests, statements; and one pass over all of them.

The bare tool is one psql that looks into every database once with a login of its own and runs `SELECT 1`.
"""

from __future__ import annotations

import time
from typing import Any

from bench import manifests
from bench.counters import Meter
from bench.results import load, machine, write
from bench.world import World, world
from sandbox.errors import SandboxError

Figures = dict[str, Any]
_INTERVAL_SECONDS = 300.0
_WAIT_SECONDS = 300.0
_BARE = 50


def measure(scale: float = 1.0) -> None:
    """One interval of 5 minutes at full scale, then a restart; writes idle.json."""
    facts, number = machine(), max(20, int(1000 * scale))
    # What is idle costs the same with and without fsync; making the databases does not.
    with world(settings={"fsync": "off"}) as here:
        names = [f"unit-{index}" for index in range(number)]
        here.create_databases([name.replace("-", "_") for name in names])
        here.watch.wait_ready(here.api.create_all([manifests.unit(n, adoption="Allow") for n in names]), 900)
        here.operator.settle(60)
        figures: Figures = {"units": number, "peak_mib_after_creation": round(here.operator.peak_mib(), 1)}
        figures["pass_over_all"] = _pass(here, names)
        figures["idle"] = _idle(here, number, max(30.0, _WAIT_SECONDS * min(1.0, scale)))
    write("idle", facts, figures | {"load": load()})


def _idle(here: World, number: int, seconds: float) -> Figures:
    meter = Meter(here)
    started = time.monotonic()
    time.sleep(seconds)
    minutes = (time.monotonic() - started) / 60
    use = meter.read()
    intervals = minutes * 60 / _INTERVAL_SECONDS
    return {
        "minutes": round(minutes, 2),
        "interval": "5m",
        "rss_mib": round(here.operator.rss_mib(), 1),
        "cpu_percent_of_a_core": round(use.cpu_seconds / minutes / 0.6, 2),
        "cpu_ms_per_look": round(1000 * use.cpu_seconds / (number * intervals), 2),
        "statements_a_minute": round(use.statements / minutes, 1),
        "logins_a_minute": round(use.logins / minutes, 1),
        "statements_per_unit_and_interval": round(use.statements / number / intervals, 2),
        "api_writes_a_minute": round(use.api_writes / minutes, 2),
        "api_reads_a_minute": round(use.api_reads / minutes, 2),
        "lease_requests_a_minute": round(use.api_leases / minutes, 2),
        "wal_mib": round(use.wal_mib, 3),
        "use": use.document(),
    }


def _pass(here: World, names: list[str]) -> Figures:
    """Restart: everything is listed, and every database looked at once."""
    bare = _bare(here, names[:_BARE])
    here.operator.stop()
    meter = Meter(here)
    started = time.monotonic()
    here.operator.start()
    leads = time.monotonic() - started
    while here.operator.sample("selvedge_reconcile_duration_seconds_count") < len(names) + 1:
        time.sleep(0.2)
        if time.monotonic() - started > 300:
            raise SandboxError("the operator has not looked at every unit 300 s after its restart")
    seconds = time.monotonic() - started
    here.operator.settle(20)
    use = meter.read()
    return {
        "seconds": round(seconds, 2),
        "until_it_leads_seconds": round(leads, 2),
        "units_a_second": round(len(names) / (seconds - leads), 1),
        "ms_a_unit": round(1000 * (seconds - leads) / len(names), 2),
        "psql_login_and_select_1_ms_a_database": round(1000 * bare, 2),
        "ratio_to_psql": round((seconds - leads) / len(names) / bare, 2),
        "statements_a_unit": round(use.statements / len(names), 2),
        "operator_cpu_ms_a_unit": round(1000 * use.cpu_seconds / len(names), 2),
        "use": use.document(),
    }


def _bare(here: World, names: list[str]) -> float:
    started = time.monotonic()
    here.postgres.psql("".join(f"\\connect {name.replace('-', '_')}\nSELECT 1;\n" for name in names))
    return (time.monotonic() - started) / len(names)
