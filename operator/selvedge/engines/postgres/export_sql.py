"""What an export asks beyond a snapshot: which names there are, what belongs to extensions, what cannot be declared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from psycopg import sql

from selvedge.core.postgres.export_names import Extension, Key
from selvedge.engines.postgres.snapshot_objects import ARGUMENTS

#: The objects of extensions, by kind as in the snapshot, with what CREATE EXTENSION gave on them (NULL: the default).
_MEMBERS = sql.SQL("""
 members AS MATERIALIZED (
   SELECT d.classid, d.objid FROM pg_catalog.pg_depend d
    WHERE d.deptype = 'e' AND d.refclassid = 'pg_catalog.pg_extension'::regclass),
 member AS MATERIALIZED (
   SELECT CASE WHEN c.relkind = 'S' THEN 'sequence' ELSE 'table' END AS kind, n.nspname AS sch, c.relname::text AS name,
          m.classid, m.objid
     FROM members m JOIN pg_catalog.pg_class c ON m.classid = 'pg_catalog.pg_class'::regclass AND c.oid = m.objid
     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r','p','v','m','f','S')
   UNION ALL SELECT 'function', n.nspname, p.proname || E'\\x01' || {arguments}, m.classid, m.objid
     FROM members m JOIN pg_catalog.pg_proc p ON m.classid = 'pg_catalog.pg_proc'::regclass AND p.oid = m.objid
     JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
   UNION ALL SELECT 'type', n.nspname, t.typname::text, m.classid, m.objid
     FROM members m JOIN pg_catalog.pg_type t ON m.classid = 'pg_catalog.pg_type'::regclass AND t.oid = m.objid
     JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
   UNION ALL SELECT 'schema', '', n.nspname::text, m.classid, m.objid
     FROM members m JOIN pg_catalog.pg_namespace n
       ON m.classid = 'pg_catalog.pg_namespace'::regclass AND n.oid = m.objid
   UNION ALL SELECT 'language', '', l.lanname::text, m.classid, m.objid
     FROM members m JOIN pg_catalog.pg_language l ON m.classid = 'pg_catalog.pg_language'::regclass AND l.oid = m.objid
   UNION ALL SELECT 'server', '', f.srvname::text, m.classid, m.objid
     FROM members m JOIN pg_catalog.pg_foreign_server f
       ON m.classid = 'pg_catalog.pg_foreign_server'::regclass AND f.oid = m.objid
   UNION ALL SELECT 'wrapper', '', w.fdwname::text, m.classid, m.objid
     FROM members m JOIN pg_catalog.pg_foreign_data_wrapper w
       ON m.classid = 'pg_catalog.pg_foreign_data_wrapper'::regclass AND w.oid = m.objid)
