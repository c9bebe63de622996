"""What of a session is said again where a migration without a transaction goes on in another one."""

from __future__ import annotations

import pytest

from selvedge.core.errors import InvalidError
from selvedge.migrate import load
from selvedge.migrate.session_state import is_said_again
from selvedge.migrate.splitter import split

AGAIN = (
    "SET search_path = shop",
    "SET SESSION statement_timeout = 0",
    "RESET search_path",
    "SELECT set_config('search_path', 'shop', false)",
    "SELECT pg_catalog.set_config('search_path', '', false);",
    "select Set_Config ('a.b', $$x$$, 'f') as done, set_config('a.c', NULL, true) x;",
    "/* a */ SELECT \"pg_catalog\".\"set_config\"('a.b', E'\\n', FALSE)",
)
NOT = (
    "SET ROLE other",
    "SET LOCAL ROLE other",
    "RESET ROLE",
    "SELECT 1",
    "SELECT 'set_config(1)'",
    "SELECT set_config('a.b', current_user, false)",
    "SELECT set_config('a.b', (SELECT name FROM shop.t LIMIT 1), false)",
    "SELECT set_config('a.b', 'x', false), count(*) FROM shop.t",
    "SELECT set_config('a.b', 'x', false) FROM shop.t",
    "SELECT my.set_config('a.b', 'x', false)",
    "INSERT INTO shop.t SELECT set_config('a.b', 'x', false)",
)


@pytest.mark.parametrize("text", AGAIN)
def test_said_again(text: str) -> None:
    [statement] = split(text)
    assert is_said_again(statement)


@pytest.mark.parametrize("text", NOT)
def test_not_said_again(text: str) -> None:
    [statement] = split(text)
    assert not is_said_again(statement)


REFUSED = (
    "SELECT set_config('a.b', current_user, false)",
    "SELECT set_config('a.b', x, false) FROM shop.t",
    "DO $$ BEGIN PERFORM set_config('a.b', 'x', false); END $$",
    "DO 'BEGIN PERFORM pg_catalog.set_config(''a.b'', ''x'', v); END'",
    "WITH x AS (SELECT set_config('a.b', 'x', 'no'::bool)) SELECT * FROM x",
)
FINE = (
    "SELECT set_config('a.b', current_user, true)",
    "DO $$ BEGIN PERFORM set_config('a.b', current_user, true); END $$",
    "CREATE FUNCTION shop.f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM set_config('a', 'b', false); END $$",
    "SELECT set_config('a.b', 'x', false)",
    "COMMENT ON TABLE shop.t IS 'set_config(a, b, false)'",
    "SELECT 'set_config(a, b, false)'",
)


@pytest.mark.parametrize("text", REFUSED)
def test_a_file_without_a_transaction_is_refused_where_it_could_not_go_on(text: str) -> None:
    [migration] = load({"1_a.sql": f"-- transaction: false\n\n{text};\nSELECT 2;"})
    with pytest.raises(InvalidError, match=r"1_a\.sql, line 3: set_config sets the session here"):
        migration.check()
    for whole in (f"{text};\nSELECT 2;", f"-- transaction: false\nSELECT 2;\n{text};"):
        [migration] = load({"1_a.sql": whole})
        migration.check()


@pytest.mark.parametrize("text", FINE)
def test_a_file_without_a_transaction_may_do_this(text: str) -> None:
    [migration] = load({"1_a.sql": f"-- transaction: false\n{text};\nSELECT 2;"})
    migration.check()
