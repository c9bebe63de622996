"""Who blocks whom: a MigrationRun names the session whose lock it waits for, and goes on when it is let go."""

from __future__ import annotations

from contextlib import closing

from tests.cluster.kube_api import Document
from tests.cluster.test_migrationrun_actions import FILES, USERS, rows, shop, sources, start
from tests.cluster.world import World, verdict, wait_for

# the statement before it is told of a moment before the wait is: a status that is written once a second missed it
WIDER = "SELECT pg_sleep(1.5);\nALTER TABLE shared.users ALTER COLUMN id TYPE bigint;\n"


def test_the_session_that_holds_the_table_is_named(world: World):
    sources(world, {USERS: FILES[USERS]})
    shop(world, autoApply=False)
    world.ready("DatabaseSchema", "shop")
    start(world, "first")
    world.ready("MigrationRun", "first")
    sources(world, {USERS: FILES[USERS], "20250102000000_wider.sql": WIDER})
    with closing(world.endpoint.connect(world.name)) as holder:
        pid = holder.info.backend_pid
        with holder.transaction():
            holder.execute("LOCK TABLE shared.users IN ACCESS EXCLUSIVE MODE")
            start(world, "wider", timeouts={"lock": "60s"})

            def waits() -> Document | None:
                found = world.api.get("MigrationRun", "wider")
                return found if verdict(found)[1] == "WaitingForLock" else None

            run = wait_for(waits, 40)
            [row] = run["status"]["migrations"]
            assert row["waitingFor"].startswith(f"lock held by session {pid} ("), row
            assert f"waits for lock held by session {pid} (" in verdict(run)[2]
            assert run["status"]["phase"] == "Running"
            assert row["statements"] == "1/2"
    done = world.ready("MigrationRun", "wider")
    assert rows(done) == [("wider", "up", "Applied")]
    assert "waitingFor" not in done["status"]["migrations"][0]
