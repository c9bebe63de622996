"""Placeholders and hooks as fields of a MigrationRun and of a DatabaseSchema, through a real operator."""

from __future__ import annotations

from contextlib import closing

import pytest

from tests.cluster.kube_api import ApiError
from tests.cluster.plugin import Plugin
from tests.cluster.test_migrationrun_actions import shop, sources, start
from tests.cluster.world import World, verdict, wait_for

TENANT = "20250101000000_tenant.sql"
FILES = {
    TENANT: "-- migrate:up\nCREATE TABLE shared.${env:TENANT}_carts (id int);\n"
    "-- migrate:down\nDROP TABLE shared.${env:TENANT}_carts;\n"
}
HOOKS = {
    "beforeRun": "CREATE TABLE IF NOT EXISTS shared.log (what text);\nINSERT INTO shared.log VALUES ('before run');\n",
    "beforeEach": "INSERT INTO shared.log VALUES ('before each');\n",
    "afterEach": "INSERT INTO shared.log VALUES ('after each');\n",
    "afterRun": "INSERT INTO shared.log VALUES ('after run');\n",
}


def tables(world: World) -> list[str]:
    found = world.sql("SELECT tablename::text FROM pg_tables WHERE tablename LIKE '%\\_carts' ORDER BY 1")
    return [name for (name,) in found]


def test_placeholders_and_hooks_of_the_schema_and_of_a_run(world: World):
    sources(world, FILES)
    shop(world, placeholders={"TENANT": "acme"}, hooks=HOOKS)
    world.ready("DatabaseSchema", "shop")
    assert tables(world) == ["acme_carts"]
    said = ["before run", "before each", "after each", "after run"]
    assert [what for (what,) in world.sql("SELECT what FROM shared.log")] == said
    [made] = world.api.list("MigrationRun")
    assert [line.split()[:2] for line in made["status"]["inputs"]] == [
        ["TENANT=acme"],
        ["hook", "beforeRun"],
        ["hook", "beforeEach"],
        ["hook", "afterEach"],
        ["hook", "afterRun"],
    ]

    # what is approved is the way back with these values and hooks, and a person is shown them
    start(world, "back", action="Down", hooks={"beforeRun": "SELECT 1;"})
    run = world.until("MigrationRun", "back", "False", "WaitingForApproval")
    plugin = Plugin(world.kubeconfig, world.namespace)
    shown = plugin("plan", "mig/back")
    assert shown.returncode == 2, shown.stderr
    assert "TENANT=acme, hook beforeRun" in shown.stdout
    with pytest.raises(ApiError, match="a MigrationRun cannot be changed"):
        world.api.patch("MigrationRun", "back", {"spec": {"placeholders": {"TENANT": "globex"}}})
    with pytest.raises(ApiError, match="a MigrationRun cannot be changed"):
        world.api.patch("MigrationRun", "back", {"spec": {"hooks": {"beforeRun": "DROP TABLE shared.log;"}}})
    digest = run["status"]["plan"]
    assert plugin("approve", "mig/back", "--yes", "--digest", digest).returncode == 0
    assert verdict(world.ready("MigrationRun", "back"))[1] == "Undone"
    assert tables(world) == []
    assert world.ask("SELECT count(*) FROM shared.log") == 4, "the run's own hooks took the place of the schema's"

    # other values are another source: autoApply makes a run of its own for them
    start(world, "forward", placeholders={"TENANT": "globex"}, hooks={})
    world.ready("MigrationRun", "forward")
    assert tables(world) == ["globex_carts"]


def test_what_placeholders_and_hooks_are_refused(world: World):
    sources(world, FILES)
    shop(world, autoApply=False)
    world.ready("DatabaseSchema", "shop")
    start(world, "secret", placeholders={"DB_PASSWORD": "x"})
    assert "secrets are not put into" in verdict(world.until("MigrationRun", "secret", "False", "InvalidSpec"))[2]
    start(world, "unlisted", placeholders={"OTHER": "x"})
    refused = verdict(world.until("MigrationRun", "unlisted", "False", "InvalidMigration"))
    assert "${env:TENANT} is not among the placeholders" in refused[2]
    losing = {"beforeRun": "DROP TABLE shared.log;"}
    start(world, "losing", placeholders={"TENANT": "acme"}, hooks=losing)
    refused = verdict(world.until("MigrationRun", "losing", "False", "DestructiveRefused"))
    assert refused[2].startswith("hooks.beforeRun, line 1: drops table shared.log")
    marked = {"beforeRun": "-- allow: drop-table\nDROP TABLE IF EXISTS shared.log;"}
    start(world, "marked", placeholders={"TENANT": "acme"}, hooks=marked)
    world.until("MigrationRun", "marked", "False", "WaitingForApproval")
    files = {"inline": {"files": {**FILES, "beforeRun.sql": "SELECT 1;"}}}
    start(world, "twice", placeholders={"TENANT": "acme"}, hooks={"beforeRun": "SELECT 1;"}, source=files)
    refused = verdict(world.until("MigrationRun", "twice", "False", "InvalidMigration"))
    assert refused[2].startswith("hook beforeRun stands in spec.hooks, and beforeRun.sql lies among the files")
    assert tables(world) == []


