"""Row-level security when processes die, attack, or are many at once."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from sandbox import PostgresEndpoint
from selvedge.core.errors import TransientError
from selvedge.core.reasons import Reason
from selvedge.engines.postgres import rls_phase
from tests.engines.postgres_support import converge, engine, lead, member, only, ready, reasons, rows, run, unit
from tests.engines.rls_declared import OBJECT, prepared, sees, spec, tenant
from tests.engines.rls_support import ANNA, AT_PARSE_TIME, EVIL, OWN_ROW

pytestmark = pytest.mark.engines


async def test_a_process_that_died_before_its_probes(
    postgres: PostgresEndpoint, database_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policy is committed and nobody has looked: the next process proves it, and puts back what leaks."""
    name = database_name
    leaky = {"name": "own_row", "to": [f"{name}_app"], "using": "true"}
    changed = member(name, spec(name, leaky, probes=tenant(name)), generation=2)
    async with engine(postgres) as one:
        await prepared(one, postgres, name)
        await ready(one, member(name, spec(name, probes=tenant(name))))

        async def die(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(rls_phase, "prove", die)
            with pytest.raises(KeyboardInterrupt):
                await only(one, changed)
    assert sees(postgres, name, "app", ANNA) == ["Anna", "Ben"]
    async with engine(postgres) as other:
        assert reasons(await only(other, changed)) == {OBJECT: Reason.ISOLATION_BROKEN}
    assert sees(postgres, name, "app", ANNA) == ["Anna"]


@pytest.mark.parametrize("using", AT_PARSE_TIME)
async def test_nothing_of_a_declaration_runs_as_the_administrator(
    postgres: PostgresEndpoint, database_name: str, using: str
) -> None:
    """Through every pass: compared, made, proven, planned, adopted."""
    name = database_name
    async with engine(postgres) as one:
        await prepared(one, postgres, name)
        code = EVIL.replace("EVIL_ROLE", f"{name}_owner").replace("OTHER_PREFIX", name)
        run(postgres, f'GRANT CREATE ON SCHEMA shared TO "{name}_owner"; SET ROLE "{name}_owner"; {code}', name)
        evil = {"name": "own_row", "to": [f"{name}_app"], "using": using, "withCheck": using}
        declared = member(name, spec(name, evil, probes=tenant(name, writes=True)))
        await only(one, declared)
        run(postgres, "ALTER POLICY own_row ON shared.users USING (false); TRUNCATE shared.trace", name)
        await one.plan(unit(declared))
        await only(one, declared)
        run(postgres, "DELETE FROM selvedge.claims WHERE object LIKE 'rowLevelSecurity:%'", name)
    async with engine(postgres) as other:
        await one.plan(unit(declared))
        await only(other, declared)
    assert rows(postgres, "SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s) AND rolsuper", name) == []
    sessions = {session for (session,) in rows(postgres, "SELECT session FROM shared.trace", dbname=name)}
    assert sessions <= {f"{name}_policies", f"{name}_probe"}
    assert sessions


async def test_t10_many_at_once_and_analyze(postgres: PostgresEndpoint, database_name: str) -> None:
    """Engines of several processes, drift made by hand and ANALYZE, all at the same table: it ends as declared."""
    name = database_name
    declared = member(name, spec(name, probes=tenant(name)))
    stop = threading.Event()

    def disturb() -> None:
        with postgres.connect(name) as connection:
            while not stop.is_set():
                with suppress(psycopg.errors.DeadlockDetected, psycopg.errors.InternalError_):  # as anybody meets it
                    connection.execute("ANALYZE shared.users")
                    connection.execute("ALTER TABLE shared.users NO FORCE ROW LEVEL SECURITY")

    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(engine(postgres)) for _ in range(4)]
        await prepared(engines[0], postgres, name)
        thread = threading.Thread(target=disturb)
        thread.start()
        try:
            for _ in range(3):
                found = await asyncio.gather(*(only(one, declared) for one in engines), return_exceptions=True)
                unexpected = [x for x in found if isinstance(x, BaseException) and not isinstance(x, TransientError)]
                assert unexpected == []
        finally:
            stop.set()
            thread.join()
        await ready(engines[0], declared)
    assert sees(postgres, name, "app", ANNA) == ["Anna"]


async def test_a_schema_and_a_role_that_are_renamed_keep_their_policies(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    name = database_name
    async with engine(postgres) as one:
        await prepared(one, postgres, name)
        await ready(one, member(name, spec(name)))
        oid = rows(postgres, "SELECT oid FROM pg_policy", dbname=name)
        parts = spec(name)
        text = json.dumps(parts).replace("shared", "common").replace(f"{name}_app", f"{name}_service")
        renamed = json.loads(text)
        renamed["schemas"][0]["renamedFrom"] = "shared"
        renamed["roles"][1]["renamedFrom"] = f"{name}_app"
        await ready(one, member(name, renamed, generation=2))
        assert rows(postgres, "SELECT oid FROM pg_policy", dbname=name) == oid
        enabled = "SELECT relrowsecurity FROM pg_class WHERE oid = 'common.users'::regclass"
        assert rows(postgres, enabled, dbname=name) == [(True,)]
        claims = "SELECT object FROM selvedge.claims WHERE object LIKE 'rowLevelSecurity:%'"
        assert rows(postgres, claims, dbname=name) == [("rowLevelSecurity:common.users",)]


async def test_a_resource_that_is_deleted_takes_its_policies_and_closes(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    """The database is somebody else's and stays; a table whose declaration is gone shows nobody a row."""
    name = database_name
    run(postgres, f"CREATE DATABASE {name}")
    restrictive = {"name": "never", "mode": "Restrictive", "to": [f"{name}_app"], "using": "name <> 'Ben'"}
    own = {"name": "own_row", "to": [f"{name}_app"], "using": OWN_ROW}
    fields: dict[str, Any] = {"adoption": "Allow", "deletionPolicy": "Delete"}
    parts = {**spec(name, own, restrictive), "owner": None}
    other = member(name, {}, name="other", adoption="Allow")
    async with engine(postgres) as one:
        await converge(one, other, member(name, {**parts, "rowLevelSecurity": [], "grants": []}, **fields))
        run(postgres, "CREATE TABLE shared.users (id uuid PRIMARY KEY, name text)", name)
        run(postgres, f'ALTER TABLE shared.users OWNER TO "{name}_owner"', name)
        run(postgres, "CREATE SCHEMA kept; ALTER TABLE shared.users SET SCHEMA kept", name)
        moved = json.loads(json.dumps(parts).replace("shared.users", "kept.users"))
        declared = member(name, moved, **fields)
        found = (await converge(one, other, declared)).members[declared.uid]
        assert f"refused to its owner {name}_owner" in found.problems[0].message
        run(postgres, f'GRANT USAGE ON SCHEMA kept TO "{name}_owner"', name)
        found = (await converge(one, other, declared)).members[declared.uid]
        assert found.verified, (found.problems, found.pending)
        gone = replace(declared, deleting=True)
        await one.remove(unit(other, gone), lead)
        state = "SELECT relrowsecurity, (SELECT count(*) FROM pg_policy) FROM pg_class WHERE relname = 'users'"
        assert rows(postgres, state, dbname=name) == [(True, 0)]
        assert rows(postgres, "SELECT rolname FROM pg_roles WHERE rolname = %s", f"{name}_app") == []
