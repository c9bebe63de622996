"""What this version does not act on is named, and everything else is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from selvedge.api.resource import KINDS, parse, parse_spec
from selvedge.api.support import unsupported

ROOT = Path(__file__).parents[3]


def postgres(**parts: Any) -> tuple[str, ...]:
    spec = {"serverRef": {"name": "main"}, "database": "shop", "postgres": parts}
    return unsupported(parse_spec(KINDS["DatabaseSchema"], spec, strict=True))


def run(**parts: Any) -> tuple[str, ...]:
    return unsupported(parse_spec(KINDS["MigrationRun"], {"schemaRef": {"name": "shop"}, **parts}, strict=True))


def test_every_part_of_the_postgres_example_is_acted_on():
    found = yaml.safe_load((ROOT / "tests/cluster/examples/databaseschema_postgres.yaml").read_text())
    assert unsupported(parse(found, strict=True).spec) == ()


def test_each_part_of_the_mongodb_example_that_waits_for_a_later_version_is_named():
    found = yaml.safe_load((ROOT / "tests/cluster/examples/databaseschema_mongodb.yaml").read_text())
    assert unsupported(parse(found, strict=True).spec) == ("spec.mongodb.roles",)


def test_what_is_acted_on_is_not_named():
    assert postgres(schemas=[{"name": "shared"}], roles=[{"name": "app", "memberOf": [{"role": "reader"}]}]) == ()
    assert (
        postgres(
            roles=[{"name": "app"}, {"name": "reader", "renamedFrom": "readonly"}],
            grants=[{"name": "types", "privileges": ["USAGE"], "objects": {"types": ["shared.status"]}, "to": ["app"]}],
        )
        == ()
    )
    assert run(source={"configMaps": [{"name": "migrations"}]}) == ()
    assert run(action="Down", transaction="All", source={"image": {"reference": "registry.example/migrations:1"}}) == ()


def test_the_manifests_of_fashion_wallet_need_nothing_of_a_later_version():
    found = [
        document
        for path in sorted((ROOT / "examples" / "fashion-wallet").glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
        if document["kind"] in KINDS
    ]
    assert found
    assert {document["metadata"]["name"]: unsupported(parse(document, strict=True).spec) for document in found} == {
        document["metadata"]["name"]: () for document in found
    }
