"""A control plane of a test's own with the chart installed by helm, and its pods' programs as processes beside it.

There is no node: what a pod would do, a process does with the token of the chart's own ServiceAccount, and so with no
right beyond the chart's. What helm waits for (the Job before an uninstallation) is run by :class:`Jobs`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sandbox import PostgresServer, Sandbox, tools
from tests.cluster.kube_api import KINDS, KubeApi
from tests.cluster.operator_process import OperatorProcess
from tests.cluster.rights import as_account
from tests.cluster.world import World, unready, wait_for

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "selvedge"
OLD_CHART = ROOT / "tests" / "fixtures" / "charts" / "selvedge-0.1.0.tgz"
OPS, SHOP = "ops", "shop"
#: Nothing may hang for longer, whatever is taken away first.
HANGING_SECONDS = 60.0
#: For everything else that has to happen.
SECONDS = 120.0
WRITES = (
    "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements"
    " WHERE query ~* '^\\s*(INSERT|UPDATE|DELETE|MERGE|CREATE|ALTER|DROP|GRANT|REVOKE|COMMENT|TRUNCATE)'"
)


@dataclass(slots=True)
class Release:
    """One cluster, one release, one Postgres, and resources in the namespace ``shop``."""

    sandbox: Sandbox
    postgres: PostgresServer
    directory: Path
    world: World
    started: list[OperatorProcess] = field(default_factory=list)

    def helm(self, *arguments: str, timeout: float = SECONDS, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run helm in the namespace of the operator."""
        command = [str(tools.helm()), *arguments, "--namespace", OPS, "--kubeconfig", str(self.sandbox.kubeconfig)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
        assert not check or done.returncode == 0, done.stderr
        return done

    def install(self, chart: Path = CHART, *settings: str) -> None:
        """Install or upgrade the release."""
        flags = [flag for setting in settings for flag in ("--set", setting)]
        self.helm("upgrade", "--install", "selvedge", str(chart), "--create-namespace", *flags)

    def upgrade(self, *settings: str) -> None:
        """As the page on upgrading has it."""
        flags = [flag for setting in settings for flag in ("--set", setting)]
        self.helm("upgrade", "selvedge", str(CHART), "--reset-then-reuse-values", *flags)

    def operator(self, *, leading: bool = True, **env: str) -> OperatorProcess:
        """A process in the place of a pod: its ServiceAccount, its Lease."""
        path = self.account(self.directory / f"account-{len(self.started)}")
        log = self.directory / f"operator-{len(self.started)}.log"
        operator = OperatorProcess(path, log, lease_namespace=OPS, lease_name="selvedge", env=env)
        self.started.append(operator)
        operator.daemon.start_until(operator.leads if leading else operator.answers, SECONDS)
        self.world.operator = operator
        return operator

    def account(self, path: Path, name: str = "selvedge") -> Path:
        """A kubeconfig with a fresh token of a ServiceAccount of the chart."""
        config = as_account(self.sandbox.kubectl, self.sandbox.kubeconfig, OPS, name)
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        return path

    def declare(self, world: World | None = None) -> None:
        """A server, a database that is kept, one that goes with its resource, logins, and migrations with rows.

        In a ``world`` of another namespace, which is there, the names of databases and roles begin with the world's.
        """
        if world is None:
            self.sandbox.kubectl("create", "namespace", SHOP)
            world = self.world
        prefix = "" if world is self.world else f"{world.name}_"
        world.server(self.postgres)
        for name, policy in (("kept", "Retain"), ("scratch", "Delete")):
            owner, reader = f"{prefix}{name}_owner", f"{prefix}{name}_reader"
            postgres = {
                "owner": owner,
                "roles": [{"name": owner}, {"name": reader}],
                "schemas": [{"name": "stock", "owner": owner}],
                "grants": [
                    {"name": "connect", "privileges": ["CONNECT"], "objects": {"database": True}, "to": [reader]},
                    {"name": "read", "privileges": ["SELECT"], "objects": {"tables": ["stock.items"]}, "to": [reader]},
                ],
            }
            text = "CREATE TABLE stock.items (id int); INSERT INTO stock.items SELECT generate_series(1, 5);"
            data = {"20250101000000_items.sql": text}
            world.api.apply({"kind": "ConfigMap", "metadata": {"name": f"{name}-migrations"}, "data": data})
            migrations = {"source": {"configMaps": [{"name": f"{name}-migrations"}]}}
            # Each is looked at again soon, so that a test need not wait for what a pass would do.
            more = {"migrations": migrations, "deletionPolicy": policy, "interval": "10s"}
            world.schema(name, database=f"{prefix}{name}", postgres=postgres, **more)
            user = {"schemaRef": {"name": name}, "username": f"{prefix}{name}_app", "roles": [{"role": reader}]}
            world.api.apply(
                {"kind": "DatabaseUser", "metadata": {"name": name}, "spec": {**user, "deletionPolicy": policy}}
            )

    def all_ready(self, world: World | None = None) -> None:
        """Wait until everything is Ready for its present generation."""
        api, operator = (world or self.world).api, self.world.operator
        wait_for(
            lambda: not unready(api, *KINDS), SECONDS, what=lambda: (unready(api, *KINDS), operator.logs()[-1500:])
        )

    def passes(self, operator: OperatorProcess) -> None:
        """Wait until this operator has looked at every login, and twice at every database."""
        for kind, times in (("DatabaseSchema", 2), ("DatabaseUser", 1)):
            wanted = times * len(self.world.api.list(kind))
            wait_for(
                lambda kind=kind, wanted=wanted: (
                    operator.value("selvedge_reconcile_total", kind=kind, result="success") >= wanted
                ),
                SECONDS,
                what=lambda: operator.logs()[-1500:],
            )

    def writes(self) -> int:
        """Statements that write, by anybody, since the server started."""
        return int(self.world.ask(WRITES, database="postgres"))

    def rows(self, database: str) -> int:
        """The rows that the migrations made; -1 where the database is gone."""
        if not self.world.ask(f"SELECT count(*) FROM pg_database WHERE datname = '{database}'", database="postgres"):
            return -1
        return int(self.world.ask("SELECT count(*) FROM stock.items", database=database))

    def delete(self, *namespaces: str) -> None:
        """Delete namespaces, and wait for nothing."""
        self.sandbox.kubectl("delete", "namespace", *namespaces, "--wait=false")

    def message(self, namespace: str) -> str:
        """What the conditions of a namespace say."""
        conditions = ("get", "namespace", namespace, "-o", "jsonpath={.status.conditions[*].message}")
        return self.sandbox.kubectl(*conditions, check=False).stdout

    def let_go(self, *options: str) -> subprocess.CompletedProcess[str]:
        """``selvedge release`` as an administrator of the cluster runs it."""
        command = [sys.executable, "-m", "selvedge", "release", *options]
        command += ["--kubeconfig", str(self.sandbox.kubeconfig)]
        return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)

    def gone(self, namespace: str) -> bool:
        """Whether a namespace does not exist."""
        return self.sandbox.kubectl("get", "namespace", namespace, check=False).returncode != 0

    def finalizers(self, world: World | None = None) -> dict[str, list[str]]:
        """The finalizers of each resource that has some."""
        api = (world or self.world).api
        found = {f"{k}/{o['metadata']['name']}": o["metadata"].get("finalizers") for k in KINDS for o in api.list(k)}
        return {name: finalizers for name, finalizers in found.items() if finalizers}

    def stop(self) -> None:
        """End every operator."""
        for operator in self.started:
            operator.stop()

    def kill(self) -> None:
        """Kill whatever still runs."""
        for operator in self.started:
            operator.kill()