""")

_PARTS: Mapping[str, sql.Composable] = {
    "schemas": sql.SQL("""(SELECT json_agg(n.nspname) FROM pg_catalog.pg_namespace n
       WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND n.nspname <> {schema})"""),
    "roles": sql.SQL("(SELECT json_agg(r.rolname) FROM pg_catalog.pg_roles r)"),
    "languages": sql.SQL("""(SELECT json_agg(l.lanname) FROM pg_catalog.pg_language l
       WHERE l.lanacl IS NOT NULL AND l.lanpltrusted)"""),
    "servers": sql.SQL("(SELECT json_agg(f.srvname) FROM pg_catalog.pg_foreign_server f)"),
    "wrappers": sql.SQL("(SELECT json_agg(w.fdwname) FROM pg_catalog.pg_foreign_data_wrapper w)"),
    "protected": sql.SQL("""(SELECT json_agg(json_build_array(n.nspname, c.relname)) FROM pg_catalog.pg_class c
       JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
       WHERE n.nspname <> {schema} AND n.nspname !~ '^pg_' AND c.relkind IN ('r', 'p')
         AND (c.relrowsecurity OR c.relforcerowsecurity
              OR EXISTS (SELECT FROM pg_catalog.pg_policy p WHERE p.polrelid = c.oid)))"""),
    "partitioned": sql.SQL("""(SELECT json_agg(json_build_array(n.nspname, c.relname)) FROM pg_catalog.pg_class c
       JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
       WHERE n.nspname <> {schema} AND c.relkind = 'p' AND NOT c.relispartition)"""),
    "audits": sql.SQL("""(SELECT json_agg(DISTINCT n.nspname) FROM pg_catalog.pg_proc p
       JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
      WHERE p.proname = 'record_changes' AND p.prorettype = 'pg_catalog.trigger'::pg_catalog.regtype
        AND pg_catalog.shobj_description(p.proowner, 'pg_authid') LIKE 'selvedge: %')"""),
    "conventions": sql.SQL("""(SELECT json_agg(DISTINCT n.nspname) FROM pg_catalog.pg_trigger t
       JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
       JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid JOIN pg_catalog.pg_namespace pn ON pn.oid = p.pronamespace
      WHERE pn.nspname = {schema} AND t.tgname IN ('selvedge_updated_at', 'selvedge_version', 'selvedge_soft_delete')
        AND NOT t.tgisinternal AND NOT c.relispartition)"""),
    "extensions": sql.SQL("""(SELECT json_agg(json_build_array(e.extname, v.schema, a.default_version))
       FROM pg_catalog.pg_extension e
       LEFT JOIN pg_catalog.pg_available_extensions a ON a.name = e.extname
       LEFT JOIN pg_catalog.pg_available_extension_versions v ON v.name = e.extname AND v.version = e.extversion)"""),
    "members": sql.SQL("""(SELECT json_agg(json_build_array(m.kind, m.sch, m.name, (
         SELECT json_agg(json_build_array(CASE e.grantee WHEN 0 THEN 'PUBLIC'
                                          ELSE pg_catalog.pg_get_userbyid(e.grantee) END, e.privilege_type))
           FROM pg_catalog.pg_init_privs i CROSS JOIN LATERAL pg_catalog.aclexplode(i.initprivs) e
          WHERE i.classoid = m.classid AND i.objoid = m.objid AND i.objsubid = 0))) FROM member m)"""),
}

#: What exists and no declaration has a word for, in the order in which it is told of. The texts are for people.
_OTHERS: Mapping[str, sql.Composable] = {
    "database settings that no declaration has (comment, connection limit, tablespace, template)": sql.SQL("""
       SELECT x.what FROM pg_catalog.pg_database d CROSS JOIN LATERAL (VALUES
         (CASE WHEN d.datconnlimit >= 0 THEN 'connection limit ' || d.datconnlimit END),
         (CASE WHEN d.datistemplate THEN 'it is a template' END),
         (CASE WHEN pg_catalog.shobj_description(d.oid, 'pg_database') IS NOT NULL THEN 'a comment' END),
         ((SELECT 'tablespace ' || t.spcname FROM pg_catalog.pg_tablespace t
            WHERE t.oid = d.dattablespace AND t.spcname <> 'pg_default'))) x(what)
        WHERE d.datname = current_database() AND x.what IS NOT NULL"""),
    "event triggers": sql.SQL("SELECT t.evtname::text FROM pg_catalog.pg_event_trigger t"),
    "publications": sql.SQL("SELECT p.pubname::text FROM pg_catalog.pg_publication p"),
    "subscriptions": sql.SQL("""
       SELECT s.subname::text FROM pg_catalog.pg_subscription s
         JOIN pg_catalog.pg_database d ON d.oid = s.subdbid WHERE d.datname = current_database()"""),
    "user mappings of foreign servers (they hold passwords)": sql.SQL("""
       SELECT pg_catalog.format('%s for %s', m.srvname, m.usename) FROM pg_catalog.pg_user_mappings m"""),
    "privileges on untrusted languages": sql.SQL("""
       SELECT l.lanname::text FROM pg_catalog.pg_language l WHERE l.lanacl IS NOT NULL AND NOT l.lanpltrusted"""),
    "privileges on large objects": sql.SQL("""
       SELECT l.oid::text FROM pg_catalog.pg_largeobject_metadata l WHERE l.lomacl IS NOT NULL"""),
    "privileges on configuration parameters": sql.SQL("SELECT p.parname FROM pg_catalog.pg_parameter_acl p"),
    "privileges on tablespaces": sql.SQL("""
       SELECT t.spcname::text FROM pg_catalog.pg_tablespace t WHERE t.spcacl IS NOT NULL"""),
    "privileges in system catalogs that were changed": sql.SQL("""
       SELECT pg_catalog.format('%s.%s', n.nspname, o.name) FROM (
         SELECT c.relnamespace AS ns, c.relname AS name, c.relacl AS acl, c.oid,
                'pg_catalog.pg_class'::regclass::oid AS class FROM pg_catalog.pg_class c
         UNION ALL SELECT p.pronamespace, p.proname, p.proacl, p.oid, 'pg_catalog.pg_proc'::regclass::oid
           FROM pg_catalog.pg_proc p) o
         JOIN pg_catalog.pg_namespace n ON n.oid = o.ns AND n.nspname = 'pg_catalog'
         LEFT JOIN pg_catalog.pg_init_privs i ON i.classoid = o.class AND i.objoid = o.oid AND i.objsubid = 0
        WHERE o.acl IS DISTINCT FROM i.initprivs AND o.acl IS NOT NULL"""),
}


@dataclass(frozen=True, slots=True)
class Inventory:
    """Which names a database has, and what only an export asks for."""

    schemas: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    servers: tuple[str, ...] = ()
    wrappers: tuple[str, ...] = ()
    protected: tuple[tuple[str, str], ...] = ()
    partitioned: tuple[tuple[str, str], ...] = ()
    audits: tuple[str, ...] = ()
    conventions: tuple[str, ...] = ()
    extensions: Mapping[str, Extension] = field(default_factory=dict)
    initial: Mapping[Key, Mapping[str, frozenset[str]] | None] = field(default_factory=dict)
    others: tuple[tuple[str, tuple[str, ...]], ...] = ()


def databases_statement() -> sql.SQL:
    """The databases that the login may connect to, without templates."""
    return sql.SQL("""SELECT coalesce(json_agg(d.datname ORDER BY d.datname), '[]')::text FROM pg_catalog.pg_database d
        WHERE d.datallowconn AND NOT d.datistemplate
          AND pg_catalog.has_database_privilege(d.oid, 'CONNECT')""")


def inventory_statement(metadata_schema: str) -> sql.Composed:
    """One row with one text; :func:`parse_inventory` reads it."""
    schema = sql.Literal(metadata_schema)
    parts = [sql.SQL("{}, {}").format(sql.Literal(name), _filled(part, schema)) for name, part in _PARTS.items()]
    others = sql.SQL(", ").join(
        sql.SQL("(SELECT json_agg(o.name) FROM ({}) o(name))").format(_filled(part, schema))
        for part in _OTHERS.values()
    )
    return sql.SQL(
        "WITH {members} SELECT json_build_object({parts}, 'others', json_build_array({others}))::text"
    ).format(members=_MEMBERS.format(arguments=ARGUMENTS), parts=sql.SQL(", ").join(parts), others=others)


def _filled(part: sql.Composable, schema: sql.Literal) -> sql.Composable:
    return part.format(schema=schema) if isinstance(part, sql.SQL) else part


def parse_inventory(text: str) -> Inventory:
    """The frozen form of the statement's answer."""
    raw: dict[str, Any] = json.loads(text)
    initial: dict[Key, Mapping[str, frozenset[str]] | None] = {}
    for kind, schema, name, entries in raw["members"] or ():
        given: dict[str, set[str]] = {}
        for grantee, privilege in entries or ():
            given.setdefault(grantee, set()).add(privilege)
        key = (kind, schema, name.replace("\x01", "\0", 1) if kind == "function" else name)
        initial[key] = {to: frozenset(found) for to, found in given.items()} if entries is not None else None
    return Inventory(
        schemas=tuple(raw["schemas"] or ()),
        roles=tuple(raw["roles"] or ()),
        languages=tuple(raw["languages"] or ()),
        servers=tuple(raw["servers"] or ()),
        wrappers=tuple(raw["wrappers"] or ()),
        protected=tuple((schema, name) for schema, name in raw["protected"] or ()),
        partitioned=tuple((schema, name) for schema, name in raw["partitioned"] or ()),
        audits=tuple(raw["audits"] or ()),
        conventions=tuple(raw["conventions"] or ()),
        extensions={name: Extension(home, default or "") for name, home, default in raw["extensions"] or ()},
        initial=initial,
        others=tuple(
            (what, tuple(sorted(found or ()))) for what, found in zip(_OTHERS, raw["others"], strict=True) if found
        ),
    )
