"""Every action of a MigrationRun through a real operator: what waits for a person, what autoApply leaves alone."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from psycopg.errors import UniqueViolation

from tests.cluster.kube_api import Document
from tests.cluster.plugin import Plugin
from tests.cluster.world import World, condition, verdict, wait_for

USERS, ORDERS, STOCK = (f"2025010{n}000000_{name}.sql" for n, name in ((1, "users"), (2, "orders"), (3, "stock")))
FILES = {
    USERS: "-- migrate:up\nCREATE TABLE shared.users (id int);\n-- migrate:down\nDROP TABLE shared.users;\n",
    ORDERS: "-- migrate:up\nCREATE TABLE shared.orders (id int);\n-- migrate:down\nDROP TABLE shared.orders;\n",
    STOCK: "-- migrate:up\nCREATE TABLE shared.stock (id int);\n-- migrate:down\nDROP TABLE shared.stock;\n",
}


#: Kind of a repair, its target, the command's options, and what stands in the events; each has work after those before.
REPAIRS = (
    ("Accept", {}, ("--accept", "all"), "Accepted"),
    ("MarkUnapplied", {"target": STOCK[:14]}, ("--mark-unapplied", STOCK[:14]), "Unmarked"),
    ("MarkApplied", {"target": STOCK[:14]}, ("--mark-applied", STOCK[:14]), "Marked"),
    ("DropInvalidIndexes", {}, ("--drop-invalid-indexes",), "DropInvalidIndex"),
)


def versions(world: World) -> list[str]:
    query = "SELECT version::text FROM selvedge.history WHERE state = 'Applied' AND kind = 'Versioned' ORDER BY version"
    found = world.sql(query)
    return [version for (version,) in found]


def start(world: World, name: str, annotations: dict[str, str] | None = None, **spec: Any) -> None:
    metadata = {"name": name, "annotations": annotations or {}}
    world.api.apply({"kind": "MigrationRun", "metadata": metadata, "spec": {"schemaRef": {"name": "shop"}, **spec}})


def approve(world: World, name: str, digest: str = "") -> None:
    digest = digest or world.api.get("MigrationRun", name)["status"]["plan"]
    world.api.patch("MigrationRun", name, {"spec": {"approvedPlan": digest}})


def rows(run: Document) -> list[tuple[str, str, str]]:
    return [(row["name"], row["direction"], row["state"]) for row in run["status"]["migrations"]]


def sources(world: World, files: dict[str, str], name: str = "migrations") -> None:
    labels = {"selvedge.dev/watch": "true"}
    world.api.apply({"kind": "ConfigMap", "metadata": {"name": name, "labels": labels}, "data": files})


def shop(world: World, **migrations: Any) -> Document:
    owner = world.role("owner")
    declared = {"source": {"configMaps": [{"name": "migrations"}]}, **migrations}
    postgres = {
        "owner": owner,
        "roles": [{"name": owner}],
        "schemas": [{"name": "shared", "owner": owner}],
    }
    return world.schema("shop", postgres=postgres, migrations=declared)


def selvedge(world: World, *arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    endpoint = world.endpoint
    url = (
        f"postgresql://{endpoint.username}@{endpoint.host}:{endpoint.port}/{world.name}"
        f"?sslmode={endpoint.sslmode}&sslrootcert={endpoint.ca_path}"
    )
    environ = {key: value for key, value in os.environ.items() if key in ("PATH", "HOME")}
    return subprocess.run(
        [sys.executable, "-m", "selvedge", "migrate", *arguments, "--url", url, "--dir", str(directory)],
        env={**environ, "PGPASSWORD": endpoint.password},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def repaired(
    world: World, directory: Path, kind: str, target: dict[str, str], options: tuple[str, ...], said: str
) -> Document:
    """The run of a repair after a file was changed, approved by the digest that CI computes from the same files."""
    files = {**FILES, STOCK: FILES[STOCK].replace("id int", "id bigint")}
    for file, text in files.items():
        (directory / file).write_text(text)
    marks = {"selvedge.dev/repair": kind, "selvedge.dev/reason": f"why {kind}", "selvedge.dev/actor": "ada"}
    planned = selvedge(world, "plan", "--action", "repair", *options, "-o", "json", directory=directory)
    digest = json.loads(planned.stdout)["digest"]
    # whoever is asked is shown the same, and the reviewed commit may hold it from the beginning
    approved = {} if kind == "Accept" else {"approvedPlan": digest}
    name, source = f"repair-{kind.lower()}", {"inline": {"files": files}}
    start(world, name, marks, action="Repair", source=source, **target, **approved)
    if not approved:
        assert world.until("MigrationRun", name, "False", "WaitingForApproval")["status"]["plan"] == digest
        approve(world, name)
    done = world.ready("MigrationRun", name)
    assert verdict(done)[1] == "Repaired"
    [(event, actor, message)] = world.sql("SELECT event, actor, message FROM selvedge.events ORDER BY id DESC LIMIT 1")
    assert (event, actor, message.endswith(f"why {kind}")) == (said, "ada", True)
    return done


def test_going_back_waits_for_a_person_and_autoapply_leaves_it(world: World, tmp_path: Path):
    plugin = Plugin(world.kubeconfig, world.namespace)
    sources(world, FILES)
    shop(world)
    world.ready("DatabaseSchema", "shop")
    assert versions(world) == ["20250101000000", "20250102000000", "20250103000000"]

    start(world, "back", action="Down", target="20250101000000")
    run = world.until("MigrationRun", "back", "False", "WaitingForApproval")
    assert run["status"]["phase"] == "WaitingForApproval"
    assert condition(run, "Stalled")["status"] == "False"
    assert rows(run) == [("stock", "down", "Pending"), ("orders", "down", "Pending")]
    assert "each is undone" in verdict(run)[2]
    assert run["status"]["plan"] in verdict(run)[2]
    assert len(versions(world)) == 3
    approve(world, "back", "sha256:" + "0" * 64)
    assert len(versions(world)) == 3
    world.until("MigrationRun", "back", "False", "Superseded")
    shown = plugin("plan", "mig/back")
    assert shown.returncode == 2, shown.stderr
    assert "down  20250103000000 stock   1 statements" in shown.stdout
    digest = shown.stdout.split("digest: ")[1].strip()
    assert plugin("approve", "mig/back", "--yes", "--digest", "sha256:" + "0" * 64).returncode == 1
    approved = plugin("approve", "mig/back", "--yes", "--digest", digest)
    assert approved.stdout == f"migrationrun back: approved {digest}\n", approved.stderr
    run = world.ready("MigrationRun", "back")
    assert plugin("plan", "mig/back").stdout == "migrationrun back: nothing waits\n"
    assert verdict(run)[1:] == ("Undone", "2 migrations were undone")
    assert (run["status"]["progress"], run["status"]["version"]) == ("2/2", "20250101000000")
    assert rows(run) == [("stock", "down", "Undone"), ("orders", "down", "Undone")]
    assert versions(world) == ["20250101000000"]

    # another file: what was taken back is not put forward again by itself
    late = {"20250104000000_late.sql": "CREATE TABLE shared.late (id int);\n"}
    sources(world, {**FILES, **late})
    waits = world.until("DatabaseSchema", "shop", "False", "WaitingForMigrations")
    assert "MigrationRun back took the database back" in verdict(waits)[2]
    assert versions(world) == ["20250101000000"]
    shop(world, targetVersion="20250102000000")
    world.ready("DatabaseSchema", "shop")
    assert versions(world) == ["20250101000000", "20250102000000"]
    # a target below what has run is kept by doing nothing
    shop(world, targetVersion="20250101000000")
    world.ready("DatabaseSchema", "shop")
    assert versions(world) == ["20250101000000", "20250102000000"]

    # A file is gone: the history keeps the way down, and 0 is the empty database. GitOps: the reviewed commit that
    # brings the run brings its approval, whose digest was computed from the same files.
    inline = {"inline": {"files": {USERS: FILES[USERS]}}}
    (tmp_path / USERS).write_text(FILES[USERS])
    planned = selvedge(world, "plan", "--action", "to", "--target", "0", "-o", "json", directory=tmp_path)
    digest = json.loads(planned.stdout)["digest"]
    start(world, "empty", action="To", target="0", source=inline, approvedPlan=digest)
    assert verdict(world.ready("MigrationRun", "empty"))[1] == "Undone"
    assert versions(world) == []
    assert world.ask("SELECT count(*) FROM pg_tables WHERE schemaname = 'shared'") == 0


def test_baseline_repair_redo_and_looking(world: World, tmp_path: Path):
    sources(world, FILES)
    shop(world, autoApply=False)
    world.ready("DatabaseSchema", "shop")
    start(world, "look", action="Plan")
    run = world.ready("MigrationRun", "look")
    assert verdict(run)[1:] == ("Planned", "3 migrations would run")
    assert world.ask("SELECT to_regclass('selvedge.history')") is None, "a plan writes nothing"
    start(world, "base", action="Baseline", target="20250102000000")
    assert verdict(world.ready("MigrationRun", "base"))[1:] == ("Baselined", "2 migrations count as run")
    assert world.ask("SELECT to_regclass('shared.users')") is None
    start(world, "up", transaction="All")
    assert verdict(world.ready("MigrationRun", "up"))[1:] == ("Applied", "1 migration was applied")
    start(world, "check", action="Validate")
    assert verdict(world.ready("MigrationRun", "check"))[1] == "Validated"

    start(world, "redo", action="Redo", destructive="Allow")
    run = world.ready("MigrationRun", "redo")
    assert rows(run) == [("stock", "down", "Undone"), ("stock", "up", "Applied")]
    assert run["status"]["progress"] == "2/2"
    # as a process leaves it that is killed after its last commit, before its last word
    events = world.sql("SELECT count(*) FROM selvedge.events")
    unsaid = [{**one, "status": "False", "reason": "Running"} for one in run["status"]["conditions"]]
    left = {"phase": "Running", "finishedAt": None, "conditions": unsaid}
    world.api.patch("MigrationRun", "redo/status", {"status": left})
    run = world.ready("MigrationRun", "redo")
    assert rows(run) == [("stock", "down", "Undone"), ("stock", "up", "Applied")]
    assert world.sql("SELECT count(*) FROM selvedge.events") == events, "it was not redone once more"

    start(world, "nameless", action="Repair", target="20250103000000", destructive="Allow")
    refused = world.until("MigrationRun", "nameless", "False", "InvalidSpec")
    assert "annotation selvedge.dev/reason" in verdict(refused)[2]
    repaired(world, tmp_path, *REPAIRS[0])


@pytest.mark.long
def test_repairs_of_each_kind(world: World, tmp_path: Path):
    sources(world, FILES)
    shop(world, autoApply=False)
    world.ready("DatabaseSchema", "shop")
    start(world, "up")
    world.ready("MigrationRun", "up")
    world.sql("INSERT INTO shared.stock VALUES (1), (1)")
    with closing(world.endpoint.connect(world.name)) as other, pytest.raises(UniqueViolation):
        other.execute("CREATE UNIQUE INDEX CONCURRENTLY broken ON shared.stock (id)")
    for kind, target, options, said in REPAIRS:
        done = repaired(world, tmp_path, kind, target, options, said)
        left = ["20250101000000", "20250102000000", "20250103000000"]
        assert versions(world) == (left[:2] if kind == "MarkUnapplied" else left)
    assert "shared.broken" in verdict(done)[2]
    assert world.ask("SELECT to_regclass('shared.broken')") is None
    assert world.ask("SELECT count(*) FROM shared.stock") == 2, "no repair undoes or runs anything"


def test_the_digest_of_the_command_line_lets_a_destructive_run_through(world: World, tmp_path: Path):
    gone = "20250104000000_gone.sql"
    sources(world, {USERS: FILES[USERS]})
    shop(world)
    world.ready("DatabaseSchema", "shop")
    # not even an approval lets through what its own file does not speak of
    start(world, "unmarked", source={"inline": {"files": {**FILES, gone: "DROP TABLE shared.users;\n"}}})
    refused = world.until("MigrationRun", "unmarked", "False", "DestructiveRefused")
    assert f"{gone}, line 1: " in verdict(refused)[2]
    assert "-- allow: drop-table" in verdict(refused)[2]
    assert condition(refused, "Stalled")["status"] == "True"

    files = {**FILES, gone: "-- allow: drop-table\nDROP TABLE shared.users;\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    planned = selvedge(world, "plan", directory=tmp_path)
    assert planned.returncode == 2, planned.stderr
    [digest] = [line.split()[1] for line in planned.stdout.splitlines() if "digest:" in line]
    sources(world, files)
    waits = wait_for(
        lambda: verdict(world.api.get("DatabaseSchema", "shop"))[2].startswith("MigrationRun shop-") or None
    )
    assert waits
    [name] = wait_for(
        lambda: [
            run["metadata"]["name"]
            for run in world.api.list("MigrationRun")
            if (run.get("status") or {}).get("phase") == "WaitingForApproval"
        ]
    )
    assert world.api.get("MigrationRun", name)["status"]["plan"] == digest
    approve(world, name, digest)
    world.ready("MigrationRun", name)
    world.ready("DatabaseSchema", "shop")
    assert world.ask("SELECT to_regclass('shared.users')") is None

    # GitOps: the reviewed commit holds the run together with its approval
    back = selvedge(world, "plan", "--action", "down", directory=tmp_path)
    assert back.returncode == 1, "what dropped a table cannot be undone"
    assert "has no way down" in back.stderr


def test_files_of_several_configmaps_compressed_and_a_login_of_ones_own(world: World):
    login = world.role("deployer")
    world.sql(f"CREATE ROLE {login} LOGIN PASSWORD 'its-own-password'", database="postgres")
    world.api.apply(
        {
            "kind": "Secret",
            "metadata": {"name": "deployer"},
            "stringData": {"username": login, "password": "its-own-password"},
        }
    )
    packed = base64.b64encode(gzip.compress(FILES[ORDERS].encode())).decode()
    world.api.apply({"kind": "ConfigMap", "metadata": {"name": "second"}, "binaryData": {f"{ORDERS}.gz": packed}})
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w:gz") as archive:
        seed = b"-- env: staging\nINSERT INTO shared.users VALUES (1);\n"
        member = tarfile.TarInfo("./seeds/users.sql")
        member.size = len(seed)
        archive.addfile(member, io.BytesIO(seed))
    seeds = {"seeds.tar.gz": base64.b64encode(tar.getvalue()).decode()}
    world.api.apply({"kind": "ConfigMap", "metadata": {"name": "third"}, "binaryData": seeds})
    sources(world, {USERS: FILES[USERS]}, "first")
    owner = world.role("owner")
    world.schema(
        "shop",
        postgres={
            "owner": owner,
            "roles": [{"name": owner}],
            "schemas": [{"name": "shared", "owner": owner}],
            "grants": [
                {"name": "make", "privileges": ["USAGE", "CREATE"], "objects": {"schemas": ["shared"]}, "to": [owner]}
            ],
        },
        migrations={
            "runAs": {"secretRef": {"name": "deployer"}},
            "role": owner,
            "source": {"configMaps": [{"name": "first"}, {"name": "second"}, {"name": "third"}]},
            "environment": "staging",
        },
    )
    waits = world.until("DatabaseSchema", "shop", "False", "WaitingForMigrations")
    assert waits
    world.sql(f"GRANT {owner} TO {login}", database="postgres")
    world.ready("DatabaseSchema", "shop", timeout=40)
    assert versions(world) == ["20250101000000", "20250102000000"]
    assert world.ask("SELECT count(*) FROM shared.users") == 1
    assert world.sql("SELECT DISTINCT applied_by::text FROM selvedge.history") == [(login,)]
    assert world.ask("SELECT tableowner::text FROM pg_tables WHERE tablename = 'users'") == owner
    assert world.ask(f"SELECT count(*) FROM pg_roles WHERE rolname = '{world.name}_migrator'") == 0
    assert "its-own-password" not in world.operator.logs()


@pytest.mark.parametrize("end", ["stop", pytest.param("kill", marks=pytest.mark.long)])
def test_a_way_back_that_was_cut_off_goes_on_with_its_rest(world: World, end: str):
    slow = "-- migrate:up\nCREATE TABLE shared.slow (id int);\n-- migrate:down\nDROP TABLE shared.slow;\n"
    files = {
        **FILES,
        "20250104000000_slow.sql": slow + "SELECT pg_sleep(3);\n",
        "20250105000000_last.sql": slow.replace("slow", "last"),
    }
    sources(world, files)
    shop(world)
    world.ready("DatabaseSchema", "shop")
    start(world, "back", action="Down", target="20250102000000")
    world.until("MigrationRun", "back", "False", "WaitingForApproval")
    approve(world, "back")
    sleeping = (
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%sleep(3)%' AND pid <> pg_backend_pid() "
        "AND datname = current_database()"
    )
    wait_for(lambda: world.ask(sleeping) > 0)
    if end == "kill":
        world.operator.kill()
    else:
        assert world.operator.stop() == 0
    # told to stop, it ends its statement, the last of its migration; killed, it leaves a transaction that is undone
    assert len(versions(world)) == {"stop": 3, "kill": 4}[end]
    world.operator.start()
    run = world.ready("MigrationRun", "back", timeout=60)
    assert versions(world) == ["20250101000000", "20250102000000"]
    assert run["status"]["progress"] == "3/3"
    assert [state for _, _, state in rows(run)] == ["Undone", "Undone", "Undone"]


@pytest.mark.long
def test_what_waits_for_a_person_keeps_nobody_busy(world: World):
    """The database's pass wakes the runs that wait; a run that goes on waiting must not wake the database's pass."""
    sources(world, {USERS: FILES[USERS]})
    shop(world)
    world.ready("DatabaseSchema", "shop")
    start(world, "back", action="Down")
    world.until("MigrationRun", "back", "False", "WaitingForApproval")
    began, seen = time.monotonic(), world.operator.value("selvedge_reconcile_total", kind="DatabaseSchema")
    wait_for(lambda: world.operator.value("selvedge_reconcile_total", kind="DatabaseSchema") >= seen + 3, 60)
    assert time.monotonic() - began > 9, "two of the three are a whole interval apart"
