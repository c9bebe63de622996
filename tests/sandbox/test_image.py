"""The image itself: what is in it, what is not, and its programs under the constraints of a restricted pod."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sandbox import image, image_archive, image_base, make_image, sbom
from sandbox.errors import SandboxError
from tests.sandbox import image_support
from tests.waiting import wait_for

# a module's tests share what the module unpacks
pytestmark = [
    pytest.mark.xdist_group("image"),
    pytest.mark.skipif(bool(image.missing()), reason=image.missing() or "the image can be built here"),
]
_SHELLS = ("sh", "bash", "dash", "busybox", "su", "mount", "perl", "curl", "wget", "tar", "gzip")
_PROGRAMS = frozenset({*_SHELLS, "apt", "apt-get", "dpkg", "pip", "pip3", "gcc", "cc", "ld", "as", "make"})
#: Compressed, as a node pulls it. What is in it: docs/guide/image.md.
_MOST_BYTES = 54_000_000
_ALL_MODULES = """
import importlib, pkgutil, ssl, selvedge
names = [m.name for m in pkgutil.walk_packages(selvedge.__path__, "selvedge.") if not m.name.endswith("__main__")]
for name in names:
    importlib.import_module(name)
import psycopg, pydantic_core, pymongo
assert psycopg.pq.__impl__ == "binary", psycopg.pq.__impl__
assert pymongo.has_c(), "pymongo runs without its compiled half"
assert len(ssl.create_default_context().get_ca_certs()) > 100
assert psycopg.pq.version() > 170000
print(len(names))
"""
_ADVICE = """
from selvedge.migrate import load
from selvedge.migrate.lint import advice
print(*(one.rule for one in advice(load({"1_a.sql": "CREATE INDEX idx_orders_a ON orders (a);"}))))
"""
_VERSIONS = """
import importlib.metadata as m, json
print(json.dumps({d.name.lower().replace("_", "-"): d.version for d in m.distributions()}))
"""


class Unpacked(NamedTuple):
    root: Path
    config: dict[str, Any]
    archive: Path

    def run(self, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        return image_support.run(self.root, self.config, arguments, **extra)

    def files(self) -> Iterator[Path]:
        for directory, names, files in os.walk(self.root):
            yield from (Path(directory, name) for name in (*names, *files))


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Unpacked:
    root = tmp_path_factory.mktemp("image")
    archive = image.build()
    return Unpacked(root, image_support.unpack(archive, root), archive)


def test_the_configuration_is_a_restricted_pods(unpacked: Unpacked) -> None:
    config = unpacked.config
    assert config["User"] == "65532:65532"  # a number: runAsNonRoot cannot tell what a name is
    assert config["Entrypoint"] == ["/opt/selvedge/bin/selvedge"]
    assert config["Cmd"] == ["run"]
    labels = {name.rpartition(".")[2]: value for name, value in config["Labels"].items()}
    assert labels["title"] == "Selvedge"
    assert labels["version"] == image.version()
    assert labels["licenses"] == "Apache-2.0"
    assert labels["revision"] == f"sources-{unpacked.archive.parent.name.rpartition('-')[2]}"
    assert (unpacked.root / "usr/share/selvedge/revision").read_text().strip() == labels["revision"]
    assert image_archive.read(unpacked.archive).reference == image.reference()


def test_nothing_is_in_it_that_an_intruder_could_use(unpacked: Unpacked) -> None:
    found = list(unpacked.files())
    programs = {path.name for path in found if path.is_symlink() or (path.is_file() and path.stat().st_mode & 0o111)}
    assert not _PROGRAMS & programs
    assert {"selvedge", "kubectl-selvedge", "python3", "squawk"} <= programs
    for path in found:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            continue
        assert path.lstat().st_uid == 0, f"{path} could be changed by the operator's own user"
        assert not mode & (stat.S_ISUID | stat.S_ISGID), f"{path} runs as somebody else"
        assert not mode & stat.S_IWOTH or path == unpacked.root / "tmp", f"anybody may write {path}"


def test_no_link_leads_nowhere(unpacked: Unpacked) -> None:
    for path in unpacked.files():
        if path.is_symlink():
            target = path.readlink()
            whole = unpacked.root / target.relative_to("/") if target.is_absolute() else path.parent / target
            assert whole.exists() or whole.is_symlink(), f"{path} → {target}"


def test_the_machines_own_certificates_stay_outside(unpacked: Unpacked) -> None:
    """pip trusts them while the image is built; the operator does not."""
    with tarfile.open(image_base.base()) as base:
        file = base.extractfile("./etc/ssl/certs/ca-certificates.crt")
        assert file is not None
        wanted = hashlib.sha256(file.read()).hexdigest()
    found = (unpacked.root / "etc/ssl/certs/ca-certificates.crt").read_bytes()
    assert hashlib.sha256(found).hexdigest() == wanted
    assert not (unpacked.root / "run/secrets").exists()


def test_every_module_loads_as_the_images_user(unpacked: Unpacked) -> None:
    answer = unpacked.run("/opt/selvedge/bin/python3", "-c", _ALL_MODULES)
    assert answer.returncode == 0, answer.stderr
    assert int(answer.stdout) > 100
    assert unpacked.run("--version").stdout == f"selvedge {image.version()}\n"


def test_squawk_runs_as_the_images_user_with_no_place_to_write(unpacked: Unpacked) -> None:
    """The image's root is read-only here, and every library that it loads has to be there."""
    answer = unpacked.run("/opt/selvedge/bin/python3", "-c", _ADVICE)
    assert answer.stdout == "require-concurrent-index-creation\n", answer.stderr


