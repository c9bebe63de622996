"""The process that owns every server of one sandbox: ``python -m sandbox.supervisor DIRECTORY OWNER keep|remove``.

It ends, and the servers with it, when it is told to, on SIGTERM, and when the process OWNER is gone (0: nobody's).
With ``remove`` the directory goes too.
The servers end with it whatever ends it, because the kernel signals them (``launch.py``).
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from typing import Any

from sandbox.cache import reachable_by_others
from sandbox.control import SOCKET_NAME, STATE_NAME, listen, read_line
from sandbox.errors import SandboxError
from sandbox.kubernetes import ControlPlane
from sandbox.mongodb import MongoServer
from sandbox.node import Node
from sandbox.pki import Authority
from sandbox.postgres import PostgresServer
from sandbox.process import Daemon
from sandbox.restart import RestartingProcess


class Supervisor:
    """The servers of one sandbox, by name, and the requests that start and stop them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.postgres: dict[str, PostgresServer] = {}
        self.mongodb: MongoServer | None = None
        self.kubernetes: ControlPlane | None = None
        self.scheduler: Daemon | None = None
        self.node: Node | None = None
        self.processes: dict[str, RestartingProcess] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()
        # The database servers' directories lie elsewhere when Postgres's user cannot enter ours.
        own = directory / "data"
        self.data = own if reachable_by_others(directory) else Path(tempfile.mkdtemp(prefix="selvedge-data-"))
        self.data.mkdir(exist_ok=True)
        self.data.chmod(0o711)
        self.authority = Authority(self.data / "pki", "Selvedge sandbox databases")

    # Requests

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what one request says and return the sandbox's state.

        Raises:
            SandboxError: it cannot be done.
        """
        verb, part = request["verb"], request.get("part", "")
        with self._lock(part):
            if verb == "ensure":
                self._ensure(part)
            elif verb in {"start", "stop", "restart"}:
                self._change(verb, part, immediate=bool(request.get("immediate")))
            elif verb == "supervise":
                self._supervise(part, request["command"], request["env"])
            elif verb != "state":
                raise SandboxError(f"the sandbox knows no request {verb!r}")
        return self._save()

    def close(self) -> None:
        """End everything at once and remove what only this run needed."""
        for process in self.processes.values():
            process.stop()
        if self.scheduler is not None:
            self.scheduler.kill()
        if self.kubernetes is not None:
            self.kubernetes.kill()
        if self.mongodb is not None:
            self.mongodb.daemon.kill()
        for server in self.postgres.values():
            server.daemon.kill()
        try:
            if self.node is not None:
                self.node.kill()
        finally:
            shutil.rmtree(self.data, ignore_errors=True)
            for name in (SOCKET_NAME, STATE_NAME):
                (self.directory / name).unlink(missing_ok=True)

    def _lock(self, part: str) -> threading.Lock:
        """Parts start side by side; two requests for one part follow each other."""
        with self._guard:
            return self._locks.setdefault(part, threading.Lock())

    def _ensure(self, part: str) -> None:
        kind, _, version = part.partition("/")
        if kind == "postgres":
            if version not in self.postgres:
                directory = self.data / f"postgres-{version}"
                self.postgres[version] = PostgresServer.launch(version, directory=directory, authority=self.authority)
        elif kind == "standby":
            name = f"{version}-standby"
            if name not in self.postgres:
                primary = self.postgres[version]
                self.postgres[name] = PostgresServer.standby_of(primary, directory=self.data / f"postgres-{name}")
        elif part == "mongodb":
            data, authority = self.data / "mongodb", self.authority
            self.mongodb = self.mongodb or MongoServer.launch(directory=data, authority=authority)
        elif part == "kubernetes":
            self.kubernetes = self.kubernetes or ControlPlane.launch(self.directory / "kubernetes")
        elif part == "scheduler":
            if self.scheduler is None and self.kubernetes is not None:
                self.scheduler = self.kubernetes.start_scheduler()
        elif part == "node":
            self.node = self.node or Node.launch(self.data / "node")
        else:
            raise SandboxError(f"the sandbox has no part {part!r}")

    def _change(self, verb: str, part: str, *, immediate: bool) -> None:
        kind, _, name = part.partition("/")
        start, stop = self._switches(kind, name)
        if verb in {"stop", "restart"}:
            stop(immediate)
        if verb in {"start", "restart"}:
            start()

    def _switches(self, kind: str, name: str) -> tuple[Any, Any]:
        if kind == "postgres" and name in self.postgres:
            server = self.postgres[name]
            return server.start, lambda immediate: server.stop(immediate=immediate)
        if kind == "mongodb" and self.mongodb is not None:
            mongodb = self.mongodb
            return mongodb.start, lambda immediate: mongodb.stop(immediate=immediate)
        if kind == "apiserver" and self.kubernetes is not None:
            plane = self.kubernetes
            return plane.start_apiserver, lambda immediate: plane.stop_apiserver(immediate=immediate)
        if kind == "process" and name in self.processes:
            process = self.processes[name]
            return process.start, lambda immediate: process.stop(immediate=immediate)
        raise SandboxError(f"{kind} {name} does not run in this sandbox".replace("  ", " "))

    def _supervise(self, name: str, command: list[str], env: dict[str, str]) -> None:
        if name in self.processes:
            self.processes[name].stop()
        log_path = self.directory / f"{name}.log"
        self.processes[name] = RestartingProcess(name, command, log_path, env)
        self.processes[name].start()

    # State

    def _save(self) -> dict[str, Any]:
        state = self._state()
        with self._guard:
            scratch = self.directory / f".{STATE_NAME}"
            scratch.touch(mode=0o600)
            scratch.write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
            scratch.rename(self.directory / STATE_NAME)
        return state

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = {"pid": os.getpid(), "data": str(self.data), "postgres": {}, "processes": {}}
        for name, server in dict(self.postgres).items():
            state["postgres"][name] = _server_state(server)
        if self.mongodb is not None:
            state["mongodb"] = _server_state(self.mongodb)
        if self.kubernetes is not None:
            plane = self.kubernetes
            daemons = {**plane.daemons, **({"scheduler": self.scheduler} if self.scheduler else {})}
            state["kubernetes"] = {
                "port": plane.port,
                "kubeconfig": str(plane.kubeconfig),
                "pki": str(plane.authority.directory),
                "pids": {name: daemon.pid for name, daemon in daemons.items()},
                "logs": {name: str(daemon.log_path) for name, daemon in daemons.items()},
            }
        if self.node is not None:
            state["node"] = self.node.state()
        for name, process in dict(self.processes).items():
            state["processes"][name] = {"pid": process.pid, "starts": process.starts, "log_path": str(process.log_path)}
        return state


def _server_state(server: PostgresServer | MongoServer) -> dict[str, Any]:
    return {
        "version": server.version,
        "port": server.port,
        "password": server.password,
        "ca_path": str(server.ca_path),
        "log_path": str(server.log_path),
        "pid": server.pid,
    }


def _serve(connection: socket.socket, supervisor: Supervisor, over: int) -> None:
    with connection:
        connection.settimeout(30)
        try:
            request = read_line(connection)
            if request.get("verb") == "down":
                os.write(over, b"x")
                answer: dict[str, Any] = {"pid": os.getpid()}
            else:
                answer = supervisor.answer(request)
        except EOFError:
            return  # it only wanted to know whether somebody answers: `is_running`
        except SandboxError as error:
            answer = {"error": str(error)}
        except (ValueError, TypeError, KeyError, OSError) as error:
            traceback.print_exc()
            kind = type(error).__name__
            answer = {"error": f"the sandbox failed ({kind}: {error}): see {supervisor.directory / 'supervisor.log'}"}
        try:
            connection.sendall(json.dumps(answer).encode() + b"\n")
        except OSError as error:
            print(f"a client left before its answer: {error}", file=sys.stderr)


def main(directory: Path, owner: int, *, remove: bool) -> None:
    """Serve requests until told to end, or until ``owner`` is gone; ``remove`` the directory then."""
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: os.write(wake_write, b"x"))
    poll = select.poll()
    poll.register(wake_read, select.POLLIN)
    if owner:
        try:
            poll.register(os.pidfd_open(owner), select.POLLIN)
        except ProcessLookupError:
            return
    supervisor = Supervisor(directory)
    with listen(directory) as server:
        poll.register(server, select.POLLIN)
        try:
            while all(descriptor == server.fileno() for descriptor, _ in poll.poll()):
                connection, _ = server.accept()
                threading.Thread(target=_serve, args=(connection, supervisor, wake_write), daemon=True).start()
        finally:
            supervisor.close()
            if remove:
                shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), remove=sys.argv[3] == "remove")
