"""A Kubernetes node on this machine: pods run by kubelet and containerd, beside databases that they can reach.

All of it lives in network, mount and process namespaces of its own, so that the end of one process ends everything, no
network interface of the machine is touched and pods reach nothing outside. It needs root and Debian's packages:
:func:`missing` says what a machine lacks.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandbox import node_cgroups, node_config, node_image, node_packages, tools
from sandbox.control import ask
from sandbox.errors import SandboxError
from sandbox.kubectl import run_kubectl
from sandbox.kubernetes import write_kubeconfig
from sandbox.mongodb import MongoEndpoint
from sandbox.node_config import STATE_NAME
from sandbox.pki import Authority
from sandbox.postgres import PostgresEndpoint
from sandbox.process import Daemon, run

if TYPE_CHECKING:
    from collections.abc import Callable

PACKAGES = ("containerd", "runc", "containernetworking-plugins", "iptables", "conntrack", "iproute2")
_ROOT = Path(__file__).resolve().parent.parent
_START_SECONDS = 170.0
_FORWARD_SECONDS = 20.0
_IMPORT_SECONDS = 300.0


def missing() -> str:
    """One sentence on why no node can run here; empty where one can."""
    return node_packages.missing_reason() or ("" if node_cgroups.available() else "/sys/fs/cgroup is not mounted")


def fetch() -> None:
    """Download and build all that a node runs, with its progress shown.

    Raises:
        SandboxError: something could not be had.
    """
    if reason := missing():
        raise SandboxError(f"a node cannot run here: {reason}")
    tools.control_plane()
    tools.mongod()
    tools.postgres_template("18")
    tools.postgres_client()
    node_packages.unpacked(PACKAGES)
    node_image.pause()


class Node:
    """A running node, held by the process that started it; made by :meth:`launch`."""

    def __init__(self, directory: Path, daemon: Daemon) -> None:
        self.directory = directory
        self.daemon = daemon
        self.forward: Daemon | None = None
        self.ports: dict[str, int] = {}
        self.init = 0

    @classmethod
    def launch(cls, directory: Path) -> Node:
        """Start a node in ``directory`` and return when it is Ready, after about ten seconds.

        Raises:
            SandboxError: it does not start; the message names the log.
        """
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        directory.chmod(0o711)
        packages = node_packages.unpacked(PACKAGES)
        # unshare ends when its child does, and the child is killed with it: then the kernel ends all the others.
        command: list[str | Path] = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child=KILL"]
        command += ["--mount-proc", "--propagation", "private", sys.executable, "-m", "sandbox.node_init"]
        command.append(directory)
        if packages is not None:
            command.append(packages)
        daemon = Daemon("the node", command, directory / "node.log", cwd=_ROOT)
        node = cls(directory, daemon)
        try:
            daemon.start_until((directory / STATE_NAME).exists, _START_SECONDS)
            node._open()
        except BaseException:
            node.kill()
            raise
        return node

    def state(self) -> dict[str, Any]:
        """What a client has to know, whatever process it is in."""
        return {
            "directory": str(self.directory),
            "pid": self.daemon.pid,
            "init": self.init if self.daemon.alive else 0,
            "ports": self.ports,
            "kubeconfig": str(self.directory / "kubeconfig"),
            "log_path": str(self.daemon.log_path),
        }

    def kill(self) -> None:
        """End it at once, with all its pods, and remove what the machine holds for it."""
        if self.forward is not None:
            self.forward.kill()
        self.daemon.kill()
        node_cgroups.remove(node_cgroups.name(self.directory))

    def _open(self) -> None:
        """Make a way in from the machine, and a kubeconfig for it."""
        self.init = self._first_process()
        file = self.directory / "forward.json"
        targets = {
            "kubernetes": node_config.API_PORT,
            "postgres": node_config.POSTGRES_PORT,
            "mongodb": node_config.MONGODB_PORT,
        }
        command: list[str | Path] = [sys.executable, "-m", "sandbox.node_forward", str(self.init), file]
        command += [f"{name}={port}" for name, port in targets.items()]
        self.forward = Daemon("the node's forwarder", command, self.directory / "forward.log", cwd=_ROOT)
        self.forward.start_until(file.exists, _FORWARD_SECONDS)
        self.ports = json.loads(file.read_text(encoding="utf-8"))
        state = json.loads((self.directory / STATE_NAME).read_text(encoding="utf-8"))
        authority = Authority(Path(state["pki"]), "")
        write_kubeconfig(
            self.directory / "kubeconfig", authority, self.ports["kubernetes"], "selvedge-admin", ["system:masters"]
        )

    def _first_process(self) -> int:
        """The process id, as the machine counts, of the first process in the namespaces."""
        pid = self.daemon.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        if len(children) != 1:
            raise SandboxError(f"the node's first process is not there: see {self.daemon.log_path}")
        return int(children[0])


@dataclass(slots=True)
class NodeMongo(MongoEndpoint):
    """The node's MongoDB, for a client outside, who must not ask for the member's name: only pods can look it up."""

    def uri(self, database: str = "", *, username: str = "", password: str = "", **options: str) -> str:
        """A connection string, the administrator's unless ``username`` and ``password`` are given."""
        return MongoEndpoint.uri(
            self, database, username=username, password=password, **{"directConnection": "true", **options}
        )