def test_every_module_is_compiled_before(unpacked: Unpacked) -> None:
    """The root is read-only: what is not would be compiled at each start."""
    missing = []
    for top in ("opt/selvedge/lib", "usr/lib"):
        for path in (unpacked.root / top).rglob("*.py"):
            if not list(path.parent.glob(f"__pycache__/{path.stem}.cpython-*.pyc")):
                missing.append(path)
    assert not missing


def test_the_libraries_are_the_locks(unpacked: Unpacked) -> None:
    answer = unpacked.run("/opt/selvedge/bin/python3", "-c", _VERSIONS)
    found: dict[str, str] = json.loads(answer.stdout)
    assert found.pop("selvedge") == image.version()
    locked = {pin.name.lower(): pin.version for pin in sbom.pins(sbom.LOCK.read_text()) if "win32" not in pin.marker}
    assert found == locked
    assert (unpacked.root / "usr/share/selvedge/sbom.cdx.json").read_bytes() == sbom.SBOM.read_bytes()


def test_debians_packages_and_licences_are_recorded(unpacked: Unpacked) -> None:
    """Scanners look for weaknesses by these records."""
    recorded = unpacked.root / "var/lib/dpkg/status.d"
    names = {path.name for path in recorded.iterdir()}
    assert {"libc6", "libssl3", "ca-certificates", "base-files"} <= names
    for name in names:
        assert f"Package: {name}\n" in (recorded / name).read_text()
        assert (unpacked.root / "usr/share/doc" / name / "copyright").exists(), name


def test_the_size_stays_low(unpacked: Unpacked) -> None:
    layers = image_archive.read(unpacked.archive).layers
    print(*(f"{layer.size / 1e6:6.1f} MB  {layer.made_by[:70]}" for layer in layers), sep="\n")
    assert sum(layer.size for layer in layers) < _MOST_BYTES
    assert layers[2].size < _MOST_BYTES / 10, "a release changes the third layer alone: it has to be a small one"


@pytest.mark.parametrize("after", [0.0, 3.0], ids=["while it loads", "while it waits for the API"])
def test_process_1_ends_on_sigterm(unpacked: Unpacked, after: float) -> None:
    """The kernel keeps SIGTERM from a first process that has no handler for it; a kubelet would then wait a minute."""
    cluster = {"server": "https://127.0.0.1:9"}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": "none"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    }
    (unpacked.root / "tmp/kubeconfig").write_text(json.dumps(config))
    extra = {"KUBECONFIG": "/tmp/kubeconfig", "SELVEDGE_HTTP_PORT": "0", "SELVEDGE_HTTP_HOST": "127.0.0.1"}  # noqa: S108 - the image's
    command = image_support.command(unpacked.root, unpacked.config, "run")
    process = subprocess.Popen(command, env=image_support.environment(unpacked.config, **extra), text=True)
    try:
        began = time.monotonic()
        child = _first_process(process.pid)
        print(f"SIGTERM is heard {time.monotonic() - began:.2f} s after the start")
        time.sleep(after)  # a moment of the program's life: what it does then cannot be seen from outside
        os.kill(child, signal.SIGTERM)
        told = time.monotonic()
        assert process.wait(30) == 0
        print(f"ended {time.monotonic() - told:.2f} s after SIGTERM")
        assert time.monotonic() - told < 10
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _first_process(unshare: int) -> int:
    """The process that is number 1 in the namespace that ``unshare`` made, once it handles SIGTERM."""

    def handles() -> int | None:
        for child in Path(f"/proc/{unshare}/task/{unshare}/children").read_text().split():
            facts = dict(line.split(":\t", 1) for line in Path(f"/proc/{child}/status").read_text().splitlines())
            is_users = facts["Uid"].split("\t")[0] == str(image_support.USER)
            if is_users and int(facts["SigCgt"], 16) >> (signal.SIGTERM - 1) & 1:
                return int(child)
        return None

    child = wait_for(handles, 30)
    assert child is not None
    return child


