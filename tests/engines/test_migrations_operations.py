"""Every operation on a real server: down, to a version, redo, baseline, repair; several schemas, several runners."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from selvedge.core.errors import InvalidError, RefusedError, TransientError
from selvedge.core.reasons import Reason
from selvedge.migrate import MigrationState
from tests.engines.migrations_support import SERVERS, Shop, fresh_shop, server
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

A, B, C = "20250101000000_a.sql", "20250102000000_b.sql", "20250103000000_c.sql"
VERSIONS = {name: name[:14] for name in (A, B, C)}
FILES = {
    A: "-- migrate:up\nCREATE TABLE shop.a (id int);\n-- migrate:down\nDROP TABLE shop.a;\n",
    B: "-- migrate:up\nCREATE TABLE shop.b (id int);\nINSERT INTO shop.b SELECT generate_series(1, 100);\n"
    "-- migrate:down\nDROP TABLE shop.b;\n",
    C: "-- migrate:up\nCREATE INDEX CONCURRENTLY b_id ON shop.b (id);\nCREATE TABLE shop.c (id int);\n"
    "-- migrate:down\nDROP TABLE shop.c;\nDROP INDEX CONCURRENTLY shop.b_id;\n",
}
WHO = {"actor": "ana", "reason": "because of INC-7"}


@pytest.fixture(params=SERVERS)
def shop(request: pytest.FixtureRequest) -> Iterator[Shop]:
    with fresh_shop(server(request)) as shop:
        yield shop


async def test_down_one_step_then_everything_and_up_again(shop: Shop) -> None:
    assert (await shop.up(FILES)).error is None
    before = shop.query("SELECT key, name, checksum_up, checksum_down, down_text, state FROM selvedge.history")
    result = await shop.do(FILES, "Down")
    assert result.error is None, result.error
    assert [(row.state, row.direction, row.statements) for row in result.migrations] == [
        (MigrationState.UNDONE, "down", "2/2")
    ]
    assert shop.tables() == ["a", "b"]
    assert shop.value("SELECT to_regclass('shop.b_id')") is None
    assert shop.history() == [VERSIONS[A], VERSIONS[B]]
    assert shop.events()[-1][:3] == ("Undone", VERSIONS[C], shop.login)
    assert (await shop.do({}, "To", "0")).error is None, "the files are gone"
    assert (shop.tables(), shop.history()) == ([], [])
    assert (await shop.up(FILES)).error is None
    assert shop.query("SELECT key, name, checksum_up, checksum_down, down_text, state FROM selvedge.history") == before


async def test_to_and_redo(shop: Shop) -> None:
    assert (await shop.do(FILES, "To", VERSIONS[B])).error is None
    assert shop.history() == [VERSIONS[A], VERSIONS[B]]
    oid = shop.value("SELECT 'shop.b'::regclass::oid")
    result = await shop.do(FILES, "Redo")
    assert [row.state for row in result.migrations] == [MigrationState.UNDONE, MigrationState.APPLIED]
    assert shop.value("SELECT 'shop.b'::regclass::oid") != oid
    changed = {**FILES, B: FILES[B].replace("100", "7")}
    assert (await shop.do({A: FILES[A], B: changed[B]}, "Redo")).error is None
    assert shop.value("SELECT count(*) FROM shop.b") == 7
    assert (await shop.do(changed, "To", VERSIONS[A])).error is None
    assert shop.tables() == ["a"]


async def test_a_way_down_that_fails_leaves_everything(shop: Shop) -> None:
    files = {A: FILES[A], B: FILES[B].replace("DROP TABLE shop.b;", "DROP TABLE shop.b;\nDROP TABLE shop.nothing;")}
    assert (await shop.up(files)).error is None
    result = await shop.do(files, "Down")
    error = result.migrations[0].error
    assert error is not None
    assert (error.file, error.line, error.sqlstate) == (B, 6, "42P01")
    assert shop.tables() == ["a", "b"]
    assert shop.history() == [VERSIONS[A], VERSIONS[B]]


async def test_down_runs_as_the_migrations_role(shop: Shop) -> None:
    text = "-- migrate:up\nSELECT 1;\n-- migrate:down\nRESET ROLE; ALTER ROLE CURRENT_USER SUPERUSER;"
    assert (await shop.up({A: text})).error is None
    result = await shop.do({A: text}, "Down")
    assert result.migrations[0].error is not None
    assert result.migrations[0].error.sqlstate == "42501"
    assert shop.history() == [VERSIONS[A]]


async def test_a_half_undone_one_is_finished_by_down_alone(shop: Shop) -> None:
    files = {**FILES, C: FILES[C].replace("DROP TABLE shop.c;", "DROP TABLE shop.c;\nSELECT 1 / count(*) FROM shop.a;")}
    assert (await shop.up(files)).error is None
    result = await shop.do(files, "Down")
    assert result.migrations[0].error is not None
    assert shop.query("SELECT state, direction, statements_done FROM selvedge.history WHERE name = 'c'") == [
        ("Partial", "down", 1)
    ]
    with pytest.raises(InvalidError, match="half undone, 1 of 3 statements") as error:
        await shop.up(files)
    assert error.value.reason is Reason.PARTLY_APPLIED
    shop.query("INSERT INTO shop.a VALUES (1)")
    assert (await shop.do(files, "Down")).error is None
    assert shop.history() == [VERSIONS[A], VERSIONS[B]]


async def test_baseline_runs_nothing(shop: Shop) -> None:
    result = await shop.do(FILES, "Baseline", VERSIONS[B], running=WHO)
    assert [row.state for row in result.migrations] == [MigrationState.MARKED] * 2
    assert shop.tables() == []
    assert shop.history() == [VERSIONS[A], VERSIONS[B]]
    assert shop.events() == [("Marked", VERSIONS[name], "ana", "because of INC-7") for name in (A, B)]
    shop.query(f'CREATE TABLE shop.b (id int); ALTER TABLE shop.b OWNER TO "{shop.owner}"')
    result = await shop.up(FILES)
    assert result.error is None, result.error
    assert shop.tables() == ["b", "c"]
    assert (await shop.do(FILES, "Baseline", VERSIONS[B], running=WHO)).migrations == ()


async def test_repair(shop: Shop) -> None:
    assert (await shop.up({A: FILES[A], B: FILES[B]})).error is None
    changed = {**FILES, A: FILES[A].replace("CREATE", "create")}
    with pytest.raises(InvalidError, match="give an actor and a reason"):
        await shop.do(changed, "Repair", repair="Accept", running={"actor": "ana", "reason": " "})
    result = await shop.do(changed, "Repair", repair="Accept", running=WHO)
    assert [row.state for row in result.migrations] == [MigrationState.ACCEPTED]
    result = await shop.do(changed, "Repair", VERSIONS[B], repair="MarkUnapplied", running=WHO)
    assert [row.state for row in result.migrations] == [MigrationState.UNMARKED]
    assert shop.tables() == ["a", "b"]
    result = await shop.do(changed, "Repair", VERSIONS[B], repair="MarkApplied", running=WHO)
    assert [row.state for row in result.migrations] == [MigrationState.MARKED]
    assert shop.events()[2:] == [
        ("Accepted", VERSIONS[A], "ana", "because of INC-7"),
        ("Unmarked", VERSIONS[B], "ana", "because of INC-7"),
        ("Marked", VERSIONS[B], "ana", "because of INC-7"),
    ]
    assert (await shop.up(changed)).error is None
    assert "create table" in str(shop.value("SELECT up_text FROM selvedge.history WHERE name = 'a'")).lower()


async def test_repair_drops_invalid_indexes_and_no_valid_one(shop: Shop) -> None:
    assert (await shop.up({A: FILES[A], B: FILES[B]})).error is None
    shop.query("CREATE INDEX good ON shop.b (id)")
    shop.query("INSERT INTO shop.b VALUES (1)")
    with pytest.raises(Exception, match="could not create unique index"):
        shop.query("CREATE UNIQUE INDEX CONCURRENTLY bad ON shop.b (id)")
    shop.query("CREATE TABLE shop.parted (id int) PARTITION BY LIST (id)")
    shop.query("CREATE TABLE shop.part PARTITION OF shop.parted FOR VALUES IN (1)")
    shop.query("CREATE INDEX parted_id ON ONLY shop.parted (id)")
    shop.query(f'ALTER TABLE shop.parted OWNER TO "{shop.owner}"')
    shop.query("CREATE TABLE public.theirs (id int); INSERT INTO public.theirs VALUES (1), (1)")
    with pytest.raises(Exception, match="could not create unique index"):
        shop.query("CREATE UNIQUE INDEX CONCURRENTLY theirs_id ON public.theirs (id)")
    result = await shop.do(FILES, "Repair", repair="DropInvalidIndexes", running=WHO)
    assert result.error is None, result.error
    assert result.dropped == ("shop.bad",)
    left = shop.query(
        "SELECT relname FROM pg_class WHERE relname IN ('good', 'bad', 'parted_id', 'theirs_id') ORDER BY 1"
    )
    assert left == [("good",), ("parted_id",), ("theirs_id",)]
    assert shop.events()[-1] == ("DropInvalidIndex", None, "ana", "shop.bad: because of INC-7")


async def test_an_invalid_index_of_a_table_that_is_vacuumed_is_dropped(shop: Shop) -> None:
    """VACUUM and ANALYZE lock the table as a build does."""
    assert (await shop.up({A: FILES[A], B: FILES[B]})).error is None
    shop.query("INSERT INTO shop.b VALUES (1), (1)")
    with pytest.raises(Exception, match="could not create unique index"):
        shop.query("CREATE UNIQUE INDEX CONCURRENTLY bad ON shop.b (id)")
    with shop.endpoint.connect(shop.database) as other, other.transaction():
        other.execute("LOCK TABLE shop.b IN SHARE UPDATE EXCLUSIVE MODE")
        run = asyncio.create_task(shop.do(FILES, "Repair", repair="DropInvalidIndexes", running=WHO))
        drops = "SELECT 1 FROM pg_stat_activity WHERE starts_with(query, 'DROP INDEX') AND wait_event_type = 'Lock'"
        await until(lambda: shop.query(f"{drops} AND datname = current_database()"), run)
    result = await run
    assert (result.error, result.dropped) == (None, ("shop.bad",))


async def test_an_index_that_somebody_builds_is_not_dropped(shop: Shop) -> None:
    assert (await shop.up({A: FILES[A], B: FILES[B]})).error is None
    with shop.endpoint.connect(shop.database) as holder:
        holder.execute("BEGIN")
        holder.execute("LOCK shop.b IN ROW EXCLUSIVE MODE")
        build = asyncio.create_task(asyncio.to_thread(shop.query, "CREATE INDEX CONCURRENTLY slow ON shop.b (id)"))
        await until(lambda: shop.query("SELECT 1 FROM pg_index WHERE indexrelid = to_regclass('shop.slow')"), build)
        result = await shop.do(FILES, "Repair", repair="DropInvalidIndexes", running=WHO)
        assert (result.error, result.dropped) == (None, ())
    await build
    assert shop.value("SELECT indisvalid FROM pg_index WHERE indexrelid = 'shop.slow'::regclass")


async def test_repeatables_and_seeds(shop: Shop) -> None:
    view = "CREATE OR REPLACE VIEW shop.v AS SELECT 1 AS one;"
    files = {A: FILES[A], "R__v.sql": view, "seeds/some.sql": "-- env: test\nINSERT INTO shop.a VALUES (1);"}
    assert (await shop.up(files)).error is None
    assert shop.query("SELECT kind, name FROM selvedge.history ORDER BY kind") == [
        ("Repeatable", "v"),
        ("Versioned", "a"),
    ]
    assert (await shop.up(files, environment="test")).error is None
    assert shop.value("SELECT count(*) FROM shop.a") == 1
    changed = {**files, "R__v.sql": view.replace("AS one", "AS one, 2 AS two")}
    result = await shop.up(changed, environment="test")
    assert [row.name for row in result.migrations] == ["v"]
    assert shop.value("SELECT two FROM shop.v") == 2
    assert (await shop.up(changed, environment="test")).migrations == ()
    result = await shop.do(changed, "To", "0")
    assert result.error is None, result.error
    assert shop.history() == []
    assert (await shop.up(changed)).error is None


async def test_one_set_of_files_for_several_schemas(shop: Shop) -> None:
    files = {
        A: "-- migrate:up\nCREATE TABLE t (id int);\n-- migrate:down\nDROP TABLE t;\n",
        B: "INSERT INTO t VALUES (1);\nCREATE INDEX CONCURRENTLY t_id ON t (id);\n-- the end",
    }
    for tenant in ("north", "south"):
        shop.query(f'CREATE SCHEMA {tenant} AUTHORIZATION "{shop.owner}"')
        result = await shop.do(files, "Up", session={"scope": tenant})
        assert result.error is None, result.error
    assert shop.query("SELECT scope, key FROM selvedge.history ORDER BY 1, 2") == [
        (tenant, VERSIONS[name]) for tenant in ("north", "south") for name in (A, B)
    ]
    assert shop.query("SELECT schemaname FROM pg_indexes WHERE indexname = 't_id' ORDER BY 1") == [
        ("north",),
        ("south",),
    ]
    assert (await shop.do(files, "Up", session={"scope": "north"})).migrations == ()
    assert (
        await shop.do(files, "Repair", VERSIONS[B], repair="MarkUnapplied", running=WHO, session={"scope": "north"})
    ).error is None
    assert (await shop.do(files, "Down", session={"scope": "north"})).error is None
    assert (shop.tables("north"), shop.tables("south")) == ([], ["t"])
    missing = (await shop.do(files, "Up", session={"scope": "west"})).error
    assert isinstance(missing, TransientError)
    assert "schema west, in which migrations are to run, does not exist" in missing.message


async def test_history_where_it_is_asked_for(shop: Shop) -> None:
    names = {"schema": "migrations", "table": "schema_history"}
    assert (await shop.up({A: FILES[A]}, session=names)).error is None
    assert shop.value("SELECT count(*) FROM migrations.schema_history") == 1
    assert shop.value("SELECT count(*) FROM migrations.schema_history_events") == 1
    with pytest.raises(RefusedError, match=f"belongs to role {shop.owner}, who could have"):
        await shop.up({A: FILES[A]}, session={"schema": "shop"})


@pytest.mark.parametrize(
    "attack",
    [
        "UPDATE selvedge.events SET message = ''",
        "DELETE FROM selvedge.events",
        "TRUNCATE selvedge.events",
        "INSERT INTO selvedge.events (event, actor) VALUES ('Applied', 'ana')",
        "INSERT INTO selvedge.events (event, at) VALUES ('Applied', '2020-01-01')",
        "DROP TABLE selvedge.events",
        "ALTER TABLE selvedge.events DROP COLUMN message",
        "CREATE RULE r AS ON INSERT TO selvedge.events DO INSTEAD NOTHING",
    ],
)
async def test_events_only_grow(shop: Shop, attack: str) -> None:
    assert (await shop.up({A: FILES[A]})).error is None
    result = await shop.up({A: FILES[A], B: f"RESET ROLE; {attack};"})
    assert result.migrations[0].error is not None
    assert result.migrations[0].error.sqlstate == "42501"
    assert len(shop.events()) == 1


async def test_eight_runners_at_once(shop: Shop) -> None:
    files = {
        f"2025{number:010d}_m.sql": f"CREATE TABLE shop.t{number} (id int); INSERT INTO shop.t{number} VALUES (1);"
        for number in range(1, 6)
    }
    files["20260101000000_index.sql"] = "CREATE INDEX CONCURRENTLY t1_id ON shop.t1 (id);"
    shops = [Shop(shop.endpoint, shop.database) for _ in range(8)]
    results = await asyncio.gather(*(one.up(files) for one in shops))
    assert [result.error for result in results] == [None] * 8
    states = [row.state for result in results for row in result.migrations]
    assert states.count(MigrationState.APPLIED) == len(files)
    assert shop.value("SELECT count(*) FROM selvedge.events") == len(files)


async def test_two_who_go_down_at_once_go_one_step(shop: Shop) -> None:
    files = {A: FILES[A], B: FILES[B].replace("DROP TABLE", "SELECT pg_sleep(0.3);\nDROP TABLE")}
    assert (await shop.up(files)).error is None
    shops = [Shop(shop.endpoint, shop.database) for _ in range(2)]
    results = await asyncio.gather(*(one.do(files, "Down") for one in shops))
    assert [result.error for result in results] == [None, None]
    assert {row.state for result in results for row in result.migrations} == {
        MigrationState.UNDONE,
        MigrationState.SKIPPED,
    }
    assert shop.history() == [VERSIONS[A]]


async def test_stopped_between_two_migrations_down(shop: Shop) -> None:
    files = {A: FILES[A], B: FILES[B]}
    assert (await shop.up(files)).error is None
    stop = asyncio.Event()

    def may_write() -> None:
        if any(row.state is MigrationState.UNDONE for row in shop.rows):
            stop.set()

    result = await shop.do(files, "To", "0", stop=stop, may_write=may_write)
    assert result.stopped
    assert shop.history() == [VERSIONS[A]]


async def test_reindex_that_was_broken_leaves_no_ccnew(shop: Shop) -> None:
    assert (await shop.up(FILES)).error is None
    files = {**FILES, "20250104000000_d.sql": "SELECT 1;\nREINDEX TABLE CONCURRENTLY shop.b;"}
    with shop.endpoint.connect(shop.database) as holder:
        holder.execute("BEGIN")
        holder.execute("LOCK shop.b IN ROW EXCLUSIVE MODE")
        task = asyncio.create_task(shop.up(files))
        query = "SELECT pg_terminate_backend(pid) FROM pg_stat_progress_create_index WHERE relid = 'shop.b'::regclass"
        await until(lambda: shop.query(query), task)
        assert isinstance((await task).error, TransientError)
    assert shop.query("SELECT relname FROM pg_class WHERE relname ~ 'ccnew'") == [("b_id_ccnew",)]
    result = await shop.up(files)
    assert result.error is None, result.error
    rows = shop.query("SELECT indexrelid::regclass::text, indisvalid FROM pg_index WHERE indrelid = 'shop.b'::regclass")
    assert rows == [("shop.b_id", True)]


@pytest.mark.parametrize("how", ["interrupted", "refused"])
async def test_a_partition_that_is_half_detached_is_detached(shop: Shop, how: str) -> None:
    files = {
        A: "CREATE TABLE shop.a (id int) PARTITION BY LIST (id);\n"
        'CREATE TABLE shop."P 1" PARTITION OF shop.a FOR VALUES IN (1);'
    }
    assert (await shop.up(files)).error is None
    files[B] = 'ALTER TABLE shop.a DETACH PARTITION shop."P 1" CONCURRENTLY;'
    end = {"interrupted": "pg_terminate_backend", "refused": "pg_cancel_backend"}[how]
    with shop.endpoint.connect(shop.database) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM shop.a")
        task = asyncio.create_task(shop.up(files))
        query = (
            f"SELECT {end}(pid) FROM pg_stat_activity WHERE query LIKE 'ALTER TABLE shop.a DETACH%%' "
            "AND wait_event_type = 'Lock' AND usename = %s"
        )
        await until(lambda: shop.query(query, shop.login), task)
        assert (await task).error is not None
    assert shop.query("SELECT inhdetachpending FROM pg_inherits") == [(True,)]
    result = await shop.up(files)
    assert result.error is None, result.error
    assert shop.query("SELECT inhdetachpending FROM pg_inherits") == []
    assert shop.tables() == ["P 1", "a"]


async def test_one_that_began_alone_and_was_mended_goes_on_where_it_stopped(shop: Shop) -> None:
    files = {A: "CREATE TABLE shop.a (id int);\nINSERT INTO shop.a VALUES (1);\nVACUUM shop.nothing;"}
    assert (await shop.up(files)).error is not None
    mended = {A: files[A].replace("VACUUM shop.nothing", "INSERT INTO shop.a VALUES (2)")}
    result = await shop.up(mended, running={"transaction": "All"})
    assert result.error is not None
    assert result.error.reason is Reason.PARTLY_APPLIED
    assert (await shop.up(mended)).error is None
    assert shop.query("SELECT id FROM shop.a ORDER BY 1") == [(1,), (2,)]


async def test_a_build_that_is_broken_off_ends_at_once_and_is_repaired_later(shop: Shop) -> None:
    assert (await shop.up({A: FILES[A], B: FILES[B]})).error is None
    with shop.endpoint.connect(shop.database) as writer:
        writer.execute("BEGIN")
        writer.execute("INSERT INTO shop.b VALUES (7)")
        task = asyncio.create_task(shop.up(FILES))
        building = (
            "SELECT 1 FROM pg_stat_progress_create_index WHERE datname = current_database() AND lockers_total > 0"
        )
        await until(lambda: shop.query(building), task)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 20)
        assert shop.query("SELECT 1 FROM pg_stat_activity WHERE usename = %s", shop.login) == []
    result = await shop.up(FILES)
    assert result.error is None, result.error
    assert shop.value("SELECT indisvalid FROM pg_index WHERE indexrelid = 'shop.b_id'::regclass")
