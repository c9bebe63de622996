"""One file that holds an image, readable by ``ctr images import``, ``docker load`` and ``skopeo`` alike."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

_INDEX = "application/vnd.oci.image.index.v1+json"


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of an image: what made it, and its bytes as they lie in the archive."""

    made_by: str
    size: int


@dataclass(frozen=True, slots=True)
class Image:
    """What an archive says of its image."""

    reference: str
    digest: str
    config: dict[str, Any]
    layers: tuple[Layer, ...]

    @property
    def size(self) -> int:
        """Bytes of all layers."""
        return sum(layer.size for layer in self.layers)


def pack(layout: Path, reference: str, target: Path) -> None:
    """Write the OCI layout in the directory ``layout`` as the archive ``target``, under the name ``reference``.

    The same image gives the same bytes. ``index.json`` names the image for containerd and podman, ``manifest.json``
    for docker, which reads no other.
    """
    index = json.loads((layout / "index.json").read_text(encoding="utf-8"))
    (descriptor,) = index["manifests"]
    manifest = json.loads(_blob_path(layout, descriptor).read_text(encoding="utf-8"))
    descriptor["annotations"] = {
        "io.containerd.image.name": reference,
        "org.opencontainers.image.ref.name": reference.rpartition(":")[2],
    }
    names = {
        "index.json": {"schemaVersion": 2, "mediaType": _INDEX, "manifests": [descriptor]},
        "manifest.json": [
            {
                "Config": _blob_name(manifest["config"]),
                "RepoTags": [reference],
                "Layers": [_blob_name(layer) for layer in manifest["layers"]],
            }
        ],
        "oci-layout": {"imageLayoutVersion": "1.0.0"},
    }
    blobs = {_blob_name(part) for part in (descriptor, manifest["config"], *manifest["layers"])}
    with tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(blobs):
            path = layout / name
            with path.open("rb") as file:
                archive.addfile(_entry(name, path.stat().st_size), file)
        for name, content in names.items():
            data = json.dumps(content, sort_keys=True).encode()
            archive.addfile(_entry(name, len(data)), io.BytesIO(data))


def read(archive: Path) -> Image:
    """What ``archive`` holds.

    Raises:
        KeyError: it is no archive of :func:`pack`.
    """
    with tarfile.open(archive) as tar:

        def load(name: str) -> dict[str, Any]:
            file = tar.extractfile(name)
            if file is None:
                raise KeyError(name)
            return cast("dict[str, Any]", json.loads(file.read()))

        (descriptor,) = load("index.json")["manifests"]
        manifest = load(_blob_name(descriptor))
        config = load(_blob_name(manifest["config"]))
    made_by = [str(step.get("created_by", "")) for step in config.get("history", []) if not step.get("empty_layer")]
    made_by += [""] * (len(manifest["layers"]) - len(made_by))
    layers = tuple(Layer(step, layer["size"]) for step, layer in zip(made_by, manifest["layers"], strict=False))
    return Image(descriptor["annotations"]["io.containerd.image.name"], descriptor["digest"], config, layers)


def _blob_name(descriptor: dict[str, Any]) -> str:
    return "blobs/" + str(descriptor["digest"]).replace(":", "/", 1)


def _blob_path(layout: Path, descriptor: dict[str, Any]) -> Path:
    return layout / _blob_name(descriptor)


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size = size
    entry.mode = 0o644
    return entry
