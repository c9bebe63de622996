"""Row-level security through the engine: declared, made, proven, kept, put back."""

from __future__ import annotations

import pytest

from sandbox import PostgresEndpoint
from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectState
from tests.engines.postgres_support import (
    afresh,
    converge,
    count,
    engine,
    lead,
    member,
    only,
    ready,
    reasons,
    rows,
    run,
    unit,
)
from tests.engines.rls_declared import OBJECT, create_table, prepared, probes_of, sees, spec, tenant
from tests.engines.rls_support import ANNA, BEN, OWN_ROW

pytestmark = pytest.mark.engines


async def test_from_nothing_to_proven(postgres: PostgresEndpoint, database_name: str) -> None:
    name = database_name
    admins = {"name": "admins", "to": [f"{name}_admin"], "using": "true"}
    own = {"name": "own_row", "to": [f"{name}_app"], "using": OWN_ROW}
    probes = {**tenant(name, writes=True), "expect": [{"role": f"{name}_admin", "sees": "All"}]}
    async with engine(postgres) as one:
        declared = member(name, spec(name, own, admins, probes=probes))
        first = await only(one, declared)
        assert first.provisioned
        assert reasons(first)[OBJECT] == Reason.WAITING_FOR_OBJECTS
        create_table(postgres, name)
        result = await ready(one, declared)
        assert probes_of(result) == (9, 0, 0)
        assert sees(postgres, name, "app", ANNA) == ["Anna"]
        assert sees(postgres, name, "app") == []
        assert sees(postgres, name, "admin") == ["Anna", "Ben"]


@pytest.mark.own_postgres
async def test_t13_a_second_pass_is_one_look(postgres: PostgresEndpoint, database_name: str) -> None:
    name = database_name
    async with engine(postgres) as one:
        declared = member(name, spec(name, probes=tenant(name)))
        await prepared(one, postgres, name)
        await ready(one, declared)
        await ready(one, declared)
        await afresh(one)
        again = await ready(one, declared)
        assert count(one).taken() == ["snapshot"]
        assert again.applied == ()
        assert probes_of(again) == (4, 0, 0)
    async with engine(postgres) as other:  # another process knows it by the claims
        await ready(other, declared)
        assert "login" not in count(other).taken()


async def test_a_hand_made_disable_is_drift_and_repaired(postgres: PostgresEndpoint, database_name: str) -> None:
    name = database_name
    async with engine(postgres) as one:
        await prepared(one, postgres, name)
        await ready(one, member(name, spec(name, probes=tenant(name))))
        declared = member(name, spec(name, probes=tenant(name)), verified=True)
        await ready(one, declared)
        run(postgres, "ALTER TABLE shared.users DISABLE ROW LEVEL SECURITY", name)
        assert sees(postgres, name, "app", ANNA) == ["Anna", "Ben"]
        result = await ready(one, declared)
        assert [str(ref) for ref in result.drift] == [OBJECT]
        assert [change.statement for change in result.applied] == [
            'ALTER TABLE "shared"."users" ENABLE ROW LEVEL SECURITY'
        ]
        assert sees(postgres, name, "app", ANNA) == ["Anna"]


@pytest.mark.own_postgres
async def test_a_server_that_words_it_otherwise_is_no_drift(postgres: PostgresEndpoint, database_name: str) -> None:
    """As after an upgrade: the claim's words are not the server's any more. It is asked; that is no drift."""
    name = database_name
    async with engine(postgres) as one:
        await prepared(one, postgres, name)
        await ready(one, member(name, spec(name)))
    run(
        postgres,
        "UPDATE selvedge.claims SET detail = jsonb_set(detail, '{policies,own_row,2}', '\"other words\"') "
        "WHERE object = 'rowLevelSecurity:shared.users'",
        name,
    )
    async with engine(postgres) as other:
        result = await ready(other, member(name, spec(name), verified=True))
        assert (result.drift, result.applied) == ((), ())
        await afresh(other)
        await ready(other, member(name, spec(name), verified=True))
        assert count(other).taken() == ["snapshot"]


