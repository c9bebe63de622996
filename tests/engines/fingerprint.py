"""Everything that a Postgres database says about access, one fact a row: what ``facts/sql`` hashes, by names.

A hash says that something changed; here two dumps are compared to say what. The names of a test's own roles and of its
database begin with a prefix that is cut out, so that the same state in two databases is the same set of facts.
"""

from __future__ import annotations

import json
from typing import NamedTuple

import psycopg


class Fact(NamedTuple):
    """``kind`` says which catalogue; ``key`` names the object, and for privileges the grantee and the privilege."""

    kind: str
    key: tuple[str, ...]


Facts = dict[Fact, str]

#: An owner's own privileges are left out (he can always give them to himself again), and what he gave is shown as the
#: owner's: who that is stands in a fact of its own. What an extension brought is its own business.
_QUERY = """
WITH extension_made AS MATERIALIZED (
  SELECT classid, objid FROM pg_depend WHERE deptype = 'e' AND refclassid = 'pg_extension'::regclass
), mine AS MATERIALIZED (
  SELECT oid, rolname FROM pg_roles WHERE starts_with(rolname, %(prefix)s)
), ns AS MATERIALIZED (
  SELECT oid, nspname, nspowner, nspacl FROM pg_namespace
  WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'selvedge')
), object AS MATERIALIZED (
  SELECT 'database' AS kind, ARRAY['database'] AS name, datdba AS owner,
      coalesce(datacl, acldefault('d', datdba)) AS acl
    FROM pg_database WHERE datname = current_database()
  UNION ALL SELECT 'schema', ARRAY[nspname], nspowner, coalesce(nspacl, acldefault('n', nspowner)) FROM ns
  UNION ALL SELECT CASE relkind WHEN 'S' THEN 'sequence' ELSE 'table' END, ARRAY[nspname, relname], relowner,
      coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner))
    FROM pg_class c JOIN ns ON ns.oid = relnamespace WHERE relkind IN ('r','p','v','m','f','S')
      AND NOT EXISTS (SELECT FROM extension_made e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid)
  UNION ALL SELECT 'column', ARRAY[nspname, relname, attname], relowner, attacl
    FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid JOIN ns ON ns.oid = relnamespace WHERE attacl IS NOT NULL
  UNION ALL SELECT 'function', ARRAY[nspname, proname || '(' || pg_get_function_identity_arguments(p.oid) || ')'],
      proowner, coalesce(proacl, acldefault('f', proowner)) FROM pg_proc p JOIN ns ON ns.oid = pronamespace
    WHERE NOT EXISTS (SELECT FROM extension_made e WHERE e.classid = 'pg_proc'::regclass AND e.objid = p.oid)
  UNION ALL SELECT 'type', ARRAY[nspname, typname], typowner, coalesce(typacl, acldefault('T', typowner))
    FROM pg_type t JOIN ns ON ns.oid = typnamespace WHERE typtype IN ('e', 'd')
      AND NOT EXISTS (SELECT FROM extension_made e WHERE e.classid = 'pg_type'::regclass AND e.objid = t.oid)
  UNION ALL SELECT 'language', ARRAY[lanname], lanowner, coalesce(lanacl, acldefault('l', lanowner)) FROM pg_language
    WHERE lanpltrusted
  UNION ALL SELECT 'server', ARRAY[srvname], srvowner, coalesce(srvacl, acldefault('S', srvowner))
    FROM pg_foreign_server
  UNION ALL SELECT 'wrapper', ARRAY[fdwname], fdwowner, coalesce(fdwacl, acldefault('F', fdwowner))
    FROM pg_foreign_data_wrapper
), privilege AS (
  SELECT kind, name, CASE WHEN grantor = owner THEN '(owner)' ELSE pg_get_userbyid(grantor)::text END AS grantor,
      CASE grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(grantee) END AS grantee, privilege_type AS word,
      is_grantable
    FROM object, aclexplode(acl) WHERE grantee <> owner
), defaults AS (
  SELECT r.rolname, ''::text AS nspname, o.objtype, coalesce(d.defaclacl, acldefault(o.objtype, r.oid)) AS acl
    FROM mine r CROSS JOIN unnest('{r,s,f,T,n}'::"char"[]) o(objtype)
    LEFT JOIN pg_default_acl d ON d.defaclrole = r.oid AND d.defaclnamespace = 0
      AND d.defaclobjtype = CASE o.objtype WHEN 's' THEN 'S' ELSE o.objtype END
  UNION ALL SELECT pg_get_userbyid(defaclrole), nspname, defaclobjtype, defaclacl FROM pg_default_acl JOIN ns
    ON ns.oid = defaclnamespace
), fact AS (
  SELECT 'owner' AS what, kind || name AS key, pg_get_userbyid(owner)::text AS value FROM object WHERE kind <> 'column'
  UNION ALL SELECT 'privilege', kind || name || ARRAY[grantee, word, grantor], is_grantable::text FROM privilege
  UNION ALL SELECT 'default', ARRAY[rolname, nspname, objtype::text,
      CASE grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(grantee) END, privilege_type], is_grantable::text
    FROM defaults, aclexplode(acl) WHERE pg_get_userbyid(grantee) <> rolname
  UNION ALL SELECT 'role', ARRAY[rolname], to_jsonb(r) - 'oid' - 'rolname' - 'rolconfig' #>> '{}'
    FROM pg_roles r WHERE oid IN (SELECT oid FROM mine)
  UNION ALL SELECT 'role comment', ARRAY[rolname], shobj_description(oid, 'pg_authid') FROM mine
  UNION ALL SELECT 'setting', ARRAY[coalesce(r.rolname, ''), CASE setdatabase WHEN 0 THEN '' ELSE 'here' END,
      split_part(line, '=', 1)], line
    FROM pg_db_role_setting s LEFT JOIN mine r ON r.oid = setrole, unnest(setconfig) line
    WHERE (setrole = 0 OR r.oid IS NOT NULL) AND setdatabase IN (0, (SELECT oid FROM pg_database
      WHERE datname = current_database()))
  UNION ALL SELECT 'member', ARRAY[member.rolname, pg_get_userbyid(roleid), pg_get_userbyid(grantor)::text],
      (to_jsonb(m) - 'oid' - 'roleid' - 'member' - 'grantor') #>> '{}'
    FROM pg_auth_members m JOIN mine member ON member.oid = m.member
  UNION ALL SELECT 'schema comment', ARRAY[nspname], obj_description(oid, 'pg_namespace') FROM ns
  UNION ALL SELECT 'extension', ARRAY[extname], extversion || ' ' || extnamespace::regnamespace FROM pg_extension
  UNION ALL SELECT 'rows', ARRAY[nspname, relname], concat_ws(' ', relrowsecurity, relforcerowsecurity, relkind,
      relispartition, relreplident, reloptions, relpersistence)
    FROM pg_class c JOIN ns ON ns.oid = relnamespace WHERE relkind IN ('r','p','v','m','f','S','i','I')
      AND NOT EXISTS (SELECT FROM extension_made e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid)
  UNION ALL SELECT 'attribute', ARRAY[nspname, relname, attname], concat_ws(' ', atttypid::regtype, attnotnull,
      pg_get_expr(adbin, adrelid))
    FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid JOIN ns ON ns.oid = relnamespace
    LEFT JOIN pg_attrdef d ON adrelid = attrelid AND adnum = attnum WHERE attnum > 0 AND NOT attisdropped
  UNION ALL SELECT 'policy', ARRAY[schemaname, tablename, policyname],
      concat_ws(' / ', permissive, roles, cmd, qual, with_check) FROM pg_policies
  UNION ALL SELECT 'trigger', ARRAY[tgrelid::regclass::text, tgname], tgenabled::text || ' ' || pg_get_triggerdef(t.oid)
    FROM pg_trigger t WHERE NOT tgisinternal
  UNION ALL SELECT 'constraint', ARRAY[conrelid::regclass::text, contypid::regtype::text, conname],
      pg_get_constraintdef(c.oid)
    FROM pg_constraint c JOIN ns ON ns.oid = connamespace
  UNION ALL SELECT 'inherits', ARRAY[inhrelid::regclass::text], inhparent::regclass::text || ' ' || inhdetachpending
    FROM pg_inherits
  UNION ALL SELECT 'source', ARRAY[nspname, p.oid::regprocedure::text], concat_ws(' ', prosecdef, proconfig, prosrc)
    FROM pg_proc p JOIN ns ON ns.oid = pronamespace
    WHERE NOT EXISTS (SELECT FROM extension_made e WHERE e.classid = 'pg_proc'::regclass AND e.objid = p.oid)
  UNION ALL SELECT 'view', ARRAY[c.oid::regclass::text], pg_get_viewdef(c.oid)
    FROM pg_class c JOIN ns ON ns.oid = relnamespace WHERE relkind IN ('v', 'm')
)
SELECT coalesce(json_agg(json_build_array(what, key, coalesce(value, ''))), '[]')::text FROM fact
"""


def facts(connection: psycopg.Connection[tuple[object, ...]], prefix: str) -> Facts:
    """All facts of the connection's database and of the roles whose names start with ``prefix``, which is cut out."""
    connection.execute("SET search_path = ''")
    row = connection.execute(_QUERY, {"prefix": prefix}).fetchone()
    assert row is not None
    found: Facts = {}
    for what, key, value in json.loads(str(row[0]).replace(prefix, "")):
        fact = Fact(what, tuple(key))
        assert fact not in found, f"two rows for {fact}: the key is too short"
        found[fact] = value
    return found


def changed(before: Facts, after: Facts) -> dict[Fact, tuple[str | None, str | None]]:
    """What differs, with the value before and after."""
    return {
        fact: (before.get(fact), after.get(fact))
        for fact in sorted(before.keys() | after.keys())
        if before.get(fact) != after.get(fact)
    }
