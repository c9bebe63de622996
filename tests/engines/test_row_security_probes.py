"""Probes on a real server: what they prove, what they find, and what they leave behind (nothing)."""

from __future__ import annotations

import pytest

from sandbox import PostgresEndpoint
from selvedge.core.postgres.rls_model import Expectation
from tests.engines.postgres_support import rows as server_rows
from tests.engines.rls_support import ANNA, BEN, OWN_ROW, shop

pytestmark = pytest.mark.engines


async def test_what_holds_is_proven(postgres: PostgresEndpoint, database: str) -> None:
    async with shop(postgres, database) as one:
        policies = (one.policy(), one.policy("all", to=(one.admin,), using="true"))
        entry = one.probed(*policies, expect=(one.sees_all(), Expectation(one.owner, False)))
        await one.make(entry)
        before = one.rows("SELECT xmin::text, * FROM shared.users ORDER BY id")
        verdict = await one.prove(entry)
        assert (verdict.failures, verdict.not_probed) == ([], [])
        assert verdict.passed == 6  # unset, empty, Anna, Ben, the administrator, the owner
        assert one.rows("SELECT xmin::text, * FROM shared.users ORDER BY id") == before


async def test_t31_writes_are_tried_and_rolled_back(postgres: PostgresEndpoint, database: str) -> None:
    async with shop(postgres, database) as one:
        entry = one.probed(writes=True)
        await one.make(entry)
        verdict = await one.prove(entry)
        assert (verdict.failures, verdict.not_probed) == ([], [])
        assert verdict.passed == 8
        assert one.rows("SELECT id::text, name FROM shared.users ORDER BY 1") == [(ANNA, "Anna"), (BEN, "Ben")]


async def test_writes_past_the_policies_are_found(postgres: PostgresEndpoint, database: str) -> None:
    async with shop(postgres, database) as one:
        entry = one.probed(one.policy(check="true"), writes=True)
        await one.make(entry)
        verdict = await one.prove(entry)
        assert any("may insert rows of another tenant" in text for text in verdict.failures)
        # An UPDATE that looks for rows cannot move one out of sight: only the INSERT is open.
        assert not any("may give its rows to another tenant" in text for text in verdict.failures)
        assert one.rows("SELECT count(*) FROM shared.users") == [(2,)]


@pytest.mark.parametrize(
    ("using", "found"),
    [
        ("true", "sees rows of another tenant in shared.users"),
        ("id::text <> current_setting('app.current_user_id', true)", "sees rows of another tenant"),
        (f"current_setting('app.current_user_id', true) is null or {OWN_ROW}", "was never set"),
        (f"current_setting('app.current_user_id', true) = '' or {OWN_ROW}", "is empty"),
    ],
)
async def test_a_leak_is_found(postgres: PostgresEndpoint, database: str, using: str, found: str) -> None:
    async with shop(postgres, database) as one:
        entry = one.probed(one.policy(using=using))
        await one.make(entry)
        verdict = await one.prove(entry)
        assert any(found in text for text in verdict.failures), verdict
        assert not any(value in str(verdict) for value in (ANNA, BEN))


async def test_a_table_that_is_open_is_found(postgres: PostgresEndpoint, database: str) -> None:
    async with shop(postgres, database) as one:
        verdict = await one.prove(one.probed())
        assert len(verdict.failures) == 1
        assert f"role {one.app} is not subject to row-level security of shared.users" in verdict.failures[0]
        await one.make(one.entry(force=False))
        verdict = await one.prove(one.entry(expect=(Expectation(one.owner, False),)))
        assert verdict.failures == [f"role {one.owner} sees rows of shared.users and is to see none"]


async def test_expectations_that_do_not_hold(postgres: PostgresEndpoint, database: str) -> None:
    async with shop(postgres, database) as one:
        half = one.policy("all", to=(one.admin,), using="name = 'Anna'")
        entry = one.entry(half, expect=(one.sees_all(), Expectation(one.app, False)))
        await one.make(entry)
        verdict = await one.prove(entry)
        assert verdict.failures == [
            f"role {one.admin} sees 1 of 2 rows of shared.users that were looked at, and is to see all"
        ]
        assert verdict.passed == 1


async def test_an_empty_table_is_not_proven(postgres: PostgresEndpoint, database: str) -> None:
    async with shop(postgres, database, rows=False) as one:
        entry = one.probed(expect=(one.sees_all(),))
        await one.make(entry)
        verdict = await one.prove(entry)
        assert (verdict.passed, verdict.failures, len(verdict.not_probed)) == (0, [], 2)
        one.sql(f"INSERT INTO shared.users VALUES ('{ANNA}', 'Anna')")
        verdict = await one.prove(one.probed())
        assert (verdict.passed, len(verdict.not_probed)) == (2, 1)
        assert "one tenant only" in verdict.not_probed[0]


