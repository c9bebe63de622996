"""The first process of a node's namespaces: ``python -m sandbox.node_init DIRECTORY [PACKAGES]``.

It mounts what only the node may see, starts :mod:`sandbox.node_main` and reaps what loses its parent. When it ends, the
kernel ends everything in the namespaces.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from sandbox import node_config
from sandbox.cache import cache_root, public_cache_root
from sandbox.errors import SandboxError
from sandbox.node_packages import lay_over, mount

# Not the whole of /var: a mount below it, such as a cache kept between runs, would be hidden.
_WRITTEN = ("lib", "log")
_PRIVATE = (Path("/run"), *(Path("/var") / name for name in _WRITTEN))


def main(directory: Path, packages: Path | None) -> int:
    """Prepare the mounts, run the node, and return its exit status."""
    _prepare(directory, packages)
    node = subprocess.Popen([sys.executable, "-m", "sandbox.node_main", str(directory)])
    while True:
        pid, status = os.wait()
        if pid == node.pid:
            return os.waitstatus_to_exitcode(status)


def _prepare(directory: Path, packages: Path | None) -> None:
    for used in (directory, cache_root(), public_cache_root(), Path(__file__).resolve()):
        if any(used.is_relative_to(private) for private in _PRIVATE):
            places = ", ".join(map(str, _PRIVATE))
            raise SandboxError(f"{used} is hidden from the node, which has {places} of its own: put it elsewhere")
    if packages is not None:
        lay_over(packages)
    own = directory / "mounts"
    # The pods' logs and CNI's notes go to fixed places below /var. In memory, because an overlay's upper directory
    # cannot lie on another overlay, which is what a container's file system is.
    (own / "var").mkdir(parents=True)
    mount("tmpfs", own / "var", "-t", "tmpfs")
    for name in _WRITTEN:
        upper, work = own / "var" / name, own / "var" / f"{name}-work"
        upper.mkdir()
        work.mkdir()
        layers = f"lowerdir=/var/{name},upperdir={upper},workdir={work}"
        mount("overlay", Path("/var") / name, "-t", "overlay", "-o", layers)
    mount("tmpfs", Path("/run"), "-t", "tmpfs", "-o", "mode=755")
    (directory / "containerd").mkdir()
    if _file_system(directory) == "overlayfs":
        mount("tmpfs", directory / "containerd", "-t", "tmpfs")
    (own / "sys").mkdir()
    for name, value in node_config.KERNEL_SETTINGS.items():
        _replace(Path("/proc/sys") / name, own / "sys" / name.replace("/", "."), f"{value}\n")
    _replace(Path("/etc/hosts"), own / "hosts", node_config.HOSTS)
    _replace(Path("/etc/resolv.conf"), own / "resolv.conf", f"nameserver {node_config.ADDRESS}\n")


def _replace(target: Path, source: Path, content: str) -> None:
    """Let a file of the machine have another content for the node."""
    source.write_text(content, encoding="utf-8")
    if target.exists():
        mount(source, target.resolve(), "--bind")


def _file_system(path: Path) -> str:
    command = ["stat", "--file-system", "--format=%T", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None))
    except SandboxError as error:
        sys.exit(f"error: {error}")
