"""``python -m sandbox.chart_reference [--check]``: one explanation of each of the chart's values.

A value's comment begins with ``# --`` and stands right above it, as helm-docs reads them. It becomes a row of
docs/reference/chart.md, and the value's ``description`` in values.schema.json, which editors show.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

_ROOT = Path(__file__).parents[1]
VALUES = _ROOT / "charts" / "selvedge" / "values.yaml"
SCHEMA = VALUES.with_name("values.schema.json")
PAGE = _ROOT / "docs" / "reference" / "chart.md"

#: Helm gives every chart this one; no values.yaml names it.
_HELMS = {"global"}

_HEAD = """# Values of the Helm chart

Made from `charts/selvedge/values.yaml` by `make crds`. `values.schema.json` refuses what is not listed here.

| Value | Default | What it does |
|---|---|---|
"""


def page(values: str) -> str:
    """The page's text. Raises ValueError, naming it, for a value that nobody explained."""
    rows = [f"| `{name}` | `{default}` | {text} |\n" for name, default, text in _rows(values)]
    return _HEAD + "".join(rows)


def described(values: str, schema: str) -> str:
    """The schema's text with each value's comment as its description.

    Raises ValueError, naming it, for a value that only one of the two has. What people put into a map is their own.
    """
    whole = json.loads(schema)
    _describe(whole, yaml.safe_load(values), dict(_comments(values)), "")
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def _describe(schema: dict[str, Any], values: dict[str, Any], explained: dict[str, str], prefix: str) -> None:
    known: dict[str, Any] = schema["properties"]
    for key in sorted((known.keys() - (set() if prefix else _HELMS)) ^ values.keys()):
        there, missing = (SCHEMA, VALUES) if key in known else (VALUES, SCHEMA)
        raise ValueError(f"{prefix}{key} is in {there.name} and not in {missing.name}: add it there, or remove it")
    for key, value in values.items():
        name, old = f"{prefix}{key}", known[key]
        if name in explained:
            known[key] = {"description": explained[name], **{word: old[word] for word in old if word != "description"}}
        if old.get("additionalProperties") is False:
            _describe(known[key], value, explained, f"{name}.")


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
    """Write page and schema, or with ``--check`` say which is out of date."""
    values = VALUES.read_text(encoding="utf-8")
    made = {PAGE: page(values), SCHEMA: described(values, SCHEMA.read_text(encoding="utf-8"))}
    status = 0
    for path, text in made.items():
        if "--check" not in sys.argv[1:]:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            print(f"{path} differs from {VALUES}: run `make crds`", file=sys.stderr)
            status = 2
    return status


if __name__ == "__main__":
    sys.exit(main())
