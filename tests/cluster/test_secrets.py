"""A password appears nowhere: everything is done with marked ones, and then everything that can be read is searched."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote, quote_plus

import psutil
import pytest
from psycopg import sql

from sandbox import MongoEndpoint, MongoServer, PostgresEndpoint, PostgresServer
from tests.cluster.world import World, secret, wait_for
from tests.conftest import Kubectl

#: Each of these means something to a shell, to libpq, to SQL, to a URI, to JSON or to a formatting function.
SPECIAL = "%'\"\\$ {}&@/é"


def marked(word: str) -> str:
    """A password whose beginning is plain, so that it is found however the rest is quoted."""
    return f"{word}-{uuid.uuid4().hex}{SPECIAL}"


def traces(password: str) -> tuple[str, ...]:
    """What betrays the password: its plain beginning, and the whole of it encoded."""
    whole = base64.b64encode(password.encode()).decode()
    return password.removesuffix(SPECIAL), whole, quote(password, safe=""), quote_plus(password)


@dataclass
class Found:
    """Everything that was read, by where it was read."""

    texts: dict[str, str] = field(default_factory=dict)

    def add(self, where: str, text: str) -> None:
        assert text, f"{where} is empty: nothing was searched"
        self.texts[where] = text

    def places(self, password: str) -> list[str]:
        """Where the password stands, with what is around it."""
        hits = []
        for where, text in self.texts.items():
            for trace in traces(password):
                at = text.find(trace)
                if at >= 0:
                    hits.append(f"{where}: …{text[max(0, at - 80) : at + len(trace)]!r}")
        return hits


class Watcher:
    """Reads command lines and environments of a process and its children, as ``ps`` shows them, until it is stopped."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.seen: set[str] = set()
        self.rounds = 0

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(5)

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            try:
                processes = [self._process, *self._process.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            for process in processes:
                for part in ("cmdline", "environ"):
                    try:
                        self.seen.add((Path("/proc") / str(process.pid) / part).read_bytes().decode(errors="replace"))
                    except (FileNotFoundError, ProcessLookupError):
                        continue  # it has ended since
            self.rounds += 1


@pytest.fixture
def talkative() -> Iterator[PostgresServer]:
    """A server that logs every statement."""
    settings = {"log_statement": "all", "log_connections": "on", "log_min_error_statement": "debug5"}
    with PostgresServer.launch("18", settings=settings) as server:
        with closing(server.connect()) as connection:
            connection.execute("CREATE EXTENSION pg_stat_statements")
        yield server


@pytest.fixture
def mongod() -> Iterator[MongoServer]:
    """A server that logs every command."""
    with MongoServer.launch() as server:
        with server.client() as client:
            client.admin.command("setParameter", 1, logComponentVerbosity={"command": {"verbosity": 2}})
        yield server


def administrator(server: PostgresServer, password: str) -> PostgresEndpoint:
    """A superuser with this password, of which the server is told only the verifier."""
    with closing(server.connect()) as connection:
        verifier = connection.pgconn.encrypt_password(password.encode(), b"selvedge_admin", b"scram-sha-256").decode()
        connection.execute(
            sql.SQL("CREATE ROLE selvedge_admin SUPERUSER LOGIN PASSWORD {}").format(sql.Literal(verifier))
        )
    return PostgresEndpoint("18", server.port, password, server.ca_path, username="selvedge_admin")


GOOD = {
    "20250101000000_a.sql": "-- migrate:up\nCREATE TABLE shop.t (id int);\nINSERT INTO shop.t VALUES (1);\n",
    "20250102000000_b.sql": "-- migrate:up\nCREATE INDEX CONCURRENTLY t_id ON shop.t (id);\n",
}
BAD = {**GOOD, "20250103000000_c.sql": "-- migrate:up\nSELECT 1;\nINSERT INTO shop.nowhere VALUES (1);\n"}
COLLECTION = {
    "name": "designs",
    "validator": {"$jsonSchema": {"required": ["name"]}},
    "indexes": [{"name": "name", "keys": [{"field": "name"}]}],
}


def on_postgres(world: World, owner: str) -> None:
    """Everything that a DatabaseSchema and its migrations can go through."""
    role = world.role("reader")
    postgres = {
        "owner": owner,
        "roles": [{"name": owner}, {"name": role, "settings": {"lock_timeout": "2s"}}],
        "schemas": [{"name": "shop", "owner": owner}],
        "extensions": [{"name": "pgcrypto"}],
        "grants": [{"name": "use", "privileges": ["USAGE"], "objects": {"schemas": ["shop"]}, "to": [role]}],
    }
    world.schema("shop", deletionPolicy="Delete", migrations=world.trigger(), postgres=postgres)
    world.ready("DatabaseSchema", "shop")
    for name, files, status in (("good", GOOD, "True"), ("bad", BAD, "False")):
        run = {"schemaRef": {"name": "shop"}, "source": {"inline": {"files": files}}}
        world.api.apply({"kind": "MigrationRun", "metadata": {"name": name}, "spec": run})
        world.until("MigrationRun", name, status, "" if status == "True" else "StatementFailed")
    world.sql(f"ALTER ROLE {role} SET lock_timeout = '1h'")
    world.look()
    wait_for(lambda: world.api.events("shop", "DriftCorrected"))


def wrong_logins(world: World, postgres: PostgresEndpoint, mongod: MongoEndpoint, password: str) -> None:
    """Servers that refuse the password, that are not there, and that do not speak the protocol."""
    world.server(replace(postgres, password=password), name="wrong")
    world.server(replace(postgres, password=password, port=1), name="away")
    world.server(replace(postgres, password=password, port=mongod.port), name="mistaken")
    world.mongo_server(replace(mongod, password=password), name="wrong-mongo")
    world.api.apply(secret("uri-admin", uri=f"postgresql://me:{password}@nowhere.invalid/db?bad=1"))
    document = world.server_document(postgres, "uri")
    document["spec"]["credentials"]["keys"] = {"uri": "uri"}
    world.api.apply(secret("uri-ca", ca__crt=postgres.ca))
    world.api.apply(document)
    for name, why in (
        ("wrong", "AuthenticationFailed"),
        ("wrong-mongo", "AuthenticationFailed"),
        ("away", "Unreachable"),
    ):
        world.until("DatabaseServer", name, "False", why)
    for name in ("mistaken", "uri"):
        world.until("DatabaseServer", name, "False")


def read_everything(world: World, kubectl: Kubectl, server: PostgresServer, mongod: MongoServer) -> Found:
    """Whatever a person or a machine can read afterwards."""
    found = Found()
    found.add("the operator's log", world.operator.logs())
    for path in ("/metrics", "/metrics/json", "/health", "/health/database"):
        found.add(path, world.operator.http(path)[1])
    kinds = kubectl("api-resources", "--namespaced", "--verbs=list", "-o", "name").stdout.split()
    assert "configmaps" in kinds
    listed = ",".join(kind for kind in kinds if kind != "secrets")
    found.add("objects", kubectl("get", listed, "-n", world.namespace, "-o", "yaml", "--show-managed-fields").stdout)
    own = "databaseservers,databaseschemas,migrationruns"
    found.add("kubectl describe", kubectl("describe", own, "-n", world.namespace).stdout)
    with closing(server.connect()) as connection:
        rows = connection.execute("SELECT query FROM pg_stat_statements").fetchall()
        found.add("pg_stat_statements", "\n".join(query for (query,) in rows))
        rows = connection.execute("SELECT query FROM pg_stat_activity").fetchall()
        found.add("pg_stat_activity", "\n".join(query or "" for (query,) in rows))
    assert server.log_path is not None
    found.add("the log of Postgres", server.log_path.read_text(errors="replace"))
    assert mongod.log_path is not None
    found.add("the log of MongoDB", mongod.log_path.read_text(errors="replace"))
    return found


def test_no_password_appears_anywhere(bare: World, kubectl: Kubectl, talkative: PostgresServer, mongod: MongoServer):
    password, mongo_password, wrong = marked("Mark3d"), marked("M0ng0"), marked("Wr0ng")
    endpoint = administrator(talkative, password)
    with mongod.client() as client:
        client.admin.command("createUser", "marked", pwd=mongo_password, roles=["root"])
    mongo = MongoEndpoint(
        mongod.version, mongod.port, mongo_password, mongod.ca_path, username="marked", replica_set=mongod.replica_set
    )
    world = replace(bare, endpoint=endpoint)
    with Watcher(world.operator.daemon.pid) as watcher:
        world.server(monitoring={"interval": "2s"})
        world.mongo_server(mongo)
        on_postgres(world, world.role("owner"))
        world.schema("designs", server="mongo", deletionPolicy="Delete", mongodb={"collections": [COLLECTION]})
        world.ready("DatabaseSchema", "designs")
        wrong_logins(world, endpoint, mongo, wrong)
        # A password that is wrong from now on, and one that is new: the old one stays a secret.
        world.api.apply(secret("main-admin", username=endpoint.username, password=wrong))
        world.until("DatabaseServer", "main", "False", "AuthenticationFailed", timeout=45)
        world.api.apply(secret("main-admin", username=endpoint.username, password=password))
        world.ready("DatabaseServer", "main", timeout=45)
        found = read_everything(world, kubectl, talkative, mongod)
        for name in ("shop", "designs"):
            world.api.delete("DatabaseSchema", name)
            wait_for(lambda name=name: world.api.get("DatabaseSchema", name) is None)
        after = read_everything(world, kubectl, talkative, mongod)
        rounds = watcher.rounds
        wait_for(lambda: watcher.rounds > rounds + 1)  # a whole look at every process after the last work
    found.add("ps", "\n".join(watcher.seen))
    for secret_value in (password, mongo_password, wrong):
        assert found.places(secret_value) == []
        assert after.places(secret_value) == []
    for line in world.operator.logs().splitlines():
        json.loads(line)
    login = f"{world.name}_migrator"
    no_verifiers(after.texts["pg_stat_statements"], login)
    no_verifiers(after.texts["the log of Postgres"], login)


def no_verifiers(text: str, login: str) -> None:
    """The migrator's login is made, and neither its random passwords nor their SCRAM verifiers are in any text."""
    assert re.search(rf"ROLE \"?{login}\"? ", text), "no login was made before our eyes"
    with_passwords = set(re.findall(r"ROLE \"?(\w+)\"?[^;'\n]*PASSWORD\s+'", text))
    assert with_passwords <= {"selvedge_admin", "postgres"}, "the test's own and the server's, and no other"


def test_the_search_finds_a_password_that_is_there(tmp_path: Path):
    """The test above would pass as well if it looked for the wrong thing."""
    password = marked("Mark3d")
    found = Found()
    found.add("plain", f"x {password} y")
    found.add("in a URI", quote(password, safe=""))
    found.add("in a Secret", base64.b64encode(password.encode()).decode())
    found.add("cut off", password[:45])
    found.add("innocent", "Mark3d")
    assert {place.split(":")[0] for place in found.places(password)} == {"plain", "in a URI", "in a Secret", "cut off"}
    process = subprocess.Popen(["sleep", "60"], env={"PASSWORD": password})
    try:
        with Watcher(process.pid) as watcher:
            wait_for(lambda: any(traces(password)[0] in text for text in watcher.seen))
    finally:
        process.kill()
        process.wait()
