"""kill -9 of the operator at many points of its work: the next one converges, and nothing ran twice.

The operator is started again with the identity it had, so it leads at once and meets what the killed one left behind:
sessions that still live, a lock that is still held. With an identity of its own it would first wait for the Lease.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.cluster.kube_api import Document, KubeApi
from tests.cluster.world import World, wait_for

LONG_CUTS = 14
#: Cuts by the clock beside those at a moment that a condition names.
CLOCK_CUTS = 6
# The pauses give a test the time to open the transaction that keeps a CONCURRENTLY from ending.
FILES = {
    "20250101000000_log.sql": "-- migrate:up\nCREATE TABLE shop.log (what text);\nINSERT INTO shop.log VALUES ('a1');\n"
    "SELECT pg_sleep(0.25);\nINSERT INTO shop.log VALUES ('a2');\n",
    "20250102000000_big.sql": "-- migrate:up\nINSERT INTO shop.log VALUES ('b1');\n"
    "CREATE TABLE shop.big AS SELECT g, g % 7 AS h FROM generate_series(1, 100000) g;\n",
    "20250103000000_mixed.sql": "-- migrate:up\nINSERT INTO shop.log VALUES ('c1');\n"
    "SELECT pg_sleep(0.5);\n"
    "CREATE INDEX CONCURRENTLY big_g ON shop.big (g);\nINSERT INTO shop.log VALUES ('c2');\n"
    "DROP INDEX CONCURRENTLY shop.big_g;\nINSERT INTO shop.log VALUES ('c3');\n",
    "20250104000000_index.sql": "-- migrate:up\nSELECT pg_sleep(0.5);\n"
    "CREATE UNIQUE INDEX CONCURRENTLY big_gh ON shop.big (g, h);\n",
    "20250105000000_note.sql": "-- migrate:up\nINSERT INTO shop.log VALUES ('e1');\n"
    "ALTER TABLE shop.big ADD COLUMN note text;\nINSERT INTO shop.log VALUES ('e2');\n",
}
DONE = ["a1", "a2", "b1", "c1", "c2", "c3", "e1", "e2"]
VERSIONS = [name[:14] for name in FILES]

Cut = Callable[["Case"], None]


@pytest.fixture
def operator_env() -> dict[str, str]:
    """An operator that keeps its identity when it is started again."""
    return {"SELVEDGE_IDENTITY": "the-same"}


class Case:
    """One database and what is declared about it."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.database = f"{world.name}_{name}".replace("-", "_")
        self.owner = f"{self.database}_owner"
        self.login = f"{self.database}_migrator"

    def declare(self) -> None:
        self.world.schema(self.name, database=self.database, postgres=self.postgres())

    def postgres(self) -> Document:
        return {
            "owner": self.owner,
            "roles": [{"name": self.owner}],
            "schemas": [{"name": "shop", "owner": self.owner}],
        }

    def run(self) -> None:
        self.world.api.apply(
            {
                "kind": "MigrationRun",
                "metadata": {"name": self.name},
                "spec": {"schemaRef": {"name": self.name}, "source": {"inline": {"files": FILES}}},
            }
        )

    def ask(self, question: str) -> Any:
        return self.world.sql(question, database=self.database)

    def active(self, beginning: str) -> None:
        """Wait until the migrator runs a statement that begins so."""
        query = sql.SQL("SELECT 1 FROM pg_stat_activity WHERE usename = %s AND starts_with(query, %s) AND state = %s")
        with closing(self.world.endpoint.connect()) as watcher:
            wait_for(lambda: watcher.execute(query, [self.login, beginning, "active"]).fetchall())

    def logged(self, what: str) -> None:
        """Wait until the row of a statement is committed."""
        with closing(self.world.endpoint.connect(self.database)) as watcher:

            def there() -> bool:
                try:
                    return bool(watcher.execute("SELECT 1 FROM shop.log WHERE what = %s", [what]).fetchall())
                except psycopg.errors.UndefinedTable:
                    return False

            wait_for(there)

    def holding(self, after: str, hold: str, beginning: str) -> None:
        """Kill inside a CONCURRENTLY, which cannot end because a transaction is open that ``hold`` begins."""
        with closing(self.world.endpoint.connect(self.database)) as holder:
            self.logged(after)
            for statement in hold.split(";"):
                holder.execute(statement.encode())
            self.active(beginning)
            self.world.operator.kill()

    def status(self, text: str) -> None:
        """Wait until the status of the run holds this text."""
        wait_for(lambda: text in str((self.world.api.get("MigrationRun", self.name) or {}).get("status")))

    def ran_exactly_once(self) -> None:
        run = self.world.ready("MigrationRun", self.name, timeout=60)
        assert run["status"]["phase"] == "Succeeded"
        assert sorted(what for (what,) in self.ask("SELECT what FROM shop.log")) == DONE
        rows = self.ask("SELECT version::text, state FROM selvedge.history ORDER BY version")
        assert rows == [(version, "Applied") for version in VERSIONS]
        events = self.ask("SELECT version::text FROM selvedge.events WHERE event = 'Applied' ORDER BY version")
        assert events == [(version,) for version in VERSIONS]
        indexes = self.ask(
            "SELECT indexrelid::regclass::text, indisvalid FROM pg_index WHERE indrelid = 'shop.big'::regclass"
        )
        assert indexes == [("shop.big_gh", True)]
        left = self.ask(f"SELECT pid FROM pg_stat_activity WHERE usename = '{self.login}'")
        assert left == []
        assert len(self.world.api.events(self.name, "Applied")) <= 1


