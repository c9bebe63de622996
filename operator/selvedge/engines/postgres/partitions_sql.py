"""Partitions in SQL."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from psycopg import sql

from selvedge.core.postgres.partition_changes import (
    AcceptRetention,
    CreateHypertable,
    CreatePartition,
    DropPartitions,
    FinalizeDetach,
    FinishDrop,
    SetChunkInterval,
    SetRetentionPolicy,
)


def _create(change: CreatePartition) -> sql.Composable:
    """LIKE and ATTACH take ShareUpdateExclusive on the parent; CREATE … PARTITION OF would take AccessExclusive."""
    schema = change.table[0]
    parent, name = sql.Identifier(*change.table), sql.Identifier(schema, change.name)
    options: sql.Composable = sql.SQL("")
    if change.access_method:
        options += sql.SQL(" USING {}").format(sql.Identifier(change.access_method))
    if change.tablespace:
        options += sql.SQL(" TABLESPACE {}").format(sql.Identifier(change.tablespace))
    return sql.SQL(
        "CREATE TABLE {name} (LIKE {parent} INCLUDING DEFAULTS INCLUDING GENERATED INCLUDING CONSTRAINTS "
        "INCLUDING STORAGE INCLUDING COMPRESSION){options}; ALTER TABLE {name} OWNER TO {owner}; "
        "ALTER TABLE {parent} ATTACH PARTITION {name} FOR VALUES {bound}"
    ).format(name=name, parent=parent, options=options, owner=sql.Identifier(change.owner), bound=_bound(change))


def _bound(change: CreatePartition) -> sql.Composable:
    if change.range is None:
        return sql.SQL("WITH (MODULUS {}, REMAINDER {})").format(
            sql.Literal(change.modulus), sql.Literal(change.remainder)
        )

    def literal(moment: datetime) -> sql.Literal:
        # With its zone: a session of another one would move the bound. A timestamp without one drops it.
        return sql.Literal(moment.strftime("%Y-%m-%d") if change.date else moment.strftime("%Y-%m-%d %H:%M:%S+00"))

    return sql.SQL("FROM ({}) TO ({})").format(literal(change.range.start), literal(change.range.end))


def _finalize(change: FinalizeDetach) -> sql.Composable:
    return sql.SQL("ALTER TABLE {} DETACH PARTITION {} FINALIZE").format(
        sql.Identifier(*change.table), sql.Identifier(*change.partition)
    )


def marker(table: tuple[str, str]) -> str:
    """How the comment on what is being taken away from a table begins; the end of its range follows."""
    return f"selvedge: expired partition of {table[0]}.{table[1]} until "


def _finish(change: FinishDrop) -> sql.Composable:
    drop = sql.SQL("DROP TABLE {}").format(sql.Identifier(*change.partition))
    if not change.pending:
        return drop
    finalize = FinalizeDetach(change.ref, change.member, change.table, change.partition)
    return _finalize(finalize) + sql.SQL("; ") + drop


def drop_steps(change: DropPartitions) -> list[tuple[sql.Composable, sql.Composable, sql.Composable]]:
    """For each partition three statements that are no one transaction: to mark, to detach and to drop it."""
    steps: list[tuple[sql.Composable, sql.Composable, sql.Composable]] = []
    for (schema, name, _), until in zip(change.partitions, change.until, strict=True):
        parts = {"table": sql.Identifier(*change.table), "partition": sql.Identifier(schema, name)}
        text = sql.Literal(marker(change.table) + until.isoformat())
        steps.append(
            (
                sql.SQL("COMMENT ON TABLE {partition} IS {text}").format(**parts, text=text),
                sql.SQL("ALTER TABLE {table} DETACH PARTITION {partition} CONCURRENTLY").format(**parts),
                sql.SQL("DROP TABLE {partition}").format(**parts),
            )
        )
    return steps


def _drop(change: DropPartitions) -> sql.Composable:
    if change.until:
        return sql.SQL("; ").join(statement for step in drop_steps(change) for statement in step)
    return sql.SQL("; ").join(plain_drops(change))


def plain_drops(change: DropPartitions) -> list[sql.Composable]:
    """For each partition what takes it away inside of a transaction."""
    plain = sql.SQL("ALTER TABLE {} DETACH PARTITION {partition}; DROP TABLE {partition}")
    table = sql.Identifier(*change.table)
    return [plain.format(table, partition=sql.Identifier(schema, name)) for schema, name, _ in change.partitions]


def render_accept(change: AcceptRetention, metadata_schema: str) -> sql.Composable:
    """What the claim remembers."""
    return sql.SQL(
        "UPDATE {} SET detail = detail || pg_catalog.jsonb_build_object('retention', {}) WHERE object = {}"
    ).format(sql.Identifier(metadata_schema, "claims"), sql.Literal(change.retention), sql.Literal(change.key))


def _seconds(seconds: float) -> sql.Composable:
    return sql.SQL("INTERVAL {}").format(sql.Literal(f"{seconds:.0f} seconds"))


def _relation(change: CreateHypertable | SetChunkInterval | SetRetentionPolicy) -> sql.Literal:
    return sql.Literal(sql.Identifier(*change.table).as_string(None))


def _hypertable(change: CreateHypertable) -> sql.Composable:
    return sql.SQL("SELECT create_hypertable({}, by_range({}, {}))").format(
        _relation(change), sql.Literal(change.column), _seconds(change.interval)
    )


def _chunks(change: SetChunkInterval) -> sql.Composable:
    return sql.SQL("SELECT set_chunk_time_interval({}, {})").format(_relation(change), _seconds(change.interval))


def _policy(change: SetRetentionPolicy) -> sql.Composable:
    remove = sql.SQL("SELECT remove_retention_policy({}, if_exists => true)").format(_relation(change))
    if change.retention is None:
        return remove
    add = sql.SQL("SELECT add_retention_policy({}, {})").format(_relation(change), _seconds(change.retention))
    return remove + sql.SQL("; ") + add


RENDERERS: dict[type, Callable[[Any], sql.Composable]] = {
    CreatePartition: _create,
    DropPartitions: _drop,
    FinalizeDetach: _finalize,
    FinishDrop: _finish,
    CreateHypertable: _hypertable,
    SetChunkInterval: _chunks,
    SetRetentionPolicy: _policy,
}
