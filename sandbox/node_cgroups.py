"""The cgroup below which all pods of one node lie, in version 1 and 2 of the kernel's interface."""

from __future__ import annotations

import hashlib
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox.cache import cache_root, file_lock
from sandbox.errors import SandboxError
from sandbox.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOUNT = Path("/sys/fs/cgroup")
_CONTROLLERS = ("cpuset", "cpu", "io", "memory", "hugetlb", "pids")
_SECONDS = 10.0
_PREFIX = "selvedge-"
_PROGRAMS = "programs"


def name(directory: Path) -> str:
    """The cgroup of the node in ``directory``: as long as nobody else has that directory, it is its own."""
    return f"/{_PREFIX}{hashlib.sha256(str(directory).encode()).hexdigest()[:8]}"


def join(cgroup: str) -> None:
    """Make ``cgroup`` in every hierarchy and put this process into it; what it starts from now on is there too.

    Raises:
        SandboxError: it cannot be written.
    """
    try:
        # A cgroup without a process is swept away: nobody may look while another one makes its own.
        with file_lock(cache_root() / ".locks" / "cgroups"):
            for hierarchy in _hierarchies():
                _sweep(hierarchy)
                _join(hierarchy, hierarchy / cgroup.lstrip("/"))
    except OSError as error:
        message = f"{error.filename} cannot be written ({error.strerror}): a container has to be privileged for it"
        raise SandboxError(message) from error


def _join(hierarchy: Path, own: Path) -> None:
    if (hierarchy / "cgroup.subtree_control").exists():
        _hand_down(hierarchy)
    # Beside the pods: in version 2 only a cgroup without children takes processes.
    for path in (own, own / _PROGRAMS):
        path.mkdir(exist_ok=True)
        for setting in ("cpuset.cpus", "cpuset.mems"):
            # of version 1, where an empty one takes no process
            if (path / setting).exists() and not (path / "cgroup.controllers").exists():
                (path / setting).write_text((path.parent / setting).read_text())
    (own / _PROGRAMS / "cgroup.procs").write_text("0")


def remove(cgroup: str) -> None:
    """Remove ``cgroup`` and all below it; processes that were killed leave it in a moment.

    Raises:
        SandboxError: a process stays in it.
    """
    for hierarchy in _hierarchies():
        own = hierarchy / cgroup.lstrip("/")
        what = f"{own} holds processes after {_SECONDS:.0f} s: see cgroup.procs there"
        wait_until(partial(_removed, own), what, _SECONDS)


def _sweep(hierarchy: Path) -> None:
    """Remove what a node left that was killed with all that held it; a node that lives has a process in its own."""
    for own in hierarchy.glob(f"{_PREFIX}*"):
        if not any(path.read_text() for path in own.rglob("cgroup.procs")):
            _removed(own)


def _removed(own: Path) -> bool:
    """Try to remove a cgroup and all below it; whether it is gone."""
    below = sorted((path for path in own.rglob("*") if path.is_dir()), reverse=True)
    for path in (*below, own):
        try:
            path.rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            return False  # busy: its processes are on their way out
    return True


def available() -> bool:
    """Whether there is any hierarchy at all."""
    return shutil.which("mount") is not None and any(_hierarchies())


def _hierarchies() -> Iterator[Path]:
    """Version 2 is one hierarchy; version 1 one for each controller, where links are other names of the same one."""
    if (_MOUNT / "cgroup.controllers").exists():
        yield _MOUNT
    else:
        yield from (path for path in sorted(_MOUNT.glob("*")) if path.is_dir() and not path.is_symlink())


def _hand_down(hierarchy: Path) -> None:
    """Let children have the controllers, as every systemd does for those that it uses."""
    known = (hierarchy / "cgroup.controllers").read_text().split()
    handed = (hierarchy / "cgroup.subtree_control").read_text().split()
    for controller in _CONTROLLERS:
        if controller in known and controller not in handed:
            (hierarchy / "cgroup.subtree_control").write_text(f"+{controller}")
