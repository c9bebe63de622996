"""Policies written by somebody who wants more than his table: nothing of his runs as the administrator."""

from __future__ import annotations

import pytest

from sandbox import PostgresEndpoint
from selvedge.core.reasons import Reason
from tests.engines.postgres_support import rows as server_rows
from tests.engines.rls_support import AT_PARSE_TIME, EVIL, Shop, shop

pytestmark = pytest.mark.engines

USERS = ("shared", "users")

AT_RUN_TIME = ["shared.evil(name)", "id is not null and shared.evil(name)"]


def arm(one: Shop) -> None:
    code = EVIL.replace("EVIL_ROLE", one.owner).replace("OTHER_PREFIX", one.name)
    one.sql(f"GRANT CREATE ON SCHEMA shared TO OWNER_ROLE; SET ROLE OWNER_ROLE; {code} RESET ROLE")


def nobody_rose(one: Shop) -> None:
    risen = server_rows(
        one.endpoint, "SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s) AND rolsuper", one.name
    )
    assert risen == []
    sessions = {who for _, who in one.rows("SELECT * FROM shared.trace")}
    assert not sessions & {one.endpoint.username, "postgres"}, sessions


@pytest.mark.parametrize("using", [*AT_PARSE_TIME, *AT_RUN_TIME])
async def test_t31_no_function_of_a_policy_rises(postgres: PostgresEndpoint, database: str, using: str) -> None:
    """Learned, made, compared, probed with writes: whatever runs does so as a login that is nobody."""
    async with shop(postgres, database) as one:
        arm(one)
        entry = one.probed(one.policy(using=using, check=using), writes=True, expect=(one.sees_all(),))
        await one.make(entry)
        one.forget()
        one.claims.clear()
        found, tables, _ = await one.diff(entry)
        await one.learn(found, tables)
        await one.diff(entry)
        await one.prove(entry)
        nobody_rose(one)


async def test_evil_runs_when_an_expression_is_read(postgres: PostgresEndpoint, database: str) -> None:
    """Why all this: the server runs a domain's check when it reads a policy. Here it does so as a nobody."""
    async with shop(postgres, database) as one:
        arm(one)
        await one.make(one.entry(one.policy(using=AT_PARSE_TIME[0])))
        assert {who for _, who in one.rows("SELECT * FROM shared.trace")} == {f"{database}_policies"}
        nobody_rose(one)


async def test_indexes_defaults_and_views_do_not_reach_the_administrator(
    postgres: PostgresEndpoint, database: str
) -> None:
    """What the administrator reads for the probes is read without planning."""
    async with shop(postgres, database) as one:
        arm(one)
        one.sql(
            "SET ROLE OWNER_ROLE; ALTER FUNCTION shared.evil(text) IMMUTABLE;"
            "CREATE INDEX ON shared.users ((shared.evil('x'))); "
            "CREATE INDEX ON shared.users (name) WHERE shared.evil('y');"
            "CREATE FUNCTION shared.mark(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN "
            "PERFORM pg_catalog.pg_advisory_lock(4242); RETURN $1; END $$;"
            "CREATE INDEX ON shared.users ((name || shared.mark('z')));"
            "RESET ROLE; DELETE FROM shared.trace"
        )
        entry = one.probed(one.policy(), one.policy("all", to=(one.admin,), using="true"), expect=(one.sees_all(),))
        await one.make(entry)
        verdict = await one.prove(entry)
        assert verdict.failures == []
        nobody_rose(one)
        marked = (
            "SELECT a.usename FROM pg_locks l JOIN pg_stat_activity a USING (pid) "
            "WHERE l.locktype = 'advisory' AND l.objid = 4242"
        )
        assert server_rows(postgres, marked) == []
        # A view that took the table's name since the look
        one.sql(
            "SET ROLE OWNER_ROLE; ALTER TABLE shared.users RENAME TO users_1;"
            "CREATE VIEW shared.users AS SELECT * FROM shared.users_1 WHERE shared.evil(name);"
            "GRANT SELECT ON shared.users TO PUBLIC; RESET ROLE"
        )
        tables = await one.look(USERS)
        from selvedge.engines.postgres.rls_probe import probe_login, prove

        verdict = await prove(one.pool, probe_login(one.target, one.name), entry, tables[USERS])
        assert verdict.passed == 0
        nobody_rose(one)


