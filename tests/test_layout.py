"""The directory ``operator/`` must not shadow Python's own module of that name."""

from __future__ import annotations

import operator
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_operator_is_pythons_own() -> None:
    assert operator.__file__ is not None
    assert Path(operator.__file__).is_relative_to(sys.base_prefix)


def test_operator_is_pythons_own_from_the_repository_root() -> None:
    code = "import operator, collections; print(operator.__file__)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert Path(result.stdout.strip()).is_relative_to(sys.base_prefix)


def test_the_source_root_holds_one_package_only() -> None:
    """Its directory is on sys.path in an editable install: a module beside the package would shadow a library's."""
    found = sorted(path.name for path in (ROOT / "operator").iterdir() if path.name != "__pycache__")
    assert found == ["selvedge"]
