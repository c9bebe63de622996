"""``kubectl selvedge`` as tests call it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


class Plugin:
    """``kubectl selvedge`` in one namespace, as a person calls it."""

    def __init__(self, kubeconfig: Path, namespace: str) -> None:
        self.environ = {**os.environ, "KUBECONFIG": str(kubeconfig)}
        self.namespace = namespace

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "selvedge.cli.kubectl", *arguments, "-n", self.namespace]
        return subprocess.run(command, env=self.environ, text=True, capture_output=True, timeout=60, check=False)
