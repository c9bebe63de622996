"""Logins by an operator that is no superuser, many at once, and without a trace of a password on the server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import psycopg
import pytest
from psycopg import sql

from sandbox import PostgresEndpoint, PostgresServer
from selvedge.core.errors import InvalidError, NotPermittedError, SelvedgeError
from selvedge.core.reasons import Reason
from selvedge.core.scram import verifier
from selvedge.core.users import RoleRef, pair
from selvedge.engines.postgres.engine import PostgresEngine
from selvedge.engines.postgres.migrator import MigratorLogin
from selvedge.engines.postgres.restricted_login import RestrictedLogin
from tests.engines.login_support import account, converge, login, logs_in
from tests.engines.postgres_support import Count, engine, lead, limits, rows, run, target

pytestmark = pytest.mark.engines

PASSWORD = "operator-without-superuser"


@pytest.fixture
def limited(postgres: PostgresEndpoint, database: str) -> Iterator[PostgresEndpoint]:
    """The server by an operator's login that has CREATEROLE and owns the database; its metadata schema is its own."""
    name = f"{database}_operator"
    run(postgres, f"CREATE ROLE {name} LOGIN CREATEROLE CREATEDB PASSWORD '{PASSWORD}'")
    run(postgres, f"GRANT CREATE ON DATABASE postgres TO {name}; ALTER DATABASE {database} OWNER TO {name}")
    yield replace(postgres, username=name, password=PASSWORD)
    run(postgres, f"DROP SCHEMA IF EXISTS {name} CASCADE; REVOKE ALL ON DATABASE postgres FROM {name}")


def operator(limited: PostgresEndpoint) -> PostgresEngine:
    return PostgresEngine(target(limited), Count(), metadata_schema=limited.username)


@pytest.mark.own_postgres
async def test_a_login_from_birth_to_end_without_superuser(limited: PostgresEndpoint, database: str):
    """T19: only what differs is named, since a CREATEROLE login may not even say NOSUPERUSER."""
    one = operator(limited)
    run(limited, f"CREATE ROLE {database}_rw; CREATE ROLE {database}_owner")
    if limited.version != "15":
        run(limited, f"GRANT {database}_owner TO {limited.username} WITH INHERIT TRUE, SET TRUE")
    else:
        run(limited, f"GRANT {database}_owner TO {limited.username}")
    wanted = account(database, roles=[f"{database}_rw"], settings={"search_path": '"public"'}, connection_limit=5)
    try:
        await converge(one, wanted)
        assert logs_in(limited, wanted.base, wanted.password, database)
        assert (await converge(one, wanted)).applied == (), "the password holds: it was tried"
        run(limited, f"ALTER ROLE {wanted.base} PASSWORD 'by-hand' CONNECTION LIMIT 9")
        assert len((await converge(one, wanted)).applied) == 2
        assert (await converge(one, wanted)).applied == ()
        second = replace(wanted, current=pair(wanted.base)[0], password="second-password-2")
        await converge(one, second)
        assert (await converge(one, second)).applied == ()
        run(limited, f"GRANT CREATE, USAGE ON SCHEMA public TO {wanted.base}", database)
        run(limited, f"ALTER DATABASE {database} OWNER TO {database}_owner")
        with closing(login(limited, second.current, second.password, database)) as session:
            session.execute("CREATE TABLE t (id int)")
            await one.logins().remove(second, lead)
            with pytest.raises(psycopg.OperationalError):
                session.execute("SELECT 1")
        left = rows(limited, f"SELECT rolname FROM pg_roles WHERE rolname LIKE '{wanted.base}%'")
        assert left == []
        owner = "SELECT tableowner::text FROM pg_tables WHERE tablename = 't'"
        assert rows(limited, owner, dbname=database) == [(f"{database}_owner",)]
    finally:
        await one.close()


