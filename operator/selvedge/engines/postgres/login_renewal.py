"""The operator's own logins of a database: made, or renewed with another password, as members of one role.

Users' code runs in sessions that were authenticated as such a login, since ``SET ROLE`` is no boundary. It owns nothing
and inherits nothing; its password is random, lives for one use, and reaches the server as a SCRAM verifier only.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any, cast

import psycopg
from psycopg import sql

from selvedge.core.errors import NotPermittedError, RefusedError
from selvedge.core.reasons import Reason
from selvedge.engines.postgres.errors import statement_error
from selvedge.engines.postgres.session import Session
from selvedge.engines.postgres.verifiers import set_verifier

#: How long a password can be used to log in; every use gets a new one.
_VALID_FOR = "10 minutes"

_KNOWN = sql.SQL("""
SELECT json_build_object('exists', r.oid IS NOT NULL, 'comment', pg_catalog.shobj_description(r.oid, 'pg_authid'),
  'until', (pg_catalog.clock_timestamp() + {valid}::interval)::text,
  'superuser', me.rolsuper, 'bypassrls', me.rolbypassrls, 'createrole', me.rolcreaterole,
  'createdb', me.rolcreatedb,
  'gives', EXISTS (SELECT FROM pg_catalog.pg_roles g WHERE g.rolname = {role}
     AND (me.rolsuper OR pg_catalog.pg_has_role(me.oid, g.oid, 'MEMBER WITH ADMIN OPTION'))),
  'administers', me.rolsuper OR pg_catalog.pg_has_role(me.oid, r.oid, 'MEMBER WITH ADMIN OPTION'),
  'connects', pg_catalog.has_database_privilege(coalesce(r.rolname, 'public'), d.oid, 'CONNECT'),
  'owner', CASE WHEN NOT pg_catalog.has_database_privilege(d.oid, 'CONNECT WITH GRANT OPTION')
             THEN pg_catalog.pg_get_userbyid(d.datdba) ELSE '' END,
  'settings', coalesce((SELECT json_agg(coalesce(s.datname, '')) FROM pg_catalog.pg_db_role_setting c
     LEFT JOIN pg_catalog.pg_database s ON s.oid = c.setdatabase WHERE c.setrole = r.oid), '[]'),
  'members', coalesce((SELECT json_agg(json_build_array(g.rolname, pg_catalog.pg_get_userbyid(m.grantor)))
     FROM pg_catalog.pg_auth_members m JOIN pg_catalog.pg_roles g ON g.oid = m.roleid WHERE m.member = r.oid), '[]'))
