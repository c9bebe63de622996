"""The audit in SQL: the functions that write the log, and the statements of its changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from psycopg import sql

from selvedge.core.postgres.audit import CHANGES, EVENTS, DesiredAudit
from selvedge.core.postgres.audit_changes import DropHook, ExpelMember, LetWrite, MakeLog, OwnLog, ProtectLog
from selvedge.core.postgres.triggers import Function

#: ``offset 0`` keeps the planner from computing a row's JSON once for each use of it.
#: Arguments of both: the columns of the primary key, and those that are left out. The values of the row are JSON here,
#: so no name of a column can be mistaken for one of the function's. What is kept of the query is nothing: its text
#: holds the values that are left out. The actor is read as text: a setting is never a reason for a change to fail.
_HEAD = """
declare
  keys constant text[] := tg_argv[0]::text[];
  hidden constant text[] := tg_argv[1]::text[];
  relation constant text := coalesce(pg_partition_root(tg_relid), tg_relid)::regclass::text;
  actor constant text := {actor};
"""

#: ``record_id``: the key's value where it is one column, else an object of all of them. It joins old and new rows.
_KEY = """case when cardinality(keys) = 1 then {row} ->> keys[1] else
          (select jsonb_object_agg(k, {row} -> k)::text from unnest(keys) k) end"""

_COLUMNS = """(transaction_id, table_name, operation, record_id, user_id, session_role, active_role,
       application_name, ip_address, old_values, new_values)"""

_WHO = """actor, session_user, nullif(current_setting('role'), 'none'), current_setting('application_name'),
      inet_client_addr()"""

_STATEMENT = """{head}begin
  if tg_op = 'INSERT' then
    insert into {log} {columns}
    select pg_current_xact_id()::text::bigint, relation, tg_op, {key_new}, {who}, null, r.new - hidden
      from (select to_jsonb(selvedge_row.*) as new from selvedge_new as selvedge_row offset 0) r;
  elsif tg_op = 'DELETE' then
    insert into {log} {columns}
    select pg_current_xact_id()::text::bigint, relation, tg_op, {key_old}, {who}, r.old - hidden, null
      from (select to_jsonb(selvedge_row.*) as old from selvedge_old as selvedge_row offset 0) r;
  elsif tg_op = 'UPDATE' then
    -- A row whose key was changed appears twice: as the one that went, and as the one that came.
    insert into {log} {columns}
    select pg_current_xact_id()::text::bigint, relation, tg_op, coalesce(n.id, o.id), {who},
           o.old - hidden, n.new - hidden
      from (select r.old, {key_old} as id
              from (select to_jsonb(selvedge_row.*) as old from selvedge_old as selvedge_row offset 0) r offset 0) o
      full join (select r.new, {key_new} as id
              from (select to_jsonb(selvedge_row.*) as new from selvedge_new as selvedge_row offset 0) r offset 0) n
        on n.id = o.id
     where o.old is distinct from n.new;
  else
    insert into {log} {columns}
    values (pg_current_xact_id()::text::bigint, relation, tg_op, null, {who}, null, null);
  end if;
  return null;
end;
"""

_ROW = """{head}  before jsonb;
  after jsonb;
begin
  if tg_op <> 'INSERT' then
    before := to_jsonb(old);
  end if;
  if tg_op <> 'DELETE' then
    after := to_jsonb(new);
  end if;
  if before is distinct from after then
    insert into {log} {columns}
    select pg_current_xact_id()::text::bigint, relation, tg_op,
           case when cardinality(keys) > 0 then {key_row} end, {who}, before - hidden, after - hidden
      from (select coalesce(after, before) as one) r;
  end if;
  return null;
end;
"""

#: Who wrote an entry and when is not the writer's to say.
_STAMP = """
begin
  if new.created_at is null or abs(extract(epoch from new.created_at - clock_timestamp())) > 300 then
    raise exception 'an entry of the audit log is of now: leave created_at out' using errcode = '22008';
  end if;
  new.session_role := session_user;
  new.active_role := nullif(current_setting('role'), 'none');
  new.ip_address := inet_client_addr();
  new.user_id := coalesce({actor}, new.user_id);
  return new;
