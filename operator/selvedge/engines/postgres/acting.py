"""Statements of an operator's login without superuser: each as the role that may make it, and no longer than that.

The login is a member of the owners WITH INHERIT FALSE, SET TRUE: by itself it may do nothing with what they own, not
even read it. A statement on an owner's object stands between SET LOCAL ROLE and its end. What needs the rights of two
roles at once (ALTER … OWNER TO, REASSIGN OWNED) inherits them for the length of the statement.
"""

from __future__ import annotations

from collections.abc import Iterable

from psycopg import sql


def as_role(statement: sql.Composable, role: str) -> sql.Composable:
    """The statement as this role, inside a transaction; as the login itself where it is empty."""
    if not role:
        return statement
    become = sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(role))
    return sql.SQL("; ").join([become, statement, sql.SQL("SET LOCAL ROLE NONE")])


def as_inheriting(statement: sql.Composable, roles: Iterable[str], me: str, version: int) -> sql.Composable:
    """The statement with the rights of these roles added to the login's own.

    Before Postgres 16 a member with INHERIT has them as it is.
    """
    needed = sorted(role for role in set(roles) if role != me)
    if version < 160000 or not needed:
        return statement
    grant = "GRANT {} TO CURRENT_USER WITH INHERIT {}, SET TRUE"
    before = [sql.SQL(grant).format(sql.Identifier(role), sql.SQL("TRUE")) for role in needed]
    after = [sql.SQL(grant).format(sql.Identifier(role), sql.SQL("FALSE")) for role in needed]
    return sql.SQL("; ").join([*before, statement, *after])
