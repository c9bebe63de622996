"""Migrations: 250 files beside psql, dbmate and golang-migrate, how soon `status` answers, memory with 100 MB of data.

Every runner is measured as a process from its start to its end, on a database of its own on the same server, with TLS
and SCRAM. The server's fsync is off, so what is compared is the runners' work and not the disk's. dbmate and
golang-migrate get files without what they cannot run: CONCURRENTLY, the data of COPY, transactions in files.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.migration_tools import Use, database, go_runners, peer, psql, selvedge
from bench.results import load as load_average
from bench.results import machine, spread, write
from sandbox.postgres import PostgresServer
from sandbox.progress import step
from selvedge.migrate import Migration, load
from tests.migrations_generator import generate
from tests.migrations_generator import write as write_files

Figures = dict[str, Any]
_SEED = 1
_ROUNDS = 5
_STARTS = 15
_BUDGET_RATIO = 1.2
_BUDGET_STATUS_SECONDS = 0.4
_DATA_BYTES = 100_000_000


def measure(scale: float = 1.0, part: str = "") -> None:
    """All parts, or one of files, status and data; writes migrations.json."""
    facts, number = machine(), max(20, int(250 * scale))
    figures: Figures = {"budget_ratio_to_psql": _BUDGET_RATIO, "budget_status_seconds": _BUDGET_STATUS_SECONDS}
    with PostgresServer.launch("18") as server, tempfile.TemporaryDirectory(prefix="selvedge-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        if part in ("", "files"):
            figures["files"] = _files(server, directory, number)
        if part in ("", "status"):
            figures["status"] = _status(server, directory, number)
        if part in ("", "data"):
            figures["data"] = _data(server, directory, int(_DATA_BYTES * scale))
    write("migrations" if not part else f"migrations_{part}", facts, figures, scale)


def _files(server: PostgresServer, directory: Path, number: int) -> Figures:
    """Real files beside psql; and plain ones beside psql, dbmate and golang-migrate."""
    real, scripts = _directory(directory / "real", directory / "scripts", number)
    pairs, plain_scripts = _directory(directory / "pairs", directory / "plain_scripts", number, plain="pair")
    markers, _ = _directory(directory / "markers", directory / "unused", number, plain="markers")
    runs: dict[str, Callable[[], Use]] = {
        "real/selvedge": lambda: selvedge(server, "bench_0", real, "up", "--yes"),
        "real/psql": lambda: psql(server, "bench_1", scripts),
        "plain/selvedge": lambda: selvedge(server, "bench_2", pairs, "up", "--yes"),
        "plain/psql": lambda: psql(server, "bench_3", plain_scripts),
    }
    with step("dbmate and golang-migrate"):
        program = go_runners()
    if program is not None:
        runs["plain/dbmate"] = lambda: peer(program, "dbmate", server, "bench_4", markers)
        runs["plain/golang_migrate"] = lambda: peer(program, "golang-migrate", server, "bench_5", pairs)
    uses: dict[str, list[Use]] = {name: [] for name in runs}
    loads = []
    for turn in range(_ROUNDS + 1):
        for index, (name, call) in enumerate(runs.items()):
            database(server, f"bench_{index}")
            use = call()
            if turn:  # the first round warms caches
                uses[name].append(use)
        loads.append(load_average())
    found = {name: _of(each) for name, each in uses.items()}
    middle = {name: each["seconds"]["p50"] for name, each in found.items()}
    return {
        "migrations": number,
        "seed": _SEED,
        "ratio_to_psql": round(middle["real/selvedge"] / middle["real/psql"], 3),
        "plain_ratio_to_psql": round(middle["plain/selvedge"] / middle["plain/psql"], 3),
        "runners": found,
        "loads": loads,
    }


def _status(server: PostgresServer, directory: Path, number: int) -> Figures:
    """``selvedge migrate status`` over all files, from its start to its end, beside a bare Python."""
    real, _ = _directory(directory / "status", directory / "status_scripts", number)
    database(server, "bench_status")
    selvedge(server, "bench_status", real, "up", "--yes")
    python, ours = [], []
    for _ in range(_STARTS):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-I", "-c", "pass"], check=True)
        python.append(time.perf_counter() - started)
        ours.append(selvedge(server, "bench_status", real, "status"))
    return {"bare_python_seconds": spread(python), **_of(ours)}


def _data(server: PostgresServer, directory: Path, size: int) -> Figures:
    """One migration of 100 MB: as the rows of a COPY, and as INSERTs of 1 MB each. psql reads line by line."""
    found: Figures = {"megabytes": size / 1e6}
    row = "some words of a product's description that is copied\t12.50\t2024-01-01 12:00:00+00"
    values = "('it''s a product''s description; it is inserted', 12.50, '2024-01-01 12:00:00+00')"
    texts = {
        "copy": "COPY goods FROM stdin;\n" + f"{row}\n" * (size // (len(row) + 1)) + "\\.\n",
        "insert": ("INSERT INTO goods VALUES\n" + f"{values},\n" * 12_000 + f"{values};\n") * (size // 1_000_000 or 1),
    }
    for name, text in texts.items():
        place = directory / f"data_{name}"
        place.mkdir()
        path = place / f"20240101120000_{name}.sql"
        path.write_text(f"CREATE TABLE goods (name text, price numeric, at timestamptz);\n{text}")
        del text
        database(server, "bench_data")
        ours = selvedge(server, "bench_data", place, "up", "--yes")
        database(server, "bench_data")
        bare = psql(server, "bench_data", [(path, load({"1_a.sql": "SELECT 1"})[0])])
        found[name] = {"selvedge": _of([ours]), "psql": _of([bare])}
        path.unlink()
    return found


def _directory(
    directory: Path, scripts: Path, number: int, *, plain: str = ""
) -> tuple[Path, list[tuple[Path, Migration]]]:
    """Generated files, and beside them what psql is given: the up part of each."""
    files = generate(number, _SEED, plain=plain)
    write_files(files, directory)
    scripts.mkdir(exist_ok=True)
    pairs = []
    for index, migration in enumerate(load(files)):
        path = scripts / f"{index:04}.sql"
        path.write_text(migration.up + "\n")
        pairs.append((path, migration))
    return directory, pairs


def _of(uses: list[Use]) -> Figures:
    return {
        "seconds": spread([use.seconds for use in uses]),
        "cpu_seconds": round(statistics.median(use.cpu_seconds for use in uses), 3),
        "peak_mib": round(max(use.peak_mib for use in uses), 1),
    }
