"""``make kind-up`` as far as it goes without Docker: what its script would run, and what kubectl and helm say to it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from sandbox import Sandbox, tools

ROOT = Path(__file__).parents[2]
KIND = ROOT / "deploy" / "kind"
pytestmark = pytest.mark.long


def copied(root: Path) -> Path:
    """The script in a directory of its own, with what it needs."""
    for name in ("charts", "examples", "migrations"):
        (root / name).symlink_to(ROOT / name)
    shutil.copytree(KIND, root / "deploy" / "kind")
    return root / "deploy" / "kind" / "up.sh"


def dry_run(script: Path, **programs: str) -> subprocess.CompletedProcess[str]:
    """What it would run; ``programs`` are texts of shell scripts that stand in the place of others."""
    directory = script.parent / "bin"
    directory.mkdir(exist_ok=True)
    for name, text in programs.items():
        (directory / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        (directory / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{directory}:{os.environ['PATH']}"}
    command = [str(script), "--dry-run"]
    return subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[str]]]:
    """The script's directory, a copy, and the commands that it would run there."""
    root = tmp_path_factory.mktemp("kind")
    done = dry_run(copied(root))
    assert done.returncode == 0, done.stderr
    # an argument of several lines is in the shell's own quotes, which only the shell undoes
    lines = [line[2:] for line in done.stdout.splitlines() if line.startswith("+ ") and "exec" not in line.split()]
    return root, [shlex.split(line) for line in lines]


@pytest.fixture
def script(printed: tuple[Path, list[list[str]]], tmp_path: Path) -> Path:
    """Another copy, which was called before: its certificates are there."""
    found = copied(tmp_path)
    shutil.copytree(printed[0] / ".sandbox", tmp_path / ".sandbox")
    return found


@pytest.fixture(scope="module")
def cluster() -> Iterator[Sandbox]:
    """A Kubernetes without nodes."""
    with Sandbox.start(postgres=(), mongodb=False) as sandbox:
        yield sandbox


def test_the_script_is_one_for_the_shell():
    subprocess.run(["bash", "-n", str(KIND / "up.sh")], check=True, timeout=30)
    assert os.access(KIND / "up.sh", os.X_OK)
    (node,) = yaml.safe_load((KIND / "cluster.yaml").read_text())["nodes"]
    assert "@sha256:" in node["image"]


def test_a_cluster_with_the_image_comes_first(printed):
    _, commands = printed
    image = f"selvedge:{yaml.safe_load((ROOT / 'charts' / 'selvedge' / 'Chart.yaml').read_text())['appVersion']}"
    assert [command[:3] for command in commands[1:3]] == [
        ["kind", "create", "cluster"],
        ["kind", "load", "docker-image"],
    ]
    assert commands[2][3] == image


def test_everything_that_kubectl_and_helm_are_told_is_accepted(printed, cluster):
    root, commands = printed
    path = f"{tools.control_plane()}:{tools.helm().parent}:{os.environ['PATH']}"
    home = {f"HELM_{name}_HOME": str(root / name.lower()) for name in ("CACHE", "CONFIG", "DATA")}
    environment = {"PATH": path, "KUBECONFIG": str(cluster.kubeconfig), **home}
    run = 0
    for command in commands:
        if (
            command[0] not in ("kubectl", "helm")
            or "use-context" in command
            or "rollout" in command
            or "wait" in command
        ):
            continue  # these wait for pods, or choose kind's cluster
        words = [word for word in command if not word.startswith("--wait")]
        done = subprocess.run(
            words, cwd=root, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, f"{shlex.join(words)}: {done.stderr}"
        run += 1
    assert run >= 16
    found = cluster.kubectl("get", "dbsrv,dbs,mig,dbu", "-n", "shop", "-o", "name").stdout.split()
    assert len(found) >= 9


def certificates(state: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(state.glob("*.crt"))}


def verify(state: Path, name: str) -> None:
    command = ["openssl", "verify", "-CAfile", str(state / "ca.crt"), "-verify_hostname", f"{name}.databases.svc"]
    done = subprocess.run(
        [*command, str(state / f"{name}.crt")], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def expire(state: Path, name: str) -> None:
    """The same certificate, from now to now."""
    signer = ["-CA", state / "ca.crt", "-CAkey", state / "ca.key", "-CAcreateserial", "-days", "0"]
    command = ["openssl", "x509", "-req", "-in", state / f"{name}.csr", *signer, "-out", state / f"{name}.crt"]
    subprocess.run(command, capture_output=True, timeout=30, check=True)


def test_the_certificates_are_for_the_services(printed):
    root, _ = printed
    state = root / ".sandbox" / "kind"
    for name in ("postgres", "mongodb"):
        verify(state, name)
        assert (state / f"{name}.key").stat().st_mode & 0o077 == 0
    hosts = {
        document["spec"]["hosts"][0]["host"] for document in yaml.safe_load_all((KIND / "servers.yaml").read_text())
    }
    assert hosts == {"postgres.databases.svc", "mongodb.databases.svc"}


def test_certificates_that_hold_are_kept_and_those_that_end_are_made_anew(script, tmp_path):
    state = tmp_path / ".sandbox" / "kind"
    before = certificates(state)
    assert dry_run(script).returncode == 0
    assert certificates(state) == before
    expire(state, "mongodb")
    done = dry_run(script)
    assert done.returncode == 0, done.stderr
    for name in ("postgres", "mongodb"):
        verify(state, name)
    pem = (state / "server.pem").read_bytes()
    assert pem == (state / "mongodb.crt").read_bytes() + (state / "mongodb.key").read_bytes()


def test_servers_that_run_with_certificates_that_end_are_not_gone_on_with(script, tmp_path):
    state = tmp_path / ".sandbox" / "kind"
    expire(state, "postgres")
    before = certificates(state)
    done = dry_run(script, kind="echo selvedge")
    assert done.returncode == 1
    assert "expire within a day: make kind-down, then make kind-up" in done.stderr
    assert "+ kubectl" not in done.stdout
    assert certificates(state) == before


def test_what_openssl_says_to_a_failure_is_shown(script, tmp_path):
    (tmp_path / ".sandbox" / "kind" / "ca.crt").unlink()
    program = shutil.which("openssl")
    done = dry_run(script, openssl=f'[ "$1" = req ] && {{ echo no entropy >&2; exit 1; }}\nexec {program} "$@"')
    assert done.returncode == 1
    assert "no entropy" in done.stderr
