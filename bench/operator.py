"""The operator as a process of its own, and what it costs."""

from __future__ import annotations

import http.client
import os
import re
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from sandbox.ports import LOOPBACK, free_port
from sandbox.process import Daemon
from sandbox.progress import note

_START_SECONDS = 60.0


@dataclass(slots=True)
class Operator:
    """``selvedge run`` with its default settings against the cluster of ``kubeconfig``."""

    kubeconfig: Path
    directory: Path
    identity: str = ""
    shard: str = ""
    port: int = field(default_factory=free_port)
    _daemon: Daemon = field(init=False, repr=False)

    def __post_init__(self) -> None:
        base = {name: value for name, value in os.environ.items() if not name.startswith(("SELVEDGE_", "KUBE", "PG"))}
        env = {
            **base,
            "KUBECONFIG": str(self.kubeconfig),
            "SELVEDGE_HTTP_HOST": LOOPBACK,
            "SELVEDGE_HTTP_PORT": str(self.port),
            "SELVEDGE_IDENTITY": self.identity,
            "SELVEDGE_SHARD": self.shard,
        }
        command = [sys.executable, "-m", "selvedge", "run"]
        log = f"operator-{self.shard.replace('/', '-of-')}.log" if self.shard else "operator.log"
        self._daemon = Daemon("the operator", command, self.directory / log, env=env)

    def start(self, *, wait: bool = True) -> None:
        """Start it, and wait until it leads."""
        if wait:
            self._daemon.start_until(self.leads, _START_SECONDS)
        else:
            self._daemon.start()

    def stop(self) -> None:
        """SIGTERM, and wait."""
        self._daemon.stop()

    def kill(self) -> None:
        """SIGKILL."""
        self._daemon.kill()

    def leads(self) -> bool:
        """Whether it holds the Lease."""
        try:
            return self.sample("selvedge_leader") == 1
        except (OSError, http.client.HTTPException):
            return False

    def sample(self, name: str) -> float:
        """The sum of all samples of this name in its metrics."""
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=10)
        try:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        finally:
            connection.close()
        pattern = re.compile(rf"^{re.escape(name)}(?:{{[^}}]*}})? (\S+)", re.MULTILINE)
        return sum(float(value) for value in pattern.findall(text))

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._daemon.pid

    def cpu_seconds(self) -> float:
        """User and system time since its start."""
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)

    def peak_mib(self) -> float:
        """The largest resident memory since its start."""
        return self._status("VmHWM")

    def rss_mib(self) -> float:
        """Its resident memory now."""
        return self._status("VmRSS")

    def _status(self, key: str) -> float:
        text = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8")
        found = re.search(rf"^{key}:\s+(\d+) kB", text, re.MULTILINE)
        if found is None:
            raise RuntimeError(f"the operator (process {self.pid}) does not run any more: see its log")
        return int(found[1]) / 1024

    def wait_sample(self, name: str, least: float, timeout: float) -> None:
        """Wait until the sum of all samples of this name is so much. Raises TimeoutError."""
        deadline = time.monotonic() + timeout
        while (found := self.sample(name)) < least:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{name} is {found:g} and not {least:g} after {timeout:.0f} s")
            time.sleep(0.1)  # the operator itself answers: asked more often, it would be measured at answering

    def settle(self, seconds: float, quiet: float = 1.0) -> None:
        """Wait until it used less than 2 % of a core for ``quiet`` seconds, at most ``seconds``; say so if it did not.

        CPU time is looked at and not only the queue: events and the watch follow the work.
        """
        deadline = time.monotonic() + seconds
        before = self.cpu_seconds()
        while time.monotonic() < deadline:
            time.sleep(quiet)  # the stretch over which its CPU time is taken
            now = self.cpu_seconds()
            if now - before < 0.02 * quiet:
                return
            before = now
        note(f"the operator was still at work after {seconds:.0f} s: what was measured next includes it")
