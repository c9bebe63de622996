"""A model of what a Postgres server makes of the changes, to prove the difference with."""

from __future__ import annotations

from dataclasses import replace

from selvedge.core.postgres import changes as c
from selvedge.core.postgres.cluster_diff import ClaimBook, diff_cluster
from selvedge.core.postgres.database_diff import diff_database
from selvedge.core.postgres.grants_wanted import expand
from selvedge.core.postgres.model import (
    ALL_PRIVILEGES,
    AclGroup,
    Claim,
    CurrentRole,
    Desired,
    Membership,
    Problem,
    Remembered,
    Snapshot,
)
from selvedge.core.postgres.remembering import remembered, united

CLUSTER = "cluster-1"
Key = tuple[str, str, str]


class Server:
    """One server with one database. Privileges are kept by single object; the snapshot folds them."""

    def __init__(self, version: int = 160000) -> None:
        self.version = version
        self.roles: dict[str, CurrentRole] = {}
        self.databases: set[str] = set()
        self.owner = "admin"
        self.settings: dict[str, str] = {}
        self.schemas: dict[str, tuple[str, str | None]] = {"public": ("pg_database_owner", None)}
        self.extensions: dict[str, tuple[str, str]] = {}
        self.available: dict[str, str | None] = {"pgcrypto": None, "citext": None}
        self.acl: dict[Key, dict[str, set[str]]] = {("database", "", ""): {"PUBLIC": {"CONNECT", "TEMPORARY"}}}
        self.owners: dict[Key, str] = {("database", "", ""): "admin"}
        self.claims: dict[str, Claim] = {}
        self.cluster_claims: dict[str, Claim] = {}
        self.add("schema", "", "public", "pg_database_owner")

    def add(self, kind: str, schema: str, name: str, owner: str = "admin") -> None:
        self.acl.setdefault((kind, schema, name), {})
        self.owners[kind, schema, name] = owner

    def snapshot(self, *, cluster: bool = False) -> Snapshot:
        return Snapshot(
            self.version,
            "admin",
            True,
            False,
            "1",
            self.owner,
            dict(self.settings),
            dict(self.roles),
            dict(self.schemas),
            dict(self.extensions),
            tuple(
                AclGroup(key[0], key[1], self.owners[key], (key[2],), {g: frozenset(p) for g, p in acl.items() if p})
                for key, acl in sorted(self.acl.items())
            ),
            {},
            {name: schema for name, schema in self.available.items() if name not in self.extensions},
            dict(self.cluster_claims if cluster else self.claims),
        )

    def apply(self, change: c.Change, *, cluster: bool) -> None:
        claims = self.cluster_claims if cluster else self.claims
        match change:
            case c.WriteClaims(claims=rows):
                claims.update({row.object: row for row in rows})
            case c.DropClaims(objects=names):
                for name in names:
                    del claims[name]
            case c.CreateRole() | c.CommentRole() | c.SetRoleSetting() | c.GrantRole() | c.RevokeRole() | c.DropRole():
                self._role(change)
            case c.RevokeAdminOption(grantee=grantee, role=role):
                self._member(grantee, replace(self.roles[grantee].memberships[role], admin=False))
            case c.GrantPrivileges(what=what) | c.RevokePrivileges(what=what):
                self._privileges(what, isinstance(change, c.GrantPrivileges))
            case _:
                self._database(change)

    def _role(self, change: c.Change) -> None:
        match change:
            case c.CreateRole(role=name):
                assert name not in self.roles
                self.roles[name] = CurrentRole(name)
            case c.CommentRole(role=name, comment=text):
                self.roles[name] = replace(self.roles[name], comment=text)
            case c.SetRoleSetting(role=name, setting=setting, value=value):
                rest = {key: old for key, old in self.roles[name].settings.items() if key != setting}
                new = rest if value is None else {**rest, setting: value}
                self.roles[name] = replace(self.roles[name], settings=new)
            case c.GrantRole(grantee=name, membership=membership):
                assert membership.role in self.roles
                self._member(name, membership)
            case c.RevokeRole(grantee=name, role=role):
                rest_of = {key: old for key, old in self.roles[name].memberships.items() if key != role}
                self.roles[name] = replace(self.roles[name], memberships=rest_of)
            case c.DropRole(role=name):
                assert not any(acl.get(name) for acl in self.acl.values()), "a role with privileges cannot be dropped"
                del self.roles[name]
                for other, role_of in self.roles.items():
                    kept = {key: old for key, old in role_of.memberships.items() if key != name}
                    self.roles[other] = replace(role_of, memberships=kept)

    def _member(self, name: str, membership: Membership) -> None:
        if self.version < 160000:
            membership = replace(membership, inherit=True, set=True)
        role = self.roles[name]
        self.roles[name] = replace(role, memberships={**role.memberships, membership.role: membership})

    def _privileges(self, what: c.Privileges, grant: bool) -> None:
        assert what.names
        for name in what.names:
            key = ("partition" if (("partition", what.schema, name) in self.acl) else what.kind, what.schema, name)
            held = self.acl[key].setdefault(what.grantee, set())
            assert set(what.privileges) <= ALL_PRIVILEGES[what.kind] | {"MAINTAIN"}
            if grant:
                assert not set(what.privileges) <= held, "what is there is never granted again"
                held |= set(what.privileges)
            else:
                assert set(what.privileges) & held, "what is not there is never revoked"
                held -= set(what.privileges)

    def _database(self, change: c.Change) -> None:
        match change:
            case c.CreateDatabase(database=name, owner=owner):
                self.databases.add(name)
                self.owner = owner or "admin"
            case c.AlterDatabaseOwner(owner=owner):
                self.owner = owner
            case c.SetDatabaseSetting(setting=setting, value=None):
                del self.settings[setting]
            case c.SetDatabaseSetting(setting=setting, value=str(value)):
                self.settings[setting] = value
            case c.CreateSchema(schema=name, owner=owner):
                assert name not in self.schemas
                self.schemas[name] = (owner or "admin", None)
                self.add("schema", "", name, owner or "admin")
            case c.AlterSchemaOwner(schema=name, owner=owner):
                self.schemas[name] = (owner, self.schemas[name][1])
                self.owners["schema", "", name] = owner
            case c.CommentSchema(schema=name, comment=text):
                self.schemas[name] = (self.schemas[name][0], text)
            case c.DropSchema(schema=name):
                del self.schemas[name], self.acl["schema", "", name]
            case c.CreateExtension(extension=name, schema=schema, version=version):
                self.extensions[name] = (version or "1.0", schema or "public")
            case c.UpdateExtension(extension=name, version=version):
                self.extensions[name] = (version, self.extensions[name][1])
            case c.DropExtension(extension=name):
                del self.extensions[name]
            case _:
                raise AssertionError(type(change).__name__)


