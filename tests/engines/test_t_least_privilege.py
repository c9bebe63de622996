"""The operator's login without superuser: what it can do, what it never gets to see, and what it says that it lacks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from sandbox import PostgresEndpoint
from selvedge.engines.postgres.engine import PostgresEngine
from tests.engines.postgres_support import count, engine, member, only, ready, reasons, rows, run
from tests.engines.tables_support import TABLES, declaration
from tests.engines.test_postgres_audit import AUDIT

pytestmark = pytest.mark.engines


@dataclass
class Operator:
    """A login that may make roles and databases, and nothing else; its claims stand in a database of its own."""

    postgres: PostgresEndpoint
    login: str
    maintenance: str
    database: str

    def engine(self) -> Any:
        return engine(self.postgres, username=self.login, password="x", maintenance_database=self.maintenance)

    def ask(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return rows(self.postgres, query, *parameters, dbname=self.database)


@pytest.fixture
def operator(postgres: PostgresEndpoint, database_name: str) -> Iterator[Operator]:
    login, maintenance = f"{database_name}_op", f"{database_name}_m"
    run(postgres, f"CREATE ROLE {login} LOGIN PASSWORD 'x' CREATEROLE CREATEDB; GRANT pg_signal_backend TO {login}")
    run(postgres, f"CREATE DATABASE {maintenance}")
    run(postgres, f"GRANT CREATE ON DATABASE {maintenance} TO {login}")
    yield Operator(postgres, login, maintenance, database_name)
    run(postgres, f"DROP DATABASE IF EXISTS {maintenance} WITH (FORCE)")


def version(postgres: PostgresEndpoint) -> int:
    return int(rows(postgres, "SELECT current_setting('server_version_num')::int")[0][0])


def spec(database: str, **fields: Any) -> dict[str, Any]:
    owner, reader, writer = (f"{database}_{name}" for name in ("owner", "reader", "writer"))
    return {
        "owner": owner,
        "settings": {"statement_timeout": "30s"},
        "extensions": [{"name": "citext"}],
        "schemas": [{"name": "shared", "comment": "all of it"}, {"name": "audit", "owner": writer}],
        "roles": [
            {"name": owner, "comment": "owns"},
            {"name": reader, "connectionLimit": 5},
            {"name": writer, "memberOf": [{"role": reader}], "settings": {"work_mem": "8MB"}},
        ],
        "grants": [
            {"name": "connect", "privileges": ["CONNECT"], "objects": {"database": True}, "to": [reader]},
            {"name": "no", "privileges": ["CONNECT", "TEMPORARY"], "objects": {"database": True}, "to": ["PUBLIC"],
             "ensure": "Absent"},
            {"name": "use", "privileges": ["USAGE"], "objects": {"schemas": ["shared", "audit"]}, "to": [reader]},
            {"name": "closed", "privileges": ["USAGE"], "objects": {"schemas": ["public"]}, "to": ["PUBLIC"],
             "ensure": "Absent"},
            {"name": "read", "privileges": ["SELECT"], "objects": {"tablesIn": ["shared"]}, "to": [reader]},
        ],
        "defaultPrivileges": [
            {"name": "d", "creators": [owner], "schemas": ["shared"], "objectType": "Tables", "privileges": ["SELECT"],
             "to": [reader]},
        ],
        **fields,
    }  # fmt: skip


async def test_a_whole_database_by_a_login_without_superuser(operator: Operator) -> None:
    database, postgres = operator.database, operator.postgres
    async with operator.engine() as server:
        await ready(server, member(database, spec(database)))
        assert (await ready(server, member(database, spec(database)))).applied == ()
        owner, reader = f"{database}_owner", f"{database}_reader"
        assert operator.ask("SELECT datdba::regrole::text FROM pg_database WHERE datname = %s", database) == [(owner,)]
        run(postgres, f"SET ROLE {owner}; CREATE TABLE shared.t (id int); INSERT INTO shared.t VALUES (1)", database)
        run(postgres, f"REVOKE SELECT ON shared.t FROM {reader}", database)
        await ready(server, member(database, spec(database)))
        assert operator.ask("SELECT has_table_privilege(%s, 'shared.t', 'SELECT')", reader) == [(True,)]
        assert (await server.probe()).missing_privileges == ()
    if version(postgres) >= 160000:
        # Member of the owners WITH INHERIT FALSE, SET TRUE: it cannot read what is in there without saying so.
        assert operator.ask("SELECT has_table_privilege(%s, 'shared.t', 'SELECT')", operator.login) == [(False,)]


async def test_drift_of_every_kind_is_repaired_by_it(operator: Operator) -> None:
    database, postgres = operator.database, operator.postgres
    owner, reader, writer = (f"{database}_{name}" for name in ("owner", "reader", "writer"))
    one = member(database, spec(database))
    async with operator.engine() as server:
        await ready(server, one)
        run(postgres, f"SET ROLE {owner}; CREATE TABLE shared.t (id int)", database)
        await ready(server, one)
        for statement in (
            f"ALTER ROLE {reader} CONNECTION LIMIT 9",
            f"COMMENT ON ROLE {owner} IS 'x'",
            f"ALTER ROLE {writer} SET work_mem = '9MB'",
            f"REVOKE {reader} FROM {writer} GRANTED BY {operator.login}",
            f"ALTER DATABASE {database} SET statement_timeout = '1s'",
            f"ALTER DATABASE {database} OWNER TO {reader}",
            f"ALTER SCHEMA shared OWNER TO {reader}",
            "COMMENT ON SCHEMA shared IS 'x'",
            f"REVOKE USAGE ON SCHEMA shared FROM {reader}",
            "GRANT USAGE ON SCHEMA public TO PUBLIC",
            f"GRANT CONNECT ON DATABASE {database} TO PUBLIC",
            f"ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA shared REVOKE SELECT ON TABLES FROM {reader}",
            f"REVOKE SELECT ON shared.t FROM {reader}",
        ):
            run(postgres, statement, database)
            result = await only(server, one)
            assert result.verified, (statement, result.problems)
            assert result.applied != (), statement
            assert (await only(server, one)).applied == (), statement


async def test_roles_and_schemas_are_renamed_and_retired_by_it(operator: Operator) -> None:
    database, postgres = operator.database, operator.postgres
    old, new, owner = f"{database}_old", f"{database}_new", f"{database}_owner"
    base: dict[str, Any] = {"owner": owner, "schemas": [{"name": "before", "owner": old}],
                            "roles": [{"name": owner}, {"name": old}]}  # fmt: skip
    async with operator.engine() as server:
        await ready(server, member(database, base))
        run(postgres, f"SET ROLE {old}; CREATE TABLE before.t (id int)", database)
        renamed = {**base, "schemas": [{"name": "after", "owner": new, "renamedFrom": "before"}],
                   "roles": [{"name": owner}, {"name": new, "renamedFrom": old}]}  # fmt: skip
        await ready(server, member(database, renamed))
        gone = {"owner": owner, "schemas": [{"name": "after", "owner": owner}], "roles": [{"name": owner}]}
        await ready(server, member(database, gone))
        assert operator.ask("SELECT tableowner FROM pg_tables WHERE schemaname = 'after'") == [(owner,)]
        assert operator.ask("SELECT FROM pg_roles WHERE rolname = %s", new) == []
        assert (await ready(server, member(database, gone))).applied == ()


async def test_what_is_missing_is_named_as_statements_that_help(operator: Operator) -> None:
    """Each problem names the GRANT; run, it is enough."""
    database, postgres, login = operator.database, operator.postgres, operator.login
    theirs = f"{database}_theirs"
    run(postgres, f"CREATE ROLE {theirs} NOLOGIN; ALTER ROLE {login} NOCREATEDB NOCREATEROLE")
    run(postgres, f"REVOKE pg_signal_backend FROM {login}")
    run(postgres, f"REVOKE CREATE ON DATABASE {operator.maintenance} FROM {login}")
    one = member(
        database,
        {
            "owner": theirs,
            "roles": [{"name": theirs, "comment": "ours now"}, {"name": f"{database}_new"}],
            "schemas": [{"name": "shared", "owner": theirs}],
            "grants": [
                {"name": "use", "privileges": ["USAGE"], "objects": {"schemas": ["shared"]}, "to": [f"{database}_new"]}
            ],
        },
        adoption="Allow",
    )
    async with operator.engine() as server:
        missing = (await server.probe()).missing_privileges
        assert missing == (
            f'ALTER ROLE "{login}" CREATEROLE',
            f'ALTER ROLE "{login}" CREATEDB',
            f'GRANT CREATE ON DATABASE "{operator.maintenance}" TO "{login}"',
            f'GRANT pg_signal_backend TO "{login}"',
        )
        run(postgres, ";".join(missing))
        assert (await server.probe()).missing_privileges == ()
        seen: list[str] = []
        for _ in range(4):
            result = await only(server, one)
            if result.verified:
                break
            for problem in result.problems:
                assert problem.reason.value == "InsufficientPrivileges", problem
                statement = problem.message.partition("run ")[2].partition(" as a superuser")[0]
                assert statement.startswith(("GRANT ", "ALTER ")), problem.message
                seen.append(statement)
                run(
                    postgres,
                    statement,
                    database if rows(postgres, "SELECT FROM pg_database WHERE datname = %s", database) else "postgres",
                )
        assert result.verified, result.problems
        if version(postgres) >= 160000:
            assert f'GRANT "{theirs}" TO "{login}" WITH ADMIN TRUE, INHERIT FALSE, SET TRUE' in seen
        assert (await only(server, one)).applied == ()


async def test_an_object_of_a_role_that_it_cannot_become(operator: Operator) -> None:
    """One table of a stranger: it is named with its GRANT, and everything else goes on."""
    database, postgres, login = operator.database, operator.postgres, operator.login
    reader, stranger = f"{database}_reader", f"{database}_stranger"
    async with operator.engine() as server:
        await ready(server, member(database, spec(database)))
        run(
            postgres,
            f"CREATE ROLE {stranger} SUPERUSER; SET ROLE {stranger}; CREATE TABLE shared.theirs (id int)",
            database,
        )
        run(postgres, "COMMENT ON SCHEMA shared IS 'x'", database)
        result = await only(server, member(database, spec(database)))
        assert reasons(result) == {"grant read": "InsufficientPrivileges"}
        assert f'GRANT "{stranger}" TO "{login}"' in result.problems[0].message
        assert operator.ask("SELECT obj_description('shared'::regnamespace)") == [("all of it",)]
        run(postgres, f"ALTER TABLE shared.theirs OWNER TO {database}_owner", database)
        await ready(server, member(database, spec(database)))
        assert operator.ask("SELECT has_table_privilege(%s, 'shared.theirs', 'SELECT')", reader) == [(True,)]


async def test_a_setting_of_ones_own_needs_a_right_on_it(operator: Operator) -> None:
    """To an administrator without superuser, settings with a prefix of one's own are refused on roles and databases."""
    database, login = operator.database, operator.login
    role = f"{database}_a"
    one = member(
        database, {"roles": [{"name": role, "settings": {"app.tenant": "x"}}], "schemas": [{"name": "shared"}]}
    )
    async with operator.engine() as server:
        result = await only(server, one)
        assert reasons(result) == {f"role {role}": "InsufficientPrivileges"}
        statement = f'GRANT SET ON PARAMETER "app"."tenant" TO "{login}"'
        assert statement in result.problems[0].message
        run(operator.postgres, statement)
        await ready(server, one)


