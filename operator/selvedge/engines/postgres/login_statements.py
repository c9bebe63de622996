"""What is asked and sent about logins. A password never stands in any of it, and its verifier in no text of a query."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from psycopg import sql

from selvedge.api.settings import settings_are_allowed
from selvedge.core.postgres import changes as c
from selvedge.core.postgres.login_diff import (
    AlterLogin,
    CreateLogin,
    LoginState,
    Member,
    ResetDatabaseSetting,
    RetireLogin,
    RevokeMembership,
    SetPassword,
)
from selvedge.engines.postgres.render import render
from selvedge.engines.postgres.snapshot import text_array

_LOGINS = sql.SQL("""
SELECT json_build_object(
 'database', EXISTS (SELECT FROM pg_catalog.pg_database d WHERE d.datname = {database}),
 'roles', (SELECT json_object_agg(r.rolname, EXISTS (SELECT FROM pg_catalog.pg_roles p
     WHERE (p.rolsuper OR p.rolcreaterole OR p.rolreplication OR p.rolbypassrls OR p.rolname IN
             ('pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files'))
       AND pg_catalog.pg_has_role(r.oid, p.oid, 'MEMBER')))
   FROM pg_catalog.pg_roles r WHERE r.rolname = ANY ({names}) OR r.rolname = ANY ({roles})),
 'logins', (SELECT json_agg(json_build_object('name', r.rolname, 'login', r.rolcanlogin,
     'attributes', json_build_object('superuser', r.rolsuper, 'createdb', r.rolcreatedb,
       'createrole', r.rolcreaterole, 'replication', r.rolreplication, 'bypassrls', r.rolbypassrls,
       'inherit', r.rolinherit),
     'limit', r.rolconnlimit,
     'until', CASE WHEN pg_catalog.isfinite(r.rolvaliduntil)
       THEN pg_catalog.to_char(r.rolvaliduntil AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') END,
     'comment', pg_catalog.shobj_description(r.oid, 'pg_authid'),
     'settings', (SELECT json_agg(json_build_array(coalesce(d.datname, ''), s.setconfig))
        FROM pg_catalog.pg_db_role_setting s LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase
       WHERE s.setrole = r.oid),
     'members', (SELECT json_agg(json_build_array(p.rolname, m.admin_option, to_jsonb(m)->'inherit_option',
                   to_jsonb(m)->'set_option', pg_catalog.pg_get_userbyid(m.grantor)))
        FROM pg_catalog.pg_auth_members m JOIN pg_catalog.pg_roles p ON p.oid = m.roleid WHERE m.member = r.oid),
     'sessions', (SELECT count(*) FROM pg_catalog.pg_stat_activity a WHERE a.usesysid = r.oid),
     'connect', (SELECT pg_catalog.has_database_privilege(r.oid, d.oid, 'CONNECT')
        FROM pg_catalog.pg_database d WHERE d.datname = {database}){verifier}))
   FROM {catalog} r WHERE r.rolname = ANY ({names})))::text
""")


def logins_statement(database: str, names: Iterable[str], roles: Iterable[str], *, verifiers: bool) -> sql.Composed:
    """Everything about these logins; their verifiers too where the operator is a superuser."""
    return _LOGINS.format(
        database=sql.Literal(database),
        names=text_array(names),
        roles=text_array(roles),
        verifier=sql.SQL(", 'verifier', r.rolpassword" if verifiers else ""),
        catalog=sql.SQL("pg_catalog.pg_authid" if verifiers else "pg_catalog.pg_roles"),
    )


def parse_logins(text: str) -> tuple[bool, dict[str, bool], dict[str, LoginState]]:
    """Whether the database exists, for each role whether it is privileged, and the logins."""
    raw: dict[str, Any] = json.loads(text)
    privileged: dict[str, bool] = raw["roles"] or {}
    logins = {row["name"]: _login(row, privileged=privileged.get(row["name"], False)) for row in raw["logins"] or ()}
    return raw["database"], privileged, logins


def _login(row: dict[str, Any], *, privileged: bool) -> LoginState:
    everywhere: dict[str, str] = {}
    inside: list[tuple[str, str]] = []
    for database, entries in row["settings"] or ():
        for entry in entries:
            name, _, value = entry.partition("=")
            if not _declarable(name):
                continue
            if database:
                inside.append((database, name.lower()))
            else:
                everywhere[name.lower()] = value
    members = tuple(
        Member(role, bool(admin), inherit is not False, set_option is not False, grantor)
        for role, admin, inherit, set_option, grantor in row["members"] or ()
    )
    return LoginState(
        name=row["name"],
        login=row["login"],
        attributes=row["attributes"],
        connection_limit=row["limit"],
        valid_until=row["until"] or "",
        comment=row["comment"] or "",
        settings=everywhere,
        database_settings=tuple(inside),
        memberships=members,
        privileged=privileged,
        verifier=row.get("verifier"),
        sessions=row["sessions"],
        may_connect=bool(row["connect"]),
    )


def _declarable(setting: str) -> bool:
    """Whether a declaration may name it; ``role`` we set by ourselves."""
    try:
        settings_are_allowed({setting: ""})
    except ValueError:
        return setting.lower() == "role"
    return True


def statement(change: c.Change, *, version: int, metadata_schema: str) -> sql.Composable:
    """The statement of one change; :class:`SetPassword` has none that carries what it sets."""
    match change:
        case CreateLogin():
            words = "LOGIN" if change.login else "NOLOGIN"
            return sql.SQL("CREATE ROLE {} {}").format(sql.Identifier(change.role), sql.SQL(words))
        case AlterLogin():
            return _alter(change)
        case RetireLogin():
            return sql.SQL("ALTER ROLE {} NOLOGIN PASSWORD NULL").format(sql.Identifier(change.role))
        case RevokeMembership():
            return _revoke(change, version)
        case ResetDatabaseSetting():
            setting = sql.SQL(".").join(sql.Identifier(part) for part in change.setting.split("."))
            return sql.SQL("ALTER ROLE {} IN DATABASE {} RESET {}").format(
                sql.Identifier(change.role), sql.Identifier(change.database), setting
            )
        case SetPassword():
            return sql.SQL("ALTER ROLE {} PASSWORD '***'").format(sql.Identifier(change.role))
        case _:
            return render(change, version=version, database="", metadata_schema=metadata_schema)


def _alter(change: AlterLogin) -> sql.Composable:
    parts: list[sql.Composable] = [sql.SQL(word) for word in change.attributes if word.isalpha()]
    if change.connection_limit is not None:
        parts.append(sql.SQL("CONNECTION LIMIT {}").format(sql.Literal(change.connection_limit)))
    if change.valid_until is not None:
        parts.append(sql.SQL("VALID UNTIL {}").format(sql.Literal(change.valid_until or "infinity")))
    return sql.SQL("ALTER ROLE {} {}").format(sql.Identifier(change.role), sql.SQL(" ").join(parts))


def _revoke(change: RevokeMembership, version: int) -> sql.Composable:
    role, grantee = sql.Identifier(change.role), sql.Identifier(change.grantee)
    if version < 160000:
        return sql.SQL("REVOKE {} FROM {} CASCADE").format(role, grantee)
    # From 16 on there is a grant for each grantor, and a plain REVOKE takes only one's own.
    statement = sql.SQL("REVOKE {} FROM {} GRANTED BY {} CASCADE")
    return statement.format(role, grantee, sql.Identifier(change.grantor))
