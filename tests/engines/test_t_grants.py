"""The traps of privileges, by their number in the project's list of facts, end to end on a real server."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg import sql

from sandbox import PostgresEndpoint
from selvedge.core.reasons import Reason
from selvedge.engines.postgres.errors import statement_error
from tests.engines.postgres_support import engine, member, only, ready, reasons, rows, run

pytestmark = pytest.mark.engines


def grant(name: str, to: str | list[str], privileges: list[str], **fields: Any) -> dict[str, Any]:
    objects = {key: fields.pop(key) for key in list(fields) if key not in ("grantOption", "ensure")}
    to = [to] if isinstance(to, str) else to
    return {"name": name, "privileges": privileges, "objects": objects, "to": to, **fields}


def shop(*roles: str, grants: list[dict[str, Any]] | None = None, **fields: Any) -> dict[str, Any]:
    named = [{"name": role} for role in roles]
    return {"schemas": [{"name": "shared"}], "roles": named, "grants": grants or [], **fields}


def may(postgres: PostgresEndpoint, database: str, role: str, name: str, privilege: str, what: str = "table") -> bool:
    query = f"SELECT has_{what}_privilege(%s, %s, %s)"
    return bool(rows(postgres, query, role, name, privilege, dbname=database)[0][0])


async def test_t1_a_grant_by_a_third_party_is_revoked_as_its_grantor(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    """A superuser's REVOKE acts as the owner: what another grantor gave survives it, without a warning."""
    a, b = f"{database_name}_a", f"{database_name}_b"
    grants = [grant("read", [a, b], ["SELECT"], tables=["shared.t"])]
    async with engine(postgres) as server:
        await only(server, member(database_name, shop(a, b, grants=grants)))
        run(postgres, "CREATE TABLE shared.t (id int)", database_name)
        await ready(server, member(database_name, shop(a, b, grants=grants)))
        run(
            postgres,
            f"GRANT USAGE ON SCHEMA shared TO {a}; GRANT SELECT ON shared.t TO {a} WITH GRANT OPTION; "
            f"REVOKE SELECT ON shared.t FROM {b}; SET ROLE {a}; GRANT SELECT ON shared.t TO {b}; RESET ROLE; "
            f"GRANT SELECT ON shared.t TO {b}",
            database_name,
        )
        fewer = [grant("read", [a], ["SELECT"], tables=["shared.t"])]
        result = await ready(server, member(database_name, shop(a, b, grants=fewer)))
        assert not may(postgres, database_name, b, "shared.t", "SELECT")
        assert not may(postgres, database_name, a, "shared.t", "SELECT WITH GRANT OPTION")
        assert may(postgres, database_name, a, "shared.t", "SELECT")
        assert any(a in change.statement for change in result.applied)
        assert (await ready(server, member(database_name, shop(a, b, grants=fewer)))).applied == ()


async def test_t1_the_grantor_keeps_his_right_to_grant(postgres: PostgresEndpoint, database_name: str) -> None:
    """Only what he gave is taken back, as him: nothing cascades."""
    a, b, c = (f"{database_name}_{name}" for name in "abc")
    mine = grant("mine", a, ["SELECT"], tables=["shared.t"], grantOption=True)
    use = grant("use", a, ["USAGE"], schemas=["shared"])
    theirs = grant("theirs", b, ["SELECT"], tables=["shared.t"])
    async with engine(postgres) as server:
        await ready(server, member(database_name, shop(a, b)))
        run(postgres, "CREATE TABLE shared.t (id int)", database_name)
        run(postgres, f"CREATE ROLE {c}")
        await ready(server, member(database_name, shop(a, b, grants=[mine, use])))
        run(postgres, f"SET ROLE {a}; GRANT SELECT ON shared.t TO {b}, {c}", database_name)
        both = await ready(server, member(database_name, shop(a, b, grants=[mine, use, theirs])))
        assert [change for change in both.applied if change.ref.kind == "grant"] == [], "he gave it already"
        result = await ready(server, member(database_name, shop(a, b, grants=[mine, use])))
        assert [change.statement for change in result.applied] == [
            f'SET LOCAL ROLE "{a}"; REVOKE SELECT ON TABLE "shared"."t" FROM "{b}"; SET LOCAL ROLE NONE'
        ]
        asked = ((a, "SELECT WITH GRANT OPTION"), (b, "SELECT"), (c, "SELECT"))
        assert [may(postgres, database_name, who, "shared.t", what) for who, what in asked] == [True, False, True]


