"""Roles that go, in SQL: what they hold here and elsewhere, and the statements that free them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from psycopg import sql

from selvedge.core.names import PROVIDER_PREFIXES
from selvedge.core.own_roles import heir_comment, heir_of
from selvedge.core.postgres.change import Change
from selvedge.core.postgres.retirement import Elsewhere, HandOverDatabase, Holdings, Owner, RetireRole

#: Whether role {role} (an OID) has a right of the server's, by itself or as a member: an attribute, or a role that
#: Postgres or the provider of the server made. Of pg_database_owner every owner of a database is a member.
_PRIVILEGED = sql.SQL("""EXISTS (SELECT FROM pg_catalog.pg_roles p
     WHERE (p.rolsuper OR p.rolcreaterole OR p.rolcreatedb OR p.rolreplication OR p.rolbypassrls
            OR p.rolname <> 'pg_database_owner' AND EXISTS (SELECT FROM unnest({prefixes}::text[]) x(prefix)
                                                             WHERE pg_catalog.starts_with(p.rolname::text, x.prefix)))
       AND pg_catalog.pg_has_role({role}, p.oid, 'MEMBER'))""")

#: What users wrote, in what stands at a table: in index expressions and statistics, which are evaluated as the table's
#: owner when it is vacuumed or analyzed; in defaults, checks, domains and triggers, which run as its owner where a
#: foreign key cascades. (Operator classes are a superuser's to make.)
_CODE = sql.SQL("""
 written AS MATERIALIZED (
   SELECT w.classid, w.objid FROM (
            SELECT 'pg_catalog.pg_proc'::regclass AS classid, p.oid AS objid FROM pg_catalog.pg_proc p
            UNION ALL SELECT 'pg_catalog.pg_operator'::regclass, o.oid FROM pg_catalog.pg_operator o
            UNION ALL SELECT 'pg_catalog.pg_type'::regclass, t.oid FROM pg_catalog.pg_type t WHERE t.typtype = 'd') w
    WHERE w.objid >= 16384 AND NOT EXISTS (
          SELECT FROM pg_catalog.pg_depend e WHERE e.classid = w.classid AND e.objid = w.objid AND e.deptype = 'e')),
 uses AS MATERIALIZED (
   SELECT d.classid, d.objid, d.objsubid FROM pg_catalog.pg_depend d
     JOIN written w ON w.classid = d.refclassid AND w.objid = d.refobjid),
 code AS MATERIALIZED (
   SELECT i.indrelid AS relid, true AS maintained FROM pg_catalog.pg_index i
     JOIN uses u ON u.classid = 'pg_catalog.pg_class'::regclass AND u.objid = i.indexrelid
   UNION SELECT s.stxrelid, true FROM pg_catalog.pg_statistic_ext s
     JOIN uses u ON u.classid = 'pg_catalog.pg_statistic_ext'::regclass AND u.objid = s.oid
   UNION SELECT a.adrelid, false FROM pg_catalog.pg_attrdef a
     JOIN uses u ON u.classid = 'pg_catalog.pg_attrdef'::regclass AND u.objid = a.oid
   UNION SELECT k.conrelid, false FROM pg_catalog.pg_constraint k
     JOIN uses u ON u.classid = 'pg_catalog.pg_constraint'::regclass AND u.objid = k.oid
   UNION SELECT u.objid, false FROM uses u WHERE u.classid = 'pg_catalog.pg_class'::regclass AND u.objsubid > 0
   UNION SELECT g.tgrelid, false FROM pg_catalog.pg_trigger g WHERE NOT g.tgisinternal)""")

#: How many objects of role {role} (an OID) act with their owner's rights, or could. A view that asks for its caller's
#: rights (security_invoker) does not. {since_p} and {since_c} narrow it, for the catalogue's rows p and c.
_ACTING = sql.SQL("""
     (SELECT pg_catalog.count(*) FROM pg_catalog.pg_proc p WHERE p.proowner = {role} AND p.prosecdef {since_p})
   + (SELECT pg_catalog.count(*) FROM pg_catalog.pg_class c WHERE c.relowner = {role} {since_c} AND (
         c.relkind = 'm'
         OR c.relkind = 'v' AND NOT EXISTS (SELECT FROM unnest(c.reloptions) o(option)
              WHERE pg_catalog.split_part(o.option, '=', 1) = 'security_invoker'
                AND pg_catalog.split_part(o.option, '=', 2)::boolean)
         OR EXISTS (SELECT FROM pg_catalog.pg_rewrite w WHERE w.ev_class = c.oid AND w.rulename <> '_RETURN')
         OR EXISTS (SELECT FROM code k WHERE k.relid = c.oid AND (k.maintained
              OR EXISTS (SELECT FROM pg_catalog.pg_constraint f WHERE f.conrelid = c.oid AND f.contype = 'f'
                            AND (f.confdeltype IN ('c', 'n', 'd') OR f.confupdtype IN ('c', 'n', 'd')))))))""")

#: Whether the object got its owner in this very transaction; a GRANT on it does not touch that row.
_GIVEN_NOW = sql.SQL("""AND EXISTS (SELECT FROM pg_catalog.pg_shdepend s
     WHERE s.dbid = d.oid AND s.classid = {catalogue}::regclass AND s.objid = {object} AND s.deptype = 'o'
       AND s.xmin = pg_catalog.xid(pg_catalog.pg_current_xact_id_if_assigned()))""")

#: pg_shdepend answers for all databases from any of them. DROP OWNED reaches this database and, from here, whatever the
#: role was granted on shared objects: other databases, parameters, memberships that it gave. The heir is ours by its
#: comment; nobody logs in as it, and it is a member of nothing.
_HOLDINGS = sql.SQL("""
 'nextOwner', (WITH {code} SELECT json_build_array(o.rolname, o.rolname = current_user OR {owner_privileged}, {gained})
    FROM pg_catalog.pg_database d JOIN pg_catalog.pg_roles o ON o.oid = coalesce(
           (SELECT x.oid FROM pg_catalog.pg_roles x WHERE x.rolname = {owner}), d.datdba)
   WHERE d.datname = current_database()),
 'holdings', (WITH {code} SELECT json_object_agg(r.rolname, json_build_array(
     (SELECT pg_catalog.count(*) FROM pg_catalog.pg_shdepend s
       WHERE s.refclassid = 'pg_catalog.pg_authid'::regclass AND s.refobjid = r.oid
         AND (s.dbid = d.oid OR s.dbid = 0 AND (s.deptype <> 'o' OR d.datdba = r.oid))),
     (SELECT pg_catalog.count(*) FROM pg_catalog.pg_shdepend s
       WHERE s.refclassid = 'pg_catalog.pg_authid'::regclass AND s.refobjid = r.oid AND s.deptype = 'o'
         AND s.dbid = d.oid),
     (SELECT json_agg(pg_catalog.concat_ws('.', n.nspname, c.relname, p.polname))
        FROM pg_catalog.pg_policy p JOIN pg_catalog.pg_class c ON c.oid = p.polrelid
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
       WHERE NOT p.polpermissive AND p.polroles = ARRAY[r.oid]),
     {acting},
     (SELECT pg_catalog.shobj_description(h.oid, 'pg_authid') IS NOT DISTINCT FROM w.comment AND NOT h.rolcanlogin
             AND NOT EXISTS (SELECT FROM pg_catalog.pg_auth_members m WHERE m.member = h.oid)
             AND NOT {heir_privileged}
        FROM pg_catalog.pg_roles h WHERE h.rolname = w.heir),
     (SELECT json_agg(DISTINCT pg_catalog.jsonb_build_array(n.nspname, pg_catalog.pg_get_userbyid(n.nspowner)))
        FROM pg_catalog.pg_shdepend s JOIN pg_catalog.pg_depend e ON e.classid = s.classid AND e.objid = s.objid
        JOIN pg_catalog.pg_namespace n ON e.refclassid = 'pg_catalog.pg_namespace'::regclass AND n.oid = e.refobjid
       WHERE s.refclassid = 'pg_catalog.pg_authid'::regclass AND s.refobjid = r.oid AND s.deptype = 'o'
         AND s.dbid = d.oid)))
   FROM json_to_recordset({wanted}::json) w(role text, heir text, comment text)
   JOIN pg_catalog.pg_roles r ON r.rolname = w.role
   JOIN pg_catalog.pg_database d ON d.datname = current_database())
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


