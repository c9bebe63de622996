"""DatabaseSchemas from files, decoded as strictly as the API server does."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from selvedge.api.base import GROUP
from selvedge.api.databaseschema import DatabaseSchemaSpec
from selvedge.api.resource import Resource, parse
from selvedge.cli.output import summary
from selvedge.cli.url import invalid
from selvedge.core.errors import InvalidError

_SUFFIXES = (".yaml", ".yml", ".json")


def read_manifests(
    paths: Sequence[str], namespace: str, note: Callable[[str], None]
) -> list[Resource[DatabaseSchemaSpec]]:
    """The DatabaseSchemas of all files, strictly decoded; other kinds are left out and noted.

    Raises InvalidError, which names file and document.
    """
    found: dict[tuple[str, str], tuple[str, Resource[DatabaseSchemaSpec]]] = {}
    skipped: list[str] = []
    for path in _files(paths):
        for where, document in _documents(path):
            kind = str(document.get("kind", ""))
            if kind != "DatabaseSchema" or not str(document.get("apiVersion", "")).startswith(f"{GROUP}/"):
                skipped.append(kind[:63] or "document without kind")
                continue
            try:
                resource = parse(document, strict=True)
            except InvalidError as error:
                raise InvalidError(error.reason, f"{where}: {error.message}") from None
            if not resource.metadata.namespace:
                resource = replace(resource, metadata=replace(resource.metadata, namespace=namespace))
            key = (resource.metadata.namespace, resource.metadata.name)
            if key in found:
                raise invalid(f"{where}: {resource} stands in {found[key][0]} too: remove one")
            found[key] = (where, resource)
    if skipped:
        note(f"left out, only DatabaseSchemas are used here: {summary(skipped)}")
    if not found:
        raise invalid(f"no DatabaseSchema in {', '.join(paths)}: name files that hold one")
    return [resource for _, resource in found.values()]


def _files(paths: Sequence[str]) -> Iterator[str]:
    for path in dict.fromkeys(paths):
        if path != "-" and Path(path).is_dir():
            yield from sorted(str(entry) for entry in Path(path).iterdir() if entry.suffix in _SUFFIXES)
        else:
            yield path


def _documents(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    name = "standard input" if path == "-" else path
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
        for number, document in enumerate(yaml.load_all(text, Loader=_Loader), 1):
            where = f"{name}, document {number}"
            if document is None:
                continue
            if not isinstance(document, dict):
                raise invalid(f"{where}: is no mapping: write apiVersion, kind, metadata and spec")
            items = document.get("items")
            if document.get("kind") == "List" and isinstance(items, list):
                yield from ((f"{where}, item {n}", item) for n, item in enumerate(items, 1) if isinstance(item, dict))
            else:
                yield where, document
    except yaml.MarkedYAMLError as error:
        # Without the excerpt: other documents of the file may be Secrets.
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise invalid(f"{name}{line}: is no valid YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise invalid(f"{name}: is no valid YAML: it holds bytes or characters that are not allowed") from None
    except OSError as error:
        raise invalid(f"{name}: cannot be read: {error.strerror}") from None


class _Loader(yaml.SafeLoader):
    """YAML as the API server takes it: a key stands once, and what looks like a date is text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
