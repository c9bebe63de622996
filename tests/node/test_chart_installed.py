"""The chart, installed by helm on a real node: the operator in pods, Fashion Wallet Ready, in both modes."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from sandbox.node_wallet import NodeWallet, helm, pods, served
from sandbox.wallet import KINDS, NAMESPACE
from tests.node.conftest import RESTRICTED

if TYPE_CHECKING:
    from pathlib import Path

    from sandbox.node import NodeHandle

_NAMESPACED = (f"watchNamespaces={{{NAMESPACE}}}",)


@pytest.fixture(params=[pytest.param((), id="cluster-wide"), pytest.param(_NAMESPACED, id="namespaced")])
def wallet(
    request: pytest.FixtureRequest, node: NodeHandle, operator_image: Path, clean_databases: None
) -> Iterator[NodeWallet]:
    wallet = NodeWallet(node, settings=request.param, archive=operator_image)
    wallet.namespace = f"selvedge-{uuid.uuid4().hex[:6]}"
    yield wallet
    # the finalizers of what is deleted need the operator, the custom resources stay without it
    node.kubectl("delete", KINDS, "--all", "-n", NAMESPACE, "--timeout=60s", check=False, timeout=90)
    helm(node, "uninstall", "selvedge", "--namespace", wallet.namespace, "--wait")
    node.kubectl("delete", "namespace", wallet.namespace, NAMESPACE, "--ignore-not-found", "--timeout=60s", timeout=90)


def test_fashion_wallet_becomes_ready(node, wallet):
    wallet.install()
    node.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=60s", timeout=90)
    node.kubectl("create", "namespace", NAMESPACE, check=False)  # a request that was sent twice finds it there
    node.kubectl("label", "namespace", NAMESPACE, RESTRICTED)
    restricted = node.kubectl("get", "namespaces", "-l", RESTRICTED, "-o", "name").stdout.split()
    assert {f"namespace/{wallet.namespace}", f"namespace/{NAMESPACE}"} <= set(restricted)
    wallet.start_operator()
    wallet.secrets()
    wallet.migrations()
    for _, manifest in wallet.manifests():
        wallet.apply(manifest)
    wallet.wait_ready(KINDS, timeout=90)

    running = pods(node, wallet.namespace)
    assert len(running) == 2
    assert wallet.metric("selvedge_leader") == 1
    assert {served(node, wallet.namespace, pod, "/readyz").strip() for pod in running} == {"leader", "standby"}
    for pod in running:
        shown = json.loads(node.kubectl("get", "pod", pod, "-n", wallet.namespace, "-o", "json").stdout)
        assert [status["restartCount"] for status in shown["status"]["containerStatuses"]] == [0]
    with node.postgres.connect("fashion_wallet") as connection:
        tables = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'catalog'").fetchone()
    assert tables
    assert tables[0] > 0
    log = wallet.operator_log.read_text()
    assert "orbidden" not in log
    helm(node, "test", "selvedge", "--namespace", wallet.namespace)
    _do_as_the_notes_say(node, wallet)


def _do_as_the_notes_say(node: NodeHandle, wallet: NodeWallet) -> None:
    """Every command that helm prints after an installation."""
    notes = helm(node, "get", "notes", "selvedge", "--namespace", wallet.namespace)
    commands = [line.partition("#")[0].split()[1:] for line in notes.splitlines() if line.startswith("     kubectl ")]
    assert [words[0] if words[0] != "-n" else words[2] for words in commands] == ["rollout", "get", "wait", "create"]
    names = {"--group=GROUP": "--group=approvers", "NAMESPACE": NAMESPACE}
    for words in commands:
        inside = () if "-n" in words or "-A" in words else ("-n", NAMESPACE)
        done = node.kubectl(*(names.get(word, word) for word in words), *inside, check=False)
        assert done.returncode == 0, (words, done.stderr)
    assert "True" in node.kubectl("get", "dbsrv", "-A").stdout
