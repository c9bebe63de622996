"""Conventions in SQL: the functions, triggers and views that keep them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from psycopg import sql

from selvedge.core.postgres.conventions import DesiredConventions, DropView, PutView, column_function
from selvedge.core.postgres.triggers import (
    BEFORE,
    DELETE,
    INSERT,
    INSTEAD,
    ROW,
    TRUNCATE,
    UPDATE,
    DropTrigger,
    Function,
    PutFunction,
    PutTrigger,
    Trigger,
)

#: clock_timestamp(), not now(): two transactions that change one row are ordered by its lock, and by now() the later
#: one could carry the earlier time.
_SET = """
begin
  new.{column} := pg_catalog.clock_timestamp();
  return new;
end;
"""

_COUNT = """
begin
  new.{column} := old.{column} + 1;
  return new;
end;
"""

#: With the caller's rights: grants and policies on the table decide what may be marked. Arguments: schema, table, the
#: column that marks, the one that names who did it, the setting that knows, the columns of the key.
_MARK = """
declare
  matches text;
  changed bigint;
begin
  select string_agg(format('t.%1$I = ($1).%1$I', k), ' and ') into matches from unnest(tg_argv[5]::text[]) k;
  if tg_argv[3] = '' then
    execute format('update %I.%I t set %I = clock_timestamp() where %s and t.%3$I is null',
                   tg_argv[0], tg_argv[1], tg_argv[2], matches) using old;
  else
    execute format('update %I.%I t set %I = clock_timestamp(), %I = nullif(current_setting(%L, true), %L)::%s '
                   'where %s and t.%3$I is null',
                   tg_argv[0], tg_argv[1], tg_argv[2], tg_argv[3], tg_argv[4], '',
                   (select format_type(a.atttypid, a.atttypmod) from pg_attribute a
                     where a.attrelid = format('%I.%I', tg_argv[0], tg_argv[1])::regclass and a.attname = tg_argv[3]),
                   matches) using old;
  end if;
  get diagnostics changed = row_count;
  return case when changed > 0 then old end;
end;
"""


def functions(desired: DesiredConventions, metadata_schema: str) -> tuple[Function, ...]:
    """The functions that the conventions need. The operator's login owns them, and they run as whoever writes."""
    found: dict[tuple[str, str], Function] = {}
    for entries, kind, body in ((desired.updated_at, "set", _SET), (desired.version, "count", _COUNT)):
        for one in entries:
            name = column_function(metadata_schema, kind, one.column)
            source = sql.SQL(body).format(column=sql.Identifier(one.column)).as_string(None)
            found[name] = Function(name, source, public=True)
    if desired.soft_delete:
        name = (metadata_schema, "soft_delete")
        found[name] = Function(name, _MARK, public=True)
    return tuple(found[name] for name in sorted(found))


def _put_function(change: PutFunction) -> sql.Composable:
    function = change.function
    name = sql.Identifier(*function.name)
    return sql.SQL(
        "CREATE OR REPLACE FUNCTION {name}() RETURNS pg_catalog.trigger LANGUAGE plpgsql {security} "
        "SET search_path = pg_catalog, pg_temp AS {source}; ALTER FUNCTION {name}() OWNER TO {owner}; "
        "{access}"
    ).format(
        access=_access(change),
        name=name,
        security=sql.SQL("SECURITY DEFINER" if function.definer else "SECURITY INVOKER"),
        source=sql.Literal(function.source),
        owner=sql.Identifier(function.owner),
    )


