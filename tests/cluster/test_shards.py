"""Several operators share one cluster's work: each resource is answered by one, and moving between them loses nothing.

All DatabaseServers here are the same Postgres, so that a second writer would meet the first in one table of claims.
"""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from sandbox import PostgresServer
from selvedge.config import Settings
from selvedge.core.shards import Shard, shard_of
from selvedge.kube.shard_lease import lease_name
from tests.cluster.chart_support import render
from tests.cluster.kube_api import KINDS, Document
from tests.cluster.operator_process import OperatorProcess
from tests.cluster.world import World, unready, wait_for

#: Long enough for a busy machine, and short enough to wait for.
QUICK = {"SELVEDGE_LEASE_DURATION": "6s", "SELVEDGE_RENEW_DEADLINE": "4s", "SELVEDGE_RETRY_PERIOD": "500ms"}
SECONDS = 120.0
#: Nothing can be waited for where nobody may begin: after two Leases' time whoever wrongly could would lead.
NOBODY_SECONDS = 2 * 6.0


class Crew:
    """Operators of one namespace that want the same work, divided or not."""

    def __init__(self, world: World, directory: Path) -> None:
        self.world = world
        self._directory = directory
        self._number = itertools.count()
        self.started: list[OperatorProcess] = []

    def start(self, shard: str = "", *, leading: bool = True, **env: str) -> OperatorProcess:
        """One more operator; ``shard`` as in SELVEDGE_SHARD, empty: one that serves everything."""
        operator = OperatorProcess(
            self.world.kubeconfig,
            self._directory / f"operator-{next(self._number)}.log",
            namespaces=(self.world.namespace,),
            lease_namespace=self.world.namespace,
            lease_name=self.world.operator.lease_name,
            env={**QUICK, "SELVEDGE_SHARD": shard, **env},
        )
        self.started.append(operator)
        operator.daemon.start_until(operator.leads if leading else operator.answers, SECONDS)
        return operator

    def all_of(self, count: int, *, leading: bool = True) -> list[OperatorProcess]:
        """One for each shard; they lead together, so nobody is waited for alone."""
        crew = [self.start(f"{index}/{count}", leading=False) for index in range(count)]
        if leading:
            wait_for(lambda: all(operator.leads() for operator in crew), SECONDS, what=lambda: _logs(crew))
        return crew

    def end(self) -> None:
        """Kill whatever still runs."""
        for operator in self.started:
            operator.kill()


def _logs(crew: list[OperatorProcess]) -> list[str]:
    return [operator.logs()[-500:] for operator in crew]


@pytest.fixture
def crew(unwatched: World, tmp_path: Path) -> Iterator[Crew]:
    """A namespace without any operator yet, and the way to start some."""
    crew = Crew(unwatched, tmp_path)
    yield crew
    crew.end()
    unwatched.clean()


def server_in(world: World, index: int, count: int, word: str = "server") -> str:
    """A name for a DatabaseServer that belongs to this shard."""
    names = (f"{word}-{number}" for number in itertools.count())
    return next(name for name in names if shard_of(world.namespace, name, count) == index)


def declare(world: World, name: str, server: str, **spec: object) -> None:
    """A database of its own with a role, a schema and a login."""
    role, database = world.role(name.replace("-", "_")), f"{world.name}_{name.replace('-', '_')}"
    connect = {"name": "connect", "privileges": ["CONNECT"], "objects": {"database": True}, "to": [role]}
    postgres = {"owner": role, "roles": [{"name": role}], "schemas": [{"name": "stock"}], "grants": [connect]}
    world.schema(name, server=server, database=database, postgres=postgres, **spec)
    user = {"schemaRef": {"name": name}, "username": f"{role}_app", "roles": [{"role": role}]}
    world.api.apply({"kind": "DatabaseUser", "metadata": {"name": name}, "spec": user})


def all_ready(world: World) -> None:
    """Wait until every resource of the namespace is Ready for its present generation."""
    wait_for(lambda: not unready(world.api, *KINDS), SECONDS, what=lambda: unready(world.api, *KINDS))


