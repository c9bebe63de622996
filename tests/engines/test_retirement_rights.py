"""Who gets what a role or a login owned when it goes: nobody by whom somebody gains a right."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg import sql

from sandbox import PostgresEndpoint
from selvedge.core.errors import TransientError
from selvedge.core.own_roles import heir_comment, heir_of
from selvedge.core.postgres.retirement import Holdings
from selvedge.engines.postgres.engine import PostgresEngine
from selvedge.engines.postgres.retirement import holdings_fragment, parse_holdings
from tests.engines.login_support import account, converge, login
from tests.engines.postgres_support import Count, engine, lead, member, only, ready, reasons, rows, run, target, unit

pytestmark = pytest.mark.engines

#: Reads what only the database's owner, or a superuser, may read.
SPY = """
CREATE FUNCTION {schema}.spy() RETURNS text LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
  RETURN (SELECT max(value) FROM private.secrets);
EXCEPTION WHEN insufficient_privilege THEN
  RETURN 'refused as ' || current_user;
END $$
"""


def caller(postgres: PostgresEndpoint, name: str) -> None:
    run(postgres, f"CREATE ROLE {name} LOGIN PASSWORD 'x'")


def asked(postgres: PostgresEndpoint, name: str, query: str, dbname: str) -> Any:
    """What a login without any rights of its own gets; the error's text where it is refused."""
    with closing(psycopg.connect(postgres.conninfo(dbname, user=name, password="x"), autocommit=True)) as connection:
        try:
            row = connection.execute(query.encode()).fetchone()
        except psycopg.errors.InsufficientPrivilege as error:
            return str(error.diag.message_primary)
        assert row is not None
        return row[0]


def owner_of(postgres: PostgresEndpoint, relation: str, dbname: str) -> str:
    query = "SELECT relowner::regrole::text FROM pg_class WHERE oid = %s::regclass"
    return str(rows(postgres, query, relation, dbname=dbname)[0][0])


@pytest.mark.parametrize("owned_by", ["a superuser", "a declared role"])
async def test_a_retired_roles_definer_function_is_of_use_to_nobody(
    postgres: PostgresEndpoint, database: str, database_name: str, owned_by: str
) -> None:
    """After its retirement nobody gains anything by calling it, and what does nothing goes to the owner."""
    p = database_name
    tenant, owner, guest = f"{p}_tenant", f"{p}_owner", f"{p}_guest"
    declared = {"owner": owner} if owned_by == "a declared role" else {}
    spec = {**declared, "schemas": [{"name": "app"}], "roles": [{"name": owner}]}
    caller(postgres, guest)
    one = member(database, {**spec, "roles": [*spec["roles"], {"name": tenant}]}, adoption="Allow")
    try:
        async with engine(postgres) as server:
            await ready(server, one)
            run(
                postgres,
                f"CREATE SCHEMA private; CREATE TABLE private.secrets AS SELECT 'the password' AS value;"
                f"ALTER SCHEMA private OWNER TO {owner}; ALTER TABLE private.secrets OWNER TO {owner};"
                f"GRANT USAGE, CREATE ON SCHEMA app TO {tenant}; GRANT USAGE ON SCHEMA app TO {guest};"
                f"SET ROLE {tenant};" + SPY.format(schema="app"),
                database,
            )
            assert asked(postgres, guest, "SELECT app.spy()", database) == f"refused as {tenant}"
            await ready(server, member(database, spec, adoption="Allow"))
        assert rows(postgres, "SELECT FROM pg_roles WHERE rolname = %s", tenant) == []
        assert asked(postgres, guest, "SELECT app.spy()", database) == f"refused as {tenant}_retired"
        query = "SELECT rolcanlogin, rolsuper OR rolcreaterole OR rolcreatedb OR rolbypassrls OR rolreplication"
        assert rows(postgres, f"{query} FROM pg_roles WHERE rolname = %s", f"{tenant}_retired") == [(False, False)]
        held = "SELECT FROM pg_auth_members WHERE member = %s::regrole"
        assert rows(postgres, held, f"{tenant}_retired") == []
    finally:
        run(postgres, f"DROP SCHEMA IF EXISTS app, private CASCADE; DROP OWNED BY {guest}", database)
        if declared:
            run(postgres, f"ALTER DATABASE {database} OWNER TO CURRENT_USER")


