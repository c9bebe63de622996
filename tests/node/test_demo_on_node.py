"""``make demo NODE=1`` and ``make up NODE=1`` as a person runs them: the operator in pods on a node of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cluster.test_demo import ROOT, STEPS

if TYPE_CHECKING:
    from sandbox.node import NodeHandle

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("node")]
_SECONDS = 600


def test_every_step_holds_on_a_node(node: NodeHandle) -> None:
    """``node`` only says that one can run here."""
    done = _run([sys.executable, "-m", "sandbox.demo", "--node"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("│ yes  │") == STEPS
    assert "Every step held." in done.stdout
    for sign in ("kubelet answers", "helm install selvedge", "two pods are ready to act on them"):
        assert sign in done.stdout


def test_what_make_up_leaves_running_is_found_again_and_ends(node: NodeHandle, tmp_path: Path) -> None:
    """``make up NODE=1`` twice, and ``make down``."""
    directory = tmp_path / "sandbox"
    up = [sys.executable, "-m", "sandbox.demo", "--keep", str(directory), "--node"]
    down = [sys.executable, "-m", "sandbox", "--directory", str(directory), "down"]
    try:
        first, second = (_run(up) for _ in range(2))
        assert first.returncode == second.returncode == 0, first.stderr + second.stderr
        assert second.stdout == first.stdout
        export, get = first.stdout.splitlines()
        shown = subprocess.run(
            ["bash", "-c", f"{export}\n{get}"], capture_output=True, text=True, timeout=60, check=False
        )
        assert shown.returncode == 0, shown.stderr
        rows = [line for line in shown.stdout.splitlines() if ".selvedge.dev/" in line]
        assert len(rows) >= 9
        assert all(" True " in row for row in rows), shown.stdout
    finally:
        assert _run(down).returncode == 0


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("SELVEDGE_TEST")}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=_SECONDS, check=False)
