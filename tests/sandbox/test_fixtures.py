"""The sandbox of a test run is one for all workers, and ends with pytest's controlling process."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_SECONDS = 60

HANGING = """
import json, time
from pathlib import Path
import pytest

@pytest.mark.parametrize("number", [1, 2])
def test_hang(sandbox, postgres18, number):
    pid = sandbox.refresh()["pid"]
    Path(__file__).with_name(f"{number}.json").write_text(json.dumps([pid, str(sandbox.directory)]))
    time.sleep(1000)
"""
MARKED = """
import pytest

def test_short(request):
    assert request.node.get_closest_marker("engines")

@pytest.mark.long
def test_long():
    assert False
"""


def pytest_command(directory: Path, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """A pytest of its own with the project's conftest, for the tests in ``directory``."""
    words = [
        "-p",
        "conftest",
        "-p",
        "no:cacheprovider",
        "-c",
        str(ROOT / "pyproject.toml"),
        "--rootdir",
        str(directory),
    ]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "TEST_SANDBOX_"))}
    env["PYTHONPATH"] = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
    return [sys.executable, "-m", "pytest", *words, *arguments, str(directory)], env


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT], ids=lambda s: s.name)
def test_workers_share_a_sandbox_that_ends_with_pytest(tmp_path: Path, signal_number: signal.Signals) -> None:
    (tmp_path / "test_hang.py").write_text(HANGING)
    command, env = pytest_command(tmp_path, "-n", "2")
    reports = [tmp_path / "1.json", tmp_path / "2.json"]
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        try:

            def begun() -> bool:
                assert process.poll() is None
                return all(report.exists() and report.read_text() for report in reports)

            wait_for(begun, DEADLINE_SECONDS)
            (pid, directory), other = (json.loads(report.read_text()) for report in reports)
            assert other == [pid, directory]
            supervisor = os.pidfd_open(pid)
            process.send_signal(signal_number)
            process.wait(DEADLINE_SECONDS)
        finally:
            process.kill()
    poll = select.poll()
    poll.register(supervisor, select.POLLIN)
    assert poll.poll(DEADLINE_SECONDS * 1000)
    os.close(supervisor)
    assert not Path(directory).exists()


def test_markers(tmp_path: Path) -> None:
    """Tests in engines/ are marked by where they lie, and long ones wait for ``--long``."""
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines" / "test_marked.py").write_text(MARKED)
    command, env = pytest_command(tmp_path)
    short = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert "1 passed, 1 deselected" in short.stdout
    command, env = pytest_command(tmp_path, "--long")
    long = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert "1 failed, 1 passed" in long.stdout
