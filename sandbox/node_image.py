"""Images for the node, where no registry is asked: the one that holds a pod's namespaces, and the operator's."""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from sandbox import image, tools
from sandbox.cache import cache_root, cached
from sandbox.fetch import tool_environment
from sandbox.image_archive import pack
from sandbox.node_config import PAUSE
from sandbox.process import run

_SOURCE = Path(__file__).with_name("controlplane") / "pause"
_SECONDS = 600.0


def pause() -> Path:
    """The archive of the image that every pod starts with: one static program of 1 MB."""
    digest = hashlib.sha256((_SOURCE / "main.go").read_bytes()).hexdigest()[:12]

    def build(path: Path) -> None:
        program = path / "pause"
        command: list[str | Path] = [tools.go(), "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "main.go"]
        env = tool_environment(CGO_ENABLED="0", GOTOOLCHAIN="local", GOWORK="off", GO111MODULE="off")
        if shutil.which("go") is None:
            env["GOCACHE"] = str(path / "build")
        run(command, what="the build of the pause image", timeout=_SECONDS, cwd=_SOURCE, env=env)
        shutil.rmtree(path / "build", ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=path) as scratch:
            _one_program(program, Path(scratch))
            pack(Path(scratch), PAUSE, path / "pause.tar")

    return cached(cache_root(), f"image-pause-{digest}", "the image that holds a pod's namespaces", build) / "pause.tar"


def operator() -> Path:
    """The archive of the operator's image, built from the repository's Dockerfile if that was not done already.

    Raises:
        SandboxError: it could not be built.
    """
    return image.build()


def _one_program(program: Path, layout: Path) -> None:
    """An OCI layout of an image that holds one static program, as its entry point."""
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    layer = layout / "layer.tar"
    with tarfile.open(layer, "w", format=tarfile.USTAR_FORMAT) as archive:
        entry = tarfile.TarInfo(program.name)
        entry.size, entry.mode = program.stat().st_size, 0o755
        with program.open("rb") as file:
            archive.addfile(entry, file)

    def blob(content: bytes, media_type: str) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        (blobs / digest).write_bytes(content)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    layers = [blob(layer.read_bytes(), "application/vnd.oci.image.layer.v1.tar")]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": [f"/{program.name}"]},
        "rootfs": {"type": "layers", "diff_ids": [layers[0]["digest"]]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
        "layers": layers,
    }
    described = blob(json.dumps(manifest).encode(), str(manifest["mediaType"]))
    (layout / "index.json").write_text(json.dumps({"manifests": [described]}), encoding="utf-8")
    layer.unlink()
