"""Data migrations that forced row-level security will refuse: found before anything runs.

Migrations run with ``row_security = off``: a statement whose rows a policy would filter fails, instead of changing
fewer rows than it says. Where row-level security is forced, that concerns the tables' owner too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from selvedge.engines.postgres.migration_statements import ROW_SECURITY, failed_after
from selvedge.migrate.lint_data import written
from selvedge.migrate.tokens import Reader, tokens

if TYPE_CHECKING:
    import psycopg

    from selvedge.migrate.plan import Step
    from selvedge.migrate.protocol import Failure
    from selvedge.migrate.splitter import Statement

Table = tuple[str, str]

_FILTERED = """
SELECT n.nspname, c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relrowsecurity AND c.relforcerowsecurity
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = %(role)s AND (r.rolsuper OR r.rolbypassrls))
"""
_HEAD = 4_000
"""Characters of an INSERT or COPY that are looked at: its table stands at the beginning."""


async def refused(connection: psycopg.AsyncConnection, role: str, steps: Sequence[Step]) -> Failure | None:
    """The first statement of these steps that row-level security refuses to this role; None where none is known.

    Only names with a schema are looked at, and only until a statement changes the table or ``row_security``: this says
    what is certain. Reads the catalogues, and writes nothing.
    """
    cursor = await connection.execute(_FILTERED, {"role": role})
    filtered: set[Table] = {(str(schema), str(name)) for schema, name in await cursor.fetchall()}
    if not filtered:
        return None
    # to read megabytes of statements takes seconds, and whoever waits on this loop has a Lease to renew
    return await asyncio.to_thread(_first, role, steps, filtered)


def _first(role: str, steps: Sequence[Step], filtered: set[Table]) -> Failure | None:
    names = [name.replace('"', '""').encode().lower() for _, name in filtered]
    for step in steps:
        if step.direction not in ("up", "down"):
            continue
        migration = step.migration
        down = step.direction == "down"
        file = (migration.down_file if down else "") or migration.file
        for statement in (migration.down_script if down else migration.script).statements:
            if "ROW_SECURITY" in statement.head[:3]:
                break
            if statement.head[:1] in (("ALTER",), ("DROP",)):
                filtered -= _named(statement)
                continue
            if not _may_name(statement.text, names):
                continue
            for table in _written(statement) & filtered:
                why = f"table {'.'.join(table)} forces row-level security, which applies to role {role}"
                failure = failed_after(file, statement, f"{why} (ForcedRLSBlocksMigrations)").failure
                return replace(failure, hint=ROW_SECURITY)
    return None


def _may_name(text: str, names: Sequence[bytes]) -> bool:
    """Whether one of the names may stand in a text, which is fast to say; as tokens, a name with escapes is none."""
    folded = text.encode().lower()  # letters of ASCII alone, as Postgres does
    return any(name in folded for name in names)


def _written(statement: Statement) -> set[Table]:
    data = statement.head[:1] in (("INSERT",), ("COPY",))
    return {(one[0], one[1]) for one in written(tokens(statement.text[: _HEAD if data else None])) if len(one) == 2}


def _named(statement: Statement) -> set[Table]:
    """Every pair of names in a statement, whatever it is: what is changed is not certain any more."""
    found = tokens(statement.text[:_HEAD])
    pairs = (Reader(found, index).identifiers() for index, token in enumerate(found) if token.is_name)
    return {(pair[0], pair[1]) for pair in pairs if len(pair) == 2}