def versions(world: World) -> dict[str, str]:
    """The resourceVersion of everything that an operator could write to."""
    return world.api.versions(*KINDS, "Secret")


def claims(world: World, database: str) -> list[tuple[object, ...]]:
    return world.sql("SELECT object, resource, uid::text FROM selvedge.claims ORDER BY 1, 2", database=database)


def ready_count(operator: OperatorProcess) -> float:
    return sum(operator.value("selvedge_resources", kind=kind) for kind in KINDS)


def test_two_shards_share_the_work_and_each_resource_is_answered_by_one(crew: Crew):
    world = crew.world
    first, second = crew.all_of(2)
    servers = [world.server(name=server_in(world, index, 2)) for index in range(2)]
    for index, server in enumerate(servers):
        declare(world, f"unit-{index}", server)
    run = {"schemaRef": {"name": "unit-1"}, "source": {"inline": {"files": {"20250101000000_a.sql": "SELECT 1;"}}}}
    world.api.apply({"kind": "MigrationRun", "metadata": {"name": "run"}, "spec": run})
    all_ready(world)
    for index, operator in enumerate((first, second)):
        # each has its own server, its own statements and its own share of the figures
        own, other = (f"{world.namespace}/{servers[place]}" for place in (index, 1 - index))
        assert operator.value("db_queries_total", database=own) > 0
        assert operator.value("db_queries_total", database=other) == 0
        assert operator.value("selvedge_shard_info", index=index, count=2) == 1
        assert f'"shard": "{index}/2"' in operator.http("/health")[1]
        assert f'"{other}"' not in operator.http("/health/database")[1]
        wait_for(lambda operator=operator, index=index: ready_count(operator) == 3 + index, 30)
    # what belongs to no server that exists is answered all the same, and once
    before = second.writes()
    declare(world, "nowhere", server_in(world, 0, 2, "nobody"))
    lost = {"schemaRef": {"name": server_in(world, 0, 2, "none")}, "username": world.role("lost"), "roles": []}
    world.api.apply({"kind": "DatabaseUser", "metadata": {"name": "lost"}, "spec": lost})
    world.until("DatabaseSchema", "nowhere", "False", "WaitingForServer", SECONDS)
    world.until("DatabaseUser", "lost", "False", "WaitingForSchema", SECONDS)
    assert second.writes() == before
    wait_for(lambda: ready_count(first) + ready_count(second) == 3 + 4 + 3, 30)
    # the database goes from one shard to the other, with its login
    uid = world.api.get("DatabaseUser", "unit-0")["metadata"]["uid"]
    made = claims(world, f"{world.name}_unit_0")
    declare(world, "unit-0", servers[1], deletionPolicy="Delete")
    world.ready("DatabaseSchema", "unit-0", SECONDS)
    moved = f"{world.namespace}/{servers[1]}"
    wait_for(lambda: (world.api.get("DatabaseUser", "unit-0").get("status") or {}).get("server") == moved, SECONDS)
    world.ready("DatabaseUser", "unit-0", SECONDS)
    assert world.api.get("DatabaseUser", "unit-0")["metadata"]["uid"] == uid
    assert claims(world, f"{world.name}_unit_0") == made
    # and what it made there is taken away by the shard that has it now, and nobody takes the finalizer before
    wait_for(lambda: world.api.get("DatabaseSchema", "unit-0")["metadata"].get("finalizers"), SECONDS)
    world.api.delete("DatabaseUser", "unit-0")
    wait_for(lambda: world.api.get("DatabaseUser", "unit-0") is None, SECONDS)
    world.api.delete("DatabaseSchema", "unit-0")
    wait_for(lambda: world.api.get("DatabaseSchema", "unit-0") is None, SECONDS)
    gone = f"SELECT count(*) FROM pg_database WHERE datname = '{world.name}_unit_0'"
    assert world.ask(gone, database="postgres") == 0
    wait_for(lambda: len(world.api.events("unit-0", "Deleted")) == 2, what=lambda: world.api.events("unit-0"))
    assert world.api.events("unit-0", "Retained") == []


