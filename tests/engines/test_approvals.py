"""An approval is for one plan of one state: what changes by hand in between is another plan. And what would be lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from selvedge.core.rowcount import Counted
from selvedge.engines.postgres import counting
from selvedge.engines.postgres.approvals import Approvals
from tests.engines.postgres_support import engine, member, only, ready, rows, run, unit
from tests.engines.tables_support import declaration, migrate
from tests.engines.test_postgres_partitions import DAILY, OLD, partitioned

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sandbox import PostgresEndpoint
    from selvedge.core.postgres import changes as c
    from selvedge.engines.postgres.engine import PostgresEngine

pytestmark = pytest.mark.engines


def before_and_after(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A declaration, and one that takes away or changes a bit of everything in it."""
    roles = [{"name": f"{name}_{role}"} for role in ("owner", "other", "app", "gone")]
    settings = {"work_mem": "8MB"}
    base: dict[str, Any] = {
        "owner": f"{name}_owner",
        "settings": {"lock_timeout": "5s"},
        "schemas": [{"name": "app", "owner": f"{name}_owner", "comment": "old"}],
        "roles": [
            *roles[:2],
            {**roles[2], "settings": settings, "memberOf": [{"role": f"{name}_other"}], "comment": "old"},
            roles[3],
        ],
        "grants": [
            {
                "name": "use",
                "privileges": ["USAGE"],
                "objects": {"schemas": ["app"]},
                "to": [f"{name}_app", f"{name}_other"],
            },
            {"name": "read", "privileges": ["SELECT"], "objects": {"tables": ["app.users"]}, "to": [f"{name}_app"]},
        ],
        "defaultPrivileges": [
            {
                "name": "read",
                "creators": [f"{name}_owner"],
                "schemas": ["app"],
                "objectType": "Tables",
                "privileges": ["SELECT"],
                "to": [f"{name}_app"],
            }
        ],
        "rowLevelSecurity": [
            {
                "table": "app.users",
                "policies": [{"name": "own", "command": "All", "to": [f"{name}_app"], "using": "id = 1"}],
            }
        ],
    }
    after = {
        **base,
        "owner": f"{name}_other",
        "settings": {"lock_timeout": "6s"},
        "schemas": [{"name": "app", "owner": f"{name}_other", "comment": "new"}],
        "roles": [*roles[:2], {**roles[2], "comment": "new"}],
        "grants": base["grants"][:1],
        "defaultPrivileges": [],
        "rowLevelSecurity": [{**base["rowLevelSecurity"][0], "policies": []}],
    }
    return base, after


async def made(postgres: PostgresEndpoint, one: PostgresEngine, name: str, declared: dict[str, Any]) -> None:
    """The database as declared, with its table."""
    await only(one, member(name, declared))
    run(postgres, f"SET ROLE {name}_owner; CREATE TABLE app.users (id int)", dbname=name)
    await ready(one, member(name, declared))


#: By what it changes; each leaves the statements of the plan as they are.
BY_HAND = {
    "owner of the database": "ALTER DATABASE {name} OWNER TO {name}_app",
    "setting of the database": "ALTER DATABASE {name} SET lock_timeout = '7s'",
    "owner of the schema": "ALTER SCHEMA app OWNER TO {name}_app",
    "comment of the schema": "COMMENT ON SCHEMA app IS 'important'",
    "setting of the role": "ALTER ROLE {name}_app SET work_mem = '16MB'",
    "comment of the role": "COMMENT ON ROLE {name}_app IS 'important'",
    "membership": "GRANT {name}_other TO {name}_app WITH ADMIN OPTION",
    "role that goes": "ALTER ROLE {name}_gone CREATEDB",
    "owner of a table": "ALTER TABLE app.users OWNER TO {name}_other",
    "grant option": "GRANT SELECT ON app.users TO {name}_app WITH GRANT OPTION",
    "default privilege": "ALTER DEFAULT PRIVILEGES FOR ROLE {name}_owner IN SCHEMA app GRANT SELECT ON TABLES "
    "TO {name}_app WITH GRANT OPTION",
    "policy": "ALTER POLICY own ON app.users USING (id = 2)",
}


