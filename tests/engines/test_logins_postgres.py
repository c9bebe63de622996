"""Logins on a real server: made, proved, changed by hand and put back, taken over, refused, and removed."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import psycopg
import pytest

from sandbox import PostgresEndpoint
from selvedge.core.errors import ConflictError, RefusedError, TransientError
from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectRef
from selvedge.core.users import Removal, pair
from tests.engines.login_support import account, converge, login, logs_in
from tests.engines.postgres_support import afresh, count, engine, lead, rows, run
from tests.waiting import wait_for

pytestmark = pytest.mark.engines


@pytest.mark.own_postgres
async def test_a_login_is_made_with_its_roles_and_a_second_pass_writes_nothing(
    postgres: PostgresEndpoint, database: str
):
    run(postgres, f"CREATE ROLE {database}_rw; CREATE ROLE {database}_ro")
    wanted = account(
        database,
        roles=[f"{database}_rw", f"{database}_ro"],
        connection_limit=7,
        valid_until="2099-01-01T00:00:00Z",
        settings={"search_path": '"avatar", "shared"', "app.tenant": "a'b"},
    )
    async with engine(postgres) as one:
        result = await converge(one, wanted)
        assert {str(change.ref) for change in result.applied} == {f"login {wanted.base}"}
        assert result.drift == ()
        assert result.may_connect
        await afresh(one)
        again = await converge(one, wanted)
        assert again.applied == ()
        assert count(one).taken() == ["snapshot"], "what matches costs one look"
    with closing(login(postgres, wanted.base, wanted.password, database)) as session:
        assert session.execute("SHOW search_path").fetchone() == ("avatar, shared",)
        assert session.execute("SELECT current_setting('app.tenant')").fetchone() == ("a'b",)
        found = session.execute(
            "SELECT array_agg(r.rolname::text ORDER BY r.rolname) FROM pg_auth_members m "
            "JOIN pg_roles r ON r.oid = m.roleid WHERE m.member = current_user::regrole"
        ).fetchone()
        assert found == ([f"{database}_ro", f"{database}_rw"],)
    limits = "SELECT rolconnlimit, rolvaliduntil = '2099-01-01 00:00:00+00', rolsuper, rolcreaterole, rolcreatedb"
    assert rows(postgres, f"{limits} FROM pg_roles WHERE rolname = '{wanted.base}'") == [(7, True, False, False, False)]


@pytest.mark.parametrize(
    "password", ["pässwörd Ⅸ", "x\u00ad y-1234567890", "%'\"\\$ {}&@/é", "ゲームのパスワード", "\u0221raw-unassigned"]
)
async def test_a_verifier_of_ours_lets_in_whatever_libpq_makes_of_the_password(
    postgres: PostgresEndpoint, database: str, password: str
):
    wanted = account(database, password)
    async with engine(postgres) as one:
        await converge(one, wanted)
        assert logs_in(postgres, wanted.base, password, database)
        assert not logs_in(postgres, wanted.base, password + "x", database)
        assert (await converge(one, wanted)).applied == ()


DRIFT = {
    "password": "ALTER ROLE {login} PASSWORD 'somebody-else'",
    "no password": "ALTER ROLE {login} PASSWORD NULL",
    "nologin": "ALTER ROLE {login} NOLOGIN",
    "superuser": "ALTER ROLE {login} SUPERUSER",
    "createrole": "ALTER ROLE {login} CREATEROLE CREATEDB REPLICATION BYPASSRLS NOINHERIT",
    "limit": "ALTER ROLE {login} CONNECTION LIMIT 1",
    "until": "ALTER ROLE {login} VALID UNTIL '2001-01-01'",
    "setting": "ALTER ROLE {login} SET search_path TO evil",
    "other setting": "ALTER ROLE {login} SET work_mem TO '1GB'",
    "setting in a database": "ALTER ROLE {login} IN DATABASE {database} SET search_path TO evil",
    "role": "ALTER ROLE {login} SET role TO pg_monitor",
    "membership": "GRANT pg_read_all_data TO {login}",
    "lost membership": "REVOKE {database}_rw FROM {login}",
    "admin option": "GRANT {database}_rw TO {login} WITH ADMIN OPTION",
    "dropped": "DROP ROLE {login}",
}


@pytest.mark.parametrize("what", DRIFT)
async def test_what_is_changed_by_hand_is_told_of_and_put_back(postgres: PostgresEndpoint, database: str, what: str):
    run(postgres, f"CREATE ROLE {database}_rw")
    wanted = account(database, roles=[f"{database}_rw"], settings={"search_path": '"shared"'})
    async with engine(postgres) as one:
        await converge(one, wanted)
        run(postgres, DRIFT[what].format(login=wanted.base, database=database))
        told: list[ObjectRef] = []
        result = await converge(one, replace(wanted, verified=True), told=told)
        assert [str(ref) for ref in result.drift] == [f"login {wanted.base}"]
        assert told == list(result.drift)
        assert (await converge(one, replace(wanted, verified=True))).applied == ()
    with closing(login(postgres, wanted.base, wanted.password, database)) as session:
        assert session.execute("SELECT current_user::text, current_setting('search_path')").fetchone() == (
            wanted.base,
            "shared",
        )


async def test_a_dba_keeps_the_settings_that_no_declaration_may_name(postgres: PostgresEndpoint, database: str):
    wanted = account(database)
    async with engine(postgres) as one:
        await converge(one, wanted)
        run(postgres, f"ALTER ROLE {wanted.base} SET log_statement TO 'all'")
        assert (await converge(one, wanted)).applied == ()


async def test_without_a_password_of_ours_nobody_touches_it(postgres: PostgresEndpoint, database: str):
    wanted = account(database, "")
    async with engine(postgres) as one:
        await converge(one, wanted)
        run(postgres, f"ALTER ROLE {wanted.base} PASSWORD 'from-vault-1234'")
        assert (await converge(one, wanted)).applied == ()
        assert logs_in(postgres, wanted.base, "from-vault-1234", database)
        run(postgres, f"ALTER ROLE {wanted.base} CONNECTION LIMIT 3")
        assert len((await converge(one, wanted)).applied) == 1
    assert logs_in(postgres, wanted.base, "from-vault-1234", database)


async def test_two_users_for_one_login_are_a_conflict_and_the_second_changes_nothing(
    postgres: PostgresEndpoint, database: str
):
    first = account(database)
    second = replace(first, resource="shop/other (DatabaseUser)", uid="other", password="another-password")
    async with engine(postgres) as one:
        await converge(one, first)
        with pytest.raises(ConflictError, match=f"login {first.base} is claimed by DatabaseUser shop/{first.base}"):
            await converge(one, second)
        with pytest.raises(ConflictError, match="of another cluster"):
            await converge(one, replace(second, cluster="elsewhere"))
        assert await one.logins().remove(second, lead) == Removal()
    assert logs_in(postgres, first.base, first.password, database)


async def test_the_login_of_a_resource_that_is_gone_has_to_be_adopted(postgres: PostgresEndpoint, database: str):
    first = account(database)
    second = replace(first, resource="shop/other (DatabaseUser)", uid="other", password="another-password")
    async with engine(postgres) as one:
        await converge(one, first)
        with pytest.raises(RefusedError) as refused:
            await converge(one, second, alive=False)
        assert refused.value.reason is Reason.ADOPTION_REQUIRED
        await converge(one, replace(second, adopt=True), alive=False)
    assert logs_in(postgres, first.base, "another-password", database)


async def test_a_login_that_was_there_before_is_left_alone_until_it_may_be_adopted(
    postgres: PostgresEndpoint, database: str
):
    wanted = account(database)
    run(postgres, f"CREATE ROLE {wanted.base} LOGIN PASSWORD 'older-than-us'; GRANT pg_monitor TO {wanted.base}")
    async with engine(postgres) as one:
        with pytest.raises(RefusedError, match=r"spec\.adoption to Allow") as refused:
            await converge(one, wanted)
        assert refused.value.reason is Reason.ADOPTION_REQUIRED
        assert logs_in(postgres, wanted.base, "older-than-us", database)
        await converge(one, replace(wanted, adopt=True))
        assert logs_in(postgres, wanted.base, wanted.password, database)
        assert rows(postgres, f"SELECT pg_has_role('{wanted.base}', 'pg_monitor', 'MEMBER')") == [(False,)]
        removal = await one.logins().remove(wanted, lead)
        assert (removal.removed, removal.retained) == ((), (wanted.base,))
    assert logs_in(postgres, wanted.base, wanted.password, database)


@pytest.mark.parametrize(
    "words", ["SUPERUSER", "CREATEROLE", "REPLICATION", "BYPASSRLS", "IN ROLE pg_execute_server_program"]
)
async def test_a_privileged_login_is_never_adopted(postgres: PostgresEndpoint, database: str, words: str):
    wanted = account(database, adopt=True)
    run(postgres, f"CREATE ROLE {wanted.base} LOGIN {words}")
    async with engine(postgres) as one:
        with pytest.raises(RefusedError) as refused:
            await converge(one, wanted)
    assert refused.value.reason is Reason.FORBIDDEN_NAME


async def test_a_privileged_role_is_given_to_nobody(postgres: PostgresEndpoint, database: str):
    run(postgres, f"CREATE ROLE {database}_boss CREATEROLE; CREATE ROLE {database}_rw IN ROLE {database}_boss")
    async with engine(postgres) as one:
        with pytest.raises(RefusedError, match=f"role {database}_rw may act as a superuser"):
            await converge(one, account(database, roles=[f"{database}_rw"]))


async def test_a_login_waits_for_its_roles_and_for_its_database(postgres: PostgresEndpoint, database: str):
    async with engine(postgres) as one:
        with pytest.raises(TransientError) as waiting:
            await converge(one, account(database, roles=[f"{database}_later"]))
        assert waiting.value.reason is Reason.ROLE_NOT_FOUND
        with pytest.raises(TransientError) as waiting:
            await converge(one, account(f"{database}_later"))
        assert waiting.value.reason is Reason.WAITING_FOR_SCHEMA


async def test_a_database_that_lets_nobody_in_is_said(postgres: PostgresEndpoint, database: str):
    run(postgres, f"REVOKE CONNECT ON DATABASE {database} FROM PUBLIC")
    async with engine(postgres) as one:
        assert not (await converge(one, account(database))).may_connect


async def test_two_logins_take_turns_and_what_they_make_belongs_to_the_base(postgres: PostgresEndpoint, database: str):
    run(postgres, f"CREATE ROLE {database}_rw")
    run(postgres, f"GRANT CREATE, USAGE ON SCHEMA public TO {database}_rw", database)
    base = f"{database}_app"
    one_name, other_name = pair(base)
    first = account(database, "first-password-1", roles=[f"{database}_rw"], current=one_name, connection_limit=5)
    second = replace(first, password="second-password-2", current=other_name)
    async with engine(postgres) as one:
        await converge(one, first)
        with closing(login(postgres, one_name, first.password, database)) as session:
            assert session.execute("SELECT current_user::text, session_user::text").fetchone() == (base, one_name)
            session.execute("CREATE TABLE t (id int)")
            result = await converge(one, second)
            assert result.previous == (one_name,)
            assert result.sessions == 1
            assert logs_in(postgres, one_name, first.password, database), "the old login works on"
            with closing(login(postgres, other_name, second.password, database)) as other:
                other.execute("ALTER TABLE t ADD COLUMN name text")
                other.execute("INSERT INTO t VALUES (1, 'x')")
            held = await converge(one, replace(second, may_retire=True))
            assert held.applied == ()
            assert held.previous == (one_name,), "not switched off below a session"
        await_gone(postgres, one_name)
        result = await converge(one, replace(second, may_retire=True))
        assert result.previous == ()
        assert not logs_in(postgres, one_name, first.password, database)
        assert logs_in(postgres, other_name, second.password, database)
        assert rows(postgres, "SELECT tableowner::text FROM pg_tables WHERE tablename = 't'", dbname=database) == [
            (base,)
        ]
        assert (await converge(one, replace(second, may_retire=True))).applied == ()
        third = replace(first, password="third-password-3")
        await converge(one, third)
        assert logs_in(postgres, one_name, third.password, database)
    limits = f"SELECT DISTINCT rolconnlimit FROM pg_roles WHERE rolname IN ('{one_name}', '{other_name}')"
    assert rows(postgres, limits) == [(5,)]


async def test_one_login_becomes_two_without_a_gap(postgres: PostgresEndpoint, database: str):
    single = account(database, "first-password-1")
    double = replace(single, current=pair(single.base)[0], password="second-password-2")
    async with engine(postgres) as one:
        await converge(one, single)
        assert (await converge(one, double)).previous == (single.base,)
        assert logs_in(postgres, single.base, single.password, database)
        assert logs_in(postgres, double.current, double.password, database)
        await_gone(postgres, single.base)
        await converge(one, replace(double, may_retire=True))
        assert not logs_in(postgres, single.base, single.password, database)
        assert (await converge(one, single)).previous == (double.current,)
        assert logs_in(postgres, single.base, single.password, database)


async def test_removal_ends_sessions_and_hands_over_what_the_login_owned(postgres: PostgresEndpoint, database: str):
    owner, other = f"{database}_owner", f"{database}_two"
    run(postgres, f"CREATE ROLE {owner}; ALTER DATABASE {database} OWNER TO {owner}")
    run(postgres, f"CREATE DATABASE {other} OWNER {owner}")
    wanted = account(database, current=pair(f"{database}_app")[0])
    try:
        async with engine(postgres) as one:
            await converge(one, wanted)
            for where in (database, other):
                run(postgres, f"GRANT CREATE, USAGE ON SCHEMA public TO {wanted.base}", where)
            with closing(login(postgres, wanted.current, wanted.password, other)) as session:
                session.execute("CREATE TABLE t (id int); INSERT INTO t VALUES (7)")
            with closing(login(postgres, wanted.current, wanted.password, database)) as session:
                session.execute("RESET ROLE; SELECT 1")
                removal = await one.logins().remove(wanted, lead)
                assert set(removal.removed) == {wanted.base, wanted.current}
                with pytest.raises(psycopg.OperationalError):
                    session.execute("SELECT 1")
            assert rows(postgres, "SELECT tableowner::text FROM pg_tables WHERE tablename = 't'", dbname=other) == [
                (owner,)
            ]
            assert rows(postgres, "SELECT id FROM t", dbname=other) == [(7,)]
            assert rows(postgres, f"SELECT 1 FROM pg_roles WHERE rolname LIKE '{wanted.base}%'") == []
            assert rows(postgres, f"SELECT 1 FROM selvedge.claims WHERE object LIKE 'role:{wanted.base}%'") == []
            assert (await one.logins().remove(wanted, lead)).removed == ()
    finally:
        run(postgres, f"DROP DATABASE {other} WITH (FORCE)")


async def test_nothing_is_handed_to_a_superuser(postgres: PostgresEndpoint, database: str):
    wanted = account(database)
    async with engine(postgres) as one:
        await converge(one, wanted)
        run(postgres, f"GRANT CREATE, USAGE ON SCHEMA public TO {wanted.base}", database)
        with closing(login(postgres, wanted.base, wanted.password, database)) as session:
            session.execute("CREATE FUNCTION f() RETURNS int LANGUAGE sql SECURITY DEFINER RETURN 1")
        assert (await one.logins().remove(wanted, lead)).removed == (wanted.base,)
    query = "SELECT r.rolname::text, r.rolcanlogin FROM pg_proc p JOIN pg_roles r ON r.oid = proowner"
    found = rows(postgres, f"{query} WHERE proname = 'f'", dbname=database)
    assert found == [(f"{wanted.base}_retired", False)]
    run(postgres, f"DROP OWNED BY {wanted.base}_retired", database)
    run(postgres, f"DROP ROLE {wanted.base}_retired")


def await_gone(endpoint: PostgresEndpoint, username: str) -> None:
    """A closed session is still shown for a moment."""
    wait_for(lambda: not rows(endpoint, f"SELECT 1 FROM pg_stat_activity WHERE usename = '{username}'"))
