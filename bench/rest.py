"""The operator left alone: what it costs a minute, and how much of that is the probes of the server itself."""

from __future__ import annotations

import time
from typing import Any

from bench.counters import Meter
from bench.world import World

Figures = dict[str, Any]
#: Shorter would be less than two probes of the server.
LEAST_SECONDS = 60.0
_INTERVAL_SECONDS = 300.0
_RATES = ("statements", "logins", "api_writes", "api_reads", "lease_requests", "cpu_ms")


def interval_seconds(scale: float) -> float:
    """The interval of what is left alone for one interval: the default of 5 minutes, less in a first look."""
    return max(LEAST_SECONDS, _INTERVAL_SECONDS * scale)


def left_alone(here: World, seconds: float) -> Figures:
    """Rates a minute over ``seconds`` in which nobody asks for anything, and the memory at their end."""
    here.operator.settle(60)
    meter = Meter(here)
    started = time.monotonic()
    time.sleep(seconds)  # waits for nothing: that nothing happens for so long is what is measured
    minutes = (time.monotonic() - started) / 60
    use = meter.read()
    amounts = (
        use.statements,
        use.logins,
        use.api_writes,
        use.api_reads,
        use.api_leases,
        1000 * use.cpu_seconds,
    )
    return {
        "minutes": round(minutes, 2),
        **{f"{name}_a_minute": round(amount / minutes, 2) for name, amount in zip(_RATES, amounts, strict=True)},
        "cpu_percent_of_a_core": round(use.cpu_seconds / minutes / 0.6, 3),
        "rss_mib": round(here.operator.rss_mib(), 1),
        "wal_mib": round(use.wal_mib, 3),
    }


def of_each(whole: Figures, server: Figures, number: int, interval_seconds: float) -> Figures:
    """What one of ``number`` units costs in an interval: ``whole`` without what the ``server`` costs with no unit."""
    share = interval_seconds / 60 / number
    return {
        f"{name}_per_unit_and_interval": round((whole[f"{name}_a_minute"] - server[f"{name}_a_minute"]) * share, 3)
        for name in ("statements", "logins", "cpu_ms")
    }


def pass_over_all(here: World, looks: int, timeout: float = 300.0) -> Figures:
    """Restart the operator: everything is listed, and all is looked at once, in ``looks`` passes. The seconds of it."""
    here.operator.stop()
    meter = Meter(here)
    started = time.monotonic()
    here.operator.start()
    leads = time.monotonic() - started
    # One more: the DatabaseServer.
    here.operator.wait_sample("selvedge_reconcile_duration_seconds_count", looks + 1, timeout)
    seconds = time.monotonic() - started
    here.operator.settle(20)
    use = meter.read()
    return {
        "seconds": round(seconds, 3),
        "until_it_leads_seconds": round(leads, 3),
        "api_writes": use.api_writes,
        "statements": use.statements,
        "logins": use.logins,
        "operator_cpu_seconds": round(use.cpu_seconds, 2),
        "peak_mib": round(use.peak_mib, 1),
    }
