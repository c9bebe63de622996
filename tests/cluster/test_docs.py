"""What the documentation tells people to write is what the API server takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from selvedge.migrate.load import load
from tests.cluster import docs_support
from tests.cluster.chart_support import CHART, helm
from tests.cluster.test_demo import STEPS

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs" / "guide").glob("*.md")])
_VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
_TOOLS = ("argoproj.io", "fluxcd.io", "config.k8s.io")
_LINK = re.compile(r"\]\((?P<target>[^)#\s]*)(?:#(?P<anchor>[^)]*))?\)")


def blocks(page: Path, language: str) -> list[str]:
    return [block.text for block in docs_support.blocks(page) if block.language == language]


def manifests(page: Path) -> list[dict[str, Any]]:
    """Each manifest of a page, those of GitOps tools aside; a fragment is completed to what it is a part of."""
    found = []
    for text in blocks(page, "yaml"):
        if text.startswith("  "):
            text = "spec:\n" + text
        for document in yaml.safe_load_all(text):
            if is_values(document) or document.get("apiVersion", "").partition("/")[0].endswith(_TOOLS):
                continue
            if "apiVersion" not in document or is_part(document):
                document = completed(document)
            found.append(document)
    return found


def is_part(document: dict[str, Any]) -> bool:
    """Whether a manifest holds only what one of several managers has in it."""
    return document["kind"] == "DatabaseSchema" and "serverRef" not in document["spec"]


def is_values(document: dict[str, Any]) -> bool:
    """Whether a fragment is of the chart's values and of no manifest."""
    return not {"apiVersion", "spec"} & document.keys() and document.keys() <= _VALUES.keys()


def values(page: Path) -> list[dict[str, Any]]:
    """Each fragment of a page that is of the chart's values."""
    fragments = [text for text in blocks(page, "yaml") if not text.startswith("  ")]
    return [found for text in fragments for found in yaml.safe_load_all(text) if is_values(found)]


def completed(fragment: dict[str, Any]) -> dict[str, Any]:
    # what stands alone is a part of spec.migrations, as the text above it says
    spec = fragment.get("spec") or {"migrations": fragment}
    if "migrations" in spec:
        spec["migrations"] = {"source": {"configMaps": [{"name": "a"}]}, **spec["migrations"]}
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


@pytest.mark.parametrize("page", [page for page in PAGES if values(page)], ids=lambda page: page.name)
def test_every_value_of_the_chart_is_taken(page, tmp_path):
    for number, found in enumerate(values(page)):
        path = tmp_path / f"{number}.yaml"
        path.write_text(yaml.safe_dump(found))
        assert helm("template", "selvedge", str(CHART), "--values", str(path)).stdout


def test_the_examples_for_gitops_tools_are_of_one_repository():
    documents = [yaml.safe_load(text) for text in blocks(ROOT / "docs" / "guide" / "gitops.md", "yaml")]
    (application,) = (document for document in documents if document["kind"] == "Application")
    flux, kustomization = sorted(
        (document for document in documents if document["kind"] == "Kustomization"), key=lambda d: "metadata" not in d
    )
    assert application["spec"]["source"]["path"] == flux["spec"]["path"].removeprefix("./") == "databases"
    assert application["spec"]["destination"]["namespace"] == kustomization["namespace"]
    assert "ServerSideApply=true" in application["spec"]["syncPolicy"]["syncOptions"]
    whole = yaml.safe_load((ROOT / "deploy" / "gitops" / "flux" / "databases.yaml").read_text())
    assert whole["spec"].pop("healthCheckExprs")
    assert flux == whole


def test_the_demo_has_as_many_steps_as_the_pages_say():
    for page in (ROOT / "README.md", ROOT / "docs" / "guide" / "getting-started.md"):
        assert re.findall(r"(\w+) steps", page.read_text()) == [{15: "fifteen"}[STEPS]]


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
