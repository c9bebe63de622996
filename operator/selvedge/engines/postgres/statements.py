"""From the changes of a transaction to as few statements as say the same; a plan shows them one by one all the same."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from psycopg import sql

from selvedge.core.postgres import changes as c
from selvedge.core.postgres.model import Claim
from selvedge.engines.postgres.render import create_role, grant_role, privileges, render

_Privileges = c.GrantPrivileges | c.RevokePrivileges


def statements(
    changes: Sequence[c.Change], *, version: int, database: str, metadata_schema: str
) -> list[sql.Composable]:
    """The statements for all of them, in the order in which they can be run.

    What belongs together is one: several grantees, ``CREATE ROLE … IN ROLE``, ``CREATE SCHEMA … GRANT …``, and the rows
    of claims.
    """
    return _Grouping(changes, version, database, metadata_schema).build()


class _Grouping:
    def __init__(self, changes: Sequence[c.Change], version: int, database: str, metadata_schema: str) -> None:
        self.todo = c.ordered(list(changes))
        self.version = version
        self.database = database
        self.metadata_schema = metadata_schema
        self.folded: set[int] = set()  # by identity: claims cannot be hashed

    def build(self) -> list[sql.Composable]:
        together: dict[type[c.Change], Callable[[list[Any]], list[sql.Composable]]] = {
            c.CreateRole: self._roles,
            c.GrantRole: self._memberships,
            c.CreateSchema: self._schemas,
            c.GrantPrivileges: self._privileges,
            c.RevokePrivileges: self._privileges,
            c.WriteClaims: self._written,
            c.DropClaims: self._dropped,
        }
        found: list[sql.Composable] = []
        for kind, group in groupby(self.todo, type):
            rest = [change for change in group if id(change) not in self.folded]
            found += together[kind](rest) if kind in together else [self._one(change) for change in rest]
        return found

    def _one(self, change: c.Change) -> sql.Composable:
        return render(change, version=self.version, database=self.database, metadata_schema=self.metadata_schema)

    def _roles(self, creations: list[c.CreateRole]) -> list[sql.Composable]:
        """A role is made a member with its creation where that says all, and where the other one exists by then."""
        parents: dict[str, list[c.GrantRole]] = {}
        for change in self.todo:
            if isinstance(change, c.GrantRole) and self._plain(change):
                parents.setdefault(change.grantee, []).append(change)
        if self.version >= 160000:
            # IN ROLE would take INHERIT from the role's own NOINHERIT: such a membership is spelled out.
            for creation in creations:
                if ("NOINHERIT", None) in creation.words:
                    parents.pop(creation.role, None)
        found: list[sql.Composable] = []
        waiting = {change.role: change for change in creations}
        while waiting:
            free = [r for r in waiting if not any(p.membership.role in waiting for p in parents.get(r, ()))]
            for role in free or list(waiting):
                of_role = parents.get(role, []) if free else []
                self.folded.update(map(id, of_role))
                found.append(create_role(waiting.pop(role), [grant.membership.role for grant in of_role]))
        return found

    def _plain(self, change: c.GrantRole) -> bool:
        membership = change.membership
        return not membership.admin and (self.version < 160000 or (membership.inherit and membership.set))

    def _memberships(self, grants: list[c.GrantRole]) -> list[sql.Composable]:
        groups = _together(grants, lambda grant: grant.membership)
        return [grant_role(group[0], [grant.grantee for grant in group], self.version) for group in groups]

    def _schemas(self, creations: list[c.CreateSchema]) -> list[sql.Composable]:
        """A schema is made with the privileges on it."""
        elements: dict[str, list[c.GrantPrivileges]] = {change.schema: [] for change in creations}
        for change in self.todo:
            if isinstance(change, c.GrantPrivileges) and change.what.kind == "schema" and len(change.what.names) == 1:
                elements.get(change.what.names[0], []).append(change)
        found: list[sql.Composable] = []
        for creation in creations:
            grants = elements[creation.schema]
            self.folded.update(map(id, grants))
            found.append(sql.SQL(" ").join([self._one(creation), *self._privileges(grants)]))
        return found

    def _privileges(self, found: Sequence[_Privileges]) -> list[sql.Composable]:
        groups = _together(found, lambda one: replace(one.what, grantee=""))
        return [privileges(group[0], [one.what.grantee for one in group], self.database) for group in groups]

    def _written(self, writes: list[c.WriteClaims]) -> list[sql.Composable]:
        rows: dict[str, Claim] = {claim.object: claim for change in writes for claim in change.claims}
        if len(rows) < sum(len(change.claims) for change in writes):
            return [self._one(change) for change in writes]  # one object twice: the last wins, as one after the other
        return [self._one(c.WriteClaims(writes[0].ref, writes[0].member, tuple(rows.values())))] if writes else []

    def _dropped(self, drops: list[c.DropClaims]) -> list[sql.Composable]:
        names = tuple(dict.fromkeys(name for change in drops for name in change.objects))
        return [self._one(c.DropClaims(drops[0].ref, drops[0].member, names))] if drops else []


def _together(changes: Iterable[Any], key: Callable[[Any], Hashable]) -> list[list[Any]]:
    groups: dict[Hashable, list[Any]] = {}
    for change in changes:
        groups.setdefault(key(change), []).append(change)
    return list(groups.values())
