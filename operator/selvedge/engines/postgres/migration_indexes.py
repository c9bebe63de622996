"""What a statement without a transaction left half done: indexes that are not valid, partitions half detached.

An index is dropped only where it is not valid, and never where it is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import psycopg
from psycopg import sql

from selvedge.engines.postgres.errors import statement_error
from selvedge.engines.postgres.migration_statements import not_sent
from selvedge.migrate.tokens import folded, tokens
from selvedge.migrate.transactions import IndexBuild

if TYPE_CHECKING:
    from selvedge.migrate.splitter import Statement

_DETACHED = """
SELECT inhdetachpending FROM pg_catalog.pg_inherits
WHERE inhparent = pg_catalog.to_regclass(%(parent)s) AND inhrelid = pg_catalog.to_regclass(%(child)s)
"""
_INDEX = """
SELECT i.indisvalid AND i.indisready FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = pg_catalog.to_regclass(%s) AND c.relname = %s
"""
# An index that somebody builds right now is invalid too: who builds, and which table is locked for that, is shown to
# everybody; what they build is not. VACUUM and ANALYZE lock the table as well, and build nothing. Without
# track_activities nobody is shown to build: then the lock alone counts.
_BUILDERS = sql.SQL("""
    SELECT l.pid FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_progress_create_index p USING (pid)
    WHERE (p.pid IS NOT NULL OR pg_catalog.current_setting('track_activities') = 'off')
      AND l.locktype = 'relation' AND l.mode = 'ShareUpdateExclusiveLock' AND l.granted
      AND l.pid <> pg_catalog.pg_backend_pid()
      AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
      AND l.relation = {}""")
# A parent of partitions is invalid until each of them has its part, and says so by its kind; a part of one cannot be
# dropped alone.
_INVALID = sql.SQL("""
SELECT n.nspname, c.relname FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE NOT i.indisvalid AND c.relkind = 'i' AND n.nspname !~ '^pg_' AND c.relname ~ %(name)s
  AND pg_catalog.pg_has_role(current_user, c.relowner, 'USAGE')
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits h WHERE h.inhrelid = c.oid)
  AND NOT EXISTS ({builders})
  AND CASE %(what)s
    WHEN 'INDEX' THEN i.indrelid = (SELECT indrelid FROM pg_catalog.pg_index
                                    WHERE indexrelid = pg_catalog.to_regclass(%(of)s))
    WHEN 'TABLE' THEN i.indrelid IN (SELECT relid FROM pg_catalog.pg_partition_tree(pg_catalog.to_regclass(%(of)s))
                                     UNION SELECT pg_catalog.to_regclass(%(of)s))
    WHEN 'SCHEMA' THEN n.nspname = %(of)s
    ELSE true END
ORDER BY 1, 2
""").format(builders=_BUILDERS.format(sql.Identifier("i", "indrelid")))


async def index_state(connection: psycopg.AsyncConnection, build: IndexBuild) -> Literal["absent", "invalid", "valid"]:
    """What became of an index."""
    cursor = await connection.execute(_INDEX, [build.table, build.index])
    row = await cursor.fetchone()
    if row is None:
        return "absent"
    return "valid" if row[0] else "invalid"


async def _builder(connection: psycopg.AsyncConnection, build: IndexBuild) -> int | None:
    """The session that may be building this index right now: it builds one, and locks the table."""
    query = _BUILDERS.format(sql.SQL("pg_catalog.to_regclass(%s)"))
    row = await (await connection.execute(query, [build.table])).fetchone()
    return None if row is None else int(row[0])


async def check_builder(
    connection: psycopg.AsyncConnection, file: str, statement: Statement, build: IndexBuild
) -> None:
    """Raise NotSentError where another session may be building this index right now.

    What somebody is building is invalid until it is built: dropped then, it would have become valid.
    """
    pid = await _builder(connection, build)
    if pid is not None:
        why = f"index {build.index} is not valid, and session {pid} may be building it: that is waited for"
        raise not_sent(file, statement, why)


async def drop_broken(
    connection: psycopg.AsyncConnection, file: str, statement: Statement, build: IndexBuild | None
) -> None:
    """Drop what a statement that failed left; what it met may be another's build of the same name, which stays."""
    if connection.closed:
        return  # the next run finds it
    if build is None:
        await drop_leftovers(connection, file, statement)
    elif await index_state(connection, build) == "invalid" and await _builder(connection, build) is None:
        await drop_index(connection, file, build)


