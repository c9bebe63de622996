"""Partitions on real servers: made ahead of time, taken away when old, closed at birth, never in anybody's way."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.engines.postgres_support import afresh, count, engine, member, only, ready, reasons, rows, run, unit
from tests.engines.tables_support import declaration, migrate, stands

if TYPE_CHECKING:
    from sandbox import PostgresEndpoint
    from selvedge.engines.base import Member

DAILY = {"table": "shared.readings", "by": "Time", "column": "at", "every": "Day", "ahead": 2}
CHILDREN = """SELECT c.relname, pg_get_expr(c.relpartbound, c.oid), pg_get_userbyid(c.relowner), c.relacl::text
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'shared.readings'::regclass ORDER BY 1"""


def partitioned(name: str, *entries: dict[str, Any], **fields: Any) -> Member:
    return member(name, declaration(name, partitions=list(entries) or [DAILY]), **fields)


@pytest.mark.own_postgres
async def test_they_are_made_ahead_as_the_owner_and_closed(postgres: PostgresEndpoint, database_name: str) -> None:
    name = database_name
    async with engine(postgres) as one:
        assert reasons(await only(one, partitioned(name)))["partitions shared.readings"] == "WaitingForObjects"
        migrate(postgres, name)
        run(
            postgres,
            f"ALTER DEFAULT PRIVILEGES FOR ROLE {name}_owner GRANT ALL ON TABLES TO {name}_app, PUBLIC",
            dbname=name,
        )
        await ready(one, partitioned(name))
        await afresh(one)
        assert (await ready(one, partitioned(name))).applied == ()
        assert count(one).taken() == ["snapshot"]
    found = rows(postgres, CHILDREN, dbname=name)
    assert len(found) == 3
    assert all(re.fullmatch(r"readings_p\d{8}", row[0]) for row in found)
    assert {row[2] for row in found} == {f"{name}_owner"}
    assert {re.sub(r"=\w+/", "=/", row[3]) for row in found} == {f"{{{name}_owner=/{name}_owner}}"}
    run(
        postgres,
        "INSERT INTO shared.readings SELECT 1, now() + d * interval '1 day' FROM generate_series(0, 2) d",
        dbname=name,
    )
    with pytest.raises(psycopg.errors.CheckViolation, match="no partition of relation"):
        run(postgres, "INSERT INTO shared.readings VALUES (1, now() + interval '4 days')", dbname=name)


async def test_t38_the_zone_of_database_and_owner_moves_no_boundary(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    """T38."""
    name = database_name
    async with engine(postgres) as one:
        await only(one, partitioned(name))
        migrate(postgres, name)
        run(postgres, f"ALTER DATABASE {name} SET timezone = 'Asia/Kathmandu'", dbname=name)
        run(postgres, f"ALTER DATABASE {name} SET datestyle = 'German'", dbname=name)
        await ready(one, partitioned(name))
        assert (await ready(one, partitioned(name))).applied == ()
    with postgres.connect(name) as connection:
        connection.execute("SET timezone = 'UTC'; SET datestyle = 'ISO'")
        bounds = connection.execute(CHILDREN.encode()).fetchall()
    assert all(re.search(r"FROM \('[\d-]+ 00:00:00\+00'\) TO \('[\d-]+ 00:00:00\+00'\)", row[1]) for row in bounds)


OLD = """SET ROLE {owner};
CREATE TABLE shared.old_a PARTITION OF shared.readings FOR VALUES FROM ('2001-01-01') TO ('2001-02-01');
CREATE TABLE shared.old_b PARTITION OF shared.readings FOR VALUES FROM ('2001-02-01') TO ('2001-03-01');
CREATE TABLE shared.old_c PARTITION OF shared.readings FOR VALUES FROM ('2001-03-01') TO ('2001-04-01');
INSERT INTO shared.readings VALUES (1, '2001-01-05'), (1, '2001-02-05');
"""


async def test_old_ones_go_one_a_pass_once_a_person_said_so(postgres: PostgresEndpoint, database_name: str) -> None:
    name = database_name
    kept = {**DAILY, "retention": "36500d"}
    short = {**DAILY, "retention": "30d"}
    async with engine(postgres) as one:
        await stands(one, postgres, partitioned(name, kept))
        migrate(postgres, name, OLD)
        await ready(one, partitioned(name, kept))
        waits = await only(one, partitioned(name, short))
        assert {(str(x.ref), x.risk.value) for x in waits.pending} == {("partitions shared.readings", "Destructive")}
        assert len(rows(postgres, CHILDREN, dbname=name)) == 6
        # A hold keeps them, whoever approves what; and one that was never there before needs no approval.
        await ready(one, partitioned(name, {**short, "legalHold": True}))
        waits = await only(one, partitioned(name, short))
        done = await ready(one, partitioned(name, short, approvedPlan=waits.digest))
        dropped = [x.statement for x in done.applied if "DROP TABLE" in x.statement]
        assert len(dropped) == 1
        assert all(f"old_{letter}" in dropped[0] for letter in "abc")
        assert len(rows(postgres, CHILDREN, dbname=name)) == 3
        # From now on it is routine: one of them each pass, also where drift is only reported.
        migrate(postgres, name, OLD)
        for left in (5, 4, 3, 3):
            result = await ready(one, partitioned(name, short, verified=True, drift="Report"))
            assert (len(rows(postgres, CHILDREN, dbname=name)), result.drift) == (left, ())


async def test_a_function_of_the_owner_never_runs_as_the_administrator(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    """A constraint is evaluated when a partition is attached: by a login that can become nobody else."""
    name = database_name
    evil = """SET ROLE {owner};
    CREATE FUNCTION shared.attack() RETURNS void LANGUAGE plpgsql AS $$
    begin
      perform set_config('role', 'none', false);
      execute 'alter role {owner} superuser';
    exception when insufficient_privilege then null;
    end $$;
    CREATE FUNCTION shared.evil(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
    begin
      perform shared.attack();
      return 1;
    end $$;
    CREATE TABLE shared.readings (device int CHECK (shared.evil(1) > 0), at timestamptz NOT NULL, value int)
      PARTITION BY RANGE (at);
    CREATE INDEX ON shared.readings ((shared.evil(2) + device));
    """
    async with engine(postgres) as one:
        await only(one, partitioned(name))
        migrate(postgres, name, evil.replace("{owner}", f"{name}_owner"))
        await ready(one, partitioned(name))
    assert rows(postgres, "SELECT rolsuper FROM pg_roles WHERE rolname = %s", f"{name}_owner") == [(False,)]
    assert len(rows(postgres, CHILDREN, dbname=name)) == 3


async def test_t36_rows_in_a_default_partition_are_told(postgres: PostgresEndpoint, database_name: str) -> None:
    """T36."""
    name = database_name
    async with engine(postgres) as one:
        await only(one, partitioned(name))
        migrate(postgres, name)
        migrate(
            postgres, name,
            "SET ROLE {owner}; CREATE TABLE shared.rest PARTITION OF shared.readings DEFAULT;"
            "INSERT INTO shared.readings VALUES (1, now())",
        )  # fmt: skip
        result = await only(one, partitioned(name))
    assert reasons(result) == {"partitions shared.readings": "StatementFailed"}
    assert any("default partition" in status.message for status in result.problems)


async def test_t14_a_lock_that_is_held_is_waited_for_shortly(postgres: PostgresEndpoint, database_name: str) -> None:
    """T14: a reader is no obstacle; what excludes everybody is told, and the next pass goes on."""
    name = database_name
    async with engine(postgres) as one:
        await only(one, partitioned(name))
        migrate(postgres, name)
        await ready(one, member(name, declaration(name)))
        with postgres.connect(name) as holder:
            with holder.transaction():
                holder.execute("LOCK TABLE shared.readings IN ACCESS EXCLUSIVE MODE")
                result = await only(one, partitioned(name))
                assert reasons(result) == {"partitions shared.readings": "WaitingForLock"}
            with holder.transaction():
                holder.execute("SELECT * FROM shared.readings")
                await ready(one, partitioned(name))


async def test_hash_partitions_and_the_kinds_of_columns(postgres: PostgresEndpoint, database_name: str) -> None:
    name = database_name
    tables = """SET ROLE {owner};
    CREATE TABLE shared.activity (user_id uuid, n int GENERATED ALWAYS AS IDENTITY,
      twice int GENERATED ALWAYS AS (2) STORED,
      CONSTRAINT positive CHECK (n > 0)) PARTITION BY HASH (user_id);
    CREATE TABLE shared.days (day date NOT NULL, at timestamp DEFAULT now()) PARTITION BY RANGE (day);
    CREATE TABLE shared.plain (at timestamp NOT NULL, id int) PARTITION BY RANGE (at);
    """
    entries = (
        {"table": "shared.activity", "by": "Hash", "column": "user_id", "count": 4},
        {"table": "shared.days", "by": "Time", "column": "day", "every": "Month"},
        {"table": "shared.plain", "by": "Time", "column": "at", "every": "Hour", "ahead": 2},
    )
    async with engine(postgres) as one:
        await only(one, partitioned(name, *entries))
        migrate(postgres, name, tables)
        await ready(one, partitioned(name, *entries))
        assert (await ready(one, partitioned(name, *entries))).applied == ()
    run(
        postgres,
        "INSERT INTO shared.activity (user_id) SELECT gen_random_uuid() FROM generate_series(1, 50);"
        "INSERT INTO shared.days VALUES (current_date + 70);"
        "INSERT INTO shared.plain VALUES (now() AT TIME ZONE 'UTC')",
        dbname=name,
    )


async def test_without_timescaledb_a_plain_table_is_told_what_to_do(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    name = database_name
    entry = {"table": "shared.notes", "by": "Time", "column": "note", "every": "Day"}
    async with engine(postgres) as one:
        await only(one, partitioned(name, entry))
        migrate(postgres, name)
        result = await only(one, partitioned(name, entry))
    assert reasons(result) == {"partitions shared.notes": "InvalidSpec"}
    assert "PARTITION BY RANGE (note)" in result.problems[0].message


async def test_a_partition_that_was_dropped_by_hand_is_made_again(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    name = database_name
    async with engine(postgres) as one:
        await stands(one, postgres, partitioned(name))
        last = rows(postgres, CHILDREN, dbname=name)[-1][0]
        run(postgres, f"DROP TABLE shared.{last}", dbname=name)
        plan = (await one.plan(unit(partitioned(name)))).members[partitioned(name).uid]
        assert [str(change.ref) for change in plan.pending] == ["partitions shared.readings"]
        await ready(one, partitioned(name))
    assert rows(postgres, CHILDREN, dbname=name)[-1][0] == last


async def test_what_another_cluster_claims_is_left_to_it(postgres: PostgresEndpoint, database_name: str) -> None:
    name = database_name
    claim = (
        "UPDATE selvedge.claims SET cluster = 'another', resource = 'a/b' WHERE object = 'partitions:shared.readings'"
    )
    async with engine(postgres) as one:
        await stands(one, postgres, partitioned(name))
        run(postgres, claim, dbname=name)
        assert reasons(await only(one, partitioned(name))) == {"partitions shared.readings": "Conflict"}
    claims = "SELECT cluster FROM selvedge.claims WHERE object = 'partitions:shared.readings'"
    assert rows(postgres, claims, dbname=name) == [("another",)]


async def test_t39_rows_find_their_partition_after_the_operator_was_away(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    """T39: what was made 48 hours ago suffices by default, the number says how far, and a pass makes it up."""
    name = database_name
    daily = {"table": "shared.readings", "by": "Time", "column": "at", "every": "Day"}
    hourly = {"table": "shared.ticks", "by": "Time", "column": "at", "every": "Hour"}
    ticks = "SET ROLE {owner}; CREATE TABLE shared.ticks (at timestamptz) PARTITION BY RANGE (at)"
    after = """SELECT format('DROP TABLE %s', inhrelid::regclass) FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid,
      regexp_match(pg_get_expr(relpartbound, c.oid), 'TO \\(''(.*)''\\)') bound
      WHERE inhparent = %s::regclass AND bound[1]::timestamptz > now() + %s::interval"""
    async with engine(postgres) as one:
        await only(one, partitioned(name, daily, hourly))
        migrate(postgres, name)
        migrate(postgres, name, ticks)
        fresh = dict((await ready(one, partitioned(name, daily, hourly))).headroom)
        # The partitions that only passes of the last 48 hours can have made.
        for table, ahead in (("shared.readings", "6 days"), ("shared.ticks", "25 hours")):
            for (statement,) in rows(postgres, after.replace("%s'", "%%s'", 1), table, ahead, dbname=name):
                run(postgres, statement, name)
        run(postgres, "INSERT INTO shared.readings VALUES (1, now()); INSERT INTO shared.ticks VALUES (now())", name)
        found = await one.plan(unit(partitioned(name, daily, hourly)))
        left = dict(found.members[partitioned(name).uid].headroom)
        assert 47 * 3600 <= fresh["shared.readings"] - left["shared.readings"] <= 49 * 3600
        assert 46 * 3600 <= fresh["shared.ticks"] - left["shared.ticks"] <= 49 * 3600
        ((now,),) = rows(postgres, "SELECT extract(epoch FROM now())::float8")
        assert min(left.values()) > now
        assert dict((await ready(one, partitioned(name, daily, hourly))).headroom) == fresh
