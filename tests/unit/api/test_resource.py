"""Decoding: strict for files, lenient for what is stored; what is wrong is named by its path."""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from selvedge.api.base import document
from selvedge.api.databaseschema import Adoption, DatabaseSchemaSpec
from selvedge.api.databaseserver import TlsMode
from selvedge.api.mongodb import Collation, IndexType
from selvedge.api.resource import KINDS, parse, parse_spec
from selvedge.core.errors import InvalidError
from selvedge.core.reasons import Reason

EXAMPLES = Path(__file__).parents[2] / "cluster" / "examples"


def example(name: str, number: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = list(yaml.safe_load_all((EXAMPLES / f"{name}.yaml").read_text()))[number]
    return found


def every_example() -> list[dict[str, Any]]:
    return [found for path in sorted(EXAMPLES.glob("*.yaml")) for found in yaml.safe_load_all(path.read_text())]


def schema(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "selvedge.dev/v1alpha1",
        "kind": "DatabaseSchema",
        "metadata": {"name": "fashion-wallet"},
        "spec": {"serverRef": {"name": "main"}, "database": "fashion_wallet", "postgres": {}, **spec},
    }


@pytest.mark.parametrize("found", every_example(), ids=lambda found: found["metadata"]["name"])
def test_an_example_is_decoded_and_written_back_as_the_same_declaration(found):
    resource = parse(found, strict=True)
    assert resource.metadata.name == found["metadata"]["name"]
    again = parse_spec(KINDS[resource.kind], document(resource.spec), strict=True)
    assert again == resource.spec


def test_the_postgres_example_has_its_values_in_the_units_of_the_program():
    spec: DatabaseSchemaSpec = parse(example("databaseschema_postgres"), strict=True).spec
    assert spec.interval == 300.0
    assert spec.adoption is Adoption.REQUIRE_APPROVAL
    assert spec.postgres is not None
    assert spec.postgres.settings == {"statement_timeout": "30s", "search_path": ("shared", "public")}
    assert [grant.objects.kind for grant in spec.postgres.grants] == [
        *("database", "tables_in", "tables", "columns", "functions", "schemas")
    ]
    assert spec.postgres.audit is not None
    assert spec.postgres.audit.retention == 365 * 86_400
    assert spec.mongodb is None


def test_the_mongodb_example_keeps_the_order_of_its_keys():
    spec: DatabaseSchemaSpec = parse(example("databaseschema_mongodb"), strict=True).spec
    assert spec.mongodb is not None
    designs = spec.mongodb.collections[0]
    assert [(key.field, key.order) for key in designs.indexes[0].keys] == [
        ("userId", None),
        ("status", None),
        ("createdAt", -1),
    ]
    assert designs.indexes[1].keys[1].type is IndexType.TEXT
    assert spec.mongodb.collections[1].indexes[0].expire_after == 0.0
    assert spec.mongodb.collections[2].expire_after == 30 * 86_400


def test_what_is_left_out_has_the_safe_default():
    server = parse(example("databaseserver", 1), strict=True).spec
    assert server.tls.mode is TlsMode.VERIFY_FULL
    assert server.connections.max == 10
    assert server.policy is None
    run = parse(example("migrationrun"), strict=True).spec
    assert run.timeouts.lock_wait == 600.0


def test_an_unknown_field_is_refused_in_a_file_and_left_out_of_what_is_stored():
    found = schema(postgres={"roles": [{"name": "app", "superuser": True}]})
    with pytest.raises(InvalidError) as caught:
        parse(found, strict=True)
    assert str(caught.value) == (
        "DatabaseSchema fashion-wallet: spec.postgres.roles[0].superuser: unknown field; correct or remove it"
    )
    assert parse(found, strict=False).spec.postgres.roles[0].name == "app"


def test_a_field_has_one_spelling():
    with pytest.raises(InvalidError, match=r"spec\.server_ref: unknown field"):
        parse(schema(server_ref={"name": "main"}), strict=True)


def test_the_message_names_every_field_that_is_wrong_and_shows_no_value():
    secret = "correct horse battery staple"
    with pytest.raises(InvalidError) as caught:
        parse(schema(interval=secret, drift=secret, suspend=secret), strict=False)
    message = str(caught.value)
    assert caught.value.reason is Reason.INVALID_SPEC
    assert secret not in message
    assert "spec.interval: not a duration: write a number and ms, s, m, h or d, such as 30s or 5m" in message
    assert "spec.drift: input should be 'Correct' or 'Report'" in message
    assert "spec.suspend: input should be a valid boolean" in message


def test_many_problems_are_counted():
    roles = [{"name": f"pg_{number}"} for number in range(9)]
    with pytest.raises(InvalidError, match=r"names that begin with pg_ .*; and 4 more$"):
        parse(schema(postgres={"roles": roles}), strict=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "Table"}, f"kind 'Table' is unknown: use one of {', '.join(KINDS)}"),
        ({"apiVersion": "v1"}, "DatabaseSchema has apiVersion 'v1': write selvedge.dev/v1alpha1"),
        ({"metadata": {}}, "DatabaseSchema: metadata.name is missing: give it a name"),
        ({"spec": None}, "DatabaseSchema fashion-wallet: spec is missing: write it"),
        ({"specs": {}}, "DatabaseSchema fashion-wallet: specs: unknown field; correct or remove it"),
    ],
)
def test_what_is_no_resource_is_refused(change, message):
    with pytest.raises(InvalidError) as caught:
        parse({**schema(), **change}, strict=True)
    assert str(caught.value) == message