def holdings_fragment(roles: Iterable[str], owner: str | None = None) -> sql.Composable:
    """The keys ``holdings`` and ``nextOwner`` of a database's snapshot; ``owner`` is who is to own the database."""
    wanted = [{"role": role, "heir": heir_of(role), "comment": heir_comment(role)} for role in sorted(roles)]
    if not wanted:
        return sql.SQL("'holdings', NULL, 'nextOwner', NULL")
    prefixes = sql.Literal(["pg_", *PROVIDER_PREFIXES])
    return _HOLDINGS.format(
        wanted=sql.Literal(json.dumps(wanted)),
        owner=sql.Literal(owner),
        code=_CODE,
        acting=_ACTING.format(role=sql.SQL("r.oid"), since_p=sql.SQL(""), since_c=sql.SQL("")),
        gained=_ACTING.format(
            role=sql.SQL("o.oid"),
            since_p=_GIVEN_NOW.format(catalogue=sql.Literal("pg_catalog.pg_proc"), object=sql.SQL("p.oid")),
            since_c=_GIVEN_NOW.format(catalogue=sql.Literal("pg_catalog.pg_class"), object=sql.SQL("c.oid")),
        ),
        owner_privileged=_PRIVILEGED.format(role=sql.SQL("o.oid"), prefixes=prefixes),
        heir_privileged=_PRIVILEGED.format(role=sql.SQL("h.oid"), prefixes=prefixes),
    )


