"""The list of the image's libraries is made from the lock and from nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sandbox import sbom

ROOT = Path(__file__).parents[2]
LOCK = sbom.LOCK.read_text()
PROJECT = (ROOT / "pyproject.toml").read_text()
SMALL = """# made by hand
click==8.5.1 \\
    --hash=sha256:{a} \\
    --hash=sha256:{b}
    # via selvedge (pyproject.toml)
colorama==0.4.6 ; sys_platform == 'win32' \\
    --hash=sha256:{a}
    # via
    #   click
    #   selvedge (pyproject.toml)
""".format(a="a" * 64, b="b" * 64)


def test_the_same_lock_gives_the_same_bytes() -> None:
    assert sbom.document(LOCK, PROJECT) == sbom.document(LOCK, PROJECT)
    assert sbom.document(LOCK.replace("a", "b", 1), PROJECT) != sbom.document(LOCK, PROJECT)


def test_the_committed_file_is_the_locks() -> None:
    assert sbom.SBOM.read_text() == sbom.document(LOCK, PROJECT)


def test_a_package_says_what_it_is_and_what_needs_it() -> None:
    document = json.loads(sbom.document(SMALL, PROJECT))
    click, colorama = document["components"]
    assert click["purl"] == "pkg:pypi/click@8.5.1"
    assert [entry["content"] for entry in click["externalReferences"][0]["hashes"]] == ["a" * 64, "b" * 64]
    assert colorama["properties"] == [{"name": "selvedge:marker", "value": "sys_platform == 'win32'"}]
    needs = {entry["ref"]: entry["dependsOn"] for entry in document["dependencies"]}
    root = document["metadata"]["component"]["bom-ref"]
    assert needs[root] == [click["purl"], colorama["purl"]]
    assert needs[click["purl"]] == [colorama["purl"]]
    assert needs[colorama["purl"]] == []


def test_every_reference_is_to_something() -> None:
    document = json.loads(sbom.SBOM.read_text())
    refs = {component["bom-ref"] for component in document["components"]}
    refs.add(document["metadata"]["component"]["bom-ref"])
    assert {entry["ref"] for entry in document["dependencies"]} == refs
    needed = {ref for entry in document["dependencies"] for ref in entry["dependsOn"]}
    # whatever is in the lock is there because something asks for it
    assert needed == refs - {document["metadata"]["component"]["bom-ref"]}


@pytest.mark.parametrize(
    ("lock", "message"),
    [
        ("click==8.5.1\n    # via selvedge (pyproject.toml)\n", "click has no hash"),
        ("-e .\n", "line 1: '-e .' is neither"),
        ("click>=8\n", "line 1: 'click>=8' is neither"),
        ("click==8.5.1 \\\n    --hash=md5:00\n", "line 2: '--hash=md5:00' is neither"),
    ],
)
def test_what_is_no_lock_is_refused(lock: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sbom.document(lock, PROJECT)
