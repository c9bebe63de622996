"""What servers say of themselves arrives in the operator's metrics, and in no status."""

from __future__ import annotations

import pytest

from sandbox import MongoEndpoint
from tests.cluster.world import World, wait_for

OFTEN = {"monitoring": {"interval": "1s"}}


@pytest.mark.usefixtures("postgres18")
def test_the_figures_of_both_engines_are_metrics_and_no_write(bare: World, mongodb: MongoEndpoint):
    world = bare
    world.server(name="main", **OFTEN)
    world.mongo_server(mongodb, "mongo", **OFTEN)
    for name in ("main", "mongo"):
        world.ready("DatabaseServer", name)
    before, writes = world.api.list("DatabaseServer"), world.operator.writes()

    def figure(server: str, metric: str, **labels: str) -> float:
        return world.operator.value(metric, database=f"{world.namespace}/{server}", **labels)

    def probes() -> float:
        return min(figure(name, "db_last_probe_timestamp_seconds") for name in ("main", "mongo"))

    for _ in range(3):
        last = probes()
        wait_for(lambda last=last: probes() > last)
    for name in ("main", "mongo"):
        assert figure(name, "db_connections", state="active") >= 1
        assert figure(name, "db_connection_limit") > 1
    # a session that ends hands in what it counted
    world.sql("SELECT count(*) FROM pg_class", database="postgres")
    wait_for(lambda: figure("main", "db_blocks_hit_total") > 0)
    wait_for(lambda: figure("main", "db_transactions_total", outcome="commit") > 0)
    with mongodb.client() as client:
        client[world.name]["designs"].insert_many({"number": number} for number in range(5000))
        client.drop_database(world.name)
    wait_for(lambda: figure("mongo", "db_blocks_hit_total") > 0)
    assert 0 < figure("main", "db_xid_age_ratio") < 1
    assert world.operator.writes() == writes
    after = world.api.list("DatabaseServer")
    versions = [[document["metadata"]["resourceVersion"] for document in found] for found in (before, after)]
    assert versions[0] == versions[1]
