"""What is kept on tables, made by an operator's login without superuser: the rights that it adds to its own meanwhile.

It is a member of the owners WITH INHERIT FALSE, SET TRUE. A trigger needs the rights of the table's owner and of the
function's, a log those of the schema's and of its own: so they are inherited for the length of one transaction, in
which nothing of the users is evaluated. Before Postgres 16 a member has them anyway.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from psycopg import sql

from selvedge.core.postgres.audit_changes import MakeLog, OwnLog
from selvedge.core.postgres.conventions import PutView
from selvedge.core.postgres.model import Snapshot
from selvedge.core.postgres.partition_changes import CreatePartition
from selvedge.core.postgres.rights import DATABASE_OWNER
from selvedge.core.postgres.tables import LiveTables
from selvedge.core.postgres.triggers import OnTable, PutFunction, PutTrigger, Table

Statements = tuple[list[sql.Composable], list[sql.Composable]]


def added_rights(changes: Sequence[OnTable], snapshot: Snapshot, live: LiveTables) -> Statements:
    """Statements to be sent before the changes of a transaction and after them, none for a superuser."""
    if snapshot.superuser:
        return [], []
    before: list[sql.Composable] = []
    after: list[sql.Composable] = []
    if snapshot.version >= 160000:
        needed = {role for change in changes for role in _roles(change, snapshot, live)}
        for role in sorted(needed - {"", snapshot.me, DATABASE_OWNER}):
            known = snapshot.roles.get(role)
            if known is not None and known.can_admin:  # else it stays as it is, and the server says what is missing
                grant = "GRANT {} TO CURRENT_USER WITH INHERIT {}, SET TRUE"
                before.append(sql.SQL(grant).format(sql.Identifier(role), sql.SQL("TRUE")))
                after.append(sql.SQL(grant).format(sql.Identifier(role), sql.SQL("FALSE")))
    for schema, owner in sorted({(x.table[0], x.function.owner) for x in changes if isinstance(x, PutFunction)}):
        if owner != snapshot.me:  # who is to own a function has to be allowed to make it
            names = (sql.Identifier(schema), sql.Identifier(owner))
            before.append(sql.SQL("GRANT CREATE ON SCHEMA {} TO {}").format(*names))
            after.insert(0, sql.SQL("REVOKE CREATE ON SCHEMA {} FROM {}").format(*names))
    return before, after


def _roles(change: OnTable, snapshot: Snapshot, live: LiveTables) -> Iterable[str]:
    """Whose rights a change needs."""
    yield _schema_owner(change.table, snapshot)
    yield from _owners(change.table, live)
    if isinstance(change, PutFunction):
        yield change.function.owner
        current = live.audit.functions.get(change.table)
        yield current.owner if current is not None else ""
    elif isinstance(change, PutTrigger):
        yield _schema_owner(change.trigger.function, snapshot)
        function = live.audit.functions.get(change.trigger.function)
        yield function.owner if function is not None else ""
    elif isinstance(change, OwnLog):
        yield live.audit.owners.get(change.table, {}).get(change.relation, "")
        yield change.owner
    elif isinstance(change, (MakeLog, PutView)):
        yield change.owner
    elif isinstance(change, CreatePartition):
        # It gets a clone of each trigger, made by whoever attaches it.
        table = live.tables.get(change.table)
        for trigger in table.triggers.values() if table is not None else ():
            function = live.audit.functions.get(trigger.function)
            yield function.owner if function is not None else ""


def _schema_owner(name: Table, snapshot: Snapshot) -> str:
    owner = snapshot.schemas.get(name[0], ("", None))[0]
    return snapshot.database_owner if owner == DATABASE_OWNER else owner


def _owners(name: Table, live: LiveTables) -> Iterable[str]:
    """The owner of a table, of a view, or of the table that it is a partition of."""
    table, view, partitioned = live.tables.get(name), live.views.get(name), live.partitions.tables.get(name)
    yield table.owner if table is not None else ""
    yield view.owner if view is not None else ""
    yield partitioned.owner if partitioned is not None else ""
    for one in live.tables.values():
        if name in one.partitions:
            yield one.owner