async def test_t20_the_operators_own_membership_in_a_role_it_made_stays(operator: Operator) -> None:
    """From 16 on whoever makes a role is its member with the admin option: taken away, nobody could administer it."""
    database = operator.database
    role = f"{database}_a"
    one = member(
        database, {"roles": [{"name": role}], "schemas": [{"name": "s", "owner": role}], "grantMode": "Authoritative"}
    )
    query = "SELECT count(*) FROM pg_auth_members WHERE roleid = %s::regrole AND member = %s::regrole"
    async with operator.engine() as server:
        await ready(server, one)
        before = operator.ask(query, role, operator.login)
        assert (await ready(server, one)).applied == ()
        assert operator.ask(query, role, operator.login) == before
        run(operator.postgres, f"ALTER ROLE {role} CONNECTION LIMIT 3")
        await ready(
            server,
            member(
                database, {"roles": [{"name": role, "connectionLimit": 4}], "schemas": [{"name": "s", "owner": role}]}
            ),
        )


async def test_nothing_of_a_tenant_is_read_with_the_operators_rights(operator: Operator) -> None:
    """Without INHERIT the login itself is refused; SET ROLE stands only around the statements that need it."""
    database, postgres = operator.database, operator.postgres
    if version(postgres) < 160000:
        pytest.skip("before Postgres 16 a membership always lets a login with INHERIT read")
    async with operator.engine() as server:
        await ready(server, member(database, spec(database)))
        run(postgres, f"SET ROLE {database}_owner; CREATE TABLE shared.t (id int)", database)
        await ready(server, member(database, spec(database)))
        assert isinstance(server, PostgresEngine)
        assert count(server).operations.count("apply") > 0
    run(postgres, f"GRANT CONNECT ON DATABASE {database} TO {operator.login}")
    with (
        psycopg.connect(postgres.conninfo(database, user=operator.login, password="x")) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute("SELECT * FROM shared.t")


async def test_row_security_audit_conventions_and_partitions_by_a_login_without_superuser(operator: Operator) -> None:
    """Roles, logs, functions, triggers and partitions get their owners, and what it added to its rights is gone."""
    name, postgres = operator.database, operator.postgres
    declared = declaration(
        name,
        audit=AUDIT,
        conventions={
            "updatedAt": {"column": "updated_at", "tablesIn": ["shared"]},
            "softDelete": {"column": "deleted_at", "byColumn": "deleted_by", "views": "active_{table}",
                           "tablesIn": ["shared"]},
        },
        partitions=[{"table": "shared.readings", "by": "Time", "column": "at", "every": "Day", "ahead": 1}],
        rowLevelSecurity=[
            {"table": "shared.users", "force": True,
             "policies": [{"name": "all", "to": [f"{name}_app"], "using": "true"}]},
        ],
    )  # fmt: skip
    one = member(name, declared)
    writer, owner, audit = f"{name}_audit_writer", f"{name}_owner", f"{name}_audit"
    inherits = (
        "SELECT r.rolname FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid WHERE m.member = %s::regrole "
        "AND (to_jsonb(m) ->> 'inherit_option')::boolean AND r.rolname LIKE %s"
    )
    async with operator.engine() as server:
        await only(server, one)
        run(postgres, TABLES.replace("{owner}", owner), name)
        await ready(server, one)
        assert (await ready(server, one)).applied == ()
        assert operator.ask("SELECT has_schema_privilege(%s, 'audit', 'CREATE')", writer) == [(False,)]
        assert operator.ask(inherits, operator.login, f"{name}%") == []
        for statement in (
            f"ALTER TABLE audit.database_operations OWNER TO {owner}",
            f"ALTER FUNCTION audit.record_changes() OWNER TO {owner}",
            f"GRANT DELETE ON audit.database_operations TO {name}_app",
            "DROP TRIGGER selvedge_audit_insert ON shared.users",
            "CREATE OR REPLACE FUNCTION audit.record_change() RETURNS trigger LANGUAGE plpgsql AS 'begin end'",
            "DROP VIEW shared.active_users",
            f"ALTER VIEW shared.active_users OWNER TO {audit}",
        ):
            run(postgres, f"BEGIN; {statement}; COMMIT", name)
            repaired = await ready(server, one)
            assert repaired.applied != (), statement
            assert (await ready(server, one)).applied == (), statement
    run(postgres, f"SET ROLE {name}_app; INSERT INTO shared.users (email) VALUES ('a@b')", name)
    assert operator.ask("SELECT operation, table_name FROM audit.database_operations") == [("INSERT", "shared.users")]
    kept = "SELECT DISTINCT relowner::regrole::text FROM pg_class WHERE relnamespace = 'audit'::regnamespace"
    assert operator.ask(kept) == [(audit,)]
    assert operator.ask(inherits, operator.login, f"{name}%") == []
