"""What somebody changes by hand is found, named and put back; where it is only to be reported, nothing is touched."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sandbox import PostgresEndpoint
from selvedge.api.databaseschema import DatabaseSchemaSpec
from tests.engines.postgres_support import engine, member, only, ready, rows, run, unit

pytestmark = pytest.mark.engines


def declared(p: str) -> dict[str, Any]:
    return {
        "owner": f"{p}_owner",
        "settings": {"statement_timeout": "30s", "DateStyle": ["ISO", "DMY"], "app.tenant": "it's; 50%"},
        "extensions": [{"name": "pgcrypto"}],
        "schemas": [{"name": "shared", "comment": "all"}],
        "roles": [
            {"name": f"{p}_owner"},
            {"name": f"{p}_ro", "comment": "may read", "settings": {"lock_timeout": "5s"}},
            {"name": f"{p}_rw", "memberOf": [{"role": f"{p}_ro"}]},
        ],
        "grantMode": "Authoritative",
        "grants": [
            {"name": "usage", "privileges": ["USAGE"], "objects": {"schemas": ["shared"]}, "to": [f"{p}_ro"]},
            {"name": "connect", "privileges": ["CONNECT"], "objects": {"database": True}, "to": [f"{p}_ro"]},
            {
                "name": "no-public",
                "privileges": ["TEMPORARY"],
                "objects": {"database": True},
                "to": ["PUBLIC"],
                "ensure": "Absent",
            },
        ],
    }


DRIFT = {
    "extension dropped": ("DROP EXTENSION pgcrypto", {"extension pgcrypto"}),
    "grant revoked": ("REVOKE USAGE ON SCHEMA shared FROM {p}_ro", {"grant usage"}),
    "grant on the database revoked": ("REVOKE CONNECT ON DATABASE {p} FROM {p}_ro", {"grant connect"}),
    "grant to PUBLIC": ("GRANT TEMPORARY ON DATABASE {p} TO PUBLIC", {"grant no-public"}),
    "undeclared grant": ("GRANT CREATE ON SCHEMA shared TO {p}_rw", {"role {p}_rw"}),
    "undeclared grant on a table": (
        "CREATE TABLE shared.t (id int); GRANT DELETE ON shared.t TO {p}_rw",
        {"role {p}_rw"},
    ),
    "undeclared grant on a column": (
        "CREATE TABLE shared.t (id int); GRANT SELECT (id) ON shared.t TO {p}_rw",
        {"role {p}_rw"},
    ),
    "role setting changed": ("ALTER ROLE {p}_ro SET lock_timeout = '1s'", {"role {p}_ro"}),
    "role setting reset": ("ALTER ROLE {p}_ro RESET ALL", {"role {p}_ro"}),
    "role comment": ("COMMENT ON ROLE {p}_ro IS 'x'", {"role {p}_ro"}),
    "membership removed": ("REVOKE {p}_ro FROM {p}_rw", {"role {p}_rw"}),
    "membership added": ("GRANT pg_read_all_data TO {p}_rw", {"role {p}_rw"}),
    "membership may be passed on": ("GRANT {p}_ro TO {p}_rw WITH ADMIN OPTION", {"role {p}_rw"}),
    "schema owner": ("ALTER SCHEMA shared OWNER TO CURRENT_USER", {"schema shared"}),
    "schema comment": ("COMMENT ON SCHEMA shared IS NULL", {"schema shared"}),
    "schema dropped": ("DROP SCHEMA shared", {"schema shared", "grant usage"}),
    "database owner": ("ALTER DATABASE {p} OWNER TO CURRENT_USER", {"database {p}"}),
    "database setting changed": ("ALTER DATABASE {p} SET statement_timeout = '1s'", {"database {p}"}),
    "database setting reset": ('ALTER DATABASE {p} RESET "DateStyle"', {"database {p}"}),
    "role dropped": ("DROP OWNED BY {p}_rw; DROP ROLE {p}_rw", {"role {p}_rw"}),
}


@pytest.mark.parametrize("kind", DRIFT)
async def test_drift_is_found_named_and_repaired(postgres: PostgresEndpoint, database_name: str, kind: str) -> None:
    statement, names = DRIFT[kind]
    one = member(database_name, declared(database_name))
    known = replace(one, verified=True)
    async with engine(postgres) as server:
        await ready(server, one)
        assert (await ready(server, known)).drift == ()
        run(postgres, statement.format(p=database_name), database_name)
        found = await ready(server, known)
        assert {str(ref) for ref in found.drift} == {name.format(p=database_name) for name in names}
        assert found.applied
        again = await ready(server, known)
        assert (again.drift, again.applied) == ((), ())


async def test_a_database_dropped_by_hand_is_made_again(postgres: PostgresEndpoint, database_name: str) -> None:
    one = member(database_name, declared(database_name), verified=True)
    async with engine(postgres) as server:
        await ready(server, replace(one, verified=False))
        for forget in (False, True):
            run(postgres, f'DROP DATABASE "{database_name}" WITH (FORCE)')
            if forget:
                server._book = None
            result = await ready(server, one)
            assert f"database {database_name}" in {str(ref) for ref in result.drift}
            assert (await ready(server, one)).applied == ()


async def test_report_repairs_nothing_and_shows_what_it_would(postgres: PostgresEndpoint, database_name: str) -> None:
    one = member(database_name, declared(database_name), drift="Report")
    known = replace(one, verified=True)
    async with engine(postgres) as server:
        await ready(server, one)
        run(postgres, f"REVOKE USAGE ON SCHEMA shared FROM {database_name}_ro", database_name)
        run(postgres, f"COMMENT ON ROLE {database_name}_ro IS 'x'")
        for _ in range(2):
            found = await only(server, known)
            assert {str(change.ref) for change in found.pending} == {"grant usage", f"role {database_name}_ro"}
            assert {str(ref) for ref in found.drift} == {"grant usage", f"role {database_name}_ro"}
            assert found.applied == ()
            assert not found.verified
    query = "SELECT has_schema_privilege(%s, 'shared', 'USAGE')"
    assert rows(postgres, query, f"{database_name}_ro", dbname=database_name) == [(False,)]


async def test_a_table_that_a_migration_makes_is_no_drift(postgres: PostgresEndpoint, database_name: str) -> None:
    role = f"{database_name}_ro"
    one = member(
        database_name,
        {
            "schemas": [{"name": "shared"}],
            "roles": [{"name": role}],
            "grants": [{"name": "read", "privileges": ["SELECT"], "objects": {"tablesIn": ["shared"]}, "to": [role]}],
        },
    )
    async with engine(postgres) as server:
        await ready(server, one)
        run(postgres, "CREATE TABLE shared.users (id int)", database_name)
        found = await ready(server, replace(one, verified=True))
        assert [str(change.ref) for change in found.applied] == ["grant read"]
        assert found.drift == ()


async def test_nothing_of_a_plan_that_needs_approval_happens_before_it(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    """Server-wide changes and the database's own are one plan with one digest."""
    one = member(database_name, declared(database_name), apply="OnApproval")
    async with engine(postgres) as server:
        first = await only(server, one)
        assert first.applied == ()
        refs = {str(change.ref) for change in first.pending}
        assert refs >= {f"database {database_name}", f"role {database_name}_ro"}
        assert refs >= {"schema shared", "grant usage", "extension pgcrypto"}
        assert not first.provisioned
        assert rows(postgres, "SELECT FROM pg_roles WHERE starts_with(rolname, %s)", database_name) == []
        assert (await server.plan(unit(one))).members[one.uid].digest == first.digest
        wrong = approved(one, "sha256:" + "0" * 64)
        assert (await only(server, wrong)).applied == ()
        result = await ready(server, approved(one, first.digest))
        assert len(result.applied) == len(first.pending)
        assert {change.statement for change in result.applied} == {change.statement for change in first.pending}


