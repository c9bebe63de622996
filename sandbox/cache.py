"""Downloads and builds, each made once for all processes of the machine and kept by version."""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox.errors import SandboxError
from sandbox.progress import note, step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Where programs lie that an unprivileged user has to run when the cache itself is in root's private home.
_PUBLIC_CACHE = Path("/var/cache/selvedge")


def cache_root() -> Path:
    """``SELVEDGE_CACHE``, or ``~/.cache/selvedge``."""
    override = os.environ.get("SELVEDGE_CACHE")
    return Path(override).resolve() if override else Path.home() / ".cache" / "selvedge"


def public_cache_root() -> Path:
    """The cache for programs that run as :func:`unprivileged_ids`: the same one, unless that user cannot reach it."""
    root = cache_root()
    return root if reachable_by_others(root) else _PUBLIC_CACHE


def reachable_by_others(path: Path) -> bool:
    """True when the user that Postgres runs as can enter ``path`` (always, when that user is ourselves)."""
    if os.geteuid() != 0:
        return True
    path = path.absolute()
    return all(p.stat().st_mode & 0o001 for p in (path, *path.parents) if p.exists())


@contextmanager
def file_lock(path: Path, waiting: str = "") -> Iterator[None]:
    """Hold an exclusive lock on ``path``, which the kernel frees with us; print ``waiting`` if another one has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting:
                note(waiting)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def cached(root: Path, key: str, title: str, build: Callable[[Path], None]) -> Path:
    """The directory ``root/key``, made by ``build`` if it is not there yet.

    ``build`` fills an empty directory beside it, which is renamed into place when it is complete, so that a build
    that was interrupted leaves nothing that looks finished.

    Raises:
        SandboxError: what ``build`` raises, or the cache cannot be written.
    """
    final = root / key
    if final.exists():
        return final
    try:
        with file_lock(root / ".locks" / key, f"{title}: waiting for the process that makes it already"):
            if final.exists():
                return final
            scratch = root / ".scratch" / key
            _remove(scratch)
            scratch.mkdir(parents=True)
            with step(title):
                build(scratch)
            scratch.rename(final)
    except PermissionError as error:
        message = (
            f"the cache {root} cannot be written ({error.filename}): set SELVEDGE_CACHE to a directory of your own"
        )
        raise SandboxError(message) from error
    return final


def _remove(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)
