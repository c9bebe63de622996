"""The generated schemas: structural, bounded everywhere, described everywhere, and the same as what is committed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from selvedge.api.base import LIST_MAP, Checked, Model
from selvedge.api.crd import PRESERVE, crd, schema_of
from selvedge.api.resource import KINDS
from selvedge.cli import crds as command

ROOT = Path(__file__).parents[3]
YAML_BOOLEANS = {"y", "yes", "n", "no", "on", "off", "true", "false"}


def nodes(path: str, schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema below one, with its path."""
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(f"{path}.{name}", child)
    if "items" in schema:
        yield from nodes(f"{path}[]", schema["items"])
    if isinstance(schema.get("additionalProperties"), dict):
        yield from nodes(f"{path}{{}}", schema["additionalProperties"])


ALL = [
    (path, node)
    for kind in KINDS.values()
    for part, model in (("spec", kind.spec), ("status", kind.status))
    for path, node in nodes(f"{kind.kind}.{part}", schema_of(model))
]


def models(model: type[Model]) -> set[type[Model]]:
    found = set(Model.__subclasses__())
    while True:
        more = found | {child for each in found for child in each.__subclasses__()}
        if more == found:
            return found
        found = more


def test_every_string_and_every_list_and_every_map_has_a_bound():
    unbounded = [
        path
        for path, node in ALL
        if (node["type"] == "string" and "enum" not in node and "maxLength" not in node)
        or (node["type"] == "array" and "maxItems" not in node)
        or ("additionalProperties" in node and "maxProperties" not in node)
    ]
    assert unbounded == []


def test_every_field_is_described():
    assert [path for path, node in ALL if not path.endswith(("[]", "{}")) and not described(path, node)] == []


def described(path: str, node: dict[str, Any]) -> bool:
    # the refused settings stand in the schema only so that a rule can see them
    return bool(node.get("description")) or ".settings." in path or ".databaseSettings." in path


def test_nothing_is_left_that_a_structural_schema_does_not_have():
    allowed = {
        *("description", "type", "format", "enum", "default", "properties", "required", "items", "pattern"),
        *("maxItems", "minItems", "maxLength", "minLength", "maximum", "minimum", "maxProperties", "minProperties"),
        *("additionalProperties", "x-kubernetes-list-type", LIST_MAP, PRESERVE, "x-kubernetes-validations"),
    }
    assert {key for _, node in ALL for key in node} <= allowed


def test_only_documents_for_the_server_and_settings_keep_unknown_fields():
    kept = {path for path, node in ALL if node.get(PRESERVE)}
    assert kept == {
        "DatabaseSchema.spec.mongodb.collections[].validator",
        "DatabaseSchema.spec.mongodb.collections[].indexes[].partialFilter",
        "DatabaseSchema.spec.postgres.settings",
        "DatabaseSchema.spec.postgres.roles[].settings",
        "DatabaseUser.spec.settings",
        "DatabaseSchema.spec.postgres.roles[].databaseSettings",
    }


def test_every_list_says_how_it_is_merged_and_the_key_is_required():
    for path, node in ALL:
        if node["type"] != "array":
            continue
        assert node["x-kubernetes-list-type"] == ("map" if LIST_MAP in node else "atomic"), path
        assert set(node.get(LIST_MAP, ())) <= set(node["items"].get("required", ())), path


def test_no_default_stands_in_a_list_or_a_status():
    # the API server would complete the list, and it would differ from its manifest for ever
    assert [path for path, node in ALL if "default" in node and ("[]" in path or ".status" in path)] == []


def test_a_status_requires_nothing_but_the_type_of_a_condition():
    required = {path: node["required"] for path, node in ALL if ".status" in path and node.get("required")}
    assert required == {f"{kind}.status.conditions[]": ["type"] for kind in KINDS}


def test_no_field_and_no_value_is_a_yaml_boolean_by_accident():
    assert [path for path, _ in ALL if path.rsplit(".", 1)[-1].lower() in YAML_BOOLEANS] == []
    values = {str(value) for _, node in ALL for value in node.get("enum", ())}
    assert {value for value in values if value.lower() in YAML_BOOLEANS} == set()


def test_every_value_of_an_enum_is_camel_case_or_sqls_own_word():
    for path, node in ALL:
        for value in node.get("enum", ()):
            if isinstance(value, str) and value not in ("2d", "2dsphere"):
                assert value[0].isupper(), path
                assert value.isalpha(), path


def test_a_model_with_named_lists_or_rules_checks_them():
    unchecked = [
        model.__name__
        for model in models(Model)
        if not issubclass(model, Checked)
        and not any(kind.status is model for kind in KINDS.values())
        and model.__name__ != "Status"
        and (
            model.RULES
            or any(
                isinstance(info.json_schema_extra, dict) and LIST_MAP in info.json_schema_extra
                for info in model.model_fields.values()
            )
        )
    ]
    assert unchecked == []


def test_the_bounds_of_a_status_are_those_of_the_design():
    bounds = {
        path.split(".status.")[1]: node["maxItems"] for path, node in ALL if "maxItems" in node and ".status." in path
    }
    assert bounds["notReady"] == 100
    assert bounds["migrations"] == 200
    assert bounds["advice"] == 50
    assert bounds["plan.statements"] == 10


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.kind)
def test_every_kind_has_status_category_short_name_and_the_common_columns(kind):
    spec = crd(kind)["spec"]
    version = spec["versions"][0]
    assert version["subresources"] == {"status": {}}
    assert spec["names"]["categories"] == ["selvedge"]
    assert spec["names"]["shortNames"] == [kind.short]
    titles = [column["name"] for column in version["additionalPrinterColumns"]]
    assert {"Ready", "Reason"} < set(titles)
    assert titles[-1] == "Age"
    status = version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]
    assert {"observedGeneration", "conditions", "nextRetryTime"} <= set(status)


def test_what_is_committed_is_what_the_models_say():
    assert command.check(ROOT / "crds", ROOT / "docs" / "reference") == []


def test_nothing_else_lies_beside_the_crds():
    assert {path.name for path in (ROOT / "crds").iterdir()} == set(command.files())


def test_drift_is_found_and_named_and_mended(tmp_path):
    crds, docs = tmp_path / "crds", tmp_path / "docs"
    assert len(command.write(crds, docs)) == 2 * len(KINDS) + 1
    assert command.write(crds, docs) == []
    (crds / "migrationruns.yaml").write_text("changed by hand")
    (docs / "databaseserver.md").unlink()
    problems = command.check(crds, docs)
    assert [problem.split(":")[0] for problem in problems] == [
        f"{crds}/migrationruns.yaml differs from the models",
        f"{docs}/databaseserver.md is missing",
    ]
    answer = CliRunner().invoke(command.crds, ["--check", "--output", str(crds), "--docs", str(docs)])
    assert answer.exit_code == 2
    assert command.write(crds, docs) == [crds / "migrationruns.yaml", docs / "databaseserver.md"]
    assert CliRunner().invoke(command.crds, ["--check", "--output", str(crds), "--docs", str(docs)]).exit_code == 0


def test_the_command_prints_what_kubectl_can_apply():
    answer = CliRunner().invoke(command.crds, [])
    assert [document["spec"]["names"]["kind"] for document in yaml.safe_load_all(answer.output)] == list(KINDS)