async def test_a_change_to_what_exists_waits_for_its_own_approval(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    one = member(database_name, declared(database_name))
    careful = member(database_name, declared(database_name), apply="OnApproval")
    async with engine(postgres) as server:
        await ready(server, one)
        assert (await ready(server, careful)).digest == ""
        run(postgres, f"REVOKE USAGE ON SCHEMA shared FROM {database_name}_ro", database_name)
        run(postgres, f"COMMENT ON ROLE {database_name}_ro IS 'x'")
        found = await only(server, careful)
        assert len(found.pending) == 2
        assert found.digest.startswith("sha256:")
        run(postgres, "COMMENT ON SCHEMA shared IS 'y'", database_name)
        superseded = await only(server, approved(careful, found.digest))
        assert superseded.applied == ()
        assert superseded.digest != found.digest
        result = await ready(server, approved(careful, superseded.digest))
        assert len(result.applied) == 3


async def test_plan_writes_nothing(postgres: PostgresEndpoint, database_name: str) -> None:
    one = member(database_name, declared(database_name))
    async with engine(postgres) as server:
        result = (await server.plan(unit(one))).members[one.uid]
        assert result.pending
        assert result.applied == ()
    assert rows(postgres, "SELECT FROM pg_database WHERE datname = %s", database_name) == []
    assert rows(postgres, "SELECT FROM pg_roles WHERE starts_with(rolname, %s)", database_name) == []


def approved(one: Any, digest: str) -> Any:
    spec: DatabaseSchemaSpec = one.spec
    return replace(one, spec=spec.model_copy(update={"approved_plan": digest}))


@pytest.mark.parametrize("options", ["INHERIT FALSE", "SET FALSE", "ADMIN TRUE"])
async def test_the_options_of_a_membership_are_put_back(
    postgres: PostgresEndpoint, database_name: str, options: str
) -> None:
    if int(postgres.version) < 16:
        pytest.skip("these options exist from Postgres 16 on")
    a, b = f"{database_name}_a", f"{database_name}_b"
    one = member(database_name, {"roles": [{"name": a}, {"name": b, "memberOf": [{"role": a}]}]})
    async with engine(postgres) as server:
        await ready(server, one)
        run(postgres, f"GRANT {a} TO {b} WITH {options}")
        result = await ready(server, replace(one, verified=True))
        assert {str(ref) for ref in result.drift} == {f"role {b}"}
    query = "SELECT admin_option, inherit_option, set_option FROM pg_auth_members WHERE member = %s::regrole"
    assert rows(postgres, query, b) == [(False, True, True)]