async def test_drift_is_reported_and_left(postgres: PostgresEndpoint, database_name: str) -> None:
    name = database_name
    async with engine(postgres) as one:
        await prepared(one, postgres, name)
        await ready(one, member(name, spec(name)))
        run(postgres, "ALTER POLICY own_row ON shared.users USING (true)", name)
        result = await only(one, member(name, spec(name), verified=True, drift="Report"))
        assert [str(ref) for ref in result.drift] == [OBJECT]
        assert [str(change.ref) for change in result.pending] == [OBJECT]
        assert sees(postgres, name, "app") == ["Anna", "Ben"]


@pytest.mark.own_postgres
async def test_isolation_broken_is_put_back_at_once(postgres: PostgresEndpoint, database_name: str) -> None:
    name = database_name
    leaky = {"name": "own_row", "to": [f"{name}_app"], "using": f"name = 'Ben' or {OWN_ROW}"}
    async with engine(postgres) as one:
        await prepared(one, postgres, name)
        await ready(one, member(name, spec(name, probes=tenant(name))))
        policies = "SELECT pg_get_expr(polqual, polrelid) FROM pg_policy"
        before = rows(postgres, policies, dbname=name)
        changed = member(name, spec(name, leaky, probes=tenant(name)), generation=2)
        result = await only(one, changed)
        (problem,) = result.problems
        assert (problem.reason, problem.state) == (Reason.ISOLATION_BROKEN, ObjectState.FAILED)
        assert "sees rows of" in problem.message
        assert ANNA not in problem.message
        assert rows(postgres, policies, dbname=name) == before
        assert sees(postgres, name, "app", ANNA) == ["Anna"]
        assert probes_of(result)[1] > 0
        # Not tried again: not by this process, not by the next one.
        count(one).taken()
        assert reasons(await only(one, changed)) == {OBJECT: Reason.ISOLATION_BROKEN}
        assert "login" not in count(one).taken()
    async with engine(postgres) as other:
        assert reasons(await only(other, changed)) == {OBJECT: Reason.ISOLATION_BROKEN}
        assert "login" not in count(other).taken()
        # What stands now is kept as well.
        run(postgres, "ALTER TABLE shared.users DISABLE ROW LEVEL SECURITY", name)
        assert reasons(await only(other, changed)) == {OBJECT: Reason.ISOLATION_BROKEN}
        assert sees(postgres, name, "app", ANNA) == ["Anna"]
        # A mended declaration is tried.
        mended = {"name": "own_row", "to": [f"{name}_app"], "using": f"name is not null and {OWN_ROW}"}
        assert probes_of(await ready(other, member(name, spec(name, mended, probes=tenant(name))))) == (4, 0, 0)


async def test_putting_back_waits_for_no_approval(postgres: PostgresEndpoint, database_name: str) -> None:
    """Who approved the change did not approve the leak."""
    name = database_name
    leaky = {"name": "own_row", "to": [f"{name}_app"], "using": "true"}
    async with engine(postgres) as one:
        await prepared(one, postgres, name)
        await ready(one, member(name, spec(name, probes=tenant(name))))
        parts = spec(name, leaky, probes=tenant(name))
        waiting = await only(one, member(name, parts, apply="OnApproval"))
        result = await only(one, member(name, parts, apply="OnApproval", approvedPlan=waiting.digest))
        assert reasons(result) == {OBJECT: Reason.ISOLATION_BROKEN}
        assert sees(postgres, name, "app", ANNA) == ["Anna"]


