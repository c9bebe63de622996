"""A hostile migration gains nothing: whatever it does to its session, it is the migrator's login at most."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from selvedge.core.reasons import Reason
from tests.engines.migrations_support import Shop

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox import PostgresEndpoint

FILE = "20250101000000_attack.sql"


@pytest.fixture
def shop(postgres: PostgresEndpoint, database: str) -> Iterator[Shop]:
    shop = Shop(postgres, database)
    shop.create()
    shop.query("CREATE SCHEMA selvedge CREATE TABLE claims (object text); INSERT INTO selvedge.claims VALUES ('ours')")
    shop.query("CREATE TABLE public.private (secret text)")
    return shop


REFUSED = {
    "superuser": 'ALTER ROLE "{login}" SUPERUSER',
    "superuser of the owner": 'ALTER ROLE "{owner}" SUPERUSER',
    "createrole": 'ALTER ROLE "{login}" CREATEROLE',
    "a new role": "CREATE ROLE evil SUPERUSER LOGIN",
    "become the administrator": "SET ROLE postgres",
    "authorization": "SET SESSION AUTHORIZATION postgres",
    "membership": 'GRANT postgres TO "{login}"',
    "program": "COPY (SELECT 1) TO PROGRAM 'id'",
    "program in": "CREATE TEMP TABLE t (x text); COPY t FROM PROGRAM 'id'",
    "a file": "CREATE TEMP TABLE t (x text); COPY t FROM '/etc/passwd'",
    "claims": "UPDATE selvedge.claims SET object = 'theirs'",
    "claims dropped": "DROP TABLE selvedge.claims",
    "claims read": "SELECT * FROM selvedge.claims",
    "schema dropped": "DROP SCHEMA selvedge CASCADE",
    "history dropped": "DROP TABLE selvedge.history",
    "somebody's table": "SELECT * FROM public.private",
    "a superuser's setting": "SET session_replication_role = replica",
    "events changed": "UPDATE selvedge.events SET message = 'nothing happened'",
    "role's settings": "ALTER ROLE postgres SET search_path = evil",
    "password": "ALTER ROLE postgres PASSWORD 'x'",
    "untrusted language": "CREATE FUNCTION shop.f() RETURNS void LANGUAGE c AS 'libc', 'system'",
    "security definer as administrator": "CREATE FUNCTION shop.f() RETURNS void LANGUAGE sql SECURITY DEFINER "
    "AS 'ALTER ROLE \"{login}\" SUPERUSER'; SELECT shop.f()",
    # the last one: without a transaction it leaves its row half done, and another text may not go on from there
    "system setting": "ALTER SYSTEM SET log_statement = 'none'",
}
ESCAPES = {"": "", "reset role": "RESET ROLE; ", "set_config": "SELECT set_config('role', 'none', false); "}


@pytest.mark.own_postgres  # nobody on the server may have become more than he was
@pytest.mark.parametrize("escape", ESCAPES.values(), ids=lambda text: text or "plain")
async def test_gains_nothing(shop: Shop, escape: str) -> None:
    for name, attack in REFUSED.items():
        text = escape + attack.format(login=shop.login, owner=shop.owner)
        if "SYSTEM" not in attack:  # which runs without a transaction
            text = "CREATE TABLE shop.t (id int); " + text
        result = await shop.up({FILE: text})
        assert result.error is not None, name
        assert result.error.reason is Reason.STATEMENT_FAILED, (name, result.error)
        assert shop.value("SELECT to_regclass('shop.t')") is None, name
    assert shop.query("SELECT object FROM selvedge.claims") == [("ours",)]
    assert (
        shop.query(
            "SELECT rolname FROM pg_roles WHERE (rolsuper OR rolcreaterole) AND rolname !~ '^pg_' AND rolname <> %s",
            shop.endpoint.username,
        )
        == []
    )
    assert shop.value("SELECT count(*) FROM selvedge.history WHERE state = 'Applied'") == 0


@pytest.mark.parametrize(
    "escape",
    [
        "RESET ROLE",
        "SELECT set_config('role', 'none', false)",
        "SET search_path = ''",
        "RESET ALL",
        "SET SESSION AUTHORIZATION DEFAULT",
        "SET statement_timeout = '100s'; RESET ROLE",
        "DO $$ BEGIN PERFORM set_config('role', 'none', true); END $$",
        "CREATE TEMP TABLE history (version numeric)",
        "SELECT pg_advisory_unlock_all()",
        "DISCARD PLANS; DISCARD TEMP",
    ],
)
async def test_the_history_is_written_after_an_escape(shop: Shop, escape: str) -> None:
    result = await shop.up(
        {FILE: f"CREATE TABLE shop.t (id int); {escape}", "20250102000000_x.sql": "CREATE TABLE shop.u ()"}
    )
    assert result.error is None, result.error
    assert shop.query("SELECT version::text, applied_by FROM selvedge.history ORDER BY 1") == [
        ("20250101000000", shop.login),
        ("20250102000000", shop.login),
    ]
    assert shop.value("SELECT tableowner FROM pg_tables WHERE tablename = 'u'") == shop.owner


async def test_operators_of_the_migration_do_not_run_in_the_history_write(shop: Shop) -> None:
    text = (
        "CREATE FUNCTION shop.now() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN RAISE 'caught'; END $$;"
        "CREATE FUNCTION shop.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql "
        "AS $$ BEGIN RAISE 'caught'; END $$;"
        "GRANT USAGE ON SCHEMA shop TO PUBLIC; SET search_path = shop, pg_catalog;"
    )
    assert (await shop.up({FILE: text})).error is None


@pytest.mark.parametrize("control", ["COMMIT", "ROLLBACK", "BEGIN", "END", "PREPARE TRANSACTION 'x'", "ABORT"])
async def test_transaction_control_is_refused_before_anything_runs(shop: Shop, control: str) -> None:
    with pytest.raises(Exception, match=re.escape(f"{FILE}, line 2")):
        await shop.up({FILE: f"CREATE TABLE shop.t (id int);\n{control};\nCREATE TABLE shop.u (id int);"})
    assert shop.value("SELECT to_regclass('shop.t')") is None


async def test_commit_from_code_is_refused_by_the_server(shop: Shop) -> None:
    result = await shop.up({FILE: "CREATE TABLE shop.t (id int); DO $$ BEGIN COMMIT; END $$;"})
    assert result.migrations[0].error is not None
    assert result.migrations[0].error.sqlstate == "2D000"
    assert shop.value("SELECT to_regclass('shop.t')") is None


async def test_a_superuser_is_never_the_migrations_role(shop: Shop) -> None:
    shop.query(f'GRANT pg_execute_server_program TO "{shop.run_as}"')
    result = await shop.up({FILE: "SELECT 1"})
    assert result.error is not None
    assert "may act as a superuser or on the server's files" in str(result.error)


async def test_the_login_is_nobody_else_and_its_other_memberships_go(shop: Shop) -> None:
    assert (await shop.up({FILE: "SELECT 1"})).error is None
    shop.query(f'GRANT pg_read_all_data TO "{shop.login}"')
    assert (await shop.up({FILE: "SELECT 1", "20250102000000_x.sql": "SELECT 2"})).error is None
    rows = shop.query("SELECT roleid::regrole::text FROM pg_auth_members WHERE member = %s::regrole", f'"{shop.login}"')
    assert rows == [(shop.run_as,)]


async def test_the_password_is_nowhere(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    connect = psycopg.AsyncConnection.connect

    async def spy(info: str, **options: Any) -> object:
        parameters = conninfo_to_dict(info)
        if parameters["user"] == shop.login:
            seen.append(str(parameters["password"]))
        return await connect(info, **options)

    monkeypatch.setattr(psycopg.AsyncConnection, "connect", spy)
    shop.query('ALTER DATABASE "' + shop.database + "\" SET log_statement = 'all'")
    assert (await shop.up({FILE: "SELECT 1"})).error is None
    assert len(seen) == 1
    assert len(seen[0]) > 30
    log = shop.endpoint.log_path
    assert log is not None
    text = log.read_text(errors="replace")
    assert f'ROLE "{shop.login}"' in text
    assert seen[0] not in text


async def test_forced_row_level_security_fails_instead_of_hiding_rows(shop: Shop) -> None:
    text = (
        "CREATE TABLE shop.t (id int); INSERT INTO shop.t VALUES (1); ALTER TABLE shop.t ENABLE ROW LEVEL SECURITY;"
        "ALTER TABLE shop.t FORCE ROW LEVEL SECURITY;"
    )
    result = await shop.up({FILE: text, "20250102000000_x.sql": "UPDATE shop.t SET id = 2;"})
    error = result.migrations[1].error
    assert error is not None
    assert error.sqlstate == "42501"
    assert "forces row-level security" in error.hint
