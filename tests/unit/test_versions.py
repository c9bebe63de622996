"""The program has one version: what is installed, the image's tag, the chart and the changelog say the same."""

from __future__ import annotations

import json
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import yaml
from click.testing import CliRunner

from selvedge.cli import main
from selvedge.cli.kubectl import kubectl

ROOT = Path(__file__).parents[2]
VERSION = str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def test_every_place_that_names_the_version_names_the_same() -> None:
    assert version("selvedge") == VERSION, "make setup installs it anew"
    for command in (main, kubectl):
        assert CliRunner().invoke(command, ["--version"]).output.split()[-1] == VERSION
    assert yaml.safe_load((ROOT / "charts" / "selvedge" / "Chart.yaml").read_text())["appVersion"] == VERSION
    assert set(re.findall(r"^ARG VERSION=(.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)) == {VERSION}
    component = json.loads((ROOT / "requirements" / "sbom.cdx.json").read_text())["metadata"]["component"]
    assert component["version"] == VERSION
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert f"\n## [{VERSION}]" in changelog or f"## [Unreleased]\n\nThis becomes {VERSION}." in changelog
    named = re.findall(r"selvedge(?:-operator-|:)(\d+\.\d+\.\d+)", (ROOT / "docs" / "guide" / "image.md").read_text())
    assert named
    assert set(named) == {VERSION}


def test_a_chart_that_was_released_is_not_the_present_one() -> None:
    chart = yaml.safe_load((ROOT / "charts" / "selvedge" / "Chart.yaml").read_text())
    released = [path.stem for path in (ROOT / "tests" / "fixtures" / "charts").glob("selvedge-*.tgz")]
    assert released
    assert f"selvedge-{chart['version']}" not in released
