"""One sandbox: Kubernetes, Postgres and MongoDB on this machine, started when they are asked for."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandbox import node, tools
from sandbox.control import ask, is_running, wait_for_supervisor
from sandbox.errors import SandboxError
from sandbox.handles import Part, SandboxMongo, SandboxPostgres
from sandbox.kubectl import kube_environment, run_kubectl
from sandbox.kubernetes import write_kubeconfig
from sandbox.pki import Authority, Certificate
from sandbox.ports import LOOPBACK, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_ROOT = Path(__file__).resolve().parent.parent
_DOWN_SECONDS = 60


class _PostgresServers(Mapping[str, SandboxPostgres]):
    """The Postgres servers by major version; looking one up starts it."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def __getitem__(self, version: str) -> SandboxPostgres:
        if version not in tools.POSTGRES_VERSIONS:
            raise KeyError(version)
        return self._sandbox.postgres_server(version)

    def __iter__(self) -> Iterator[str]:
        return iter(tools.POSTGRES_VERSIONS)

    def __len__(self) -> int:
        return len(tools.POSTGRES_VERSIONS)


class Sandbox:
    """A client of one sandbox's supervisor; :meth:`start` and :meth:`attach` make one."""

    def __init__(self, directory: Path, *, owned: bool = False) -> None:
        self.directory = directory
        self.postgres: Mapping[str, SandboxPostgres] = _PostgresServers(self)
        self._owned = owned
        self._state: dict[str, Any] = {"postgres": {}, "processes": {}}

    @classmethod
    def start(
        cls,
        *,
        postgres: Sequence[str] = ("15", "18"),
        mongodb: bool = True,
        kubernetes: bool = True,
        directory: Path | None = None,
        owner: int | None = None,
        remove: bool = False,
    ) -> Sandbox:
        """Start a new sandbox with these servers; any other starts when it is first used.

        Everything ends with the process ``owner`` (default: this one; 0: only by :meth:`close`). ``directory`` gets
        its state (default: a new one below /tmp); it is removed at the end if it is a new one or ``remove`` says so.

        Raises:
            SandboxError: a sandbox runs there already, or something cannot be fetched, built or started.
        """
        remove = remove or directory is None
        directory = Path(tempfile.mkdtemp(prefix="selvedge-")) if directory is None else directory.resolve()
        directory.mkdir(parents=True, exist_ok=True)
        if remove:
            directory.chmod(0o711)
        if is_running(directory):
            raise SandboxError(f"a sandbox runs in {directory} already: end it with `python -m sandbox down`")
        shutil.rmtree(directory / "kubernetes", ignore_errors=True)
        shutil.rmtree(directory / "data", ignore_errors=True)
        sandbox = cls(directory, owned=True)
        try:
            sandbox._start_supervisor(os.getpid() if owner is None else owner, remove=remove)
            parts = [f"postgres/{version}" for version in postgres]
            parts += ["mongodb"] * mongodb + ["kubernetes"] * kubernetes
            sandbox.ensure(*parts)
        except BaseException:
            sandbox.close()
            raise
        return sandbox

    @classmethod
    def attach(cls, directory: Path) -> Sandbox:
        """The sandbox that another process started in ``directory``; closing it is that process's business.

        Raises:
            SandboxError: none runs there.
        """
        sandbox = cls(directory.resolve())
        sandbox.refresh()
        return sandbox

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End every server, if this object started them; the directory goes too if it was a temporary one."""
        if self._owned:
            stop(self.directory)

    # Servers

    def ensure(self, *parts: str) -> None:
        """Start what does not run yet: ``postgres/18``, ``standby/18``, ``mongodb``, ``kubernetes``, ``scheduler``.

        Or ``node``, which is apart from all of these.
        """
        for part in parts:
            fetch(part)
        with ThreadPoolExecutor(max_workers=max(len(parts), 1)) as pool:
            for done in [pool.submit(self._control, "ensure", part) for part in parts]:
                done.result()

    def postgres_server(self, name: str) -> SandboxPostgres:
        """The Postgres server of that major version, or the standby ``18-standby``; started if it does not run."""
        if name not in self._state["postgres"]:
            version, _, standby = name.partition("-")
            self.ensure(f"standby/{version}" if standby else f"postgres/{version}")
        state = self._state["postgres"][name]
        return SandboxPostgres(
            state["version"],
            state["port"],
            state["password"],
            Path(state["ca_path"]),
            log_path=Path(state["log_path"]),
            part=Part(self._control, f"postgres/{name}"),
        )

    def start_standby(self, version: str) -> SandboxPostgres:
        """A streaming replica of ``postgres[version]``."""
        self.ensure(f"postgres/{version}")
        return self.postgres_server(f"{version}-standby")

    @property
    def mongodb(self) -> SandboxMongo:
        """The MongoDB replica set; started if it does not run."""
        if "mongodb" not in self._state:
            self.ensure("mongodb")
        state = self._state["mongodb"]
        return SandboxMongo(
            state["version"],
            state["port"],
            state["password"],
            Path(state["ca_path"]),
            log_path=Path(state["log_path"]),
            part=Part(self._control, "mongodb"),
        )

    @property
    def apiserver(self) -> Part:
        """The API server, to stop and start it; started if it does not run."""
        self._kubernetes()
        return Part(self._control, "apiserver")

    @property
    def database_authority(self) -> Authority:
        """The CA that signed the database servers' certificates, to sign a client's."""
        ca_path = self.mongodb.ca_path if "mongodb" in self._state else self.postgres["18"].ca_path
        if ca_path is None:
            raise SandboxError("the sandbox's databases have no CA")
        return Authority(ca_path.parent, "")

    # Kubernetes

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return Path(self._kubernetes()["kubeconfig"])

    def kubeconfig_for(self, user: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig for another user, who may do nothing until RBAC says so."""
        state = self._kubernetes()
        authority = Authority(Path(state["pki"]), "")
        path = self.directory / f"{user.replace(':', '-').replace('/', '-')}.kubeconfig"
        return write_kubeconfig(path, authority, state["port"], user, groups)

    def client_certificate(self, common_name: str) -> Certificate:
        """A client certificate from the CA that the database servers trust."""
        return self.database_authority.client(common_name)

    def kubectl(
        self,
        *arguments: str,
        input: str | None = None,  # noqa: A002 - subprocess.run's own name for it
        check: bool = True,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as the administrator, at most ``timeout`` seconds.

        Raises:
            SandboxError: it failed and ``check`` is true; the message carries its last line.
        """
        return run_kubectl(self.kubeconfig, *arguments, input=input, check=check, timeout=timeout)

    @property
    def node(self) -> node.NodeHandle:
        """A Kubernetes node with databases of its own, apart from everything else here; started if it does not run."""
        if "node" not in self._state:
            self.ensure("node")
        return node.NodeHandle.of(self._state["node"])

    # Commands

    def environment(self) -> dict[str, str]:
        """The environment for one ``selvedge run`` and for kubectl: this cluster, and the programs that were built.

        No setting of our own reaches the operator; it serves probes and metrics on a free port of 127.0.0.1, which is
        another one at each call: ``SELVEDGE_HTTP_PORT``.
        """
        programs = (Path(sys.executable).parent, tools.control_plane(), tools.postgres_client(), os.environ["PATH"])
        path = os.pathsep.join(str(directory) for directory in programs)
        env = {
            name: value for name, value in kube_environment(self.kubeconfig).items() if not name.startswith("SELVEDGE_")
        }
        serving = {"SELVEDGE_HTTP_HOST": LOOPBACK, "SELVEDGE_HTTP_PORT": str(free_port())}
        return {**env, **serving, "KUBECONFIG": str(self.kubeconfig), "PATH": path}

    def supervise(self, name: str, command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> Part:
        """Run ``command`` under the supervisor, started again whenever it ends; its log is ``DIRECTORY/NAME.log``."""
        words = [str(word) for word in command]
        variables = dict(self.environment() if env is None else env)
        self._state = ask(self.directory, "supervise", part=name, command=words, env=variables)
        return Part(self._control, f"process/{name}")

    def refresh(self) -> dict[str, Any]:
        """The state of every server now, process ids included (0: does not run)."""
        self._state = ask(self.directory, "state")
        return self._state

    def _kubernetes(self) -> dict[str, Any]:
        if "kubernetes" not in self._state:
            self.ensure("kubernetes")
        state: dict[str, Any] = self._state["kubernetes"]
        return state

    def _control(self, verb: str, part: str, **arguments: Any) -> dict[str, Any]:
        self._state = ask(self.directory, verb, part=part, **arguments)
        return self._state

    def _start_supervisor(self, owner: int, *, remove: bool) -> None:
        command = [sys.executable, "-m", "sandbox.supervisor", str(self.directory), str(owner)]
        command.append("remove" if remove else "keep")
        with (self.directory / "supervisor.log").open("ab") as log:
            process = subprocess.Popen(
                command, cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        wait_for_supervisor(self.directory, lambda: process.poll() is None)
        # It is not waited for: it outlives us when it has no owner, and its socket says whether it runs.
        process.returncode = 0


def stop(directory: Path) -> bool:
    """End the sandbox in ``directory`` and wait until its last process is gone; False if none ran."""
    if not is_running(directory):
        return False
    pid = int(ask(directory, "state")["pid"])
    descriptor = os.pidfd_open(pid)
    try:
        ask(directory, "down")
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        if not poll.poll(_DOWN_SECONDS * 1000):
            raise SandboxError(f"the sandbox in {directory} (process {pid}) does not end: see its supervisor.log")
    finally:
        os.close(descriptor)
    return True


def fetch(part: str) -> None:
    """Download or build what ``part`` needs, with its progress shown here and not in the supervisor's log."""
    kind, _, version = part.partition("/")
    if kind in {"postgres", "standby"}:
        tools.postgres_template(version)
        tools.postgres_client()
    elif kind == "mongodb":
        tools.mongod()
    elif kind in {"kubernetes", "scheduler"}:
        tools.control_plane()
    elif kind == "node":
        node.fetch()
