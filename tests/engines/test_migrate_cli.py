"""``selvedge migrate`` against real servers and without a cluster: what each command does and says."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest
from click.testing import CliRunner, Result

from sandbox import MongoEndpoint, PostgresEndpoint
from selvedge.cli import main
from tests.engines.migrate_cli_support import FILES, ORDERS, Shop, fresh, lines
from tests.engines.test_cli_offline import on_a_terminal


@pytest.fixture
def shop(postgres18: PostgresEndpoint, tmp_path: Path) -> Iterator[Shop]:
    with fresh(postgres18, tmp_path / "migrations") as shop:
        yield shop


def test_every_operation(shop: Shop) -> None:
    before = shop.process("status")
    assert (before.returncode, before.stderr) == (2, "")
    assert before.stdout.splitlines() == [
        f"{shop.name}: 2 Pending",
        "  Pending  20250101000000  users",
        "  Pending  20250102000000  orders",
    ]
    planned = shop.migrate("plan", "-o", "json")
    assert planned.exit_code == 2
    [plan] = lines(planned)
    assert [(step["version"], step["direction"], step["statements"]) for step in plan["steps"]] == [
        ("20250101000000", "up", 2),
        ("20250102000000", "up", 1),
    ]
    assert (plan["approval"], plan["refused"]) == ([], [])
    assert not [line for line in plan["advice"] if line.startswith("warning")], "what the plan itself makes is new"
    names = shop.directory.parent / "names.yaml"
    names.write_text("pluralTables: false\nforeign_key_column: ''\n")
    shop.write(**{ORDERS: FILES[ORDERS].replace("orders", "purchase")})
    told = [
        lines(shop.migrate("plan", "-o", "json", *more))[0]["advice"] for more in ((), ("--conventions", str(names)))
    ]
    assert ["purchase is not in the plural" in " ".join(advice) for advice in told] == [True, False]
    shop.write(**FILES)
    assert shop.query("SELECT to_regnamespace('selvedge')") == [(None,)], "a plan writes nothing at all"

    up = shop.migrate("up", "-o", "json")
    assert up.exit_code == 0, up.stderr
    *progress, result = lines(up)
    assert [line["statements"] for line in progress if line["version"] == "20250101000000"][-1] == "2/2"
    assert {line["state"] for line in progress} == {"Pending", "Running", "Applied"}
    assert (result["state"], result["done"], result["version"]) == ("Succeeded", 2, "20250102000000")
    assert result["digest"] == plan["digest"]
    assert shop.versions() == ["20250101000000", "20250102000000"]
    assert shop.query("SELECT tableowner::text FROM pg_tables WHERE tablename = 'users'") == [(shop.owner,)]
    assert shop.query("SELECT DISTINCT applied_by::text FROM selvedge.history") == [(f"{shop.name}_migrator",)]
    assert shop.migrate("status").exit_code == shop.migrate("plan").exit_code == shop.migrate("validate").exit_code == 0
    assert shop.migrate("up").stdout == f"{shop.name}: nothing to do, version 20250102000000\n"

    # going back needs a person
    refused = shop.migrate("down")
    assert refused.exit_code == 1
    assert (
        "20250102000000 orders is undone: there is no terminal to ask at; add --yes, or --approve sha256:"
        in refused.stderr
    )
    digest = refused.stderr.split("--approve ")[1].split()[0]
    stranger = shop.migrate("down", "--approve", "sha256:" + "0" * 64)
    assert (stranger.exit_code, stranger.stdout) == (1, "")
    assert f"is not the digest of what would run now, {digest}: plan again" in stranger.stderr
    assert shop.versions() == ["20250101000000", "20250102000000"]
    down = shop.migrate("down", "--approve", digest)
    assert down.exit_code == 0, down.stderr
    assert shop.versions() == ["20250101000000"]

    assert shop.migrate("to", "20250102000000").exit_code == 0, "going up needs nobody"
    redone = shop.migrate("redo", "--yes")
    assert [line.split(",")[0] for line in redone.stdout.splitlines()] == [
        "20250102000000 orders: undone",
        "20250102000000 orders: applied",
        f"{shop.name}: 2 steps done",
    ]
    # the files are gone: the history keeps the way down
    for file in shop.directory.iterdir():
        file.unlink()
    missing = shop.migrate("status")
    assert (missing.exit_code, missing.stdout.splitlines()[0]) == (2, f"{shop.name}: 2 Missing")
    assert shop.migrate("to", "0", "--yes").exit_code == 0
    assert shop.versions() == []
    assert shop.query("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]


def test_a_hook_that_is_owed(shop: Shop) -> None:
    shop.write(**{"afterRun.sql": "SELECT 1 / 0;"})
    assert shop.migrate("up").exit_code == 1
    shop.write(**{"afterRun.sql": "CREATE TABLE after_run ();"})
    planned = shop.migrate("plan")
    assert planned.exit_code == 2
    first, note, digest = planned.stdout.splitlines()
    assert first == f"{shop.name}: the hook afterRun (version 20250102000000)"
    assert note == "  note: the hook afterRun runs, to which an earlier run did not come"
    assert digest.startswith("  digest: sha256:")
    ran = shop.migrate("up")
    assert ran.exit_code == 0, ran.output
    assert "the hook afterRun runs, to which an earlier run did not come" in ran.stderr
    assert shop.query("SELECT to_regclass('after_run')::text") == [("after_run",)]
    again = shop.migrate("up", "-o", "json")
    assert lines(again)[-1]["state"] == "Succeeded"
    assert shop.migrate("plan").exit_code == 0


def repair(shop: Shop, *kind: str, approve: str = "") -> Result:
    """Repair as whoever read the plan of it."""
    [plan] = lines(shop.migrate("plan", "--action", "repair", *kind, "-o", "json"))
    assert approve in ("", plan["digest"])
    who = ("--reason", "the same", "--actor", "ada", "--approve", plan["digest"])
    repaired = shop.migrate("repair", *kind, *who)
    assert repaired.exit_code == 0, repaired.stderr
    return repaired


def last_event(shop: Shop) -> tuple[str, ...]:
    query = "SELECT event, version::text, actor, message FROM selvedge.events ORDER BY id DESC LIMIT 1"
    [found] = shop.query(query)
    return found


def test_baseline_and_repair(shop: Shop) -> None:
    assert shop.migrate("baseline", "20250101000000").exit_code == 0
    assert shop.query("SELECT to_regclass('users')") == [(None,)]
    assert shop.migrate("up").exit_code == 0
    shop.write(**{ORDERS: FILES[ORDERS].replace("int", "bigint")})
    changed = shop.migrate("up")
    assert (changed.exit_code, changed.stdout) == (1, "")
    assert "changed after it ran" in changed.stderr
    for command in ("up", "plan", "validate"):
        told = shop.migrate(command, "-o", "json")
        assert (told.exit_code, told.stderr) == (1, changed.stderr)
        message = changed.stderr.removeprefix("error: ").strip()
        error = {"event": "error", "command": command, "reason": "ChecksumMismatch", "message": message}
        assert lines(told) == [error]
    assert "Changed  20250102000000" in shop.migrate("status").stdout
    assert shop.migrate("repair", "--accept", "all", "--yes").exit_code == 1, "a repair has a reason"
    assert shop.migrate("repair", "--accept", "all", "--reason", "the same").exit_code == 1, "and somebody who says yes"
    unasked = shop.migrate("repair", "--accept", "all", "--reason", "the same", "-o", "json")
    assert [(one["event"], one["reason"]) for one in lines(unasked)] == [("error", "WaitingForApproval")]
    superseded = shop.migrate("repair", "--accept", "all", "--reason", "x", "--approve", "sha256:1", "-o", "json")
    assert lines(superseded)[0]["reason"] == "Superseded"
    for wrong in (
        ("--accept", "all"),
        ("--action", "repair"),
        ("--action", "repair", "--accept", "1", "--target", "1"),
    ):
        refused = shop.migrate("plan", *wrong, "-o", "json")
        assert (refused.exit_code, lines(refused)[0]["reason"]) == (1, "InvalidSpec")
    assert shop.migrate("repair", "--accept", "all", "--mark-applied", "1", "--reason", "x", "--yes").exit_code == 1
    planned = [("--accept", "all"), ("--accept", ORDERS[:14])]
    digests = {lines(shop.migrate("plan", "--action", "repair", *one, "-o", "json"))[0]["digest"] for one in planned}
    assert len(digests) == 1, "what would be accepted is the same"
    repair(shop, *planned[0], approve=digests.pop())
    assert shop.migrate("status").exit_code == 0
    assert last_event(shop) == ("Accepted", "20250102000000", "ada", "the same")
    repair(shop, "--mark-unapplied", ORDERS[:14])
    assert last_event(shop) == ("Unmarked", "20250102000000", "ada", "the same")
    assert shop.versions() == ["20250101000000"]
    assert shop.query("SELECT to_regclass('orders')") == [("orders",)], "nothing was undone"
    repair(shop, "--mark-applied", ORDERS[:14])
    assert last_event(shop) == ("Marked", "20250102000000", "ada", "the same")
    assert shop.versions() == ["20250101000000", "20250102000000"]
    assert shop.migrate("status").exit_code == 0
    shop.query("CREATE TABLE doubled (id int); INSERT INTO doubled VALUES (1), (1)")
    shop.query(f'ALTER TABLE doubled OWNER TO "{shop.owner}"')
    with closing(shop.endpoint.connect(shop.name)) as connection, pytest.raises(Exception, match="could not create"):
        connection.execute("CREATE UNIQUE INDEX CONCURRENTLY broken ON doubled (id)")
    dropped = repair(shop, "--drop-invalid-indexes")
    assert "broken" in dropped.stdout
    assert shop.query("SELECT to_regclass('broken')") == [(None,)]
    assert last_event(shop)[::2] == ("DropInvalidIndex", "ada")
    assert last_event(shop)[3].endswith("the same")


def test_what_loses_data_needs_a_line_in_its_file_and_a_person(shop: Shop) -> None:
    assert shop.migrate("up").exit_code == 0
    gone = "20250103000000_gone.sql"
    shop.write(**{gone: "DROP TABLE users;\n"})
    refused = shop.migrate("up", "--yes")
    assert refused.exit_code == 1
    assert f"error: {gone}, line 1: " in refused.stderr
    assert "-- allow: drop-table" in refused.stderr
    linted = shop.migrate("lint", "--no-squawk")
    assert linted.exit_code == 2
    assert f"{gone}:1: error drop-table: " in linted.stdout
    shop.write(**{gone: "-- allow: drop-table\nDROP TABLE users;\n"})
    assert shop.migrate("lint", "--no-squawk", "--fail-on", "error").exit_code == 0
    unasked = shop.migrate("up")
    assert unasked.exit_code == 1
    assert "there is no terminal to ask at" in unasked.stderr
    assert shop.versions() == ["20250101000000", "20250102000000"]
    environ = shop.environ()
    status, screen = on_a_terminal(["migrate", "up"], environ, "n\n")
    assert status == 1
    assert "needs approval: " in screen
    assert "nothing was changed" in screen
    status, screen = on_a_terminal(["migrate", "up"], environ, "y\n")
    assert status == 0, screen
    assert "━" in screen, "a bar"
    for number in range(12):
        shop.write(**{f"202501040000{number:02d}_more.sql": "SELECT 1;\n"})
    status, screen = on_a_terminal(["migrate", "up"], environ, "")
    assert status == 0, screen
    assert "more: applied, 1/1 statements" in screen, "more bars than lines of a terminal become lines"
    assert shop.query("SELECT to_regclass('users')") == [(None,)]


def test_an_error_names_file_line_and_statement(shop: Shop) -> None:
    shop.write(**{ORDERS: "-- migrate:up\nCREATE TABLE orders (id int);\nINSERT INTO nowhere\nVALUES (1);\n"})
    failed = shop.migrate("up")
    assert failed.exit_code == 1
    assert failed.stderr == (
        f'error: {ORDERS}, line 3: relation "nowhere" does not exist (42P01) in: INSERT INTO nowhere VALUES (1)\n'
    )
    assert shop.versions() == ["20250101000000"]
    for refused in (
        shop.migrate("up", "--transaction", "all", "--lock-wait", "soon"),
        shop.migrate("up", "--dir", "/nowhere"),
    ):
        assert refused.exit_code == 1
        assert refused.stderr.startswith("error: ")
        assert "Traceback" not in refused.stderr
    wrong = shop.migrate("up", "--database", "postgres")
    assert "no migration runs as it; name a role without these rights with --role" in wrong.stderr


def test_a_login_of_ones_own_and_one_that_may_only_read(shop: Shop) -> None:
    deployer, reader = f"{shop.name}_deployer", f"{shop.name}_reader"
    for login in (deployer, reader):
        shop.query(f"CREATE ROLE {login} LOGIN PASSWORD 'its own word'")
    lacking = shop.migrate("up", user=deployer, password="its own word")
    assert lacking.exit_code == 1
    assert f'run GRANT CREATE ON DATABASE "{shop.name}" TO "{deployer}"' in lacking.stderr
    shop.query(f'GRANT CREATE ON DATABASE "{shop.name}" TO {deployer}')
    foreign = shop.migrate("up", "--role", shop.owner, user=deployer, password="its own word")
    assert f'run GRANT "{shop.owner}" TO "{deployer}"' in foreign.stderr
    shop.query(f'GRANT "{shop.owner}" TO {deployer}')
    up = shop.migrate("up", "--role", shop.owner, user=deployer, password="its own word")
    assert up.exit_code == 0, up.stderr
    assert shop.query("SELECT DISTINCT applied_by::text FROM selvedge.history") == [(deployer,)]
    assert shop.query("SELECT tableowner::text FROM pg_tables WHERE tablename = 'users'") == [(shop.owner,)]
    assert shop.query(f"SELECT count(*) FROM pg_roles WHERE rolname = '{shop.name}_migrator'") == [(0,)]

    shop.query("ALTER TABLE users ENABLE ROW LEVEL SECURITY; ALTER TABLE users FORCE ROW LEVEL SECURITY")
    shop.write(
        **{
            "20250103000000_all.sql": "SELECT 1;\n",
            "20250104000000_rows.sql": "UPDATE users SET id = 2 WHERE id > 0;\n",
        }
    )
    blind = shop.migrate("up", "--role", shop.owner, user=deployer, password="its own word")
    assert 'query would be affected by row-level security policy for table "users"' in blind.stderr
    (shop.directory / "20250104000000_rows.sql").unlink()

    wait = ("wait", "--version", "20250102000000", "--timeout", "5s")
    lacking = shop.migrate(*wait, user=reader, password="its own word")
    assert lacking.exit_code == 1
    grants = lacking.stderr.split("; run ")[1].strip()
    assert grants == (
        f'GRANT USAGE ON SCHEMA "selvedge" TO "{reader}"; GRANT SELECT ON "selvedge"."history" TO "{reader}"'
    )
    shop.query(grants)
    assert shop.migrate("plan", user=reader, password="its own word").exit_code == 0
    shop.write(**{"afterRun.sql": "SELECT 1;\n"})
    unread = shop.migrate("plan", user=reader, password="its own word")
    assert unread.exit_code == 1
    more = unread.stderr.split("; run ")[1].strip()
    assert more.endswith(f'; GRANT SELECT ON "selvedge"."history", "selvedge"."events" TO "{reader}"')
    there = shop.migrate(*wait, user=reader, password="its own word")
    assert (there.exit_code, there.stdout) == (0, f"{shop.name}: version 20250102000000 is there\n")
    assert shop.migrate("wait", user=reader, password="its own word").exit_code == 0, "all files"
    shop.query(more)
    assert shop.migrate("plan", user=reader, password="its own word").exit_code == 0
    missing = shop.migrate(
        "wait", "--version", "20260101000000", "--timeout", "1s", user=reader, password="its own word"
    )
    assert missing.exit_code == 2
    assert "version 20260101000000 has not run yet; not there after 1 s" in missing.stderr


def test_one_set_of_files_for_several_schemas_and_a_history_elsewhere(shop: Shop) -> None:
    for schema in ("one", "two"):
        shop.query(f'CREATE SCHEMA {schema} AUTHORIZATION "{shop.owner}"')
    both = ("--schema", "one", "--schema", "two")
    up = shop.migrate("up", *both)
    assert up.exit_code == 0, up.stderr
    assert f"{shop.name}, schema two: 2 steps done, version 20250102000000" in up.stdout
    assert shop.query("SELECT count(*) FROM pg_tables WHERE tablename = 'users' AND schemaname IN ('one', 'two')") == [
        (2,)
    ]
    assert shop.migrate("down", "--schema", "one", "--yes").exit_code == 0
    assert shop.migrate("status", *both).exit_code == 2
    assert shop.migrate("status", "--schema", "two").exit_code == 0
    elsewhere = ("--history-schema", "deploy", "--history-table", "ran")
    assert shop.migrate("up", *elsewhere).exit_code == 0
    assert shop.query("SELECT count(*) FROM deploy.ran") == [(2,)]
    assert shop.migrate("status", *elsewhere).exit_code == 0


def test_mongodb(mongodb: MongoEndpoint, mongo_database: str, tmp_path: Path) -> None:
    (tmp_path / "20250101000000_items.json").write_text(
        json.dumps({"up": [{"create": "items"}], "down": [{"drop": "items"}]}), encoding="utf-8"
    )
    ca = f"&tls=true&tlsCAFile={quote(str(mongodb.ca_path))}" if mongodb.ca_path else "&tls=false"
    place = f"{mongodb.host}:{mongodb.port}/{mongo_database}"
    environ = {
        "PATH": os.environ["PATH"],
        "SELVEDGE_PASSWORD": mongodb.password,
        "SELVEDGE_URL": f"mongodb://{mongodb.username}@{place}?authSource=admin&replicaSet={mongodb.replica_set}{ca}",
    }

    def call(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["migrate", *arguments, "--dir", str(tmp_path)], env=environ)

    assert call("status").exit_code == 2
    assert call("plan", "--preflight").exit_code == 2
    with mongodb.client() as client:
        assert client[mongo_database].list_collection_names() == [], "a plan writes nothing at all"
        client[mongo_database].create_collection("items")
        told = call("plan", "--preflight")
        assert (told.exit_code, told.stdout) == (1, "")
        assert "would fail: 20250101000000_items.json, line 1: collection items exists already" in told.stderr
        client[mongo_database].drop_collection("items")
        up = call("up")
        assert up.exit_code == 0, up.stderr
        assert "items" in client[mongo_database].list_collection_names()
        assert call("status").exit_code == 0
        assert call("down").exit_code == 1
        assert call("down", "--yes").exit_code == 0
        assert "items" not in client[mongo_database].list_collection_names()
