"""A database that was there before: whose access goes with the takeover is for a person to see first."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox import PostgresEndpoint
from selvedge.core.unit import MemberResult, Risk
from tests.engines.postgres_support import engine, member, only, ready, rows, run

pytestmark = pytest.mark.engines

BEFORE = """
CREATE ROLE {p}_app; CREATE ROLE {p}_old; CREATE ROLE {p}_other; CREATE ROLE {p}_owner;
GRANT {p}_old TO {p}_app;
CREATE SCHEMA app;
CREATE TABLE app.orders (id int, owner text);
CREATE TABLE app.prices (id int);
GRANT SELECT, DELETE ON app.prices TO {p}_app;
GRANT SELECT ON app.prices TO {p}_other;
CREATE POLICY everything ON app.orders USING (true);
GRANT USAGE ON SCHEMA app TO {p}_owner; ALTER TABLE app.orders OWNER TO {p}_owner;
ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT ON TABLES TO {p}_other;
"""


def declared(p: str) -> dict[str, Any]:
    return {
        "grantMode": "Authoritative",
        "roles": [{"name": f"{p}_app", "comment": "the application"}, {"name": f"{p}_new"}],
        "schemas": [{"name": "app"}, {"name": "more"}],
        "grants": [
            {"name": "read", "privileges": ["SELECT"], "objects": {"tables": ["app.prices"]}, "to": [f"{p}_app"]},
            {
                "name": "public",
                "ensure": "Absent",
                "privileges": ["TEMPORARY"],
                "objects": {"database": True},
                "to": ["PUBLIC"],
            },
            {"name": "usage", "privileges": ["USAGE"], "objects": {"schemas": ["app"]}, "to": [f"{p}_app"]},
        ],
        "defaultPrivileges": [
            {
                "name": "none",
                "ensure": "Absent",
                "creators": ["postgres"],
                "schemas": ["app"],
                "objectType": "Tables",
                "privileges": ["SELECT"],
                "to": [f"{p}_other"],
            }
        ],
        "rowLevelSecurity": [
            {
                "table": "app.orders",
                "policies": [{"name": "own", "to": [f"{p}_app"], "using": "owner = current_user"}],
            }
        ],
    }


STANDS = """
SELECT pg_has_role('{p}_app', '{p}_old', 'MEMBER'), has_table_privilege('{p}_app', 'app.prices', 'DELETE'),
  has_database_privilege('{p}_other', current_database(), 'TEMPORARY'),
  EXISTS (SELECT FROM pg_policies WHERE policyname = 'everything'),
  EXISTS (SELECT FROM pg_default_acl WHERE defaclnamespace = 'app'::regnamespace)
