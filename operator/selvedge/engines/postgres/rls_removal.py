"""``deletionPolicy: Delete`` and row-level security: the resource's policies go, and its tables stay closed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from selvedge.core.errors import InvalidError, TransientError
from selvedge.core.postgres.changes import Change
from selvedge.core.postgres.cluster_diff import ClaimBook
from selvedge.core.postgres.model import Desired, DesiredDatabase, Remembered, Snapshot
from selvedge.core.postgres.rls import diff_row_security
from selvedge.core.postgres.rls_changes import RowSecurityChange
from selvedge.core.postgres.rls_model import claim_key
from selvedge.core.postgres.rls_record import remembered_tables
from selvedge.core.unit import ObjectState
from selvedge.engines.base import ServerTarget
from selvedge.engines.postgres.connections import Connections
from selvedge.engines.postgres.looks import read_snapshot
from selvedge.engines.postgres.rls_apply import apply_tables, policies_login


async def remove_policies(
    pool: Connections,
    target: ServerTarget,
    metadata_schema: str,
    others: Desired,
    book_of: Callable[[Snapshot], ClaimBook],
    may_write: Callable[[], None],
) -> list[Change]:
    """Drop the policies of the book's resource on tables that ``others`` do not declare.

    Raises our errors, also where a table is held by somebody; then it is to be tried again.
    """
    database = others.database.name
    shown = Desired(DesiredDatabase("", database))
    async with pool.session(database) as session:
        book = book_of(await read_snapshot(session, shown, metadata_schema))
        tables = remembered_tables(book)
        if not tables:
            return []
        shown = replace(shown, remembered=Remembered(tables=tables))
        snapshot = await read_snapshot(session, shown, metadata_schema)
    kept = frozenset(claim_key(entry.key) for entry in others.row_security)
    found = diff_row_security((), snapshot.row_security, {}, book_of(snapshot), {}, refused=kept)
    changes = [change for change in found.changes if isinstance(change, RowSecurityChange)]
    login = policies_login(target, database)
    applied = await apply_tables(pool, login, changes, snapshot.row_security, may_write)
    for status in applied.failed.values():
        kind = TransientError if status.state is ObjectState.WAITING else InvalidError
        raise kind(status.reason, status.message)
    return applied.made