def test_a_plan_says_what_running_code_meets(world: World):
    text = "-- allow: drop-table\nDROP TABLE IF EXISTS shared.old;\nALTER TABLE shared.sales ADD tax int NOT NULL;\n"
    sources(world, {"20250101000000_old.sql": text})
    shop(world, autoApply=False)
    world.ready("DatabaseSchema", "shop")
    start(world, "look", action="Plan")
    drop = (
        "warning: 20250101000000_old.sql, line 2: code that runs now may still use table shared.old; drop it in a "
        "release after the one that stops using it (breaks-running-code)"
    )
    required = (
        "warning: 20250101000000_old.sql, line 3: code that runs now inserts rows without column tax of shared.sales, "
        "which is NOT NULL without a default; give it a default, or add it nullable and require it in a later release "
        "(breaks-running-code)"
    )
    said = [drop, required]
    found = world.ready("MigrationRun", "look")["status"]["advice"]
    assert [line for line in found if "breaks-running-code" in line] == said
    start(world, "up")
    run = world.until("MigrationRun", "up", "False", "WaitingForApproval")
    assert run["status"]["advice"] == found
    shown = Plugin(world.kubeconfig, world.namespace)("plan", "mig/up").stdout
    assert all(line in shown for line in said)


def test_names_are_those_that_the_schema_says(world: World):
    named = "CREATE TABLE shared.sales (id int, day date);\nCREATE INDEX {} ON shared.sales (day);\n"
    sources(world, {"20250101000000_sales.sql": named.format("sales_day_idx")})
    conventions = {"index": "{table}_{columns}_idx"}
    shop(world, conventions=conventions)
    world.ready("DatabaseSchema", "shop")
    [made] = world.api.list("MigrationRun")
    assert not [line for line in made["status"].get("advice") or () if "(naming)" in line]
    # other conventions are no other run: they are advice, and no part of what a digest is taken of
    shop(world, conventions={**conventions, "pluralTables": False})
    world.ready("DatabaseSchema", "shop")
    assert len(world.api.list("MigrationRun")) == 1

    late = {"20250102000000_late.sql": named.format("idx_late_day").replace("sales", "late")}
    late = {"20250101000000_sales.sql": named.format("sales_day_idx"), **late}
    start(world, "names", action="Plan", source={"inline": {"files": late}})
    told = [line for line in world.ready("MigrationRun", "names")["status"]["advice"] if "(naming)" in line]
    expected = "line 2: index idx_late_day of table late is named otherwise; name it late_{columns}_idx (naming)"
    assert told == [f"advice: 20250102000000_late.sql, {expected}"]


def test_an_index_build_that_waits_is_named_as_such(world: World):
    sources(world, {"20250101000000_sales.sql": "CREATE TABLE shared.sales (id int);\n"})
    shop(world, autoApply=False)
    world.ready("DatabaseSchema", "shop")
    start(world, "table")
    world.ready("MigrationRun", "table")
    with closing(world.endpoint.connect(world.name)) as writer, writer.transaction():
        writer.execute("INSERT INTO shared.sales VALUES (1)")
        pid = writer.info.backend_pid
        build = {"20250102000000_index.sql": "CREATE INDEX CONCURRENTLY idx_sales_id ON shared.sales (id);\n"}
        sources(world, {"20250101000000_sales.sql": "CREATE TABLE shared.sales (id int);\n", **build})
        start(world, "index")
        run = world.until("MigrationRun", "index", "False", "BuildingIndex", timeout=60)
        assert run["status"]["phase"] == "Running"
        waits = wait_for(lambda: world.api.get("MigrationRun", "index")["status"]["migrations"][0].get("waitingFor"))
        assert waits.startswith("index build: ")
        assert str(pid) in waits, "who it waits for is named"
    assert verdict(world.ready("MigrationRun", "index", timeout=60))[1] == "Applied"