@pytest.mark.long
def test_each_shard_has_standbys_of_its_own(crew: Crew):
    world = crew.world
    crew.all_of(2)
    first, second = crew.started
    standby = crew.start("0/2", leading=False)
    wait_for(lambda: standby.http("/readyz") == (200, "standby\n"), SECONDS)
    assert standby.value("selvedge_leader") == 0
    server = world.server(name=server_in(world, 0, 2))
    first.kill()
    wait_for(standby.leads, SECONDS)
    declare(world, "unit", server)
    all_ready(world)
    assert second.daemon.alive  # the other shard did not notice
    assert second.leads()
    assert second.value("db_queries_total") == 0


@pytest.mark.long
def test_an_operator_that_divides_the_work_otherwise_waits_for_all_the_others(crew: Crew):
    """Whichever comes first, an old one without shards included: two ways would give a server two operators."""
    world = crew.world
    whole = crew.start()
    server = world.server(name=server_in(world, 1, 3))
    three = crew.all_of(3, leading=False)
    declare(world, "unit", server)
    all_ready(world)
    time.sleep(NOBODY_SECONDS)
    assert not any(operator.leads() for operator in three)
    assert [sum(operator.writes().values()) for operator in three] == [0, 0, 0]
    assert whole.stop() == 0
    wait_for(lambda: all(operator.leads() for operator in three), SECONDS, what=lambda: _logs(three))
    again = crew.start(leading=False)
    for operator in three[:2]:
        assert operator.stop() == 0
    time.sleep(NOBODY_SECONDS)
    assert three[2].leads()
    assert not again.leads()
    assert three[2].stop() == 0
    wait_for(again.leads, SECONDS)
    # the common Lease was given back by the last of them, not by the others
    assert [operator.logs().count("released the lease") for operator in three] == [1, 1, 2]
    two = crew.start("0/2", leading=False)
    time.sleep(NOBODY_SECONDS)
    assert not two.leads()
    assert again.leads()


@pytest.mark.long
def test_a_shard_whose_common_lease_was_taken_ends(crew: Crew):
    world = crew.world
    operators = crew.all_of(2)
    world.api.patch("Lease", world.operator.lease_name, {"spec": {"holderIdentity": "thief"}})
    for operator in operators:
        wait_for(lambda operator=operator: not operator.daemon.alive, SECONDS)
        assert operator.daemon.returncode == 1
        assert "lost the lease: another holds it" in operator.logs()


@pytest.fixture
def own(crew: Crew) -> Iterator[PostgresServer]:
    """A Postgres of this test's own: what is written to it is written by its operators."""
    shared = crew.world.endpoint
    with PostgresServer.launch("18") as server:
        crew.world.endpoint = server
        with closing(server.connect()) as connection:
            connection.execute("CREATE EXTENSION pg_stat_statements")
        yield server
        crew.end()
    crew.world.endpoint = shared


_WRITES = (
    "SELECT coalesce(sum(s.calls), 0)::bigint FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid"
    " WHERE s.query ~* '^\\s*(INSERT|UPDATE|DELETE|CREATE|ALTER|DROP|GRANT|REVOKE|COMMENT)'"
    " AND s.query !~* 'pg_stat_statements'"
)


