"""Logging in and looking: version, role, what the server can do and what the operator's login may not do."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, cast

import psycopg
from psycopg import sql

from selvedge.core.errors import InvalidError, SelvedgeError
from selvedge.core.figures import ReplicaLag
from selvedge.core.reasons import Reason
from selvedge.engines.base import ReplicaState, ServerFacts, ServerTarget
from selvedge.engines.postgres.connections import Connections
from selvedge.engines.postgres.errors import DatabaseMissingError, statement_error
from selvedge.engines.postgres.figures import FIGURES, LAG, figures_of
from selvedge.engines.postgres.remedy import may_create
from selvedge.engines.postgres.session import open_connection

_OLDEST = 150000

_PROBE = sql.SQL("""
SELECT current_setting('server_version_num')::int, split_part(current_setting('server_version'), ' ', 1),
  pg_catalog.pg_is_in_recovery(), (SELECT system_identifier::text FROM pg_catalog.pg_control_system()),
  r.rolsuper, r.rolcreaterole, r.rolcreatedb, current_user::text,
  pg_catalog.has_database_privilege(current_database(), 'CREATE'), current_database()::text,
  ARRAY(SELECT e.extname::text FROM pg_catalog.pg_extension e
         WHERE e.extname IN ('pg_stat_statements', 'timescaledb', 'pgaudit') ORDER BY 1),
  pg_catalog.pg_backend_pid(),
  CASE WHEN current_setting('track_counts') = 'on' THEN coalesce((
    SELECT pg_catalog.concat_ws(' ', c.oid, c.relfilenode, pg_catalog.pg_stat_get_tuples_inserted(c.oid),
             pg_catalog.pg_stat_get_tuples_updated(c.oid), pg_catalog.pg_stat_get_tuples_deleted(c.oid))
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname = {schema} AND c.relname = 'claims'), '') END,
  pg_catalog.pg_has_role(r.oid, 'pg_signal_backend', 'USAGE'),
  {figures}
FROM pg_catalog.pg_roles r WHERE r.rolname = current_user
""")


async def probe(
    pool: Connections, target: ServerTarget, metadata_schema: str = "selvedge"
) -> tuple[ServerFacts, str | None]:
    """Look at a server: what it is, and a stamp of the server-wide claims, which is another one after any change.

    The stamp is the server's count of changed rows, which it may show a few seconds late; None where it does not count.
    Raises our errors: what is wrong with the connection, the version, or a pooler in between.
    """
    async with pool.session(target.maintenance_database) as session:
        try:
            statement = _PROBE.format(schema=sql.Literal(metadata_schema), figures=FIGURES)
            rows = await session.run("probe", statement)
        except psycopg.Error as error:
            raise statement_error(error, "probing the server") from None
        info = session.connection.info
        backend, answering = info.backend_pid, f"{info.host}:{info.port}"
    row = cast("tuple[Any, ...]", rows[0][0])
    number, version, standby, system, superuser, createrole, createdb, me, may_create, database = row[:10]
    extensions, pid, stamp, may_end, found = row[10:]
    check_version(number, version)
    if pid != backend:
        # A pooler answers with a process of its own: advisory locks and settings would land in somebody's session.
        raise InvalidError(
            Reason.POOLER_DETECTED, "a connection pooler answers at spec.hosts: name the server's own address and port"
        )
    lacks = (not createrole, not createdb, not may_create, not may_end)
    missing = () if superuser else _missing(lacks, me, database)
    capabilities = ["superuser"] * superuser + ["membership-options"] * (number >= 160000) + list(extensions)
    replicas = await asyncio.gather(*(_replica(target, host, port) for host, port in target.read_replicas))
    facts = ServerFacts(
        version=version,
        role="Standby" if standby else "Primary",
        system_identifier=system,
        replicas=tuple(state for state, _ in replicas),
        capabilities=tuple(capabilities),
        missing_privileges=missing,
        figures=figures_of(
            found, host=answering, expected=len(replicas), replicas=[lag for _, lag in replicas if lag is not None]
        ),
    )
    return facts, stamp


def check_version(number: int, version: str) -> None:
    """Raise :class:`InvalidError` for a server that is too old; ``number`` is ``server_version_num``."""
    if number < _OLDEST:
        raise InvalidError(Reason.UNSUPPORTED_VERSION, f"the server is Postgres {version}; 15 or newer is needed")


def _missing(lacks: tuple[bool, bool, bool, bool], me: str, database: str) -> tuple[str, ...]:
    """What a login without superuser needs on the server: roles, databases, its claims, sessions that lost a role."""
    login = sql.Identifier(me)
    statements = (
        sql.SQL("ALTER ROLE {} CREATEROLE").format(login),
        sql.SQL("ALTER ROLE {} CREATEDB").format(login),
        may_create(me, database),
        sql.SQL("GRANT pg_signal_backend TO {}").format(login),
    )
    return tuple(statement.as_string(None) for lacking, statement in zip(lacks, statements, strict=True) if lacking)


_REPLICA = sql.SQL(
    "SELECT pg_catalog.pg_is_in_recovery(), EXISTS (SELECT FROM pg_catalog.pg_stat_wal_receiver), {lag}"
).format(lag=LAG)


async def _replica(target: ServerTarget, host: str, port: int) -> tuple[ReplicaState, ReplicaLag | None]:
    """A declared read replica, and how far behind it says that it is; None where it says nothing."""
    name = f"{host}:{port}"
    try:
        connection = await open_connection(replace(target, hosts=((host, port),)), target.maintenance_database)
    except (SelvedgeError, DatabaseMissingError):
        return ReplicaState(name, "Unreachable"), None
    try:
        async with connection, asyncio.timeout(target.limits.connect_timeout):
            cursor = await connection.execute(_REPLICA)
            row = await cursor.fetchone()
    except (psycopg.Error, TimeoutError):
        return ReplicaState(name, "Unreachable"), None
    if row is None:
        return ReplicaState(name, "Reachable"), None
    standby, receives, lag = row
    state = ReplicaState(name, "Streaming" if standby and receives else "Reachable")
    return state, None if lag is None else ReplicaLag(name, float(lag))
