"""Everything that a sandbox starts ends with the process that started it, and with nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import psycopg
import pytest

from sandbox import PostgresServer, Sandbox, SandboxError
from sandbox.cache import cache_root
from sandbox.process import spawn
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_SECONDS = 30

# Starts a sandbox of every kind of server, prints the ids of all its processes, and waits.
OWNER = """
import json, sys
from pathlib import Path
import psutil
from sandbox import Sandbox
from tests.waiting import wait_for
with Sandbox.start(postgres=("18",), directory=Path(sys.argv[1])) as sandbox:
    sandbox.supervise("sleeper", ["sleep", "1000"])
    supervisor = psutil.Process(sandbox.refresh()["pid"])
    print(json.dumps([supervisor.pid, *(child.pid for child in supervisor.children(recursive=True))]), flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        yield process
        process.kill()


def started(owner: subprocess.Popen[str]) -> list[int]:
    """Descriptors of every process of the sandbox; a process id could be another's by the time we look."""
    assert owner.stdout is not None
    line = owner.stdout.readline()
    return [os.pidfd_open(int(pid)) for pid in line.strip(" []\n").split(",")]


def assert_all_end(descriptors: list[int]) -> None:
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    waiting = set(descriptors)
    while waiting:
        events = poll.poll(DEADLINE_SECONDS * 1000)
        assert events, f"{len(waiting)} of {len(descriptors)} processes still run"
        for descriptor, _ in events:
            poll.unregister(descriptor)
            waiting.discard(descriptor)
            os.close(descriptor)


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_everything_ends_with_the_owner(owner: subprocess.Popen[str], signal_number: signal.Signals) -> None:
    descriptors = started(owner)
    assert len(descriptors) > 10  # supervisor, etcd, API server, controllers, mongod, the sleeper, Postgres's many
    owner.send_signal(signal_number)
    assert_all_end(descriptors)


def test_everything_ends_with_a_killed_supervisor(owner: subprocess.Popen[str], tmp_path: Path) -> None:
    descriptors = started(owner)
    data = Path(json.loads((tmp_path / "state.json").read_text())["data"])
    signal.pidfd_send_signal(descriptors[0], signal.SIGKILL)
    assert_all_end(descriptors)
    shutil.rmtree(data)  # nobody is left to do it


def test_a_server_outlives_the_thread_that_started_it() -> None:
    """The kernel signals the children of a *thread* that ends, so servers start from one that lasts."""
    processes: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        processes.append(spawn(["sleep", "1000"]))
        # The thread must last until the launcher has asked for its signal and become the program.
        wait_for(lambda: psutil.Process(processes[0].pid).cmdline() == ["sleep", "1000"], DEADLINE_SECONDS)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    with pytest.raises(subprocess.TimeoutExpired):
        processes[0].wait(0.5)
    processes[0].kill()
    processes[0].wait()


def test_two_sandboxes_side_by_side(tmp_path: Path) -> None:
    with (
        Sandbox.start(postgres=("18",), mongodb=False, directory=tmp_path / "one") as one,
        Sandbox.start(postgres=("18",), mongodb=False, directory=tmp_path / "two") as two,
    ):
        one.kubectl("create", "namespace", "only-in-one")
        assert two.kubectl("get", "namespace", "only-in-one", check=False).returncode == 1
        with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
            two.postgres["18"].connect(sslrootcert=str(one.postgres["18"].ca_path))
        one.close()
        assert two.postgres["18"].psql("SELECT 1") == "1\n"
        two.kubectl("get", "namespace", "default")


def test_a_second_sandbox_in_one_directory_is_refused(tmp_path: Path) -> None:
    with (
        Sandbox.start(postgres=(), mongodb=False, kubernetes=False, directory=tmp_path),
        pytest.raises(SandboxError, match=r"runs in .* already: end it with `python -m sandbox down`"),
    ):
        Sandbox.start(postgres=(), mongodb=False, kubernetes=False, directory=tmp_path)


def test_the_home_directory_is_left_alone(tmp_path: Path) -> None:
    """A person's kubeconfig is neither read nor changed, even where KUBECONFIG names it."""
    home = tmp_path / "home"
    (home / ".kube").mkdir(parents=True)
    config = home / ".kube" / "config"
    config.write_text("not a kubeconfig: [")
    code = (
        "from sandbox import Sandbox\n"
        "with Sandbox.start(postgres=(), mongodb=False) as sandbox:\n"
        "    print(sandbox.kubectl('get', 'namespaces', '-o', 'name').stdout)\n"
        "    print(sandbox.environment()['KUBECONFIG'])\n"
    )
    env = {**os.environ, "HOME": str(home), "KUBECONFIG": str(config), "SELVEDGE_CACHE": str(cache_root())}
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert "namespace/default" in result.stdout
    assert str(home) not in result.stdout
    assert config.read_text() == "not a kubeconfig: ["
    assert sorted(home.rglob("*")) == [home / ".kube", config]


def test_servers_listen_on_loopback_only(sandbox: Sandbox) -> None:
    sandbox.ensure("postgres/18", "mongodb", "kubernetes")
    supervisor = psutil.Process(sandbox.refresh()["pid"])
    addresses = set()
    for child in supervisor.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # a server's process for one session that has just ended
            found = child.net_connections("inet")
            addresses |= {one.laddr.ip for one in found if one.status == psutil.CONN_LISTEN}
    assert addresses == {"127.0.0.1"}


def test_a_server_is_restarted_on_its_port() -> None:
    with PostgresServer.launch("18") as server:
        port = server.port
        server.stop()
        with pytest.raises(psycopg.OperationalError, match="refused"):
            server.connect()
        server.start()
        assert server.port == port
        server.stop(immediate=True)
        server.start()
        assert server.psql("SELECT 1") == "1\n"


def test_the_standby_follows(sandbox: Sandbox) -> None:
    primary = sandbox.postgres["18"]
    standby = sandbox.start_standby("18")
    assert standby.psql("SELECT pg_is_in_recovery()") == "t\n"
    assert primary.psql("SELECT count(*) > 0 FROM pg_stat_replication") == "t\n"


def test_the_api_server_keeps_its_port(tmp_path: Path) -> None:
    with Sandbox.start(postgres=(), mongodb=False, directory=tmp_path) as own:
        own.kubectl("create", "namespace", "kept")
        own.apiserver.stop()
        assert own.kubectl("get", "namespaces", check=False, timeout=30).returncode == 1
        own.apiserver.start()
        own.kubectl("get", "namespace", "kept")


def test_a_supervised_command_is_started_again(tmp_path: Path) -> None:
    with Sandbox.start(postgres=(), mongodb=False, kubernetes=False, directory=tmp_path) as own:
        own.supervise("sleeper", ["sleep", "1000"], env={"PATH": os.environ["PATH"]})
        first = psutil.Process(own.refresh()["processes"]["sleeper"]["pid"])
        first.kill()
        first.wait(10)
        wait_for(lambda: own.refresh()["processes"]["sleeper"]["starts"] >= 2, DEADLINE_SECONDS)
        assert psutil.pid_exists(own.refresh()["processes"]["sleeper"]["pid"])
