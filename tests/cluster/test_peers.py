"""What went wrong with comparable operators on the same work, and must not go wrong here: each failure is a test.

One fleet serves the whole module: forty databases on a server with nine connections. Each test leaves it Ready and
counts from where it begins, so their order does not matter. Nearby: what each broken server says is in
test_bad_servers.py, every kind of drift in test_drift.py, kill -9 at chosen points in test_faults_kill.py, everything
applied and deleted at once in test_order.py, an error as the first status of each kind in test_crds.py.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import pytest

from sandbox import Sandbox
from sandbox.ports import free_port
from selvedge.api.resource import KINDS
from tests.cluster.fleet import LIMIT, LOGIN, Fleet, Person, Use, fleet, sightings
from tests.cluster.kube_api import Document
from tests.cluster.world import condition, secret, verdict, wait_for

#: One process of pytest-xdist has all of them, so that the fleet is made once; see --dist loadgroup.
pytestmark = pytest.mark.xdist_group("fleet")

UNITS = 40
NAMES = [f"unit-{number}" for number in range(UNITS)]
#: The interval of every unit is 10 s; jitter adds up to a tenth.
INTERVAL_SECONDS = 10.0
#: Beyond what units need: the server's own probes and its status.
SPARE = 10
#: Lists of all that has to be known: our kinds, Secrets and ConfigMaps. Made at the start, and every ten minutes.
EVERYTHING = len(KINDS) + 2


@dataclass(frozen=True, slots=True)
class Launched:
    """The fleet, and what it took to bring all units from nothing to Ready."""

    fleet: Fleet
    before: Use
    after: Use
    peak: int
    served: int
    refused: list[str]
    passes: float
    probes: float


@pytest.fixture(scope="module")
def launched(sandbox: Sandbox, served: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    """Forty units applied at once in random order, while a person without privileges uses psql."""
    if os.environ.get("SELVEDGE_KUBECONFIG"):
        pytest.skip("counts the requests of a user of its own, which only the sandbox's API server has")
    with fleet(sandbox, tmp_path_factory.mktemp("fleet")) as made:
        before = made.use()
        with Person(made.server) as person:
            made.apply(*(made.unit(name) for name in random.sample(NAMES, UNITS)))
            made.all_ready()
        after, passes, probes = made.use(), made.passes(), made.passes("DatabaseServer")
        yield Launched(
            made, before, after, made.connections()[1], person.served, person.refused, passes=passes, probes=probes
        )


@pytest.fixture
def ready(launched: Launched) -> Fleet:
    """The fleet, Ready, with nothing queued."""
    launched.fleet.all_ready()
    return launched.fleet


def test_on_an_empty_server_with_nothing_to_find_everything_is_made(launched: Launched):
    """A peer's check failed where its query found no row, and it created nothing at all."""
    made = launched.fleet
    assert {name: made.verdicts()[name][:2] for name in NAMES} == dict.fromkeys(NAMES, ("True", "Verified"))
    prefix = made.world.role("unit_")
    databases = f"SELECT count(*) FROM pg_database WHERE starts_with(datname, '{prefix}')"
    roles = f"SELECT count(*) FROM pg_roles WHERE starts_with(rolname, '{prefix}')"
    assert made.world.ask(databases, database="postgres") == UNITS
    assert made.world.ask(roles, database="postgres") == 2 * UNITS
    made.world.schema("nothing", database=made.world.role("nothing"), postgres={})
    made.world.ready("DatabaseSchema", "nothing")
    made.remove("nothing")


def test_the_first_status_can_be_an_error(ready: Fleet):
    """A peer's error could not be written, because a field of the status was required."""
    port = free_port()
    ready.world.server(name="nobody", hosts=[{"host": "localhost", "port": port}])
    document = ready.world.until("DatabaseServer", "nobody", "False", "Unreachable")
    assert set(document["status"]) <= {"observedGeneration", "conditions", "nextRetryTime"}
    ready.apply(ready.unit("nowhere", server="nobody"))
    document = ready.world.until("DatabaseSchema", "nowhere", "False")
    assert f"localhost:{port}" in verdict(document)[2]
    ready.remove("nowhere")
    ready.world.api.delete("DatabaseServer", "nobody")


def test_forty_databases_need_no_more_connections_than_one(launched: Launched):
    """Peers kept a connection, or a pool of five, for each database: "too many clients already"."""
    assert 1 <= launched.peak <= LIMIT
    assert "too many clients" not in launched.fleet.log()
    assert "remaining connection slots" not in launched.fleet.log()


def test_a_person_with_psql_always_gets_in(launched: Launched):
    """Beside a peer, the administrator's own psql was refused."""
    assert launched.refused == []
    assert launched.served >= 5


