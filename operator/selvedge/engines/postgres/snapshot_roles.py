"""The part of a snapshot that shows roles, and its parser.

They are read through ``pg_roles``: managed services refuse ``pg_authid``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg import sql

from selvedge.core.postgres.memberships_diff import united
from selvedge.core.postgres.model import CurrentRole, Membership
from selvedge.engines.postgres.attributes_sql import ATTRIBUTES, parse_attributes

#: A superuser's grants of roles are recorded as the bootstrap superuser's, whose OID is 10: those count as our own.
#: Before Postgres 16 CREATEROLE may grant every role but a superuser, from then on what it has the admin option for.
_ROLES = sql.SQL("""
 'roles', (SELECT json_agg(json_build_array(r.rolname, sd.description, s.setconfig, {attributes},
     EXISTS (SELECT FROM pg_catalog.pg_roles p
              WHERE (p.rolsuper OR p.rolcreaterole OR p.rolreplication OR p.rolbypassrls OR p.rolname IN
                      ('pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files'))
                AND pg_catalog.pg_has_role(r.oid, p.oid, 'MEMBER')),
     (SELECT json_agg(json_build_array(p.rolname, m.admin_option, to_jsonb(m)->'inherit_option',
                                       to_jsonb(m)->'set_option',
         CASE WHEN m.grantor = CASE WHEN me.rolsuper THEN 10 ELSE me.oid END THEN ''
              ELSE pg_catalog.pg_get_userbyid(m.grantor) END))
        FROM pg_catalog.pg_auth_members m JOIN pg_catalog.pg_roles p ON p.oid = m.roleid WHERE m.member = r.oid),
     (SELECT h.setconfig FROM pg_catalog.pg_db_role_setting h JOIN pg_catalog.pg_database d ON d.oid = h.setdatabase
       WHERE h.setrole = r.oid AND d.datname = current_database()),
     me.rolsuper OR CASE WHEN current_setting('server_version_num')::int < 160000 AND me.rolcreaterole
       THEN NOT r.rolsuper ELSE pg_catalog.pg_has_role(r.oid, 'MEMBER WITH ADMIN OPTION') END))
   FROM pg_catalog.pg_roles me JOIN pg_catalog.pg_roles r ON me.rolname = current_user
   LEFT JOIN pg_catalog.pg_db_role_setting s ON s.setrole = r.oid AND s.setdatabase = 0
   LEFT JOIN pg_catalog.pg_shdescription sd ON sd.classoid = 'pg_catalog.pg_authid'::regclass AND sd.objoid = r.oid
   WHERE r.rolname = ANY ({roles}){claimed_roles}),
 'become', CASE WHEN current_setting('is_superuser') = 'off' THEN (
     SELECT json_agg(r.rolname) FROM pg_catalog.pg_roles r
      WHERE pg_catalog.pg_has_role(r.oid, CASE WHEN current_setting('server_version_num')::int < 160000
                                               THEN 'MEMBER' ELSE 'SET' END)) END
""")


def roles_fragment(roles: sql.Composable, claimed_roles: sql.Composable) -> sql.Composable:
    """The keys ``roles`` and ``become``; ``roles`` is a ``text[]``, ``claimed_roles`` a further condition or empty."""
    return _ROLES.format(attributes=ATTRIBUTES, roles=roles, claimed_roles=claimed_roles)


def parse_settings(rows: Sequence[str] | None) -> dict[str, str]:
    """By the name in lower case: the server stores DateStyle for datestyle, and takes both."""
    pairs = (row.split("=", 1) for row in rows or ())
    return {name.lower(): value for name, value in pairs}


def parse_roles(rows: Sequence[Sequence[Any]] | None) -> dict[str, CurrentRole]:
    """The roles by name."""
    return {row[0]: _role(*row) for row in rows or ()}


def _role(
    name: str,
    comment: str | None,
    settings: Sequence[str] | None,
    attributes: Sequence[Any],
    privileged: bool,
    memberships: Sequence[Sequence[Any]] | None,
    database_settings: Sequence[str] | None,
    can_admin: bool,
) -> CurrentRole:
    granted = tuple(
        (grantor, Membership(role, bool(admin), inherit is not False, can_set is not False))
        for role, admin, inherit, can_set, grantor in memberships or ()
    )
    by_role: dict[str, list[Membership]] = {}
    for _, one in granted:
        by_role.setdefault(one.role, []).append(one)
    live = parse_attributes(attributes)
    return CurrentRole(
        name,
        comment,
        parse_settings(settings),
        {role: united(rows) for role, rows in by_role.items()},
        login=live.login,
        superuser=live.superuser,
        privileged=privileged,
        database_settings=parse_settings(database_settings),
        attributes=live,
        granted=granted,
        can_admin=can_admin,
    )