@pytest.mark.long
def test_from_one_to_three_and_back_nothing_is_lost_and_nothing_is_done_twice(crew: Crew, own: PostgresServer):
    world = crew.world
    whole = crew.start()
    servers = [world.server(name=server_in(world, index, 3)) for index in range(3)]
    for number in range(9):
        declare(world, f"unit-{number}", servers[number % 3])
    databases = [f"{world.name}_unit_{number}" for number in range(9)]
    all_ready(world)
    made = {database: claims(world, database) for database in databases}
    secrets = {o["metadata"]["name"]: o["data"] for o in world.api.list("Secret")}
    writes, before = world.ask(_WRITES, database="postgres"), versions(world)

    # one to three, under way: a pass over everything by those who know nothing of it
    three = crew.all_of(3, leading=False)
    assert whole.stop() == 0
    wait_for(lambda: all(operator.leads() for operator in three), SECONDS, what=lambda: _logs(three))
    wait_for(lambda: all(operator.value("selvedge_reconcile_total") >= 7 for operator in three), SECONDS)
    all_ready(world)
    assert world.ask(_WRITES, database="postgres") == writes
    assert versions(world) == before
    for operator in three:
        assert operator.value("selvedge_reconcile_total", kind="DatabaseSchema", result="success") >= 3

    # a migration in each shard; one of them is killed in its midst, and three become one
    for number in range(3):
        world.api.apply(_slow_run(f"unit-{number}"))
    running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(3)%'"
    wait_for(lambda: world.ask(running, database="postgres") == 3, SECONDS)
    whole = crew.start(leading=False)
    three[0].kill()
    for operator in three[1:]:
        os.kill(operator.daemon.pid, signal.SIGTERM)
    wait_for(whole.leads, SECONDS)
    assert [operator.daemon.alive for operator in three] == [False] * 3
    for number in range(3):
        world.ready("MigrationRun", f"unit-{number}", SECONDS)
        database = databases[number]
        assert world.ask("SELECT string_agg(what, ',' ORDER BY what) FROM stock.log", database=database) == "a,b,c"
        applied = "SELECT count(*) FROM selvedge.events WHERE event = 'Applied'"
        assert world.ask(applied, database=database) == 3
    all_ready(world)
    assert {database: claims(world, database) for database in databases} == made
    assert {o["metadata"]["name"]: o["data"] for o in world.api.list("Secret")} == secrets


def _slow_run(schema: str) -> Document:
    """Three migrations, the second of which takes three seconds."""
    texts = ["CREATE TABLE stock.log (what text); INSERT INTO stock.log VALUES ('a');"]
    texts += [f"INSERT INTO stock.log VALUES ('{what}'); SELECT pg_sleep({3 if what == 'b' else 0});" for what in "bc"]
    files = {f"2025010{day}000000_m.sql": f"-- migrate:up\n{text}\n" for day, text in enumerate(texts, 1)}
    spec = {"schemaRef": {"name": schema}, "source": {"inline": {"files": files}}}
    return {"kind": "MigrationRun", "metadata": {"name": schema}, "spec": spec}


def test_the_chart_runs_as_many_as_are_asked_for():
    """Each with its own pods, disruption budget and Lease, and with the rights on the Leases that it will take."""
    documents = render("ops", "shards=3")
    deployments = {d["metadata"]["name"]: d["spec"] for d in documents if d["kind"] == "Deployment"}
    assert set(deployments) == {f"selvedge-shard-{index}" for index in range(3)}
    rules = [rule for d in documents if d["kind"] == "Role" for rule in d["rules"] if rule["resources"] == ["leases"]]
    leases = {name for rule in rules for name in rule.get("resourceNames", ())}
    budgets = [d["spec"]["selector"]["matchLabels"] for d in documents if d["kind"] == "PodDisruptionBudget"]
    for index, (name, spec) in enumerate(sorted(deployments.items())):
        (container,) = spec["template"]["spec"]["containers"]
        env = {entry["name"]: entry.get("value") for entry in container["env"]}
        settings = Settings.from_environment({k: v for k, v in env.items() if v})
        assert settings.shard == Shard(index, 3)
        assert {settings.lease_name, lease_name(settings.lease_name, index)} <= leases
        labels = spec["template"]["metadata"]["labels"]
        assert name == f"selvedge-shard-{index}"
        assert [budget.items() <= labels.items() for budget in budgets].count(True) == 1
        selectors = [other["selector"]["matchLabels"] for other in deployments.values()]
        assert [selector.items() <= labels.items() for selector in selectors].count(True) == 1
        (service,) = (d["spec"]["selector"] for d in documents if d["kind"] == "Service")
        assert service.items() <= labels.items()


def test_one_shard_is_named_as_none():
    assert render("ops", "shards=1") == render("ops")
    (deployment,) = (d for d in render("ops") if d["kind"] == "Deployment")
    assert deployment["metadata"]["name"] == "selvedge"
    assert "SELVEDGE_SHARD" not in str(deployment)
    assert "selvedge.dev/shard" not in str(deployment)