def _access(change: PutFunction) -> sql.Composable:
    """Whoever may execute a trigger function may put it on a table of his own."""
    function = change.function
    name = sql.Identifier(*function.name)
    if function.public:
        return sql.SQL("GRANT EXECUTE ON FUNCTION {}() TO PUBLIC").format(name)
    parts: list[sql.Composable] = [sql.SQL("REVOKE ALL ON FUNCTION {}() FROM PUBLIC").format(name)]
    for role in change.revoke:
        parts.append(sql.SQL("REVOKE ALL ON FUNCTION {}() FROM {}").format(name, sql.Identifier(role)))
    for role in sorted(function.executors):
        parts.append(sql.SQL("GRANT EXECUTE ON FUNCTION {}() TO {}").format(name, sql.Identifier(role)))
    return sql.SQL("; ").join(parts)


_EVENTS = ((INSERT, "INSERT"), (DELETE, "DELETE"), (UPDATE, "UPDATE"), (TRUNCATE, "TRUNCATE"))


def _put_trigger(change: PutTrigger) -> sql.Composable:
    trigger = change.trigger
    table = sql.Identifier(*change.table)
    parts: list[sql.Composable] = [
        sql.SQL("CREATE OR REPLACE TRIGGER {}").format(sql.Identifier(trigger.name)),
        sql.SQL("BEFORE" if trigger.kind & BEFORE else "INSTEAD OF" if trigger.kind & INSTEAD else "AFTER"),
        sql.SQL(" OR ").join(sql.SQL(word) for bit, word in _EVENTS if trigger.kind & bit),
        sql.SQL("ON {}").format(table),
    ]
    if trigger.old or trigger.new:
        parts.append(sql.SQL("REFERENCING"))
    if trigger.old:
        parts.append(sql.SQL("OLD TABLE AS {}").format(sql.Identifier(trigger.old)))
    if trigger.new:
        parts.append(sql.SQL("NEW TABLE AS {}").format(sql.Identifier(trigger.new)))
    parts.append(sql.SQL("FOR EACH ROW" if trigger.kind & ROW else "FOR EACH STATEMENT"))
    if trigger.changed:
        # Compares the rows' images: equality is not there for every type.
        parts.append(sql.SQL("WHEN (OLD OPERATOR(pg_catalog.*<>) NEW)"))
    arguments = sql.SQL(", ").join(sql.Literal(argument) for argument in trigger.args)
    parts.append(sql.SQL("EXECUTE FUNCTION {}({})").format(sql.Identifier(*trigger.function), arguments))
    statement = sql.SQL(" ").join(parts)
    if change.view:
        return statement
    firing = _firing(trigger)
    return statement + sql.SQL("; ALTER TABLE {} {} TRIGGER {}").format(table, firing, sql.Identifier(trigger.name))


def _firing(trigger: Trigger) -> sql.SQL:
    return sql.SQL("ENABLE ALWAYS" if trigger.always else "ENABLE")


def _drop_trigger(change: DropTrigger) -> sql.Composable:
    return sql.SQL("DROP TRIGGER {} ON {}").format(sql.Identifier(change.trigger), sql.Identifier(*change.table))


def _put_view(change: PutView) -> sql.Composable:
    columns = sql.SQL(", ").join(sql.Identifier(name) for name in change.columns)
    # A column that came or went in between cannot be replaced in place; what depends on the view keeps it from going.
    return sql.SQL(
        "DROP VIEW IF EXISTS {view} RESTRICT; CREATE VIEW {view} WITH (security_invoker = true) AS SELECT {columns} "
        "FROM {table} WHERE {column} IS NULL; ALTER VIEW {view} OWNER TO {owner}"
    ).format(
        view=sql.Identifier(*change.table),
        columns=columns,
        table=sql.Identifier(*change.of),
        column=sql.Identifier(change.column),
        owner=sql.Identifier(change.owner),
    )


def _drop_view(change: DropView) -> sql.Composable:
    return sql.SQL("DROP VIEW {} RESTRICT").format(sql.Identifier(*change.table))


RENDERERS: dict[type, Callable[[Any], sql.Composable]] = {
    PutFunction: _put_function,
    PutTrigger: _put_trigger,
    DropTrigger: _drop_trigger,
    PutView: _put_view,
    DropView: _drop_view,
}
