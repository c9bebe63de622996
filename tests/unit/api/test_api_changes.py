"""What docs/api-changes.md promises, held against the chart of 0.1.0: what was stored then is still taken and read."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from selvedge.api.resource import KINDS, parse

ROOT = Path(__file__).parents[3]
FIXTURES = ROOT / "tests" / "fixtures"
Schema = dict[str, Any]

#: A bound and whether a larger value is looser.
_BOUNDS = {
    "maxLength": True,
    "maxItems": True,
    "maxProperties": True,
    "maximum": True,
    "minLength": False,
    "minItems": False,
    "minProperties": False,
    "minimum": False,
}
_KEPT = (
    "type",
    "format",
    "pattern",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-map-type",
    "x-kubernetes-int-or-string",
    "x-kubernetes-preserve-unknown-fields",
)


def _charts() -> list[Path]:
    return sorted((FIXTURES / "charts").glob("*.tgz"))


def _crds_of(chart: Path) -> dict[str, dict[str, Any]]:
    """The CRDs in a packaged chart, by file name."""
    found = {}
    with tarfile.open(chart) as archive:
        for member in archive.getmembers():
            if "/templates/crds/" in member.name:
                file = archive.extractfile(member)
                assert file is not None
                lines = [line for line in file.read().decode().splitlines() if not line.startswith("{{")]
                found[Path(member.name).name] = yaml.safe_load("\n".join(lines))
    return found


def narrowed(old: Schema, new: Schema, where: str = "") -> Iterator[str]:
    """Each way in which ``new`` refuses or loses what ``old`` took."""
    yield from _words(old, new, where)
    yield from _bounds(old, new, where)
    for name, schema in (old.get("properties") or {}).items():
        if name not in (new.get("properties") or {}):
            yield f"{where}.{name}: was removed"
        else:
            yield from narrowed(schema, new["properties"][name], f"{where}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(old.get(key), dict):
            yield from narrowed(old[key], new.get(key) or {}, f"{where}[]")


def _words(old: Schema, new: Schema, where: str) -> Iterator[str]:
    for key in _KEPT:
        dropped = key == "pattern" and key not in new
        if old.get(key) != new.get(key) and not dropped:
            yield f"{where}: {key} was {old.get(key)!r} and is {new.get(key)!r}"
    if "enum" in new and (lost := set(old.get("enum", ())) - set(new["enum"])):
        yield f"{where}: enum lost {lost}"
    if "enum" in new and "enum" not in old:
        yield f"{where}: enum lost its freedom"
    if more := set(new.get("required", ())) - set(old.get("required", ())):
        yield f"{where}: {sorted(more)} became required"
    if "default" in old and old.get("default") != new.get("default"):
        yield f"{where}: default was {old['default']!r} and is {new.get('default')!r}"


def _bounds(old: Schema, new: Schema, where: str) -> Iterator[str]:
    for key, upwards in _BOUNDS.items():
        before, after = old.get(key), new.get(key)
        if after is not None and (before is None or (after < before if upwards else after > before)):
            yield f"{where}: {key} was {before} and is {after}"


@pytest.mark.parametrize("chart", _charts(), ids=lambda chart: chart.stem)
def test_every_crd_takes_what_it_took(chart):
    old = _crds_of(chart)
    assert old
    for name, crd in old.items():
        new = yaml.safe_load((ROOT / "crds" / name).read_text())
        assert crd["spec"]["names"] == new["spec"]["names"]
        versions = {version["name"]: version for version in new["spec"]["versions"]}
        for version in crd["spec"]["versions"]:
            assert versions[version["name"]]["served"]
            schemas = (v["schema"]["openAPIV3Schema"] for v in (version, versions[version["name"]]))
            assert list(narrowed(*schemas)) == [], name
            columns = [column["name"] for column in version["additionalPrinterColumns"]]
            assert [c["name"] for c in versions[version["name"]]["additionalPrinterColumns"]][: len(columns)] == columns


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ({"properties": {"a": {"type": "string"}}}, {"properties": {}}, ".a: was removed"),
        ({"type": "string"}, {"type": "integer"}, ": type was 'string' and is 'integer'"),
        ({"enum": ["A", "B"]}, {"enum": ["A"]}, ": enum lost {'B'}"),
        ({"type": "string"}, {"type": "string", "enum": ["A"]}, ": enum lost its freedom"),
        ({"maxLength": 5}, {"maxLength": 4}, ": maxLength was 5 and is 4"),
        ({}, {"minItems": 1}, ": minItems was None and is 1"),
        ({}, {"required": ["a"]}, ": ['a'] became required"),
        ({"default": 1}, {"default": 2}, ": default was 1 and is 2"),
        ({"items": {"properties": {"a": {}}}}, {"items": {"properties": {}}}, "[].a: was removed"),
    ],
)
def test_what_would_break_the_promise_is_found(old, new, said):
    assert list(narrowed(old, new)) == [said]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"maxLength": 5}, {"maxLength": 6}),
        ({"enum": ["A"]}, {"enum": ["A", "B"]}),
        ({"pattern": "^a$"}, {}),
        ({}, {"properties": {"a": {"default": 1}}}),
    ],
)
def test_what_keeps_it_is_let_through(old, new):
    assert list(narrowed(old, new)) == []


def _stored() -> list[Any]:
    documents = json.loads((FIXTURES / "stored" / "0.1.0.json").read_text())["items"]
    return [pytest.param(d, id=f"{d['kind']}-{d['metadata']['name']}") for d in documents]


@pytest.mark.parametrize("document", _stored())
def test_what_0_1_0_stored_is_read(document):
    """Its spec and its status, as the API server gives them to the operator, defaults and foreign fields included."""
    read = parse(document, strict=False)
    assert read.metadata.name == document["metadata"]["name"]
    kind = KINDS[document["kind"]]
    status = kind.status.model_validate(document["status"])
    assert {condition.type for condition in status.conditions} >= {"Ready"}
    # a field of a later version, and one that was not there yet
    later = json.loads(json.dumps(document))
    later["spec"]["notYetKnown"] = {"deep": [1]}
    later.pop("status")
    assert parse(later, strict=False).spec == read.spec


def test_a_resource_of_each_kind_is_among_them():
    assert {parameter.values[0]["kind"] for parameter in _stored()} == set(KINDS)
