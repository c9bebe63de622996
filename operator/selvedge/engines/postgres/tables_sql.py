"""The part of the snapshot that shows tables with their triggers, views, functions and partitions, and its parser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from psycopg import sql

from selvedge.core.postgres.audit import LiveAudit, LogAccess, LogHook
from selvedge.core.postgres.partitions import Hypertable, Leftover, LivePartitions, Partition, PartitionedTable
from selvedge.core.postgres.periods import Range
from selvedge.core.postgres.tables import LiveTables, Wanted
from selvedge.core.postgres.triggers import Function, LiveTable, Table, Trigger, View
from selvedge.engines.postgres.partitions_sql import marker

_TRIGGERS = sql.SQL("""(SELECT json_agg(json_build_array(t.tgname, fn.nspname, f.proname, t.tgtype,
       pg_catalog.encode(t.tgargs, 'hex'), t.tgoldtable, t.tgnewtable, t.tgqual IS NOT NULL, t.tgenabled))
     FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_proc f ON f.oid = t.tgfoid
     JOIN pg_catalog.pg_namespace fn ON fn.oid = f.pronamespace
    WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgname LIKE 'selvedge\\_%')""")

_FRAGMENT = sql.SQL("""
 'tables', json_build_object(
 'now', pg_catalog.extract('epoch', pg_catalog.now())::text,
 'timescale', (SELECT e.extversion FROM pg_catalog.pg_extension e WHERE e.extname = 'timescaledb'),
 'tables', (SELECT json_agg(json_build_array(n.nspname, c.relname, pg_catalog.pg_get_userbyid(c.relowner),
     c.relkind = 'p', (SELECT json_agg(json_build_array(a.attname, pg_catalog.format_type(a.atttypid, NULL),
                              pg_catalog.quote_ident(a.attname)) ORDER BY a.attnum)
                         FROM pg_catalog.pg_attribute a
                        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
     pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname),
     (SELECT json_agg(a.attname ORDER BY k.position) FROM pg_catalog.pg_index i,
             unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, position), pg_catalog.pg_attribute a
       WHERE i.indrelid = c.oid AND i.indisprimary AND a.attrelid = c.oid AND a.attnum = k.attnum),
     {triggers},
     CASE WHEN c.relkind = 'p' THEN (SELECT json_agg(json_build_array(pn.nspname, p.relname, p.triggers)) FROM (
         SELECT c.relnamespace, c.relname, {triggers} AS triggers FROM pg_catalog.pg_partition_tree(outermost.oid) pt
           JOIN pg_catalog.pg_class c ON c.oid = pt.relid WHERE pt.level > 0) p
         JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace) END))
   FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid
   CROSS JOIN LATERAL (SELECT c.oid) outermost
  WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND (n.nspname = ANY ({schemas}) OR EXISTS (
        SELECT FROM json_array_elements({tables}::json) w WHERE w->>0 = n.nspname AND w->>1 = c.relname)
        OR EXISTS (SELECT FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_proc f ON f.oid = t.tgfoid
                     JOIN pg_catalog.pg_namespace fn ON fn.oid = f.pronamespace
                    WHERE t.tgrelid = c.oid AND t.tgname LIKE 'selvedge\\_%' AND fn.nspname = ANY ({functions})))),
 'views', (SELECT json_agg(json_build_array(n.nspname, c.relname, pg_catalog.pg_get_userbyid(c.relowner),
     coalesce('security_invoker=true' = ANY (c.reloptions), false), pg_catalog.pg_get_viewdef(c.oid), {triggers}))
   FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid
  WHERE c.relkind = 'v' AND n.nspname = ANY ({views})),
 'functions', (SELECT json_agg(json_build_array(n.nspname, p.proname, p.prosrc, p.prosecdef,
     pg_catalog.pg_get_userbyid(p.proowner), p.proacl IS NULL OR EXISTS (
       SELECT FROM pg_catalog.aclexplode(p.proacl) e WHERE e.grantee = 0),
     coalesce('search_path=pg_catalog, pg_temp' = ANY (p.proconfig), false),
     (SELECT json_agg(pg_catalog.pg_get_userbyid(e.grantee)) FROM pg_catalog.aclexplode(p.proacl) e
       WHERE e.grantee NOT IN (0, p.proowner))))
   FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_proc p ON p.pronamespace = n.oid
  WHERE n.nspname = ANY ({functions}) AND p.prorettype = 'pg_catalog.trigger'::pg_catalog.regtype),
 'logs', (SELECT json_agg(json_build_array(n.nspname, l.relname, rn.nspname, c.relname,
     pg_catalog.pg_get_userbyid(c.relowner), (
       SELECT json_agg(json_build_array(x.name, CASE e.grantee WHEN 0 THEN 'PUBLIC'
                ELSE pg_catalog.pg_get_userbyid(e.grantee) END, e.privilege_type, e.is_grantable,
                CASE WHEN e.grantor = c.relowner THEN '' ELSE pg_catalog.pg_get_userbyid(e.grantor) END))
         FROM (SELECT '', c.relacl UNION ALL SELECT a.attname, a.attacl FROM pg_catalog.pg_attribute a
                WHERE a.attrelid = c.oid AND a.attacl IS NOT NULL AND NOT a.attisdropped) x(name, acl),
              pg_catalog.aclexplode(x.acl) e WHERE e.grantee <> c.relowner), (
       SELECT json_agg(json_build_array(h.kind, h.name, h.function, h.text)) FROM (
         SELECT 'trigger', t.tgname, fn.nspname, pg_catalog.pg_get_triggerdef(t.oid)
           FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_proc f ON f.oid = t.tgfoid
           JOIN pg_catalog.pg_namespace fn ON fn.oid = f.pronamespace
          WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgparentid = 0
         UNION ALL SELECT 'rule', w.rulename, '', pg_catalog.pg_get_ruledef(w.oid)
           FROM pg_catalog.pg_rewrite w WHERE w.ev_class = c.oid) h(kind, name, function, text))))
   FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_class l ON l.relnamespace = n.oid
   CROSS JOIN LATERAL pg_catalog.pg_partition_tree(l.oid) pt
   JOIN pg_catalog.pg_class c ON c.oid = pt.relid JOIN pg_catalog.pg_namespace rn ON rn.oid = c.relnamespace
  WHERE n.nspname = ANY ({logs}) AND l.relname IN ('database_operations', 'audit_logs') AND l.relkind = 'p'),
 'users', (SELECT json_agg(json_build_array(n.nspname, pg_catalog.pg_get_userbyid(e.grantee)))
   FROM pg_catalog.pg_namespace n, pg_catalog.aclexplode(n.nspacl) e
  WHERE n.nspname = ANY ({logs}) AND e.privilege_type = 'USAGE'),
 'members', (SELECT json_agg(json_build_array(r.rolname, m.rolname,
     CASE WHEN current_setting('server_version_num')::int >= 160000
          THEN pg_catalog.pg_get_userbyid(a.grantor) ELSE '' END)) FROM pg_catalog.pg_auth_members a
   JOIN pg_catalog.pg_roles r ON r.oid = a.roleid JOIN pg_catalog.pg_roles m ON m.oid = a.member
  WHERE r.rolname = ANY ({roles}) AND NOT m.rolsuper AND m.rolname <> current_user),
 'partitioned', (SELECT json_agg(json_build_array(n.nspname, c.relname, pt.partstrat,
     (SELECT json_agg(CASE WHEN a.attnum IS NULL THEN NULL ELSE
                json_build_array(a.attname, pg_catalog.format_type(a.atttypid, NULL)) END ORDER BY k.position)
        FROM unnest(pt.partattrs::int2[]) WITH ORDINALITY k(attnum, position)
        LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum AND k.attnum > 0),
     o.rolname, o.rolsuper, s.spcname, am.amname,
     (SELECT json_agg(json_build_array(pn.nspname, p.relname, pg_catalog.pg_get_expr(p.relpartbound, p.oid),
                i.inhdetachpending, p.reltuples::int8, p.oid::int8))
        FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class p ON p.oid = i.inhrelid
        JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace
       WHERE i.inhparent = c.oid AND pt.partstrat IS NOT NULL),
     (SELECT json_agg(x.relname) FROM pg_catalog.pg_class x WHERE x.relnamespace = c.relnamespace
         AND pg_catalog.left(x.relname, 20) = pg_catalog.left(c.relname, 20)
         AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhrelid = x.oid AND i.inhparent = c.oid)),
     (SELECT json_object_agg(a.attname, pg_catalog.format_type(a.atttypid, NULL)) FROM pg_catalog.pg_attribute a
       WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
     c.relkind = 'r' AND pg_catalog.pg_relation_size(c.oid) = 0, {hypertable},
     (SELECT json_agg(json_build_array(xn.nspname, x.relname, d.description, x.reltuples::int8, i.inhrelid IS NOT NULL))
        FROM pg_catalog.pg_description d JOIN pg_catalog.pg_class x ON x.oid = d.objoid
        JOIN pg_catalog.pg_namespace xn ON xn.oid = x.relnamespace
        LEFT JOIN pg_catalog.pg_inherits i ON i.inhrelid = x.oid
       WHERE d.classoid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objsubid = 0 AND pt.partstrat = 'r'
         AND pg_catalog.starts_with(d.description,
               'selvedge: expired partition of ' || n.nspname || '.' || c.relname || ' until ')
         AND x.relowner = c.relowner AND x.relkind IN ('r', 'p')
         AND (i.inhrelid IS NULL OR (i.inhparent = c.oid AND i.inhdetachpending)))))
   FROM json_array_elements({partitioned}::json) w
   JOIN pg_catalog.pg_namespace n ON n.nspname = w->>0
   JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w->>1 AND c.relkind IN ('r', 'p')
   JOIN pg_catalog.pg_roles o ON o.oid = c.relowner
   LEFT JOIN pg_catalog.pg_partitioned_table pt ON pt.partrelid = c.oid
   LEFT JOIN pg_catalog.pg_tablespace s ON s.oid = c.reltablespace
   LEFT JOIN pg_catalog.pg_am am ON am.oid = c.relam AND c.relkind = 'p'))