FROM pg_catalog.pg_roles me JOIN pg_catalog.pg_database d ON me.rolname = current_user AND d.datname = {database}
LEFT JOIN pg_catalog.pg_roles r ON r.rolname = {name}
""")


@dataclass(frozen=True, slots=True)
class OperatorLogin:
    """One login of one database. By its comment it is known to be ours.

    ``bypasses``: it may pass row-level security, where the server lets the operator give that.
    """

    name: str
    database: str
    comment: str
    bypasses: bool = False


async def renew(session: Session, login: OperatorLogin, role: str) -> str:
    """Create the login or renew it as a member of ``role`` alone, without settings, and return its new password.

    Raises RefusedError where a role of this name exists that is not ours,
    NotPermittedError where the operator's login lacks a right.
    """
    look = _KNOWN.format(
        valid=sql.Literal(_VALID_FOR),
        database=sql.Literal(login.database),
        name=sql.Literal(login.name),
        role=sql.Literal(role),
    )
    known = cast("dict[str, Any]", (await session.run("login", look))[0][0][0])
    if known["exists"] and known["comment"] != login.comment:
        message = f"role {login.name} exists and was not made by selvedge, which needs the name: rename or drop it"
        raise RefusedError(Reason.ADOPTION_REQUIRED, message)
    password = secrets.token_urlsafe(32)
    verifier = session.connection.pgconn.encrypt_password(password.encode(), login.name.encode(), b"scram-sha-256")
    version = session.connection.info.server_version
    try:
        before = (sql.SQL("BEGIN"), *_statements(login, role, known, version))
        await set_verifier(session, login.name, verifier.decode(), before=before, after=(sql.SQL("COMMIT"),))
    except psycopg.errors.InsufficientPrivilege as error:
        me = session.connection.info.user
        needed = _needed(login.name, role, known, me, session.connection.info.server_version)
        statements = tuple(statement.as_string(None) for statement in needed)
        why = f"{error.diag.message_primary}; run {'; '.join(statements)}"
        message = f"the operator's login may not make login {login.name} a member of {role}: {why}"
        raise NotPermittedError(Reason.INSUFFICIENT_PRIVILEGES, message, statements) from None
    except psycopg.Error as error:
        raise statement_error(error, f"renewing login {login.name}") from None
    finally:
        await session.rollback()  # nothing where it is committed
    return password


def switch_off(name: str) -> sql.Composed:
    """The statement after which nobody logs in by this name until the next use."""
    return sql.SQL("ALTER ROLE {} NOLOGIN PASSWORD NULL").format(sql.Identifier(name))


def _statements(login: OperatorLogin, role: str, known: dict[str, Any], version: int) -> list[sql.Composable]:
    name = sql.Identifier(login.name)
    bypass = login.bypasses and (known["superuser"] or (known["bypassrls"] and version >= 160000))
    words = [
        # Only who has these attributes may name them at all, even to take them away.
        sql.SQL("LOGIN NOCREATEROLE NOINHERIT"),
        sql.SQL("NOCREATEDB" if known["superuser"] or known["createdb"] else ""),
        sql.SQL("NOSUPERUSER NOREPLICATION" if known["superuser"] else ""),
        sql.SQL("BYPASSRLS" if bypass else "NOBYPASSRLS" if known["superuser"] else ""),
        sql.SQL("VALID UNTIL {}").format(sql.Literal(known["until"])),
    ]
    verb = sql.SQL("ALTER" if known["exists"] else "CREATE")
    statements: list[sql.Composable] = [sql.SQL("{} ROLE {} {}").format(verb, name, sql.SQL(" ").join(words))]
    if not known["exists"]:
        statements.append(sql.SQL("COMMENT ON ROLE {} IS {}").format(name, sql.Literal(login.comment)))
    # A role may change its own: the code that ran as it could have left some for the session that comes next.
    for database in known["settings"]:
        where = sql.SQL("IN DATABASE {} ").format(sql.Identifier(database)) if database else sql.SQL("")
        statements.append(sql.SQL("ALTER ROLE {} {}RESET ALL").format(name, where))
    statements += _memberships(name, role, known["members"], version)
    if not known["connects"]:
        connect = sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(sql.Identifier(login.database), name)
        from selvedge.engines.postgres.acting import as_role  # with the changes of a whole schema: rarely needed here

        statements.append(as_role(connect, str(known["owner"])))
    return statements


def _needed(login: str, role: str, known: dict[str, Any], me: str, version: int) -> list[sql.Composed]:
    """What an administrator has to run where ``me`` may not make or renew the login."""
    give = sql.SQL("GRANT {} TO {} WITH ADMIN OPTION")
    needed = [] if known["createrole"] else [sql.SQL("ALTER ROLE {} CREATEROLE").format(sql.Identifier(me))]
    if version >= 160000:  # before, CREATEROLE reaches every role that is no superuser
        if known["exists"] and not known["administers"]:  # another login of the operator's made it
            needed.append(give.format(sql.Identifier(login), sql.Identifier(me)))
        if not known["gives"]:
            needed.append(give.format(sql.Identifier(role), sql.Identifier(me)))
    needed += _revokes(sql.Identifier(login), role, known["members"])  # a superuser may have given it those
    return needed or [give.format(sql.Identifier(role), sql.Identifier(me))]


def _memberships(login: sql.Identifier, role: str, members: list[list[str]], version: int) -> list[sql.Composable]:
    """Member of this role and of nothing else."""
    statements: list[sql.Composable] = [*_revokes(login, role, members)]
    if role not in {held for held, _ in members}:
        how = sql.SQL(" WITH INHERIT FALSE, SET TRUE" if version >= 160000 else "")
        statements.append(sql.SQL("GRANT {} TO {}{}").format(sql.Identifier(role), login, how))
    return statements


def _revokes(login: sql.Identifier, role: str, members: list[list[str]]) -> list[sql.Composed]:
    revoke = sql.SQL("REVOKE {} FROM {} GRANTED BY {} CASCADE")
    return [revoke.format(sql.Identifier(held), login, sql.Identifier(by)) for held, by in members if held != role]
