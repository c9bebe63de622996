"""A Debian with Python, made from Debian's packages by mmdebstrap: the image's BASE where no registry is at hand."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from sandbox import node_packages
from sandbox.cache import cache_root, cached
from sandbox.process import run

_SUITE = "bookworm"
_PACKAGES = ("ca-certificates", "python3", "python3-venv")
_SECONDS = 1800.0
# What no image needs; licences stay.
_OPTIONS = (
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
)


def missing() -> str:
    """One sentence on what this machine lacks for :func:`base`; empty where it lacks nothing."""
    if os.geteuid() != 0:
        return "the image's base is made by mmdebstrap as root: run this as root"
    if shutil.which("mmdebstrap") is None and (reason := node_packages.missing_reason()):
        return f"mmdebstrap, which makes the image's base, is missing, and cannot be borrowed from Debian: {reason}"
    return ""


def base() -> Path:
    """The tar archive of the base's files, made once and kept in the cache.

    Raises:
        SandboxError: it could not be made.
    """
    what = hashlib.sha256("\n".join((_SUITE, *_PACKAGES, *_OPTIONS)).encode()).hexdigest()[:12]

    def build(path: Path) -> None:
        # borrowed, it comes with the keys by which Debian's packages are known; as a program installed, it has them
        own = shutil.which("mmdebstrap") is not None
        program = (
            ["mmdebstrap"] if own else node_packages.wrap(("mmdebstrap", "debian-archive-keyring"), ["mmdebstrap"])
        )
        command = [*program, "--variant=minbase", f"--include={','.join(_PACKAGES)}", *_OPTIONS, _SUITE]
        # umask: a strict one would make the image's directories unreadable for its user
        run([*command, path / "base.tar"], what="mmdebstrap", timeout=_SECONDS, cwd="/", umask=0o022)

    title = f"Debian {_SUITE} with Python by mmdebstrap (once; about a minute)"
    return cached(cache_root(), f"image-base-{_SUITE}-{what}", title, build) / "base.tar"
