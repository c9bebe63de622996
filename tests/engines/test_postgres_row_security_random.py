"""From any state of a table's row-level security to any declaration of it, on a real server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox import PostgresEndpoint
from tests.engines.postgres_support import afresh, count, engine, member, ready, run, unit
from tests.engines.rls_declared import prepared, spec
from tests.engines.rls_support import OWN_ROW

pytestmark = pytest.mark.engines

_NAMES = st.sampled_from(["p", "q", "Ünïcode %s", "semi;colon '"])
_TEXTS = st.sampled_from(
    [
        OWN_ROW,
        "true",
        "name = 'a;b'",
        "NAME in ('x','y') -- z",
        "exists (select 1 from shared.users u where u.id=users.id)",
    ]
)


@st.composite
def _policies(draw: st.DrawFn) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name in draw(st.lists(_NAMES, max_size=3)):
        command = draw(st.sampled_from(["All", "Select", "Insert", "Update", "Delete"]))
        policy: dict[str, Any] = {"name": name, "command": command}
        policy["mode"] = draw(st.sampled_from(["Permissive", "Restrictive"]))
        policy["to"] = draw(st.lists(st.sampled_from(["app", "admin", "PUBLIC"]), min_size=1, unique=True))
        if command != "Insert":
            policy["using"] = draw(_TEXTS)
        if command == "Insert" or (command in ("All", "Update") and draw(st.booleans())):
            policy["withCheck"] = draw(_TEXTS)
        found[name] = policy
    return list(found.values())


_DRIFT = st.lists(
    st.sampled_from(
        [
            "ALTER TABLE shared.users DISABLE ROW LEVEL SECURITY",
            "ALTER TABLE shared.users NO FORCE ROW LEVEL SECURITY",
            "ALTER TABLE shared.users FORCE ROW LEVEL SECURITY",
            "CREATE POLICY drift ON shared.users USING (true)",
            (
                "DO $$ DECLARE p record; BEGIN FOR p IN SELECT polname FROM pg_policy LOOP "
                "EXECUTE format('ALTER POLICY %I ON shared.users TO PUBLIC', p.polname); END LOOP; END $$"
            ),
            (
                "DO $$ DECLARE p record; BEGIN FOR p IN SELECT polname FROM pg_policy LIMIT 1 LOOP "
                "EXECUTE format('DROP POLICY %I ON shared.users', p.polname); END LOOP; END $$"
            ),
            "DELETE FROM selvedge.claims WHERE object LIKE 'rowLevelSecurity:%'",
        ]
    ),
    max_size=3,
    unique=True,
)


async def _random(endpoint: PostgresEndpoint, name: str, examples: int) -> None:
    """From whatever stands and was done by hand to whatever is declared; then there is nothing to do."""
    loop = asyncio.get_running_loop()
    async with engine(endpoint) as one:
        await prepared(one, endpoint, name)

        async def check(policies: list[dict[str, Any]], force: bool, drift: list[str], order: bool) -> None:
            for statement in drift:
                run(endpoint, statement, name)
            roles = {"app": f"{name}_app", "admin": f"{name}_admin"}
            declared = [{**policy, "to": [roles.get(role, role) for role in policy["to"]]} for policy in policies]
            entry = {"table": "shared.users", "force": force, "policies": declared}
            parts = {**spec(name), "rowLevelSecurity": [entry]}
            await ready(one, member(name, parts))
            if order:
                entry["policies"] = declared[::-1]
            await afresh(one)
            again = await ready(one, member(name, parts))
            # one look, and another where the view of the whole server, which other tests change, was to be read again
            assert set(count(one).taken()) == {"snapshot"}
            assert again.applied == ()
            planned = (await one.plan(unit(member(name, parts)))).members
            assert all(result.pending == () for result in planned.values())

        @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
        @given(_policies(), st.booleans(), _DRIFT, st.booleans())
        def explore(policies: list[dict[str, Any]], force: bool, drift: list[str], order: bool) -> None:
            asyncio.run_coroutine_threadsafe(check(policies, force, drift, order), loop).result(60)

        await asyncio.to_thread(explore)


@pytest.mark.own_postgres
async def test_from_any_state_to_any_declaration(postgres: PostgresEndpoint, database_name: str) -> None:
    await _random(postgres, database_name, 40)


@pytest.mark.own_postgres
@pytest.mark.long
async def test_from_any_state_to_any_declaration_for_longer(postgres: PostgresEndpoint, database_name: str) -> None:
    await _random(postgres, database_name, 300)
