"""kubectl with one cluster's configuration and nothing of the person's own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sandbox import tools
from sandbox.process import run

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path


def run_kubectl(
    kubeconfig: Path,
    *arguments: str,
    input: str | None = None,  # noqa: A002 - subprocess.run's own name for it
    check: bool = True,
    timeout: float = 60,
) -> subprocess.CompletedProcess[str]:
    """Run kubectl with ``kubeconfig`` and nothing of the person's own configuration.

    Raises:
        SandboxError: it failed and ``check`` is true; the message carries its last line.
    """
    command: list[str | Path] = [tools.control_plane() / "kubectl", f"--kubeconfig={kubeconfig}", *arguments]
    env = kube_environment(kubeconfig)
    # Not all of the arguments: a password may be among them.
    what = f"kubectl {' '.join(arguments[:2])}"
    return run(command, what=what, timeout=timeout, input=input, check=check, env=env)


def kube_environment(kubeconfig: Path) -> dict[str, str]:
    """Our environment without the person's own cluster: kubectl's cache goes beside ``kubeconfig``, not to ~/.kube."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("KUBE")}
    return {**env, "KUBECTL_KUBERC": "false", "KUBECACHEDIR": str(kubeconfig.parent / "cache")}