def run_pass(
    server: Server,
    desired: Desired,
    resources: dict[str, str],
    *,
    adopt: bool = True,
    prune: bool = False,
) -> tuple[list[c.Change], list[Problem]]:
    """Look, and make all changes in the order of the phases; returns the changes and the problems that are left."""
    may = dict.fromkeys(resources, adopt)
    pruned = dict.fromkeys(resources, prune)
    made: list[c.Change] = []
    alive = resources.values()

    def book(cluster: bool) -> ClaimBook:
        return ClaimBook(
            server.cluster_claims if cluster else server.claims, CLUSTER, resources, lambda one: one in alive
        )

    shown = united(remembered(desired, book(cluster=True), pruned), remembered(desired, book(cluster=False), pruned))
    desired = replace(desired, remembered=shown)
    problems: list[Problem] = []
    for phase in ("cluster", "inside", "late"):
        if phase == "inside":
            found, trouble = diff_database(desired, server.snapshot(), book(cluster=False), pruned)
        else:
            snapshot = server.snapshot(cluster=True)
            found, trouble = diff_cluster(
                desired, snapshot.roles, server.databases, book(cluster=True), may, server.version
            )
        late = (c.DropRole, c.DropClaims)
        if phase != "inside":
            found = [one for one in found if isinstance(one, late) == (phase == "late")]
        for change in c.ordered(found):
            server.apply(change, cluster=phase != "inside")
        made += found
        problems += trouble if phase != "late" else []
    return made, problems


def held(server: Server, kind: str, schema: str, name: str, grantee: str) -> set[str]:
    return set(server.acl[kind, schema, name].get(grantee, ()))


def wanted(privileges: set[str], kind: str, version: int) -> set[str]:
    return set(expand(privileges, kind, version))


__all__ = ["CLUSTER", "Remembered", "Server", "held", "run_pass", "wanted"]
