"""The node, inside its namespaces: ``python -m sandbox.node_main DIRECTORY``, started by :mod:`sandbox.node_init`.

A control plane of its own, Postgres and MongoDB, containerd, kubelet, kube-proxy and CoreDNS, all on the address of the
pods' bridge. ``DIRECTORY/node.json`` appears when the node is Ready; after that it answers requests to stop and start
its parts, on a Unix socket.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sandbox import node_cgroups, node_config, node_image, tools
from sandbox.control import listen, read_line
from sandbox.errors import SandboxError
from sandbox.kubectl import run_kubectl
from sandbox.kubernetes import ControlPlane, write_kubeconfig
from sandbox.mongodb import MongoServer
from sandbox.node_config import ADDRESS, BRIDGE, NAME, STATE_NAME
from sandbox.pki import Authority, Certificate
from sandbox.ports import LOOPBACK
from sandbox.postgres import PostgresServer
from sandbox.process import Daemon, run

_SECONDS = 120.0
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class _Databases(Authority):
    """The databases' CA, whose certificates hold for the names by which pods know the servers, too."""

    def server(
        self, name: str, dns_names: Iterable[str] = ("localhost",), addresses: Iterable[str] = (LOOPBACK,)
    ) -> Certificate:
        own = (node_config.POSTGRES_HOST, node_config.MONGODB_HOST, *node_config.SERVICE_HOSTS)
        return super().server(name, (*dns_names, *own), (*addresses, ADDRESS))


