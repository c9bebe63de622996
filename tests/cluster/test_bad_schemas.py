"""DatabaseSchemas and MigrationRuns that cannot be: each with its reason and message; everything else goes on."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.cluster.kube_api import ApiError, Document
from tests.cluster.world import World, condition, verdict, wait_for

STORM_SECONDS = 10.0


def not_ready(document: Document) -> dict[str, str]:
    """Objects that are not ready, with their state."""
    return {f"{o['kind']} {o['name']}": o["state"] for o in document["status"].get("notReady", ())}


def test_each_wrong_schema_says_what_is_wrong_and_others_go_on(world: World):
    role = world.role("shared")
    world.sql(f"CREATE DATABASE {world.name}_there", database="postgres")
    bad: dict[str, tuple[dict[str, Any], str, str]] = {
        "no-server": (
            {"server": "absent", "postgres": {}},
            "WaitingForServer",
            f"DatabaseServer {world.namespace}/absent does not exist: apply it, or correct spec.serverRef",
        ),
        "other-engine": (
            {"mongodb": {}},
            "InvalidSpec",
            (
                f"DatabaseServer {world.namespace}/main is a Postgres server and this declares a MongoDB database: "
                "correct spec.serverRef"
            ),
        ),
        "no-extension": (
            {"postgres": {"extensions": [{"name": "pgcrypto"}, {"name": "no_such_thing"}]}},
            "ExtensionNotAvailable",
            "extension no_such_thing is not installed on the server: install its package there, or mark it optional",
        ),
        "long-name": (
            {"postgres": {"roles": [{"name": world.name + "ä" * 27}]}},
            "InvalidSpec",
            (
                f"DatabaseSchema long-name: spec.postgres.roles[0].name: {world.name}{'ä' * 9}… is 65 bytes long "
                "and 63 are kept: shorten it"
            ),
        ),
        "no-role": (
            {"postgres": {"schemas": [{"name": "shared", "owner": world.role("absent")}]}},
            "RoleNotFound",
            f"schema shared is to be owned by role {world.role('absent')}, which does not exist: declare it",
        ),
        "adopted": (
            {"database": f"{world.name}_there", "postgres": {}},
            "AdoptionRequired",
            (
                f"database {world.name}_there exists and no DatabaseSchema claims it: set spec.adoption to Allow to "
                "take it over, or rename yours"
            ),
        ),
    }
    for number, (name, (spec, _, _)) in enumerate(bad.items()):
        world.schema(name, **{"database": f"{world.name}_{number}", **spec})
    world.schema("good", postgres={"roles": [{"name": role}]})
    world.ready("DatabaseSchema", "good")

    def answers() -> dict[str, tuple[str, str, str]]:
        return {name: verdict(world.api.get("DatabaseSchema", name)) for name in bad}

    def first() -> bool:
        """Whether each was looked at; a watch may show a schema before the server that it names."""
        waiting = {name for name, answer in answers().items() if answer[1] == "WaitingForServer"}
        return all(answer[0] for answer in answers().values()) and waiting <= {"no-server"}

    wait_for(first, what=answers)
    assert answers() == {name: ("False", reason, message) for name, (_, reason, message) in bad.items()}
    # what is right in a declaration is made all the same
    assert world.ask("SELECT count(*) FROM pg_extension WHERE extname = 'pgcrypto'", database=f"{world.name}_2") == 1
    assert not_ready(world.api.get("DatabaseSchema", "no-extension")) == {"extension no_such_thing": "Failed"}

    before, lines = sum(world.operator.writes().values()), len(world.operator.logs().splitlines())
    time.sleep(STORM_SECONDS)  # nothing can be waited for: it is about what does not happen
    assert sum(world.operator.writes().values()) - before <= 2 * len(bad)
    assert len(world.operator.logs().splitlines()) - lines <= 5 * len(bad)


def test_the_older_of_two_that_claim_one_role_keeps_it(world: World):
    role = world.role("app")
    world.schema("older", postgres={"roles": [{"name": role, "settings": {"statement_timeout": "1s"}}]})
    world.ready("DatabaseSchema", "older")
    world.schema(
        "younger",
        database=f"{world.name}_2",
        postgres={"roles": [{"name": role, "settings": {"statement_timeout": "2s"}}], "schemas": [{"name": "mine"}]},
    )
    document = world.until("DatabaseSchema", "younger", "False", "Conflict")
    message = f"role {role} is claimed by DatabaseSchema {world.namespace}/older: remove it from one of the two"
    assert verdict(document)[2] == message
    assert not_ready(document) == {f"role {role}": "Conflict"}
    # a conflict is one object's: the rest is made
    assert world.ask("SELECT count(*) FROM pg_namespace WHERE nspname = 'mine'", database=f"{world.name}_2") == 1
    setting = f"SELECT rolconfig[1] FROM pg_roles WHERE rolname = '{role}'"
    assert world.ask(setting) == "statement_timeout=1s"
    world.ready("DatabaseSchema", "older")
    # and when the older lets go, the younger takes over by itself
    world.api.delete("DatabaseSchema", "older")
    document = world.until("DatabaseSchema", "younger", "False", "AdoptionRequired", 30)
    world.schema(
        "younger",
        adoption="Allow",
        database=f"{world.name}_2",
        postgres={"roles": [{"name": role, "settings": {"statement_timeout": "2s"}}], "schemas": [{"name": "mine"}]},
    )
    world.ready("DatabaseSchema", "younger")
    assert world.ask(setting) == "statement_timeout=2s"


def test_who_stands_outside_access_is_refused(bare: World):
    world, billing = bare, bare.role("billing")
    world.server(access=[{"namespaces": {"from": "Selector", "selector": {"matchLabels": {"team": "billing"}}}}])
    world.server(
        name="narrow",
        access=[{"databases": [f"{world.name}_b*"], "rolePrefixes": [billing], "extensions": ["pgcrypto"]}],
    )
    world.schema("outside", postgres={})
    document = world.until("DatabaseSchema", "outside", "False", "AccessDenied")
    assert verdict(document)[2] == (
        f"namespace {world.namespace} may not use DatabaseServer {world.namespace}/main: add it to spec.access there"
    )
    world.schema("other-database", server="narrow", database=f"{world.name}_x", postgres={})
    document = world.until("DatabaseSchema", "other-database", "False", "AccessDenied")
    assert verdict(document)[2] == (
        f"the DatabaseServer's access does not let namespace {world.namespace} use database {world.name}_x: add it to "
        "spec.access there"
    )
    inside = {"server": "narrow", "database": f"{world.name}_b1"}
    world.schema("other-role", **inside, postgres={"roles": [{"name": world.role("other")}, {"name": billing}]})
    document = world.until("DatabaseSchema", "other-role", "False", "AccessDenied")
    assert verdict(document)[2] == (
        f"role {world.role('other')} names role {world.role('other')}, which the DatabaseServer's access does not give "
        f"to namespace {world.namespace}: add its prefix to spec.access there"
    )
    assert not_ready(document) == {f"role {world.role('other')}": "Failed"}
    inside["database"] += "x"
    world.schema("other-extension", **inside, postgres={"extensions": [{"name": "hstore"}, {"name": "pgcrypto"}]})
    document = world.until("DatabaseSchema", "other-extension", "False", "AccessDenied")
    assert verdict(document)[2] == (
        f"the DatabaseServer's access does not let namespace {world.namespace} use extension hstore: add it to "
        "spec.access there"
    )
    assert not_ready(document) == {"extension hstore": "Failed"}
    databases = world.sql(f"SELECT datname FROM pg_database WHERE datname LIKE '{world.name}%'", database="postgres")
    assert {name for (name,) in databases} == {f"{world.name}_b1", f"{world.name}_b1x"}
    roles = world.sql(f"SELECT rolname FROM pg_roles WHERE rolname LIKE '{world.name}%'", database="postgres")
    assert {name for (name,) in roles} == {billing}


MIGRATIONS = {
    "20250101000000_users.sql": "-- migrate:up\nCREATE TABLE shared.users (id int PRIMARY KEY);\n",
    "20250102000000_items.sql": (
        "-- migrate:up\nCREATE TABLE shared.items (id int);\nINSERT INTO shared.items VALUES (1);\n\n"
        "INSERT INTO shared.nowhere VALUES (1);\nINSERT INTO shared.items VALUES (2);\nSELECT 1;\n"
    ),
    "20250103000000_later.sql": "-- migrate:up\nCREATE TABLE shared.later (id int);\n",
}


def run(name: str, files: dict[str, str]) -> Document:
    """A MigrationRun on the DatabaseSchema ``shop``."""
    spec = {"schemaRef": {"name": "shop"}, "source": {"inline": {"files": files}}}
    return {"kind": "MigrationRun", "metadata": {"name": name}, "spec": spec}


@pytest.fixture
def shop(world: World) -> World:
    """With the DatabaseSchema ``shop``: an owner and the schema ``shared``."""
    owner = world.role("owner")
    world.schema("shop", postgres={"owner": owner, "roles": [{"name": owner}], "schemas": [{"name": "shared"}]})
    return world


@pytest.mark.usefixtures("postgres")
def test_a_migration_that_fails_is_undone_and_named_with_file_line_and_statement(shop: World):
    shop.api.apply(run("first", MIGRATIONS))
    document = shop.until("MigrationRun", "first", "False", "StatementFailed")
    assert condition(document, "Stalled")["status"] == "True"
    assert document["status"]["phase"] == "Failed"
    rows = {row["version"]: row for row in document["status"]["migrations"]}
    assert [rows[v]["state"] for v in sorted(rows)] == ["Applied", "Failed", "Pending"]
    failed = rows["20250102000000"]
    assert failed["statements"] == "2/5"
    error = failed["error"]
    assert (error["file"], error["line"]) == ("20250102000000_items.sql", 5)
    assert error["statement"] == "INSERT INTO shared.nowhere VALUES (1)"
    assert error["sqlstate"] == "42P01"
    assert error["message"] == 'relation "shared.nowhere" does not exist'
    assert verdict(document)[2] == (
        '20250102000000_items.sql, line 5: relation "shared.nowhere" does not exist (42P01) in: INSERT INTO '
        "shared.nowhere VALUES (1); this run is over: once that is mended, make a new run"
    )
    tables = shop.sql("SELECT tablename::text FROM pg_tables WHERE schemaname = 'shared'")
    assert {name for (name,) in tables} == {"users"}
    assert len(wait_for(lambda: shop.api.events("first", "StatementFailed"))) == 1
    assert shop.api.get("DatabaseSchema", "shop")["status"]["conditions"][0]["status"] == "True"
    # corrected, a new run does what is left
    good = MIGRATIONS["20250102000000_items.sql"].replace("shared.nowhere", "shared.items")
    shop.api.apply(run("second", {**MIGRATIONS, "20250102000000_items.sql": good}))
    document = shop.ready("MigrationRun", "second")
    assert document["status"]["progress"] == "2/2"
    assert shop.ask("SELECT count(*) FROM shared.items") == 3
    assert shop.ask("SELECT tableowner::text FROM pg_tables WHERE tablename = 'items'") == shop.role("owner")


def test_a_migration_that_was_changed_after_it_ran_is_refused(shop: World):
    files = {name: MIGRATIONS[name] for name in ("20250101000000_users.sql", "20250103000000_later.sql")}
    shop.api.apply(run("first", {"20250101000000_users.sql": files["20250101000000_users.sql"]}))
    shop.ready("MigrationRun", "first")
    changed = files["20250101000000_users.sql"].replace("id int", "id bigint")
    shop.api.apply(run("second", {**files, "20250101000000_users.sql": changed}))
    document = shop.until("MigrationRun", "second", "False", "ChecksumMismatch")
    assert verdict(document)[2] == (
        "20250101000000_users.sql changed after it ran: put the old text back and write the change as a new migration; "
        "this run is over: once that is mended, make a new run"
    )
    assert condition(document, "Stalled")["status"] == "True"
    assert shop.ask("SELECT count(*) FROM pg_tables WHERE tablename = 'later'") == 0


def test_a_migration_run_cannot_be_edited(shop: World):
    shop.api.apply(run("first", {"20250101000000_users.sql": MIGRATIONS["20250101000000_users.sql"]}))
    shop.ready("MigrationRun", "first")
    with pytest.raises(ApiError) as caught:
        shop.api.apply(run("first", MIGRATIONS))
    assert caught.value.code == 422
    assert "a MigrationRun cannot be changed, approvedPlan aside: make a new one" in caught.value.message
    assert shop.ready("MigrationRun", "first")["status"]["phase"] == "Succeeded"
