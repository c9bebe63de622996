"""``make kind-up`` on a node: its script runs as it is, up to Fashion Wallet Ready.

Not run are docker, kind and the databases' official images, of which there are none here: the node has the image
already, and the Services of deploy/kind/databases.yaml lead to the node's own Postgres and MongoDB.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from sandbox import Sandbox, node_config, tools
from sandbox import node as sandbox_node
from sandbox.errors import SandboxError
from sandbox.node_image import operator

if TYPE_CHECKING:
    from sandbox.node import NodeHandle

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.long, pytest.mark.xdist_group("node")]
_KINDS = "dbsrv,dbs,mig,dbu"


@pytest.fixture
def own_node() -> Iterator[NodeHandle]:
    """A cluster in which nothing of Selvedge is."""
    try:
        sandbox_node.fetch()
    except SandboxError as error:
        if os.environ.get("SELVEDGE_REQUIRE_NODE"):
            raise
        pytest.skip(f"no node: {error}")
    with Sandbox.start(postgres=(), mongodb=False, kubernetes=False) as sandbox:
        sandbox.ensure("node")
        yield sandbox.node


def test_the_script_brings_fashion_wallet_to_ready(own_node: NodeHandle, tmp_path: Path) -> None:
    node = own_node
    node.import_image(operator())  # `kind load docker-image`
    root = tmp_path / "repository"
    root.mkdir()
    for name in ("charts", "examples", "migrations"):
        (root / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "deploy" / "kind", root / "deploy" / "kind")
    _databases(node, root)
    environment = {**os.environ, "PATH": f"{_programs(tmp_path)}:{os.environ['PATH']}"}
    environment |= {f"HELM_{name}_HOME": str(tmp_path / name.lower()) for name in ("CACHE", "CONFIG", "DATA")}
    environment["KUBECONFIG"] = str(_kubeconfig(node, tmp_path))

    for _ in range(2):  # a second call goes on with what is there
        done = subprocess.run(
            [root / "deploy" / "kind" / "up.sh"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr + node.kubectl("get", _KINDS, "-A", "-o", "wide").stdout
        assert "everything is Ready" in done.stdout
    names = node.kubectl("get", _KINDS, "-n", "shop", "-o", "name").stdout.split()
    assert len(names) >= 9
    with node.postgres.connect("fashion_wallet") as connection:
        found = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'catalog'").fetchone()
    assert found
    assert found[0] > 0


def _kubeconfig(node: NodeHandle, directory: Path) -> Path:
    """The node's, under the name that kind gives to its cluster."""
    config = yaml.safe_load(node.kubeconfig.read_text(encoding="utf-8"))
    config["contexts"][0]["name"] = config["current-context"] = "kind-selvedge"
    path = directory / "kubeconfig"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def _programs(directory: Path) -> Path:
    """kubectl and helm, and in the place of what cannot run here programs that do nothing."""
    programs = directory / "bin"
    programs.mkdir()
    kubectl = f'case " $* " in *" exec deployment/mongodb "*) exit 0 ;; esac\nexec {tools.control_plane()}/kubectl "$@"'
    scripts = {"docker": "exit 0", "make": "exit 0", "kind": '[ "$1" = version ] && echo "kind v0.33.0"; exit 0'}
    for name, text in {**scripts, "kubectl": kubectl}.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        (programs / name).chmod(stat.S_IRWXU)
    (programs / "helm").symlink_to(tools.helm())
    return programs


def _databases(node: NodeHandle, root: Path) -> None:
    """The Services and Deployments of databases.yaml, in front of servers that run already; their passwords and CA."""
    path = root / "deploy" / "kind" / "databases.yaml"
    documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    for document in list(documents):
        if document["kind"] == "Service":
            documents.append(_slice(document))
            del document["spec"]["selector"]
        elif document["kind"] == "Deployment":
            (container,) = document["spec"]["template"]["spec"]["containers"]
            kept = {name: container[name] for name in ("name", "env", "volumeMounts")}
            container.clear()
            container.update(kept | {"image": node_config.PAUSE, "imagePullPolicy": "Never"})
    path.write_text(yaml.safe_dump_all(documents), encoding="utf-8")
    state = root / ".sandbox" / "kind"
    state.mkdir(parents=True)
    (state / "postgres.password").write_text(node.postgres.password, encoding="utf-8")
    (state / "mongodb.password").write_text(node.mongodb.password, encoding="utf-8")
    (state / "ca.crt").write_text(node.postgres.ca, encoding="utf-8")
    for name in ("postgres", "mongodb"):  # those of the servers that run are not the script's: any that holds will do
        (state / f"{name}.crt").write_text(node.postgres.ca, encoding="utf-8")
        (state / f"{name}.key").write_text("not used here\n", encoding="utf-8")
    assert (node.postgres.username, node.mongodb.username) == ("postgres", "root")  # as in the official images


def _slice(service: dict[str, Any]) -> dict[str, Any]:
    name = service["metadata"]["name"]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {**service["metadata"], "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"port": service["spec"]["ports"][0]["port"]}],
        "endpoints": [{"addresses": [node_config.ADDRESS]}],
    }
