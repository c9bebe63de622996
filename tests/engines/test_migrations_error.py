"""What failed stands in the history's row of a migration that is partly done, for who looks there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from selvedge.core.errors import InvalidError, TransientError
from selvedge.core.reasons import Reason
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


PROCEDURE = """
CREATE TABLE shop.log (n int);
CREATE SEQUENCE shop.tried;
CREATE PROCEDURE shop.fill() LANGUAGE plpgsql AS $$
BEGIN INSERT INTO shop.log VALUES (1); COMMIT; PERFORM 1 / 0; END $$;
"""
CALLED = "SELECT n FROM shop.log"
ROW = "SELECT statements_done, started, error IS NOT NULL FROM selvedge.history WHERE version = 2"


async def refused_from(shop: Shop, when: str, text: str) -> dict[str, str]:
    """A run that may write nothing any more once the query ``when`` says so; its statement's failure is its result."""
    files = {NAME: PROCEDURE, "2_b.sql": f"-- transaction: false\n{text}"}
    assert (await shop.up({NAME: PROCEDURE})).error is None

    def may_write() -> None:
        if shop.query(when):
            raise TransientError(Reason.NOT_LEADING, "another process leads now")

    result = await shop.up(files, may_write=may_write)
    assert isinstance(result.error, InvalidError), result.error
    assert "division by zero (22012)" in result.error.message
    return files


async def test_why_a_procedure_failed_is_written_with_its_end(shop: Shop) -> None:
    """In a transaction of its own the reason might not arrive, and the procedure would be called again."""
    await refused_from(shop, "SELECT 1 FROM selvedge.history WHERE version = 2 AND NOT started", "CALL shop.fill();\n")
    assert shop.query(ROW) == [(0, False, True)]
    assert shop.query(CALLED) == [(1,)]


async def test_a_procedure_whose_failure_could_not_be_written_down_is_not_called_again(shop: Shop) -> None:
    files = await refused_from(shop, CALLED, "CALL shop.fill();\n")
    assert shop.query(ROW) == [(0, True, False)]
    assert "its answer was lost" in str((await shop.up(files)).error)
    assert shop.query(CALLED) == [(1,)]


async def test_a_reason_that_cannot_be_written_down_is_still_the_reason(shop: Shop) -> None:
    tried = "SELECT 1 FROM shop.tried WHERE is_called"
    await refused_from(shop, tried, "SELECT 1;\nSELECT 1 / (nextval('shop.tried') - 1);\n")
    assert shop.query(ROW) == [(1, False, False)]
