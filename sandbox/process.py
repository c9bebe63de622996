"""Child processes that never outlive us, whatever ends us."""

from __future__ import annotations

import os
import pwd
import queue
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandbox.errors import PortTakenError, SandboxError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_LAUNCH = Path(__file__).with_name("launch.py")
_POLL_SECONDS = 0.02
_TAIL_LINES = 12


def unprivileged_ids() -> tuple[int, int] | None:
    """User and group for programs that refuse to run as root: ``nobody``'s, or None when we are not root."""
    if os.geteuid() != 0:
        return None
    entry = pwd.getpwnam("nobody")
    return entry.pw_uid, entry.pw_gid


class _Spawner:
    """Starts every process from one thread that lives as long as we do.

    The kernel sends the parent-death signal when the *thread* that forked ends, so a server started from a worker
    thread of asyncio or a test would die with that thread.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Callable[[], subprocess.Popen[Any]], Future[subprocess.Popen[Any]]]] = (
            queue.SimpleQueue()
        )
        self._lock = threading.Lock()
        self._pid = 0

    def popen(self, start: Callable[[], subprocess.Popen[Any]]) -> subprocess.Popen[Any]:
        with self._lock:
            if self._pid != os.getpid():  # first use, or first use after a fork
                self._jobs = queue.SimpleQueue()
                threading.Thread(target=self._work, args=(self._jobs,), name="sandbox-spawner", daemon=True).start()
                self._pid = os.getpid()
        future: Future[subprocess.Popen[Any]] = Future()
        self._jobs.put((start, future))
        return future.result()

    @staticmethod
    def _work(
        jobs: queue.SimpleQueue[tuple[Callable[[], subprocess.Popen[Any]], Future[subprocess.Popen[Any]]]],
    ) -> None:
        while True:
            start, future = jobs.get()
            try:
                future.set_result(start())
            except BaseException as error:  # noqa: BLE001 - handed to the caller, who raises it
                future.set_exception(error)


_SPAWNER = _Spawner()


def spawn(
    command: Sequence[str | Path],
    *,
    death_signal: int = signal.SIGKILL,
    ids: tuple[int, int] | None = None,
    **options: Any,
) -> subprocess.Popen[Any]:
    """``subprocess.Popen`` in a session of its own, that gets ``death_signal`` when this process ends in any way.

    ``ids`` are the user and group to run as; None keeps ours.
    """
    uid, gid = ids or (-1, -1)
    words = [sys.executable, "-I", "-S", str(_LAUNCH), str(os.getpid()), str(int(death_signal)), str(uid), str(gid)]
    words += [str(word) for word in command]
    return _SPAWNER.popen(lambda: subprocess.Popen(words, start_new_session=True, **options))


def run(
    command: Sequence[str | Path],
    *,
    what: str,
    timeout: float,
    input: str | None = None,  # noqa: A002 - subprocess.run's own name for it
    check: bool = True,
    **options: Any,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, at most ``timeout`` seconds, and return its output as text.

    Raises:
        SandboxError: it failed (unless ``check`` is false), is not there, or took too long. ``what`` names the
            work in the message.
    """
    options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = spawn(command, stdin=subprocess.PIPE if input else subprocess.DEVNULL, **options)
    try:
        out, err = process.communicate(input, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise SandboxError(f"{what} took longer than {timeout:.0f} s and was ended: try again") from error
    finally:
        if process.poll() is None:
            kill_group(process)
            process.communicate()
    if check and process.returncode != 0:
        raise SandboxError(f"{what} failed with exit status {process.returncode}: {last_line(err or out)}")
    return subprocess.CompletedProcess([str(word) for word in command], process.returncode, out, err)


def last_line(text: str) -> str:
    """The last line that says something, for a message of one sentence."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"


def kill_group(process: subprocess.Popen[Any]) -> None:
    """SIGKILL to a process that :func:`spawn` started and to its children; it is not an error if it is gone."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


class Daemon:
    """One server program: its process, its log and its life."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        log_path: Path,
        *,
        death_signal: int = signal.SIGKILL,
        stop_signal: int = signal.SIGTERM,
        ids: tuple[int, int] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.name = name
        self.command = tuple(command)
        self.log_path = log_path
        self._death_signal = death_signal
        self._stop_signal = stop_signal
        self._ids = ids
        self._env = env
        self._cwd = cwd
        self._log_start = 0
        self._process: subprocess.Popen[Any] | None = None

    @property
    def pid(self) -> int:
        """The process id, for signals; 0 when it does not run."""
        return self._process.pid if self._process is not None and self.alive else 0

    @property
    def alive(self) -> bool:
        """True while the process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def returncode(self) -> int | None:
        """How the last run ended; None while it runs and before the first."""
        return self._process.poll() if self._process is not None else None

    def start(self) -> None:
        """Start the program; returns at once (see :meth:`wait_until`). Starting what runs does nothing."""
        if self.alive:
            return
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._log_start = log.tell()
            self._process = spawn(
                self.command,
                death_signal=self._death_signal,
                ids=self._ids,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
                cwd=self._cwd,
            )

    def start_until(self, ready: Callable[[], bool], timeout: float = 60.0) -> None:
        """Start the program and :meth:`wait_until` it is ready; end it if it does not get so far."""
        self.start()
        try:
            self.wait_until(ready, timeout)
        except BaseException:
            self.kill()
            raise

    def wait_until(self, ready: Callable[[], bool], timeout: float = 60.0) -> None:
        """Wait until ``ready()``, at most ``timeout`` seconds.

        Raises:
            PortTakenError: the program ended because another one has its port.
            SandboxError: it ended for another reason, or is not ready in time; both name the log.
        """
        deadline = time.monotonic() + timeout
        while not ready():
            if not self.alive:
                raise self._ended()
            if time.monotonic() > deadline:
                raise SandboxError(f"{self.name} is not ready after {timeout:.0f} s: see {self.log_path}")
            time.sleep(_POLL_SECONDS)

    def stop(self, timeout: float = 20.0) -> None:
        """Ask it to stop, and after ``timeout`` seconds make it; stopping what does not run does nothing."""
        if self._process is None or not self.alive:
            return
        self._process.send_signal(self._stop_signal)
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it and its children at once, as a crash would."""
        if self._process is None:
            return
        if self._process.poll() is None:
            if self._death_signal == signal.SIGKILL:
                kill_group(self._process)
            else:
                self._process.send_signal(self._death_signal)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            kill_group(self._process)
            self._process.wait(10)

    def log_since_start(self) -> str:
        """What the program wrote in this run."""
        with self.log_path.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def _ended(self) -> SandboxError:
        text = self.log_since_start()
        if "ddress already in use" in text:
            return PortTakenError(f"{self.name} found its port taken: stop what listens there, or choose another one")
        tail = " | ".join(text.splitlines()[-_TAIL_LINES:])
        return SandboxError(f"{self.name} ended with exit status {self.returncode}: see {self.log_path}: {tail}")
