"""``make demo NODE=1`` as a person runs it: the operator in pods on a node of the demo's own, every step holds."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.cluster.test_demo import ROOT, STEPS

if TYPE_CHECKING:
    from sandbox.node import NodeHandle

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("node")]
_SECONDS = 600


def test_every_step_holds_on_a_node(node: NodeHandle) -> None:
    """``node`` only says that one can run here."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("SELVEDGE_TEST")}
    command = [sys.executable, "-m", "sandbox.demo", "--node"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=_SECONDS, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("│ yes  │") == STEPS
    assert "Every step held." in done.stdout
    for sign in ("kubelet answers", "helm install selvedge", "two pods are ready to act on them"):
        assert sign in done.stdout
