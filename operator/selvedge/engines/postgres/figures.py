"""What a Postgres server says about itself, as one column of the probe's statement and one of a replica's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psycopg import sql

from selvedge.core.figures import ReplicaLag, ServerFigures, farthest

#: A standby's own view of its lag. 0 only while it receives: one that is cut off has replayed all that it has, and
#: lies further behind every second. NULL before the first transaction was replayed, and for a login that may not see
#: whether it receives.
LAG = sql.SQL("""CASE WHEN NOT pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')
    OR NOT pg_catalog.pg_is_in_recovery() THEN NULL
  WHEN EXISTS (SELECT FROM pg_catalog.pg_stat_wal_receiver WHERE status = 'streaming')
    AND pg_catalog.pg_last_wal_receive_lsn() = pg_catalog.pg_last_wal_replay_lsn() THEN 0
  ELSE extract(epoch FROM pg_catalog.clock_timestamp() - pg_catalog.pg_last_xact_replay_timestamp())::float8 END""")

#: Up to where a receiver could be: on a standby, which may have receivers of its own, what it has replayed itself.
_POSITION = sql.SQL("""CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
  ELSE pg_catalog.pg_current_wal_lsn() END""")

#: Receivers of logical changes and base backups are no replicas. replay_lag is NULL while nothing is under way: that is
#: 0 where all was replayed, and unknown where it was not.
FIGURES = sql.SQL("""(WITH login AS MATERIALIZED (
    SELECT pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS sees_all)
  SELECT pg_catalog.json_build_object(
    'connections', CASE WHEN login.sees_all THEN (SELECT pg_catalog.json_object_agg(c.state, c.number) FROM (
        SELECT CASE WHEN a.state = 'active' AND a.wait_event_type = 'Lock' THEN 'waiting'
            WHEN a.state IN ('active', 'fastpath function call') THEN 'active'
            WHEN a.state = 'idle' THEN 'idle'
            WHEN a.state LIKE 'idle in transaction%' THEN 'idle_in_transaction' ELSE 'unknown' END AS state,
          count(*) AS number
          FROM pg_catalog.pg_stat_activity a WHERE a.backend_type = 'client backend' GROUP BY 1) c)
      ELSE (SELECT pg_catalog.json_build_object('unknown', sum(d.numbackends)) FROM pg_catalog.pg_stat_database d) END,
    'limit', current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
      - coalesce(current_setting('reserved_connections', true)::int, 0),
    'counters', CASE WHEN current_setting('track_counts') = 'on' THEN (SELECT pg_catalog.json_build_object(
        'blocks_hit', sum(d.blks_hit)::int8, 'blocks_read', sum(d.blks_read)::int8,
        'commits', sum(d.xact_commit)::int8, 'rollbacks', sum(d.xact_rollback)::int8,
        'deadlocks', sum(d.deadlocks)::int8, 'conflicts', sum(d.conflicts)::int8)
      FROM pg_catalog.pg_stat_database d) END,
    'counted_by', (SELECT pg_catalog.concat_ws(' ', pg_catalog.pg_postmaster_start_time(), pg_catalog.hashtextextended(
        pg_catalog.string_agg(pg_catalog.concat_ws(' ', d.datid, d.stats_reset), ',' ORDER BY d.datid), 0))
      FROM pg_catalog.pg_stat_database d),
    'replicas', CASE WHEN login.sees_all THEN coalesce((SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
        'name', r.application_name, 'streams', r.state = 'streaming',
        'bytes', greatest(0, pg_catalog.pg_wal_lsn_diff({position}, r.replay_lsn))::int8,
        'seconds', CASE WHEN r.replay_lsn >= {position} THEN 0 ELSE extract(epoch FROM r.replay_lag)::float8 END))
      FROM pg_catalog.pg_stat_replication r
     WHERE r.state <> 'backup' AND NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots s
             WHERE s.active_pid = r.pid AND s.slot_type = 'logical')), '[]') END,
    'lag', {lag},
    'slots', (SELECT pg_catalog.json_object_agg(s.slot_name, s.kept) FROM (
        SELECT s.slot_name, greatest(0, pg_catalog.pg_wal_lsn_diff({position}, s.restart_lsn))::int8 AS kept
          FROM pg_catalog.pg_replication_slots s WHERE s.restart_lsn IS NOT NULL ORDER BY 2 DESC LIMIT 50) s),
    'xid', (SELECT max(pg_catalog.age(d.datfrozenxid)) / 2e9::float8
              FROM pg_catalog.pg_database d WHERE d.datallowconn))
  FROM login)""").format(position=_POSITION, lag=LAG)


def figures_of(found: Mapping[str, Any], *, host: str, expected: int, replicas: list[ReplicaLag]) -> ServerFigures:
    """The figures from the column :data:`FIGURES`.

    ``host`` is the address that answered, under which a standby states its own lag; ``expected`` the number of declared
    read replicas, and ``replicas`` what those say of themselves.
    """
    receivers = found["replicas"]
    lags = [ReplicaLag(each["name"] or "unnamed", each["seconds"], each["bytes"]) for each in receivers or ()]
    if found["lag"] is not None:
        lags.append(ReplicaLag(host, float(found["lag"])))
    return ServerFigures(
        connections=found["connections"] or {},
        connection_limit=found["limit"],
        counters={name: int(value or 0) for name, value in (found["counters"] or {}).items()},
        counted_by=found["counted_by"],
        lags=farthest(lags + replicas),
        replicas_connected=None if receivers is None else sum(each["streams"] for each in receivers),
        replicas_expected=expected or None,
        slots=found["slots"] or {},
        xid_age_ratio=found["xid"],
    )