def after(seconds: float) -> Cut:
    """A cut by the clock: at a moment that no condition names."""
    return lambda case: time.sleep(seconds)  # the cut itself


#: Building an index waits for every older snapshot; dropping one waits for whoever has locked the table in any mode.
SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM shop.log"
LOCK = "BEGIN; LOCK shop.big IN ACCESS SHARE MODE"

RUN_CUTS: dict[str, Cut] = {
    "in-a-transaction": lambda case: case.active("SELECT pg_sleep"),
    "in-concurrently": lambda case: case.holding("c2", SNAPSHOT, "CREATE UNIQUE INDEX"),
    "between-statements": lambda case: case.logged("c2"),
    "status-written": lambda case: case.status("Running"),
}
LONG_RUN_CUTS: dict[str, Cut] = {
    "in-the-first-concurrently": lambda case: case.holding("b1", SNAPSHOT, "CREATE INDEX"),
    "in-drop-concurrently": lambda case: case.holding("b1", LOCK, "DROP INDEX"),
    "first-committed": lambda case: case.logged("a2"),
    "second-committed": lambda case: case.logged("b1"),
    "begun-without-transaction": lambda case: case.logged("c1"),
    "ended-without-transaction": lambda case: case.logged("c3"),
    "all-but-the-status": lambda case: case.logged("e2"),
}


