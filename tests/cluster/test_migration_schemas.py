"""One run for several schemas of a database: the same files in each, one history each, told and approved as one."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.kube_api import ApiError, Document
from tests.cluster.plugin import Plugin
from tests.cluster.test_migrationrun_actions import approve, selvedge, sources, start
from tests.cluster.world import World, verdict, wait_for

CARTS, ITEMS = "20250101000000_carts.sql", "20250102000000_items.sql"
FILES = {
    CARTS: "-- migrate:up\nCREATE TABLE carts (id int PRIMARY KEY);\n-- migrate:down\nDROP TABLE carts;\n",
    ITEMS: "-- migrate:up\nCREATE TABLE items (cart int REFERENCES carts);\n-- migrate:down\nDROP TABLE items;\n",
}
TENANTS = ["north", "south", "west"]


@pytest.fixture
def operator_env(request: pytest.FixtureRequest) -> dict[str, str]:
    """One that is killed keeps its identity, and leads at once when it is started again."""
    return {"SELVEDGE_IDENTITY": "the-same"} if "killed" in request.node.name else {}


def shop(world: World, *, tenants: list[str] = TENANTS, **migrations: Any) -> Document:
    owner = world.role("owner")
    postgres = {
        "owner": owner,
        "roles": [{"name": owner}],
        "schemas": [{"name": name, "owner": owner} for name in [*TENANTS, "east"]],
    }
    declared = {"source": {"configMaps": [{"name": "migrations"}]}, "schemas": tenants, **migrations}
    return world.schema("shop", postgres=postgres, migrations=declared)


def shown(run: Document) -> list[tuple[str, str, str]]:
    return [(row["schema"], row["name"], row["state"]) for row in run["status"]["migrations"]]


def tables(world: World) -> list[str]:
    found = world.sql("SELECT schemaname || '.' || tablename FROM pg_tables WHERE tableowner ~ '_owner$' ORDER BY 1")
    return [name for (name,) in found]


def history(world: World) -> list[tuple[str, str]]:
    return world.sql("SELECT scope, name FROM selvedge.history WHERE state = 'Applied' ORDER BY scope, version")


def test_every_schema_is_migrated_and_shown(world: World, tmp_path: Path):
    sources(world, FILES)
    shop(world)
    world.ready("DatabaseSchema", "shop")
    [run] = world.api.list("MigrationRun")
    assert shown(run) == [(tenant, name, "Applied") for tenant in TENANTS for name in ("carts", "items")]
    assert (run["status"]["progress"], run["status"]["version"]) == ("6/6", "20250102000000")
    assert history(world) == [(tenant, name) for tenant in TENANTS for name in ("carts", "items")]
    assert tables(world) == [f"{tenant}.{name}" for tenant in TENANTS for name in ("carts", "items")]

    # one more tenant is another source: a run of its own, which has nothing to do in the others
    shop(world, tenants=[*TENANTS, "east"])
    world.ready("DatabaseSchema", "shop")
    runs = {len(one["status"]["migrations"]): one for one in world.api.list("MigrationRun")}
    assert shown(runs[2]) == [("east", "carts", "Applied"), ("east", "items", "Applied")]

    # the digest of the whole is what is approved, and what the command line computes of the same files
    start(world, "unclear", action="Down")
    refused = world.until("MigrationRun", "unclear", "False", "InvalidSpec")
    assert "Down in 4 schemas needs a target" in verdict(refused)[2]
    start(world, "back", action="Down", target="20250101000000", schemas=["south", "west"])
    run = world.until("MigrationRun", "back", "False", "WaitingForApproval")
    assert shown(run) == [("south", "items", "Pending"), ("west", "items", "Pending")]
    with pytest.raises(ApiError, match="a MigrationRun cannot be changed"):
        world.api.patch("MigrationRun", "back", {"spec": {"schemas": ["north"]}})
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    there = ("--schema", "south", "--schema", "west")
    planned = selvedge(
        world, "plan", "--action", "down", "--target", "20250101000000", *there, "-o", "json", directory=tmp_path
    )
    documents = [json.loads(line) for line in planned.stdout.splitlines()]
    assert documents[-1]["digest"] == run["status"]["plan"], planned.stderr
    plugin = Plugin(world.kubeconfig, world.namespace)
    said = plugin("plan", "mig/back")
    assert said.returncode == 2, said.stderr
    assert "south: 20250102000000 items" in said.stdout
    assert plugin("approve", "mig/back", "--yes", "--digest", run["status"]["plan"]).returncode == 0
    run = world.ready("MigrationRun", "back")
    assert verdict(run)[1:] == ("Undone", "2 migrations were undone")
    assert [name for name in tables(world) if name.endswith("items")] == ["east.items", "north.items"]


def test_a_failure_stops_there_and_names_its_schema(world: World):
    sources(world, FILES)
    shop(world, autoApply=False)
    world.ready("DatabaseSchema", "shop")
    # in the second schema somebody was faster
    world.sql("CREATE TABLE south.items ()")
    start(world, "up")
    run = world.until("MigrationRun", "up", "False", "StatementFailed")
    assert run["status"]["phase"] == "Failed"
    assert verdict(run)[2].startswith(f'schema south: {ITEMS}, line 2: relation "items" already exists (42P07)')
    assert shown(run) == [
        ("north", "carts", "Applied"),
        ("north", "items", "Applied"),
        ("south", "carts", "Applied"),
        ("south", "items", "Failed"),
        ("west", "carts", "Pending"),
        ("west", "items", "Pending"),
    ]
    assert (run["status"]["progress"], run["status"].get("version")) == ("3/6", None)
    world.sql("DROP TABLE south.items")
    start(world, "again")
    run = world.ready("MigrationRun", "again")
    assert shown(run) == [("south", "items", "Applied"), ("west", "carts", "Applied"), ("west", "items", "Applied")]
    assert run["status"]["version"] == "20250102000000"

    # what does not fit the history of one of them runs in none
    sources(world, {**FILES, "20250103000000_late.sql": "CREATE TABLE late (id int);\n"})
    world.sql(f"DELETE FROM selvedge.history WHERE scope = 'west' AND version = {CARTS[:14]}")
    start(world, "late")
    refused = world.until("MigrationRun", "late", "False", "OutOfOrder")
    assert verdict(refused)[2].startswith(f"schema west: {CARTS} ")
    assert not [name for name in tables(world) if name.endswith("late")]

    # one that is not there (yet) is waited for before anything runs
    start(world, "soon", schemas=["north", "soon"], outOfOrder="Apply")
    waits = world.until("MigrationRun", "soon", "False", "WaitingForObjects")
    assert verdict(waits)[2].startswith("schema soon, in which migrations are to run, does not exist")
    assert (waits["status"]["phase"], waits["status"].get("migrations")) == ("Pending", None)
    world.sql(f'CREATE SCHEMA soon AUTHORIZATION "{world.role("owner")}"')
    run = world.ready("MigrationRun", "soon", timeout=60)
    assert ("soon", "late", "Applied") in shown(run)


def test_schemas_are_for_postgres(mongo: World):
    document = mongo.schema_document("shop", server="mongo", mongodb={"collections": []})
    document["spec"]["migrations"] = {"source": {"configMaps": [{"name": "migrations"}]}, "schemas": ["north"]}
    with pytest.raises(ApiError, match="a MongoDB database has no schemas"):
        mongo.api.apply(document)
    del document["spec"]["migrations"]
    mongo.databases.add(mongo.name)
    mongo.api.apply(document)
    mongo.ready("DatabaseSchema", "shop")
    files = {"20250101000000_a.json": '{"up": [{"create": "a"}]}'}
    start(mongo, "up", schemas=["north"], source={"inline": {"files": files}})
    refused = mongo.until("MigrationRun", "up", "False", "InvalidSpec")
    assert "schemas are for Postgres" in verdict(refused)[2]


SLOW = {
    "20250103000000_slow.sql": "-- migrate:up\nSELECT pg_sleep(0.4);\nCREATE TABLE slow (id int);\n"
    "-- migrate:down\nSELECT pg_sleep(0.4);\nDROP TABLE slow;\n"
}


def kill_in(world: World, done: int) -> None:
    """Kill the operator inside the slow statement with ``done`` tables of it there, and start it again."""
    query = b"SELECT 1 FROM pg_stat_activity WHERE usename = %s AND starts_with(query, %s) AND state = 'active'"
    with closing(world.endpoint.connect()) as watcher:

        def reached() -> bool:
            active = watcher.execute(query, [f"{world.name}_migrator", "SELECT pg_sleep"]).fetchall()
            return world.ask("SELECT count(*) FROM pg_tables WHERE tablename = 'slow'") == done and bool(active)

        wait_for(reached, 30)
    world.operator.kill()
    world.operator.start()


def test_a_killed_run_goes_on_in_the_schema_where_it_was(world: World):
    sources(world, {**FILES, **SLOW})
    shop(world, autoApply=False)
    world.ready("DatabaseSchema", "shop")
    start(world, "up")
    for done in (0, 1):
        kill_in(world, done)
    run = world.ready("MigrationRun", "up", timeout=60)
    assert verdict(run)[1] == "Applied"
    names = ("carts", "items", "slow")
    assert shown(run) == [(tenant, name, "Applied") for tenant in TENANTS for name in names]
    assert run["status"]["progress"] == "9/9"
    assert history(world) == [(tenant, name) for tenant in TENANTS for name in names]
    events = world.sql("SELECT scope, name FROM selvedge.events WHERE event = 'Applied' ORDER BY scope, version")
    assert events == history(world), "nothing ran twice"


def test_a_killed_way_back_goes_on_with_the_approval_that_it_has(world: World):
    sources(world, {**FILES, **SLOW})
    shop(world)
    world.ready("DatabaseSchema", "shop")
    start(world, "back", action="To", target="20250101000000")
    world.until("MigrationRun", "back", "False", "WaitingForApproval")
    approve(world, "back")
    for left in (2, 1):
        kill_in(world, left)
    run = world.ready("MigrationRun", "back", timeout=60)
    assert verdict(run)[1] == "Undone"
    assert shown(run) == [(tenant, name, "Undone") for tenant in TENANTS for name in ("slow", "items")]
    assert history(world) == [(tenant, "carts") for tenant in TENANTS]
    assert world.ask("SELECT count(*) FROM selvedge.events WHERE event = 'Undone'") == 6


def test_a_redo_that_was_cut_off_is_not_redone_where_it_was_done(world: World):
    sources(world, FILES)
    shop(world)
    world.ready("DatabaseSchema", "shop")
    start(world, "redo", action="Redo", target="20250102000000")
    world.until("MigrationRun", "redo", "False", "WaitingForApproval")
    approve(world, "redo")
    run = world.ready("MigrationRun", "redo")
    assert [row["state"] for row in run["status"]["migrations"]] == ["Undone", "Applied"] * 3
    events = world.ask("SELECT count(*) FROM selvedge.events")
    # as a process leaves it that is killed before its last word
    unsaid = [{**one, "status": "False", "reason": "Running"} for one in run["status"]["conditions"]]
    world.api.patch(
        "MigrationRun", "redo/status", {"status": {"phase": "Running", "finishedAt": None, "conditions": unsaid}}
    )
    world.now("MigrationRun", "redo")
    run = world.ready("MigrationRun", "redo")
    assert [row["state"] for row in run["status"]["migrations"]] == ["Undone", "Applied"] * 3
    assert world.ask("SELECT count(*) FROM selvedge.events") == events