@pytest.mark.parametrize(
    ("using", "why"),
    [
        ("id = current_setting('app.current_user_id')::uuid", "nullif"),
        ("id = current_setting('app.current_user_id', true)::uuid", "nullif"),
        ("false", "none of its own rows"),
    ],
)
async def test_t25_what_proves_nothing_says_why(
    postgres: PostgresEndpoint, database: str, using: str, why: str
) -> None:
    async with shop(postgres, database) as one:
        entry = one.probed(one.policy(using=using))
        await one.make(entry)
        verdict = await one.prove(entry)
        assert verdict.failures == []
        assert any(why in text for text in verdict.not_probed), verdict


async def test_a_role_without_select(postgres: PostgresEndpoint, database: str) -> None:
    async with shop(postgres, database) as one:
        one.sql("REVOKE ALL ON shared.users FROM APP_ROLE")
        entry = one.probed(expect=(Expectation(one.app, False), one.sees_all(one.app)))
        await one.make(entry)
        verdict = await one.prove(entry)
        assert verdict.failures == []
        assert verdict.passed == 1  # it sees none
        assert any("grant SELECT" in text for text in verdict.not_probed)


async def test_a_large_table_is_sampled(postgres: PostgresEndpoint, database: str) -> None:
    async with shop(postgres, database) as one:
        one.sql("INSERT INTO shared.users SELECT gen_random_uuid(), 'x' FROM generate_series(1, 10100)")
        policies = (one.policy(), one.policy("all", to=(one.admin,), using="true"))
        entry = one.probed(*policies, expect=(one.sees_all(), one.sees_all(one.app)))
        await one.make(entry)
        verdict = await one.prove(entry)
        assert verdict.failures == [
            f"role {one.app} sees 0 of 50 rows of shared.users that were looked at, and is to see all"
        ]
        assert verdict.passed == 5


async def test_partitions_by_their_own_name(postgres: PostgresEndpoint, database: str) -> None:
    async with shop(postgres, database) as one:
        one.sql(
            "SET ROLE OWNER_ROLE; CREATE TABLE shared.events (id uuid, at date) PARTITION BY RANGE (at);"
            "CREATE TABLE shared.events_1 PARTITION OF shared.events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');"
            "GRANT SELECT ON shared.events, shared.events_1 TO APP_ROLE; RESET ROLE;"
            f"INSERT INTO shared.events VALUES ('{ANNA}', '2026-02-01'), ('{BEN}', '2026-08-01')"
        )
        entry = one.probed(table="events")
        await one.make(entry)
        assert (await one.prove(entry)).passed == 5
        one.sql("ALTER TABLE shared.events_1 DISABLE ROW LEVEL SECURITY")
        verdict = await one.prove(entry)
        assert verdict.failures == [
            f"role {one.app} sees rows of another tenant in partition shared.events_1 by its own name"
        ]


async def test_nothing_stays_behind(postgres: PostgresEndpoint, database: str) -> None:
    """The logins are switched off, members of one role at most, and have no session."""
    async with shop(postgres, database) as one:
        policies = (one.policy(), one.policy("all", to=(one.admin,), using="true"))
        entry = one.probed(*policies, expect=(one.sees_all(),))
        await one.make(entry)
        assert (await one.prove(entry)).passed == 5
        logins = f"SELECT rolname, rolcanlogin, rolsuper, rolbypassrls FROM pg_roles WHERE rolname ~ '^{database}_p'"
        assert sorted(server_rows(postgres, logins)) == [
            (f"{database}_policies", False, False, False),
            (f"{database}_probe", False, False, False),
        ]
        members = "SELECT count(*) FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member WHERE r.rolname = %s"
        assert server_rows(postgres, members, f"{database}_probe") == [(1,)]
        active = f"SELECT count(*) FROM pg_stat_activity WHERE usename IN ('{database}_probe', '{database}_policies')"
        assert server_rows(postgres, active) == [(0,)]


async def test_probes_run_while_rows_come_and_go(postgres: PostgresEndpoint, database: str) -> None:
    """Counts are compared in one snapshot."""
    import threading

    async with shop(postgres, database) as one:
        entry = one.entry(one.policy("all", to=(one.admin,), using="true"), expect=(one.sees_all(),))
        await one.make(entry)
        stop = threading.Event()

        def churn() -> None:
            with postgres.connect(database) as connection:
                while not stop.is_set():
                    connection.execute("INSERT INTO shared.users VALUES (gen_random_uuid(), 'x')")
                    connection.execute("DELETE FROM shared.users WHERE name = 'x' AND random() < 0.3")

        thread = threading.Thread(target=churn)
        thread.start()
        try:
            for _ in range(10):
                assert (await one.prove(entry)).failures == []
        finally:
            stop.set()
            thread.join()
