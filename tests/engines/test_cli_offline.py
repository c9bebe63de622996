"""``selvedge plan``, ``apply`` and ``verify`` against real servers and without a cluster."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml
from psycopg import sql

from sandbox import MongoEndpoint, PostgresEndpoint
from tests.engines.cli_support import process, selvedge

# What a command does with a server of another version is the engine's, and tested there.
pytestmark = pytest.mark.newest

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def manifest(tmp_path: Path, database_name: str) -> Path:
    """Fashion Wallet in small; the roles' names begin with the database's, so that the fixture drops them."""
    path = tmp_path / "manifests" / "fashion-wallet.yaml"
    path.parent.mkdir()
    path.write_text(postgres_manifest(database_name), encoding="utf-8")
    return path


def postgres_manifest(
    database: str, schemas: str = "[{name: shared, comment: data of all services}]", more: str = ""
) -> str:
    return f"""\
apiVersion: v1
kind: Secret
metadata: {{name: pg-admin}}
---
apiVersion: selvedge.dev/v1alpha1
kind: DatabaseSchema
metadata: {{name: fashion-wallet, namespace: shop}}
spec:
  serverRef: {{name: main-postgres}}
  database: {database}
  {more}
  postgres:
    owner: {database}_owner
    schemas: {schemas}
    roles:
    - {{name: {database}_owner}}
    - {{name: {database}_ro, comment: may read}}
    grants:
    - {{name: use, privileges: [USAGE], objects: {{schemas: [shared]}}, to: [{database}_ro]}}
"""


def url_of(postgres: PostgresEndpoint) -> str:
    ca = f"&sslrootcert={quote(str(postgres.ca_path))}" if postgres.ca_path else ""
    return f"postgresql://{postgres.username}@{postgres.host}:{postgres.port}/?sslmode={postgres.sslmode}{ca}"


@pytest.fixture
def on_postgres(postgres: PostgresEndpoint) -> Run:
    """Run a command with --url of a Postgres server, its password in the environment, and a cluster of the test's own.

    The resource has the same name in each test, and its claims reach over all databases of the server.
    """
    own = ("--cluster-uid", uuid.uuid4().hex)

    def call(command: str, *arguments: str, url: str = "", password: str | None = None) -> Any:
        environ = {"PGPASSWORD": postgres.password if password is None else password}
        cluster = () if "--cluster-uid" in arguments else own
        return selvedge(command, *arguments, *cluster, "--url", url or url_of(postgres), environ=environ)

    return call


def test_it_is_a_program(postgres18: PostgresEndpoint) -> None:
    """Everything else here runs in the tests' own process, or on a terminal."""
    name = f"db_{uuid.uuid4().hex[:12]}"
    document = {
        "apiVersion": "selvedge.dev/v1alpha1",
        "kind": "DatabaseSchema",
        "metadata": {"name": "shop"},
        "spec": {"serverRef": {"name": "main"}, "database": name, "postgres": {"schemas": [{"name": "shared"}]}},
    }
    where, environ = ("-f", "-", "--url", url_of(postgres18)), {"PGPASSWORD": postgres18.password}
    try:
        for command, status in ((("plan",), 2), (("apply", "--yes"), 0), (("verify",), 0)):
            result = process(*command, *where, environ=environ, stdin=json.dumps(document))
            assert (result.returncode, postgres18.password in result.stdout + result.stderr) == (status, False), result
    finally:
        with postgres18.connect() as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def test_plan_apply_verify_and_drift(
    on_postgres: Run, postgres: PostgresEndpoint, manifest: Path, database_name: str
) -> None:
    files = ("-f", str(manifest.parent))
    planned = on_postgres("plan", *files)
    assert planned.returncode == 2, planned.stderr
    assert f'CREATE DATABASE "{database_name}"' in planned.stdout
    assert 'CREATE SCHEMA "shared"' in planned.stdout
    assert "left out, only DatabaseSchemas are used here: Secret" in planned.stderr
    with postgres.connect() as connection:
        assert not connection.execute("SELECT FROM pg_database WHERE datname = %s", [database_name]).fetchall()

    applied = on_postgres("apply", *files, "--yes")
    assert applied.returncode == 0, applied.stdout + applied.stderr
    assert "equal, 5 objects" in applied.stdout
    for command in ("verify", "plan"):
        same = on_postgres(command, *files)
        assert (same.returncode, same.stdout) == (
            0,
            f"{database_name} (DatabaseSchema shop/fashion-wallet): equal, 5 objects\n",
        )

    with postgres.connect(database_name) as connection:
        connection.execute(
            sql.SQL("REVOKE USAGE ON SCHEMA shared FROM {}").format(sql.Identifier(f"{database_name}_ro"))
        )
    differs = on_postgres("verify", *files, "-o", "json")
    assert differs.returncode == 2
    [schema] = json.loads(differs.stdout)["schemas"]
    assert schema["changes"] == [
        {
            "kind": "grant",
            "name": "use",
            "risk": "Additive",
            "statement": f'GRANT USAGE ON SCHEMA "shared" TO "{database_name}_ro"',
            "before": f"nothing, owner {schema['changes'][0]['before'].rpartition(' ')[2]}",
            "rows": None,
        }
    ]
    assert schema["digest"].startswith("sha256:")
    assert (schema["database"], schema["equal"], schema["problems"]) == (database_name, False, [])
    assert on_postgres("apply", *files, "--yes").returncode == 0
    assert on_postgres("verify", *files).returncode == 0