""")

#: As the documentation of TimescaleDB names its views; only sent where the extension is.
_HYPERTABLE = sql.SQL("""(SELECT json_build_array(d.column_name, extract(epoch FROM d.time_interval),
     (SELECT extract(epoch FROM (j.config->>'drop_after')::interval) FROM timescaledb_information.jobs j
       WHERE j.proc_name = 'policy_retention' AND j.hypertable_schema = n.nspname AND j.hypertable_name = c.relname))
   FROM timescaledb_information.dimensions d
  WHERE d.hypertable_schema = n.nspname AND d.hypertable_name = c.relname AND d.dimension_number = 1)""")

NO_TABLES = sql.SQL("'tables', NULL")


def tables_fragment(wanted: Wanted) -> sql.Composable:
    """The key ``tables`` of a snapshot."""
    if not wanted:
        return NO_TABLES
    return _FRAGMENT.format(
        triggers=_TRIGGERS,
        schemas=_array(wanted.schemas),
        tables=_pairs(wanted.tables),
        views=_array(wanted.views),
        functions=_array(wanted.functions),
        logs=_array(wanted.logs),
        roles=_array(wanted.roles),
        partitioned=_pairs(wanted.partitioned),
        hypertable=_HYPERTABLE if wanted.hypertables else sql.SQL("NULL"),
    )


def _array(values: Iterable[str]) -> sql.Composable:
    return sql.SQL("{}::text[]").format(sql.Literal(sorted(values)))


def _pairs(values: Iterable[Table]) -> sql.Composable:
    return sql.Literal(json.dumps(sorted(values)))


def parse_tables(raw: dict[str, Any] | None) -> LiveTables | None:
    """The frozen form of the key ``tables`` in a snapshot's answer; None where it was not asked for."""
    if raw is None:
        return None
    now = datetime.fromtimestamp(float(raw["now"]), UTC)
    partitioned = {(row[0], row[1]): _partitioned(row) for row in raw["partitioned"] or ()}
    access: dict[Table, set[LogAccess]] = {}
    log_owners: dict[Table, dict[Table, str]] = {}
    hooks: dict[Table, list[LogHook]] = {}
    for schema, name, in_schema, relation, owner, granted, hooked in raw["logs"] or ():
        hooks.setdefault((schema, name), []).extend(LogHook((in_schema, relation), *one) for one in hooked or ())
        log_owners.setdefault((schema, name), {})[in_schema, relation] = owner
        found = access.setdefault((schema, name), set())
        found.update(LogAccess((in_schema, relation), *one) for one in granted or ())
    audit = LiveAudit(
        {(row[0], row[1]): _function(row) for row in raw["functions"] or ()},
        {log: frozenset(found) for log, found in access.items()},
        log_owners,
        frozenset((schema, role) for schema, role in raw["users"] or ()),
        tuple(sorted((role, member, grantor) for role, member, grantor in raw["members"] or ())),
        {log: tuple(sorted(found)) for log, found in hooks.items()},
    )
    return LiveTables(
        LivePartitions(now, partitioned, raw["timescale"] or ""),
        {(row[0], row[1]): _table(row) for row in raw["tables"] or ()},
        {
            (schema, name): View(owner, invoker, " ".join(text.split()), _triggers(triggers))
            for schema, name, owner, invoker, text, triggers in raw["views"] or ()
        },
        audit,
    )