@pytest.mark.long
def test_the_same_sources_give_the_same_image(tmp_path: Path) -> None:
    """Built again without what was kept of the first time."""
    first = image_archive.read(image.build())
    revision = first.config["config"]["Labels"]["org.opencontainers.image.revision"]
    with image.building() as buildah:
        base = buildah.base_image(image_base.base())
        buildah.build("operator", base, revision=revision, created=0, again=True)
        buildah.save("operator", tmp_path / "image.tar")
    assert image_archive.read(tmp_path / "image.tar").digest == first.digest


@pytest.mark.long
def test_the_tools_have_the_databases_programs(tmp_path: Path) -> None:
    config = image_support.unpack(image.build("tools"), tmp_path)
    assert config["User"] == "65532:65532"
    for program in ("/usr/bin/pg_dump", "/usr/bin/pg_restore", "/usr/bin/psql", "/usr/bin/zstd"):
        answer = image_support.run(tmp_path, config, [program, "--version"])
        assert answer.returncode == 0, answer.stderr
    answer = image_support.run(tmp_path, config, ["--version"])
    assert answer.stdout == f"selvedge {image.version()}\n", answer.stderr


def _made(*words: str, output: Path) -> subprocess.CompletedProcess[str]:
    """``make image WORDS`` as the Makefile has it, without the installation before it, into a file of the test's."""
    told = subprocess.run(
        ["make", "--dry-run", "image", *words], cwd=image.ROOT, capture_output=True, text=True, timeout=30, check=True
    )
    # a line that ends in a backslash and goes on with nothing is one
    line = told.stdout[told.stdout.rindex(".venv/bin/python -m sandbox.make_image") :].rstrip("\\\n ")
    line = f"{line} --output {output}".replace(".venv/bin/python", sys.executable)
    return subprocess.run(["bash", "-c", line], cwd=image.ROOT, capture_output=True, text=True, timeout=900, check=True)


@pytest.mark.long
def test_make_builds_the_operators_image(tmp_path: Path) -> None:
    done = _made("BASE=mmdebstrap", output=tmp_path / "image.tar")
    assert image.reference() in done.stdout
    assert "warning" not in done.stderr
    assert image_archive.read(tmp_path / "image.tar").reference == image.reference()


@pytest.mark.long
def test_make_builds_the_tools_with_the_packages_that_are_asked_for(tmp_path: Path) -> None:
    """Debian's jq stands for the tools of MongoDB, which it does not have."""
    packages = ("POSTGRES_CLIENT=postgresql-client-15", "MONGODB_TOOLS=jq")
    done = _made("BASE=mmdebstrap", "TARGET=tools", *packages, output=tmp_path / "image.tar")
    assert "warning" not in done.stderr
    root = tmp_path / "root"
    root.mkdir()
    config = image_support.unpack(tmp_path / "image.tar", root)
    for program, version in (("/usr/bin/pg_dump", "(PostgreSQL) 15."), ("/usr/bin/jq", "jq-")):
        assert version in image_support.run(root, config, [program, "--version"]).stdout


def test_tools_that_dump_no_newer_server_are_said_to(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 65532)  # nobody builds anything here
    command = ["--base", "mmdebstrap", "--target", "tools"]
    assert make_image.main(command) == 1
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 2
    assert "pg_dump" in warnings[0]
    assert "MongoDB" in warnings[1]
    assert make_image.main([*command, "--postgres-client=postgresql-client-18", "--mongodb-tools=a"]) == 1
    assert "warning" not in capsys.readouterr().err


def test_a_machine_that_has_nothing_is_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SandboxError, match="buildah is missing, and cannot be borrowed from Debian: "):
        image.build()
