"""Roles that go, on a real server: what holds them is found from one database, and freed in each without a loss."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from psycopg import sql

from sandbox import PostgresEndpoint
from selvedge.core.postgres.changes import Change
from selvedge.core.postgres.model import Problem
from selvedge.core.postgres.retirement import (
    Elsewhere,
    HandOverDatabase,
    Holdings,
    Owner,
    RetireElsewhere,
    RetireRole,
    diff_elsewhere,
    diff_retirement,
)
from selvedge.engines.postgres.retirement import (
    elsewhere_fragment,
    holdings_fragment,
    parse_elsewhere,
    parse_holdings,
    render_hand_over,
    render_retirement,
)
from tests.engines.postgres_support import rows, run

pytestmark = pytest.mark.engines


@dataclass
class World:
    postgres: PostgresEndpoint
    one: str
    two: str
    three: str
    role: str
    owner: str
    reader: str

    def ask(self, database: str, fragment: sql.Composable) -> dict[str, object]:
        with self.postgres.connect(database) as connection:
            statement = sql.SQL("SELECT json_build_object({})::text").format(fragment)
            row = connection.execute(statement).fetchone()
            assert row is not None
            found: dict[str, object] = json.loads(row[0])
            return found

    def holdings(self, database: str) -> Holdings:
        return parse_holdings(self.ask(database, holdings_fragment([self.role])))[self.role]

    def elsewhere(self) -> tuple[Elsewhere, ...]:
        return parse_elsewhere(self.ask("postgres", elsewhere_fragment([self.role])))[self.role]

    def plan(self, database: str) -> tuple[list[Change], list[Problem]]:
        held = {self.role: self.holdings(database)}
        return diff_retirement({self.role: "member"}, held, Owner(self.owner), database)

    def retire(self, database: str) -> None:
        changes, problems = self.plan(database)
        assert problems == []
        for change in changes:
            assert isinstance(change, RetireRole)
            run(self.postgres, render_retirement(change).as_string(None), database)
        assert self.plan(database) == ([], [])


@pytest.fixture
def world(postgres: PostgresEndpoint, database_name: str) -> Iterator[World]:
    names = [f"{database_name}_{letter}" for letter in "xyz"]
    found = World(postgres, *names, f"{database_name}_r", f"{database_name}_owner", f"{database_name}_reader")
    run(postgres, f"CREATE ROLE {found.role}; CREATE ROLE {found.owner}; CREATE ROLE {found.reader}")
    for name in names:
        run(postgres, f"CREATE DATABASE {name}")
        run(postgres, f"GRANT CREATE ON SCHEMA public TO {found.role}, {found.owner}", name)
    yield found
    for name in names:
        run(postgres, f"UPDATE pg_database SET datallowconn = true WHERE datname = '{name}'")
        run(postgres, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def test_a_role_with_all_it_can_hold_in_three_databases(world: World) -> None:
    """T16."""
    role, postgres = world.role, world.postgres
    run(
        postgres,
        f"SET ROLE {role}; CREATE TABLE t (id int); INSERT INTO t VALUES (7); RESET ROLE; "
        f"ALTER DEFAULT PRIVILEGES FOR ROLE {role} GRANT SELECT ON TABLES TO {world.reader}",
        world.one,
    )
    run(
        postgres,
        f"CREATE TABLE u (id int); ALTER TABLE u ENABLE ROW LEVEL SECURITY; "
        f"CREATE POLICY p ON u TO {role}, {world.reader} USING (true); GRANT SELECT (id) ON u TO {role}; "
        f"ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {role}",
        world.two,
    )
    run(postgres, f"ALTER DATABASE {world.three} OWNER TO {role}; GRANT CONNECT ON DATABASE {world.two} TO {role}")
    run(postgres, f"GRANT SET ON PARAMETER work_mem TO {role}")
    places = {place.database: place for place in world.elsewhere()}
    assert set(places) == {world.one, world.two, world.three}
    assert [places[name].owner for name in (world.one, world.two, world.three)] == [False, False, True]
    changes, problems = diff_elsewhere(
        {role: "member"}, {role: list(places.values())}, {"member": frozenset({world.one, world.two, world.three})}
    )
    assert problems == []
    assert isinstance(changes[0], HandOverDatabase), "REASSIGN OWNED takes databases with it"
    for change in changes:
        if isinstance(change, HandOverDatabase):
            run(postgres, render_hand_over(change).as_string(None))
        else:
            assert isinstance(change, RetireElsewhere)
            world.retire(change.database)
    run(postgres, f"DROP ROLE {role}")
    assert rows(postgres, "SELECT id, tableowner FROM t, pg_tables WHERE tablename = 't'", dbname=world.one) == [
        (7, world.owner)
    ]
    assert rows(postgres, "SELECT polname, cardinality(polroles) FROM pg_policy", dbname=world.two) == [("p", 1)]
    me = rows(postgres, "SELECT current_user::text")
    assert rows(postgres, f"SELECT datdba::regrole::text FROM pg_database WHERE datname = '{world.three}'") == me


def test_the_successors_new_objects_are_not_what_the_role_said(world: World) -> None:
    """T8: or whoever could be the role would say who may read what its successor makes."""
    for schema in (" IN SCHEMA public", ""):
        run(
            world.postgres,
            f"ALTER DEFAULT PRIVILEGES FOR ROLE {world.role}{schema} GRANT SELECT ON TABLES TO {world.reader}",
            world.one,
        )
    world.retire(world.one)
    run(world.postgres, f"SET ROLE {world.owner}; CREATE TABLE later (id int)", world.one)
    query = f"SELECT has_table_privilege('{world.reader}', 'later', 'SELECT')"
    assert rows(world.postgres, query, dbname=world.one) == [(False,)]
    assert rows(world.postgres, "SELECT count(*) FROM pg_default_acl", dbname=world.one) == [(0,)]


def test_a_restrictive_policy_of_this_role_alone_keeps_it(world: World) -> None:
    """T17."""
    run(
        world.postgres,
        f"CREATE TABLE t (id int); ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY a ON t USING (true); "
        f"CREATE POLICY alone ON t AS RESTRICTIVE TO {world.role} USING (id > 1); "
        f"CREATE POLICY shared ON t AS RESTRICTIVE TO {world.role}, {world.reader} USING (id > 0)",
        world.one,
    )
    changes, problems = world.plan(world.one)
    assert changes == []
    assert "public.t.alone," in problems[0].status.message
    assert "shared" not in problems[0].status.message
    run(world.postgres, "DROP POLICY alone ON t", world.one)
    for name in (world.one, world.two, world.three):
        world.retire(name)
    run(world.postgres, f"DROP ROLE {world.role}")
    assert rows(world.postgres, "SELECT polname FROM pg_policy ORDER BY 1", dbname=world.one) == [("a",), ("shared",)]


def test_databases_that_cannot_be_visited_are_named(world: World) -> None:
    for name in (world.one, world.two):
        run(world.postgres, f"GRANT USAGE ON SCHEMA public TO {world.role}", name)
    run(world.postgres, f"UPDATE pg_database SET datallowconn = false WHERE datname = '{world.one}'")
    places = {world.role: world.elsewhere()}
    changes, problems = diff_elsewhere({world.role: "member"}, places, {"member": frozenset({world.one, world.three})})
    assert [change.database for change in changes if isinstance(change, RetireElsewhere)] == [world.three]
    messages = {problem.status.reason.value: problem.status.message for problem in problems}
    assert f"{world.one}, which takes no connections" in messages["Unsupported"]
    assert f"{world.two}, which the DatabaseServer's access" in messages["AccessDenied"]