def test_apply_does_not_guess_where_there_is_no_terminal(
    on_postgres: Run, postgres: PostgresEndpoint, manifest: Path, database_name: str
) -> None:
    result = on_postgres("apply", "-f", str(manifest))
    assert result.returncode == 1
    assert "error: 7 changes, and there is no terminal to ask at: add --yes" in result.stderr
    with postgres.connect() as connection:
        assert not connection.execute("SELECT FROM pg_database WHERE datname = %s", [database_name]).fetchall()


@pytest.mark.parametrize(("answer", "status"), [("y\n", 0), ("n\n", 1), ("\x04", 1)])
def test_apply_asks_on_a_terminal(
    postgres: PostgresEndpoint, manifest: Path, database_name: str, answer: str, status: int
) -> None:
    found, screen = on_a_terminal(
        ["apply", "-f", str(manifest), "--url", url_of(postgres), "--cluster-uid", uuid.uuid4().hex],
        {"PGPASSWORD": postgres.password},
        answer,
    )
    assert "Make these changes? [y/N]" in screen
    assert "\x1b[32mAdditive" in screen
    assert found == status, screen
    with postgres.connect() as connection:
        there = connection.execute("SELECT FROM pg_database WHERE datname = %s", [database_name]).fetchall()
    assert len(there) == (status == 0)


def test_what_loses_data_waits_for_its_digest(
    on_postgres: Run, postgres: PostgresEndpoint, manifest: Path, database_name: str
) -> None:
    assert on_postgres("apply", "-f", str(manifest), "--yes").returncode == 0
    gone = "[{name: shared, comment: data of all services}, {name: old}]"
    manifest.write_text(postgres_manifest(database_name, gone), encoding="utf-8")
    assert on_postgres("apply", "-f", str(manifest), "--yes").returncode == 0
    manifest.write_text(postgres_manifest(database_name, gone.replace("old", "old, ensure: Absent")), encoding="utf-8")

    waits = on_postgres("apply", "-f", str(manifest), "--yes", "-o", "json")
    assert waits.returncode == 2, waits.stdout + waits.stderr
    [schema] = json.loads(waits.stdout)["schemas"]
    assert [change["risk"] for change in schema["changes"]] == ["Destructive"]

    stranger = "sha256:" + "0" * 64
    refused = on_postgres("apply", "-f", str(manifest), "--yes", "--approve", stranger)
    assert refused.returncode == 1
    assert f"--approve {stranger} is not the digest of a plan" in refused.stderr

    approved = on_postgres("apply", "-f", str(manifest), "--yes", "--approve", schema["digest"])
    assert approved.returncode == 0, approved.stdout + approved.stderr
    with postgres.connect(database_name) as connection:
        assert not connection.execute("SELECT FROM pg_namespace WHERE nspname = 'old'").fetchall()


