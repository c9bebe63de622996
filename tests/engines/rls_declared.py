"""What the tests of row-level security through the engine share: a declaration, and a table that a migration made."""

from __future__ import annotations

from typing import Any

from psycopg import sql

from sandbox import PostgresEndpoint
from selvedge.core.unit import MemberResult
from selvedge.engines.postgres.engine import PostgresEngine
from tests.engines.postgres_support import member, ready, run
from tests.engines.rls_support import ANNA, BEN, OWN_ROW

OBJECT = "rowLevelSecurity shared.users"


def spec(name: str, *policies: dict[str, Any], probes: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """A declaration in the manifest's words; roles begin with the database's name."""
    app, admin, owner = f"{name}_app", f"{name}_admin", f"{name}_owner"
    own = {"name": "own_row", "to": [app], "using": OWN_ROW}
    entry: dict[str, Any] = {"table": "shared.users", "force": True, "policies": list(policies) or [own]}
    if probes is not None:
        entry["probes"] = probes
    return {
        "owner": owner,
        "schemas": [{"name": "shared", "owner": owner}],
        "roles": [{"name": owner}, {"name": app}, {"name": admin}],
        "grants": [
            {"name": "usage", "privileges": ["USAGE"], "objects": {"schemas": ["shared"]}, "to": [app, admin]},
            {
                "name": "write",
                "privileges": ["SELECT", "INSERT", "UPDATE", "DELETE"],
                "objects": {"tables": ["shared.users"]},
                "to": [app, admin],
            },
        ],
        "rowLevelSecurity": [{**entry, **fields}],
    }


def tenant(name: str, **fields: Any) -> dict[str, Any]:
    return {"tenant": {"column": "id", "setting": "app.current_user_id", "role": f"{name}_app", **fields}}


def create_table(endpoint: PostgresEndpoint, name: str, *, filled: bool = True) -> None:
    """As a migration would."""
    statements = sql.SQL("SET ROLE {}; CREATE TABLE shared.users (id uuid PRIMARY KEY, name text); RESET ROLE").format(
        sql.Identifier(f"{name}_owner")
    )
    run(endpoint, statements.as_string(None), name)
    if filled:
        run(endpoint, f"INSERT INTO shared.users VALUES ('{ANNA}', 'Anna'), ('{BEN}', 'Ben')", name)


async def prepared(one: PostgresEngine, endpoint: PostgresEndpoint, name: str, **fields: Any) -> None:
    """The database with its schemas and roles, and the table."""
    without = {**spec(name), "rowLevelSecurity": [], "grants": []}
    await ready(one, member(name, without, **fields))
    create_table(endpoint, name)


def sees(endpoint: PostgresEndpoint, name: str, role: str, who: str = "") -> list[str]:
    with endpoint.connect(name) as connection, connection.transaction(force_rollback=True):
        connection.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(f"{name}_{role}")))
        connection.execute("SELECT set_config('app.current_user_id', %s, true)", [who])
        return [row[0] for row in connection.execute("SELECT name FROM shared.users ORDER BY 1").fetchall()]


def probes_of(result: MemberResult) -> tuple[int, int, int]:
    (one,) = result.row_security
    return one.passed, one.failed, one.not_probed