async def test_what_is_changed_by_hand_after_an_approval_is_another_plan(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    name = database_name
    first, second = before_and_after(name)
    async with engine(postgres) as one:
        await made(postgres, one, name, first)
        asked = member(name, second, apply="OnApproval")
        plan = await only(one, asked)
        assert all(change.before for change in plan.pending), plan.pending
        for what, statement in BY_HAND.items():
            run(postgres, statement.replace("{name}", name), dbname=name)
            approved = member(name, second, apply="OnApproval", approvedPlan=plan.digest)
            held = await only(one, approved)
            assert held.applied == (), what
            assert held.digest != plan.digest, what
            changed = [x for x, y in zip(plan.pending, held.pending, strict=True) if x != y]
            assert changed, what
            if what not in ("membership", "grant option"):  # these show in the statement as well
                assert [x.statement for x in held.pending] == [x.statement for x in plan.pending], what
            plan = held
        done = await ready(one, member(name, second, apply="OnApproval", approvedPlan=plan.digest))
        assert len(done.applied) >= len(BY_HAND) - 1


async def test_a_digest_stays_as_long_as_its_plan_does(postgres: PostgresEndpoint, database_name: str) -> None:
    name = database_name
    first, second = before_and_after(name)
    async with engine(postgres) as one:
        await made(postgres, one, name, first)
        plan = await only(one, member(name, second, apply="OnApproval"))
        run(postgres, "INSERT INTO app.users SELECT generate_series(1, 1000); ANALYZE", dbname=name)
        run(postgres, "VACUUM FULL pg_catalog.pg_auth_members", dbname=name)
        assert (await only(one, member(name, second, apply="OnApproval"))).digest == plan.digest
    async with engine(postgres) as another:
        assert (await only(another, member(name, second, apply="OnApproval"))).digest == plan.digest
        alone = await another.plan(unit(member(name, second)))
        assert {x.digest for x in alone.members.values()} == {plan.digest}, "a plan without any policy is the same one"


@pytest.mark.parametrize(
    ("statement", "left"),
    [
        (
            "ALTER SCHEMA app OWNER TO {name}_app",
            "SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = 'app'",
        ),
        ("COMMENT ON ROLE {name}_app IS 'important'", "SELECT 1"),
    ],
)
@pytest.mark.newest
async def test_what_is_changed_between_the_look_and_the_lock_is_not_overwritten(
    postgres: PostgresEndpoint, database_name: str, monkeypatch: pytest.MonkeyPatch, statement: str, left: str
) -> None:
    name = database_name
    first, second = before_and_after(name)
    for spec in (first, second):
        spec.pop("rowLevelSecurity")
    async with engine(postgres) as one:
        await made(postgres, one, name, first)
        plan = await only(one, member(name, second, apply="OnApproval"))
        decide = Approvals.decide

        def meanwhile(self: Approvals, whole: Iterable[c.Change], *, exists: bool) -> None:
            decide(self, list(whole), exists=exists)
            run(postgres, statement.replace("{name}", name), dbname=name)

        with monkeypatch.context() as patched:
            patched.setattr(Approvals, "decide", meanwhile)
            held = await only(one, member(name, second, apply="OnApproval", approvedPlan=plan.digest))
        assert not held.verified
        assert held.digest != plan.digest
        touched = statement.partition(" OWNER")[0].partition(" IS ")[0].replace("{name}", name).replace('"', "")
        assert not any(touched in x.statement.replace('"', "") for x in held.applied)
        assert rows(postgres, left, dbname=name) in ([(f"{name}_app",)], [(1,)])


SHORT = {**DAILY, "retention": "30d"}


async def waiting_to_lose(postgres: PostgresEndpoint, one: Any, name: str) -> None:
    """A table whose retention was shortened, with two rows in partitions that are too old."""
    kept = {**DAILY, "retention": "36500d"}
    await only(one, partitioned(name, kept))
    migrate(postgres, name)
    await ready(one, partitioned(name, kept))
    migrate(postgres, name, OLD)


async def test_rows_that_go_are_counted_and_no_part_of_the_digest(
    postgres: PostgresEndpoint, database_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = database_name
    async with engine(postgres) as one:
        await waiting_to_lose(postgres, one, name)
        plan = await only(one, partitioned(name, SHORT))
        (lost,) = [x.rows for x in plan.pending if x.rows is not None]
        assert (lost.rows, lost.how, str(lost)) == (2, Counted.EXACT, "2 rows (counted)")
        run(postgres, "INSERT INTO shared.readings VALUES (2, '2001-01-05'); ANALYZE", dbname=name)
        later = await only(one, partitioned(name, SHORT))
        assert later.digest == plan.digest
        assert [x.rows for x in later.pending] == [x.rows for x in plan.pending], "counted once for a plan"
    monkeypatch.setattr(counting, "MOST", 1)
    async with engine(postgres) as one:
        plan = await only(one, partitioned(name, SHORT))
        assert [str(x.rows) for x in plan.pending if x.rows] == ["about 3 rows (the server's estimate)"]
    run(postgres, "UPDATE pg_class SET reltuples = -1 WHERE relname LIKE 'old%'", dbname=name)
    async with engine(postgres) as one:
        plan = await only(one, partitioned(name, SHORT))
        assert [str(x.rows) for x in plan.pending if x.rows] == ["more than 1 row (not counted further)"]
        with postgres.connect(name) as other:
            other.autocommit = False
            other.execute("LOCK TABLE shared.old_a IN ACCESS EXCLUSIVE MODE")
            drop = counting.DropPartitions(plan.pending[0].ref, "u", ("", ""), (("shared", "old_a", -1),), shorter=True)
            async with one.pool.session(name) as session:
                counted = await counting.count_rows(session, [drop])
            other.rollback()
        assert str(counted[drop]) == "an unknown number of rows (they could not be counted)"


async def test_what_was_made_again_is_not_lost_by_an_approval_that_was_carried_out(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    """The same names, ranges and versions, and by now other rows: ``approvedPlan`` still stands in the spec."""
    name = database_name
    async with engine(postgres) as one:
        await waiting_to_lose(postgres, one, name)
        plan = await only(one, partitioned(name, SHORT))
        approved = partitioned(name, SHORT, approvedPlan=plan.digest)
        assert [x.statement for x in (await only(one, approved)).applied] == [x.statement for x in plan.pending]
        await ready(one, partitioned(name, {**DAILY, "retention": "36500d"}, approvedPlan=plan.digest))
        migrate(postgres, name, OLD)
        again = await only(one, approved)
        assert again.applied == ()
        assert [x.statement for x in again.pending] == [x.statement for x in plan.pending]
        assert again.digest != plan.digest
        assert rows(postgres, "SELECT count(*) FROM shared.readings", dbname=name) == [(2,)]


async def test_an_extension_that_was_made_again_is_not_dropped_by_an_approval_that_was_carried_out(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    there, gone = ({"extensions": [{"name": "citext", "ensure": ensure}]} for ensure in ("Present", "Absent"))
    async with engine(postgres) as one:
        await ready(one, member(database_name, there))
        plan = await only(one, member(database_name, gone))
        approved = member(database_name, gone, approvedPlan=plan.digest)
        await ready(one, approved)
        await ready(one, member(database_name, there, approvedPlan=plan.digest))
        again = await only(one, approved)
        assert (again.applied, [x.statement for x in again.pending]) == ((), [x.statement for x in plan.pending])
        assert again.digest != plan.digest


@pytest.mark.newest
async def test_a_login_that_may_not_read_the_rows_says_what_the_server_estimates(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    """The operator's login needs no right to read users' rows, and no policy is asked."""
    name = database_name
    async with engine(postgres) as one:
        await waiting_to_lose(postgres, one, name)
        run(postgres, "ANALYZE", dbname=name)
        run(postgres, f"CREATE ROLE {name}_reader LOGIN PASSWORD 'reader'")
        async with engine(postgres, username=f"{name}_reader", password="reader") as reader:
            tables = (("shared", "old_a", 1), ("shared", "old_b", 1))
            plan = await only(one, partitioned(name, SHORT))
            ref = plan.pending[0].ref
            drop = counting.DropPartitions(ref, "u", ("shared", "readings"), tables, shorter=True)
            async with reader.pool.session(name) as session:
                counted = await counting.count_rows(session, [drop])
    assert str(counted[drop]) == "about 2 rows (the server's estimate)"


@pytest.mark.newest
async def test_nothing_in_a_database_that_is_not_there_counts_as_ready(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    name = database_name
    run(postgres, f"CREATE ROLE {name}_app")
    spec = declaration(name, partitions=[DAILY], audit={"schema": "trail", "every": "Month", "tablesIn": ["shared"]})
    async with engine(postgres) as one:
        asked = member(name, spec, apply="OnApproval", adoption="Allow")
        found = await only(one, asked)
        assert f"role {name}_app" not in {str(x.ref) for x in found.pending}
        assert found.ready == 1, "the role that is there"
        run(postgres, f"DROP ROLE {name}_app")
        assert (await only(one, asked)).ready == 0
        waits = {**spec, "owner": f"{name}_nobody"}
        found = await only(one, member(name, waits))
        assert (found.ready, found.problems[0].reason) == (0, "RoleNotFound")
        run(postgres, f"CREATE DATABASE {name}")
        found = await only(one, member(name, spec))
        assert (found.ready, found.problems[0].reason) == (0, "AdoptionRequired")
