"""An image unpacked on this machine, and its programs run as a container's: read-only, unprivileged, process 1."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sandbox.image_archive import read

USER = 65532


def unpack(archive: Path, root: Path) -> dict[str, Any]:
    """Lay the layers of ``archive`` into ``root``; the image's configuration."""
    root.chmod(0o755)
    with tarfile.open(archive) as tar:
        manifest = tar.extractfile("manifest.json")
        assert manifest is not None
        for name in json.load(manifest)[0]["Layers"]:
            layer = tar.extractfile(name)
            # tar keeps owners and modes as they are, which is what a container runtime does
            subprocess.run(["tar", "--extract", "--gzip", "--directory", root], input=layer.read(), check=True)
    config: dict[str, Any] = read(archive).config["config"]
    return config


def command(root: Path, config: Mapping[str, Any], *arguments: str) -> list[str]:
    """The words that run the image's entrypoint as a container does, or what ``arguments`` name by an absolute path."""
    words = [*([] if arguments and arguments[0].startswith("/") else config["Entrypoint"]), *arguments]
    # the mount is seen by this process alone, and ends with it
    script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    inside = [shutil.which("chroot") or "chroot", f"--userspec={USER}:{USER}", "--groups=", str(root), *words]
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script, str(root), *inside]


def environment(config: Mapping[str, Any], **extra: str) -> dict[str, str]:
    """What a container's first process sees: the image's variables, and nothing of ours."""
    return dict(entry.split("=", 1) for entry in config["Env"]) | extra


def run(
    root: Path, config: Mapping[str, Any], arguments: Sequence[str], **extra: str
) -> subprocess.CompletedProcess[str]:
    """Run to its end in the image, at most two minutes."""
    return subprocess.run(
        command(root, config, *arguments),
        env=environment(config, **extra),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
