"""Debian packages for one run, without installing them: downloaded by apt, unpacked into the cache, laid over /usr.

What a machine has installed already is used as it is. The rest is visible in one mount namespace only:
:func:`lay_over` mounts it in the present one, :func:`wrap` runs a command in a new one.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox.cache import cache_root, cached
from sandbox.errors import SandboxError
from sandbox.process import last_line, run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SECONDS = 900.0
_INSTALLS = re.compile(r"^Inst (\S+) ", re.MULTILINE)
# Debian's packages of one release still name both places; on the machine they are links to the second.
_MERGED = ("bin", "sbin", "lib", "lib64")
# What a package's installation would link by update-alternatives.
_ALTERNATIVES = ("iptables", "ip6tables")


def missing_reason() -> str:
    """Why packages cannot be laid over this machine's: one sentence, or nothing where they can."""
    if os.geteuid() != 0:
        return "mounts and network namespaces need root: run this as root"
    for program in ("apt-get", "dpkg-deb", "unshare", "nsenter"):
        if shutil.which(program) is None:
            return f"the node's programs come from Debian packages, and this machine has no {program}"
    probe = ["unshare", "--net", "--mount", "--pid", "--fork", "mount", "-t", "tmpfs", "tmpfs", "/run"]
    result = subprocess.run(probe, capture_output=True, text=True, check=False, timeout=30)
    if result.returncode != 0:
        reason = last_line(result.stderr)
        return f"namespaces of their own are refused here ({reason}): a container has to be privileged for them"
    return ""


def unpacked(packages: Sequence[str]) -> Path | None:
    """Where ``packages`` and what they need lie unpacked; None when the machine has all of them installed.

    Raises:
        SandboxError: apt does not know one of them, or it could not be downloaded.
    """
    if _installed(packages):
        return None
    options: list[str] = []
    wanted = _missing(packages, options)
    if wanted is None:
        # A container image often comes without apt's lists. These are ours: the machine's stay as they are.
        lists = cached(cache_root(), f"apt-lists-{_release()}", "Debian's lists of packages", _update)
        options = ["-o", f"Dir::State::Lists={lists}"]
        wanted = _missing(packages, options)
    if wanted is None:
        raise SandboxError(f"apt knows no way to install {', '.join(packages)}: look at /etc/apt, or install them")
    digest = hashlib.sha256(" ".join(sorted(wanted)).encode()).hexdigest()[:12]

    def build(path: Path) -> None:
        command = ["apt-get", *options, "-o", "APT::Sandbox::User=root", "--quiet", "download", *wanted]
        run(command, what=f"apt-get download {' '.join(packages)}", timeout=_SECONDS, cwd=path)
        for archive in path.glob("*.deb"):
            run(["dpkg-deb", "--extract", archive, path / "root"], what=f"unpacking {archive.name}", timeout=120)
            archive.unlink()
        _settle(path / "root")

    title = f"Debian packages: {', '.join(packages)}"
    return cached(cache_root(), f"packages-{_release()}-{digest}", title, build) / "root"


def wrap(packages: Sequence[str], command: Sequence[str | Path]) -> list[str]:
    """The command line that runs ``command`` with ``packages`` there, and the machine's files as they are otherwise."""
    words = [str(word) for word in command]
    root = unpacked(packages)
    if root is None:
        return words
    # In the shell and not in Python, because buildah is called a dozen times.
    overlays = [
        f"mount -t overlay -o {shlex.quote(option)} overlay {shlex.quote(str(at))}" for option, at in _overlays(root)
    ]
    script = " && ".join([*overlays, 'exec "$@"'])
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *words]


def lay_over(root: Path) -> None:
    """Mount what lies in ``root`` over the same directories of this mount namespace, which must be a private one."""
    for option, target in _overlays(root):
        mount("overlay", target, "-t", "overlay", "-o", option)


def _overlays(root: Path) -> Iterator[tuple[str, Path]]:
    for directory in sorted(root.iterdir()):
        target = Path("/") / directory.name
        if directory.is_dir() and target.is_dir() and not target.is_symlink():
            yield f"lowerdir={directory}:{target}", target


def mount(source: str | Path, target: Path, *options: str) -> None:
    """``mount`` in this namespace.

    Raises:
        SandboxError: it was refused.
    """
    run(["mount", *options, source, target], what=f"mounting {target}", timeout=30)


def _installed(packages: Sequence[str]) -> bool:
    command = ["dpkg-query", "--show", "--showformat=${db:Status-Status}\n", *packages]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return result.returncode == 0 and set(result.stdout.split()) == {"installed"}


def _missing(packages: Sequence[str], options: Sequence[str]) -> list[str] | None:
    """What apt would install; None when it does not know all of it."""
    command = ["apt-get", *options, "--simulate", "--no-install-recommends", "--no-upgrade", "install", *packages]
    result = run(command, what="apt-get --simulate install", timeout=_SECONDS, check=False, env=_plain_environment())
    return _INSTALLS.findall(result.stdout) if result.returncode == 0 else None


def _update(path: Path) -> None:
    (path / "partial").mkdir()
    command = ["apt-get", "-o", f"Dir::State::Lists={path}", "-o", "APT::Sandbox::User=root", "--quiet", "update"]
    # One of several sources may be out of reach; whether what is left is enough is seen when it is asked.
    run(command, what="apt-get update", timeout=_SECONDS, check=False)


def _settle(root: Path) -> None:
    """Bring the tree into the shape of an installed one."""
    for name in _MERGED:
        if (root / name).is_dir():
            shutil.copytree(root / name, root / "usr" / name, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(root / name)
    for name in _ALTERNATIVES:
        for suffix in ("", "-save", "-restore"):
            link = root / "usr" / "sbin" / f"{name}{suffix}"
            if (link.parent / "xtables-nft-multi").exists() and not link.exists():
                link.symlink_to("xtables-nft-multi")
    # Overlays of /var are the node's own business.
    shutil.rmtree(root / "var", ignore_errors=True)


def _release() -> str:
    facts = platform.freedesktop_os_release()
    return f"{facts.get('ID', 'linux')}{facts.get('VERSION_ID', '')}"


def _plain_environment() -> dict[str, str]:
    """Words of apt are read, so they have to be English."""
    return {**os.environ, "LC_ALL": "C.UTF-8", "LANGUAGE": ""}