@contextmanager
def release(directory: Path) -> Iterator[Release]:
    """A fresh control plane and a fresh Postgres."""
    with (
        Sandbox.start(postgres=(), mongodb=False, kubernetes=True) as sandbox,
        PostgresServer.launch("18", settings={"shared_preload_libraries": "pg_stat_statements"}) as postgres,
    ):
        api = KubeApi(sandbox.kubeconfig, SHOP)
        nobody = OperatorProcess(sandbox.kubeconfig, directory / "nobody.log")
        made = Release(sandbox, postgres, directory, World(api, nobody, SHOP, SHOP, postgres, sandbox.kubeconfig))
        made.world.sql("CREATE EXTENSION IF NOT EXISTS pg_stat_statements", database="postgres")
        try:
            yield made
        finally:
            made.kill()
            api.close()


class Jobs(threading.Thread):
    """What a kubelet does for Jobs: runs the container's arguments, and says how it ended. A context manager."""

    def __init__(self, release: Release) -> None:
        super().__init__(daemon=True)
        self._release = release
        self._stopping = threading.Event()
        self._done: set[str] = set()
        self.outputs: list[str] = []

    def run(self) -> None:
        while not self._stopping.wait(0.2):
            answer = self._release.sandbox.kubectl("get", "pods", "-n", OPS, "-o", "json", check=False)
            for pod in json.loads(answer.stdout or "{}").get("items", ()):
                if pod["metadata"]["uid"] not in self._done and pod["spec"]["restartPolicy"] == "Never":
                    self._done.add(pod["metadata"]["uid"])
                    self._run(pod)

    def _run(self, pod: dict[str, Any]) -> None:
        (container,) = pod["spec"]["containers"]
        env = {name: value for name, value in os.environ.items() if not name.startswith(("SELVEDGE_", "KUBE", "PG"))}
        env |= {entry["name"]: entry["value"] for entry in container["env"]}
        account = pod["spec"]["serviceAccountName"]
        env["KUBECONFIG"] = str(self._release.account(self._release.directory / "job", account))
        command = [sys.executable, "-m", "selvedge", *container["args"]]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=SECONDS, check=False)
        self.outputs.append(done.stdout + done.stderr)
        phase = "Failed" if done.returncode else "Succeeded"
        ended = {"exitCode": done.returncode, "finishedAt": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        status = {
            "phase": phase,
            "containerStatuses": [
                {
                    "name": container["name"],
                    "image": container["image"],
                    "imageID": "",
                    "ready": False,
                    "restartCount": 0,
                    "state": {"terminated": ended},
                }
            ],
        }
        name = pod["metadata"]["name"]
        self._release.sandbox.kubectl(
            "patch",
            "pod",
            name,
            "-n",
            OPS,
            "--subresource=status",
            "--type=merge",
            "-p",
            json.dumps({"status": status}),
        )

    def __enter__(self) -> Jobs:
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stopping.set()
        self.join(15)


class Sightings(threading.Thread):
    """Everything that a watch shows of Ready of all resources that is not True. A context manager."""

    def __init__(self, release: Release) -> None:
        super().__init__(daemon=True)
        path = (
            r'{.kind}/{.metadata.name} {.status.conditions[?(@.type=="Ready")].status}'
            r' {.status.conditions[?(@.type=="Ready")].reason}{"\n"}'
        )
        kubectl = (str(tools.control_plane() / "kubectl"), f"--kubeconfig={release.sandbox.kubeconfig}", "-n", SHOP)
        self._commands = [
            [*kubectl, "get", kind, "-w", "-o", f"jsonpath={path}"]
            for kind in ("databaseservers", "databaseschemas", "databaseusers", "migrationruns")
        ]
        self.seen: list[str] = []
        self._ending = threading.Event()
        self._processes: dict[int, subprocess.Popen[str]] = {}

    def _follow(self, place: int) -> None:
        """Watch anew where the API server ends a watch, as it does when a CustomResourceDefinition changes."""
        while not self._ending.is_set():
            process = subprocess.Popen(
                self._commands[place], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            self._processes[place] = process
            assert process.stdout is not None
            with process.stdout as lines:
                for line in lines:
                    self.seen.append(line.strip())
            process.wait()

    def run(self) -> None:
        readers = [
            threading.Thread(target=self._follow, args=(place,), daemon=True) for place in range(len(self._commands))
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()

    def __enter__(self) -> Sightings:
        self.start()
        wait_for(lambda: len({line.partition("/")[0] for line in self.seen}) == len(self._commands))
        return self

    def __exit__(self, *_exception: object) -> None:
        self._ending.set()
        while self.is_alive():
            for process in list(self._processes.values()):
                process.terminate()
            self.join(0.2)

    @property
    def not_ready(self) -> list[str]:
        """The lines that say anything but Ready."""
        return [line for line in self.seen if " True " not in line]


def ends(reached: Callable[[], bool], what: Callable[[], object] | None = None) -> None:
    """Wait until ``reached``, as long as something may take that must not hang."""
    wait_for(reached, HANGING_SECONDS, what=what)
