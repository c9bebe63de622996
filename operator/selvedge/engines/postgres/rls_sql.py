"""Row-level security in SQL: the part of the snapshot that shows it, and the statement for each change.

Reads catalogues only: no lock on a table is waited for, and nothing of a policy is evaluated.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import singledispatch
from typing import Any

from psycopg import sql

from selvedge.core.postgres import rls_changes as c
from selvedge.core.postgres.model import PUBLIC
from selvedge.core.postgres.rls_changes import RowPolicy, TableKey
from selvedge.core.postgres.rls_model import PartitionState, TableState

#: Which owners may act as an administrator is asked once for all roles, and not for each of thousands of tables.
_FRAGMENT = sql.SQL("""
 'rls', (SELECT json_agg(json_build_array(n.nspname, c.relname, pg_catalog.pg_get_userbyid(c.relowner),
     c.relowner IN (SELECT o.oid FROM pg_catalog.pg_roles o JOIN pg_catalog.pg_roles p
              ON p.rolsuper OR p.rolcreaterole OR p.rolname IN
                  ('pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files')
             WHERE pg_catalog.pg_has_role(o.oid, p.oid, 'MEMBER')),
     c.relkind, c.relrowsecurity, c.relforcerowsecurity,
     greatest(c.reltuples, pg_catalog.pg_stat_get_live_tuples(c.oid))::int8,
     (SELECT json_agg(json_build_array(p.polname, p.polcmd, p.polpermissive,
          (SELECT json_agg(CASE o WHEN 0 THEN NULL ELSE pg_catalog.pg_get_userbyid(o) END)
             FROM pg_catalog.unnest(p.polroles) o),
          pg_catalog.pg_get_expr(p.polqual, p.polrelid), pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid)))
        FROM pg_catalog.pg_policy p WHERE p.polrelid = c.oid),
     f.called,
     (WITH RECURSIVE tree(oid) AS (
          SELECT i.inhrelid FROM pg_catalog.pg_inherits i WHERE i.inhparent = c.oid AND c.relkind = 'p'
          UNION ALL SELECT i.inhrelid FROM tree JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.oid)
      SELECT json_agg(json_build_array(m.nspname, k.relname, k.relkind, k.relrowsecurity, k.relforcerowsecurity,
          greatest(k.reltuples, pg_catalog.pg_stat_get_live_tuples(k.oid))::int8,
          pg_catalog.pg_get_userbyid(k.relowner),
          (SELECT json_agg(p.polname) FROM pg_catalog.pg_policy p WHERE p.polrelid = k.oid),
          (SELECT json_agg(json_build_array(CASE e.grantee WHEN 0 THEN NULL ELSE
                    pg_catalog.pg_get_userbyid(e.grantee) END, e.privilege_type,
                    CASE WHEN e.grantor = k.relowner THEN '' ELSE pg_catalog.pg_get_userbyid(e.grantor) END))
             FROM pg_catalog.aclexplode(k.relacl) e WHERE e.grantee <> k.relowner)))
        FROM tree JOIN pg_catalog.pg_class k ON k.oid = tree.oid
        JOIN pg_catalog.pg_namespace m ON m.oid = k.relnamespace)))
   FROM json_to_recordset({tables}::json) w(s text, t text)
   JOIN pg_catalog.pg_namespace n ON n.nspname = w.s
   JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.t AND c.relkind IN ('r','p','v','m','f')
   LEFT JOIN (SELECT t.polrelid, pg_catalog.md5(pg_catalog.string_agg(t.called, '' ORDER BY t.called)) AS called
     FROM (SELECT DISTINCT p.polrelid, pg_catalog.concat_ws(' ', x.proname, x.prosrc, x.prosqlbody, x.prosecdef,
                                                            x.proowner, x.proconfig) AS called
             FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_policy p ON p.oid = d.objid
             JOIN pg_catalog.pg_proc x ON x.oid = d.refobjid
            WHERE d.classid = 'pg_catalog.pg_policy'::regclass AND d.refclassid = 'pg_catalog.pg_proc'::regclass) t
    GROUP BY t.polrelid) f ON f.polrelid = c.oid)
""")

_COMMANDS = {"*": "ALL", "r": "SELECT", "a": "INSERT", "w": "UPDATE", "d": "DELETE"}


def row_security_part(tables: Iterable[TableKey]) -> sql.Composed:
    """The member ``'rls'`` of the snapshot's ``json_build_object``, for these tables."""
    listed = [{"s": schema, "t": table} for schema, table in sorted(tables)]
    return _FRAGMENT.format(tables=sql.Literal(json.dumps(listed)))


def row_security_statement(tables: Iterable[TableKey]) -> sql.Composed:
    """The same as a statement of its own; one row with one text."""
    return sql.SQL("SELECT json_build_object({})::text").format(row_security_part(tables))