async def test_t1_what_a_third_party_gave_outside_of_the_declaration(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    a, b = f"{database_name}_a", f"{database_name}_b"
    spec = shop(a, b, grantMode="Authoritative")
    async with engine(postgres) as server:
        await ready(server, member(database_name, spec))
        run(
            postgres,
            f"CREATE TABLE shared.t (id int); GRANT USAGE ON SCHEMA shared TO {a}; "
            f"GRANT SELECT, INSERT ON shared.t TO {a} WITH GRANT OPTION; SET ROLE {a}; GRANT SELECT ON shared.t TO {b}",
            database_name,
        )
        await ready(server, member(database_name, spec))
        for role in (a, b):
            assert not may(postgres, database_name, role, "shared.t", "SELECT")
        assert not may(postgres, database_name, a, "shared.t", "INSERT")


async def test_t2_a_grant_that_changes_nothing_is_no_success(postgres: PostgresEndpoint, database_name: str) -> None:
    """The server answers GRANT with a warning where the grantor may grant none of it: the pass must not be verified."""
    login, role = f"{database_name}_login", f"{database_name}_a"
    run(postgres, f"CREATE ROLE {login} LOGIN PASSWORD 'x' CREATEROLE CREATEDB")
    run(postgres, f"CREATE DATABASE {database_name}_m OWNER {login}")
    try:
        async with engine(postgres, username=login, password="x", maintenance_database=f"{database_name}_m") as server:
            grants = [grant("read", role, ["SELECT"], tables=["shared.t"])]
            await only(server, member(database_name, shop(role, grants=grants)))
            run(postgres, "CREATE TABLE shared.t (id int)", database_name)  # a superuser's: the login may grant nothing
            result = await only(server, member(database_name, shop(role, grants=grants)))
            assert not result.verified
            assert not may(postgres, database_name, role, "shared.t", "SELECT")
    finally:
        run(postgres, f"DROP DATABASE {database_name}_m WITH (FORCE)")


async def test_t2_the_servers_warning_is_an_error(postgres: PostgresEndpoint, database: str) -> None:
    login, role = f"{database}_login", f"{database}_a"
    run(postgres, f"CREATE ROLE {login} LOGIN PASSWORD 'x'; CREATE ROLE {role}")
    run(postgres, f"CREATE TABLE public.t (id int); GRANT SELECT ON t TO {login}", database)
    try:
        async with (
            engine(postgres, username=login, password="x") as server,
            server.pool.session(database) as session,
        ):
            for statement in ("GRANT SELECT ON public.t TO {}", "REVOKE SELECT ON public.t FROM {}"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege, match="no privileges") as caught:
                    await session.run("apply", sql.SQL(statement).format(sql.Identifier(role)))
                assert statement_error(caught.value, "granting").reason is Reason.INSUFFICIENT_PRIVILEGES
                assert "no privileges" in statement_error(caught.value, "granting").message
            assert await session.run("apply", sql.SQL("SELECT 1")) == [[(1,)]]
    finally:
        run(postgres, f"DROP OWNED BY {login}, {role}", database)
        run(postgres, f"DROP ROLE {login}, {role}")


async def test_t3_grants_on_columns_survive_the_tables_revoke(postgres: PostgresEndpoint, database_name: str) -> None:
    """A REVOKE on the table strips its columns; both declared at once, and the table's taken away later."""
    role = f"{database_name}_a"
    columns = grant("c", role, ["SELECT"], columns=[{"table": "shared.t", "columns": ["id"]}])
    both = [grant("t", role, ["SELECT"], tables=["shared.t"]), columns]
    async with engine(postgres) as server:
        await only(server, member(database_name, shop(role)))
        run(postgres, "CREATE TABLE shared.t (id int, secret text)", database_name)
        await ready(server, member(database_name, shop(role, grants=both)))
        await ready(server, member(database_name, shop(role, grants=[columns])))
        assert not may(postgres, database_name, role, "shared.t", "SELECT")
        query = "SELECT c, has_column_privilege(%s, 'shared.t', c, 'SELECT') FROM unnest(ARRAY['id', 'secret']) c"
        assert rows(postgres, query, role, dbname=database_name) == [("id", True), ("secret", False)]


async def test_t4_what_public_has_by_itself(postgres: PostgresEndpoint, database_name: str) -> None:
    """A database without an ACL gives CONNECT and TEMPORARY to PUBLIC, a function EXECUTE, a type USAGE."""
    role = f"{database_name}_a"
    closed = [
        grant("db", "PUBLIC", ["CONNECT", "TEMPORARY"], database=True, ensure="Absent"),
        grant("f", "PUBLIC", ["EXECUTE"], functions=["shared.f()"], ensure="Absent"),
        grant("t", "PUBLIC", ["USAGE"], types=["shared.d"], ensure="Absent"),
        grant("mine", role, ["CONNECT"], database=True),
    ]
    async with engine(postgres) as server:
        await ready(server, member(database_name, shop(role)))
        run(postgres, "CREATE FUNCTION shared.f() RETURNS int LANGUAGE sql AS 'SELECT 1'", database_name)
        run(postgres, "CREATE DOMAIN shared.d AS int", database_name)
        one = member(database_name, shop(role, grants=closed))
        await ready(server, one)
        assert (await ready(server, one)).applied == ()
    other = f"{database_name}_other"
    run(postgres, f"CREATE ROLE {other}")
    found = [
        may(postgres, database_name, other, database_name, "CONNECT", "database"),
        may(postgres, database_name, other, database_name, "TEMPORARY", "database"),
        may(postgres, database_name, other, "shared.f()", "EXECUTE", "function"),
        may(postgres, database_name, other, "shared.d", "USAGE", "type"),
        may(postgres, database_name, role, database_name, "CONNECT", "database"),
    ]
    assert found == [False, False, False, False, True]


async def test_t5_what_an_owner_has_is_no_drift(postgres: PostgresEndpoint, database_name: str) -> None:
    """Tables that a declared role makes for itself hold every privilege for it."""
    role = f"{database_name}_a"
    grants = [grant("make", role, ["USAGE", "CREATE"], schemas=["shared"])]
    spec = shop(role, grants=grants, grantMode="Authoritative")
    async with engine(postgres) as server:
        await ready(server, member(database_name, spec))
        run(
            postgres,
            f"SET ROLE {role}; CREATE TABLE shared.own (id serial); GRANT SELECT ON shared.own TO {role}",
            database_name,
        )
        again = await ready(server, member(database_name, spec, verified=True))
        assert (again.applied, again.drift) == ((), ())
        run(postgres, f"REVOKE SELECT ON shared.own FROM {role}", database_name)
        declared = [*grants, grant("read", role, ["SELECT"], tables=["shared.own"])]
        await ready(server, member(database_name, {**spec, "grants": declared}))
        assert may(postgres, database_name, role, "shared.own", "SELECT"), "an owner can lose his own"
        await ready(server, member(database_name, {**spec, "grants": grants}))
        assert may(postgres, database_name, role, "shared.own", "SELECT"), (
            "what left the declaration is his all the same"
        )


OVERLOADS = """
CREATE TYPE shared."Odd, type" AS (a int);
CREATE FUNCTION shared.f(int) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION shared.f(int, int DEFAULT 2) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION shared.f(shared."Odd, type") RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION shared.f(VARIADIC text[]) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION shared.g(INOUT a int, OUT b text) LANGUAGE sql AS $$SELECT 1, 'x'$$;
CREATE PROCEDURE shared.p(int) LANGUAGE sql AS 'SELECT 1';
CREATE PROCEDURE shared.p(IN a int, OUT b int) LANGUAGE sql AS 'SELECT 1';
CREATE PROCEDURE shared.p(IN a int, IN b int) LANGUAGE sql AS 'SELECT 1';
CREATE AGGREGATE shared.total(int) (SFUNC = int4pl, STYPE = int, INITCOND = '0');
CREATE FUNCTION shared.win() RETURNS bigint LANGUAGE internal WINDOW AS 'window_row_number';
REVOKE EXECUTE ON ALL ROUTINES IN SCHEMA shared FROM PUBLIC;
CREATE TABLE shared.log (at date) PARTITION BY RANGE (at);
CREATE FOREIGN DATA WRAPPER wrapper;
CREATE SERVER remote FOREIGN DATA WRAPPER wrapper;
CREATE FOREIGN TABLE shared.far (id int) SERVER remote;
CREATE MATERIALIZED VIEW shared.counts AS SELECT 1;
CREATE VIEW shared.seen AS SELECT 1;
CREATE SEQUENCE shared.numbers;
CREATE UNLOGGED TABLE shared.fast (id int GENERATED ALWAYS AS IDENTITY);
"""


async def test_t6_every_kind_of_relation_and_every_overload(postgres: PostgresEndpoint, database_name: str) -> None:
    one, many = f"{database_name}_a", f"{database_name}_all"
    # p(int) and p(IN int, OUT int) cannot stand side by side: the second has the same input arguments
    script = OVERLOADS.replace("CREATE PROCEDURE shared.p(int) LANGUAGE sql AS 'SELECT 1';\n", "")
    grants = [
        grant("r", many, ["SELECT"], tablesIn=["shared"]),
        grant("f", many, ["EXECUTE"], functionsIn=["shared"]),
        grant("s", many, ["USAGE"], sequencesIn=["shared"]),
        grant(
            "one", one, ["EXECUTE"],
            functions=["shared.f(int)", 'shared.f(shared."Odd, type")', "shared.f(text[])", "shared.g(int)",
                       "shared.p(int, int)", "shared.total(int)"],
        ),
    ]  # fmt: skip
    async with engine(postgres) as server:
        await ready(server, member(database_name, shop(one, many)))
        run(postgres, script, database_name)
        declared = member(database_name, shop(one, many, grants=grants))
        await ready(server, declared)
        assert (await ready(server, declared)).applied == ()
        query = (
            "SELECT p.oid::regprocedure::text, p.prokind::text, has_function_privilege(%s, p.oid, 'EXECUTE'), "
            "has_function_privilege(%s, p.oid, 'EXECUTE') FROM pg_proc p WHERE pronamespace = 'shared'::regnamespace"
        )
        found = {(name, kind): (a, b) for name, kind, a, b in rows(postgres, query, one, many, dbname=database_name)}
        assert len(found) == 9
        assert all(everything for _, everything in found.values())
        mine = sorted(name for (name, _), (alone, _) in found.items() if alone)
        assert mine == sorted([
            "shared.f(integer)", 'shared.f(shared."Odd, type")', "shared.f(text[])", "shared.g(integer)",
            "shared.p(integer,integer)", "shared.total(integer)",
        ])  # fmt: skip
        for name in ("log", "far", "counts", "seen", "fast"):
            assert may(postgres, database_name, many, f"shared.{name}", "SELECT"), name
        for name in ("numbers", "fast_id_seq"):
            assert may(postgres, database_name, many, f"shared.{name}", "USAGE", "sequence"), name
        await ready(server, member(database_name, shop(one, many)))
        again = rows(postgres, query, one, many, dbname=database_name)
        assert not any(a or b for _, _, a, b in again)


async def test_languages_servers_wrappers_and_types(postgres: PostgresEndpoint, database_name: str) -> None:
    role = f"{database_name}_a"
    grants = [
        grant("l", role, ["USAGE"], languages=["sql", "plpgsql"]),
        grant("no-l", "PUBLIC", ["USAGE"], languages=["plpgsql"], ensure="Absent"),
        grant("s", role, ["USAGE"], foreignServers=["remote"], grantOption=True),
        grant("w", role, ["USAGE"], foreignDataWrappers=["wrapper"]),
        grant("t", role, ["USAGE"], types=["shared.status", "shared.d", "shared.pair"]),
    ]
    script = (
        "CREATE FOREIGN DATA WRAPPER wrapper; CREATE SERVER remote FOREIGN DATA WRAPPER wrapper; "
        "CREATE TYPE shared.status AS ENUM ('on'); CREATE DOMAIN shared.d AS int; CREATE TYPE shared.pair AS (a int); "
        "REVOKE USAGE ON TYPE shared.status, shared.d, shared.pair FROM PUBLIC"
    )
    async with engine(postgres) as server:
        declared = member(database_name, shop(role, grants=grants))
        waiting = await only(server, declared)
        assert reasons(waiting) == dict.fromkeys(("grant s", "grant w", "grant t"), "WaitingForObjects")
        run(postgres, script, database_name)
        await ready(server, declared)
        assert (await ready(server, declared)).applied == ()
        asked = [("language", "plpgsql", "USAGE"), ("server", "remote", "USAGE WITH GRANT OPTION"),
                 ("foreign_data_wrapper", "wrapper", "USAGE"), ("type", "shared.status", "USAGE"),
                 ("type", "shared.d", "USAGE"), ("type", "shared.pair", "USAGE")]  # fmt: skip
        assert all(may(postgres, database_name, role, name, privilege, kind) for kind, name, privilege in asked)
        other = f"{database_name}_other"
        run(postgres, f"CREATE ROLE {other}")
        assert not may(postgres, database_name, other, "plpgsql", "USAGE", "language")
        await ready(server, member(database_name, shop(role)))
        assert not any(may(postgres, database_name, role, name, "USAGE", kind) for kind, name, _ in asked)
        untrusted = member(database_name, shop(role, grants=[grant("c", role, ["USAGE"], languages=["c"])]))
        assert set(reasons(await only(server, untrusted))) == {"grant c"}


@pytest.mark.parametrize(
    "name",
    [
        "back\\slash", "Upper Case", "semi;colon--", "dollar$$tag$1", "percent%s%(x)s", "ünïcödé €", "single'quote",
        "{brace}", "x" * 40,
    ],
)  # fmt: skip
async def test_t7_names_in_grants_of_every_kind(postgres: PostgresEndpoint, database_name: str, name: str) -> None:
    role = f"{database_name}_{name}"[:63]
    if len(role.encode()) > 63:
        role = role[:55]
    ident = lambda *parts: sql.Identifier(*parts).as_string(None)  # noqa: E731 - a word for the lines below
    grants = [
        grant("s", role, ["USAGE"], schemas=[name]),
        grant("t", role, ["SELECT"], tables=[f"{name}.{name}"]),
        grant("c", role, ["UPDATE"], columns=[{"table": f"{name}.{name}", "columns": [name]}]),
        grant("q", role, ["USAGE"], sequences=[f"{name}.{name}_q"]),
        grant("d", role, ["USAGE"], types=[f"{name}.{name}_d"]),
    ]
    defaults = [{"name": "d", "creators": [role], "schemas": [name], "objectType": "Tables", "privileges": ["SELECT"],
                 "to": [role]}]  # fmt: skip
    spec = {"schemas": [{"name": name}], "roles": [{"name": role}], "grants": grants, "defaultPrivileges": defaults}
    async with engine(postgres) as server:
        await only(server, member(database_name, spec))
        run(
            postgres,
            f"CREATE TABLE {ident(name, name)} ({ident(name)} int); CREATE SEQUENCE {ident(name, name + '_q')}; "
            f"CREATE DOMAIN {ident(name, name + '_d')} AS int",
            database_name,
        )
        await ready(server, member(database_name, spec))
        assert (await ready(server, member(database_name, spec))).applied == ()
    assert may(postgres, database_name, role, ident(name, name), "SELECT")


async def test_t9_fewer_privileges_and_no_grant_option(postgres: PostgresEndpoint, database_name: str) -> None:
    """A second GRANT takes neither a privilege nor WITH GRANT OPTION away."""
    role, other = f"{database_name}_a", f"{database_name}_b"
    wide = [grant("w", role, ["SELECT", "INSERT", "UPDATE"], tablesIn=["shared"], grantOption=True)]
    narrow = [grant("w", role, ["SELECT"], tablesIn=["shared"])]
    async with engine(postgres) as server:
        await ready(server, member(database_name, shop(role, other)))
        run(postgres, "CREATE TABLE shared.t (id int)", database_name)
        await ready(server, member(database_name, shop(role, other, grants=wide)))
        assert may(postgres, database_name, role, "shared.t", "INSERT WITH GRANT OPTION")
        run(
            postgres,
            f"GRANT USAGE ON SCHEMA shared TO {role}; SET ROLE {role}; GRANT SELECT, INSERT ON shared.t TO {other}",
            database_name,
        )
        await ready(server, member(database_name, shop(role, other, grants=narrow)))
        asked = ("SELECT", "SELECT WITH GRANT OPTION", "INSERT", "UPDATE")
        assert [may(postgres, database_name, role, "shared.t", one) for one in asked] == [True, False, False, False]
        assert not may(postgres, database_name, other, "shared.t", "SELECT"), "it hung on the option"


async def test_a_functions_name_never_becomes_sql(postgres: PostgresEndpoint, database_name: str) -> None:
    """Whoever may create functions chooses their names; they are granted by a superuser."""
    role, evil = f"{database_name}_a", f"{database_name}_evil"
    names = [
        f'f"() TO PUBLIC; CREATE ROLE {evil} SUPERUSER; --',
        f"f() TO PUBLIC; CREATE ROLE {evil} SUPERUSER; --",
        f"f(int) TO PUBLIC; CREATE ROLE {evil} SUPERUSER; --(",
    ]
    async with engine(postgres) as server:
        await ready(server, member(database_name, shop(role)))
        for name in names:
            ident = sql.Identifier("shared", name[:63]).as_string(None)
            run(postgres, f"CREATE FUNCTION {ident}() RETURNS int LANGUAGE sql AS 'SELECT 1'", database_name)
            run(postgres, f"REVOKE ALL ON FUNCTION {ident}() FROM PUBLIC", database_name)
        await ready(
            server, member(database_name, shop(role, grants=[grant("f", role, ["EXECUTE"], functionsIn=["shared"])]))
        )
    mine = "pronamespace = 'shared'::regnamespace AND has_function_privilege(%s, oid, 'EXECUTE')"
    query = f"SELECT count(*) FROM pg_proc WHERE {mine}"
    assert rows(postgres, query, role, dbname=database_name) == [(3,)]
    other = f"{database_name}_other"
    run(postgres, f"CREATE ROLE {other}")
    assert rows(postgres, query, other, dbname=database_name) == [(0,)], "nothing went to PUBLIC"
    assert rows(postgres, "SELECT FROM pg_roles WHERE rolname = %s", evil) == []
