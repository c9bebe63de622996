"""Row-level security of partitioned tables: each partition is closed by its own name."""

from __future__ import annotations

import pytest

from sandbox import PostgresEndpoint
from tests.engines.postgres_support import afresh, count, engine, member, ready, rows, run
from tests.engines.rls_declared import OBJECT, probes_of, spec, tenant
from tests.engines.rls_support import ANNA, BEN, OWN_ROW

pytestmark = pytest.mark.engines


async def test_partitions_stay_closed(postgres: PostgresEndpoint, database_name: str) -> None:
    name = database_name
    async with engine(postgres) as one:
        await ready(one, member(name, {**spec(name), "rowLevelSecurity": [], "grants": []}))
        run(
            postgres,
            f'SET ROLE "{name}_owner"; CREATE TABLE shared.users (id uuid, name text) PARTITION BY HASH (id);'
            "CREATE TABLE shared.users_0 PARTITION OF shared.users FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
            f'GRANT SELECT ON shared.users_0 TO "{name}_app"; RESET ROLE;'
            f"CREATE TABLE shared.users_1 PARTITION OF shared.users FOR VALUES WITH (MODULUS 2, REMAINDER 1);"
            f"INSERT INTO shared.users VALUES ('{ANNA}', 'Anna'), ('{BEN}', 'Ben')",
            name,
        )
        declared = member(name, spec(name, probes=tenant(name)), verified=True)
        result = await ready(one, member(name, spec(name, probes=tenant(name))))
        assert probes_of(result) == (6, 0, 0)
        held = (
            "SELECT has_table_privilege(%s, 'shared.users_0', 'SELECT'), bool_and(relrowsecurity) "
            "FROM pg_class WHERE relname ~ '^users_[01]$'"
        )
        assert rows(postgres, held, f"{name}_app", dbname=name) == [(False, True)]
        run(
            postgres,
            f'GRANT SELECT ON shared.users_0 TO "{name}_app"; ALTER TABLE shared.users_0 DISABLE ROW LEVEL SECURITY',
            name,
        )
        result = await ready(one, declared)
        assert [str(ref) for ref in result.drift] == [OBJECT]
        assert rows(postgres, held, f"{name}_app", dbname=name) == [(False, True)]
        third = f'"{name}_third"'
        run(
            postgres,
            f"CREATE ROLE {third}; GRANT USAGE ON SCHEMA shared TO {third};"
            f"GRANT SELECT ON shared.users_0 TO {third} WITH GRANT OPTION;"
            f'SET ROLE {third}; GRANT SELECT ON shared.users_0 TO "{name}_app"',
            name,
        )
        await ready(one, declared)
        assert rows(postgres, held, f"{name}_app", dbname=name) == [(False, True)]
        assert rows(postgres, held, f"{name}_third", dbname=name) == [(False, True)]


@pytest.mark.own_postgres
async def test_partitions_that_are_made_ahead_are_closed(postgres: PostgresEndpoint, database_name: str) -> None:
    """Compared, made, partitioned and closed in one call, default privileges notwithstanding."""
    name = database_name
    app, owner = f"{name}_app", f"{name}_owner"
    parts = spec(name)
    default = {
        "creators": [owner],
        "schemas": ["shared"],
        "objectType": "Tables",
        "privileges": ["SELECT"],
        "to": [app],
    }
    parts["defaultPrivileges"] = [{"name": "read", **default}]
    async with engine(postgres) as one:
        await ready(one, member(name, {**parts, "rowLevelSecurity": [], "grants": []}))
        run(
            postgres,
            f'SET ROLE "{owner}"; CREATE TABLE shared.users (id uuid, name text, at timestamptz NOT NULL) '
            f'PARTITION BY RANGE (at); CREATE POLICY own_row ON shared.users TO "{app}" USING (ID={OWN_ROW[5:]})',
            name,
        )
        made = {"table": "shared.users", "by": "Time", "column": "at", "every": "Day", "ahead": 2}
        declared = member(name, {**parts, "partitions": [made]})
        await ready(one, declared)
        state = (
            "SELECT count(*) >= 3, bool_and(relrowsecurity), bool_or(has_table_privilege(%s, oid, 'SELECT')) "
            "FROM pg_class WHERE relispartition"
        )
        assert rows(postgres, state, app, dbname=name) == [(True, True, False)]
        await afresh(one)
        await ready(one, declared)
        assert count(one).taken() == ["snapshot"]
