"""What an administrator has to run where the server refused a change to the operator's login."""

from __future__ import annotations

from psycopg import sql

from selvedge.core.postgres import changes as c
from selvedge.core.postgres.rights import Lack, administered, grant_of

_MAKES = (c.CreateSchema, c.CreateExtension, c.RenameSchema, c.AlterSchemaOwner)


def remedy(change: c.Change, me: str, version: int, database: str) -> str:
    """One statement, or an empty string where none is known to help."""
    login = sql.Identifier(me)
    found: sql.Composable | None = None
    setting = getattr(change, "setting", "")
    if "." in setting:
        parts = sql.SQL(".").join(sql.Identifier(part) for part in setting.split("."))
        found = sql.SQL("GRANT SET ON PARAMETER {} TO {}").format(parts, login)
    elif isinstance(change, c.CreateRole):
        found = sql.SQL("ALTER ROLE {} CREATEROLE").format(login)
    elif isinstance(change, c.CreateDatabase):
        found = sql.SQL("ALTER ROLE {} CREATEDB").format(login)
    elif isinstance(change, _MAKES):
        found = may_create(me, database)
    if found is not None:
        return found.as_string(None)
    roles = administered(change)
    return grant_of(Lack(roles[0], admin=True), me, version) if roles else ""


def may_create(me: str, database: str) -> sql.Composed:
    """The right to make schemas in a database."""
    return sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(sql.Identifier(database), sql.Identifier(me))
