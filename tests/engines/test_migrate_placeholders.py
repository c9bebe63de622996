"""``selvedge migrate --placeholder NAME``: one set of files for several environments."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox import PostgresEndpoint
from tests.engines.migrate_cli_support import Shop, fresh, lines

FILE = "20250103000000_tenant.sql"
TEXT = "-- migrate:up\nCREATE TABLE ${env:TENANT}_carts (id int);\n-- migrate:down\nDROP TABLE ${env:TENANT}_carts;\n"


@pytest.fixture
def shop(postgres18: PostgresEndpoint, tmp_path: Path) -> Iterator[Shop]:
    with fresh(postgres18, tmp_path / "migrations") as shop:
        shop.write(**{FILE: TEXT})
        yield shop


def test_up_and_down(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENANT", "acme")
    [plan] = lines(shop.migrate("plan", "-o", "json", "--placeholder", "TENANT"))
    up = shop.migrate("up", "--placeholder", "TENANT")
    assert up.exit_code == 0, up.stderr
    tables = "SELECT tablename::text FROM pg_tables WHERE tablename LIKE '%\\_carts'"
    assert shop.query(tables) == [("acme_carts",)]
    assert shop.query(f"SELECT up_text FROM selvedge.history WHERE version = {FILE[:14]}") == [
        ("\nCREATE TABLE ${env:TENANT}_carts (id int);\n",)
    ], "the history has the text before the substitution, as the checksum does"

    # an approval is for these values
    [down] = lines(shop.migrate("plan", "--action", "down", "-o", "json", "--placeholder", "TENANT"))
    monkeypatch.setenv("TENANT", "globex")
    [other] = lines(shop.migrate("plan", "--action", "down", "-o", "json", "--placeholder", "TENANT"))
    assert len({plan["digest"], down["digest"], other["digest"]}) == 3

    # the file is gone: what the history kept is substituted as well
    monkeypatch.setenv("TENANT", "acme")
    (shop.directory / FILE).unlink()
    gone = shop.migrate("down", "--yes", "--placeholder", "TENANT")
    assert gone.exit_code == 0, gone.stderr
    assert shop.query(tables) == []


def test_what_is_not_listed_is_not_substituted(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER", "x")
    refused = shop.migrate("up", "--placeholder", "OTHER")
    assert refused.exit_code == 1
    assert f"{FILE}, line 2: ${{env:TENANT}} is not among the placeholders; list it, or correct it" in refused.stderr
    assert shop.query("SELECT to_regnamespace('selvedge')") == [(None,)]
    for name, why in (("UNSET_ONE", "the environment variable is not set"), ("SELVEDGE_PASSWORD", "secrets are not")):
        refused = shop.migrate("up", "--placeholder", name)
        assert (refused.exit_code, why in refused.stderr) == (1, True), refused.stderr
