"""``python -m sandbox.make_image``: the operator's image by docker where its daemon answers, else by buildah."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from sandbox import image, image_base, node_packages
from sandbox.errors import SandboxError
from sandbox.image_archive import read
from sandbox.process import run

_SANDBOX_BASE = "mmdebstrap"
#: What an image of the target ``tools`` is without for want of a package that no Debian has.
_LACKS = {
    "POSTGRES_CLIENT": "pg_dump is the base's own (Debian 12: 15), and dumps no Postgres that is newer",
    "MONGODB_TOOLS": "no MongoDB tools are in it",
}


def _git(*arguments: str) -> str:
    result = subprocess.run(
        ["git", *arguments], cwd=image.ROOT, capture_output=True, text=True, check=False, timeout=30
    )
    return result.stdout.strip() if result.returncode == 0 else ""


def _make(target: image.Target, base: str, packages: Mapping[str, str], output: Path) -> str:
    """Build for people: with docker where its daemon answers, else with buildah. Returns what to say about it."""
    revision, created = _git("rev-parse", "HEAD") or "unknown", int(_git("log", "-1", "--format=%ct") or 0)
    if _git("status", "--porcelain", "--", *image.SOURCES):
        revision += "-dirty"
    if base != _SANDBOX_BASE and shutil.which("docker"):
        probe = run(["docker", "version"], what="docker version", timeout=60, check=False)
        if probe.returncode == 0:
            name = image.reference(target).removeprefix("docker.io/library/")
            options = image.options(target, base, revision, packages)
            command: list[str] = ["docker", "build", *options, "--tag", name, "."]
            # its progress is for people: it goes where ours goes
            if subprocess.run(command, cwd=image.ROOT, check=False).returncode != 0:
                raise SandboxError("docker build failed: its last lines say why")
            return f"{name} is among docker's images"
    if shutil.which("buildah") is None and node_packages.missing_reason():
        raise SandboxError("neither a docker that answers nor buildah is there: install one of them")
    if base == _SANDBOX_BASE and (lacking := image.missing()):
        raise SandboxError(lacking)
    output.parent.mkdir(parents=True, exist_ok=True)
    # looked up before the lock is taken: making it takes a minute, and others may build meanwhile
    archive = image_base.base() if base == _SANDBOX_BASE else None
    with image.building() as buildah:
        found = buildah.base_image(archive) if archive else base
        buildah.build(target, found, revision=revision, created=created, packages=packages)
        buildah.save(target, output)
    made = read(output)
    return f"{output}: {made.reference}, {made.size / 1e6:.0f} MB, {made.digest}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Build one target; 0 when it is there, 1 with one sentence on standard error otherwise."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.make_image", description="The operator's image.")
    parser.add_argument("--target", choices=image.TARGETS, default="operator", help="default: %(default)s")
    parser.add_argument(
        "--base",
        default="",
        help=f"the Dockerfile's BASE; {_SANDBOX_BASE}: made from Debian's packages, without any registry, as root",
    )
    parser.add_argument("--postgres-client", default="", help="tools: its package (default: the base's own)")
    parser.add_argument("--mongodb-tools", default="", help="tools: their package (default: none, as Debian has none)")
    parser.add_argument("--output", type=Path, help="buildah's archive (default: dist/selvedge-TARGET-VERSION.tar)")
    options = parser.parse_args(arguments)
    output = options.output or image.ROOT / "dist" / f"selvedge-{options.target}-{image.version()}.tar"
    asked = {"POSTGRES_CLIENT": options.postgres_client, "MONGODB_TOOLS": options.mongodb_tools}
    packages = {name: package for name, package in asked.items() if package}
    if options.target == "tools":
        for name in [name for name in asked if name not in packages]:
            print(f"warning: {_LACKS[name]}: see {name} in docs/guide/image.md", file=sys.stderr)
    try:
        print(_make(options.target, options.base, packages, output))
    except SandboxError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