@pytest.mark.own_postgres
async def test_a_role_that_the_operator_may_not_give_is_named_with_its_grant(
    postgres: PostgresEndpoint, limited: PostgresEndpoint, database: str
):
    if limited.version == "15":
        pytest.skip("before 16, CREATEROLE may give every role that is no superuser's")
    run(postgres, f"CREATE ROLE {database}_foreign")
    one = operator(limited)
    wanted = account(database, roles=[f"{database}_foreign"])
    try:
        with pytest.raises(NotPermittedError, match="an administrator has to run: GRANT") as refused:
            await converge(one, wanted)
        assert refused.value.statements[0].startswith(f'GRANT "{database}_foreign" TO "{wanted.base}"')
        assert rows(postgres, f"SELECT 1 FROM pg_roles WHERE rolname = '{wanted.base}'") == [], "nothing half done"
    finally:
        await one.close()


@pytest.mark.own_postgres
async def test_superuser_given_by_hand_is_named_where_it_cannot_be_taken_away(
    postgres: PostgresEndpoint, limited: PostgresEndpoint, database: str
):
    one = operator(limited)
    wanted = account(database)
    try:
        await converge(one, wanted)
        run(postgres, f"ALTER ROLE {wanted.base} SUPERUSER")
        with pytest.raises(NotPermittedError, match="NOSUPERUSER"):
            await converge(one, wanted)
    finally:
        run(postgres, f"ALTER ROLE {wanted.base} NOSUPERUSER")
        await one.close()


async def test_many_logins_at_once_by_two_operators(postgres: PostgresEndpoint, database: str):
    run(postgres, f"CREATE ROLE {database}_rw")
    wanted = [
        account(database, f"password-number-{number}", name=f"app{number}", roles=[f"{database}_rw"])
        for number in range(20)
    ]
    async with engine(postgres) as one, engine(postgres, limits=limits(lock_timeout=20.0)) as other:
        results = await asyncio.gather(
            *(converge(which, each) for each in wanted for which in (one, other)), return_exceptions=True
        )
        errors = [result for result in results if isinstance(result, BaseException)]
        assert errors == []
        for each in wanted:
            assert (await converge(one, each)).applied == ()
    assert all(logs_in(postgres, each.base, each.password, database) for each in wanted)


@pytest.fixture(scope="module")
def talkative() -> Iterator[PostgresServer]:
    """A server that logs and remembers all that it can."""
    settings = {
        "pg_stat_statements.track": "top",
        "log_statement": "all",
        "log_min_duration_statement": "0",
        "log_min_error_statement": "debug5",
        "log_parameter_max_length_on_error": "-1",
        "compute_query_id": "on",
    }
    with PostgresServer.launch("18", settings=settings) as server:
        with closing(server.connect()) as connection:
            connection.execute("CREATE EXTENSION pg_stat_statements")
            # What a superuser's session says of itself wins; for others, the default is what most servers have.
            connection.execute("ALTER ROLE postgres SET pg_stat_statements.track TO 'all'")
            connection.execute("CREATE DATABASE shop")
            connection.execute("CREATE DATABASE stall")
            connection.execute("SELECT pg_stat_statements_reset()")
        yield server


@pytest.mark.parametrize("superuser", [True, False])
async def test_no_password_and_no_verifier_stands_anywhere_on_the_server(talkative: PostgresServer, superuser: bool):
    """T21."""
    endpoint = talkative if superuser else replace_login(talkative)
    name = f"app_{superuser}".lower()
    wanted = account("shop", "marked-password-3141592653", name=name, settings={"search_path": '"shared"'})
    one = PostgresEngine(target(endpoint), Count(), metadata_schema=f"meta_{superuser}".lower())
    begun = talkative.log_path.stat().st_size
    try:
        await converge(one, wanted)
        await converge(one, replace(wanted, password="marked-password-2718281828"))
        with pytest.raises(SelvedgeError):
            await converge(one, replace(wanted, password="marked-password-1618033988", roles=(RoleRef("none_such"),)))
        with closing(talkative.connect()) as connection:
            found = connection.execute(
                "SELECT query FROM pg_stat_statements UNION ALL SELECT query FROM pg_stat_activity"
            ).fetchall()
    finally:
        await one.close()
    log = talkative.log_path.read_bytes()[begun:].decode(errors="replace")
    assert wanted.base in log, "the log is the server's"
    assert "marked-password" not in log
    assert [query for (query,) in found if "marked-password" in query or "SCRAM-SHA-256" in query] == []
    if superuser:
        assert "SCRAM-SHA-256" not in log


