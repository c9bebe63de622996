"""T30: each piece of advice, once where it belongs and not where it does not."""

from __future__ import annotations

import pytest

from sandbox import PostgresEndpoint
from selvedge.core.postgres.rls_lint import Finding, advice, findings_of_policies
from selvedge.engines.postgres.rls_lint_sql import lint
from tests.engines.rls_support import OWN_ROW, Shop, shop

pytestmark = pytest.mark.engines

RLS = "ALTER TABLE shared.users ENABLE ROW LEVEL SECURITY;"
POLICY = "CREATE POLICY own_row ON shared.users TO APP_ROLE USING (id = shared.me());"
ME = (
    "CREATE FUNCTION shared.me() RETURNS uuid LANGUAGE sql STABLE AS "
    "$$SELECT nullif(current_setting('app.u', true), '')::uuid$$;"
)


async def found(one: Shop) -> dict[str, list[tuple[str, str]]]:
    async with one.pool.session(one.name) as session:
        findings = await lint(session, ["shared"], [one.app, one.admin, one.owner])
    findings += findings_of_policies((await one.look()).values())
    by_lint: dict[str, list[tuple[str, str]]] = {}
    for finding in findings:
        assert finding.advice()
        by_lint.setdefault(finding.lint, []).append((finding.object, finding.detail))
    return by_lint


async def test_nothing_to_say(postgres: PostgresEndpoint, database: str) -> None:
    async with shop(postgres, database) as one:
        await one.make(one.entry(one.policy(), one.policy("owner", to=(one.owner,), using="true")))
        one.sql(
            "CREATE VIEW shared.v WITH (security_invoker=true) AS SELECT * FROM shared.users;"
            "GRANT SELECT ON shared.v TO PUBLIC"
        )
        assert await found(one) == {}


CASES = [
    ("policy_but_rls_off", ME + POLICY, [("shared.users", "")]),
    ("rls_without_policy", RLS, [("shared.users", "")]),
    (
        "only_restrictive",
        RLS + "CREATE POLICY r ON shared.users AS RESTRICTIVE USING (id IS NOT NULL);",
        [("shared.users", "")],
    ),
    (
        "owner_bypass",
        RLS + 'CREATE ROLE "{db}_login" LOGIN; GRANT OWNER_ROLE TO "{db}_login";',
        [("shared.users", "{db}_login")],
    ),
    (
        "can_set_role_to_bypass",
        (
            'CREATE ROLE "{db}_bypass" BYPASSRLS; CREATE ROLE "{db}_login" LOGIN;'
            'GRANT "{db}_bypass", APP_ROLE TO "{db}_login";'
        ),
        [("{db}_login", "{db}_bypass")],
    ),
    (
        "partition_bypass",
        (
            "CREATE TABLE shared.e (id int) PARTITION BY LIST (id);"
            "CREATE TABLE shared.e_1 PARTITION OF shared.e DEFAULT;"
            "ALTER TABLE shared.e ENABLE ROW LEVEL SECURITY; GRANT SELECT ON shared.e_1 TO PUBLIC;"
        ),
        [("shared.e_1", "PUBLIC")],
    ),
    ("truncate_granted", RLS + "GRANT TRUNCATE ON shared.users TO APP_ROLE;", [("shared.users", "{db}_app")]),
    ("always_true_write", RLS + "CREATE POLICY t ON shared.users USING (true);", [("shared.users", "t")]),
    (
        "guc_may_raise",
        RLS + "CREATE POLICY g ON shared.users USING (id = (SELECT current_setting('app.u')::uuid));",
        [("shared.users", "g")],
    ),
    (
        "view_bypass",
        RLS + "CREATE VIEW shared.v AS SELECT * FROM shared.users; GRANT SELECT ON shared.v TO PUBLIC;",
        [("shared.v", "shared.users")],
    ),
    (
        "view_bypass",
        RLS + "CREATE MATERIALIZED VIEW shared.m AS SELECT * FROM shared.users; GRANT SELECT ON shared.m TO PUBLIC;",
        [("shared.m", "shared.users")],
    ),
    (
        "definer_bypass",
        (
            "CREATE FUNCTION shared.f() RETURNS int LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog "
            "AS 'SELECT 1';"
        ),
        [("shared.f()", "postgres")],
    ),
    (
        "definer_search_path",
        (
            "CREATE FUNCTION shared.f(int) RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1';"
            "ALTER FUNCTION shared.f(int) OWNER TO OWNER_ROLE;"
        ),
        [("shared.f(integer)", "{db}_owner")],
    ),
    ("tenant_column_without_rls", "CREATE TABLE shared.t (tenant_id int);", [("shared.t", "tenant_id")]),
    (
        "unindexed_policy_column",
        RLS + "CREATE POLICY n ON shared.users USING (name = 'x');"
        "INSERT INTO shared.users SELECT gen_random_uuid(), 'x' FROM generate_series(1, 11000); ANALYZE shared.users;",
        [("shared.users", "name")],
    ),
    (
        "setting_for_each_row",
        RLS + "CREATE POLICY s ON shared.users USING (id = nullif(current_setting('app.u', true), '')::uuid);",
        [("shared.users", "s")],
    ),
    (
        "forced_blocks_owner",
        RLS + "ALTER TABLE shared.users FORCE ROW LEVEL SECURITY;" + ME + POLICY,
        [("shared.users", "{db}_owner")],
    ),
]


@pytest.mark.parametrize(("name", "fault", "expected"), CASES, ids=[f"{i}-{case[0]}" for i, case in enumerate(CASES)])
async def test_t30_faults_are_found(
    postgres: PostgresEndpoint, database: str, name: str, fault: str, expected: list[tuple[str, str]]
) -> None:
    async with shop(postgres, database) as one:
        assert name not in await found(one)
        one.sql(fault.replace("{db}", database))
        assert (await found(one))[name] == [tuple(part.replace("{db}", database) for part in pair) for pair in expected]


async def test_other_schemas_and_other_logins_are_nobodys_business(postgres: PostgresEndpoint, database: str) -> None:
    async with shop(postgres, database) as one:
        one.sql(
            "CREATE SCHEMA theirs; CREATE TABLE theirs.t (tenant_id int);"
            f'CREATE ROLE "{database}_x" BYPASSRLS; CREATE ROLE "{database}_y" LOGIN;'
            f'GRANT "{database}_x" TO "{database}_y"'
        )
        assert await found(one) == {}


def test_advice_is_sorted_and_said_once() -> None:
    twice = [
        Finding("rls_without_policy", "b.b"),
        Finding("rls_without_policy", "a.a"),
        Finding("rls_without_policy", "b.b"),
    ]
    said = advice(twice)
    assert len(said) == 2
    assert said[0].startswith("table a.a")
    assert OWN_ROW.startswith("id = (select nullif(current_setting(")
