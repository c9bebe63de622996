"""What is over stays over: approvals that were used, runs that ended, and what autoApply makes of a failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.kube_api import Document
from tests.cluster.test_migrationrun_actions import (
    FILES,
    ORDERS,
    STOCK,
    USERS,
    approve,
    selvedge,
    shop,
    sources,
    start,
    versions,
)
from tests.cluster.world import World, condition, verdict, wait_for

ALL = ["20250101000000", "20250102000000", "20250103000000"]


def seen(world: World, name: str) -> Document:
    """The run, once the operator has written a status for its newest spec."""

    def current() -> Document | None:
        found = world.api.get("MigrationRun", name)
        same = (found.get("status") or {}).get("observedGeneration") == found["metadata"]["generation"]
        return found if same else None

    found = wait_for(current)
    assert found is not None
    return found


def again(world: World, name: str, digest: str) -> Document:
    """The same resource made anew, as a GitOps tool does it: it has the approval of the one before."""
    world.api.delete("MigrationRun", name)
    wait_for(lambda: not [one for one in world.api.list("MigrationRun") if one["metadata"]["name"] == name])
    start(world, name, action="Down", approvedPlan=digest)
    return world.until("MigrationRun", name, "False", "Superseded")


def test_an_approval_is_used_up(world: World):
    sources(world, FILES)
    shop(world)
    world.ready("DatabaseSchema", "shop")
    start(world, "back", action="Down")
    world.until("MigrationRun", "back", "False", "WaitingForApproval")
    digest = world.api.get("MigrationRun", "back")["status"]["plan"]
    approve(world, "back", digest)
    world.ready("MigrationRun", "back")
    assert versions(world) == ALL[:2]

    # a run that is over does not start again, and its status is of the newest spec all the same
    approve(world, "back", "sha256:" + "0" * 64)
    over = seen(world, "back")
    assert verdict(over) == ("True", "Undone", "1 migration was undone")
    assert over["status"]["phase"] == "Succeeded"
    assert versions(world) == ALL[:2]

    # another uid with the approval of Git, as the history is now and once the migration ran again
    again(world, "back", digest)
    assert versions(world) == ALL[:2]
    start(world, "forward", action="Up")
    world.ready("MigrationRun", "forward")
    waits = again(world, "back", digest)
    assert versions(world) == ALL
    assert [row["version"] for row in waits["status"]["migrations"]] == ALL[2:], "the very steps that were approved"
    approve(world, "back", waits["status"]["plan"])
    world.ready("MigrationRun", "back")
    assert versions(world) == ALL[:2]


@pytest.mark.parametrize("operator_env", [{"SELVEDGE_HISTORY_TABLE": "wallet_history"}], indirect=True, ids=["named"])
def test_the_history_stands_where_the_operator_is_told_to_keep_it(world: World, tmp_path: Path):
    sources(world, FILES)
    shop(world)
    world.ready("DatabaseSchema", "shop")
    tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'selvedge' ORDER BY 1"
    assert world.sql(tables) == [("claims",), ("wallet_history",), ("wallet_history_events",)]
    start(world, "back", action="Down")
    world.until("MigrationRun", "back", "False", "WaitingForApproval")
    approve(world, "back")
    world.ready("MigrationRun", "back")
    assert world.sql("SELECT version::text FROM selvedge.wallet_history ORDER BY 1") == [(one,) for one in ALL[:2]]
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    told = selvedge(world, "status", "--history-table", "wallet_history", directory=tmp_path)
    assert told.stdout.splitlines()[0].endswith("2 Applied, 1 Pending"), (told.stdout, told.stderr)


def test_a_run_that_failed_does_not_start_again(world: World):
    sources(world, FILES)
    shop(world, autoApply=False)
    world.ready("DatabaseSchema", "shop")
    files = {USERS: FILES[USERS], ORDERS: "CREATE TABLE nowhere.orders (id int);\n"}
    start(world, "wrong", source={"inline": {"files": files}})
    message = verdict(world.until("MigrationRun", "wrong", "False", "StatementFailed"))[2]
    assert message.endswith("this run is over: once that is mended, make a new run")
    world.sql(f"CREATE SCHEMA nowhere AUTHORIZATION {world.role('owner')}")
    approve(world, "wrong", "sha256:" + "0" * 64)
    over = seen(world, "wrong")
    assert verdict(over) == ("False", "StatementFailed", message)
    assert (over["status"]["phase"], condition(over, "Stalled")["status"]) == ("Failed", "True")
    assert versions(world) == ALL[:1]
    start(world, "right", source={"inline": {"files": files}})
    world.ready("MigrationRun", "right")
    assert versions(world) == ALL[:2]


def runs(world: World) -> dict[str, str]:
    """Uid and phase of each run."""
    return {one["metadata"]["uid"]: (one.get("status") or {}).get("phase") for one in world.api.list("MigrationRun")}


def passes(world: World, number: int) -> None:
    """Wait until the database was looked at so many times more."""
    for _ in range(number):
        before = world.operator.value("selvedge_reconcile_total", kind="DatabaseSchema")
        world.now("DatabaseSchema", "shop")
        wait_for(lambda before=before: world.operator.value("selvedge_reconcile_total", kind="DatabaseSchema") > before)


def test_autoapply_after_a_failure(world: World):
    """The same files are not run again for ever; mended ones are, and so are the same ones once somebody says so."""
    broken = {USERS: FILES[USERS], ORDERS: "CREATE TABLE nowhere.orders (id int);\n"}
    sources(world, broken)
    shop(world)
    waits = world.until("DatabaseSchema", "shop", "False", "WaitingForMigrations")
    wait_for(lambda: "failed: see its status" in verdict(world.api.get("DatabaseSchema", "shop"))[2])
    [first] = runs(world)
    passes(world, 3)
    assert runs(world) == {first: "Failed"}
    assert versions(world) == ALL[:1]

    # the cause was not in the files
    waits = world.api.get("DatabaseSchema", "shop")
    assert "mend that and delete the run: it is made anew" in verdict(waits)[2]
    world.sql(f"CREATE SCHEMA nowhere AUTHORIZATION {world.role('owner')}")
    [name] = [one["metadata"]["name"] for one in world.api.list("MigrationRun")]
    world.api.delete("MigrationRun", name)
    wait_for(lambda: first not in runs(world))
    world.now("DatabaseSchema", "shop")
    world.ready("DatabaseSchema", "shop")
    assert first not in runs(world)
    assert versions(world) == ALL[:2]

    # the cause is in the files
    sources(world, {**broken, STOCK: "CREATE TABLE elsewhere.stock (id int);\n"})
    world.until("DatabaseSchema", "shop", "False", "WaitingForMigrations")
    wait_for(lambda: "failed: see its status" in verdict(world.api.get("DatabaseSchema", "shop"))[2])
    sources(world, {**broken, STOCK: FILES[STOCK]})
    world.ready("DatabaseSchema", "shop")
    assert versions(world) == ALL
    assert sorted(filter(None, runs(world).values())) == ["Failed", "Succeeded", "Succeeded"]


def test_what_autoapply_did_not_make_runs_by_its_own_word(world: World):
    """Whoever makes a run writes its owner; only one as autoApply makes them follows the DatabaseSchema."""
    sources(world, FILES)
    shop(world)
    world.ready("DatabaseSchema", "shop")
    world.api.patch("DatabaseSchema", "shop", {"spec": {"destructive": "Allow"}})
    schema = world.ready("DatabaseSchema", "shop")
    owner = {key: schema[key] for key in ("apiVersion", "kind")}
    owner |= {key: schema["metadata"][key] for key in ("name", "uid")}
    gone = {"20250104000000_gone.sql": "-- allow: drop-table\nDROP TABLE shared.stock;\n"}
    forged = {"back": {"action": "Down"}, "other": {"source": {"inline": {"files": {**FILES, **gone}}}}}
    for name, spec in forged.items():
        metadata = {"name": name, "ownerReferences": [{**owner, "controller": True}]}
        world.api.apply({"kind": "MigrationRun", "metadata": metadata, "spec": {"schemaRef": {"name": "shop"}, **spec}})
        world.until("MigrationRun", name, "False", "WaitingForApproval")
        world.api.delete("MigrationRun", name)
    assert versions(world) == ALL
    sources(world, {**FILES, **gone})
    wait_for(lambda: len(versions(world)) == 4)
    world.ready("DatabaseSchema", "shop")


def test_another_environment_is_another_run(world: World):
    sources(world, {**FILES, STOCK: f"-- env: staging\n{FILES[STOCK]}"})
    shop(world)
    world.ready("DatabaseSchema", "shop")
    assert versions(world) == ALL[:2]
    shop(world, environment="staging")
    world.ready("DatabaseSchema", "shop")
    assert versions(world) == ALL


@pytest.mark.long
def test_after_run_is_not_lost_with_its_operator(world: World):
    hook = "CREATE TABLE IF NOT EXISTS shared.log (n int); INSERT INTO shared.log VALUES (1); SELECT pg_sleep(3);"
    sources(world, FILES)
    shop(world, hooks={"afterRun": hook})
    sleeping = (
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%sleep(3)%' AND pid <> pg_backend_pid() "
        "AND datname = current_database()"
    )
    wait_for(lambda: world.databases and world.operator.value("selvedge_reconcile_total", kind="DatabaseSchema") > 0)
    wait_for(lambda: asleep(world, sleeping))
    assert versions(world) == ALL
    world.operator.kill()
    world.operator.start()
    world.ready("DatabaseSchema", "shop", timeout=120)
    assert world.ask("SELECT count(*) FROM shared.log") == 1
    [run] = world.api.list("MigrationRun")
    assert run["status"]["phase"] == "Succeeded"
    assert world.sql("SELECT event FROM selvedge.events WHERE event LIKE 'After%' ORDER BY id") == [
        ("AfterRunDue",),
        ("AfterRun",),
    ]


@pytest.mark.long
def test_the_rest_of_a_redo_runs_by_its_approval_and_what_never_ran_has_none(world: World):
    """Killed between the two; what the way up loses was lost by the way down, and its file does not say so."""
    lossy = (
        "-- migrate:up\nSELECT pg_sleep(1.5);\nDROP TABLE shared.orders;\n"
        "-- migrate:down\nCREATE TABLE shared.orders (id int);\n"
    )
    sources(world, {**FILES, STOCK: lossy})
    shop(world, autoApply=False)
    world.ready("DatabaseSchema", "shop")
    start(world, "never", action="Redo", target=STOCK[:14], destructive="Allow")
    never = verdict(world.until("MigrationRun", "never", "False", "InvalidSpec"))[2]
    assert "did not run: there is nothing to redo" in never
    start(world, "up", destructive="Allow")
    world.ready("MigrationRun", "up")
    start(world, "redo", action="Redo")
    world.until("MigrationRun", "redo", "False", "WaitingForApproval")
    approve(world, "redo")
    wait_for(lambda: versions(world) == ALL[:2])
    world.operator.kill()
    world.operator.start()
    run = world.ready("MigrationRun", "redo", timeout=60)
    assert [row["state"] for row in run["status"]["migrations"]] == ["Undone", "Applied"]
    assert versions(world) == ALL
    assert world.sql(f"SELECT event FROM selvedge.events WHERE version = {STOCK[:14]} ORDER BY id") == [
        ("Applied",),
        ("Undone",),
        ("Applied",),
    ]


def asleep(world: World, query: str) -> bool:
    """Whether the hook is running; there may be no database yet."""
    exists = "SELECT count(*) FROM pg_database WHERE datname = %s"
    with world.endpoint.connect() as connection:
        found = connection.execute(exists, [world.name]).fetchone()
    return bool(found and found[0] and world.ask(query) > 0)
