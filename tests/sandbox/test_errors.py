"""What a person reads when the sandbox cannot go on: one sentence that says what to do."""

from __future__ import annotations

import json
import multiprocessing
import socket
import zipfile
from pathlib import Path

import pytest

from sandbox import MongoServer, PortTakenError, PostgresServer, Sandbox, SandboxError, tools
from sandbox.__main__ import main
from sandbox.cache import cached
from sandbox.fetch import npm_package, wheel
from sandbox.ports import LOOPBACK, free_port, on_free_port
from sandbox.process import Daemon, run

_NOT_THE_FILE = "is not the file that sandbox/pins.toml names"
_WRONG = {"integrity": "sha512-AAAA", "sha256": "0" * 64}


@pytest.fixture
def npm_directory(tmp_path: Path) -> dict[str, str]:
    """A package that npm takes from this machine."""
    package = tmp_path / "thing"
    package.mkdir()
    (package / "package.json").write_text(json.dumps({"name": "thing", "version": "1.0.0"}))
    return {"name": "thing", "version": f"file:{package}"}


@pytest.fixture
def local_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A wheel that pip takes from this machine."""
    with zipfile.ZipFile(tmp_path / "thing-1.0-py3-none-manylinux1_x86_64.whl", "w") as archive:
        archive.writestr("thing-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n")
        archive.writestr("thing-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\n")
        archive.writestr("thing-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    return {"name": "thing", "version": "1.0", "platform": "manylinux1_x86_64"}


def test_npm_package_with_another_hash(npm_directory: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match=_NOT_THE_FILE):
        npm_package({**npm_directory, **_WRONG}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_wheel_with_another_hash(local_wheel: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match=_NOT_THE_FILE):
        wheel({**local_wheel, **_WRONG}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_npm_is_not_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("npm_config_registry", f"http://{LOOPBACK}:{free_port()}/")
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    pin = {"name": "selvedge-never-published", "version": "1.0.0", **_WRONG}
    with pytest.raises(SandboxError, match=r"could not be downloaded from npm \(.*\): check the network"):
        npm_package(pin, tmp_path / "out")


def test_pypi_is_not_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://{LOOPBACK}:{free_port()}/")
    monkeypatch.setenv("PIP_RETRIES", "0")
    pin = {"name": "selvedge-never-published", "version": "1.0", "platform": "manylinux1_x86_64", **_WRONG}
    with pytest.raises(SandboxError, match=r"could not be downloaded from PyPI \(.*\): check the network"):
        wheel(pin, tmp_path / "out")


def test_what_failed_is_not_kept(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        (path / "half").touch()
        raise SandboxError("the network went away: try again")

    with pytest.raises(SandboxError, match="network went away"):
        cached(tmp_path, "thing-1", "thing", fail)
    assert not (tmp_path / "thing-1").exists()
    path = cached(tmp_path, "thing-1", "thing", lambda path: (path / "whole").touch())
    assert [file.name for file in path.iterdir()] == ["whole"]


def _build_once(root: Path) -> None:
    def build(path: Path) -> None:
        with (root / "builds").open("a") as file:
            file.write("x")
        (path / "whole").touch()

    cached(root, "thing-1", "thing", build)


def test_processes_build_a_thing_once(tmp_path: Path) -> None:
    processes = [multiprocessing.get_context("spawn").Process(target=_build_once, args=(tmp_path,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert (tmp_path / "builds").read_text() == "x"


@pytest.mark.parametrize("server", [PostgresServer, MongoServer])
def test_a_given_port_is_taken(server: type[PostgresServer | MongoServer], tmp_path: Path) -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTakenError, match=rf"port {port} is taken: stop the program that listens on 127.0.0.1:"):
            server.launch(directory=tmp_path / "server", port=port)


def test_a_chosen_port_is_taken_meanwhile() -> None:
    """Another program may be faster between the choice of a port and its use: the next one is tried."""
    ports: list[int] = []

    def start(port: int) -> int:
        ports.append(port)
        if len(ports) < 3:
            raise PortTakenError("taken")
        return port

    assert on_free_port(start) == ports[2]
    with pytest.raises(SandboxError, match="5 free ports in a row were taken"):
        on_free_port(lambda port: ports.clear() or start(port))


def test_a_server_tells_that_its_port_is_taken(tmp_path: Path) -> None:
    program = tools.control_plane() / "etcd"
    with socket.create_server((LOOPBACK, 0)) as taken:
        url = f"http://{LOOPBACK}:{taken.getsockname()[1]}"
        command = [
            program,
            "--data-dir",
            tmp_path / "etcd",
            "--listen-client-urls",
            url,
            "--advertise-client-urls",
            url,
        ]
        daemon = Daemon("etcd", [*command, "--listen-peer-urls", f"http://{LOOPBACK}:0"], tmp_path / "etcd.log")
        daemon.start()
        with pytest.raises(PortTakenError, match="etcd found its port taken: stop what listens there"):
            daemon.wait_until(lambda: False, timeout=30)


def test_a_server_that_ends_names_its_log(tmp_path: Path) -> None:
    daemon = Daemon("false", ["sh", "-c", "echo out of luck; exit 3"], tmp_path / "false.log")
    daemon.start()
    with pytest.raises(SandboxError, match=r"false ended with exit status 3: see .*false\.log: out of luck"):
        daemon.wait_until(lambda: False)


def test_a_program_that_hangs_is_ended() -> None:
    with pytest.raises(SandboxError, match=r"the nap took longer than 0 s and was ended"):
        run(["sleep", "1000"], what="the nap", timeout=0.2)


def test_a_missing_library_is_named() -> None:
    message = tools.missing_libraries_message("mongod", ["libcurl.so.4", "libssl.so.3", "libcrypto.so.3"])
    assert message == (
        "mongod needs libcurl.so.4, libssl.so.3, libcrypto.so.3: run `apt-get install libcurl4 libssl3`"
        " (or your distribution's name for it)"
    )


def test_the_libraries_of_a_program_are_looked_at(tmp_path: Path) -> None:
    """A copy of psql away from the libraries that came with it lacks one."""
    psql = tools.postgres_client() / "psql"
    copy = tmp_path / "psql"
    copy.write_bytes(psql.read_bytes())
    copy.chmod(0o755)
    assert tools.missing_libraries(psql) == []
    assert any(library.startswith("libpq-") for library in tools.missing_libraries(copy))


def test_an_unknown_postgres() -> None:
    with pytest.raises(SandboxError, match=r"no Postgres 9 in sandbox/pins\.toml: choose one of 15, 16, 17, 18"):
        PostgresServer.launch("9")


def test_nothing_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SandboxError, match="start one with `python -m sandbox up`"):
        Sandbox.attach(tmp_path)
    assert main(["--directory", str(tmp_path), "status"]) == 1
    output = capsys.readouterr()
    assert output.err == f"error: no sandbox runs in {tmp_path}: start one with `python -m sandbox up`\n"
    assert main(["--directory", str(tmp_path), "down"]) == 0


def test_a_server_left_running_is_found_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``make up``: the sandbox belongs to nobody and runs until ``make down``."""
    directory = str(tmp_path)
    assert main(["--directory", directory, "up", "--detach", "--postgres", "18"]) == 0
    try:
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == f"export KUBECONFIG={tmp_path / 'kubernetes' / 'kubeconfig'}"
        assert main(["--directory", directory, "status"]) == 0
        table = capsys.readouterr().out
        assert [line.split()[0] for line in table.splitlines()] == [
            "Postgres", "MongoDB", "etcd", "apiserver", "controller-manager",
        ]  # fmt: skip
        assert "stopped" not in table
    finally:
        assert main(["--directory", directory, "down"]) == 0
    assert main(["--directory", directory, "status"]) == 1