class NodeParts:
    """Every program of the node."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.daemons: dict[str, Daemon] = {}
        self.authority = _Databases(directory / "pki", "Selvedge sandbox databases")
        self._environment = {"PATH": _PATH, "HOME": str(directory)}

    def start(self) -> None:
        """Start all of it and return when the node is Ready.

        Raises:
            SandboxError: a program did not start.
        """
        _network()
        node_cgroups.join(node_cgroups.name(self.directory))
        with ThreadPoolExecutor(max_workers=4) as pool:
            futures = [
                pool.submit(part) for part in (self._containerd, self._kubernetes, self._postgres, self._mongodb)
            ]
            for future in futures:
                future.result()
        self._kubelet()
        self._dns()
        kubeconfig = self.plane.kubeconfig
        run_kubectl(kubeconfig, "wait", f"--timeout={_SECONDS:.0f}s", "--for=create", f"node/{NAME}", timeout=_SECONDS)
        wait = ("wait", f"--timeout={_SECONDS:.0f}s", "--for=condition=Ready", f"node/{NAME}")
        run_kubectl(kubeconfig, *wait, timeout=_SECONDS)

    def state(self) -> dict[str, Any]:
        """What a client has to know."""
        servers: dict[str, PostgresServer | MongoServer] = {"postgres": self.postgres, "mongodb": self.mongodb}
        daemons = {**self.plane.daemons, **self.daemons, **{name: s.daemon for name, s in servers.items()}}
        return {
            "pki": str(self.plane.authority.directory),
            "databases": {name: _database(server) for name, server in servers.items()},
            "logs": {name: str(daemon.log_path) for name, daemon in daemons.items()},
            "running": {name: daemon.alive for name, daemon in daemons.items()},
        }

    def change(self, verb: str, part: str, *, immediate: bool) -> None:
        """Stop or start one part.

        Raises:
            SandboxError: there is none of that name, or it does not start.
        """
        start: Callable[[], None]
        stop: Callable[..., None]
        if part == "apiserver":
            start, stop = self.plane.start_apiserver, self.plane.stop_apiserver
        elif part in {"postgres", "mongodb"}:
            server: PostgresServer | MongoServer = self.postgres if part == "postgres" else self.mongodb
            start, stop = server.start, server.stop
        elif part in self.daemons:
            daemon = self.daemons[part]
            start = daemon.start

            def stop(*, immediate: bool) -> None:
                if immediate:
                    daemon.kill()
                else:
                    daemon.stop()
        else:
            raise SandboxError(f"the node has no part {part!r}")
        if verb in {"stop", "restart"}:
            stop(immediate=immediate)
        if verb in {"start", "restart"}:
            start()

    def _run(self, name: str, command: Iterable[str | Path]) -> Daemon:
        daemon = Daemon(name, list(command), self.directory / f"{name}.log", env=self._environment)
        self.daemons[name] = daemon
        daemon.start()
        return daemon

    def _write(self, name: str, content: str) -> Path:
        path = self.directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")
        return path

    def _containerd(self) -> None:
        self._write("cni/10-selvedge.conflist", node_config.cni(self.directory))
        config = self._write("containerd.toml", node_config.containerd(self.directory))
        daemon = self._run("containerd", ["containerd", "--config", config])
        ctr = ["ctr", "--address", node_config.SOCKET, "--namespace", "k8s.io"]

        def answers() -> bool:
            return run([*ctr, "version"], what="ctr version", timeout=30, check=False).returncode == 0

        daemon.wait_until(answers, _SECONDS)
        run([*ctr, "images", "import", node_image.pause()], what="ctr images import", timeout=_SECONDS)

    def _kubernetes(self) -> None:
        directory = self.directory / "kubernetes"
        self.plane = ControlPlane.launch(directory, address=ADDRESS, port=node_config.API_PORT)
        self.daemons["scheduler"] = self.plane.start_scheduler()

    def _postgres(self) -> None:
        server = PostgresServer.launch(
            directory=self.directory / "postgres",
            authority=self.authority,
            settings={"listen_addresses": f"{LOOPBACK},{ADDRESS}"},
            port=node_config.POSTGRES_PORT,
        )
        with (server.directory / "data" / "pg_hba.conf").open("a", encoding="utf-8") as file:
            file.write(f"hostssl  all  all  {node_config.PODS}  scram-sha-256\n")
        with server.connect() as connection:
            connection.execute("SELECT pg_reload_conf()")
        self.postgres = server

    def _mongodb(self) -> None:
        self.mongodb = MongoServer.launch(
            directory=self.directory / "mongodb",
            authority=self.authority,
            port=node_config.MONGODB_PORT,
            host=node_config.MONGODB_HOST,
            address=f"{LOOPBACK},{ADDRESS}",
        )

    def _kubelet(self) -> None:
        programs = tools.control_plane()
        self._write("resolv.conf", "")
        cgroup = node_cgroups.name(self.directory)
        config = self._write(
            "kubelet.json", node_config.kubelet(self.directory, self.plane.authority.certificate_path, cgroup)
        )
        login = self._login("kubelet", f"system:node:{NAME}", ["system:nodes"])
        command: list[str | Path] = [programs / "kubelet", f"--config={config}", f"--kubeconfig={login}"]
        command += [f"--hostname-override={NAME}", f"--node-ip={ADDRESS}", f"--root-dir={self.directory / 'kubelet'}"]
        self._run("kubelet", [*command, f"--cert-dir={self.directory / 'kubelet-pki'}"])
        config = self._write("proxy.json", node_config.kube_proxy(self._login("kube-proxy", "system:kube-proxy", [])))
        self._run("kube-proxy", [programs / "kube-proxy", f"--config={config}"])

    def _dns(self) -> None:
        login = self._login("coredns", "coredns", ["system:masters"])
        config = self._write("Corefile", node_config.corefile(login))
        daemon = self._run("coredns", [tools.control_plane() / "coredns", "-conf", config])
        daemon.wait_until(_dns_is_ready, _SECONDS)

    def _login(self, name: str, user: str, groups: list[str]) -> Path:
        plane = self.plane
        return write_kubeconfig(self.directory / f"{name}.kubeconfig", plane.authority, plane.port, user, groups)


def _database(server: PostgresServer | MongoServer) -> dict[str, str]:
    return {"version": server.version, "password": server.password, "ca_path": str(server.ca_path)}


def _network() -> None:
    """The bridge is there before the pods, because servers listen on its address."""
    for words in (
        ["link", "set", "lo", "up"],
        ["link", "add", BRIDGE, "type", "bridge"],
        ["address", "add", f"{ADDRESS}/24", "dev", BRIDGE],
        ["link", "set", BRIDGE, "up"],
    ):
        run(["ip", *words], what=f"ip {' '.join(words)}", timeout=30)


def _dns_is_ready() -> bool:
    try:
        with socket.create_connection(node_config.DNS_READY, 2) as connection:
            connection.sendall(b"GET /ready HTTP/1.0\r\n\r\n")
            return b" 200 " in connection.recv(100)
    except OSError:
        return False


def _answer(connection: socket.socket, parts: NodeParts, lock: threading.Lock) -> None:
    with connection, ExitStack() as held:
        held.enter_context(lock)
        try:
            request = read_line(connection)
            if request["verb"] != "state":
                parts.change(request["verb"], request["part"], immediate=bool(request.get("immediate")))
            answer = parts.state()
        except EOFError:
            return
        except (SandboxError, ValueError, TypeError, KeyError) as error:
            answer = {"error": str(error)}
        connection.sendall(json.dumps(answer).encode() + b"\n")


def main(directory: Path) -> None:
    """Start the node, say so, and answer requests until the namespaces end."""
    os.environ["PATH"] = f"{_PATH}:{os.environ.get('PATH', '')}"
    parts = NodeParts(directory)
    parts.start()
    lock = threading.Lock()
    with listen(directory) as server:
        scratch = directory / f".{STATE_NAME}"
        scratch.touch(mode=0o600)
        scratch.write_text(json.dumps(parts.state(), indent=2) + "\n", encoding="utf-8")
        scratch.rename(directory / STATE_NAME)
        while True:
            connection, _ = server.accept()
            threading.Thread(target=_answer, args=(connection, parts, lock), daemon=True).start()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        main(Path(sys.argv[1]))
    except SandboxError as error:
        sys.exit(f"error: {error}")
