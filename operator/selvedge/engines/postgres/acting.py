"""Statements of an operator's login without superuser: each as the role that may make it, and no longer than that.

The login is a member of the owners WITH INHERIT FALSE, SET TRUE: by itself it may do nothing with what they own, not
even read it. A statement on an owner's object stands between SET LOCAL ROLE and its end. What needs the rights of two
roles at once (ALTER … OWNER TO, REASSIGN OWNED) inherits them for the length of the statement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from psycopg import sql

from selvedge.core.postgres import changes as c
from selvedge.core.postgres.model import Snapshot
from selvedge.core.postgres.rights import DATABASE_OWNER


class Actor(NamedTuple):
    """As whom a statement is made: as ``role``, or as the login with the rights of ``inheriting`` added.

    ``lends`` are (schema, role): for so long, the role may create there; for good where it becomes the owner (True).
    """

    role: str = ""
    inheriting: tuple[str, ...] = ()
    lends: tuple[tuple[str, str, bool], ...] = ()


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
    needed = sorted(role for role in set(roles) if role and role not in (me, DATABASE_OWNER))
    if version < 160000 or not needed:
        return statement
    grant = "GRANT {} TO CURRENT_USER WITH INHERIT {}, SET TRUE"
    before = [sql.SQL(grant).format(sql.Identifier(role), sql.SQL("TRUE")) for role in needed]
    after = [sql.SQL(grant).format(sql.Identifier(role), sql.SQL("FALSE")) for role in needed]
    return sql.SQL("; ").join([*before, statement, *after])


def as_heir_maker(change: c.RetireRole, statement: sql.Composable, me: str, version: int) -> sql.Composable:
    """The statement of a retirement in a session that stands for no superuser: it may act as all who take part."""
    actor = _retiring(change)
    return as_inheriting(_lending(statement, actor.lends), actor.inheriting, me, version)


def _lending(statement: sql.Composable, lends: Iterable[tuple[str, str, bool]]) -> sql.Composable:
    before, after = [], []
    for schema, role, owns in lends:
        names = sql.Identifier(schema), sql.Identifier(role)
        before.append(sql.SQL("GRANT CREATE ON SCHEMA {} TO {}").format(*names))
        if not owns:
            after.append(sql.SQL("REVOKE CREATE ON SCHEMA {} FROM {}").format(*names))
    return sql.SQL("; ").join([*before, statement, *after])


def _retiring(change: c.RetireRole) -> Actor:
    owners = [owner for _, owner in change.schemas if owner != change.role]
    lends = tuple((schema, change.successor, owner == change.role) for schema, owner in change.schemas)
    return _both(change.role, change.successor, *owners)._replace(lends=lends)


def acted(
    changes: Sequence[c.Change],
    server: Snapshot,
    render: Callable[[Sequence[c.Change]], Sequence[sql.Composable]],
) -> list[sql.Composable]:
    """The statements of the changes, those of one actor after the other together. ``render`` makes the bare ones."""
    found: list[sql.Composable] = []
    with_actors = list(zip(changes, _actors(changes, server), strict=True))
    for actor, group in groupby(with_actors, lambda pair: pair[1]):
        bare = list(render([change for change, _ in group]))
        if bare:
            found.append(_by(actor, sql.SQL("; ").join(bare), server))
    return found


def acted_alone(
    changes: Sequence[c.Change], server: Snapshot, render: Callable[[c.Change], sql.Composable]
) -> list[sql.Composable]:
    """The same, one statement for each change."""
    actors = _actors(changes, server)
    return [_by(actor, render(change), server) for change, actor in zip(changes, actors, strict=True)]


def _by(actor: Actor, statement: sql.Composable, server: Snapshot) -> sql.Composable:
    if actor.inheriting:
        statement = _lending(statement, actor.lends)
        return as_inheriting(statement, actor.inheriting, server.me, server.version)
    return as_role(statement, actor.role)


def _actors(changes: Iterable[c.Change], server: Snapshot) -> Iterator[Actor]:
    """As whom each change is made."""
    casting = _Casting(server)
    return (casting.actor(change) for change in changes)


class _Casting:
    """Who owns what while the changes are made one after the other."""

    def __init__(self, server: Snapshot) -> None:
        self.me = server.me
        self.owners = {name: owner for name, (owner, _) in server.schemas.items()}
        self.database_owner = server.database_owner

    def actor(self, change: c.Change) -> Actor:
        match change:
            case c.GrantPrivileges() | c.RevokePrivileges():
                return Actor() if change.what.grantor else self._single(change.what.owner)
            case c.GrantDefaults() | c.RevokeDefaults():
                return self._single(change.what.creator)
            case c.SetDatabaseSetting():
                return self._single(self.database_owner)
            case c.AlterDatabaseOwner():
                before, self.database_owner = self.database_owner, change.owner
                return _both(before, change.owner)
            case c.RetireRole():
                return _retiring(change)
            case c.HandOverDatabase():
                return _both(change.role)
        return self._of_schema(change)

    def _of_schema(self, change: c.Change) -> Actor:
        match change:
            case c.CreateSchema():
                self.owners[change.schema] = change.owner or self.me
            case c.CommentSchema() | c.DropSchema():
                return self._single(self.owners.get(change.schema, ""))
            case c.AlterSchemaOwner():
                before = self.owners.get(change.schema, "")
                self.owners[change.schema] = change.owner
                return _both(self._named(before), change.owner)
            case c.RenameSchema():
                owner = self.owners[change.new] = self.owners.pop(change.old, "")
                return _both(self._named(owner))
        return Actor()

    def _named(self, role: str) -> str:
        return self.database_owner if role == DATABASE_OWNER else role

    def _single(self, role: str) -> Actor:
        role = self._named(role)
        return Actor() if role in ("", self.me) else Actor(role)


def _both(*roles: str) -> Actor:
    return Actor(inheriting=tuple(sorted(role for role in set(roles) if role)))


def self_grant(server: Snapshot, database: str) -> sql.Composable | None:
    """What lets the login make schemas in a database of somebody else, as its owner; None where nothing is needed."""
    if server.superuser or server.may_create or server.database_owner not in server.become:
        return None
    names = (sql.Identifier(database), sql.Identifier(server.me))
    return as_role(sql.SQL("GRANT CREATE, CONNECT ON DATABASE {} TO {}").format(*names), server.database_owner)