@dataclass(slots=True)
class NodeHandle:
    """A node as the tests and the demo hold it.

    ``postgres`` and ``mongodb`` are for clients on the machine; pods know the servers as ``postgres_host`` and
    ``mongodb_host`` on the usual ports.
    """

    directory: Path
    init: int
    kubeconfig: Path
    postgres: PostgresEndpoint
    mongodb: MongoEndpoint
    postgres_host: str = node_config.POSTGRES_HOST
    mongodb_host: str = node_config.MONGODB_HOST
    address: str = node_config.ADDRESS
    _imported: set[Path] = field(default_factory=set)

    @classmethod
    def of(cls, state: dict[str, Any]) -> NodeHandle:
        """The handle of the node with this :meth:`Node.state`."""
        directory, ports = Path(state["directory"]), state["ports"]
        databases = json.loads((directory / STATE_NAME).read_text(encoding="utf-8"))["databases"]

        def endpoint(kind: Callable[..., Any], name: str) -> Any:
            known = databases[name]
            log_path = directory / name / "server.log"
            return kind(known["version"], ports[name], known["password"], Path(known["ca_path"]), log_path=log_path)

        return cls(
            directory,
            state["init"],
            Path(state["kubeconfig"]),
            endpoint(PostgresEndpoint, "postgres"),
            endpoint(NodeMongo, "mongodb"),
        )

    def kubectl(
        self,
        *arguments: str,
        input: str | None = None,  # noqa: A002 - subprocess.run's own name for it
        check: bool = True,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as the node's administrator, at most ``timeout`` seconds.

        Raises:
            SandboxError: it failed and ``check`` is true; the message carries its last line.
        """
        return run_kubectl(self.kubeconfig, *arguments, input=input, check=check, timeout=timeout)

    def import_image(self, archive: Path) -> None:
        """Give containerd the image of an OCI or docker archive; a pod uses it with ``imagePullPolicy: Never``.

        Raises:
            SandboxError: containerd does not take it.
        """
        if archive in self._imported:
            return
        ctr = ("ctr", "--address", node_config.SOCKET, "--namespace", "k8s.io", "images", "import", str(archive))
        self.enter(*ctr, timeout=_IMPORT_SECONDS)
        self._imported.add(archive)

    def enter(self, *command: str, check: bool = True, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a program inside the node's namespaces, as root, for at most ``timeout`` seconds.

        Raises:
            SandboxError: it failed and ``check`` is true.
        """
        words = ["nsenter", f"--target={self.init}", "--net", "--mount", "--pid", "--", *command]
        env = {**os.environ, "PATH": f"/usr/sbin:/sbin:{os.environ['PATH']}"}
        return run(words, what=f"{command[0]} in the node", timeout=timeout, check=check, env=env)

    def stop(self, part: str, *, immediate: bool = False) -> None:
        """Stop ``postgres``, ``mongodb``, ``apiserver``, ``kubelet`` …; ``immediate`` as in a crash."""
        ask(self.directory, "stop", part=part, immediate=immediate)

    def start(self, part: str) -> None:
        """Start it again, and wait until it answers."""
        ask(self.directory, "start", part=part)

    def running(self) -> dict[str, bool]:
        """Which of its programs run."""
        answer: dict[str, bool] = ask(self.directory, "state")["running"]
        return answer
