"""The krew plugin: its manifest's fields, and an archive that works with nothing but Python beside it."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import platform
import re
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
import yaml

from selvedge.cli.kubectl import kubectl

KREW = Path(__file__).parents[3] / "deploy" / "krew"
BASE = "https://example.com/releases/v1"


def _builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("krew_build", KREW / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BUILD = _builder()


def manifest(*platforms: str) -> dict[str, Any]:
    sums = {name: hashlib.sha256(name.encode()).hexdigest() for name in platforms or BUILD.PLATFORMS}
    document: dict[str, Any] = yaml.safe_load(BUILD.manifest(BASE + "/", sums))
    return document


def test_the_manifest_has_what_krew_asks_for() -> None:
    document = manifest()
    assert document["apiVersion"] == "krew.googlecontainertools.github.com/v1alpha2"
    assert document["kind"] == "Plugin"
    assert document["metadata"] == {"name": "selvedge"}
    spec = document["spec"]
    assert set(spec) == {"version", "shortDescription", "description", "caveats", "platforms"}
    assert spec["version"] == f"v{version('selvedge')}"
    assert re.fullmatch(r"v\d+\.\d+\.\d+", spec["version"])
    # krew takes a plugin without a page of its own: none is made up
    page = "https://example.com/selvedge"
    assert yaml.safe_load(BUILD.manifest(BASE, {}, page))["spec"]["homepage"] == page
    # krew's own rules for its index
    assert len(spec["shortDescription"]) <= 50
    assert not spec["shortDescription"].endswith(".")
    assert "kubectl" not in spec["shortDescription"].lower()
    assert all(len(line) <= 120 for text in (spec["description"], spec["caveats"]) for line in text.splitlines())


def test_every_platform_has_an_archive_of_its_own_and_its_checksum() -> None:
    platforms = manifest()["spec"]["platforms"]
    assert len(platforms) == len(BUILD.PLATFORMS)
    for entry in platforms:
        assert set(entry) == {"selector", "uri", "sha256", "bin", "files"}
        labels = entry["selector"]["matchLabels"]
        name = f"{labels['os']}_{labels['arch']}"
        assert entry["uri"] == f"{BASE}/kubectl-selvedge_v{version('selvedge')}_{name}.tar.gz"
        assert entry["sha256"] == hashlib.sha256(name.encode()).hexdigest()
        assert entry["bin"] == "kubectl-selvedge"
    assert [p["selector"]["matchLabels"]["arch"] for p in manifest("linux_arm64")["spec"]["platforms"]] == ["arm64"]


def test_the_description_names_every_command() -> None:
    shown = set(re.findall(r"^(\w+) {2,}", manifest()["spec"]["description"], re.MULTILINE))
    commands = {name for name, command in kubectl.commands.items() if not command.hidden}
    assert shown == commands - {"completion"}
    assert isinstance(kubectl, click.Group)


def test_every_library_of_the_plugin_is_locked() -> None:
    names = BUILD.libraries()
    assert {"aiohttp", "click", "kubernetes", "pydantic-core"} <= set(names)
    assert not {"psycopg", "psycopg-binary", "pymongo", "kopf"} & set(names)
    assert BUILD.locked(names).count("--hash=sha256:") >= len(names)
    with pytest.raises(SystemExit, match="no-such-library"):
        BUILD.locked(["no-such-library"])


def test_the_same_files_are_the_same_archive() -> None:
    files = {"kubectl-selvedge": b"#!/bin/sh\n", "lib/a.py": b"", "LICENSE": b"free"}
    packed = BUILD.pack(files)
    assert BUILD.pack(dict(reversed(files.items()))) == packed
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        assert [(entry.name, entry.mode, entry.mtime) for entry in tar] == [
            ("LICENSE", 0o644, 0),
            ("kubectl-selvedge", 0o755, 0),
            ("lib/a.py", 0o644, 0),
        ]


@pytest.mark.long
def test_the_archive_runs_with_nothing_but_python(tmp_path: Path) -> None:
    """Built for this machine and this Python: pip downloads the locked wheels."""
    here = {("Linux", "x86_64"): "linux_amd64", ("Linux", "aarch64"): "linux_arm64"}.get(
        (platform.system(), platform.machine())
    )
    if here is None:
        pytest.skip(f"no archive is built for {platform.system()} {platform.machine()}")
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    path = tmp_path / "archive.tar.gz"
    path.write_bytes(BUILD.archive(here, (python,)))
    with tarfile.open(path) as tar:
        tar.extractall(tmp_path / "store", filter="data")
    link = tmp_path / "kubectl-selvedge"
    link.symlink_to(tmp_path / "store" / "kubectl-selvedge")  # as krew does
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").symlink_to(sys.base_prefix + f"/bin/python{python}")
    environ = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "HOME": str(tmp_path)}

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)

    explained = run(str(link), "explain", "Verified")
    assert (explained.returncode, explained.stderr) == (0, "")
    assert explained.stdout.startswith("Verified: ")
    assert run(str(link), "--version").stdout == f"kubectl-selvedge {version('selvedge')}\n"
    modules = "approval, completion, doctor, explain, rotation, tree"
    lib = str(tmp_path / "store" / "lib")
    code = f"import sys; sys.path.insert(0, {lib!r}); from selvedge.cli import {modules}; import selvedge.kube.client"
    loaded = run(str(tmp_path / "bin" / "python3"), "-S", "-c", code)
    assert (loaded.returncode, loaded.stderr) == (0, "")
