"""What the documentation tells people to write is what the API server takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from selvedge.migrate.load import load

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs" / "guide").glob("*.md")])
_BLOCK = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?P<target>[^)#\s]*)(?:#(?P<anchor>[^)]*))?\)")


def blocks(page: Path, language: str) -> list[str]:
    return [match["text"] for match in _BLOCK.finditer(page.read_text()) if match["language"] == language]


def manifests(page: Path) -> list[dict[str, Any]]:
    """Each manifest of a page; a fragment that begins with ``spec:`` is completed to what it is a part of."""
    found = []
    for text in blocks(page, "yaml"):
        if text.startswith("  "):
            text = "spec:\n" + text
        for document in yaml.safe_load_all(text):
            if "apiVersion" not in document:
                document = completed(document)
            found.append(document)
    return found


def completed(fragment: dict[str, Any]) -> dict[str, Any]:
    spec = fragment["spec"]
    if "access" in spec:
        kind, base = "DatabaseServer", {"engine": "Postgres", "hosts": [{"host": "a"}]}
        base["credentials"] = {"secretRef": {"name": "a"}}
    else:
        kind, base = "DatabaseSchema", {"serverRef": {"name": "a"}, "database": "a"}
        if "mongodb" not in spec:
            base["postgres"] = {}
    return {
        "apiVersion": "selvedge.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": "fragment"},
        "spec": {**base, **spec},
    }


@pytest.fixture(scope="module")
def crds(kubectl):
    kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
    kubectl("wait", "--for=condition=Established", "--timeout=30s", "-f", str(ROOT / "crds"))


@pytest.mark.usefixtures("crds")
@pytest.mark.parametrize("page", [page for page in PAGES if manifests(page)], ids=lambda page: page.name)
def test_every_manifest_is_taken(page, kubectl, namespace):
    for document in manifests(page):
        document["metadata"]["namespace"] = namespace
        kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", input=yaml.safe_dump(document))


def test_every_migration_can_be_read():
    page = ROOT / "docs" / "guide" / "migrations.md"
    (text,) = blocks(page, "sql")
    (sql,) = load({"20251120090000_sales.sql": text}, "Postgres")
    assert [statement.line for statement in sql.script.statements] == [2]
    found = [load({"20251120090000_price.json": text}, "MongoDB") for text in blocks(page, "json")]
    assert [command.name for (mongo,) in found for command in mongo.commands] == ["createIndexes", "x-batchUpdate"]


@pytest.mark.parametrize(
    "page", sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]), ids=lambda page: str(page.relative_to(ROOT))
)
def test_every_link_leads_somewhere(page):
    for link in _LINK.finditer(page.read_text()):
        if link["target"].startswith("http"):
            continue
        target = page.parent / link["target"] if link["target"] else page
        assert target.exists(), link[0]
        if link["anchor"] and target.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert link["anchor"] in anchors, link[0]