async def test_deletion_and_the_other_databases_follow_the_same_rule(
    postgres: PostgresEndpoint, database: str, database_name: str
) -> None:
    """A view may read whatever its owner may, and so does an index expression; CREATE VIEW asks for no right."""
    tenant, guest, other = f"{database_name}_tenant", f"{database_name}_guest", f"{database_name}_other"
    spec = {"roles": [{"name": tenant}]}
    caller(postgres, guest)
    run(postgres, f"CREATE DATABASE {other}")
    try:
        async with engine(postgres) as server:
            await ready(server, member(database, spec, adoption="Allow"))
            for where in (database, other):
                run(
                    postgres,
                    f"CREATE TABLE public.secrets AS SELECT 'the password' AS value;"
                    f"GRANT CREATE ON SCHEMA public TO {tenant}; SET ROLE {tenant};"
                    f"CREATE VIEW public.spy AS SELECT value FROM public.secrets;"
                    f"GRANT SELECT ON public.spy TO {guest}",
                    where,
                )
            gone = member(database, spec, adoption="Allow", deletionPolicy="Delete", deleting=True)
            await server.remove(unit(gone), lead)
        assert rows(postgres, "SELECT FROM pg_roles WHERE rolname = %s", tenant) == []
        for where in (database, other):
            assert owner_of(postgres, "public.spy", where) == f"{tenant}_retired"
            assert asked(postgres, guest, "SELECT value FROM public.spy", where) == (
                "permission denied for table secrets"
            )
    finally:
        run(postgres, f"DROP DATABASE {other} WITH (FORCE)")
        run(postgres, "DROP VIEW public.spy", database)
        run(postgres, f"DROP OWNED BY {guest}", database)


async def test_a_logins_definer_function_is_of_use_to_nobody(
    postgres: PostgresEndpoint, database: str, database_name: str
) -> None:
    guest = f"{database_name}_guest"
    caller(postgres, guest)
    wanted = account(database)
    async with engine(postgres) as one:
        await converge(one, wanted)
        run(
            postgres,
            f"CREATE SCHEMA private; CREATE TABLE private.secrets AS SELECT 'x' AS value;"
            f"GRANT CREATE ON SCHEMA public TO {wanted.base}",
            database,
        )
        with closing(login(postgres, wanted.base, wanted.password, database)) as session:
            session.execute(SPY.format(schema="public").encode())
            session.execute("CREATE TABLE public.plain (id int)")
        assert (await one.logins().remove(wanted, lead)).removed == (wanted.base,)
    heir = heir_of(wanted.base)
    assert asked(postgres, guest, "SELECT public.spy()", database) == f"refused as {heir}"
    assert owner_of(postgres, "public.plain", database) == heir
    run(postgres, f"DROP OWNED BY {heir}", database)
    run(postgres, f"DROP ROLE {heir}")


async def test_what_is_made_between_the_decision_and_the_change_is_no_way_round_it(
    postgres: PostgresEndpoint, database: str, database_name: str
) -> None:
    """A session that still acts as the role makes the function when it is too late to be seen: all is undone."""
    tenant, owner = f"{database_name}_tenant", f"{database_name}_owner"
    spec = {"owner": owner, "roles": [{"name": owner}], "schemas": [{"name": "app"}]}
    told: list[str] = []

    def may_write() -> None:
        if not told:
            told.append("once")
            run(postgres, f"SET ROLE {tenant}; " + SPY.format(schema="app"), database)

    try:
        async with engine(postgres) as server:
            declared = {**spec, "roles": [*spec["roles"], {"name": tenant}]}
            await ready(server, member(database, declared, adoption="Allow"))
            run(postgres, f"GRANT USAGE, CREATE ON SCHEMA app TO {tenant}", database)
            run(postgres, f"SET ROLE {tenant}; CREATE TABLE app.t (id int)", database)
            with pytest.raises(TransientError, match=r"role .*_tenant \(RetireRole\); all was undone"):
                await server.converge(unit(member(database, spec, adoption="Allow")), may_write)
            query = "SELECT proowner::regrole::text FROM pg_proc WHERE proname = 'spy'"
            assert rows(postgres, query, dbname=database) == [(tenant,)]
            await ready(server, member(database, spec, adoption="Allow"))
            assert rows(postgres, query, dbname=database) == [(heir_of(tenant),)]
            assert rows(postgres, "SELECT FROM pg_roles WHERE rolname = %s", tenant) == []
    finally:
        run(postgres, f"ALTER DATABASE {database} OWNER TO CURRENT_USER; DROP SCHEMA app CASCADE", database)