@pytest.mark.parametrize(
    "using",
    [
        "true); DROP TABLE shared.users; --",
        "true) WITH CHECK (true",
        "true)) , (( true",
        "'unclosed",
        '"unclosed',
        "$x$ unclosed",
        "/* unclosed",
        "$1 = 1",
        "true;",
        ";",
        "-- nothing",
        "  ",
        "(true",
        "E'\\'",
        "1 = 1 --\n) WITH CHECK (true",
    ],
)
async def test_what_is_no_expression_is_refused_before_it_is_sent(
    postgres: PostgresEndpoint, database: str, using: str
) -> None:
    async with shop(postgres, database) as one:
        found, _, _ = await one.diff(one.entry(one.policy(using=using)))
        assert found.changes == []
        assert found.unprotected == {USERS}
        assert [problem.status.reason for problem in found.problems] == [Reason.INVALID_SPEC]
        assert "own_row" in found.problems[0].status.message


async def test_a_table_of_an_administrator_gets_no_expression(postgres: PostgresEndpoint, database: str) -> None:
    async with shop(postgres, database) as one:
        arm(one)
        one.sql("ALTER TABLE shared.users OWNER TO CURRENT_USER")
        applied = await one.make(one.entry(one.policy(using=AT_PARSE_TIME[0])))
        found, _, _ = await one.diff(one.entry(one.policy(using=AT_PARSE_TIME[0])))
        assert (applied.made, found.changes) == ([], [])
        assert [problem.status.reason for problem in found.problems] == [Reason.UNSAFE_OWNER]
        assert "OWNER TO" in found.problems[0].status.message
        nobody_rose(one)


async def test_a_table_that_went_to_an_administrator_stays_closed(postgres: PostgresEndpoint, database: str) -> None:
    async with shop(postgres, database) as one:
        await one.make(one.entry())
        one.sql("ALTER TABLE shared.users OWNER TO CURRENT_USER; ALTER TABLE shared.users DISABLE ROW LEVEL SECURITY")
        applied = await one.make(one.entry())
        assert [type(change).__name__ for change in applied.made] == ["EnableRowSecurity"]


async def test_an_endless_function_is_cut_off(
    postgres: PostgresEndpoint, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from selvedge.engines.postgres import rls_probe

    monkeypatch.setattr(rls_probe, "_LIMIT", 1.0)
    async with shop(postgres, database) as one:
        one.sql(
            "SET ROLE OWNER_ROLE; CREATE FUNCTION shared.endless() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN "
            "PERFORM set_config('statement_timeout', '0', false);"
            "PERFORM set_config('client_connection_check_interval', '0', false);"
            " LOOP PERFORM 1; END LOOP; END $$; RESET ROLE"
        )
        entry = one.probed(one.policy(using="shared.endless()"))
        await one.make(entry)
        verdict = await one.prove(entry)
        assert verdict.failures == []
        assert any("took longer" in text for text in verdict.not_probed)
        active = f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{database}_probe' AND state = 'active'"
        for _ in range(100):
            if server_rows(postgres, active) == [(0,)]:
                break
        assert server_rows(postgres, active) == [(0,)]


async def test_a_login_of_that_name_that_is_not_ours(postgres: PostgresEndpoint, database: str) -> None:
    from selvedge.core.errors import RefusedError

    async with shop(postgres, database) as one:
        one.sql(f'CREATE ROLE "{database}_policies" SUPERUSER')
        with pytest.raises(RefusedError, match="was not made by selvedge"):
            await one.make(one.entry())