def _table(row: list[Any]) -> LiveTable:
    schema, name, owner, partitioned, columns, quoted_name, key, triggers, partitions = row
    return LiveTable(
        (schema, name),
        owner,
        partitioned,
        {column: kind for column, kind, _ in columns or ()},
        {column: quoted for column, _, quoted in columns or ()},
        quoted_name,
        tuple(key or ()),
        _triggers(triggers),
        {(s, n): _triggers(found) for s, n, found in partitions or ()},
    )


def _triggers(rows: list[list[Any]] | None) -> dict[str, Trigger]:
    found = {}
    for name, schema, function, kind, args, old, new, when, enabled in rows or ():
        words = bytes.fromhex(args).decode().split("\0")[:-1]
        always = enabled == "A"
        # A trigger that is switched off, or fires for replicas alone, is none: its name keeps it from being equal.
        shown = name if enabled in ("A", "O") else f"{name} ({enabled})"
        found[name] = Trigger(shown, (schema, function), kind, tuple(words), old or "", new or "", when, always)
    return found


def _function(row: list[Any]) -> Function:
    schema, name, source, definer, owner, public, pinned, executors = row
    return Function((schema, name), source, definer, owner, public, pinned, frozenset(executors or ()))


def _partitioned(row: list[Any]) -> PartitionedTable:
    schema, name, strategy, key, owner, privileged, space, method, partitions, relations, columns = row[:11]
    empty, hyper, left = row[11:]
    return PartitionedTable(
        (schema, name),
        {"r": "range", "h": "hash", "l": "list"}.get(strategy or "", ""),
        tuple(tuple(part) if part else None for part in key or ()),
        owner,
        tuple(_partition(*one) for one in partitions or ()),
        privileged,
        space,
        method,
        frozenset(relations or ()),
        columns or {},
        empty,
        Hypertable(hyper[0], float(hyper[1]), None if hyper[2] is None else float(hyper[2])) if hyper else None,
        tuple(found for one in left or () if (found := _leftover((schema, name), *one)) is not None),
    )