def test_the_digest_of_a_plan_lets_all_of_it_through(
    on_postgres: Run, postgres: PostgresEndpoint, manifest: Path, database_name: str
) -> None:
    """Also where one plan concerns the server (a role) and the database (a schema that goes)."""
    manifest.write_text(postgres_manifest(database_name, "[{name: shared}, {name: old}]"), encoding="utf-8")
    assert on_postgres("apply", "-f", str(manifest), "--yes").returncode == 0
    text = postgres_manifest(database_name, "[{name: shared}, {name: old, ensure: Absent}]")
    manifest.write_text(
        text.replace("    roles:\n", f"    roles:\n    - {{name: {database_name}_new}}\n"), encoding="utf-8"
    )
    planned = on_postgres("plan", "-f", str(manifest), "-o", "yaml")
    [schema] = yaml.safe_load(planned.stdout)["schemas"]
    assert [(change["kind"], change["risk"]) for change in schema["changes"]] == [
        ("role", "Additive"),
        ("schema", "Destructive"),
    ]
    approved = on_postgres("apply", "-f", str(manifest), "--yes", "--approve", schema["digest"])
    assert approved.returncode == 0, approved.stdout + approved.stderr


def test_what_waits_for_a_migration_is_nothing_to_do_and_not_equal(
    on_postgres: Run, manifest: Path, database_name: str
) -> None:
    late = (
        f"    - {{name: late, privileges: [SELECT], objects: {{tables: [shared.users]}}, to: [{database_name}_ro]}}\n"
    )
    with manifest.open("a", encoding="utf-8") as file:
        file.write(late)
    assert on_postgres("apply", "-f", str(manifest), "--yes").returncode == 2
    assert on_postgres("plan", "-f", str(manifest)).returncode == 0
    verified = on_postgres("verify", "-f", str(manifest))
    assert verified.returncode == 2
    assert "  WaitingForObjects  grant  late  " in verified.stdout


def test_two_declarations_of_one_database_are_one_unit(on_postgres: Run, manifest: Path, database_name: str) -> None:
    second = manifest.with_name("catalog.yaml")
    second.write_text(
        f"""\
apiVersion: selvedge.dev/v1alpha1
kind: DatabaseSchema
metadata: {{name: catalog}}
spec:
  serverRef: {{name: main-postgres}}
  database: {database_name}
  postgres: {{schemas: [{{name: catalog}}, {{name: shared}}]}}
""",
        encoding="utf-8",
    )
    files = ("-f", str(manifest), "-f", str(second), "-n", "shop")
    result = on_postgres("apply", *files, "--yes", "-o", "json")
    # The younger declaration loses the one object that both want, and nothing else.
    assert result.returncode == 2, result.stderr
    schemas = {schema["name"]: schema for schema in json.loads(result.stdout)["schemas"]}
    assert [s["equal"] for s in schemas.values()].count(True) == 1
    problems = [problem for schema in schemas.values() for problem in schema["problems"]]
    assert [(p["kind"], p["name"], p["state"], p["reason"]) for p in problems] == [
        ("schema", "shared", "Conflict", "Conflict")
    ]


def test_what_another_cluster_claims_is_seen_with_its_uid_only(
    on_postgres: Run, manifest: Path, database_name: str
) -> None:
    files = ("-f", str(manifest))
    assert on_postgres("apply", *files, "--yes", "--cluster-uid", "1b7c").returncode == 0
    stranger = on_postgres("verify", *files, "-o", "json")
    assert stranger.returncode == 2, stranger.stderr
    [schema] = json.loads(stranger.stdout)["schemas"]
    assert "another cluster (1b7c)" in schema["problems"][0]["message"]
    assert on_postgres("verify", *files, "--cluster-uid", "1b7c").returncode == 0


def test_errors_are_one_sentence_without_the_password(
    on_postgres: Run, postgres: PostgresEndpoint, manifest: Path, tmp_path: Path
) -> None:
    wrong = f"marked{uuid.uuid4().hex}"
    secret = tmp_path / "password"
    secret.write_text(wrong + "\n", encoding="utf-8")
    with_password = url_of(postgres).replace("://postgres@", f"://postgres:{wrong}@")
    for result in (
        on_postgres("plan", "-f", str(manifest), password=wrong),
        on_postgres("plan", "-f", str(manifest), "--password-file", str(secret)),
        on_postgres("plan", "-f", str(manifest), url=with_password),
        on_postgres("plan", "-f", str(manifest), url=with_password.replace("@", "/@")),
    ):
        assert result.returncode == 1
        assert result.stderr.count("error: ") == 1
        assert "Traceback" not in result.stderr
        assert wrong not in result.stdout + result.stderr
    refused = on_postgres("plan", "-f", str(manifest), password=wrong).stderr
    assert "refused user name or password of login postgres: check --url and the password" in refused
    nobody = on_postgres("plan", "-f", str(manifest), url="postgresql://postgres@localhost:1/").stderr
    assert "error: server localhost:1 cannot be reached" in nobody
    plain = on_postgres("plan", "-f", str(manifest), url=url_of(postgres).split("&sslrootcert")[0]).stderr
    assert "check the CA in sslrootcert in --url" in plain


