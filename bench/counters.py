"""What the operator did to the servers, as the servers counted it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bench.world import LOGIN, World

_CONNECTED = re.compile(rb"\[(\d+)\] .*connection authorized: user=(\S+)")
_GONE = re.compile(rb"\[(\d+)\] .*disconnection: session time: .* user=(\S+)")
_DISPATCHED = re.compile(
    r'^apiserver_flowcontrol_dispatched_requests_total\{[^}]*flow_schema="bench-(\w+)"[^}]*\} (\S+)', re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Use:
    """What was used between two moments. ``peak_connections`` is the highest number at once since the first."""

    statements: int
    logins: int
    peak_connections: int
    wal_mib: float
    api_writes: int
    api_reads: int
    api_leases: int
    cpu_seconds: float
    peak_mib: float

    def document(self) -> dict[str, float]:
        """For the results."""
        return {name: round(getattr(self, name), 3) for name in self.__slots__}


class Meter:
    """Counts from its making on; it ends with :meth:`read`.

    Statements are those of the operator's login that a client sent (BEGIN and COMMIT included), from
    pg_stat_statements; logins and peak connections come from the server's log; requests from the API server's flow
    control, which sees the operator's user only. The operator's CPU seconds count from its start if it was started
    anew meanwhile.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._log_start = _size(world)
        self._before = self._totals()
        self._pid = world.operator.pid
        self._cpu = world.operator.cpu_seconds() if self._pid else 0.0

    def read(self) -> Use:
        """What was used since."""
        operator = self._world.operator
        cpu = operator.cpu_seconds() - (self._cpu if operator.pid == self._pid else 0.0)
        after = self._totals()
        statements, wal, api = after
        logins, peak = self._connections()
        flows = {name: api.get(name, 0) - self._before[2].get(name, 0) for name in ("writes", "reads", "leases")}
        return Use(
            statements=statements - self._before[0],
            logins=logins,
            peak_connections=peak,
            wal_mib=(wal - self._before[1]) / 2**20,
            api_writes=flows["writes"],
            api_reads=flows["reads"],
            api_leases=flows["leases"],
            cpu_seconds=cpu,
            peak_mib=operator.peak_mib(),
        )

    def _totals(self) -> tuple[int, int, dict[str, int]]:
        with self._world.sql() as connection:
            row = connection.execute(
                "SELECT coalesce(sum(calls) FILTER (WHERE toplevel), 0)::bigint, "
                "       pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint "
                "  FROM pg_stat_statements s JOIN pg_roles r ON r.oid = s.userid WHERE r.rolname = %s",
                [LOGIN],
            ).fetchone()
            lost = connection.execute("SELECT dealloc FROM pg_stat_statements_info").fetchone()
        if row is None or lost is None or lost[0]:
            raise RuntimeError("pg_stat_statements forgot statements: raise pg_stat_statements.max")
        flows: dict[str, int] = {}
        for name, value in _DISPATCHED.findall(self._world.api.metrics()):
            flows[name] = flows.get(name, 0) + int(float(value))
        return int(row[0]), int(row[1]), flows

    def _connections(self) -> tuple[int, int]:
        path = self._world.postgres.log_path
        if path is None:
            raise RuntimeError("the server has no log")
        login, alive, logins, peak = LOGIN.encode(), set[bytes](), 0, 0
        with path.open("rb") as log:
            for position, line in _lines(log.readlines()):
                if (found := _CONNECTED.search(line)) and found[2] == login:
                    alive.add(found[1])
                    if position >= self._log_start:
                        logins += 1
                elif (found := _GONE.search(line)) and found[2] == login:
                    alive.discard(found[1])
                elif b"database system is ready" in line:
                    alive.clear()
                if position >= self._log_start:
                    peak = max(peak, len(alive))
        return logins, peak


def _lines(lines: list[bytes]) -> list[tuple[int, bytes]]:
    found, position = [], 0
    for line in lines:
        found.append((position, line))
        position += len(line)
    return found


def _size(world: World) -> int:
    path = world.postgres.log_path
    return path.stat().st_size if path else 0
