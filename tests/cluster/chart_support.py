"""The Helm chart as tests use it: rendered by helm, and sent to an API server by kubectl."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sandbox import tools

if TYPE_CHECKING:
    from tests.conftest import Kubectl

CHART = Path(__file__).parents[2] / "charts" / "selvedge"


def helm(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run helm; an error fails the test with what helm said, unless ``check`` is False."""
    command = [str(tools.helm()), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done


def render(namespace: str, *settings: str) -> list[dict[str, Any]]:
    """The chart's objects, those of ``helm test`` included; each setting as in ``--set``."""
    flags = [flag for setting in settings for flag in ("--set", setting)]
    text = helm("template", "selvedge", str(CHART), "--namespace", namespace, *flags).stdout
    return [document for document in yaml.safe_load_all(text) if document]


def apply_objects(kubectl: Kubectl, documents: list[dict[str, Any]], *flags: str) -> str:
    """Apply rendered objects by the server; what kubectl said of them."""
    text = "---\n".join(json.dumps(document) + "\n" for document in documents)
    return kubectl("apply", "--server-side", *flags, "-f", "-", input=text).stdout
