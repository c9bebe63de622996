"""Policies on a real server: made, compared in the server's words, mended, and never flapping."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from psycopg import sql

from sandbox import PostgresEndpoint
from selvedge.core.postgres import rls_changes as c
from selvedge.core.postgres.cluster_diff import ClaimBook
from selvedge.core.postgres.rls import diff_row_security
from selvedge.core.postgres.rls_changes import RowPolicy
from selvedge.core.postgres.rls_record import remembered_tables
from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectState
from selvedge.engines.postgres.connections import Connections
from selvedge.engines.postgres.errors import ConcurrentChangeError
from selvedge.engines.postgres.rls_apply import apply_tables
from tests.engines.postgres_support import Count, lead
from tests.engines.rls_support import ANNA, BEN, OWN_ROW, Shop, shop

pytestmark = pytest.mark.engines

USERS = ("shared", "users")


async def kinds(one: Shop, *entries) -> list[str]:
    """What is still to be done, after what can be learned was learned."""
    found, tables, _ = await one.diff(*entries)
    await one.learn(found, tables)
    found, _, _ = await one.diff(*entries)
    return [type(change).__name__ for change in found.changes]


async def test_isolation_of_two_tenants(postgres: PostgresEndpoint, database: str) -> None:
    async with shop(postgres, database) as one:
        entry = one.entry(one.policy(), one.policy("all", to=(one.admin,), using="true"))
        applied = await one.make(entry)
        assert not applied.failed
        found = await one.settle(entry)
        assert (found.changes, found.problems, found.unlearned) == ([], [], [])
        query = "SELECT name FROM shared.users ORDER BY 1"
        assert one.rows(query, role=one.app, tenant=ANNA) == [("Anna",)]
        assert one.rows(query, role=one.app, tenant=BEN) == [("Ben",)]
        assert one.rows(query, role=one.app) == []
        assert one.rows(query, role=one.admin) == [("Anna",), ("Ben",)]
        assert one.rows(query, role=one.owner) == []  # T24: FORCE filters the owner too


EXPRESSIONS = [
    OWN_ROW,
    "id=(SELECT NULLIF(current_setting('app.current_user_id',TRUE),'')::uuid) -- own row",
    "name in ('a', 'b')",
    "name = any (array['a','b'])",
    "exists (select 1 from shared.users u where u.id = users.id and u.name like 'A%')",
    "name <> $$quote ' and ; semicolon$$ and name <> $x$ $$ $x$",
    "name <> 'it''s; DROP TABLE shared.users' and name <> E'\\n\\''",
    "coalesce(name, '') between 'a' and 'z' /* a ) comment; /* nested */ */",
    "name is not distinct from 'A' or not (id is null)",
    "case when name = '100%' then true else id is not null end",
    "(name, id) = ('x', '11111111-1111-1111-1111-111111111111'::uuid)",
    "'2026-01-01'::timestamptz < now() and interval '1 day' > '1 hour'",
    "name = U&'\\0041nna'",
    "id = (select u.id from shared.users as u where u.name = users.name limit 1)",
    "pg_has_role(session_user, 'pg_monitor', 'MEMBER')",
]


async def test_t29_the_comparison_never_flaps(postgres: PostgresEndpoint, database: str) -> None:
    """Each expression is made once; then there is nothing to do, for this process, the next one, and a new owner of
    the claims, who knows nothing and asks the server."""
    async with shop(postgres, database) as one:
        entry = one.entry(
            *(one.policy(f"p{i}", using=text, command="SELECT") for i, text in enumerate(EXPRESSIONS)),
            one.policy("check", command="INSERT", using=None, check=OWN_ROW),
            one.policy("both", using="true", check=OWN_ROW, permissive=False),
        )
        applied = await one.make(entry)
        assert not applied.failed, applied.failed
        assert await kinds(one, entry) == []
        one.forget()
        found, _, _ = await one.diff(entry)
        assert (found.changes, found.unlearned) == ([], [])  # the claim knows
        one.claims.clear()
        found, _, _ = await one.diff(entry)
        assert len(found.unlearned) > len(EXPRESSIONS) // 2
        assert await kinds(one, entry) == []
        # What the server shows is a declaration as well: `export` writes it down.
        tables = await one.look(USERS)
        one.forget()
        one.claims.clear()
        exported = one.entry(*tables[USERS].policies.values())
        found, _, _ = await one.diff(exported)
        assert (found.changes, found.unlearned) == ([], [])


async def test_the_same_in_other_words_changes_nothing(postgres: PostgresEndpoint, database: str) -> None:
    async with shop(postgres, database) as one:
        await one.make(one.entry())
        before = one.rows("SELECT xmin::text, oid FROM pg_policy")
        reworded = one.entry(one.policy(using=OWN_ROW.upper().replace("APP.CURRENT_USER_ID", "app.current_user_id")))
        assert await kinds(one, reworded) == []
        await one.make(reworded)
        assert one.rows("SELECT xmin::text, oid FROM pg_policy") == before


@pytest.mark.parametrize(
    ("drift", "expected"),
    [
        ("ALTER TABLE shared.users DISABLE ROW LEVEL SECURITY", ["EnableRowSecurity"]),
        ("ALTER TABLE shared.users NO FORCE ROW LEVEL SECURITY", ["ForceRowSecurity"]),
        ("ALTER POLICY own_row ON shared.users USING (true)", ["AlterPolicy"]),
        ("ALTER POLICY own_row ON shared.users TO PUBLIC", ["AlterPolicy"]),
        ("ALTER POLICY own_row ON shared.users WITH CHECK (true)", ["DropPolicy", "CreatePolicy"]),
        ("DROP POLICY own_row ON shared.users", ["CreatePolicy"]),
        ("ALTER POLICY own_row ON shared.users RENAME TO other", ["DropPolicy", "CreatePolicy"]),
        ("CREATE POLICY mine ON shared.users USING (true)", ["DropPolicy"]),
        (
            "DROP POLICY own_row ON shared.users; CREATE POLICY own_row ON shared.users FOR SELECT USING (true)",
            ["DropPolicy", "CreatePolicy"],
        ),
    ],
)
async def test_drift_is_found_and_mended(
    postgres: PostgresEndpoint, database: str, drift: str, expected: list[str]
) -> None:
    async with shop(postgres, database) as one:
        entry = one.entry()
        await one.make(entry)
        one.sql(drift)
        assert await kinds(one, entry) == expected
        applied = await one.make(entry)
        assert not applied.failed
        assert await kinds(one, entry) == []
        assert one.rows("SELECT name FROM shared.users", role=one.app, tenant=ANNA) == [("Anna",)]


async def test_a_role_that_left_a_policy_and_order_of_roles(postgres: PostgresEndpoint, database: str) -> None:
    async with shop(postgres, database) as one:
        both = one.entry(one.policy(to=(one.app, one.admin)))
        await one.make(both)
        assert await kinds(one, one.entry(one.policy(to=tuple(sorted((one.admin, one.app)))))) == []
        await one.make(one.entry())
        assert one.rows("SELECT polroles::regrole[]::text FROM pg_policy") == [("{" + one.app + "}",)]


async def test_a_broken_expression_leaves_the_table_as_it_was(postgres: PostgresEndpoint, database: str) -> None:
    async with shop(postgres, database) as one:
        applied = await one.make(one.entry(one.policy(using="owner_id = 1")))
        status = applied.failed[USERS]
        assert (status.state, status.reason) == (ObjectState.FAILED, Reason.STATEMENT_FAILED)
        assert "owner_id" in status.message
        assert "policy own_row of shared.users" in status.message
        tables = await one.look(USERS)
        assert (tables[USERS].enabled, dict(tables[USERS].policies)) == (False, {})


async def test_a_broken_change_is_named_without_touching_the_policy(postgres: PostgresEndpoint, database: str) -> None:
    async with shop(postgres, database) as one:
        await one.make(one.entry())
        broken = one.entry(one.policy(using="is_mine(id)"))
        assert await kinds(one, broken) == []
        found, _, _ = await one.diff(broken)
        assert [problem.status.reason for problem in found.problems] == [Reason.STATEMENT_FAILED]
        assert "with their schema" in found.problems[0].status.message
        assert one.rows("SELECT name FROM shared.users", role=one.app, tenant=ANNA) == [("Anna",)]


async def test_t14_a_reader_holds_the_table(postgres: PostgresEndpoint, database: str) -> None:
    """The attempt gives up soon, several times, and says who has to let go; readers in between are served."""
    async with shop(postgres, database) as one:
        with one.endpoint.connect(database) as reader, reader.transaction():
            reader.execute("SELECT 1 FROM shared.users")
            applied = await one.make(one.entry())
        status = applied.failed[USERS]
        assert (status.state, status.reason) == (ObjectState.WAITING, Reason.WAITING_FOR_LOCK)
        assert applied.made == []
        assert not (await one.make(one.entry())).failed


async def test_a_table_that_changed_since_the_look(postgres: PostgresEndpoint, database: str) -> None:
    async with shop(postgres, database) as one:
        found, tables, _ = await one.diff(one.entry())
        one.sql("CREATE POLICY mine ON shared.users USING (true)")
        with pytest.raises(ConcurrentChangeError):
            await apply_tables(one.pool, one.policies_login, found.changes, tables, lead)
        assert (await one.look(USERS))[USERS].enabled is False


async def test_two_at_once(postgres: PostgresEndpoint, database: str) -> None:
    async with shop(postgres, database) as one:
        other = Shop(one.endpoint, one.name, one.target, one.pool)
        done = await asyncio.gather(one.make(one.entry()), other.make(other.entry()), return_exceptions=True)
        assert any(not isinstance(result, BaseException) for result in done)
        assert await kinds(one, one.entry()) == []


async def test_t26_partitions_are_closed_by_their_own_name(postgres: PostgresEndpoint, database: str) -> None:
    async with shop(postgres, database) as one:
        one.sql(
            "SET ROLE OWNER_ROLE; CREATE TABLE shared.events (id uuid, at date) PARTITION BY RANGE (at);"
            "CREATE TABLE shared.events_1 PARTITION OF shared.events FOR VALUES FROM ('2026-01-01') TO ('2026-07-01');"
            "CREATE TABLE shared.events_2 PARTITION OF shared.events FOR VALUES FROM ('2026-07-01') TO ('2027-01-01')"
            " PARTITION BY HASH (id);"
            "CREATE TABLE shared.events_2_0 PARTITION OF shared.events_2 FOR VALUES WITH (MODULUS 1, REMAINDER 0);"
            "GRANT SELECT ON shared.events, shared.events_1, shared.events_2_0 TO APP_ROLE; RESET ROLE;"
            f"INSERT INTO shared.events VALUES ('{ANNA}', '2026-02-01'), ('{BEN}', '2026-08-01')"
        )
        entry = one.entry(table="events")
        assert one.rows("SELECT count(*) FROM shared.events_1", role=one.app) == [(1,)]
        applied = await one.make(entry)
        assert not applied.failed
        assert [type(x).__name__ for x in applied.made].count("ClosePartition") == 3
        query = "SELECT count(*) FROM shared.events"
        assert one.rows(query, role=one.app, tenant=BEN) == [(1,)]
        assert one.rows(query + "_1", role=one.app, tenant=ANNA) == [(0,)]
        assert one.rows(query + "_2_0", role=one.app, tenant=BEN) == [(0,)]
        found, _, _ = await one.diff(entry)
        revoked = [x.what.names for x in found.changes if hasattr(x, "what")]
        assert sorted(revoked) == [("events_1",), ("events_2_0",)]  # the grants' phase makes these


async def test_policies_of_a_table_that_left_go_and_the_table_stays_closed(
    postgres: PostgresEndpoint, database: str
) -> None:
    async with shop(postgres, database) as one:
        await one.make(one.entry())
        tables = await one.look(USERS)
        book = ClaimBook(one.claims, "cluster", {"uid-1": "shop/shop"}, lambda _: True)
        assert remembered_tables(book) == {USERS}
        found = diff_row_security((), tables, {}, book, {})
        applied = await apply_tables(one.pool, one.policies_login, found.changes, tables, lead)
        assert [type(x).__name__ for x in applied.made] == ["DropPolicy"]
        after = (await one.look(USERS))[USERS]
        assert (after.enabled, dict(after.policies)) == (True, {})


async def test_t7_names_of_every_kind(postgres: PostgresEndpoint, database: str) -> None:
    name = 'pölicy; DROP TABLE x; --$$%s{}"' + "x" * 20
    async with shop(postgres, database) as one:
        with one.endpoint.connect(database) as connection:
            for schema, table in (("we;ird", "ta'ble %s {}"), ("ünï", "t" * 63)):
                connection.execute(
                    sql.SQL(
                        "CREATE SCHEMA {s} AUTHORIZATION {o}; SET ROLE {o}; CREATE TABLE {t} (id uuid); RESET ROLE"
                    ).format(s=sql.Identifier(schema), o=sql.Identifier(one.owner), t=sql.Identifier(schema, table))
                )
        entries = [
            one.entry(one.policy(name), schema="we;ird", table="ta'ble %s {}"),
            one.entry(one.policy(name), schema="ünï", table="t" * 63),
        ]
        applied = await one.make(*entries)
        assert not applied.failed
        assert await kinds(one, *entries) == []
        assert one.rows("SELECT polname FROM pg_policy") == [(name,), (name,)]


def test_statements_hold_one_expression() -> None:
    from selvedge.core.postgres.rls_model import table_ref
    from selvedge.engines.postgres.rls_sql import render_row_security

    change = c.CreatePolicy(table_ref(USERS), "m", *USERS, RowPolicy("p", using="true -- comment"))
    assert render_row_security(change).as_string(None).endswith("USING (true -- comment\n)")
    recreated = replace(change, policy=replace(change.policy, permissive=False, check="false", roles=("a", "b")))
    text = render_row_security(recreated).as_string(None)
    assert text.startswith('CREATE POLICY "p" ON "shared"."users" AS RESTRICTIVE FOR ALL TO "a", "b" USING (')


@pytest.mark.parametrize("most", [1, 2])
async def test_the_connection_budget_holds(postgres: PostgresEndpoint, database: str, most: int) -> None:
    """Several units at once, and room for two connections: nobody waits for anybody who waits."""
    async with shop(postgres, database) as one:
        one.target = replace(one.target, limits=replace(one.target.limits, max=most))
        pool = Connections(one.target, Count())
        units = [Shop(one.endpoint, one.name, one.target, pool) for _ in range(4)]
        try:
            made = await asyncio.gather(*(unit.make(unit.entry()) for unit in units), return_exceptions=True)
            for unit, result in zip(units, made, strict=True):
                if isinstance(result, ConcurrentChangeError):
                    await unit.make(unit.entry())
                else:
                    assert not isinstance(result, BaseException), result
            await asyncio.gather(*(unit.prove(unit.probed()) for unit in units))
            assert sum(pool.counts().values()) <= most
        finally:
            await pool.close()