def test_a_database_takes_two_logins_and_not_one_for_each_statement(launched: Launched):
    """A peer logged in 28,356 times for 28,344 statements."""
    logins = launched.after.logins - launched.before.logins
    # two for a pass; where bringing them up takes longer, there are more passes, and the server is probed more often
    assert logins <= 2 * max(UNITS, launched.passes) + max(SPARE, launched.probes)
    assert launched.after.statements - launched.before.statements >= 2 * logins


def test_a_unit_takes_three_requests_that_write_and_nothing_is_listed_for_it(launched: Launched):
    """A peer listed all its resources at each reconcile, and the API server was busy with that alone."""
    used = launched.after.requests - launched.before.requests
    assert used["writes"] <= 3 * UNITS + SPARE
    assert used["lists"] <= EVERYTHING
    assert used["reads"] <= 2 * launched.probes + SPARE  # Secrets, for the server and not for each unit
    assert used["watches"] <= 2


def test_idle_looks_again_at_everything_and_writes_nothing(ready: Fleet):
    """Of the peers, one never looked again, and one wrote 902 times a minute with nothing to say."""
    wait_for(lambda: "writes" in ready.requests())
    before, versions, passes = ready.use(), ready.versions(), ready.passes()
    wait_for(lambda: ready.passes() >= passes + UNITS, 2 * INTERVAL_SECONDS)
    after = ready.use()
    assert after.requests["writes"] == before.requests["writes"]
    assert after.requests["lists"] - before.requests["lists"] <= EVERYTHING
    assert ready.versions() == versions
    # one statement and at most one login for a unit and an interval; the rest is of the next one, and probes
    assert after.statements - before.statements <= 2 * UNITS + 6 * SPARE
    assert after.logins - before.logins <= 2 * UNITS + SPARE


def test_a_restart_writes_nothing(ready: Fleet):
    """Each peer wrote at least once for each unit: 140, 220 and 4,790 requests for 50 and 200 units."""
    before, versions = ready.requests(), ready.versions()
    ready.world.operator.stop()
    ready.world.operator.start()
    wait_for(lambda: ready.passes() >= UNITS)
    ready.all_ready()
    used = ready.requests() - before
    assert used["writes"] == 0
    assert ready.versions() == versions
    # by the operator, by each watch, and by the operator when these stand: once each, and not for each unit
    assert used["lists"] <= 3 * EVERYTHING


def test_while_postgres_is_away_its_status_names_host_and_reason_and_units_are_not_written_in_a_storm(ready: Fleet):
    """Peers said "pool timed out", or nothing at all, where Postgres was simply down."""
    where, reasons = f"localhost:{ready.server.port}", {"WaitingForServer", "Unreachable", "CircuitOpen"}
    before = ready.requests()
    ready.server.stop(immediate=True)
    try:
        document = ready.world.until("DatabaseServer", "main", "False", "Unreachable")
        assert verdict(document)[2] == f"server {where} cannot be reached: check host, port and network policies"
        assert condition(document, "Stalled")["status"] == "False"
        # one event for one transition: it names what was met first, a session that broke or a login that failed
        events = wait_for(lambda: [e for e in ready.world.api.events("main") if e["type"] == "Warning"])
        assert all(where in e["note"] for e in events if e["reason"] == "Unreachable")
        ready.apply(ready.unit("meanwhile"))
        meanwhile = ready.world.until("DatabaseSchema", "meanwhile", "False")
        assert "pool" not in verdict(meanwhile)[2]
        assert verdict(meanwhile)[1] in reasons
        # each unit says so once, when its interval has passed, with a reason and the server
        wait_for(lambda: all(found[0] == "False" for found in ready.verdicts().values()), 2 * INTERVAL_SECONDS)
        assert {found[1] for found in ready.verdicts().values()} <= reasons
        assert {name for name, found in ready.verdicts().items() if where not in found[2]} == set()
        said = ready.requests()
        assert (said - before)["writes"] <= 2 * UNITS + SPARE
        time.sleep(INTERVAL_SECONDS)  # nothing can be waited for: it is about what is not written
        # the three attempts that opened the circuit may learn that it is open
        assert (ready.requests() - said)["writes"] <= 3
    finally:
        ready.server.start()
    ready.world.ready("DatabaseServer", "main")
    ready.all_ready()
    assert (ready.requests() - before)["writes"] <= 4 * UNITS + SPARE
    ready.remove("meanwhile")


