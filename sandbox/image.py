"""The operator's image, built from the Dockerfile by buildah on a base made by mmdebstrap: no registry is asked.

``make image`` is :mod:`sandbox.make_image`, which knows docker as well.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from sandbox import image_base, node_packages
from sandbox.cache import cache_root, cached, file_lock
from sandbox.errors import SandboxError
from sandbox.image_archive import pack
from sandbox.process import run

Target = Literal["operator", "tools"]
TARGETS: tuple[Target, ...] = ("operator", "tools")
ROOT = Path(__file__).parents[1]
#: What the Dockerfile copies: .dockerignore lets nothing else in.
SOURCES = (
    "Dockerfile",
    ".dockerignore",
    "LICENSE",
    "README.md",
    "pyproject.toml",
    "image",
    "operator",
    "requirements",
)
_SECONDS = 1800.0
_NO_PACKAGES: Mapping[str, str] = MappingProxyType({})
#: Archives of sources that nobody built from for so long go, and what buildah keeps of earlier builds when it is more.
_KEPT_SECONDS = 86400.0
_KEPT_BYTES = 4_000_000_000


def version() -> str:
    """The version in pyproject.toml, which is the image's tag."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])


def reference(target: Target = "operator") -> str:
    """The image's full name, as containerd knows what the chart calls ``selvedge``."""
    return f"docker.io/library/selvedge{'' if target == 'operator' else f'-{target}'}:{version()}"


def missing() -> str:
    """One sentence on what this machine lacks for :func:`build`; empty where it lacks nothing."""
    if shutil.which("buildah") is None and (reason := node_packages.missing_reason()):
        return f"buildah is missing, and cannot be borrowed from Debian: {reason}"
    return image_base.missing()


def build(target: Target = "operator") -> Path:
    """The archive of the image, built from the Dockerfile on a base of the sandbox's own unless that was done already.

    `ctr images import` and `docker load` take it.

    Raises:
        SandboxError: something is missing (see :func:`missing`), or the build failed.
    """
    if lacking := missing():
        raise SandboxError(lacking)
    base = image_base.base()
    digest = hashlib.sha256(base.parent.name.encode())
    for path in sources():
        digest.update(f"{path.relative_to(ROOT)}\0{path.stat().st_mode & 0o111}\0".encode())
        digest.update(path.read_bytes())
    key = digest.hexdigest()[:16]

    def make(path: Path) -> None:
        with building() as buildah:
            buildah.build(target, buildah.base_image(base), revision=f"sources-{key}", created=0)
            buildah.save(target, path / "image.tar")

    prefix = f"image-{target}-"
    archive = cached(cache_root(), prefix + key, f"the image's target {target}", make) / "image.tar"
    _forget(prefix, archive.parent)
    return archive


def sources() -> Iterator[Path]:
    """The files that the image is made from, sorted."""
    for name in SOURCES:
        path = ROOT / name
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (file for file in found if file.is_file() and "__pycache__" not in file.parts)


@contextmanager
def building() -> Iterator[Buildah]:
    """A buildah that is nobody else's for as long as the block runs: all name their image alike.

    Raises:
        SandboxError: it can be had neither from this machine nor from Debian.
    """
    with file_lock(cache_root() / ".locks" / "buildah", "another process builds an image: waiting for it"):
        buildah = Buildah()
        yield buildah
        buildah.tidy()


class Buildah:
    """Debian's buildah with a storage of its own in the cache, for one at a time: see :func:`building`."""

    def __init__(self) -> None:
        """Choose a storage driver that works here."""
        store = cache_root() / "buildah"
        self._store = store
        self._storage = ["--root", str(store / "storage"), "--runroot", str(store / "run")]
        self._program = ["buildah"] if shutil.which("buildah") else node_packages.wrap(("buildah",), ["buildah"])
        # overlay cannot lie on another overlay, which is what a container's own file system is
        overlay = [*self._command("overlay"), "info"]
        works = run(overlay, what="buildah info", timeout=60, check=False).returncode == 0
        self._driver = "overlay" if works else "vfs"

    def _command(self, driver: str = "") -> list[str]:
        return [*self._program, "--storage-driver", driver or self._driver, *self._storage]

    def _run(self, *arguments: str | Path, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        what = f"buildah {arguments[0]}"
        return run([*self._command(), *arguments], what=what, timeout=_SECONDS, check=check, **options)

    def base_image(self, archive: Path) -> str:
        """The name of an image that holds the files of ``archive``."""
        name = f"localhost/selvedge-base:{archive.parent.name}"
        if self._run("inspect", "--type", "image", name, check=False).returncode != 0:
            container = self._run("from", "scratch").stdout.strip()
            try:
                self._run("add", "--quiet", container, archive, "/")
                self._run("commit", "--quiet", container, name)
            finally:
                self._run("rm", container)
        return name

    def build(
        self,
        target: Target,
        base: str,
        *,
        revision: str,
        created: int,
        again: bool = False,
        packages: Mapping[str, str] = _NO_PACKAGES,
    ) -> None:
        """Build the Dockerfile's ``target``; ``base`` is its BASE or empty for its default, ``created`` a Unix time.

        ``again``: use nothing that was kept of an earlier build. ``packages``: see :func:`options`.
        """
        # chroot: no container runtime is asked for, which a machine without cgroups of its own cannot give
        arguments = ["bud", "--isolation", "chroot", "--network", "host", "--layers", "--timestamp", str(created)]
        arguments += [*(["--no-cache"] if again else []), *options(target, base, revision, packages)]
        self._run(*arguments, "--tag", _local(target), ".", cwd=ROOT)

    def save(self, target: Target, archive: Path) -> None:
        """Write what :meth:`build` made to ``archive``."""
        with tempfile.TemporaryDirectory(prefix="selvedge-image-", dir=archive.parent) as scratch:
            layout = Path(scratch) / "layout"
            self._run("push", "--quiet", _local(target), f"oci:{layout}:image")
            pack(layout, reference(target), archive)

    def tidy(self) -> None:
        """Forget all images where they have grown to several gigabytes; the next build is as long as the first."""
        used = run(["du", "--summarize", "--block-size=1", self._store], what="du", timeout=_SECONDS, check=False)
        if int(used.stdout.split()[0]) > _KEPT_BYTES:
            self._run("rmi", "--all", "--force")


def _local(target: Target) -> str:
    return f"localhost/selvedge-{target}:latest"


def options(target: Target, base: str, revision: str, packages: Mapping[str, str] = _NO_PACKAGES) -> list[str]:
    """What docker and buildah are told alike: arguments and secrets of the build.

    ``packages``: the target ``tools``' POSTGRES_CLIENT and MONGODB_TOOLS, where they are not the Dockerfile's.
    """
    options = ["--target", target, "--build-arg", f"VERSION={version()}", "--build-arg", f"REVISION={revision}"]
    if base:
        options += ["--build-arg", f"BASE={base}"]
    for name, package in packages.items():
        options += ["--build-arg", f"{name}={package}"]
    # who sits behind a proxy that ends TLS has told Python's or pip's clients what to trust
    authorities = next((path for name in ("PIP_CERT", "SSL_CERT_FILE") if (path := os.environ.get(name))), "")
    if authorities:
        options += ["--secret", f"id=ca,src={authorities}"]
    return options


def _forget(prefix: str, kept: Path) -> None:
    """Remove archives of sources that nobody has built from for a day."""
    os.utime(kept)
    for path in cache_root().glob(f"{prefix}*"):
        if path != kept and path.stat().st_mtime < time.time() - _KEPT_SECONDS:
            shutil.rmtree(path, ignore_errors=True)
