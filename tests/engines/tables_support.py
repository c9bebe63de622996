"""What the tests of audit, conventions and partitions share: tables, a login that is an application, short queries."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from tests.engines.postgres_support import only, ready, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox import PostgresEndpoint
    from selvedge.core.unit import MemberResult
    from selvedge.engines.base import Member
    from selvedge.engines.postgres.engine import PostgresEngine

TABLES = """
SET ROLE {owner};
CREATE TABLE shared.users (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), email text NOT NULL, password_hash text,
  updated_at timestamptz NOT NULL DEFAULT now(), version integer NOT NULL DEFAULT 1, deleted_at timestamptz,
  deleted_by text);
CREATE TABLE shared.notes (note text);
CREATE TABLE shared.readings (device int, at timestamptz NOT NULL DEFAULT now(), value int,
  PRIMARY KEY (device, at)) PARTITION BY RANGE (at);
"""


def declaration(name: str, **more: Any) -> dict[str, Any]:
    """Schema shared with an owner and an application's role."""
    owner, app = f"{name}_owner", f"{name}_app"
    return {
        "owner": owner,
        "schemas": [{"name": "shared"}],
        "roles": [{"name": owner}, {"name": app}],
        "grants": [
            {"name": "use", "privileges": ["USAGE"], "objects": {"schemas": ["shared"]}, "to": [app]},
            {
                "name": "write",
                "privileges": ["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE"],
                "objects": {"tablesIn": ["shared"]},
                "to": [app],
            },
        ],
        **more,
    }


def migrate(endpoint: PostgresEndpoint, name: str, statements: str = TABLES) -> None:
    """What a migration would make, as the owner."""
    run(endpoint, statements.replace("{owner}", f"{name}_owner"), dbname=name)


async def stands(one: PostgresEngine, endpoint: PostgresEndpoint, declared: Member) -> MemberResult:
    """Declare it, make the tables that it waits for, and see that it is Ready."""
    await only(one, declared)
    migrate(endpoint, declared.spec.database)
    return await ready(one, declared)


@contextmanager
def application(endpoint: PostgresEndpoint, name: str, **settings: str) -> Iterator[psycopg.Connection[Any]]:
    """A session authenticated as a login that is a member of the application's role, in autocommit mode."""
    login = f"{name}_login"
    with endpoint.connect() as admin:
        if not admin.execute("SELECT FROM pg_roles WHERE rolname = %s", [login]).fetchone():
            statement = sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'application' IN ROLE {}")
            admin.execute(statement.format(sql.Identifier(login), sql.Identifier(f"{name}_app")))
    with endpoint.connect(name) as template:
        parameters = template.info.get_parameters()
    parameters |= {"user": login, "password": "application", "dbname": name}
    with psycopg.connect(**parameters, autocommit=True) as connection:
        for setting, value in settings.items():
            connection.execute("SELECT set_config(%s, %s, false)", [setting.replace("__", "."), value])
        yield connection