def measured(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def cut_run(world: World, name: str, cut: Cut) -> None:
    case = Case(world, name)
    case.declare()
    world.ready("DatabaseSchema", name)
    case.run()
    cut(case)
    world.operator.kill()
    world.operator.start()
    case.ran_exactly_once()


def test_a_killed_migration_run_goes_on_and_nothing_runs_twice(world: World):
    for name, cut in RUN_CUTS.items():
        cut_run(world, name, cut)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("postgres")
def test_a_migration_run_killed_at_many_points(world: World):
    for name, cut in LONG_RUN_CUTS.items():
        cut_run(world, name, cut)
    whole = Case(world, "whole")
    whole.declare()
    world.ready("DatabaseSchema", "whole")
    whole.run()
    seconds = measured(whole.ran_exactly_once)
    for number in range(LONG_CUTS):
        cut_run(world, f"at-{number}", after(seconds * (number + 0.5) / LONG_CUTS))


@pytest.mark.long
@pytest.mark.timeout(600)
def test_one_migration_run_killed_again_and_again(world: World):
    """Each attempt gets a little further, or not; what counts is that none of them leaves anything wrong."""
    case = Case(world, "often")
    case.declare()
    world.ready("DatabaseSchema", "often")
    case.run()
    for number in range(10):
        time.sleep(0.1 + 0.07 * number)  # the cut: each a little later than the one before
        world.operator.kill()
        world.operator.start()
    case.ran_exactly_once()


class SchemaCase(Case):
    """A database with a bit of everything."""

    def postgres(self) -> Document:
        roles = [f"{self.database}_r{number}" for number in range(4)]
        schemas = ["shared", "avatar", "catalog", "design"]
        return {
            "owner": self.owner,
            "settings": {"statement_timeout": "30s"},
            "extensions": [{"name": "pgcrypto"}],
            "roles": [
                {"name": self.owner},
                *({"name": role, "settings": {"lock_timeout": "2s"}} for role in roles[:2]),
                *({"name": role, "memberOf": [{"role": roles[0]}]} for role in roles[2:]),
            ],
            "schemas": [{"name": name, "owner": self.owner} for name in schemas],
            "grants": [
                {"name": f"use-{role[-2:]}", "privileges": ["USAGE"], "objects": {"schemas": schemas}, "to": [role]}
                for role in roles
            ],
        }

    def converged(self) -> None:
        """Ready, every object there once and claimed once, and nobody is told of drift."""
        found = self.world.ready("DatabaseSchema", self.name, timeout=60)
        assert found["status"]["drift"] == 0
        assert found["status"]["objects"]["failed"] == 0
        assert self.world.api.events(self.name, "DriftCorrected") == []
        assert self.ask(
            "SELECT count(*) FROM pg_namespace WHERE nspname IN ('shared','avatar','catalog','design')"
        ) == [(4,)]
        grants = self.ask(
            "SELECT count(*) FROM pg_namespace n, aclexplode(n.nspacl) a"
            f" WHERE starts_with(a.grantee::regrole::text, '{self.database}_r')"
        )
        assert grants == [(16,)]
        twice = self.ask("SELECT object FROM selvedge.claims GROUP BY object HAVING count(*) > 1")
        assert twice == []
        uid = found["metadata"]["uid"]
        others = self.ask(f"SELECT object FROM selvedge.claims WHERE uid <> '{uid}'")
        assert others == []

    def role_exists(self) -> None:
        """Wait for the first role."""
        with closing(self.world.endpoint.connect()) as watcher:
            query = "SELECT 1 FROM pg_roles WHERE starts_with(rolname, %s)"
            wait_for(lambda: watcher.execute(query, [self.database]).fetchall())

    def database_exists(self) -> None:
        """Wait for the database."""
        with closing(self.world.endpoint.connect()) as watcher:
            query = "SELECT 1 FROM pg_database WHERE datname = %s"
            wait_for(lambda: watcher.execute(query, [self.database]).fetchall())

    def creating(self) -> None:
        """Wait until CREATE DATABASE runs."""
        with closing(self.world.endpoint.connect()) as watcher:
            query = (
                "SELECT 1 FROM pg_stat_activity WHERE query ILIKE 'CREATE DATABASE%%' AND query LIKE %s"
                " AND state = 'active' UNION ALL SELECT 1 FROM pg_database WHERE datname = %s"
            )
            wait_for(lambda: watcher.execute(query, [f"%{self.database}%", self.database]).fetchall())

    def schemas_exist(self) -> None:
        """Wait until the changes are committed; the status is not written yet, or hardly."""
        self.database_exists()
        with closing(self.world.endpoint.connect(self.database)) as watcher:
            query = "SELECT 1 FROM pg_namespace WHERE nspname = 'design'"
            wait_for(lambda: watcher.execute(query).fetchall())


SCHEMA_CUTS: dict[str, Callable[[SchemaCase], None]] = {
    "first-role": SchemaCase.role_exists,
    "create-database": SchemaCase.creating,
    "database-there": SchemaCase.database_exists,
    "schemas-there": SchemaCase.schemas_exist,
}


def cut_schema(world: World, name: str, cut: Callable[[SchemaCase], None]) -> None:
    case = SchemaCase(world, name)
    case.declare()
    cut(case)
    world.operator.kill()
    world.operator.start()
    case.converged()


def cut_by_the_clock(world: World, cuts: int) -> None:
    """Evenly over the time that the whole takes."""
    whole = SchemaCase(world, "whole")
    seconds = measured(lambda: (whole.declare(), whole.converged()))
    for number in range(cuts):
        cut_schema(world, f"at-{number}", after(seconds * (number + 0.5) / cuts))


def test_a_killed_creation_of_a_database_converges(world: World):
    for name, cut in SCHEMA_CUTS.items():
        cut_schema(world, name, cut)
    cut_by_the_clock(world, CLOCK_CUTS)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("postgres")
def test_a_creation_killed_at_many_points(world: World):
    cut_by_the_clock(world, LONG_CUTS)


def test_what_was_killed_is_not_done_again_when_it_was_done(world: World, api: KubeApi):
    """After the restart, a run that succeeded is not opened and a database that matches is not written to."""
    case = Case(world, "done")
    case.declare()
    case.run()
    case.ran_exactly_once()
    world.ready("DatabaseSchema", "done")
    before = api.get("MigrationRun", "done"), api.get("DatabaseSchema", "done")
    world.operator.kill()
    world.operator.start()
    wait_for(lambda: world.operator.value("selvedge_reconcile_total", kind="DatabaseSchema") > 0)
    after = api.get("MigrationRun", "done"), api.get("DatabaseSchema", "done")
    assert [o["metadata"]["resourceVersion"] for o in after] == [o["metadata"]["resourceVersion"] for o in before]
    assert world.operator.value("selvedge_reconcile_total", kind="MigrationRun", result="success") <= 1
    case.ran_exactly_once()
