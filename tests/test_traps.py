"""Each trap of docs/postgres-traps.md has its test."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_each_trap_names_a_test_that_exists() -> None:
    text = (ROOT / "docs" / "postgres-traps.md").read_text()
    lines = [line for line in text.splitlines() if re.match(r"\| T\d", line)]
    assert [line.split("|")[1].strip() for line in lines] == [f"T{number}" for number in range(1, 40)]
    complaints = [line for line in text.splitlines() if re.match(r"\|.*#\d+", line)]
    assert len(complaints) > 20
    for line in (*lines, *complaints):
        named = re.findall(r"`((?:engines|cluster)/\w+\.py)::(\w+)`", line)
        assert named, line
        for path, name in named:
            assert re.search(rf"def {name}\(", (ROOT / "tests" / path).read_text()), f"{path} has no {name}"