def parse_holdings(raw: Mapping[str, Any]) -> dict[str, Holdings]:
    """What each role that goes holds in this database."""
    return {
        role: Holdings(
            entries, owned, tuple(policies or ()), acting, heir, tuple((name, owner) for name, owner in schemas or ())
        )
        for role, (entries, owned, policies, acting, heir, schemas) in (raw.get("holdings") or {}).items()
    }


def parse_next_owner(raw: Mapping[str, Any]) -> Owner:
    """The database's owner, or who is to be that; without roles that go, nobody asked who it is."""
    name, privileged, gained = raw.get("nextOwner") or ("", True, 0)
    return Owner(name, privileged, gained)


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
    """The statements of one retirement, in the order in which nothing is lost; the heir is made before."""
    role = sql.Identifier(change.role)
    successor: sql.Composable = sql.Identifier(change.successor) if change.successor else sql.SQL("CURRENT_USER")
    statements: list[sql.Composable] = []
    if change.database:
        statements.append(render_hand_over(HandOverDatabase(change.ref, change.member, change.role, change.database)))
    statements.append(sql.SQL("REASSIGN OWNED BY {} TO {}").format(role, successor))
    statements.append(sql.SQL("DROP OWNED BY {}").format(role))
    return sql.SQL("; ").join(statements)


def make_heirs(changes: Iterable[Change], *, superuser: bool, version: int) -> tuple[sql.Composable, ...]:
    """What makes the roles that are to keep what retired roles owned, where they are not there."""
    statements: list[sql.Composable] = []
    for role in sorted({change.role for change in changes if isinstance(change, RetireRole) and change.makes_heir}):
        heir = sql.Identifier(heir_of(role))
        statements.append(sql.SQL("CREATE ROLE {} NOLOGIN").format(heir))
        statements.append(sql.SQL("COMMENT ON ROLE {} IS {}").format(heir, sql.Literal(heir_comment(role))))
        if not superuser and version < 160000:  # from 16 on it is inherited for the length of a statement
            statements.append(sql.SQL("GRANT {} TO CURRENT_USER").format(heir))
    return tuple(statements)


def render_hand_over(change: HandOverDatabase) -> sql.Composable:
    """The statement that gives a database to the operator's login."""
    return sql.SQL("ALTER DATABASE {} OWNER TO CURRENT_USER").format(sql.Identifier(change.database))
