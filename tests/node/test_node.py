"""The node itself: what pods reach and what they do not, and that the machine is as it was."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sandbox import Sandbox, node_cgroups
from sandbox import node as sandbox_node
from sandbox.image_archive import read
from sandbox.node_config import BRIDGE, KERNEL_SETTINGS, MONGODB_PORT, POSTGRES_PORT
from sandbox.wallet import wait_until
from tests.node.probe import client, reached

if TYPE_CHECKING:
    from sandbox.node import NodeHandle


def test_a_pod_reaches_the_databases_and_the_api_server_and_nothing_of_the_machine(
    node: NodeHandle, operator_image: Path, node_namespace: str, sandbox: Sandbox
):
    inside = [f"{node.postgres_host}:{POSTGRES_PORT}", f"{node.mongodb_host}:{MONGODB_PORT}"]
    machine = [f"{node.address}:{node.postgres.port}", f"127.0.0.1:{node.postgres.port}", "192.0.2.1:80"]
    pod = client(node, node_namespace, read(operator_image).reference)
    assert reached(node, node_namespace, pod, "api", *inside, *machine) == {"api", *inside}


def test_no_interface_and_no_setting_of_the_machine_is_touched(node: NodeHandle):
    assert not Path(f"/sys/class/net/{BRIDGE}").exists()
    # kubelet would have set them all; in its own view they have the values that it wants
    for name, wanted in KERNEL_SETTINGS.items():
        assert node.enter("cat", f"/proc/sys/{name}").stdout.strip() == wanted
    assert any((Path("/proc/sys") / name).read_text().strip() != value for name, value in KERNEL_SETTINGS.items())


@pytest.mark.long
def test_a_node_whose_supervisor_is_killed_leaves_no_process_and_no_mount(node: NodeHandle, tmp_path: Path):
    tmp_path.chmod(0o711)
    with Sandbox.start(postgres=(), mongodb=False, kubernetes=False, directory=tmp_path / "sandbox") as sandbox:
        other = sandbox.node
        assert other.init != node.init
        assert all(other.running().values())
        with other.postgres.connect() as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        cgroup = node_cgroups.name(other.directory)
        os.kill(sandbox.refresh()["pid"], signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{other.init}").exists(), "the node's processes go on", 20)
    assert str(tmp_path) not in Path("/proc/mounts").read_text()
    left = [path for path in Path("/sys/fs/cgroup").glob(f"**{cgroup}") if path.is_dir()]
    assert all(not procs.read_text() for path in left for procs in path.rglob("cgroup.procs"))
    # what is left are empty names, which the next node takes away
    node_cgroups.remove(cgroup)
    assert all(node.running().values())


def test_where_no_node_can_run_the_reason_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert "apt-get" in sandbox_node.missing() or "root" in sandbox_node.missing()