async def drop_index(connection: psycopg.AsyncConnection, file: str, build: IndexBuild) -> None:
    """Drop what a failed CREATE INDEX CONCURRENTLY left; callers have seen that it is not valid."""
    query = """
    SELECT n.nspname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = pg_catalog.to_regclass(%s)
    """
    cursor = await connection.execute(query, [build.table])
    row = await cursor.fetchone()
    if row is None:
        return
    await _drop(connection, str(row[0]), build.index, f"that {file} left behind")


async def is_dropped(connection: psycopg.AsyncConnection, statement: Statement) -> bool:
    """Whether a DROP INDEX CONCURRENTLY has nothing left to drop."""
    head = statement.head
    if head[:3] != ("DROP", "INDEX", "CONCURRENTLY"):
        return False
    name = head[5:] if head[3:5] == ("IF", "EXISTS") else head[3:]
    name = name[:3] if name[1:2] == (".",) else name[:1]
    parts = [sql.Identifier(folded(word)).as_string(connection) for word in name if word != "."]
    cursor = await connection.execute("SELECT pg_catalog.to_regclass(%s) IS NULL", [".".join(parts)])
    row = await cursor.fetchone()
    return bool(row and row[0])


async def detach_state(
    connection: psycopg.AsyncConnection, statement: Statement
) -> Literal["attached", "pending", "detached"]:
    """How far an ALTER TABLE … DETACH PARTITION … CONCURRENTLY is; every other statement counts as not begun."""
    names = _detach(statement)
    if names is None:
        return "attached"
    parent, child = (".".join(sql.Identifier(word).as_string(connection) for word in name) for name in names)
    cursor = await connection.execute(_DETACHED, {"parent": parent, "child": child})
    row = await cursor.fetchone()
    if row is None:
        return "detached"
    return "pending" if row[0] else "attached"


def finalize(statement: Statement) -> Statement:
    """The statement that ends a DETACH … CONCURRENTLY which broke off, at the place of the one that began it."""
    # the word itself, where a name or a comment may hold it too
    word = [token for token in tokens(statement.text) if token.key == "CONCURRENTLY"][-1]
    text = statement.text
    return replace(statement, text=text[: word.at] + "FINALIZE" + text[word.at + len(word.text) :])


def _detach(statement: Statement) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    head = statement.head
    if head[:2] != ("ALTER", "TABLE") or head[-1:] != ("CONCURRENTLY",) or "DETACH" not in head:
        return None
    at = head.index("DETACH")
    parent = head[2 + 2 * (head[2:4] == ("IF", "EXISTS")) : at]
    child = head[at + 1 + (head[at + 1 : at + 2] == ("PARTITION",)) : -1]
    names = [tuple(folded(word) for word in name if word not in (".", "ONLY")) for name in (parent, child)]
    return names[0], names[1]


async def drop_leftovers(connection: psycopg.AsyncConnection, file: str, statement: Statement) -> None:
    """Drop the ``…_ccnew`` and ``…_ccold`` that a REINDEX CONCURRENTLY left; nothing for every other statement."""
    head = statement.head
    if head[:1] != ("REINDEX",):
        return
    words = tuple(word for word in head[1:] if word not in ("CONCURRENTLY", "VERBOSE"))
    if words[:1] == ("(",) and ")" in words:
        words = words[words.index(")") + 1 :]
    what, name = words[0], words[1:4] if words[2:3] == (".",) else words[1:2]
    parts = [folded(word) for word in name if word != "."]
    of = parts[0] if what == "SCHEMA" and parts else ".".join(sql.Identifier(x).as_string(connection) for x in parts)
    values = {"name": "_cc(new|old)[0-9]*$", "what": what, "of": of}
    for schema, index in await invalid_indexes(connection, values):
        await _drop(connection, schema, index, f"that {file} left behind")


async def invalid_indexes(
    connection: psycopg.AsyncConnection, values: dict[str, str] | None = None
) -> list[tuple[str, str]]:
    """Schema and name of the indexes that are not valid, that nobody builds, and that the current role may drop."""
    cursor = await connection.execute(_INVALID, values or {"name": "", "what": "", "of": ""})
    return [(str(schema), str(name)) for schema, name in await cursor.fetchall()]


async def drop_invalid(connection: psycopg.AsyncConnection, schema: str, name: str) -> bool:
    """Drop an index that is still not valid; false where it is valid, or gone, by now."""
    if (schema, name) not in await invalid_indexes(connection):
        return False
    await _drop(connection, schema, name, "as asked")
    return True


async def _drop(connection: psycopg.AsyncConnection, schema: str, name: str, why: str) -> None:
    try:
        await connection.execute(sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(sql.Identifier(schema, name)))
    except psycopg.Error as error:
        raise statement_error(error, f"dropping the invalid index {schema}.{name} {why}") from None
