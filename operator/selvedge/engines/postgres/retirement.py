"""Roles that go, in SQL: what they hold here and elsewhere, and the statements that free them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from psycopg import sql

from selvedge.core.postgres.default_privileges import Defaults, GrantDefaults, LiveDefaults
from selvedge.core.postgres.retirement import Elsewhere, HandOverDatabase, Holdings, RetireRole
from selvedge.engines.postgres.default_privileges_sql import render_defaults

#: pg_shdepend answers for all databases from any of them. DROP OWNED reaches this database and, from here, whatever the
#: role was granted on shared objects: other databases, parameters, memberships that it gave.
_HOLDINGS = sql.SQL("""
 'holdings', (SELECT json_object_agg(r.rolname, json_build_array(
     (SELECT pg_catalog.count(*) FROM pg_catalog.pg_shdepend s
       WHERE s.refclassid = 'pg_catalog.pg_authid'::regclass AND s.refobjid = r.oid
         AND (s.dbid = d.oid OR s.dbid = 0 AND (s.deptype <> 'o' OR d.datdba = r.oid))),
     (SELECT pg_catalog.count(*) FROM pg_catalog.pg_shdepend s
       WHERE s.refclassid = 'pg_catalog.pg_authid'::regclass AND s.refobjid = r.oid AND s.deptype = 'o'
         AND s.dbid = d.oid),
     (SELECT json_agg(pg_catalog.concat_ws('.', n.nspname, c.relname, p.polname))
        FROM pg_catalog.pg_policy p JOIN pg_catalog.pg_class c ON c.oid = p.polrelid
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
       WHERE NOT p.polpermissive AND p.polroles = ARRAY[r.oid])))
   FROM pg_catalog.pg_roles r JOIN pg_catalog.pg_database d ON d.datname = current_database()
  WHERE r.rolname = ANY ({roles}))
""")

_ELSEWHERE = sql.SQL("""
 'elsewhere', (SELECT json_object_agg(r.rolname, (
     SELECT json_agg(json_build_array(d.datname, d.datallowconn, d.datdba = r.oid, held.entries))
       FROM pg_catalog.pg_database d CROSS JOIN LATERAL (
           SELECT pg_catalog.count(*) AS entries FROM pg_catalog.pg_shdepend s
            WHERE s.refclassid = 'pg_catalog.pg_authid'::regclass AND s.refobjid = r.oid AND s.dbid = d.oid) held
      WHERE d.datdba = r.oid OR held.entries > 0))
   FROM pg_catalog.pg_roles r WHERE r.rolname = ANY ({roles}))
""")


def holdings_fragment(roles: Iterable[str]) -> sql.Composable:
    """The key ``holdings`` of a database's snapshot; the roles' own default privileges stand in ``defaults``."""
    wanted = sorted(roles)
    return _HOLDINGS.format(roles=_array(wanted)) if wanted else sql.SQL("'holdings', NULL")


def parse_holdings(raw: Mapping[str, Any], defaults: LiveDefaults) -> dict[str, Holdings]:
    """What each role that goes holds in this database; ``defaults`` are the snapshot's."""
    rows = defaults.rows
    return {
        role: Holdings(
            entries=entries,
            owned=owned,
            restrictive=tuple(policies or ()),
            defaults={key: held for key, held in rows.items() if key.creator == role},
        )
        for role, (entries, owned, policies) in (raw.get("holdings") or {}).items()
    }


def elsewhere_fragment(roles: Iterable[str]) -> sql.Composable:
    """The key ``elsewhere`` of the server-wide snapshot: all databases in which the roles hold something."""
    wanted = sorted(roles)
    return _ELSEWHERE.format(roles=_array(wanted)) if wanted else sql.SQL("'elsewhere', NULL")


def parse_elsewhere(raw: Mapping[str, Any]) -> dict[str, tuple[Elsewhere, ...]]:
    """Where each role holds something."""
    return {
        role: tuple(Elsewhere(database, entries, is_open, owner) for database, is_open, owner, entries in places or ())
        for role, places in (raw.get("elsewhere") or {}).items()
    }


def _array(values: list[str]) -> sql.Composable:
    return sql.SQL("{}::text[]").format(sql.Literal(values))


def render_retirement(change: RetireRole) -> sql.Composable:
    """The statements of one retirement, in the order in which nothing is lost."""
    statements: list[sql.Composable] = []
    for copied in change.defaults:
        key = copied.key
        schemas = (key.schema,) if key.schema else ()
        what = Defaults(key.creator, schemas, key.kind, copied.privileges, copied.grantee, copied.grantable)
        statements.append(render_defaults(GrantDefaults(change.ref, change.member, what)))
    role, successor = sql.Identifier(change.role), sql.Identifier(change.successor)
    statements.append(sql.SQL("REASSIGN OWNED BY {} TO {}").format(role, successor))
    statements.append(sql.SQL("DROP OWNED BY {}").format(role))
    return sql.SQL("; ").join(statements)


def render_hand_over(change: HandOverDatabase) -> sql.Composable:
    """The statement that gives a database to the operator's login."""
    return sql.SQL("ALTER DATABASE {} OWNER TO CURRENT_USER").format(sql.Identifier(change.database))
