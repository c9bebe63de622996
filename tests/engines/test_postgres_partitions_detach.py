"""Old partitions go while their table is read: detached CONCURRENTLY, finished where that was interrupted."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from selvedge.core.errors import TransientError
from tests.engines.postgres_support import engine, member, only, ready, reasons, rows, run
from tests.engines.tables_support import declaration, migrate, stands
from tests.engines.test_postgres_partitions import DAILY, OLD

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sandbox import PostgresEndpoint
    from selvedge.core.unit import MemberResult
    from selvedge.engines.base import Member
    from selvedge.engines.postgres.engine import PostgresEngine

pytestmark = pytest.mark.engines

CHILDREN = """SELECT c.relname, i.inhdetachpending FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'shared.readings'::regclass AND c.relname LIKE 'old%' ORDER BY 1"""
TABLES = "SELECT relname FROM pg_class WHERE relname LIKE 'old__' AND relkind = 'r' ORDER BY 1"
WAITING = """SELECT pid FROM pg_stat_activity WHERE datname = %s AND query LIKE 'ALTER TABLE%%CONCURRENTLY'
AND wait_event_type = 'Lock'"""


def kept(name: str, **entry: Any) -> Member:
    return member(name, declaration(name, partitions=[{**DAILY, "retention": "30d", **entry}]))


@asynccontextmanager
async def with_old_ones(postgres: PostgresEndpoint, name: str) -> AsyncIterator[PostgresEngine]:
    """Three partitions that are too old, under a retention that is in force."""
    async with engine(postgres) as one:
        await stands(one, postgres, kept(name))
        migrate(postgres, name, OLD)
        yield one


async def waiting(postgres: PostgresEndpoint, name: str, task: asyncio.Task[MemberResult]) -> int:
    """The backend that detaches, once it waits for a reader."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not task.done():
        found = rows(postgres, WAITING, name)
        if found and rows(postgres, CHILDREN, dbname=name)[0] == ("old_a", True):
            return int(found[0][0])
        await asyncio.sleep(0.01)  # between two looks, which need both the session and the partition's state
    raise AssertionError("nobody waits for the reader")


async def test_t37_a_detach_that_was_killed_while_it_waits_for_a_reader_is_finished(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    """T37. Nobody else waits meanwhile, no query sees the partition, and the next passes finish it."""
    name = database_name
    async with with_old_ones(postgres, name) as one:
        with postgres.connect(name) as reader, reader.transaction():
            reader.execute("SELECT count(*) FROM shared.readings")
            task = asyncio.create_task(only(one, kept(name)))
            pid = await waiting(postgres, name, task)
            run(postgres, "SET lock_timeout = '200ms'; INSERT INTO shared.readings VALUES (2, now())", name)
            seen = rows(postgres, "SELECT count(*) FROM shared.readings WHERE at < '2001-02-01'", dbname=name)
            assert seen == [(0,)]
            run(postgres, f"SELECT pg_terminate_backend({pid})")
            with pytest.raises(TransientError, match="the connection broke while detaching"):
                await task
            assert rows(postgres, CHILDREN, dbname=name)[0] == ("old_a", True)
            # The reader has not ended: the partition cannot go yet, and nothing else is kept from going on.
            result = await only(one, kept(name))
            assert reasons(result) == {"partitions shared.readings": "WaitingForLock"}
            assert "no query sees the partition any more" in result.problems[0].message
        await ready(one, kept(name))
        assert "old_a" not in {row[0] for row in rows(postgres, TABLES, dbname=name)}
        await ready(one, kept(name))
        await ready(one, kept(name))
        assert (await ready(one, kept(name))).applied == ()
    assert rows(postgres, TABLES, dbname=name) == []


@pytest.mark.long
async def test_a_reader_who_stays_is_waited_for_shortly(postgres: PostgresEndpoint, database_name: str) -> None:
    name = database_name
    async with with_old_ones(postgres, name) as one:
        with postgres.connect(name) as reader, reader.transaction():
            reader.execute("SELECT count(*) FROM shared.readings")
            result = await only(one, kept(name))
            assert reasons(result) == {"partitions shared.readings": "WaitingForLock"}
            assert "no query sees the partition any more" in result.problems[0].message
            held = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database WHERE d.datname = %s"
            assert rows(postgres, f"{held} AND locktype = 'advisory'", name) == [(0,)]
        await ready(one, kept(name))
    assert "old_a" not in {row[0] for row in rows(postgres, TABLES, dbname=name)}


DETACHED = """SET ROLE {owner};
COMMENT ON TABLE shared.old_a IS 'selvedge: expired partition of shared.readings until 2001-02-01T00:00:00+00:00';
COMMENT ON TABLE shared.old_c IS 'selvedge: expired partition of shared.notes until 2001-02-01T00:00:00+00:00';
ALTER TABLE shared.readings DETACH PARTITION shared.old_a;
ALTER TABLE shared.readings DETACH PARTITION shared.old_c;
COMMENT ON TABLE {last} IS 'selvedge: expired partition of shared.readings until 2001-02-01T00:00:00+00:00'
"""


async def test_what_was_detached_and_not_dropped_is_dropped_by_the_next_pass(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    """Not under a hold, not what is a partition again, and not what its comment calls another table's."""
    name = database_name
    last = "SELECT max(inhrelid::regclass::text) FROM pg_inherits WHERE inhparent = 'shared.readings'::regclass"
    async with with_old_ones(postgres, name) as one:
        ((newest,),) = rows(postgres, last, dbname=name)
        migrate(postgres, name, DETACHED.replace("{last}", newest))
        await ready(one, kept(name, legalHold=True))
        assert [row[0] for row in rows(postgres, TABLES, dbname=name)] == ["old_a", "old_b", "old_c"]
        waits = await only(one, kept(name))
        assert {change.risk.value for change in waits.pending} == {"Destructive"}
        assert [row[0] for row in rows(postgres, TABLES, dbname=name)] == ["old_a", "old_b", "old_c"]
        allowed = member(name, kept(name).spec.postgres.model_dump(mode="json", by_alias=True), destructive="Allow")
        await ready(one, allowed)
        await ready(one, allowed)
        assert (await ready(one, allowed)).applied == ()
        assert [row[0] for row in rows(postgres, TABLES, dbname=name)] == ["old_c"]
        assert rows(postgres, last, dbname=name) == [(newest,)]


async def test_a_partition_of_somebody_else_goes_with_a_plain_detach(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    """Whoever owns the schema may drop it, and not write a comment on it."""
    name = database_name
    async with with_old_ones(postgres, name) as one:
        run(postgres, "ALTER TABLE shared.old_a OWNER TO postgres", name)
        with postgres.connect(name) as reader, reader.transaction():
            reader.execute("SELECT count(*) FROM shared.readings")
            result = await only(one, kept(name))
            assert reasons(result) == {"partitions shared.readings": "WaitingForLock"}
        await ready(one, kept(name))
    assert [row[0] for row in rows(postgres, TABLES, dbname=name)] == ["old_b", "old_c"]


async def test_beside_a_default_partition_the_detach_is_plain(postgres: PostgresEndpoint, database_name: str) -> None:
    """The server refuses CONCURRENTLY there."""
    name = database_name
    async with with_old_ones(postgres, name) as one:
        migrate(postgres, name, "SET ROLE {owner}; CREATE TABLE shared.rest PARTITION OF shared.readings DEFAULT")
        result = await ready(one, kept(name))
    assert [change.statement for change in result.applied if "CONCURRENTLY" in change.statement] == []
    assert [row[0] for row in rows(postgres, TABLES, dbname=name)] == ["old_b", "old_c"]