PARAMETERS = (
    "log_statement, log_min_duration_statement, log_min_duration_sample, log_transaction_sample_rate, log_duration, "
    'log_min_error_statement, log_parameter_max_length, "pg_stat_statements.track"'
)


@pytest.mark.parametrize("superuser", [True, False])
async def test_no_verifier_of_the_operators_own_logins_stands_anywhere(talkative: PostgresServer, superuser: bool):
    """T21 for the logins of migrations, policies and probes; ``track = all`` too, where the login may switch it off."""
    database = "shop" if superuser else "stall"
    role, me = f"runs_{database}", "own_operator"
    with closing(talkative.connect()) as connection:
        connection.execute(f"CREATE ROLE {role}")
        if not superuser:
            made = sql.Literal(verifier(PASSWORD))
            connection.execute(sql.SQL("CREATE ROLE own_operator LOGIN CREATEROLE PASSWORD {}").format(made))
            connection.execute(f"GRANT {role} TO {me} WITH ADMIN OPTION")
            connection.execute(f"GRANT SET ON PARAMETER {PARAMETERS} TO {me}")
            connection.execute(f"ALTER ROLE {me} SET pg_stat_statements.track TO 'all'")
        connection.execute("SELECT pg_stat_statements_reset()")
    endpoint = (
        talkative if superuser else PostgresEndpoint("18", talkative.port, PASSWORD, talkative.ca_path, username=me)
    )
    begun = talkative.log_path.stat().st_size
    async with engine(endpoint) as one, one.pool.session(database) as admin:
        login = RestrictedLogin(one.target, database, "_probe", "proves the policies")
        async with login.in_use(admin):
            for _ in range(2):
                password = await login.renew(admin, role)
            async with login.connect(password, {}, limit=10):
                pass
        migrator = MigratorLogin(admin.connection, database, role, None)
        for _ in range(2):
            password = await migrator.refresh()
        assert logs_in(endpoint, migrator.name, password, database)
        await migrator.retire()
    with closing(talkative.connect()) as connection:
        found = connection.execute("SELECT query FROM pg_stat_statements").fetchall()
    assert any("_probe" in query for (query,) in found), "the statistics are kept"
    assert [query for (query,) in found if "SCRAM-SHA-256" in query] == []
    log = talkative.log_path.read_bytes()[begun:].decode(errors="replace")
    assert migrator.name in log
    assert "SCRAM-SHA-256" not in log


def replace_login(server: PostgresServer) -> PostgresEndpoint:
    with closing(server.connect()) as connection:
        made = sql.Literal(verifier(PASSWORD))
        connection.execute(sql.SQL("CREATE ROLE operator LOGIN CREATEROLE PASSWORD {}").format(made))
        connection.execute("GRANT CREATE ON DATABASE postgres TO operator")
        connection.execute("GRANT CREATE ON DATABASE shop TO operator")
        connection.execute("SELECT pg_stat_statements_reset()")
    return PostgresEndpoint("18", server.port, PASSWORD, server.ca_path, username="operator")


@pytest.mark.own_postgres
async def test_a_password_that_the_server_refuses_is_told_without_it(
    postgres: PostgresEndpoint, limited: PostgresEndpoint, database: str
):
    """On 16 and later a login of somebody else's cannot be changed; message and log are without the verifier."""
    if limited.version == "15":
        pytest.skip("before 16, CREATEROLE may change every login that is no superuser's")
    wanted = account(database, adopt=True)
    run(postgres, f"CREATE ROLE {wanted.base} LOGIN PASSWORD 'older-than-us'")
    one = operator(limited)
    try:
        with pytest.raises((NotPermittedError, InvalidError)) as refused:
            await converge(one, wanted)
        assert refused.value.reason is Reason.INSUFFICIENT_PRIVILEGES
        assert "SCRAM" not in refused.value.message
        path = getattr(postgres, "log_path", None)
        if path is not None:
            log = path.read_text(encoding="utf-8", errors="replace")
            assert "inline_code_block" in log, "the failure is in the log"
            assert f"ALTER ROLE {wanted.base} PASSWORD" not in log, "and what failed is not"
    finally:
        await one.close()
    assert logs_in(postgres, wanted.base, "older-than-us", database)
