"""kubectl itself asks the plugin for what can stand after `kubectl selvedge`, with names from the cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from sandbox import tools
from tests.cluster.world import World


def test_kubectl_completes_commands_and_names(unwatched: World, kubeconfig: Path, tmp_path: Path) -> None:
    world = unwatched
    for name in ("designs", "fashion-wallet"):
        world.schema(name, postgres={})
    for name, module in (("kubectl-selvedge", "selvedge.cli.kubectl"), ("kubectl_complete-selvedge", "completion")):
        path = tmp_path / name
        if module == "completion":
            command = [sys.executable, "-m", "selvedge.cli.kubectl", "completion"]
            path.write_text(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        else:
            path.write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
        path.chmod(0o755)
    environ = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "KUBECONFIG": str(kubeconfig)}

    def complete(*words: str) -> list[str]:
        command = [str(tools.control_plane() / "kubectl"), "__complete", "selvedge", *words]
        done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=60, check=False)
        return [line.split("\t")[0] for line in done.stdout.splitlines()]

    assert complete("ex") == ["explain", ":4"]
    assert complete("plan", "-n", world.namespace, "") == ["designs", "fashion-wallet", ":4"]
    assert complete("approve", "-n", world.namespace, "fa") == ["fashion-wallet", ":4"]
    assert world.namespace in complete("status", "-n", world.namespace[:7])
