"""A command that is started again whenever it ends, as a kubelet would: the operator as a local process."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from sandbox.process import Daemon

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

# A kubelet's own figures are 10 s and 5 min; a demo does not want to wait that long.
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 10.0
_WATCH_SECONDS = 0.1
_STOP_SECONDS = 30.0


class RestartingProcess:
    """One command, restarted with a growing pause; a run that lasted for a minute resets the pause."""

    _HEALTHY_SECONDS = 60.0

    def __init__(self, name: str, command: Sequence[str], log_path: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self.log_path = log_path
        self.starts = 0
        self._daemon = Daemon(name, command, log_path, env=env)
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    @property
    def pid(self) -> int:
        """The process id; 0 between two runs."""
        return self._daemon.pid

    def start(self) -> None:
        """Start the command and its restarts; nothing happens if it runs."""
        with self._lock:
            if self._thread is not None:
                return
            self._over.clear()
            self._begin()
            self._thread = threading.Thread(target=self._watch, name=f"restart-{self.name}", daemon=True)
            self._thread.start()

    def stop(self, *, immediate: bool = False) -> None:
        """End the command for good, politely unless ``immediate``."""
        with self._lock:
            self._over.set()
            if self._thread is not None:
                self._thread.join()
                self._thread = None
            if immediate:
                self._daemon.kill()
            else:
                self._daemon.stop(_STOP_SECONDS)

    def _begin(self) -> None:
        self._daemon.start()
        self.starts += 1

    def _watch(self) -> None:
        pause, lasted = _FIRST_PAUSE_SECONDS, 0.0
        while not self._over.wait(_WATCH_SECONDS):
            if self._daemon.alive:
                lasted += _WATCH_SECONDS
                continue
            if lasted >= self._HEALTHY_SECONDS:
                pause = _FIRST_PAUSE_SECONDS
            if self._over.wait(pause):
                return
            pause, lasted = min(pause * 2, _LONGEST_PAUSE_SECONDS), 0.0
            self._begin()
