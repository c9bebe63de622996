"""``python -m sandbox.chart_reference [--check]``: docs/reference/chart.md from the comments of the chart's values.

A value's comment begins with ``# --`` and stands right above it, as helm-docs reads them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

_ROOT = Path(__file__).parents[1]
VALUES = _ROOT / "charts" / "selvedge" / "values.yaml"
PAGE = _ROOT / "docs" / "reference" / "chart.md"

_HEAD = """# Values of the Helm chart

Made from `charts/selvedge/values.yaml` by `make crds`. `values.schema.json` refuses what is not listed here.

| Value | Default | What it does |
|---|---|---|
"""


def page(values: str) -> str:
    """The page's text. Raises ValueError, naming it, for a value that nobody explained."""
    rows = [f"| `{name}` | `{default}` | {text} |\n" for name, default, text in _rows(values)]
    return _HEAD + "".join(rows)


def _rows(values: str) -> Iterator[tuple[str, str, str]]:
    explained = dict(_comments(values))
    for name, value in _leaves(yaml.safe_load(values), explained):
        if name not in explained:
            raise ValueError(f"{VALUES.name}: write a comment that begins with `# --` above {name}")
        yield name, yaml.safe_dump(value, default_flow_style=True, width=1000).split("\n")[0], explained[name]


def _leaves(value: dict[str, Any], explained: dict[str, str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values that stand in the table: those with a comment, and whatever holds no other."""
    for key, inner in value.items():
        name = f"{prefix}{key}"
        if isinstance(inner, dict) and inner and name not in explained:
            yield from _leaves(inner, explained, f"{name}.")
        else:
            yield name, inner


def _comments(values: str) -> Iterator[tuple[str, str]]:
    path: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in values.splitlines():
        text = line.strip()
        if text.startswith("# -- "):
            comment = [text.removeprefix("# -- ")]
        elif text.startswith("#") and comment:
            comment.append(text.lstrip("# "))
        elif ":" in text and not text.startswith("#"):
            indent = len(line) - len(line.lstrip())
            path = [(depth, key) for depth, key in path if depth < indent]
            path.append((indent, text.partition(":")[0]))
            if comment:
                yield ".".join(key for _, key in path), " ".join(comment)
            comment = []
        else:
            comment = []


def main() -> int:
    """Write the page, or with ``--check`` say that it is out of date."""
    text = page(VALUES.read_text(encoding="utf-8"))
    if "--check" in sys.argv[1:]:
        if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
            print(f"{PAGE} differs from {VALUES}: run `make crds`", file=sys.stderr)
            return 2
        return 0
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
