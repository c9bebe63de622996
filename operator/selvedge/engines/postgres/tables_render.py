"""The statement of every change that is kept on tables."""

from __future__ import annotations

from psycopg import sql

from selvedge.core.postgres.partition_changes import AcceptRetention
from selvedge.core.postgres.triggers import OnTable
from selvedge.engines.postgres import audit_sql, conventions_sql, partitions_sql

_RENDERERS = {**audit_sql.RENDERERS, **conventions_sql.RENDERERS, **partitions_sql.RENDERERS}


def render_table_change(change: OnTable, metadata_schema: str) -> sql.Composable:
    """Its SQL: one statement or several."""
    if isinstance(change, AcceptRetention):
        return partitions_sql.render_accept(change, metadata_schema)
    return _RENDERERS[type(change)](change)
