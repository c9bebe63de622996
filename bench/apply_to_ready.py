"""`kubectl apply` to Ready for one DatabaseSchema of 5 schemas, 6 roles and 40 grants, beside psql.

psql runs exactly the statements of `selvedge plan` for the same declaration, in as many connections as they need: one
where the database exists, two where it is created. kubectl's own time is measured by a dry run of the same file, which
the API server answers without storing anything.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from psycopg import sql

from bench import manifests
from bench.counters import Meter
from bench.results import machine, spread, write
from bench.world import NAMESPACE, World, world
from sandbox.postgres import PostgresServer
from selvedge.cli.offline import plan, request

_BUDGET_SECONDS = 0.3
_TABLES = 10


def measure(scale: float = 1.0) -> None:
    """Both variants, n = 20 of each at full scale; writes apply_to_ready.json."""
    facts, number = machine(), max(10, int(20 * scale))
    with world() as here:
        figures = {
            "created": _variant(here, number, tables=False),
            "existing_with_tables": _variant(here, number, tables=True),
        }
    write("apply_to_ready", facts, {"budget_seconds_beyond_psql": _BUDGET_SECONDS, **figures}, scale)


def _variant(here: World, number: int, *, tables: bool) -> dict[str, Any]:
    kind = "t" if tables else "n"
    statements = 0
    bare, dry, whole, from_request = [], [], [], []
    # Once each before it counts: the server's caches, kubectl's discovery.
    for index in range(-1, number):
        declared = manifests.rich(
            f"psql-{kind}{index + 1}", adoption="Allow" if tables else "RequireApproval", tables=tables
        )
        seconds, statements = _by_psql(here, declared, tables=tables)
        name = f"ours-{kind}{index + 1}"
        if tables:
            existing(here.postgres, name.replace("-", "_"))
        document = manifests.rich(name, adoption="Allow" if tables else "RequireApproval", tables=tables)
        alone, applied, request_to_ready = _by_kubectl(here, document)
        if index >= 0:
            bare.append(seconds)
            dry.append(alone)
            whole.append(applied)
            from_request.append(request_to_ready)
    meter = Meter(here)
    name = f"ours-{kind}-last"
    if tables:
        existing(here.postgres, name.replace("-", "_"))
    document = manifests.rich(name, adoption="Allow" if tables else "RequireApproval", tables=tables)
    here.api.create(document)
    here.watch.wait_ready([name], 30)
    here.operator.settle(20)  # events follow
    ours, kubectl = spread(whole), spread(dry)
    psql = spread(bare)
    beyond = ours["p50"] - psql["p50"]
    return {
        "statements": statements,
        "psql_seconds": psql,
        "kubectl_apply_to_ready_seconds": ours,
        "kubectl_dry_run_seconds": kubectl,
        "post_to_ready_seconds": spread(from_request),
        "beyond_psql_p50_seconds": round(beyond, 4),
        "ratio_to_psql": round(ours["p50"] / psql["p50"], 2),
        "within_budget": beyond <= _BUDGET_SECONDS,
        "use_of_one": meter.read().document(),
    }


def _by_kubectl(here: World, document: dict[str, Any]) -> tuple[float, float, float]:
    name = document["metadata"]["name"]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(document, file)
        file.flush()
        here.sandbox.kubectl("apply", "-n", NAMESPACE, "--dry-run=server", "-f", file.name)
        started = time.monotonic()
        here.sandbox.kubectl("apply", "-n", NAMESPACE, "--dry-run=server", "-f", file.name)
        alone = time.monotonic() - started
        started = time.monotonic()
        here.sandbox.kubectl("apply", "-n", NAMESPACE, "-f", file.name)
    ready = here.watch.wait_ready([name], 30)[name]
    arrived = next(sight.at for sight in here.watch.history if sight.name == name)
    return alone, ready - started, ready - arrived


def _by_psql(here: World, declared: dict[str, Any], *, tables: bool) -> tuple[float, int]:
    """The seconds that psql takes for the statements of the plan, and how many they are."""
    database = declared["spec"]["database"]
    if tables:
        existing(here.postgres, database)
    statements = planned(here, declared)
    started = time.monotonic()
    if tables:
        here.postgres.psql("BEGIN;\n" + ";\n".join(statements) + ";\nCOMMIT;", database)
    else:
        # What comes after CREATE DATABASE is for the database itself.
        inside = 1 + next(i for i, text in enumerate(statements) if text.startswith("CREATE DATABASE"))
        here.postgres.psql(";\n".join(statements[:inside]))
        here.postgres.psql("BEGIN;\n" + ";\n".join(statements[inside:]) + ";\nCOMMIT;", database)
    return time.monotonic() - started, len(statements)


def planned(here: World, declared: dict[str, Any]) -> list[str]:
    """The statements that Selvedge would run on the database as it is."""
    adopted = {**declared, "spec": {**declared["spec"], "adoption": "Allow"}}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "declared.json"
        path.write_text(json.dumps(adopted), encoding="utf-8")
        url = f"postgresql://{here.postgres.username}@{here.postgres.host}:{here.postgres.port}/postgres"
        url += f"?sslmode=verify-full&sslrootcert={here.postgres.ca_path}"
        wanted = request(paths=[str(path)], url=url, password=here.postgres.password, environ={}, note=lambda _: None)
        report = plan(wanted)
    if report.errors:
        raise RuntimeError(report.errors[0])
    return list(dict.fromkeys(change.statement for change in report.schemas[0].result.pending))


def existing(server: PostgresServer, database: str) -> None:
    """Make a database with the schemas of the declaration and ten tables in each."""
    with server.connect() as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
    with server.connect(database) as connection, connection.transaction():
        for schema in manifests.SCHEMAS:
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
            for index in range(_TABLES):
                table = sql.Identifier(schema, f"t{index}")
                connection.execute(sql.SQL("CREATE TABLE {} (id int PRIMARY KEY, note text)").format(table))