"""


def stands(postgres: PostgresEndpoint, p: str, database: str) -> tuple[Any, ...]:
    return rows(postgres, STANDS.replace("{p}", p), dbname=database)[0]


def waiting(result: MemberResult) -> set[str]:
    return {str(change.ref) for change in result.pending}


async def test_what_others_gave_is_taken_away_after_an_approval_and_not_before(
    postgres: PostgresEndpoint, database: str
) -> None:
    p = database
    run(postgres, BEFORE.replace("{p}", p), database)
    taken = {f"role {p}_app", "grant public", "defaultPrivilege none", "rowLevelSecurity app.orders"}
    async with engine(postgres) as server:
        for _ in range(2):
            result = await only(server, member(database, declared(p), adoption="Allow"))
            assert result.problems == ()
            assert waiting(result) == taken
            assert stands(postgres, p, database) == (True,) * 5, "nobody lost anything"
        assert {x.risk for x in result.pending} == {Risk.NARROWING, Risk.LOCKING}
        assert result.provisioned
        given = "SELECT has_schema_privilege(%s, 'app', 'USAGE'), to_regnamespace('more') IS NOT NULL"
        assert rows(postgres, given, f"{p}_app", dbname=database) == [(True, True)], "what adds something is made"
        wrong = member(database, declared(p), adoption="Allow", approvedPlan="sha256:" + "0" * 64)
        assert waiting(await only(server, wrong)) == taken
        result = await ready(server, member(database, declared(p), adoption="Allow", approvedPlan=result.digest))
        assert stands(postgres, p, database) == (False,) * 5


async def test_what_was_verified_is_put_back_and_what_left_the_spec_is_taken_without_an_approval(
    postgres: PostgresEndpoint, database: str
) -> None:
    """As in a database of our own: the takeover is done."""
    p = database
    run(postgres, BEFORE.replace("{p}", p), database)
    spec = declared(p)
    async with engine(postgres) as server:
        await ready(server, member(database, spec, adoption="Allow", destructive="Allow"))
        assert stands(postgres, p, database) == (False,) * 5, "destructive: Allow asks for none"
        run(
            postgres,
            f"GRANT {p}_old TO {p}_app; GRANT DELETE ON app.prices TO {p}_app; GRANT TEMPORARY ON DATABASE {database} "
            f"TO PUBLIC; CREATE POLICY everything ON app.orders USING (true); "
            f"ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT ON TABLES TO {p}_other",
            database,
        )
        await ready(server, member(database, spec, adoption="Allow", verified=True))
        assert stands(postgres, p, database) == (False,) * 5
        less = {**spec, "grants": spec["grants"][1:], "rowLevelSecurity": []}
        await ready(server, member(database, less, adoption="Allow", generation=2))
        left = "SELECT has_table_privilege(%s, 'app.prices', 'SELECT'), EXISTS (SELECT FROM pg_policies)"
        assert rows(postgres, left, f"{p}_app", dbname=database) == [(False, False)]


async def test_a_later_change_to_authoritative_asks_again(postgres: PostgresEndpoint, database: str) -> None:
    p = database
    run(postgres, BEFORE.replace("{p}", p), database)
    one = {"roles": [{"name": f"{p}_app", "memberOf": [{"role": f"{p}_old"}]}], "schemas": [{"name": "app"}]}
    delete = "SELECT has_table_privilege(%s, 'app.prices', 'DELETE')"
    async with engine(postgres) as server:
        await ready(server, member(database, one, adoption="Allow"))
        whole = {**one, "grantMode": "Authoritative"}
        result = await only(server, member(database, whole, adoption="Allow", generation=2))
        assert waiting(result) == {f"role {p}_app"}
        assert rows(postgres, delete, f"{p}_app", dbname=database) == [(True,)]
        await ready(server, member(database, whole, adoption="Allow", generation=2, approvedPlan=result.digest))
        assert rows(postgres, delete, f"{p}_app", dbname=database) == [(False,)]


async def test_a_role_that_is_taken_over_keeps_its_memberships_until_an_approval(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    """In a database that we made; other databases may live by the role."""
    p = database_name
    run(postgres, f"CREATE ROLE {p}_app; CREATE ROLE {p}_old; GRANT {p}_old TO {p}_app")
    spec = {"roles": [{"name": f"{p}_app"}], "schemas": [{"name": "app"}]}
    held = "SELECT pg_has_role(%s, %s, 'MEMBER')"
    async with engine(postgres) as server:
        result = await only(server, member(p, spec, adoption="Allow"))
        assert (waiting(result), result.problems) == ({f"role {p}_app"}, ())
        assert rows(postgres, held, f"{p}_app", f"{p}_old") == [(True,)]
        await ready(server, member(p, spec, adoption="Allow", approvedPlan=result.digest))
        assert rows(postgres, held, f"{p}_app", f"{p}_old") == [(False,)]


async def test_in_a_database_that_we_made_nothing_waits(postgres: PostgresEndpoint, database_name: str) -> None:
    p = database_name
    spec = {
        "roles": [{"name": f"{p}_app"}],
        "grants": [
            {
                "name": "public",
                "ensure": "Absent",
                "privileges": ["TEMPORARY", "CONNECT"],
                "objects": {"database": True},
                "to": ["PUBLIC"],
            }
        ],
    }
    async with engine(postgres) as server:
        await ready(server, member(p, spec))
    assert rows(postgres, "SELECT has_database_privilege(%s, %s, 'CONNECT')", f"{p}_app", p) == [(False,)]
