"""What an operator's login without superuser may do with roles and with what they own; which GRANT it lacks.

Before Postgres 16 CREATEROLE may make itself a member of every role but a superuser. From 16 on it administers what it
has the admin option for: the roles that it made, and those that somebody gave it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from selvedge.core.postgres import changes as c
from selvedge.core.postgres.change import Problem
from selvedge.core.postgres.model import Desired, Snapshot
from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectRef, ObjectState, ObjectStatus

#: Owner of the schema public: the database's owner is its only member, and nobody can be granted it.
DATABASE_OWNER = "pg_database_owner"


@dataclass(frozen=True, slots=True)
class Lack:
    """A right that is missing: to become ``role``, or with ``admin`` to grant and alter it."""

    role: str
    admin: bool = False


def quoted(name: str) -> str:
    """An identifier as SQL; for messages only."""
    return '"' + name.replace('"', '""') + '"'


def grant_of(lack: Lack, me: str, version: int) -> str:
    """The statement that an administrator has to run."""
    grant = f"GRANT {quoted(lack.role)} TO {quoted(me)}"
    if version < 160000:
        return grant
    return f"{grant} WITH {'ADMIN TRUE, ' if lack.admin else ''}INHERIT FALSE, SET TRUE"


def become_able(desired: Desired, server: Snapshot, made: Collection[str]) -> tuple[list[c.Change], list[Problem]]:
    """Memberships of the operator's login in the roles that are to own something, and those that it cannot have.

    ``made`` are roles that this plan makes: whoever makes a role may grant it.
    """
    if server.superuser:
        return [], []
    changes: list[c.Change] = []
    problems: list[Problem] = []
    for role, member in sorted(_acting(desired).items()):
        if role in (server.me, DATABASE_OWNER) or role in server.become:
            continue
        ref = ObjectRef("role", role)
        if role in made or (role in server.roles and server.roles[role].can_admin):
            changes.append(c.BecomeAble(ref, member, role))
        elif role in server.roles:
            declared = any(one.name == role for one in desired.roles)
            problems.append(_problem(ref, member, Lack(role, admin=declared), server))
    return changes, problems


def _acting(desired: Desired) -> dict[str, str]:
    """The roles as which something has to be done, each with the member that wants it."""
    found: dict[str, str] = {}
    for one in desired.defaults:
        found.update(dict.fromkeys(one.creators, one.member))
    for schema in desired.schemas:
        if schema.owner and not schema.absent:
            found[schema.owner] = schema.member
    if desired.database.owner:
        found[desired.database.owner] = desired.database.member
    found.update({role.name: role.member for role in desired.roles if not role.absent})
    return found


def _problem(ref: ObjectRef, member: str, lack: Lack, server: Snapshot) -> Problem:
    what = "administer" if lack.admin else "act as"
    message = (
        f"{ref} needs the operator's login to {what} role {lack.role}: "
        f"run {grant_of(lack, server.me, server.version)} as a superuser"
    )
    return Problem(member, ObjectStatus(ref, ObjectState.FAILED, Reason.INSUFFICIENT_PRIVILEGES, message))


def not_permitted(
    changes: Iterable[c.Change], server: Snapshot, able: Collection[str]
) -> tuple[list[c.Change], list[Problem]]:
    """The changes that the login may not make, with what it lacks; one problem for each object.

    ``able`` are roles that it may become and administer by the time, because this plan makes it so.
    """
    if server.superuser:
        return [], []
    blocked: list[c.Change] = []
    problems: dict[ObjectRef, Problem] = {}
    for change in changes:
        lack = _lack(change, server, able)
        if lack is not None:
            blocked.append(change)
            problems.setdefault(change.ref, _problem(change.ref, change.member, lack, server))
    return blocked, list(problems.values())


def _lack(change: c.Change, server: Snapshot, able: Collection[str]) -> Lack | None:
    for role in administered(change):
        live = server.roles.get(role)
        if role not in able and live is not None and not live.can_admin:
            return Lack(role, admin=True)
    for role in become(change, server):
        if role != server.me and role not in able and role not in server.become:
            return Lack(role)
    return None


def administered(change: c.Change) -> tuple[str, ...]:
    """The roles that a change alters or grants."""
    match change:
        case c.AlterRole() | c.RestrictRole() | c.CommentRole() | c.SetRoleSetting() | c.SetRoleSettingHere():
            return (change.role,)
        case c.DropRole() | c.RevokeRole() | c.RevokeAdminOption() | c.RetireRole():
            return (change.role,)
        case c.GrantRole():
            return (change.membership.role,)
        case c.RenameRole():
            return (change.old,)
    return ()


def become(change: c.Change, server: Snapshot) -> tuple[str, ...]:
    """The roles whose rights a change inside the database needs, as far as the snapshot knows them."""
    match change:
        case c.GrantPrivileges() | c.RevokePrivileges():
            role = change.what.grantor or change.what.owner
            return (server.database_owner if role == DATABASE_OWNER else role,) if role else ()
        case c.GrantDefaults() | c.RevokeDefaults():
            return (change.what.creator,)
        case c.CommentSchema() | c.DropSchema() | c.AlterSchemaOwner() if change.schema in server.schemas:
            role = server.schemas[change.schema][0]
            return (server.database_owner if role == DATABASE_OWNER else role,)
        case c.RenameSchema() if change.old in server.schemas:
            return (server.schemas[change.old][0],)
        case c.AlterDatabaseOwner() | c.SetDatabaseSetting():
            return (server.database_owner,)
    return ()
