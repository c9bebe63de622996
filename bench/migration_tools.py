"""The programs that `bench migrations` runs, each as its users start it: ours, psql, and two Go programs' libraries."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlencode

from psycopg import sql

from sandbox import tools
from sandbox.cache import cache_root, cached
from sandbox.postgres import PostgresServer
from sandbox.process import run
from selvedge.migrate import Migration

OWNER = "bench_owner"
_PASSWORD = "bench"  # noqa: S105 - of a server that lives for one measurement
_SELVEDGE = Path(sys.executable).with_name("selvedge")
_MODULE = Path(__file__).with_name("runners")
_SAMPLE = 0.05
_PEAK = re.compile(r"^VmHWM:\s*([0-9]+) kB", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Use:
    """What one or several processes took: seconds of the wall and of the processors, the largest one's memory."""

    seconds: float
    cpu_seconds: float
    peak_mib: float


def database(server: PostgresServer, name: str) -> None:
    """A fresh database that belongs to :data:`OWNER`, who may log in."""
    with server.connect() as connection:
        if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [OWNER]).fetchone() is None:
            login = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(OWNER), sql.Literal(_PASSWORD))
            connection.execute(login)
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
        create = sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), sql.Identifier(OWNER))
        connection.execute(create)


def url(server: PostgresServer, name: str, *, password: bool = False) -> str:
    """The database as a URL, with :data:`OWNER`'s password where a program takes it from nowhere else."""
    options = {"sslmode": server.sslmode, "sslrootcert": str(server.ca_path)}
    login = f"{OWNER}:{quote(_PASSWORD)}" if password else OWNER
    return f"postgresql://{login}@{server.host}:{server.port}/{name}?{urlencode(options)}"


def selvedge(server: PostgresServer, name: str, directory: Path, *operation: str) -> Use:
    """``selvedge migrate OPERATION``, from its start to its end. Raises RuntimeError where it fails."""
    command = [_SELVEDGE, "migrate", *operation, "--url", url(server, name), "--dir", directory]
    # status answers 2 where something is pending, and that is no failure
    return _used(command, allowed=(0, 2) if operation[0] == "status" else (0,))


def psql(server: PostgresServer, name: str, scripts: list[tuple[Path, Migration]]) -> Use:
    """Run psql once for each file, one after the other; in one transaction where the migration has one."""
    uses = []
    started = time.perf_counter()
    for path, migration in scripts:
        command: list[str | Path] = [tools.postgres_client() / "psql", "-X", "-q", "-o", os.devnull]
        command += ["-v", "ON_ERROR_STOP=1", "-d", url(server, name), "-f", path]
        enveloped = migration.up.lstrip("-/*\n ").upper().startswith("BEGIN")
        command += ["-1"] if migration.script.transactional and not enveloped else []
        uses.append(_used(command))
    seconds = time.perf_counter() - started
    return Use(seconds, sum(use.cpu_seconds for use in uses), max(use.peak_mib for use in uses))


def peer(program: Path, which: str, server: PostgresServer, name: str, directory: Path) -> Use:
    """One of the Go programs' libraries on a directory."""
    address = url(server, name, password=True).replace("postgresql://", "postgres://", 1)
    return _used([program, which, address, directory])


def go_runners() -> Path | None:
    """The program with dbmate and golang-migrate, built once; None where there is no Go."""
    if shutil.which("go") is None:
        return None
    digest = hashlib.sha256()
    for name in ("go.mod", "go.sum", "main.go"):
        digest.update((_MODULE / name).read_bytes())

    def build(path: Path) -> None:
        command: list[str | Path] = [tools.go(), "build", "-mod=readonly", "-trimpath", "-o", path / "runners", "."]
        environment = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"}
        run(command, what="the build of dbmate and golang-migrate", timeout=900, cwd=_MODULE, env=environment)

    root = cached(cache_root(), f"runners-{digest.hexdigest()[:12]}", "dbmate and golang-migrate, from source", build)
    return root / "runners"


def _used(command: list[str | Path], *, allowed: tuple[int, ...] = (0,)) -> Use:
    environment = {**os.environ, "PGPASSWORD": _PASSWORD, "PGOPTIONS": ""}
    started = time.perf_counter()
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        peak = _Peak(process.pid)
        peak.start()
        assert process.stderr is not None  # noqa: S101 - a pipe was asked for
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - started
    peak.ended.set()
    if process.returncode not in allowed:
        words = said.decode(errors="replace").strip()[-400:]
        raise RuntimeError(f"{Path(command[0]).name} ended with {process.returncode}: {words}")
    return Use(seconds, usage.ru_utime + usage.ru_stime, peak.mib)


class _Peak(threading.Thread):
    """The most memory that a process held, read while it lives: what wait4 says includes whoever started it."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.path = Path(f"/proc/{pid}/status")
        self.mib = 0.0
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(_SAMPLE):
            try:
                found = _PEAK.search(self.path.read_text())
            except OSError:
                return
            if found:
                self.mib = int(found[1]) / 1024
