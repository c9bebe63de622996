"""The demo as a person runs it: exit status 0 when every step holds, another one when a step does not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "fashion-wallet"
SCHEMA = "20-schema-postgres.yaml"
STEPS = 15


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it in a pipe, with servers of its own; it ends them itself."""
    command = [sys.executable, "-m", "sandbox.demo", *arguments]
    env = {name: value for name, value in os.environ.items() if not name.startswith("SELVEDGE_TEST")}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=280, check=False)


def test_every_step_holds():
    result = demo()
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("│ yes  │") == STEPS
    assert "\x1b[" not in result.stdout  # plain in a pipe
    assert "Every step held." in result.stdout
    for sign in (
        "permission denied for table catalog_items",
        "Document failed validation",
        "grant read, schema avatar",
        "index designs.search",
        "extension postgis is not installed",
        'column "day" does not exist',
        'new row violates row-level security policy for table "avatars"',
        "permission denied for schema trail",
        "first_name Regular became Ada",
        "avatar_service_a hands over to avatar_service_b",
        "Destructive  collection  sessions",
    ):
        assert sign in result.stdout


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        pytest.param(
            "privileges: [SELECT]\n      objects: {tablesIn: [shared,",
            "privileges: [SELECT, UPDATE]\n      objects: {tablesIn: [shared,",
            "app_readonly could write to catalog.catalog_items: it must only read",
            id="a-role-that-may-write",
        ),
        pytest.param(
            "drift: Correct",
            "drift: Report",
            "not repaired in",
            id="nothing-is-repaired",
            marks=pytest.mark.long,  # it waits for a repair that does not come
        ),
        pytest.param(
            "kind: DatabaseSchema",
            "kind: DatabaseSkema",
            'no matches for kind "DatabaseSkema"',
            id="a-manifest-that-is-refused",
            marks=pytest.mark.long,  # that one step which does not hold fails the whole is shown above
        ),
    ],
)
def test_a_step_that_does_not_hold_is_named_and_fails_the_demo(tmp_path, before, after, told):
    broken = tmp_path / "examples"
    shutil.copytree(EXAMPLES, broken)
    manifest = broken / SCHEMA
    text = manifest.read_text().replace("  deletionPolicy: Retain\n", "  deletionPolicy: Retain\n  drift: Correct\n")
    assert text.count(before) == 1
    manifest.write_text(text.replace(before, after))
    result = demo("--examples", str(broken))
    assert result.returncode == 1, result.stdout + result.stderr
    assert told in result.stdout
    assert result.stdout.count("│ NO   │") == 1
    assert "The demo does not hold" in result.stdout
