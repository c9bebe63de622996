"""A thousand DatabaseSchemas to Ready, on databases that exist and on databases that are to be created.

Four connections create the resources through the API (no kubectl in the way): `creator_seconds` says how long that
took alone. The bare tool is one psql that makes the same number of databases, roles, schemas and grants one by one.
"""

from __future__ import annotations

import time
from typing import Any

from psycopg import sql

from bench import manifests
from bench.counters import Meter
from bench.results import load, machine, medians, write
from bench.world import World, require_disk, world
from sandbox.progress import step

Figures = dict[str, Any]
_BUDGET_A_SECOND = 40.0
_ROUNDS = 3
_BARE = 20


def measure(scale: float = 1.0) -> None:
    """Three rounds on databases that exist and one that creates them; writes thousand.json."""
    facts, number = machine(), max(20, int(1000 * scale))
    rounds: list[dict[str, float]] = []
    require_disk(number)
    for turn in range(_ROUNDS):
        with step(f"round {turn + 1} of {_ROUNDS}, {number} databases that exist"), world() as here:
            rounds.append(_existing(here, number))
        middle = medians(rounds)
        figures: Figures = {
            "units": number,
            "budget_a_second": _BUDGET_A_SECOND,
            "existing": middle,
            "within_budget": middle["units_a_second"] >= _BUDGET_A_SECOND,
            "rounds": rounds,
        }
        write("thousand", facts, figures, scale)
    with step(f"{number} databases that are created"), world() as here:
        figures["created"] = _run(here, number, adoption="RequireApproval") | {"load_1": load()[0]}
    write("thousand", facts, figures, scale)


def _existing(here: World, number: int) -> dict[str, float]:
    # Without fsync while they are made, with it while it counts.
    _fsync(here, on=False)
    here.create_databases([f"unit_{index}" for index in range(number)])
    bare = _bare(here)
    _fsync(here, on=True)
    found = _run(here, number, adoption="Allow")
    return {**found, "bare_psql_seconds_a_unit": round(bare, 4), "load_1": load()[0]}


def _run(here: World, number: int, *, adoption: str) -> dict[str, float]:
    here.operator.settle(30)
    documents = [manifests.unit(f"unit-{index}", adoption=adoption) for index in range(number)]
    meter = Meter(here)
    started = time.monotonic()
    sent = here.api.create_all(documents)
    creator = time.monotonic() - started
    ready = here.watch.wait_ready(sent, 900)
    seconds = max(ready.values()) - started
    latencies = sorted(ready[name] - at for name, at in sent.items())
    here.operator.settle(30)
    use = meter.read().document()
    return {
        "seconds": round(seconds, 2),
        "units_a_second": round(number / seconds, 1),
        "creator_seconds": round(creator, 2),
        "latency_p50_seconds": round(latencies[number // 2], 2),
        "operator_cpu_ms_a_unit": round(1000 * use["cpu_seconds"] / number, 1),
        "statements_a_unit": round(use["statements"] / number, 2),
        "logins_a_unit": round(use["logins"] / number, 2),
        "api_writes_a_unit": round(use["api_writes"] / number, 2),
        **use,
    }


def _bare(here: World) -> float:
    """Seconds that psql needs for one unit on a database that exists, a login for each database included."""
    names = [f"bare_{index}" for index in range(_BARE)]
    here.create_databases(names)
    started = time.monotonic()
    script = "".join(
        f"CREATE ROLE {name}_owner; CREATE ROLE {name}_reader; CREATE ROLE {name}_writer;"
        f"GRANT {name}_reader TO {name}_writer; ALTER DATABASE {name} OWNER TO {name}_owner;\n"
        f"\\connect {name}\n"
        "BEGIN; CREATE EXTENSION pg_trgm;"
        f"CREATE SCHEMA app AUTHORIZATION {name}_owner; GRANT CONNECT ON DATABASE {name} TO {name}_reader;"
        f"GRANT USAGE ON SCHEMA app TO {name}_reader; GRANT CREATE ON SCHEMA app TO {name}_writer; COMMIT;\n"
        for name in names
    )
    here.postgres.psql(script)
    return (time.monotonic() - started) / _BARE


def _fsync(here: World, *, on: bool) -> None:
    with here.sql() as connection:
        connection.execute(sql.SQL("ALTER SYSTEM SET fsync TO {}").format(sql.Literal(on)))
        connection.execute("SELECT pg_reload_conf()")
        if on:
            connection.execute("CHECKPOINT")
