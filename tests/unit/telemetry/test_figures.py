from __future__ import annotations

import pytest

from selvedge.core.figures import ReplicaLag, ServerFigures, farthest
from selvedge.telemetry.metrics import Metrics

SERVER = "shop/main"


@pytest.fixture
def metrics():
    return Metrics()


def value(metrics, name, **labels):
    return metrics.registry.get_sample_value(name, {"database": SERVER, **labels})


def probed(metrics, figures, *, healthy=True, reason=""):
    metrics.server(SERVER, healthy=healthy, connections={}, reason=reason, figures=figures)


def counted(hit, read, by="one", **others):
    return ServerFigures(counters={"blocks_hit": hit, "blocks_read": read, **others}, counted_by=by)


def test_the_hit_ratio_is_that_of_the_last_interval(metrics):
    probed(metrics, counted(1_000_000, 1_000_000))
    assert value(metrics, "db_cache_hit_ratio") is None
    probed(metrics, counted(1_000_900, 1_000_100))
    assert value(metrics, "db_cache_hit_ratio") == 0.9
    probed(metrics, counted(1_000_900, 1_001_100))
    assert value(metrics, "db_cache_hit_ratio") == 0
    assert value(metrics, "db_blocks_hit_total") == 900
    assert value(metrics, "db_blocks_read_total") == 1100


def test_below_a_thousand_blocks_there_is_no_ratio(metrics):
    probed(metrics, counted(0, 0))
    probed(metrics, counted(999, 0))
    assert value(metrics, "db_cache_hit_ratio") is None
    assert value(metrics, "db_blocks_hit_total") == 999


@pytest.mark.parametrize("second", [counted(5000, 9000, by="after a DROP DATABASE"), counted(9000, 10)])
def test_an_interval_over_other_databases_or_with_a_reset_is_left_out(metrics, second):
    probed(metrics, counted(5000, 5000))
    probed(metrics, second)
    assert value(metrics, "db_cache_hit_ratio") is None
    assert value(metrics, "db_blocks_read_total") == 0
    following = counted(second.counters["blocks_hit"] + 2000, second.counters["blocks_read"], by=second.counted_by)
    probed(metrics, following)
    assert value(metrics, "db_cache_hit_ratio") == 1
    assert value(metrics, "db_blocks_hit_total") == 2000


def test_what_a_server_does_not_count_has_no_series(metrics):
    probed(metrics, counted(1, 1, commits=5, rollbacks=1))
    probed(metrics, counted(1, 1, commits=8, rollbacks=3))
    assert value(metrics, "db_transactions_total", outcome="commit") == 3
    assert value(metrics, "db_transactions_total", outcome="rollback") == 2
    assert value(metrics, "db_deadlocks_total") is None


def test_lag_is_stated_by_replica_and_not_after_a_probe_that_failed(metrics):
    figures = ServerFigures(
        lags=(ReplicaLag("one", 0.0, 0), ReplicaLag("two", None, 4096)),
        replicas_connected=2,
        replicas_expected=3,
        connections={"active": 2, "idle": 7},
        connection_limit=97,
        slots={"two": 8192},
        xid_age_ratio=0.25,
    )
    probed(metrics, figures)
    assert value(metrics, "db_replication_lag_seconds", replica="one") == 0
    assert value(metrics, "db_replication_lag_seconds", replica="two") is None
    assert value(metrics, "db_replication_lag_bytes", replica="two") == 4096
    assert value(metrics, "db_replicas_connected") == 2
    assert value(metrics, "db_replicas_expected") == 3
    assert value(metrics, "db_connections", state="idle") == 7
    assert value(metrics, "db_connection_limit") == 97
    assert value(metrics, "db_slot_retained_bytes", slot="two") == 8192
    assert value(metrics, "db_xid_age_ratio") == 0.25
    probed(metrics, None, healthy=False, reason="Unreachable")
    assert value(metrics, "db_replication_lag_seconds", replica="one") is None
    assert value(metrics, "db_connections", state="idle") is None
    assert value(metrics, "db_health_info", reason="Unreachable") == 1
    probed(metrics, None, healthy=False, reason="AuthenticationFailed")
    assert value(metrics, "db_health_info", reason="Unreachable") is None
    probed(metrics, figures)
    assert value(metrics, "db_health_info", reason="AuthenticationFailed") is None


def test_the_figures_of_a_deleted_server_go(metrics):
    probed(metrics, counted(1, 1))
    assert value(metrics, "db_blocks_hit_total") == 0
    metrics.forget_server(SERVER)
    assert value(metrics, "db_blocks_hit_total") is None


def test_replicas_that_share_a_name_show_the_one_that_is_farthest_behind():
    lags = [ReplicaLag("walreceiver", 0.0, 512), ReplicaLag("a", None, 1), ReplicaLag("walreceiver", 3.0, 0)]
    assert farthest(lags) == (ReplicaLag("a", None, 1), ReplicaLag("walreceiver", 3.0, 512))
