"""The part of a snapshot that shows objects with their owners and privileges, and its parser.

Objects that share (kind, schema, owner, privileges) are folded into one row and each distinct ACL is exploded once:
six times faster than a row for each object on 5,000 tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from psycopg import sql

from selvedge.core.postgres.model import AclGroup, Desired

#: The types by which a row ``p`` of pg_proc is named in GRANT. A procedure's say IN: without it, p(int, int) could also
#: be the procedure with one argument in and one out, and the server would refuse to choose.
ARGUMENTS = sql.SQL("""CASE WHEN p.prokind = 'p' THEN coalesce((SELECT pg_catalog.string_agg(
         'IN ' || pg_catalog.format_type(a.type, NULL), ', ' ORDER BY a.place)
         FROM unnest(p.proargtypes) WITH ORDINALITY a(type, place)), '')
       ELSE pg_catalog.oidvectortypes(p.proargtypes) END""")

#: The CTEs ``ns`` and ``obj``. Partitions are told from tables, arrays and the row types of tables are left out.
_OBJECTS = sql.SQL("""
 ns AS MATERIALIZED (SELECT n.oid, n.nspname, n.nspowner, n.nspacl FROM pg_catalog.pg_namespace n
                      WHERE n.nspname = ANY ({schemas}){every}),
 obj AS MATERIALIZED (
   SELECT 'database'::text AS kind, ''::text AS sch, d.datdba AS owner, d.datacl AS acl, json_build_array('') AS names
     FROM pg_catalog.pg_database d WHERE d.datname = current_database()
   UNION ALL SELECT 'schema', '', n.nspowner, n.nspacl, json_agg(n.nspname) FROM ns n
     GROUP BY n.nspowner, n.nspacl
   UNION ALL SELECT CASE WHEN c.relkind = 'S' THEN 'sequence' WHEN c.relispartition THEN 'partition' ELSE 'table' END,
       n.nspname, c.relowner, c.relacl, json_agg(c.relname)
     FROM ns n JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid WHERE c.relkind IN ('r','p','v','m','f','S')
     GROUP BY 1, n.nspname, c.relowner, c.relacl
   UNION ALL SELECT 'column', n.nspname, c.relowner, a.attacl, json_agg(json_build_array(c.relname, a.attname))
     FROM ns n JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid
    WHERE c.relkind IN ('r','p','v','m','f') AND a.attnum > 0 AND NOT a.attisdropped
      AND (a.attacl IS NOT NULL OR {columns}) GROUP BY n.nspname, c.relowner, a.attacl
   UNION ALL SELECT 'function', n.nspname, p.proowner, p.proacl,
       json_agg(json_build_array(p.proname, {arguments}))
     FROM ns n JOIN pg_catalog.pg_proc p ON p.pronamespace = n.oid
     GROUP BY n.nspname, p.proowner, p.proacl{more})