end;
"""


def functions(audit: DesiredAudit) -> tuple[Function, ...]:
    """The functions that an audit needs.

    The two that write the log run with the rights of a role that may insert into it and nothing else: an application
    has no right on the log at all, and code that a table's owner smuggles into the row cannot remove an entry.
    """
    setting = sql.Literal(audit.actor_setting)
    actor = sql.SQL("nullif(current_setting({}, true), '')").format(setting) if audit.actor_setting else sql.SQL("null")
    parts: dict[str, Any] = {
        "head": sql.SQL(_HEAD).format(actor=actor),
        "log": sql.Identifier(audit.schema, CHANGES),
        "columns": sql.SQL(_COLUMNS),
        "who": sql.SQL(_WHO),
        **{f"key_{name}": sql.SQL(_KEY).format(row=sql.SQL(f"r.{name}")) for name in ("old", "new")},
        "key_row": sql.SQL(_KEY).format(row=sql.SQL("r.one")),
    }

    def text(body: str) -> str:
        return sql.SQL(body).format(**parts).as_string(None)

    found = [
        Function((audit.schema, "record_changes"), text(_STATEMENT), definer=True, owner=audit.writer),
        Function((audit.schema, "record_change"), text(_ROW), definer=True, owner=audit.writer),
    ]
    if audit.application_log:
        stamp = sql.SQL(_STAMP).format(actor=actor).as_string(None)
        found.append(Function((audit.schema, "stamp_event"), stamp, owner=audit.writer))
    return tuple(found)


_LOGS = {
    CHANGES: """CREATE TABLE {log} (
  id uuid NOT NULL DEFAULT pg_catalog.gen_random_uuid(),
  executed_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  transaction_id bigint NOT NULL,
  table_name text NOT NULL,
  operation text NOT NULL CHECK (operation IN ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE')),
  record_id text,
  user_id text,
  session_role text NOT NULL,
  active_role text,
  application_name text,
  ip_address inet,
  old_values jsonb,
  new_values jsonb,
  PRIMARY KEY (id, executed_at)
) PARTITION BY RANGE (executed_at);
CREATE INDEX ON {log} (table_name, record_id, executed_at);
CREATE INDEX ON {log} (user_id, executed_at)""",
    EVENTS: """CREATE TABLE {log} (
  id uuid NOT NULL DEFAULT pg_catalog.gen_random_uuid(),
  created_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  user_id text,
  entity_type text NOT NULL,
  entity_id text,
  action text NOT NULL,
  old_values jsonb,
  new_values jsonb,
  metadata jsonb NOT NULL DEFAULT '{{}}',
  ip_address inet,
  user_agent text,
  session_role text NOT NULL,
  active_role text,
  PRIMARY KEY (id, created_at)
) PARTITION BY RANGE (created_at);
CREATE INDEX ON {log} (entity_type, entity_id, created_at);
CREATE INDEX ON {log} (user_id, created_at)""",
}


def _make_log(change: MakeLog) -> sql.Composable:
    name = sql.Identifier(*change.table)
    body = sql.SQL(_LOGS[change.table[1]]).format(log=name)
    return body + sql.SQL("; ALTER TABLE {} OWNER TO {}").format(name, sql.Identifier(change.owner))


def let_write(table: tuple[str, str], writer: str) -> sql.Composable:
    """What the writer needs on a log."""
    return sql.SQL("GRANT USAGE ON SCHEMA {} TO {role}; GRANT INSERT ON {} TO {role}").format(
        sql.Identifier(table[0]), sql.Identifier(*table), role=sql.Identifier(writer)
    )


def _own_log(change: OwnLog) -> sql.Composable:
    return sql.SQL("ALTER TABLE {} OWNER TO {}").format(sql.Identifier(*change.relation), sql.Identifier(change.owner))


def _let_write(change: LetWrite) -> sql.Composable:
    return let_write(change.table, change.writer)


def _protect(change: ProtectLog) -> sql.Composable:
    relation = sql.Identifier(*change.relation)
    grantee = sql.SQL("PUBLIC") if change.grantee == "PUBLIC" else sql.Identifier(change.grantee)

    def listed(words: tuple[str, ...]) -> sql.Composable:
        column = sql.SQL(" ({})").format(sql.Identifier(change.column)) if change.column else sql.SQL("")
        # The words are the server's own.
        return sql.SQL(", ").join(sql.SQL(word) + column for word in words)

    parts: list[sql.Composable] = []
    for grantor in change.grantors:
        # With the right to give it what he gave hangs on the owner again, and goes with it.
        restored = sql.SQL(
            "GRANT {words} ON {on} TO {who} WITH GRANT OPTION; REVOKE {words} ON {on} FROM {who} CASCADE"
        )
        parts.append(restored.format(words=listed(change.privileges), on=relation, who=sql.Identifier(grantor)))
    if change.privileges:
        parts.append(sql.SQL("REVOKE {} ON {} FROM {} CASCADE").format(listed(change.privileges), relation, grantee))
    if change.options:
        revoked = sql.SQL("REVOKE GRANT OPTION FOR {} ON {} FROM {} CASCADE")
        parts.append(revoked.format(listed(change.options), relation, grantee))
    return sql.SQL("; ").join(parts)


def _drop_hook(change: DropHook) -> sql.Composable:
    drop = {"trigger": sql.SQL("DROP TRIGGER {} ON {}"), "rule": sql.SQL("DROP RULE {} ON {}")}[change.kind]
    return drop.format(sql.Identifier(change.name), sql.Identifier(*change.relation))


def _expel(change: ExpelMember) -> sql.Composable:
    statement = sql.SQL("REVOKE {} FROM {}").format(sql.Identifier(change.role), sql.Identifier(change.grantee))
    if change.grantor:
        statement += sql.SQL(" GRANTED BY {}").format(sql.Identifier(change.grantor))
    return statement + sql.SQL(" CASCADE")


RENDERERS: dict[type, Callable[[Any], sql.Composable]] = {
    MakeLog: _make_log,
    OwnLog: _own_log,
    LetWrite: _let_write,
    ProtectLog: _protect,
    DropHook: _drop_hook,
    ExpelMember: _expel,
}
