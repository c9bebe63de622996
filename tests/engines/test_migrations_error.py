"""What failed stands in the history's row of a migration that is partly done, for who looks there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.engines.migrations_support import Shop, fresh_shop

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox import PostgresEndpoint

NAME = "1_a.sql"
ERROR = "SELECT state, direction, statements_done, error FROM selvedge.history"


@pytest.fixture
def shop(postgres18: PostgresEndpoint) -> Iterator[Shop]:
    with fresh_shop(postgres18) as shop:
        yield shop


@pytest.mark.parametrize(
    ("bad", "good"),
    [
        ("INSERT INTO shop.a VALUES (1 / 0)", "INSERT INTO shop.a VALUES (2)"),
        ("CREATE UNIQUE INDEX CONCURRENTLY a_id ON shop.a (id)", "CREATE INDEX CONCURRENTLY a_id ON shop.a (id)"),
    ],
    ids=["in a transaction", "without one"],
)
async def test_why_it_stopped_stands_in_its_row_until_it_goes_on(shop: Shop, bad: str, good: str) -> None:
    text = (
        "-- transaction: false\nCREATE TABLE shop.a (id int);\nINSERT INTO shop.a VALUES (1), (1);\n"
        "SET search_path = shop, pg_temp;\nCREATE TEMP TABLE history (error text);\n{};\nVACUUM shop.a;\n"
    )
    result = await shop.up({NAME: text.format(bad)})
    assert result.error is not None
    [(state, direction, done, error)] = shop.query(ERROR)
    assert (state, direction, done) == ("Partial", "up", 4)
    assert error.startswith(f"{NAME}, line 6: ")
    assert error == str(result.migrations[0].error)
    assert (await shop.up({NAME: text.format(good)})).error is None
    assert shop.query(ERROR) == [("Applied", "up", 6, None)]


async def test_the_same_on_the_way_down(shop: Shop) -> None:
    text = (
        "-- migrate:up\nCREATE TABLE shop.a (id int);\n-- migrate:down transaction:false\nDROP TABLE shop.a;\n"
        "DROP TABLE shop.{};\n"
    )
    assert (await shop.up({NAME: text.format("b")})).error is None
    assert (await shop.do({NAME: text.format("b")}, "Down")).error is not None
    [(state, direction, done, error)] = shop.query(ERROR)
    assert (state, direction, done) == ("Partial", "down", 1)
    assert 'table "b" does not exist (42P01)' in error
    shop.query("CREATE TABLE shop.b ()")
    shop.query(f'ALTER TABLE shop.b OWNER TO "{shop.owner}"')
    assert (await shop.do({NAME: text.format("b")}, "Down")).error is None
    assert shop.query(ERROR) == []


async def test_what_is_taken_back_whole_leaves_no_row(shop: Shop) -> None:
    assert (await shop.up({NAME: "CREATE TABLE shop.a (id int);\nSELECT 1 / 0;\n"})).error is not None
    assert (await shop.up({NAME: "-- transaction: false\nSELECT 1 / 0;\nVACUUM;\n"})).error is not None
    assert shop.query(ERROR) == []
