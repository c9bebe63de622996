"""``selvedge migrate`` by a login that may read the history and no more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox import PostgresEndpoint
from tests.engines.migrate_cli_support import Shop, fresh

WORD = "its own word"


@pytest.fixture
def shop(postgres18: PostgresEndpoint, tmp_path: Path) -> Iterator[Shop]:
    with fresh(postgres18, tmp_path / "migrations") as shop:
        assert shop.migrate("up").exit_code == 0
        yield shop


def test_it_is_told_which_right_an_empty_history_needs(shop: Shop) -> None:
    reader = f"{shop.name}_reader"
    shop.query(f"CREATE ROLE {reader} LOGIN PASSWORD '{WORD}'")
    shop.query(f"GRANT USAGE ON SCHEMA selvedge TO {reader}; GRANT SELECT ON selvedge.history TO {reader}")
    assert shop.migrate("validate", user=reader, password=WORD).exit_code == 0
    assert shop.migrate("to", "0", "--yes").exit_code == 0
    unread = shop.migrate("validate", user=reader, password=WORD)
    assert unread.exit_code == 1
    assert f"login {reader} may not read the migrations' history" in unread.stderr
    shop.query(unread.stderr.split("; run ")[1].strip())
    assert shop.migrate("validate", user=reader, password=WORD).exit_code == 0
