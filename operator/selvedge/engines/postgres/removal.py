"""``deletionPolicy: Delete``: taking away what only a resource that is being deleted made.

What was adopted stays, and so does what another DatabaseSchema declares. Every step can be repeated: after a crash the
claims that are left say what is still to be done.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import cast

import psycopg
from psycopg import sql

from selvedge.core.errors import RefusedError, TransientError
from selvedge.core.own_roles import LOGINS, is_own_comment, own_role
from selvedge.core.postgres import changes as c
from selvedge.core.postgres.cluster_diff import ClaimBook
from selvedge.core.postgres.default_privileges import diff_defaults
from selvedge.core.postgres.grants_diff import diff_grants
from selvedge.core.postgres.model import Claim, Desired, DesiredDatabase, Remembered, Snapshot
from selvedge.core.postgres.remembering import remembered_defaults, remembered_grants
from selvedge.core.postgres.retirement import diff_elsewhere, diff_retirement
from selvedge.core.reasons import Reason
from selvedge.core.unit import ChangeSummary, MemberResult, ObjectRef, ObjectState, UnitResult
from selvedge.engines.base import Member, ServerTarget, Unit
from selvedge.engines.postgres.compile import compile_unit
from selvedge.engines.postgres.connections import Connections
from selvedge.engines.postgres.errors import DatabaseMissingError, statement_error
from selvedge.engines.postgres.freeing import free_elsewhere, usable
from selvedge.engines.postgres.looks import read_snapshot
from selvedge.engines.postgres.render import render, summary
from selvedge.engines.postgres.retirement import elsewhere_fragment, parse_elsewhere
from selvedge.engines.postgres.rls_removal import remove_policies
from selvedge.engines.postgres.session import Session
from selvedge.engines.postgres.transaction import ChangeFailedError, Transaction


async def remove_members(
    pool: Connections,
    target: ServerTarget,
    metadata_schema: str,
    unit: Unit,
    may_write: Callable[[], None],
    check_identity: Callable[[Snapshot], None],
) -> UnitResult:
    """Remove what the deleting members made. Raises our errors when a step failed; then it is to be tried again.

    ``check_identity`` raises where the server is not the one that the members were made on.
    """
    results = {}
    for member in unit.members:
        if member.deleting:
            one = _Removal(pool, target, metadata_schema, unit, member, may_write, check_identity)
            try:
                results[member.uid] = MemberResult(applied=tuple(await one.run()))
            except ChangeFailedError as failure:
                raise failure.error from None
            except psycopg.Error as error:
                raise statement_error(error, f"removing what DatabaseSchema {one.resource} made") from None
    return UnitResult(results)


class _Removal:
    def __init__(
        self,
        pool: Connections,
        target: ServerTarget,
        metadata_schema: str,
        unit: Unit,
        member: Member,
        may_write: Callable[[], None],
        check_identity: Callable[[Snapshot], None],
    ) -> None:
        self.check_identity = check_identity
        self.pool = pool
        self.target = target
        self.metadata_schema = metadata_schema
        self.unit = unit
        self.member = member
        self.resource = f"{member.namespace}/{member.name}"
        self.may_write = may_write
        self.others = compile_unit(unit, metadata_schema).desired
        self.done: list[ChangeSummary] = []
        self.version = 150000

    def _book(self, snapshot: Snapshot) -> ClaimBook:
        return ClaimBook(snapshot.claims, self.unit.cluster, {self.member.uid: self.resource}, lambda _: True)

    def _maintenance(self) -> AbstractAsyncContextManager[Session]:
        return self.pool.session(self.target.maintenance_database)

    async def run(self) -> list[ChangeSummary]:
        async with self._maintenance() as session:
            roles, drop_database = await self._cluster_claims(session)
        if drop_database and await self._is_shared():
            drop_database = False
        await self._free_elsewhere(roles)  # before anything goes that could not come back
        if drop_database:
            await self._drop_database()
        else:
            try:
                self._note(
                    await remove_policies(
                        self.pool, self.target, self.metadata_schema, self.others, self._book, self.may_write
                    )
                )
                async with self.pool.session(self.unit.database) as session:
                    await self._inside(session, roles)
            except DatabaseMissingError:
                pass  # gone with all that was in it: only the server-wide part is left
        async with self._maintenance() as session:
            await self._cluster(session, roles, with_database=drop_database)
        return self.done

    async def _cluster_claims(self, session: Session) -> tuple[list[str], bool]:
        """The roles that this member made and nobody else declares, and whether the database goes as a whole."""
        async with Transaction(session, self.metadata_schema, self.may_write) as transaction:
            view = await transaction.cluster((), (f"database:{self.unit.database}",), (self.resource,))
        self.check_identity(view.snapshot)
        self.version = view.snapshot.version
        book = self._book(view.snapshot)
        declared = {role.name for role in self.others.roles}
        created = [
            x.object.removeprefix("role:") for x in book.owned("role:", self.member.uid) if x.detail.get("created")
        ]
        roles = [role for role in created if role not in declared and role in view.snapshot.roles]
        database = view.snapshot.claims.get(f"database:{self.unit.database}")
        ours = database is not None and database.belongs_to(self.unit.cluster, self.resource)
        others = any(not member.deleting for member in self.unit.members)
        return roles, bool(ours and database is not None and database.detail.get("created") and not others)

    async def _is_shared(self) -> bool:
        """Whether somebody else claims something in the database.

        It may be a resource of another cluster, one that reaches the server by another DatabaseServer, or one whose
        ``deletionPolicy: Retain`` left its data there.
        """
        empty = Desired(DesiredDatabase(self.member.uid, self.unit.database))
        try:
            async with self.pool.session(self.unit.database) as session:
                snapshot = await read_snapshot(session, empty, self.metadata_schema)
        except DatabaseMissingError:
            return False
        return any(self._is_anothers(claim) for claim in snapshot.claims.values())

    async def _drop_database(self) -> None:
        change = c.DropDatabase(ObjectRef("database", self.unit.database), self.member.uid, self.unit.database)
        await self.pool.forget(self.unit.database)
        async with self._maintenance() as session:
            self.may_write()
            statement = render(
                change, version=self.version, database=self.unit.database, metadata_schema=self.metadata_schema
            )
            await session.run("apply", statement)
        self._note([change])

    async def _inside(self, session: Session, roles: list[str]) -> None:
        """Grants, schemas and extensions in a database that stays."""
        empty = Desired(DesiredDatabase(self.member.uid, self.unit.database))
        book = self._book(await read_snapshot(session, empty, self.metadata_schema))
        schemas = {claim.object.removeprefix("schema:") for claim in book.owned("schema:", self.member.uid)}
        remembered = Remembered(
            frozenset(roles),
            frozenset(schemas),
            tuple(remembered_grants(book)),
            dropped=frozenset(roles),
            retiring=frozenset((role, self.member.uid) for role in roles),
            defaults=tuple(remembered_defaults(book)),
        )
        shown = replace(self.others, remembered=remembered)
        async with Transaction(session, self.metadata_schema, self.may_write) as transaction:
            snapshot = await transaction.snapshot(shown)
            self._left(snapshot, roles)  # raises before anything goes that could not come back
            # first what goes: what a role owned in it is no reason for another owner
            going = self._going(snapshot)
            if going:
                await transaction.apply(c.ordered(going), snapshot, shown, lambda _: [])
                snapshot = await transaction.snapshot(shown)  # that was committed: lock and look again
            left = self._left(snapshot, roles)
            if left:
                retired: list[c.Change] = [change for change in left if isinstance(change, c.RetireRole)]
                await transaction.apply(
                    c.ordered(left), snapshot, shown, lambda after: retired if after.next_owner.gained else []
                )
            self._note([*going, *left])

    def _going(self, snapshot: Snapshot) -> list[c.Change]:
        """Grants, defaults, schemas and extensions that are taken away."""
        book = self._book(snapshot)
        known = frozenset(snapshot.roles)
        left, gone = remembered_grants(book), remembered_defaults(book)
        found, _ = diff_grants(self.others.grants, left, (), snapshot, known, self.others.defaults, gone)
        changes: list[c.Change] = [x for x in found if isinstance(x, c.RevokePrivileges)]
        schemas = frozenset(snapshot.schemas)
        found, _ = diff_defaults(self.others.defaults, gone, snapshot.defaults, known, schemas, snapshot.version)
        changes += [x for x in found if isinstance(x, c.RevokeDefaults)]
        return [*changes, *self._objects(book, snapshot)]

    def _left(self, snapshot: Snapshot, roles: list[str]) -> list[c.Change]:
        """Roles that are freed of what stays, and the claims. Raises RefusedError where a role may not be freed."""
        retiring = {role: self.member.uid for role in roles if role in snapshot.roles}
        freed, problems = diff_retirement(retiring, snapshot.holdings, snapshot.next_owner, self.unit.database)
        for problem in problems:
            raise RefusedError(problem.status.reason, problem.status.message)
        return [*freed, *self._claims(self._book(snapshot))]

    async def _free_elsewhere(self, roles: list[str]) -> None:
        """Take from the roles what they hold in other databases, where the server's access gives these to the member.

        Raises RefusedError for what cannot be taken, and TransientError for what is locked.
        """
        if not roles:
            return
        async with self._maintenance() as session:
            look = sql.SQL("SELECT json_build_object({})::text").format(elsewhere_fragment(roles))
            found = parse_elsewhere(json.loads(cast("str", (await session.run("snapshot", look))[0][0][0])))
        places = {
            role: [place for place in held if place.database != self.unit.database] for role, held in found.items()
        }
        names = {place.database for held in places.values() for place in held}
        uid = self.member.uid
        may_use = {uid: usable(self.unit, self.member, names)}
        changes, problems = diff_elsewhere(dict.fromkeys(roles, uid), places, may_use)
        for problem in problems:
            raise RefusedError(problem.status.reason, f"{problem.status.message}, or set deletionPolicy to Retain")
        for change in changes:
            stuck = await free_elsewhere(self.pool, self._maintenance, change, self.may_write)
            if stuck is not None:
                kind = TransientError if stuck.status.state is ObjectState.WAITING else RefusedError
                raise kind(stuck.status.reason, stuck.status.message)
            self._note([change])

    def _objects(self, book: ClaimBook, snapshot: Snapshot) -> list[c.Change]:
        declared = {f"schema:{schema.name}" for schema in self.others.schemas}
        declared |= {f"extension:{extension.name}" for extension in self.others.extensions}
        changes: list[c.Change] = []
        for claim in (*book.owned("schema:", self.member.uid), *book.owned("extension:", self.member.uid)):
            kind, _, name = claim.object.partition(":")
            if claim.object in declared or not claim.detail.get("created"):
                continue
            ref = ObjectRef(kind, name)
            if kind == "schema":
                self._check_tables(ref, book)
            if kind == "schema" and name in snapshot.schemas:
                changes.append(c.DropSchema(ref, self.member.uid, name, cascade=True))
            elif kind == "extension" and name in snapshot.extensions:
                changes.append(c.DropExtension(ref, self.member.uid, name))
        return changes

    def _check_tables(self, schema: ObjectRef, book: ClaimBook) -> None:
        """A schema goes with all that is in it: not while somebody else guards, audits or partitions a table there."""
        for claim in book.claims.values():
            kind, _, table = claim.object.partition(":")
            if table.startswith(f"{schema.name}.") and self._is_anothers(claim):
                message = (
                    f"{schema} is not dropped: {kind} {table} in it is declared by DatabaseSchema {claim.resource}; "
                    "remove it there, or set deletionPolicy to Retain"
                )
                raise RefusedError(Reason.DESTRUCTIVE_REFUSED, message)

    def _is_anothers(self, claim: Claim) -> bool:
        if claim.cluster != self.unit.cluster:
            return True
        alive = self.unit.alive or (lambda resource: True)
        return claim.resource != self.resource and alive(claim.resource)

    def _claims(self, book: ClaimBook) -> list[c.Change]:
        """The member's claims go; those of objects that another member declares as well go over to him."""
        heirs = {f"role:{role.name}": role.member for role in self.others.roles if not role.absent}
        heirs |= {f"schema:{schema.name}": schema.member for schema in self.others.schemas if not schema.absent}
        heirs |= {f"extension:{one.name}": one.member for one in self.others.extensions if not one.absent}
        if self.others.database.member:
            heirs |= dict.fromkeys(("database", f"database:{self.unit.database}"), self.others.database.member)
        resources = {member.uid: f"{member.namespace}/{member.name}" for member in self.unit.members}
        claims = book.owned("", self.member.uid)
        handed = tuple(
            replace(claim, resource=resources[heirs[claim.object]], uid=heirs[claim.object])
            for claim in claims
            if claim.object in heirs
        )
        dropped = tuple(claim.object for claim in claims if claim.object not in heirs)
        ref = ObjectRef("database", self.unit.database)
        changes: list[c.Change] = []
        if handed:
            changes.append(c.WriteClaims(ref, self.member.uid, handed))
        if dropped:
            changes.append(c.DropClaims(ref, self.member.uid, dropped))
        return changes

    async def _cluster(self, session: Session, roles: list[str], *, with_database: bool) -> None:
        async with Transaction(session, self.metadata_schema, self.may_write) as transaction:
            logins = [own_role(self.unit.database, suffix) for suffix in LOGINS]
            view = await transaction.cluster(logins, (), (self.resource,))
            changes: list[c.Change] = [c.DropRole(ObjectRef("role", r), self.member.uid, r) for r in roles]
            if with_database:
                for login in logins:
                    current = view.snapshot.roles.get(login)
                    if current is None or not is_own_comment(current.comment):
                        continue  # somebody else's, whatever it is called
                    changes.append(c.DropRole(ObjectRef("role", login), self.member.uid, login))
            changes += self._claims(self._book(view.snapshot))
            if changes:
                await transaction.apply_cluster(changes, view, (), (), (self.resource,), lambda _: [])
                self._note(changes)

    def _note(self, changes: list[c.Change]) -> None:
        self.done += [
            ChangeSummary(
                change.ref,
                change.risk,
                summary(
                    change, version=self.version, database=self.unit.database, metadata_schema=self.metadata_schema
                ),
            )
            for change in changes
            if not isinstance(change, c.BOOKKEEPING)
        ]
