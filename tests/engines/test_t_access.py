"""A tenant who names what is another's: a role in every field that takes one, another's database, an extension."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox import PostgresEndpoint
from selvedge.core.unit import MemberResult
from selvedge.engines.base import AccessRule
from tests.engines.postgres_support import engine, member, only, ready, reasons, rows, run

pytestmark = pytest.mark.engines

#: ``{mine}`` is a role of the tenant's, ``{theirs}`` one of another tenant's, which exists.
FIELDS: dict[str, tuple[str, dict[str, Any]]] = {
    "role": ("role {theirs}", {"roles": [{"name": "{theirs}"}]}),
    "member of": ("role {mine}", {"roles": [{"name": "{mine}", "memberOf": [{"role": "{theirs}"}]}]}),
    "admin of": ("role {mine}", {"roles": [{"name": "{mine}", "memberOf": [{"role": "{theirs}", "admin": True}]}]}),
    "renamed from": ("role {mine}", {"roles": [{"name": "{mine}", "renamedFrom": "{theirs}"}]}),
    "renamed to": ("role {theirs}_x", {"roles": [{"name": "{theirs}_x", "renamedFrom": "{mine}"}]}),
    "owner of the database": ("database {database}", {"owner": "{theirs}"}),
    "owner of a schema": ("schema s", {"schemas": [{"name": "s", "owner": "{theirs}"}]}),
    "grantee": (
        "grant g",
        {"grants": [{"name": "g", "privileges": ["CREATE"], "objects": {"database": True}, "to": ["{theirs}"]}]},
    ),
    "creator": (
        "defaultPrivilege d",
        {
            "defaultPrivileges": [
                {
                    "name": "d",
                    "creators": ["{theirs}"],
                    "objectType": "Tables",
                    "privileges": ["SELECT"],
                    "to": ["PUBLIC"],
                }
            ]
        },
    ),
    "default grantee": (
        "defaultPrivilege d",
        {
            "roles": [{"name": "{mine}"}],
            "defaultPrivileges": [
                {
                    "name": "d",
                    "creators": ["{mine}"],
                    "objectType": "Tables",
                    "privileges": ["SELECT"],
                    "to": ["{theirs}"],
                }
            ],
        },
    ),
    "extension": ("extension hstore", {"extensions": [{"name": "hstore"}]}),
}


def _named(spec: Any, **names: str) -> Any:
    if isinstance(spec, dict):
        return {key: _named(value, **names) for key, value in spec.items()}
    if isinstance(spec, list):
        return [_named(value, **names) for value in spec]
    return spec.format(**names) if isinstance(spec, str) else spec


def state(postgres: PostgresEndpoint, theirs: str) -> list[tuple[Any, ...]]:
    query = (
        "SELECT rolname, rolcanlogin, (SELECT count(*) FROM pg_auth_members WHERE r.oid IN (roleid, member)), "
        "(SELECT count(*) FROM pg_shdepend WHERE refobjid = r.oid) FROM pg_roles r WHERE starts_with(rolname, %s)"
    )
    return rows(postgres, query, theirs)


@pytest.mark.parametrize("field", FIELDS)
async def test_a_role_of_another_tenant_is_refused_in_every_field(
    postgres: PostgresEndpoint, database_name: str, field: str
) -> None:
    mine, theirs = f"{database_name}_mine", f"{database_name}x_theirs"
    run(postgres, f"CREATE ROLE {theirs}")
    rule = AccessRule((database_name,), (f"{database_name}_",), ("pgcrypto",))
    ref, spec = FIELDS[field]
    names = {"mine": mine, "theirs": theirs, "database": database_name}
    one = member(database_name, _named(spec, **names), adoption="Allow")
    async with engine(postgres) as server:
        before = state(postgres, theirs)
        await ready(server, member(database_name, {"roles": [{"name": mine}]}), access=lambda _: rule)
        result: MemberResult = await only(server, one, access=lambda _: rule)
        assert reasons(result) == {ref.format(**names): "AccessDenied"}
        assert not result.verified
        assert state(postgres, theirs) == before
        assert rows(postgres, "SELECT FROM pg_extension WHERE extname = 'hstore'", dbname=database_name) == []


async def test_migrations_run_as_nobody_elses_role(postgres: PostgresEndpoint, database_name: str) -> None:
    """They are somebody's code. While the role is refused, the database is not Provisioned, and nothing runs."""
    mine, theirs = f"{database_name}_mine", f"{database_name}x_theirs"
    run(postgres, f"CREATE ROLE {theirs}")
    rule = AccessRule((database_name,), (f"{database_name}_",), ())
    source = {"configMaps": [{"name": "migrations"}]}
    async with engine(postgres) as server:
        for role, fine in ((mine, True), (theirs, False), ("pg_execute_server_program", False)):
            one = member(database_name, {"roles": [{"name": mine}]}, migrations={"role": role, "source": source})
            result = await only(server, one, access=lambda _: rule)
            assert result.provisioned is fine, role


async def test_another_tenants_database_is_refused(postgres: PostgresEndpoint, database: str) -> None:
    rule = AccessRule(("mine_*",), ("mine_",), ())
    async with engine(postgres) as server:
        result = await only(
            server, member(database, {"schemas": [{"name": "s"}]}, adoption="Allow"), access=lambda _: rule
        )
        assert reasons(result) == {f"database {database}": "AccessDenied"}
        assert result.applied == ()
    assert rows(postgres, "SELECT FROM pg_namespace WHERE nspname IN ('s', 'selvedge')", dbname=database) == []