def mongo_url(mongodb: MongoEndpoint) -> str:
    ca = f"&tls=true&tlsCAFile={quote(str(mongodb.ca_path))}" if mongodb.ca_path else "&tls=false"
    return f"mongodb://{mongodb.username}@{mongodb.host}:{mongodb.port}/?replicaSet={mongodb.replica_set}{ca}"


def mongo_manifest(database: str, name: str = "designs") -> str:
    return f"""\
apiVersion: selvedge.dev/v1alpha1
kind: DatabaseSchema
metadata: {{name: {name}, namespace: shop}}
spec:
  serverRef: {{name: main-mongo}}
  database: {database}
  mongodb:
    collections:
    - name: designs
      validator: {{$jsonSchema: {{bsonType: object, required: [userId]}}}}
      indexes: [{{name: userId, keys: [{{field: userId}}]}}]
"""


def test_mongodb_plan_apply_verify_and_drift(mongodb: MongoEndpoint, mongo_database: str, tmp_path: Path) -> None:
    path = tmp_path / "designs.yaml"
    path.write_text(mongo_manifest(mongo_database), encoding="utf-8")

    def call(command: str, *more: str, password: str = "") -> subprocess.CompletedProcess[str]:
        environ = {"SELVEDGE_PASSWORD": password or mongodb.password}
        return selvedge(command, "-f", str(path), "--url", mongo_url(mongodb), *more, environ=environ)

    planned = call("plan")
    assert planned.returncode == 2, planned.stderr
    assert '{"create": "designs"' in planned.stdout
    applied = call("apply", "--yes")
    assert applied.returncode == 0, applied.stdout + applied.stderr
    assert call("verify").returncode == 0
    assert call("plan").returncode == 0
    with mongodb.client() as client:
        client[mongo_database].designs.drop_index("userId")
    differs = call("verify", "-o", "json")
    assert differs.returncode == 2
    [schema] = json.loads(differs.stdout)["schemas"]
    assert [(change["kind"], change["name"]) for change in schema["changes"]] == [("index", "designs.userId")]
    assert call("apply", "--yes").returncode == 0
    assert call("verify").returncode == 0

    # Whether `designs` is gone or only in another file cannot be known here: its claims hold.
    path.write_text(mongo_manifest(mongo_database, "other"), encoding="utf-8")
    conflict = call("plan", "-o", "json")
    assert conflict.returncode == 2
    [schema] = json.loads(conflict.stdout)["schemas"]
    assert {problem["reason"] for problem in schema["problems"]} == {"Conflict"}
    assert schema["changes"] == []

    wrong = f"marked{uuid.uuid4().hex}"
    refused = call("verify", password=wrong)
    assert refused.returncode == 1
    assert "refused user name or password: correct --url and the password" in refused.stderr
    assert wrong not in refused.stdout + refused.stderr


def on_a_terminal(arguments: list[str], environ: dict[str, str], typed: str) -> tuple[int, str]:
    """Run with a pseudo-terminal, type when asked, and return the exit status and what the screen showed."""
    ours, theirs = pty.openpty()
    kept = {"PATH": os.environ["PATH"], "TERM": "xterm-256color", "COLUMNS": "200"}
    with subprocess.Popen(
        [sys.executable, "-m", "selvedge", *arguments],
        env=kept | environ,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        screen = b""
        try:
            for chunk in _chunks(ours):
                screen += chunk
                if typed and screen.endswith(b"]: "):
                    os.write(ours, typed.encode())
                    typed = ""
        finally:
            os.close(ours)
        return process.wait(timeout=60), screen.decode()


def _chunks(descriptor: int) -> Iterator[bytes]:
    while True:
        try:
            chunk = os.read(descriptor, 65536)
        except OSError:  # Linux's way to say that nobody holds the other end any more
            return
        if not chunk:
            return
        yield chunk