async def test_a_strangers_role_keeps_nothing_for_a_retired_one(postgres: PostgresEndpoint, database_name: str) -> None:
    """Its name does not make a role the heir: somebody may be able to act as it."""
    tenant = f"{database_name}_tenant"
    heir = heir_of(tenant)
    spec = {"roles": [{"name": tenant}]}
    async with engine(postgres) as server:
        await ready(server, member(database_name, spec))
        run(postgres, f"GRANT CREATE ON SCHEMA public TO {tenant}", database_name)
        run(postgres, f"SET ROLE {tenant}; CREATE TABLE public.t (id int)", database_name)
        stranger: list[str] = [
            f"CREATE ROLE {heir}",
            f"DROP ROLE {heir}; CREATE ROLE {heir} LOGIN; COMMENT ON ROLE {heir} IS '{heir_comment(tenant)}'",
            f"ALTER ROLE {heir} NOLOGIN; GRANT pg_read_all_data TO {heir}",
        ]
        for statements in stranger:
            run(postgres, statements)
            result = await only(server, member(database_name))
            assert reasons(result) == {f"role {tenant}": "AdoptionRequired"}
            assert heir in result.problems[0].message
            assert owner_of(postgres, "public.t", database_name) == tenant
        run(postgres, f"REVOKE pg_read_all_data FROM {heir}")
        await ready(server, member(database_name))
        assert owner_of(postgres, "public.t", database_name) == heir


@dataclass
class Shop:
    postgres: PostgresEndpoint
    database: str
    role: str

    def holdings(self) -> Holdings:
        statement = sql.SQL("SELECT json_build_object({})").format(holdings_fragment([self.role]))
        return parse_holdings(rows(self.postgres, statement.as_string(None), dbname=self.database)[0][0])[self.role]


@pytest.fixture
def shop(postgres: PostgresEndpoint, database: str) -> Iterator[Shop]:
    found = Shop(postgres, database, f"{database}_r")
    run(postgres, f"CREATE ROLE {found.role}; GRANT CREATE ON SCHEMA public TO {found.role}", database)
    run(postgres, "CREATE EXTENSION citext", database)
    yield found
    run(postgres, f"DROP OWNED BY {found.role} CASCADE", database)
    run(postgres, f"DROP ROLE {found.role}")


FUNCTION = "CREATE FUNCTION f(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1'; "
TRIGGER = (
    "CREATE FUNCTION g() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; "
    "CREATE TABLE parent (id int PRIMARY KEY); "
)

ACTING = {
    "a definer function": "CREATE FUNCTION f() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'",
    "a definer procedure": "CREATE PROCEDURE f() LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'",
    "a view": "CREATE VIEW v AS SELECT 1 AS id",
    "a view that says no": "CREATE VIEW v WITH (security_invoker = off, security_barrier) AS SELECT 1 AS id",
    "a materialized view": "CREATE MATERIALIZED VIEW v AS SELECT 1 AS id",
    "a rule": "CREATE TABLE t (id int); CREATE RULE r AS ON INSERT TO t DO ALSO SELECT 1",
    "an index expression": FUNCTION + "CREATE TABLE t (id int); CREATE INDEX ON t (f(id))",
    "an index's condition": FUNCTION + "CREATE TABLE t (id int); CREATE INDEX ON t (id) WHERE f(id) > 0",
    "statistics": FUNCTION + "CREATE TABLE t (id int); CREATE STATISTICS s ON (f(id)) FROM t",
    "an operator in an index": FUNCTION
    + "CREATE OPERATOR |? (RIGHTARG = int, FUNCTION = f); CREATE TABLE t (id int); CREATE INDEX ON t ((|? id))",
    "a domain in an index": FUNCTION
    + "CREATE DOMAIN d AS int CHECK (f(VALUE) > 0); CREATE TABLE t (id int); CREATE INDEX ON t ((id::d))",
    "a trigger below a cascade": TRIGGER
    + "CREATE TABLE t (id int REFERENCES parent ON DELETE CASCADE); "
    + "CREATE TRIGGER g BEFORE DELETE ON t FOR EACH ROW EXECUTE FUNCTION g()",
    "a default below a cascade": FUNCTION
    + "CREATE TABLE parent (id int PRIMARY KEY); "
    + "CREATE TABLE t (id int DEFAULT f(1) REFERENCES parent ON DELETE SET DEFAULT)",
    "a check below a cascade": FUNCTION
    + "CREATE TABLE parent (id int PRIMARY KEY); "
    + "CREATE TABLE t (id int CHECK (f(id) > 0) REFERENCES parent ON UPDATE CASCADE)",
}
HARMLESS = {
    "a table": "CREATE TABLE t (id int PRIMARY KEY, name text CHECK (length(name) > 0) DEFAULT 'x')",
    "a plain index": "CREATE TABLE t (name text); CREATE INDEX ON t (lower(name)) WHERE name <> ''",
    "an extension's type": "CREATE TABLE t (name citext); CREATE INDEX ON t (name) WHERE name <> 'x'::citext",
    "a view of the caller's": "CREATE VIEW v WITH (security_invoker) AS SELECT 1 AS id",
    "a function of the caller's": FUNCTION,
    "a trigger": TRIGGER
    + "CREATE TABLE t (id int REFERENCES parent); "
    + "CREATE TRIGGER g BEFORE DELETE ON t FOR EACH ROW EXECUTE FUNCTION g()",
}


