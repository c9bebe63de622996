"""Every command of the pages about the chart, executed; see test_docs_commands.py.

On a Kubernetes without nodes: everything but what pods do.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from sandbox import Sandbox, tools
from tests.cluster.docs_shop import walk
from tests.cluster.docs_support import ROOT, Command, Shell, blocks, clean_environment

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("docs")]
_NAMES = "jsonpath={.items[*].metadata.name}"
_IMAGES = "jsonpath={.items[*].spec.template.spec.containers[*].image}"


@pytest.fixture
def shell() -> Iterator[Shell]:
    """A cluster of the page's own, and a shell in a directory with what a clone has."""
    with Sandbox.start(postgres=(), mongodb=False) as sandbox:
        directory = Path(sandbox.directory) / "clone"
        directory.mkdir()
        for name in ("charts", "crds", "deploy"):
            (directory / name).symlink_to(ROOT / name)
        helm = {f"HELM_{name}_HOME": str(directory / name.lower()) for name in ("CACHE", "CONFIG", "DATA")}
        path = f"{tools.control_plane()}:{tools.helm().parent}"
        yield Shell(directory, clean_environment(path, KUBECONFIG=str(sandbox.kubeconfig), **helm))


def _without_pods(shell: Shell, command: Command) -> None:
    """Wait for Deployments that want no pod, since there is nowhere to run one."""
    shell.run("kubectl -n selvedge scale deployment --all --replicas=0")
    shell.execute(command)


def _installed(shell: Shell, *settings: str) -> None:
    flags = " ".join(f"--set {setting}" for setting in settings)
    shell.run(f"helm install selvedge charts/selvedge --namespace selvedge --create-namespace {flags}")


def test_install(shell: Shell):
    def install(command: Command) -> None:
        if "watchNamespaces" in command.text:
            shell.run("helm uninstall selvedge --namespace selvedge --no-hooks --wait")
            shell.run("kubectl create namespace shop; kubectl create namespace billing")
        shell.execute(command)

    special = {"helm install": install, "rollout status": lambda command: _without_pods(shell, command)}
    walk(shell, "docs/guide/install.md", special)
    assert "system:serviceaccount" not in shell.run("kubectl get rolebinding approvers -n shop -o yaml")


@pytest.mark.parametrize("shards", [1, 2])
def test_upgrade(shell: Shell, shards: int):
    """The new program comes with it, and goes with the way back; with shards as well."""
    old, new = (f"sha256:{letter * 64}" for letter in "ab")
    _installed(shell, "image.repository=registry.example.com/selvedge", f"image.digest={old}", f"shards={shards}")
    shell.changes = {"sha256:…": new}

    def images() -> list[str]:
        return shell.run(f"kubectl get deployment -n selvedge -o '{_IMAGES}'").split()

    def upgrade(command: Command) -> None:
        shell.execute(command)
        assert images() == [f"registry.example.com/selvedge@{new}"] * shards

    special = {"helm upgrade": upgrade, "rollout status": lambda command: _without_pods(shell, command)}
    walk(shell, "docs/guide/upgrade.md", special)
    assert images() == [f"registry.example.com/selvedge@{old}"] * shards


def test_scaling(shell: Shell):
    _installed(shell)
    walk(shell, "docs/guide/scaling.md", {})
    names = shell.run(f"kubectl get deployment -n selvedge -o '{_NAMES}'").split()
    assert names == [f"selvedge-shard-{index}" for index in range(3)]


def test_gitops(shell: Shell):
    """Argo CD's ConfigMap takes the patch; two managers share a resource as the page has it."""
    shell.run("kubectl create namespace argocd; kubectl -n argocd create configmap argocd-cm --from-literal=url=kept")
    shell.run("kubectl apply --server-side -f crds/; kubectl wait --for=condition=Established --timeout=30s -f crds/")
    shell.run("kubectl create namespace shop")
    texts = [block.text for block in blocks(ROOT / "docs" / "guide" / "gitops.md") if block.language == "yaml"]
    (second,) = (text for text in texts if "kind: DatabaseSchema" in text)
    (shell.directory / "reporting.yaml").write_text(second)
    (kustomization,) = (text for text in texts if "kustomize.config.k8s.io" in text)
    _repository(shell.directory / "databases", kustomization)
    shell.run("kubectl kustomize databases | kubectl apply --server-side --field-manager=flux -f -")
    # the commit that CI asks about changes what is the tool's
    servers = shell.directory / "databases" / "servers" / "10-servers.yaml"
    servers.write_text(servers.read_text().replace("lockTimeout: 3s", "lockTimeout: 4s"))
    walk(shell, "docs/guide/gitops.md", {})
    found = yaml.safe_load(shell.run("kubectl -n argocd get configmap argocd-cm -o yaml"))["data"]
    assert found.pop("url") == "kept"
    assert len(found) == len(list((ROOT / "deploy" / "gitops" / "argocd" / "selvedge.dev").iterdir()))
    schema = yaml.safe_load(shell.run("kubectl get dbs fashion-wallet -n shop -o yaml --show-managed-fields"))
    added = {grant["name"] for grant in yaml.safe_load(second)["spec"]["postgres"]["grants"]}
    assert {grant["name"] for grant in schema["spec"]["postgres"]["grants"]} > added
    managers = {entry["manager"] for entry in schema["metadata"]["managedFields"]}
    assert {"flux", "reporting-team"} <= managers


def _repository(root: Path, kustomization: str) -> None:
    """The page's repository with Fashion Wallet in it."""
    root.mkdir()
    (root / "kustomization.yaml").write_text(kustomization)
    shutil.copytree(ROOT / "migrations" / "postgres", root / "migrations")
    for name, pattern in (("servers", "*-servers.yaml"), ("schemas", "*-schema-*.yaml"), ("users", "*-users.yaml")):
        (root / name).mkdir()
        files = [shutil.copy(path, root / name) for path in (ROOT / "examples" / "fashion-wallet").glob(pattern)]
        (root / name / "kustomization.yaml").write_text(yaml.safe_dump({"resources": [Path(f).name for f in files]}))