def test_a_name_is_measured_in_bytes():
    # the API server's maxLength counts characters
    with pytest.raises(InvalidError, match=r"roles\[0\].name: .* is 64 bytes long and 63 are kept: shorten it"):
        parse(schema(postgres={"roles": [{"name": "ä" * 32}]}), strict=False)


def test_a_setting_is_refused_in_any_spelling():
    with pytest.raises(InvalidError, match="setting session_replication_role is a superuser's"):
        parse(schema(postgres={"settings": {"Session_Replication_Role": "replica"}}), strict=False)


def test_a_declaration_is_frozen():
    spec = parse(schema(), strict=True).spec
    with pytest.raises(ValueError, match="frozen"):
        spec.database = "other"


def test_metadata_is_what_the_api_gave():
    found = schema()
    found["metadata"] |= {
        "namespace": "shop",
        "uid": "u",
        "generation": 3,
        "creationTimestamp": "2026-11-20T10:00:00Z",
        "deletionTimestamp": "2026-11-20T11:00:00Z",
        "finalizers": ["selvedge.dev/database"],
    }
    found["status"] = {"observedGeneration": 2}
    resource = parse(found, strict=False)
    assert str(resource) == "DatabaseSchema shop/fashion-wallet"
    assert resource.metadata.generation == 3
    assert resource.metadata.deleting
    assert resource.metadata.finalizers == ("selvedge.dev/database",)
    assert resource.status["observedGeneration"] == 2


def test_decoding_leaves_the_document_as_it_was():
    found = example("databaseschema_postgres")
    before = copy.deepcopy(found)
    parse(found, strict=True)
    assert found == before


def test_a_collation_has_the_servers_words():
    collation = Collation.model_validate({"locale": "de", "caseFirst": "Upper", "alternate": "NonIgnorable"})
    assert collation.for_server() == {"locale": "de", "caseFirst": "upper", "alternate": "non-ignorable"}


def test_thousands_of_resources_are_decoded_within_a_second():
    # measured: 65 µs for the example of every feature; the deadline only catches another order of magnitude
    found = example("databaseschema_postgres")
    end = time.monotonic() + 10
    for _ in range(1000):
        parse(found, strict=False)
    assert time.monotonic() < end


@pytest.mark.parametrize("value", [64, True, None, ["shared", 1], {"a": "b"}])
def test_a_setting_that_is_no_text_is_refused_with_advice(value):
    with pytest.raises(InvalidError) as caught:
        parse(schema(postgres={"settings": {"work_mem": value}}), strict=False)
    assert "spec.postgres.settings.work_mem: a setting is text, or a list of texts: put it in quotes" in str(
        caught.value
    )


def test_a_role_may_be_called_as_a_cloud_calls_it_and_a_schema_has_no_dot():
    grant = {"name": "g", "privileges": ["CONNECT"], "objects": {"database": True}, "to": ["app@project.iam"]}
    assert parse(schema(postgres={"grants": [grant]}), strict=True).spec.postgres.grants[0].to == ("app@project.iam",)
    with pytest.raises(InvalidError, match=r"schemas\[0\]\.name: string should match pattern"):
        parse(schema(postgres={"schemas": [{"name": "a.b"}]}), strict=True)
