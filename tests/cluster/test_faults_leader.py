"""Two operators at once: one leads and writes, the other answers its probes; who lost the Lease writes nothing more."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster.operator_process import OperatorProcess
from tests.cluster.world import World, wait_for

HANDOVER_SECONDS = 20.0
#: A Lease that is lost soon; the ratios are those of the defaults.
QUICK = {"SELVEDGE_LEASE_DURATION": "3s", "SELVEDGE_RENEW_DEADLINE": "2s", "SELVEDGE_RETRY_PERIOD": "400ms"}

Second = Callable[..., OperatorProcess]
short_lease = pytest.mark.parametrize("operator_env", [QUICK], indirect=True, ids=["short-lease"])


@pytest.fixture
def second(kubeconfig: Path, namespace: str, tmp_path: Path) -> Iterator[Second]:
    """Start another operator that wants the same Lease as the given one."""
    started: list[OperatorProcess] = []

    def start(first: OperatorProcess, **env: str) -> OperatorProcess:
        other = OperatorProcess(
            kubeconfig,
            tmp_path / f"operator-{len(started) + 2}.log",
            namespaces=(namespace,),
            lease_namespace=namespace,
            lease_name=first.lease_name,
            env=env,
        )
        started.append(other)
        other.start(leading=False)
        return other

    yield start
    for operator in started:
        operator.kill()


@pytest.fixture
def quick(world: World, operator_env: dict[str, str]) -> World:
    """The world with an operator whose Lease lasts three seconds instead of fifteen; see :data:`short_lease`."""
    assert operator_env == QUICK
    return world


@contextmanager
def frozen(operator: OperatorProcess) -> Iterator[None]:
    """The process stands still, as on a machine that was suspended."""
    os.kill(operator.daemon.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(operator.daemon.pid, signal.SIGCONT)


def ends(operator: OperatorProcess, seconds: float = 10.0) -> int | None:
    """Wait until the process has ended; its exit status."""
    wait_for(lambda: not operator.daemon.alive, seconds)
    return operator.daemon.returncode


def only_the_lease(operator: OperatorProcess) -> bool:
    """Whether everything that it ever wrote to the Kubernetes API was its Lease."""
    return sum(operator.writes().values()) == 0


def test_a_standby_answers_writes_nothing_and_leads_soon_after_a_kill(world: World, second: Second):
    standby = second(world.operator)
    world.schema("shop", postgres={"schemas": [{"name": "shared"}]})
    world.ready("DatabaseSchema", "shop")
    assert standby.http("/livez") == (200, "ok\n")
    wait_for(lambda: standby.http("/readyz") == (200, "standby\n"))
    assert world.operator.http("/readyz") == (200, "leader\n")
    assert standby.value("selvedge_leader") == 0
    assert standby.http("/metrics/json")[0] == 200
    assert standby.http("/health")[0] == 200
    assert only_the_lease(standby)
    assert standby.value("db_queries_total") == 0
    world.operator.kill()
    began = time.monotonic()
    world.schema("shop", postgres={"schemas": [{"name": "shared"}, {"name": "later"}]})
    wait_for(standby.leads, HANDOVER_SECONDS)
    assert time.monotonic() - began <= HANDOVER_SECONDS
    world.ready("DatabaseSchema", "shop")
    assert standby.http("/readyz") == (200, "leader\n")
    assert world.api.events("shop", "DriftCorrected") == []


def test_a_leader_that_is_told_to_stop_hands_over_within_seconds(world: World, second: Second):
    standby = second(world.operator)
    world.schema("shop", postgres={"schemas": [{"name": "shared"}]})
    world.ready("DatabaseSchema", "shop")
    began = time.monotonic()
    os.kill(world.operator.daemon.pid, signal.SIGTERM)
    wait_for(standby.leads)
    world.schema("shop", postgres={"schemas": [{"name": "shared"}, {"name": "later"}]})
    world.ready("DatabaseSchema", "shop")
    assert ends(world.operator) == 0
    assert time.monotonic() - began < 12


MIGRATIONS = {
    f"2025010{day}000000_m.sql": f"-- migrate:up\nINSERT INTO shop.log VALUES ('{day}');\n"
    f"SELECT pg_sleep({1.0 if day == 2 else 0.01});\nINSERT INTO shop.log VALUES ('{day} too');\n"
    for day in (2, 3, 4)
}
MIGRATIONS["20250101000000_m.sql"] = "-- migrate:up\nCREATE TABLE shop.log (what text);\n"


@short_lease
def test_a_leader_that_stood_still_writes_nothing_more_and_exits(quick: World, second: Second):
    """It is stopped in the middle of a migration, and wakes when another one leads and wants to go on with it."""
    world, owner = quick, quick.role("owner")
    other = second(world.operator, **QUICK)
    postgres = {"owner": owner, "roles": [{"name": owner}], "schemas": [{"name": "shop", "owner": owner}]}
    world.schema("shop", postgres=postgres)
    world.ready("DatabaseSchema", "shop")
    run = {"schemaRef": {"name": "shop"}, "source": {"inline": {"files": MIGRATIONS}}}
    world.api.apply({"kind": "MigrationRun", "metadata": {"name": "run"}, "spec": run})
    sleeping = (
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'SELECT pg_sleep(1.0)%'"
    )
    wait_for(lambda: world.sql(sleeping))
    with frozen(world.operator):
        wait_for(other.leads)
        assert world.sql("SELECT count(*) FROM selvedge.history") == [(1,)]
    # Whose transaction was open cannot commit any more.
    assert ends(world.operator) == 1
    log = world.operator.logs()
    assert "lost the lease" in log
    assert "Traceback" not in log
    world.ready("MigrationRun", "run", 40)
    rows = [what for (what,) in world.sql("SELECT what FROM shop.log ORDER BY what")]
    assert rows == ["2", "2 too", "3", "3 too", "4", "4 too"]
    assert world.ask("SELECT count(*) FROM selvedge.events WHERE event = 'Applied'") == 4
    assert world.ask("SELECT count(*) FROM selvedge.history WHERE state = 'Applied'") == 4


@short_lease
def test_a_leader_whose_lease_was_taken_exits_and_does_not_act_on_what_comes(quick: World):
    world = quick
    world.schema("shop", postgres={"schemas": [{"name": "shared"}]})
    world.ready("DatabaseSchema", "shop")
    world.api.patch("Lease", world.operator.lease_name, {"spec": {"holderIdentity": "thief"}})
    # The thief's time has not begun for the one that holds it: it asks every 0.4 s, and by then it must have noticed.
    assert ends(world.operator) == 1
    assert "lost the lease: another holds it" in world.operator.logs()
    world.schema("shop", postgres={"schemas": [{"name": "shared"}, {"name": "never"}]})
    assert world.ask("SELECT count(*) FROM pg_namespace WHERE nspname = 'never'") == 0
    # It is started again, as a Deployment does, and has to wait until the thief's Lease has expired.
    world.operator.start(leading=False)
    assert not world.operator.leads()
    wait_for(world.operator.leads)
    world.ready("DatabaseSchema", "shop")


@short_lease
def test_a_deleted_lease_is_made_again_and_the_work_goes_on(quick: World):
    world, name = quick, quick.operator.lease_name
    pid = world.operator.daemon.pid
    before = world.api.get("Lease", name)["metadata"]["uid"]
    world.api.delete("Lease", name)
    wait_for(lambda: (world.api.get("Lease", name) or {"metadata": {"uid": before}})["metadata"]["uid"] != before)
    world.schema("shop", postgres={"schemas": [{"name": "shared"}]})
    world.ready("DatabaseSchema", "shop")
    assert world.operator.daemon.pid == pid


def test_nothing_is_written_while_another_holds_the_databases_lock(world: World):
    """The lock in the database, not the Lease, is what keeps two writers apart: here somebody else holds it."""
    from selvedge.engines.postgres.locks import LOCK_KEY

    world.schema("shop", postgres={"schemas": [{"name": "shared"}]})
    world.ready("DatabaseSchema", "shop")
    with world.endpoint.connect(world.name) as holder:
        holder.execute("SELECT pg_advisory_lock(%s)", [LOCK_KEY])
        world.schema("shop", postgres={"schemas": [{"name": "shared"}, {"name": "later"}]})
        world.until("DatabaseSchema", "shop", "False", "WaitingForLock")
        assert world.ask("SELECT count(*) FROM pg_namespace WHERE nspname = 'later'") == 0
    world.ready("DatabaseSchema", "shop")
