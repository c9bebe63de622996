"""``--schema``, several times: each schema has a plan and a history, and one approval is for all of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox import PostgresEndpoint
from tests.engines.migrate_cli_support import ORDERS, USERS, Shop, fresh

BOTH = ("--schema", "one", "--schema", "two")


@pytest.fixture
def shop(postgres18: PostgresEndpoint, tmp_path: Path) -> Iterator[Shop]:
    with fresh(postgres18, tmp_path / "migrations") as shop:
        for schema in ("one", "two"):
            shop.query(f'CREATE SCHEMA {schema} AUTHORIZATION "{shop.owner}"')
        yield shop


def test_one_approval_is_for_all_schemas(shop: Shop) -> None:
    up = shop.migrate("up", *BOTH, "-o", "json")
    assert up.exit_code == 0, up.stderr
    told = [json.loads(line) for line in up.stdout.splitlines()]
    assert {one["schema"] for one in told} == {"one", "two"}, "each line says of which schema it is"

    back = ("--target", USERS[:14], *BOTH)
    planned = shop.migrate("plan", "--action", "down", *back, "-o", "json")
    assert planned.exit_code == 2
    one, two, whole = (json.loads(line) for line in planned.stdout.splitlines())
    assert (one["schema"], two["schema"], whole["schema"]) == ("one", "two", "")
    assert [(step["schema"], step["file"]) for step in whole["steps"]] == [("one", ORDERS), ("two", ORDERS)]
    assert len({one["digest"], two["digest"], whole["digest"]}) == 3
    shown = shop.migrate("plan", "--action", "down", *back)
    assert shown.stdout.splitlines()[-1] == f"{shop.name}: digest of all 2 schemas: {whole['digest']}"

    asked = shop.migrate("down", *back)
    assert (asked.exit_code, "--approve DIGEST, the last that `plan` prints" in asked.stderr) == (1, True)
    # an approval of one schema is not one of the other, nor of both
    for digest in (one["digest"], two["digest"]):
        refused = shop.migrate("down", *back, "--approve", digest)
        assert refused.exit_code == 1
        assert f"is not the digest of what would run now, {whole['digest']}: plan again" in refused.stderr
    assert shop.migrate("status", *BOTH).exit_code == 0, "nothing ran"
    down = shop.migrate("down", *back, "--approve", whole["digest"])
    assert down.exit_code == 0, down.stderr
    rows = shop.query("SELECT scope, version::text FROM selvedge.history ORDER BY scope")
    assert rows == [("one", USERS[:14]), ("two", USERS[:14])]
    nowhere = shop.migrate("status", "--schema", "three")
    assert nowhere.exit_code == 1
    assert "schema three, in which migrations are to run, does not exist" in nowhere.stderr
    alone = json.loads(shop.migrate("plan", "--action", "down", "--schema", "one", "-o", "json").stdout)
    assert shop.migrate("down", "--schema", "two", "--approve", alone["digest"]).exit_code == 1
    assert shop.migrate("down", "--schema", "one", "--approve", alone["digest"]).exit_code == 0