def _leftover(table: Table, schema: str, name: str, comment: str, rows: int, pending: bool) -> Leftover | None:
    try:
        end = datetime.fromisoformat(comment.removeprefix(marker(table)))
    except ValueError:
        return None  # not as we write it: somebody else's words
    return None if end.tzinfo is None else Leftover(schema, name, end, rows, pending)


_RANGE = re.compile(r"FOR VALUES FROM \((.*)\) TO \((.*)\)")
_HASH = re.compile(r"FOR VALUES WITH \(modulus (\d+), remainder (\d+)\)")
_BEGINNING = datetime.min.replace(tzinfo=UTC)
_END = datetime.max.replace(tzinfo=UTC)


def _partition(schema: str, name: str, bound: str | None, detaching: bool, rows: int, oid: int) -> Partition:
    text = bound or ""
    by_hash = _HASH.fullmatch(text)
    if by_hash:
        return Partition(schema, name, None, int(by_hash[1]), int(by_hash[2]), detaching, rows, oid)
    by_range = _RANGE.fullmatch(text)
    if by_range:
        found = Range(_moment(by_range[1], _BEGINNING), _moment(by_range[2], _END))
        return Partition(schema, name, found, detaching=detaching, rows=rows, oid=oid)
    return Partition(schema, name, detaching=detaching, rows=rows, oid=oid)


def _moment(text: str, infinite: datetime) -> datetime:
    """A bound, as the server writes it in a session with TimeZone UTC and DateStyle ISO."""
    word = text.strip("'")
    if word in ("MINVALUE", "-infinity") or word.endswith(" BC"):
        return _BEGINNING
    if word in ("MAXVALUE", "infinity"):
        return _END
    try:
        moment = datetime.fromisoformat(word)
    except ValueError:
        return infinite  # a year beyond 9999, or a key that is no time, which is refused elsewhere
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