def test_a_wrong_password_makes_nobody_else_not_ready(ready: Fleet):
    """With a peer, one wrong password made all 113 others not ready."""
    ready.world.server(name="other", login=(LOGIN, "not-this-one"))
    ready.world.until("DatabaseServer", "other", "False", "AuthenticationFailed")
    others = [f"refused-{number}" for number in range(3)]
    versions = ready.versions()
    ready.apply(*(ready.unit(name, server="other") for name in others), ready.unit("beside"))
    ready.world.ready("DatabaseSchema", "beside")
    wait_for(lambda: all(ready.verdicts()[name][0] == "False" for name in others))
    passes = ready.passes()
    wait_for(lambda: ready.passes() >= passes + UNITS, 2 * INTERVAL_SECONDS)
    assert {name: version for name, version in ready.versions().items() if name in versions} == versions
    ready.world.api.apply(secret("other-admin", username=LOGIN, password=ready.server.password))
    ready.remove(*others, "beside")
    ready.world.api.delete("DatabaseServer", "other")


def test_fifty_resources_in_one_database_are_one_unit_of_work(ready: Fleet):
    """With a peer, fifty waited for each other's locks and requeued: 18.6 s each."""
    names = [f"team-{number}" for number in range(50)]
    database = ready.world.role("together")
    documents = [ready.unit(name, database=database) for name in names]
    ready.world.operator.stop()
    ready.apply(*documents)
    ready.world.operator.start()
    ready.all_ready()
    assert ready.logins(database) <= 3
    with closing(ready.server.connect(database)) as connection:
        # everything that is there was claimed by one transaction
        row = connection.execute("SELECT count(DISTINCT xmin::text), count(*) FROM selvedge.claims").fetchone()
    assert row is not None
    assert row[0] <= 2
    assert row[1] >= len(names)
    ready.remove(*names)


def all_at_once(fleet: Fleet, documents: list[Document]) -> None:
    """Apply in random order over several connections."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(fleet.world.api.apply, random.sample(documents, len(documents))))


def test_what_is_applied_together_does_not_race_into_an_error(ready: Fleet):
    """With a peer, two creations met, and "user already exists" stood there for ever."""
    names = [f"together-{number}" for number in range(12)]
    databases = [ready.world.role(f"shared_{number % 3}") for number in range(12)]
    documents = [ready.unit(name, database=database) for name, database in zip(names, databases, strict=True)]
    all_at_once(ready, documents)
    ready.all_ready()
    assert "already exists" not in ready.world.operator.logs()
    ready.remove(*names)


@pytest.mark.parametrize("share", [0.2, 0.7])
def test_nothing_is_stuck_after_kill_9_amid_creations(ready: Fleet, share: float):
    """With a peer, one unit of fifty never became ready."""
    names = [f"killed-{int(share * 10)}-{number}" for number in range(15)]
    all_at_once(ready, [ready.unit(name) for name in names])
    wait_for(lambda: sum(ready.verdicts()[name][0] == "True" for name in names) >= share * len(names))
    ready.world.operator.kill()
    ready.world.operator.start()
    ready.all_ready()
    assert "already exists" not in ready.world.operator.logs()
    assert [ready.world.api.events(name, "DriftCorrected") for name in names] == [[]] * len(names)
    ready.remove(*names)


def test_a_database_that_was_dropped_by_hand_is_seen_and_made_again(ready: Fleet):
    """With a peer, the status of a database that was gone stayed true."""
    name = "unit-7"
    database, reader = ready.world.role("unit_7"), ready.world.role("unit_7_reader")
    with sightings(ready, "databaseschemas", name) as seen:
        assert seen == ["True Verified"]
        ready.world.sql(f"DROP DATABASE {database} WITH (FORCE)", database="postgres")
        wait_for(
            lambda: ready.world.sql(f"SELECT 1 FROM pg_database WHERE datname = '{database}'", database="postgres"),
            1.5 * INTERVAL_SECONDS,
        )
        events = wait_for(lambda: ready.world.api.events(name, "DriftCorrected"))
        document = ready.world.ready("DatabaseSchema", name)
        wait_for(lambda: len(seen) > 1 and seen[-1].startswith("True"), what=lambda: seen)
    assert any(sight.startswith("False") for sight in seen), seen
    assert document["status"]["lastDrift"]["objects"] >= 1
    assert f"database {database}" in events[0]["note"]
    assert ready.world.ask(f"SELECT has_schema_privilege('{reader}', 'unit_7', 'USAGE')", database=database) is True


def test_drift_is_looked_for_at_the_interval_and_not_only_when_the_resource_changes(ready: Fleet):
    """A peer never looked again."""
    name = "unit-8"
    database, reader = ready.world.role("unit_8"), ready.world.role("unit_8_reader")
    question = f"SELECT has_schema_privilege('{reader}', 'unit_8', 'USAGE')"
    ready.world.sql(f"REVOKE USAGE ON SCHEMA unit_8 FROM {reader}", database=database)
    assert ready.world.ask(question, database=database) is False
    wait_for(lambda: ready.world.ask(question, database=database), 1.5 * INTERVAL_SECONDS)
    wait_for(lambda: ready.world.api.events(name, "DriftCorrected"))
    ready.world.ready("DatabaseSchema", name)