""")

_TYPES = sql.SQL("""
   UNION ALL SELECT 'type', n.nspname, t.typowner, t.typacl, json_agg(t.typname)
     FROM ns n JOIN pg_catalog.pg_type t ON t.typnamespace = n.oid
     LEFT JOIN pg_catalog.pg_class c ON c.oid = t.typrelid
    WHERE t.typcategory <> 'A' AND (t.typtype IN ('b','d','e','r') OR t.typtype = 'c' AND c.relkind = 'c')
    GROUP BY n.nspname, t.typowner, t.typacl""")

_WITHOUT_SCHEMA = {
    "language": sql.SQL("""
   UNION ALL SELECT 'language', '', l.lanowner, l.lanacl, json_agg(l.lanname) FROM pg_catalog.pg_language l
    WHERE l.lanname = ANY ({}) GROUP BY l.lanowner, l.lanacl"""),
    "server": sql.SQL("""
   UNION ALL SELECT 'server', '', f.srvowner, f.srvacl, json_agg(f.srvname) FROM pg_catalog.pg_foreign_server f
    WHERE f.srvname = ANY ({}) GROUP BY f.srvowner, f.srvacl"""),
    "wrapper": sql.SQL("""
   UNION ALL SELECT 'wrapper', '', w.fdwowner, w.fdwacl, json_agg(w.fdwname) FROM pg_catalog.pg_foreign_data_wrapper w
    WHERE w.fdwname = ANY ({}) GROUP BY w.fdwowner, w.fdwacl"""),
}

_EVERY = sql.SQL(" OR n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND n.nspname <> {metadata_schema}")

#: The key ``objects``. An entry says who gave it only where that was not the owner, or where it can be granted on; and
#: whether the server takes that one for the owner: his REVOKE then takes back what the owner gave, and not what he did.
OBJECTS = sql.SQL("""
 'objects', (SELECT json_agg(json_build_array(o.kind, o.sch, pg_catalog.pg_get_userbyid(o.owner), o.names,
     (SELECT json_agg(CASE WHEN e.grantor = o.owner AND NOT e.is_grantable
               THEN json_build_array(g.name, e.privilege_type)
               ELSE json_build_array(g.name, e.privilege_type, pg_catalog.pg_get_userbyid(e.grantor), e.is_grantable,
                                     e.grantor <> o.owner AND pg_catalog.pg_has_role(e.grantor, o.owner, 'USAGE'))
               END)
        FROM pg_catalog.aclexplode(CASE WHEN o.kind = 'column' AND o.acl IS NULL THEN NULL
          ELSE coalesce(o.acl, pg_catalog.acldefault(
          CASE o.kind WHEN 'database' THEN 'd' WHEN 'schema' THEN 'n' WHEN 'sequence' THEN 's' WHEN 'function' THEN 'f'
                      WHEN 'column' THEN 'c' WHEN 'type' THEN 'T' WHEN 'language' THEN 'l' WHEN 'server' THEN 'S'
                      WHEN 'wrapper' THEN 'F' ELSE 'r' END::"char", o.owner)) END) e
       CROSS JOIN LATERAL (SELECT CASE e.grantee WHEN 0 THEN 'PUBLIC'
                                  ELSE pg_catalog.pg_get_userbyid(e.grantee)::text END AS name) g))) FROM obj o)
""")


def _array(values: Iterable[str]) -> sql.Composable:
    return sql.SQL("{}::text[]").format(sql.Literal(sorted(values)))


def objects_ctes(desired: Desired, schemas: Iterable[str], metadata_schema: str) -> sql.Composable:
    """The CTEs of all objects whose privileges matter for ``desired``."""
    more: list[sql.Composable] = [_TYPES] if desired.shows_types() else []
    for kind, part in _WITHOUT_SCHEMA.items():
        names = desired.names_without_schema(kind)
        if names:
            more.append(part.format(_array(names)))
    every = _EVERY.format(metadata_schema=sql.Literal(metadata_schema)) if desired.every_schema() else sql.SQL("")
    return _OBJECTS.format(
        schemas=_array(schemas),
        every=every,
        columns=sql.SQL("true" if desired.shows_columns() else "false"),
        arguments=ARGUMENTS,
        more=sql.SQL("").join(more),
    )


def parse_group(
    kind: str, schema: str, owner: str, names: Sequence[Any], entries: Sequence[Sequence[Any]] | None
) -> AclGroup:
    """One folded row."""
    by_grantee: dict[str, set[str]] = {}
    told: set[tuple[str, str]] = set()
    alike: set[str] = set()
    for grantee, privilege, *rest in entries or ():
        by_grantee.setdefault(grantee, set()).add(privilege)
        if rest:
            told.add((grantee, privilege))
            alike |= {rest[0]} if rest[2] else set()
    given = frozenset(
        (rest[0] if rest else owner, grantee, privilege, bool(rest and rest[1]))
        for grantee, privilege, *rest in entries or ()
        if (grantee, privilege) in told
    )
    flat = tuple(name if isinstance(name, str) else "\0".join(name) for name in names)
    grants = {name: frozenset(found) for name, found in by_grantee.items()}
    return AclGroup(kind, schema, owner, flat, grants, given, frozenset(alike))
