"""Migrations on tables whose row-level security is forced: what helps, and what the advice may say that helps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.engines.migrations_support import Shop

if TYPE_CHECKING:
    from sandbox import PostgresEndpoint

FIRST, SECOND = "20250101000000_table.sql", "20250102000000_data.sql"
FORCED = (
    "CREATE TABLE shop.t (id int, note text);\nINSERT INTO shop.t VALUES (1);\n"
    "ALTER TABLE shop.t ENABLE ROW LEVEL SECURITY;\nALTER TABLE shop.t FORCE ROW LEVEL SECURITY;\n"
)


@pytest.fixture
def shop(postgres: PostgresEndpoint, database: str) -> Shop:
    shop = Shop(postgres, database)
    shop.create()
    return shop


async def test_a_policy_for_the_owner_does_not_let_it_through_and_bypassrls_does(shop: Shop) -> None:
    """With row_security off the server asks whether policies would apply at all, and not what they say."""
    files = {FIRST: FORCED + f'CREATE POLICY p ON shop.t TO "{shop.owner}" USING (true);\n'}
    assert (await shop.up(files)).error is None
    files |= {SECOND: "UPDATE shop.t SET id = 2;"}
    error = (await shop.up(files)).migrations[0].error
    assert error is not None
    assert (error.sqlstate, error.statement) == ("42501", "UPDATE shop.t SET id = 2")
    assert "give the migrations' role BYPASSRLS" in error.hint
    shop.query(f'ALTER ROLE "{shop.owner}" BYPASSRLS')
    assert (await shop.up(files)).error is None
    assert shop.value("SELECT id FROM shop.t") == 2


async def test_without_force_its_owner_is_not_concerned(shop: Shop) -> None:
    text = FORCED.replace("ALTER TABLE shop.t FORCE ROW LEVEL SECURITY;\n", "")
    assert (await shop.up({FIRST: text, SECOND: "UPDATE shop.t SET id = 2;"})).error is None


async def test_a_file_that_switches_row_security_on_sees_what_its_policies_let_it_see(shop: Shop) -> None:
    policy = f'CREATE POLICY p ON shop.t TO "{shop.owner}" USING (id < 3);\n'
    first = FORCED.replace("VALUES (1)", "VALUES (1), (2), (3)") + policy
    files = {FIRST: first, SECOND: "SET LOCAL row_security = on;\nUPDATE shop.t SET note = 'seen';"}
    assert (await shop.up(files)).error is None
    assert shop.query("SELECT id, note FROM shop.t ORDER BY id") == [(1, "seen"), (2, "seen"), (3, None)]
