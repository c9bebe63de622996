"""Default privileges against a real server: what the diff says is what it takes, and then nothing is left to say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from psycopg import sql

from sandbox import PostgresEndpoint
from selvedge.core.postgres.default_privileges import DesiredDefault, LiveDefaults, diff_defaults, other_makers
from selvedge.engines.postgres.default_privileges_sql import defaults_fragment, parse_defaults, render_defaults
from tests.engines.postgres_support import rows, run

pytestmark = pytest.mark.engines


class World:
    """A database with two creators and a reader."""

    def __init__(self, postgres: PostgresEndpoint, database: str, prefix: str) -> None:
        self.postgres, self.database = postgres, database
        self.a, self.b, self.reader = f"{prefix}_a", f"{prefix}_b", f"{prefix}_reader"
        roles = f"CREATE ROLE {self.a}; CREATE ROLE {self.b}; CREATE ROLE {self.reader}"
        schemas = "CREATE SCHEMA s1; CREATE SCHEMA s2; CREATE SCHEMA s3"
        run(postgres, f"CREATE DATABASE {database}")
        run(postgres, f"{roles}; {schemas}; GRANT CREATE, USAGE ON SCHEMA s1, s2, s3 TO {self.a}, {self.b}", database)

    def look(self) -> LiveDefaults:
        fragment = defaults_fragment([self.a, self.b], ["s1", "s2", "s3"])
        statement = sql.SQL("SELECT json_build_object({})::text").format(fragment)
        with self.postgres.connect(self.database) as connection:
            row = connection.execute(statement).fetchone()
            assert row is not None
            return parse_defaults(json.loads(row[0]))

    def diff(self, *defaults: DesiredDefault, left: Sequence[DesiredDefault] = ()) -> tuple[list[str], list[Any]]:
        version = rows(self.postgres, "SELECT current_setting('server_version_num')::int")[0][0]
        known = frozenset({self.a, self.b, self.reader})
        schemas = frozenset({"s1", "s2", "s3"})
        changes, problems = diff_defaults(defaults, left, self.look(), known, schemas, version)
        return [render_defaults(change).as_string(None) for change in changes], problems

    def converge(self, *defaults: DesiredDefault, left: Sequence[DesiredDefault] = ()) -> list[str]:
        statements, problems = self.diff(*defaults, left=left)
        assert problems == []
        for statement in statements:
            run(self.postgres, statement, self.database)
        assert self.diff(*defaults, left=left) == ([], [])
        return statements

    def make(self, role: str, statement: str) -> None:
        run(self.postgres, f"SET ROLE {role}; {statement}", self.database)

    def may(self, what: str, name: str, privilege: str) -> bool:
        query = f"SELECT has_{what}_privilege(%s, %s, %s)"
        return bool(rows(self.postgres, query, self.reader, name, privilege, dbname=self.database)[0][0])


@pytest.fixture
def world(postgres: PostgresEndpoint, database_name: str) -> World:
    return World(postgres, database_name, database_name)


def default(world: World, kind: str, *privileges: str, **fields: Any) -> DesiredDefault:
    known: dict[str, Any] = {"creators": (world.a,), "schemas": (), "to": (world.reader,), "name": "read"}
    return DesiredDefault("member", kind=kind, privileges=frozenset(privileges), **{**known, **fields})


def test_a_default_belongs_to_the_role_that_creates(world: World) -> None:
    world.converge(default(world, "table", "SELECT", schemas=("s1", "s2")))
    for creator in (world.a, world.b):
        world.make(creator, f"CREATE TABLE s1.{creator} (id int); CREATE TABLE s3.{creator} (id int)")
    found = [world.may("table", f"{schema}.{role}", "SELECT") for schema in ("s1", "s3") for role in (world.a, world.b)]
    assert found == [True, False, False, False]


def test_alike_schemas_share_a_statement(world: World) -> None:
    statements = world.converge(default(world, "table", "SELECT", "INSERT", schemas=("s2", "s1")))
    assert len(statements) == 1
    run(
        world.postgres,
        f"ALTER DEFAULT PRIVILEGES FOR ROLE {world.a} IN SCHEMA s1 REVOKE INSERT ON TABLES FROM {world.reader}",
        world.database,
    )
    assert world.converge(default(world, "table", "SELECT", "INSERT", schemas=("s2", "s1"))) == [
        f'ALTER DEFAULT PRIVILEGES FOR ROLE "{world.a}" IN SCHEMA "s1" GRANT INSERT ON TABLES TO "{world.reader}"'
    ]


@pytest.mark.parametrize("kind", ["table", "sequence", "function", "type", "schema"])
def test_every_kind_global(world: World, kind: str) -> None:
    privileges = {"table": "SELECT", "sequence": "USAGE", "function": "EXECUTE", "type": "USAGE", "schema": "USAGE"}
    one = default(world, kind, privileges[kind])
    assert len(world.converge(one)) == 1
    everything = default(world, kind, "ALL", grantable=True)
    world.converge(everything)
    world.converge(one)  # the grant option goes again, and what ALL held besides stays: nobody says that it must go
    world.converge(left=[one, everything])
    assert rows(world.postgres, "SELECT FROM pg_default_acl", dbname=world.database) == []


def test_public_loses_execute_only_by_the_global_form(world: World) -> None:
    nobody = default(world, "function", "EXECUTE", to=("PUBLIC",), absent=True)
    in_schema = default(world, "function", "EXECUTE", to=("PUBLIC",), absent=True, schemas=("s1",))
    statements, problems = world.diff(in_schema)
    assert statements == []
    assert "leave schemas out" in problems[0].status.message
    world.converge(nobody)
    world.make(world.a, "CREATE FUNCTION s1.f() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    world.make(world.b, "CREATE FUNCTION s1.g() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    assert not world.may("function", "s1.f()", "EXECUTE")
    assert world.may("function", "s1.g()", "EXECUTE")
    assert world.diff(nobody, in_schema) == ([], []), "with the global one, the other is true"


def test_a_global_default_that_gives_nothing_is_seen(world: World) -> None:
    """Its row has no entries, which is not the same as no row."""
    run(
        world.postgres,
        f"ALTER DEFAULT PRIVILEGES FOR ROLE {world.a} REVOKE ALL ON FUNCTIONS FROM PUBLIC, {world.a}",
        world.database,
    )
    public = default(world, "function", "EXECUTE", to=("PUBLIC",))
    assert len(world.converge(public)) == 1
    world.make(world.a, "CREATE FUNCTION s1.f() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    assert world.may("function", "s1.f()", "EXECUTE")


def test_the_grant_option_is_taken_back(world: World) -> None:
    plain = default(world, "table", "SELECT", schemas=("s1",))
    world.converge(default(world, "table", "SELECT", schemas=("s1",), grantable=True))
    [statement] = world.converge(plain)
    assert f'IN SCHEMA "s1" REVOKE GRANT OPTION FOR SELECT ON TABLES FROM "{world.reader}"' in statement


def test_who_else_makes_objects_is_told(world: World) -> None:
    logins = [f"{world.a}_login", f"{world.a}_pinned", f"{world.a}_other", f"{world.a}_idle"]
    for login in logins:
        run(world.postgres, f"CREATE ROLE {login} LOGIN")
    inherits, pinned, other, _ = logins
    run(world.postgres, f"GRANT {world.a} TO {inherits}, {pinned}; ALTER ROLE {pinned} SET role = {world.a}")
    run(world.postgres, f"GRANT CREATE ON SCHEMA s1 TO {other}; CREATE TABLE s1.old (id int)", world.database)
    one = default(world, "table", "SELECT", schemas=("s1",))
    owners = {("table", "s1"): frozenset({"postgres"})}
    advice = [text for _, text in other_makers([one], world.look(), owners)]
    assert [name for name in (*logins, "postgres") if any(f" {name} " in text for text in advice)] == [
        inherits,
        other,
        "postgres",
    ]
