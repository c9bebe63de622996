"""Row-level security comes before all else inside a database, and its table's owner may need what comes after."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.engines.postgres_support import engine, member, only, ready, reasons, rows, run

if TYPE_CHECKING:
    from sandbox import PostgresEndpoint

pytestmark = pytest.mark.engines

FOUND = """
CREATE ROLE {name}_owner; CREATE ROLE {name}_app;
CREATE SCHEMA shared;
CREATE TABLE shared.t (id int); ALTER TABLE shared.t OWNER TO {name}_owner;
CREATE TABLE shared.there (id int); ALTER TABLE shared.there OWNER TO {name}_owner;
ALTER TABLE shared.there ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON shared.there TO {name}_app USING (id=1)
"""


def declared(name: str, **schema: str) -> dict[str, Any]:
    """Two tables, one of them with a policy whose expression is written otherwise than the server shows it."""
    app = f"{name}_app"
    policies = [{"name": "own", "to": [app], "using": "id=1"}]
    return {
        "roles": [{"name": f"{name}_owner"}, {"name": app}],
        "schemas": [{"name": "shared", **schema}],
        "grants": [
            {"name": "read", "privileges": ["SELECT"], "objects": {"tables": ["shared.t", "shared.there"]}, "to": [app]}
        ],
        "rowLevelSecurity": [{"table": f"shared.{table}", "policies": policies} for table in ("t", "there")],
    }


async def test_one_pass_is_enough_where_the_owner_gets_into_the_schema_by_it(
    postgres: PostgresEndpoint, database: str
) -> None:
    """By owning the schema from now on. The table is closed before it is opened to anybody."""
    run(postgres, FOUND.replace("{name}", database), database)
    one = member(database, declared(database, owner=f"{database}_owner"), adoption="Allow")
    async with engine(postgres) as server:
        first = await ready(server, one)
        assert (await ready(server, one)).applied == ()
    made = [change.statement for change in first.applied]
    assert sum("CREATE POLICY" in statement for statement in made) == 1
    closed = next(index for index, statement in enumerate(made) if "ENABLE ROW LEVEL SECURITY" in statement)
    opened = [index for index, statement in enumerate(made) if '"t"' in statement and statement.startswith("GRANT")]
    assert opened
    assert min(opened) > closed


async def test_one_pass_is_enough_where_a_grant_lets_him_in(postgres: PostgresEndpoint, database: str) -> None:
    run(postgres, FOUND.replace("{name}", database), database)
    spec = declared(database)
    use = {"name": "use", "privileges": ["USAGE"], "objects": {"schemas": ["shared"]}, "to": [f"{database}_owner"]}
    spec["grants"].append(use)
    async with engine(postgres) as server:
        await ready(server, member(database, spec, adoption="Allow"))


async def test_an_owner_who_is_not_let_in_is_named_and_nothing_is_granted(
    postgres: PostgresEndpoint, database: str
) -> None:
    run(postgres, FOUND.replace("{name}", database), database)
    async with engine(postgres) as server:
        result = await only(server, member(database, declared(database), adoption="Allow"))
    assert reasons(result)["rowLevelSecurity shared.t"] == "InsufficientPrivileges"
    assert f"{database}_owner" in next(x.message for x in result.problems if x.ref.name == "shared.t")
    held = rows(postgres, "SELECT has_table_privilege(%s, 'shared.t', 'SELECT')", f"{database}_app", dbname=database)
    assert held == [(False,)]