async def test_a_first_declaration_that_leaks_leaves_the_table_as_it_was(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    name = database_name
    leaky = {"name": "own_row", "to": [f"{name}_app"], "using": "true"}
    async with engine(postgres) as one:
        await prepared(one, postgres, name)
        declared = member(name, spec(name, leaky, probes=tenant(name)))
        result = await only(one, declared)
        assert reasons(result) == {OBJECT: Reason.ISOLATION_BROKEN}
        state = (
            "SELECT relrowsecurity, relforcerowsecurity, (SELECT count(*) FROM pg_policy) "
            "FROM pg_class WHERE relname = 'users'"
        )
        assert rows(postgres, state, dbname=name) == [(False, False, 0)]
        assert reasons(await only(one, declared)) == {OBJECT: Reason.ISOLATION_BROKEN}
        assert rows(postgres, state, dbname=name) == [(False, False, 0)]


async def test_a_probe_that_fails_for_what_stands_is_a_problem(postgres: PostgresEndpoint, database_name: str) -> None:
    """A function that a policy calls is replaced by a migration: the declaration is the same, isolation is not."""
    name = database_name
    policy = {"name": "own_row", "to": [f"{name}_app"], "using": "shared.mine(id)"}
    function = (
        "CREATE OR REPLACE FUNCTION shared.mine(uuid) RETURNS boolean LANGUAGE sql STABLE AS $$ SELECT {} $$;"
        "GRANT EXECUTE ON FUNCTION shared.mine(uuid) TO PUBLIC"
    )
    async with engine(postgres) as one:
        await prepared(one, postgres, name)
        run(postgres, function.format(OWN_ROW.replace("id =", "$1 =")), name)
        declared = member(name, spec(name, policy, probes=tenant(name)))
        assert probes_of(await ready(one, declared)) == (4, 0, 0)
        run(postgres, function.format("true"), name)
        assert reasons(await only(one, declared)) == {OBJECT: Reason.ISOLATION_BROKEN}
        assert reasons(await only(one, declared)) == {OBJECT: Reason.ISOLATION_BROKEN}
        run(postgres, function.format(OWN_ROW.replace("id =", "$1 =")), name)
        assert probes_of(await ready(one, declared)) == (4, 0, 0)


@pytest.mark.own_postgres
async def test_an_empty_table_is_ready_and_proven_later(postgres: PostgresEndpoint, database_name: str) -> None:
    name = database_name
    async with engine(postgres) as one:
        await ready(one, member(name, {**spec(name), "rowLevelSecurity": [], "grants": []}))
        create_table(postgres, name, filled=False)
        declared = member(name, spec(name, probes=tenant(name)))
        result = await ready(one, declared)
        assert probes_of(result) == (0, 0, 1)
        assert any("empty" in text for text in result.advice)
        count(one).taken()
        await ready(one, declared)
        assert "login" not in count(one).taken()
        run(
            postgres,
            f"INSERT INTO shared.users VALUES ('{ANNA}', 'Anna'), ('{BEN}', 'Ben'); ANALYZE shared.users",
            name,
        )
        assert probes_of(await ready(one, declared)) == (4, 0, 0)


async def test_nothing_is_granted_before_rows_are_guarded(postgres: PostgresEndpoint, database_name: str) -> None:
    """T14: a reader holds the table, so it cannot be closed; the grant on it waits, everything else is made."""
    name = database_name
    async with engine(postgres) as one:
        await prepared(one, postgres, name)
        declared = member(name, spec(name))
        with postgres.connect(name) as reader, reader.transaction():
            reader.execute("SELECT 1 FROM shared.users")
            result = await only(one, declared)
        assert reasons(result) == {OBJECT: Reason.WAITING_FOR_LOCK}
        held = "SELECT has_table_privilege(%s, 'shared.users', 'SELECT'), has_schema_privilege(%s, 'shared', 'USAGE')"
        assert rows(postgres, held, f"{name}_app", f"{name}_app", dbname=name) == [(False, True)]
        await ready(one, declared)
        assert rows(postgres, held, f"{name}_app", f"{name}_app", dbname=name) == [(True, True)]


async def test_a_wrong_expression_is_one_objects_problem(postgres: PostgresEndpoint, database_name: str) -> None:
    name = database_name
    wrong = {"name": "own_row", "to": [f"{name}_app"], "using": "owner_id = 1"}
    async with engine(postgres) as one:
        await prepared(one, postgres, name)
        result = await only(one, member(name, spec(name, wrong)))
        assert reasons(result) == {OBJECT: Reason.STATEMENT_FAILED}
        assert "owner_id" in result.problems[0].message
        assert result.provisioned


@pytest.mark.own_postgres
async def test_what_left_the_declaration(postgres: PostgresEndpoint, database_name: str) -> None:
    """An entry that is gone takes its policies away and leaves the table closed: a deleted line opens nothing."""
    name = database_name
    async with engine(postgres) as one:
        await prepared(one, postgres, name)
        await ready(one, member(name, spec(name)))
        await ready(one, member(name, {**spec(name), "rowLevelSecurity": []}))
        state = "SELECT relrowsecurity, (SELECT count(*) FROM pg_policy) FROM pg_class WHERE relname = 'users'"
        assert rows(postgres, state, dbname=name) == [(True, 0)]
        claims = "SELECT count(*) FROM selvedge.claims WHERE object LIKE 'rowLevelSecurity:%'"
        assert rows(postgres, claims, dbname=name) == [(0,)]
        await afresh(one)
        await ready(one, member(name, {**spec(name), "rowLevelSecurity": []}))
        assert count(one).taken() == ["snapshot"]


async def test_a_plan_shows_it_and_an_approval_makes_it(postgres: PostgresEndpoint, database_name: str) -> None:
    name = database_name
    async with engine(postgres) as one:
        await prepared(one, postgres, name)
        waiting = member(name, spec(name), apply="OnApproval")
        result = await only(one, waiting)
        statements = [change.statement for change in result.pending if str(change.ref) == OBJECT]
        assert statements[0] == 'ALTER TABLE "shared"."users" ENABLE ROW LEVEL SECURITY'
        assert statements[-1].startswith('CREATE POLICY "own_row" ON "shared"."users"')
        assert (await one.plan(unit(waiting))).members[waiting.uid].digest == result.digest
        approved = member(name, spec(name), apply="OnApproval", approvedPlan=result.digest)
        await ready(one, approved)
        assert sees(postgres, name, "app", ANNA) == ["Anna"]


async def test_two_resources_want_the_same_table(postgres: PostgresEndpoint, database_name: str) -> None:
    name = database_name
    async with engine(postgres) as one:
        await prepared(one, postgres, name)
        older = member(name, spec(name))
        theirs = {
            "rowLevelSecurity": [
                {"table": "shared.users", "policies": [{"name": "p", "to": ["PUBLIC"], "using": "true"}]}
            ]
        }
        younger = member(name, theirs, name="other", created="2026-02-01T00:00:00Z")
        result = await converge(one, older, younger)
        assert result.members[older.uid].verified
        assert reasons(result.members[younger.uid]) == {OBJECT: Reason.CONFLICT}
        assert sees(postgres, name, "app", ANNA) == ["Anna"]


@pytest.mark.own_postgres
async def test_advice_of_the_declared_tables(postgres: PostgresEndpoint, database_name: str) -> None:
    name = database_name
    async with engine(postgres) as one:
        await prepared(one, postgres, name)
        declared = member(name, spec(name))
        result = await ready(one, declared)
        assert [text for text in result.advice if "is forced" in text]
        run(postgres, f'GRANT TRUNCATE ON shared.users TO "{name}_admin"', name)
        result = await ready(one, declared)
        assert [text for text in result.advice if "TRUNCATE" in text]
        await afresh(one)
        assert (await ready(one, declared)).advice == result.advice
        assert count(one).taken() == ["snapshot"]


async def test_an_operator_without_superuser(postgres: PostgresEndpoint, database_name: str) -> None:
    """It makes and compares policies; what it may not read past them is not proven, and says so."""
    name = database_name
    operator = f"{name}_operator"
    run(postgres, f"CREATE ROLE {operator} LOGIN PASSWORD 'x' CREATEROLE CREATEDB")
    run(postgres, f"CREATE DATABASE {name}_m OWNER {operator}")
    try:
        async with engine(postgres, username=operator, password="x", maintenance_database=f"{name}_m") as one:
            parts = {key: value for key, value in spec(name, probes=tenant(name)).items() if key != "owner"}
            declared = member(name, parts)
            assert (await only(one, declared)).provisioned
            create_table(postgres, name)
            result = await only(one, declared)
            assert reasons(result) == {}
            assert sees(postgres, name, "app", ANNA) == ["Anna"]
            assert probes_of(result) == (0, 0, 1)
            assert any("BYPASSRLS" in text for text in result.advice)
            run(postgres, "ALTER POLICY own_row ON shared.users USING (true)", name)
            await ready(one, declared)
            assert sees(postgres, name, "app", ANNA) == ["Anna"]
    finally:
        run(postgres, f"DROP DATABASE {name}_m WITH (FORCE)")


async def test_a_process_that_does_not_lead_changes_no_policy(postgres: PostgresEndpoint, database_name: str) -> None:
    name = database_name

    class LostLeadError(Exception):
        pass

    def lost() -> None:
        raise LostLeadError

    async with engine(postgres) as one:
        await prepared(one, postgres, name)
        declared = member(name, spec(name))
        with pytest.raises(LostLeadError):
            await one.converge(unit(declared), lost)
        assert rows(postgres, "SELECT relrowsecurity FROM pg_class WHERE relname = 'users'", dbname=name) == [(False,)]
        await one.converge(unit(declared), lead)