def test_what_acts_with_its_owners_rights_is_known(shop: Shop) -> None:
    for expected, kinds in ((True, ACTING), (False, HARMLESS)):
        for kind, statements in kinds.items():
            run(shop.postgres, f"SET ROLE {shop.role}; {statements}", shop.database)
            found = shop.holdings()
            assert bool(found.acting) is expected, kind
            assert found.owned
            run(shop.postgres, f"DROP OWNED BY {shop.role} CASCADE", shop.database)
            run(shop.postgres, f"GRANT CREATE ON SCHEMA public TO {shop.role}", shop.database)


@pytest.mark.own_postgres
async def test_an_operator_without_superuser_hands_over_by_the_same_rule(
    postgres: PostgresEndpoint, database: str, database_name: str
) -> None:
    """It owns the database, and may make roles: more than what it retires could."""
    operator, tenant = f"{database_name}_operator", f"{database_name}_tenant"
    run(postgres, f"CREATE ROLE {operator} LOGIN CREATEROLE CREATEDB PASSWORD 'x'")
    run(postgres, f"GRANT CREATE ON DATABASE postgres TO {operator}; ALTER DATABASE {database} OWNER TO {operator}")
    server = PostgresEngine(target(postgres, username=operator, password="x"), Count(), metadata_schema=operator)
    try:
        await ready(server, member(database, {"roles": [{"name": tenant}]}, adoption="Allow"))
        run(postgres, f"GRANT CREATE ON SCHEMA public TO {tenant}", database)
        run(
            postgres,
            f"CREATE SCHEMA own AUTHORIZATION {tenant}; SET ROLE {tenant}; CREATE TABLE public.t (id int); "
            "CREATE FUNCTION own.f() RETURNS int LANGUAGE sql AS 'SELECT 1'; "
            "CREATE FUNCTION public.f() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'; "
            "CREATE VIEW public.v AS SELECT 1 AS id",
            database,
        )
        await ready(server, member(database, adoption="Allow"))
        assert rows(postgres, "SELECT FROM pg_roles WHERE rolname = %s", tenant) == []
        assert {owner_of(postgres, name, database) for name in ("public.t", "public.v")} == {heir_of(tenant)}
        owner = "SELECT proowner::regrole::text FROM pg_proc WHERE proname = 'f'"
        assert rows(postgres, owner, dbname=database) == [(heir_of(tenant),)] * 2
        may = "SELECT has_schema_privilege(%s, 'public', 'CREATE'), has_schema_privilege(%s, 'own', 'CREATE')"
        assert rows(postgres, may, heir_of(tenant), heir_of(tenant), dbname=database) == [(False, True)]
        assert (await ready(server, member(database, adoption="Allow"))).applied == ()
    finally:
        await server.close()
        run(postgres, f"ALTER DATABASE {database} OWNER TO CURRENT_USER")
        run(postgres, "DROP SCHEMA own CASCADE; DROP VIEW v; DROP FUNCTION f; DROP TABLE t", database)
        run(postgres, f"DROP SCHEMA IF EXISTS {operator} CASCADE; REVOKE ALL ON DATABASE postgres FROM {operator}")
        run(postgres, f"DROP OWNED BY {operator}", database)
