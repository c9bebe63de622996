"""The operator's own roles are nobody's to declare: not as a role, a membership, an owner, a grantee or a successor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from psycopg import sql

from sandbox import PostgresEndpoint
from selvedge.core.own_roles import SUFFIXES, databases_of, is_shortened, own_role
from selvedge.engines.base import AccessRule, Member
from tests.engines.postgres_support import engine, member, only, ready, reasons, rows, run, unit

pytestmark = pytest.mark.engines


def declarations(p: str, name: str) -> dict[str, dict[str, Any]]:
    """A declaration for each place in which a role can be named, and the object that is refused for it."""
    grant = {"name": "g", "privileges": ["CONNECT"], "objects": {"database": True}, "to": [name]}
    default = {"name": "d", "objectType": "Tables", "privileges": ["SELECT"], "creators": [f"{p}_a"], "to": [name]}
    policy = {"name": "p", "to": [name], "using": "true"}
    return {
        f"role {name}": {"roles": [{"name": name}]},
        f"role {p}_b": {"roles": [{"name": f"{p}_b", "memberOf": [{"role": name}]}]},
        f"role {p}_c": {"roles": [{"name": f"{p}_c", "renamedFrom": name}]},
        f"database {p}": {"owner": name},
        "schema app": {"schemas": [{"name": "app", "owner": name}]},
        "grant g": {"grants": [grant]},
        "defaultPrivilege d": {"defaultPrivileges": [default | {"creators": [name], "to": [f"{p}_a"]}]},
        "defaultPrivilege e": {"defaultPrivileges": [default | {"name": "e"}]},
        "rowLevelSecurity app.t": {"rowLevelSecurity": [{"table": "app.t", "policies": [policy]}]},
    }


def allowing(rule: AccessRule) -> Callable[[Member], AccessRule]:
    return lambda _: rule


async def test_no_place_takes_one_of_this_database(postgres18: PostgresEndpoint) -> None:
    """Not even where the server's access lists it in full; nothing is written for it."""
    p = "own_roles_" + "x" * 50  # their names are shortened
    short = "own_roles_short"
    async with engine(postgres18) as server:
        for database in (p, short):
            for suffix in SUFFIXES:
                name = own_role(database, suffix)
                rule = AccessRule(role_prefixes=("", name))
                for ref, spec in declarations(database, name).items():
                    result = (await server.plan(unit(member(database, spec), access=allowing(rule)))).members
                    found = reasons(next(iter(result.values())))
                    assert found[ref] == "ForbiddenName", (suffix, found)


async def test_those_of_another_database_are_not_made_nor_taken_over(
    postgres: PostgresEndpoint, database: str, database_name: str
) -> None:
    """A role of that name would keep its migrations from running, and a member of its login could act as it."""
    free, theirs = own_role(database, "_probe"), own_role(database, "_migrator")
    run(postgres, f"CREATE ROLE {theirs}; COMMENT ON ROLE {theirs} IS 'selvedge: runs the migrations of it'")
    names = {
        "roles": [{"name": free}, {"name": theirs}, {"name": f"{database_name}_x", "memberOf": [{"role": theirs}]}]
    }
    async with engine(postgres) as server:
        result = await only(server, member(database_name, names, adoption="Allow"))
        assert reasons(result) == dict.fromkeys(
            (f"role {free}", f"role {theirs}", f"role {database_name}_x"), "ForbiddenName"
        )
        assert rows(postgres, "SELECT FROM pg_roles WHERE rolname = %s", free) == []
        assert rows(postgres, "SELECT FROM pg_auth_members WHERE roleid = %s::regrole", theirs) == []
        # Of a database that does not exist it is a name like any other.
        plain = f"{database_name}_report_audit"
        await ready(server, member(database_name, {"roles": [{"name": plain}]}))
    run(postgres, sql.SQL("DROP ROLE {}").format(sql.Identifier(theirs)).as_string(None))


def test_names_are_known_again() -> None:
    long = "d" * 63
    for suffix in SUFFIXES:
        assert is_shortened(own_role(long, suffix))
        assert not is_shortened(own_role("shop", suffix))
        assert "shop" in databases_of(own_role("shop", suffix))
    assert databases_of("_audit") == ()
    assert databases_of("app_owner") == ()
