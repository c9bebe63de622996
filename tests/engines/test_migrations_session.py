"""A migration without a transaction that goes on in another session: what it had set is set again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.engines.migrations_support import Shop, fresh_shop

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox import PostgresEndpoint

NAME = "20250101000000_a.sql"


@pytest.fixture
def shop(postgres18: PostgresEndpoint) -> Iterator[Shop]:
    with fresh_shop(postgres18) as shop:
        yield shop


@pytest.mark.parametrize(
    "setting",
    [
        "SET search_path = shop",
        "SELECT set_config('search_path', 'shop', false)",
        "SELECT pg_catalog.set_config('search_path', 'shop', false), set_config('a.b', 'x', false) AS b",
    ],
)
async def test_settings_are_said_again(shop: Shop, setting: str) -> None:
    begun = f"{setting};\nCREATE TABLE one (id int);\n"
    result = await shop.up({NAME: f"{begun}CREATE INDEX CONCURRENTLY i ON one (nope);"})
    assert "nope" in str(result.error)
    assert shop.query("SELECT state, statements_done FROM selvedge.history") == [("Partial", 2)]
    mended = f"{begun}CREATE INDEX CONCURRENTLY i ON one (id);\nCREATE TABLE two (id int);"
    result = await shop.up({NAME: mended})
    assert result.error is None, result.error
    assert shop.tables() == ["one", "two"]
