"""What the database servers of a sandbox have in common: one process, one directory, a start and an end."""

from __future__ import annotations

import shutil
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from sandbox.process import Daemon


class OwnServer(ABC):
    """A server program of our own; also a context manager that ends it."""

    __slots__ = ()

    directory: Path
    daemon: Daemon

    @abstractmethod
    def start(self) -> None:
        """Start it (again) on the same port and wait until it takes connections."""

    @property
    def pid(self) -> int:
        """The process id; 0 when it does not run."""
        return self.daemon.pid

    def stop(self, *, immediate: bool = False) -> None:
        """Shut down, ending its sessions; ``immediate`` as in a crash, with recovery at the next start."""
        if immediate:
            self.daemon.kill()
        else:
            self.daemon.stop()

    def restart(self) -> None:
        """Stop and start on the same port."""
        self.stop()
        self.start()

    def close(self) -> None:
        """End the server and remove its directory."""
        self.daemon.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


def server_directory(directory: Path | None, name: str) -> Path:
    """A new directory for one server, which the user it runs as can enter."""
    if directory is None:
        directory = Path(tempfile.mkdtemp(prefix=f"selvedge-{name}-"))
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o711)
    return directory
