"""Credentials that are missing or broken: one sentence of ours, and nothing of the file's content."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from selvedge.kube.credentials import load_credentials
from selvedge.kube.errors import KubeError

CONFIG = """
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://localhost:1"}}]
users: [{name: u, user: {token: marked-token}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
"""
BROKEN = {
    "no YAML": "users: [{name: u, user: {token: marked-token\n  : :",
    "empty": "",
    "a text": "marked-token",
    "a list": "- marked-token",
    "no current context": CONFIG,
    "another context": CONFIG + "current-context: marked-token\n",
    "no such user": CONFIG.replace("user: u}", "user: other}") + "current-context: x\n",
    "no CA": CONFIG.replace('1"', '1", certificate-authority: /nowhere/ca.crt') + "current-context: x\n",
    "bytes": "\x00\x01marked-token",
}


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)


async def refusal() -> str:
    with pytest.raises(KubeError) as caught:
        await load_credentials()
    assert caught.value.__cause__ is None
    return caught.value.message


async def test_a_kubeconfig_that_does_not_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    assert await refusal() == (
        f"no credentials for the Kubernetes API: the kubeconfig {tmp_path}/none, named in KUBECONFIG, does not exist: "
        "correct it, or run in a pod"
    )


async def test_no_kubeconfig_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert await refusal() == (
        f"no credentials for the Kubernetes API: the kubeconfig {tmp_path}/.kube/config does not exist: "
        "set KUBECONFIG, or run in a pod"
    )


@pytest.mark.parametrize("case", BROKEN)
async def test_a_broken_kubeconfig(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, case: str):
    path = tmp_path / "config"
    path.write_text(BROKEN[case])
    monkeypatch.setenv("KUBECONFIG", str(path))
    message = await refusal()
    assert message.startswith(f"the kubeconfig {path} cannot be used: ")
    assert "marked-token" not in message


async def test_a_kubeconfig_that_is_a_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path))
    assert (
        await refusal() == f"the kubeconfig {tmp_path} cannot be read: is a directory: correct the file or KUBECONFIG"
    )


async def test_a_pod_without_a_token(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    assert "the pod has no service account token" in await refusal()


def test_the_operator_ends_with_one_sentence_and_exit_status_1(tmp_path: Path):
    env = {**os.environ, "KUBECONFIG": str(tmp_path / "none"), "SELVEDGE_HTTP_PORT": "0"}
    env.pop("KUBERNETES_SERVICE_HOST", None)
    ended = subprocess.run(
        [sys.executable, "-m", "selvedge", "run"], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("error: no credentials for the Kubernetes API: the kubeconfig ")
    assert "Traceback" not in ended.stderr
