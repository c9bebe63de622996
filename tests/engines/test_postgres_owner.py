"""A database whose owner cannot be had yet: what is wrong with the role is told, and not what follows from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from selvedge.core.unit import ObjectState
from tests.engines.postgres_support import engine, member, only, ready, reasons, rows, run

if TYPE_CHECKING:
    from sandbox import PostgresEndpoint


async def test_a_refused_role_that_is_the_owner_is_the_cause(postgres: PostgresEndpoint, database_name: str) -> None:
    owner = f"{database_name}_owner"
    declared = {
        "owner": owner,
        "roles": [{"name": owner, "memberOf": [{"role": "pg_read_server_files"}]}],
        "schemas": [{"name": "app"}],
    }
    async with engine(postgres) as server:
        result = await only(server, member(database_name, declared))
        assert reasons(result) == {f"role {owner}": "ForbiddenName", f"database {database_name}": "RoleNotFound"}
        states = {status.ref.kind: status.state for status in result.problems}
        assert states == {"role": ObjectState.FAILED, "database": ObjectState.WAITING}
        assert not result.applied
        assert not result.provisioned
        assert not _there(postgres, database_name)
        await ready(server, member(database_name, {**declared, "roles": [{"name": owner}]}))
    query = "SELECT datdba::regrole::text FROM pg_database WHERE datname = %s"
    assert rows(postgres, query, database_name) == [(owner,)]


async def test_an_owner_that_nobody_declares_is_waited_for(postgres: PostgresEndpoint, database_name: str) -> None:
    owner = f"{database_name}_owner"
    one = member(database_name, {"owner": owner, "schemas": [{"name": "app"}]})
    async with engine(postgres) as server:
        result = await only(server, one)
        assert [(status.state, status.message) for status in result.problems] == [
            (
                ObjectState.WAITING,
                f"database {database_name} is to be owned by role {owner}, which does not exist: declare it",
            )
        ]
        run(postgres, f"CREATE ROLE {owner}")
        await ready(server, one)


async def test_an_owner_that_the_server_refuses_to_make_is_the_cause(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    owner, login = f"{database_name}_owner", f"{database_name}_login"
    run(postgres, f"CREATE ROLE {login} LOGIN CREATEDB PASSWORD 'marked-login-5f1c'")
    # The operator's own tables are the administrator's; CREATEROLE is not inherited.
    run(postgres, f"GRANT {postgres.username} TO {login}")
    one = member(database_name, {"owner": owner, "roles": [{"name": owner}], "schemas": [{"name": "app"}]})
    async with engine(postgres, username=login, password="marked-login-5f1c") as server:
        result = await only(server, one)
        assert reasons(result) == {f"role {owner}": "InsufficientPrivileges"}
        assert not result.provisioned
        assert not _there(postgres, database_name)


def _there(postgres: PostgresEndpoint, database: str) -> bool:
    return bool(rows(postgres, "SELECT 1 FROM pg_database WHERE datname = %s", database))
