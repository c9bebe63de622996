"""Who gets past row-level security on a real server, and that a declaration's advice or its probes say so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.engines.postgres_support import engine, member, only, ready, rows, run
from tests.engines.rls_declared import prepared, sees, spec
from tests.engines.rls_support import ANNA

if TYPE_CHECKING:
    from sandbox import PostgresEndpoint

pytestmark = pytest.mark.engines


async def test_t24_the_owner_and_his_members_are_filtered_with_force_and_named_without(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    name = database_name
    run(postgres, f"CREATE ROLE {name}_login LOGIN")
    async with engine(postgres) as one:
        await prepared(one, postgres, name)
        run(postgres, f"GRANT {name}_owner TO {name}_login")
        opened = await ready(one, member(name, spec(name, force=False)))
        assert sees(postgres, name, "owner") == sees(postgres, name, "login") == ["Anna", "Ben"]
        assert any(f"{name}_login" in text and "shared.users" in text for text in opened.advice), opened.advice
        closed = await ready(one, member(name, spec(name)))
        assert sees(postgres, name, "owner") == sees(postgres, name, "login") == []
        assert not any(f"{name}_login" in text for text in closed.advice), closed.advice


VIEWS = """
CREATE VIEW shared.all_users AS SELECT * FROM shared.users;
CREATE VIEW shared.own_users WITH (security_invoker = true) AS SELECT * FROM shared.users;
CREATE MATERIALIZED VIEW shared.kept_users AS SELECT * FROM shared.users;
CREATE FUNCTION shared.count_users() RETURNS bigint LANGUAGE sql SECURITY DEFINER
  SET search_path = pg_catalog AS 'SELECT count(*) FROM shared.users';
GRANT SELECT ON shared.all_users, shared.own_users, shared.kept_users TO {app}
"""


async def test_t27_views_and_definers_that_read_past_the_policies_are_named(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    """Those that do, by what they show; the view with ``security_invoker`` shows what the policies let through."""
    name, app = database_name, f"{database_name}_app"
    async with engine(postgres) as one:
        await prepared(one, postgres, name)
        await ready(one, member(name, spec(name)))
        run(postgres, VIEWS.replace("{app}", app), name)
        result = await ready(one, member(name, spec(name)))
        seen = {}
        for source in ("all_users", "own_users", "kept_users"):
            query = f"SET ROLE {app}; SET app.current_user_id = '{ANNA}'; SELECT count(*) FROM shared.{source}"
            with postgres.connect(name) as connection:
                cursor = connection.execute(query.encode())
                while cursor.nextset():
                    pass
                seen[source] = cursor.fetchall()[0][0]
        assert seen == {"all_users": 2, "own_users": 1, "kept_users": 2}
        advice = "\n".join(result.advice)
        assert "shared.all_users" in advice
        assert "shared.kept_users" in advice
        assert "shared.count_users()" in advice
        assert "shared.own_users" not in advice
        run(postgres, "ALTER VIEW shared.all_users SET (security_invoker = true)", name)
        run(postgres, "DROP MATERIALIZED VIEW shared.kept_users; DROP FUNCTION shared.count_users", name)
        advice = "\n".join((await ready(one, member(name, spec(name)))).advice)
        assert "shared.all_users" not in advice


async def test_t28_truncate_asks_no_policy_and_is_named(postgres: PostgresEndpoint, database_name: str) -> None:
    name, app = database_name, f"{database_name}_app"
    declared = spec(name)
    allowed = {**declared, "grants": [*declared["grants"]]}
    allowed["grants"].append(
        {"name": "empty", "privileges": ["TRUNCATE"], "objects": {"tables": ["shared.users"]}, "to": [app]}
    )
    async with engine(postgres) as one:
        await prepared(one, postgres, name)
        result = await ready(one, member(name, allowed))
        assert any("TRUNCATE" in text and "shared.users" in text and app in text for text in result.advice)
        run(postgres, f"SET ROLE {app}; TRUNCATE shared.users", name)
        assert rows(postgres, "SELECT count(*) FROM shared.users", dbname=name) == [(0,)]
        # Without the grant in the declaration the privilege goes, and the advice with it.
        result = await only(one, member(name, declared))
        assert not any("TRUNCATE" in text for text in result.advice)
        held = rows(postgres, "SELECT has_table_privilege(%s, 'shared.users', 'TRUNCATE')", app, dbname=name)
        assert held == [(False,)]