def parse_row_security(raw: Mapping[str, Any]) -> dict[TableKey, TableState]:
    """The tables of a snapshot that holds :func:`row_security_part`; none where it does not."""
    return {(row[0], row[1]): _table(*row) for row in raw.get("rls") or ()}


def _table(
    schema: str,
    table: str,
    owner: str,
    privileged: bool,
    relation: str,
    enabled: bool,
    forced: bool,
    rows: int,
    policies: list[list[Any]] | None,
    functions: str | None,
    partitions: list[list[Any]] | None,
) -> TableState:
    found = tuple(sorted((_partition(*row) for row in partitions or ()), key=lambda partition: partition.key))
    if relation == "p":
        rows = sum(max(0, row[5]) for row in partitions or ())
    return TableState(
        schema,
        table,
        owner,
        privileged,
        relation,
        enabled,
        forced,
        max(0, rows),
        {row[0]: _policy(*row) for row in policies or ()},
        functions or "",
        found,
    )


def _policy(
    name: str, command: str, permissive: bool, roles: list[str | None], using: str | None, check: str | None
) -> RowPolicy:
    names = tuple(sorted(PUBLIC if role is None else role for role in roles))
    return RowPolicy(name, _COMMANDS[command], permissive, names, using, check)


def _partition(
    schema: str,
    name: str,
    relation: str,
    enabled: bool,
    forced: bool,
    _rows: int,
    owner: str,
    policies: list[str] | None,
    grants: list[list[Any]] | None,
) -> PartitionState:
    given: dict[tuple[str, str], set[str]] = {}
    for grantee, privilege, grantor in grants or ():
        given.setdefault((PUBLIC if grantee is None else grantee, grantor), set()).add(privilege)
    held = {who: frozenset(privileges) for who, privileges in given.items()}
    names = tuple(sorted(policies or ()))
    return PartitionState(schema, name, enabled, forced, relation == "f", owner, names, held)


# --- statements ---


@singledispatch
def render_row_security(change: Any) -> sql.Composable:
    """The statement for one change of row-level security."""
    raise TypeError(type(change).__name__)


def _alter(table: TableKey, action: str) -> sql.Composed:
    return sql.SQL("ALTER TABLE {} {} ROW LEVEL SECURITY").format(sql.Identifier(*table), sql.SQL(action))


@render_row_security.register
def _(change: c.EnableRowSecurity) -> sql.Composable:
    return _alter(change.key, "ENABLE")


@render_row_security.register
def _(change: c.DisableRowSecurity) -> sql.Composable:
    return _alter(change.key, "DISABLE")


@render_row_security.register
def _(change: c.ForceRowSecurity) -> sql.Composable:
    return _alter(change.key, "FORCE" if change.force else "NO FORCE")


@render_row_security.register
def _(change: c.ClosePartition) -> sql.Composable:
    statement = sql.SQL("ALTER TABLE {} ENABLE ROW LEVEL SECURITY").format(sql.Identifier(*change.partition))
    return statement + sql.SQL(", FORCE ROW LEVEL SECURITY" if change.force else "")


@render_row_security.register
def _(change: c.CreatePolicy) -> sql.Composable:
    policy = change.policy
    head = sql.SQL("CREATE POLICY {} ON {} AS {} FOR {} TO {}").format(
        sql.Identifier(policy.name),
        sql.Identifier(*change.key),
        sql.SQL("PERMISSIVE" if policy.permissive else "RESTRICTIVE"),
        sql.SQL(_word(policy.command)),
        _roles(policy.roles),
    )
    return head + _expressions(policy.using, policy.check)


@render_row_security.register
def _(change: c.AlterPolicy) -> sql.Composable:
    statement: sql.Composable = sql.SQL("ALTER POLICY {} ON {}").format(
        sql.Identifier(change.name), sql.Identifier(*change.key)
    )
    if change.roles is not None:
        statement += sql.SQL(" TO ") + _roles(change.roles)
    return statement + _expressions(change.using, change.check)


@render_row_security.register
def _(change: c.DropPolicy) -> sql.Composable:
    table = sql.Identifier(*(change.partition or change.key))
    return sql.SQL("DROP POLICY {} ON {}").format(sql.Identifier(change.name), table)


def _word(command: str) -> str:
    if command not in _COMMANDS.values():
        raise ValueError(command)  # the API's enum lets nothing else through
    return command


def _roles(roles: Iterable[str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.SQL("PUBLIC") if role == PUBLIC else sql.Identifier(role) for role in roles)


def _expressions(using: str | None, check: str | None) -> sql.Composed:
    """The text as it is, on lines of its own, so that a comment at its end ends there.

    That it is one expression was looked at before, and the statement goes through a protocol that takes only one.
    """
    parts = []
    for word, text in ((" USING (", using), (" WITH CHECK (", check)):
        if text is not None:
            parts.append(sql.SQL(word) + sql.SQL(text) + sql.SQL("\n)"))
    return sql.SQL("").join(parts)
