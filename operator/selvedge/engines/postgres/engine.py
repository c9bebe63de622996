"""One Postgres server: the passes over its databases, in the order inspect → diff → plan → apply → verify.

A pass over what matches is one statement. A pass that writes takes the lock in the database that it writes to, looks
again, applies, looks again, and commits only when nothing is left to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg

from selvedge.core.errors import InvalidError, TransientError
from selvedge.core.postgres import changes as c
from selvedge.core.postgres.cluster_diff import ClaimBook, diff_cluster
from selvedge.core.postgres.database_diff import diff_database
from selvedge.core.postgres.gate import digest, late, split, without_claims
from selvedge.core.postgres.model import Snapshot
from selvedge.core.reasons import Reason
from selvedge.core.unit import ChangeSummary, MemberResult, ObjectRef, ObjectState, ObjectStatus, UnitResult
from selvedge.engines.base import Observer, ServerFacts, ServerTarget, Unit
from selvedge.engines.postgres.compile import Compiled, compile_unit
from selvedge.engines.postgres.connections import Connections, Session
from selvedge.engines.postgres.errors import DatabaseMissingError, statement_error
from selvedge.engines.postgres.probe import probe
from selvedge.engines.postgres.removal import remove_members
from selvedge.engines.postgres.render import summary
from selvedge.engines.postgres.transaction import (
    ChangeFailedError,
    ClusterView,
    Transaction,
    read_cluster,
    read_snapshot,
)

#: How long what other databases' claims look like is believed before it is read again, for passes that only look.
_VIEW_SECONDS = 30.0
#: Objects that may fail one by one in a pass before the pass itself is given up.
_MAX_FAILURES = 25


class PostgresEngine:
    """The engine for one DatabaseServer with ``engine: Postgres``."""

    def __init__(
        self,
        target: ServerTarget,
        observer: Observer,
        *,
        metadata_schema: str = "selvedge",
        system_identifier: str = "",
    ) -> None:
        self.target = target
        self.metadata_schema = metadata_schema
        self.pool = Connections(target, observer)
        self._system_identifier = system_identifier
        self._view: ClusterView | None = None
        self._view_read = 0.0
        self._without_claims: set[str] = set()
        self._seen: dict[str, frozenset[tuple[str, str, str]]] = {}

    async def probe(self) -> ServerFacts:
        """Log in and look; see :meth:`Engine.probe`."""
        return await probe(self.pool, self.target)

    def connections(self) -> dict[str, int]:
        """Connections by state."""
        return self.pool.counts()

    async def close(self) -> None:
        """Close every connection."""
        await self.pool.close()

    async def converge(self, unit: Unit, may_write: Callable[[], None]) -> UnitResult:
        """See :meth:`Engine.converge`."""
        return await self._run(unit, may_write, plan_only=False)

    async def plan(self, unit: Unit) -> UnitResult:
        """See :meth:`Engine.plan`."""

        def refuse() -> None:
            raise AssertionError("a plan writes nothing")

        return await self._run(unit, refuse, plan_only=True)

    async def remove(self, unit: Unit, may_write: Callable[[], None]) -> UnitResult:
        """Take away what only the unit's deleting members made, where their ``deletionPolicy`` is Delete."""
        self._view = None
        self._seen.pop(unit.database, None)
        return await remove_members(self.pool, self.target, self.metadata_schema, unit, may_write)

    async def _run(self, unit: Unit, may_write: Callable[[], None], *, plan_only: bool) -> UnitResult:
        compiled = compile_unit(unit)
        failed: dict[tuple[ObjectRef, str], ObjectStatus] = {}
        for _ in range(_MAX_FAILURES):
            one = _Pass(self, unit, compiled, may_write, plan_only, dict(failed))
            try:
                return await one.run()
            except ChangeFailedError as failure:
                ref, member = failure.change.ref, failure.change.member
                failed[ref, member] = ObjectStatus(ref, ObjectState.FAILED, failure.error.reason, failure.error.message)
            except psycopg.Error as error:
                raise statement_error(error, f"working on database {unit.database}") from None
        raise next(iter(InvalidError(s.reason, s.message) for s in failed.values()))

    async def view(self, *, fresh: bool) -> ClusterView:
        """All claims and databases of the server; read at most every ``_VIEW_SECONDS`` by passes that only look."""
        if fresh or self._view is None or time.monotonic() - self._view_read > _VIEW_SECONDS:
            async with self.pool.session(self.target.maintenance_database) as session:
                self._view = await read_cluster(session, self.claims_in(session.dbname), ())
            self._view_read = time.monotonic()
        return self._view

    def remember(self, view: ClusterView) -> None:
        """Take over what a transaction saw, so that the next pass need not read it."""
        if self._view is not None:
            self._view = self._view.merged(view)

    def check_identity(self, snapshot: Snapshot) -> None:
        """Refuse to write to a server that is not the one that was there before, or that is a standby."""
        if self._system_identifier and snapshot.system_identifier != self._system_identifier:
            message = (
                f"the server's system identifier is {snapshot.system_identifier} and was {self._system_identifier}: "
                "it was replaced; delete and apply the DatabaseServer again once you are sure that it is the right one"
            )
            raise InvalidError(Reason.SERVER_REPLACED, message)
        if snapshot.standby:
            raise TransientError(
                Reason.STANDBY, "the server is a standby and takes no writes: point spec.hosts to the primary"
            )

    def claims_in(self, dbname: str) -> str | None:
        """The schema of the claims table, or None where it is known not to exist: the snapshot leaves it out."""
        return None if dbname in self._without_claims else self.metadata_schema

    def note_claims(self, dbname: str, *, exist: bool) -> None:
        """Remember whether a database has the claims table."""
        if exist:
            self._without_claims.discard(dbname)
        else:
            self._without_claims.add(dbname)

    def transaction(self, session: Session, may_write: Callable[[], None]) -> Transaction:
        """A transaction under the lock in the session's database."""
        return Transaction(session, self.metadata_schema, may_write)

    def seen(self, database: str) -> frozenset[tuple[str, str, str]] | None:
        """The objects that stood there at the last verified pass of this process."""
        return self._seen.get(database)

    def saw(self, database: str, snapshot: Snapshot) -> None:
        """Remember the objects of a verified pass."""
        kinds = ("table", "partition", "sequence", "function", "column")
        self._seen[database] = frozenset(
            (group.kind, group.schema, name) for group in snapshot.groups if group.kind in kinds for name in group.names
        )


class _Pass:
    """One pass over one database; made anew when an object failed and is left out."""

    def __init__(
        self,
        engine: PostgresEngine,
        unit: Unit,
        compiled: Compiled,
        may_write: Callable[[], None],
        plan_only: bool,
        failed: dict[tuple[ObjectRef, str], ObjectStatus],
    ) -> None:
        self.engine = engine
        self.unit = unit
        self.compiled = compiled
        self.desired = compiled.desired
        self.may_write = may_write
        self.plan_only = plan_only
        self.failed = failed
        self.applied: list[c.Change] = []
        self.pending: list[c.Change] = []
        self.problems: list[ObjectStatus] = []
        self.cluster_problems: list[ObjectStatus] = []
        self.drift: dict[str, set[ObjectRef]] = {}
        self.version = 150000
        self.exists = False
        self.system_identifier = ""

    async def run(self) -> UnitResult:
        """Look; and where something is to be done, do it in its phases. At most one session is held at a time."""
        if not self.desired.database.member:
            return self._result()  # nobody of the unit may use the database
        view = await self.engine.view(fresh=False)
        rest: list[c.Change] = []
        try:
            if self.desired.database.name in view.databases:
                rest = await self._look(view)
                if not rest:
                    return self._result()
        except DatabaseMissingError:
            pass  # dropped by hand since the view was read: made again from nothing
        if not await self._cluster_phase():
            return self._result()
        async with self.engine.pool.session(self.desired.database.name) as session:
            snapshot = await self._database_phase(session)
        if any(late(change) for change in rest):
            await self._cluster_phase(late_only=True)
        self._settle(snapshot)
        return self._result()

    async def _look(self, view: ClusterView) -> list[c.Change]:
        """One statement; then the database's own changes in the same session, if there are no others.

        Returns the server-wide changes that are to be made first.
        """
        async with self.engine.pool.session(self.desired.database.name) as session:
            self.exists = True
            snapshot = await read_snapshot(session, self.desired, self.engine.claims_in(session.dbname))
            self._note(snapshot)
            self.engine.check_identity(snapshot)
            cluster, self.cluster_problems = self._cluster_diff(view, snapshot)
            inside, problems = self._database_diff(snapshot)
            self.problems = [*self.cluster_problems, *problems]
            self._find_drift([*cluster, *inside])
            now, self.pending = self._gate([*cluster, *inside])
            cluster_now = [change for change in now if change in cluster]
            if now and not cluster_now:
                snapshot = await self._database_phase(session)
            if not cluster_now:
                self._settle(snapshot)
            return cluster_now

    # --- the two phases ---

    async def _cluster_phase(self, *, late_only: bool = False) -> bool:
        """Roles, memberships and the database itself; False when the database may not be had."""
        engine = self.engine
        async with engine.pool.session(engine.target.maintenance_database) as session:
            keys = self._cluster_keys()
            async with engine.transaction(session, self.may_write) as transaction:
                view = await transaction.cluster(self.desired.role_names(), keys, self._resources())
                self._note(view.snapshot)
                engine.check_identity(view.snapshot)
                changes, problems = self._cluster_diff(view, view.snapshot)
                now, pending = self._gate(changes)
                if problems and problems[0].ref.kind == "database":
                    self.problems = problems
                    return False
                creation = [change for change in now if isinstance(change, c.CreateDatabase)]
                todo = [x for x in now if x not in creation and (late(x) == late_only or isinstance(x, c.DropClaims))]
                if not late_only:
                    retired = {x.ref for x in now if isinstance(x, c.DropRole)}
                    todo = [x for x in todo if not (isinstance(x, c.DropClaims) and x.ref in retired)]
                if self.plan_only or (pending and not now):
                    self.pending = [*self.pending, *pending]
                    return False
                view = await transaction.apply_cluster(
                    todo, view, self.desired, keys, self._resources(), self._residue_of_cluster(late_only)
                )
                self.applied += todo
            engine.remember(view)
            for change in creation:
                await transaction.create_database(change, self.version)
                self.applied.append(change)
                engine.note_claims(change.database, exist=False)
                engine.remember(ClusterView(view.snapshot, frozenset({change.database})))
            self.exists = self.exists or bool(creation)
        return True

    async def _database_phase(self, session: Session) -> Snapshot:
        engine = self.engine
        async with engine.transaction(session, self.may_write) as transaction:
            snapshot = await transaction.snapshot(self.desired, engine.claims_in(session.dbname))
            changes, problems = self._database_diff(snapshot)
            now, waiting = self._gate(changes)
            if now:
                snapshot = await transaction.apply(now, snapshot, self.desired, self._residue)
                engine.note_claims(session.dbname, exist=True)
                self.applied += now
                _, problems = self._database_diff(snapshot)
        inside = set(waiting)
        self.pending = [x for x in self.pending if x in inside or not isinstance(x, _INSIDE)]
        self.problems = [*self.cluster_problems, *problems]
        return snapshot

    # --- pure steps ---

    def _resources(self) -> tuple[str, ...]:
        return tuple(sorted(self.compiled.resources.values()))

    def _cluster_keys(self) -> tuple[str, ...]:
        names = [f"role:{role.name}" for role in self.desired.roles]
        return (f"database:{self.desired.database.name}", *names)

    def _book(self, claims: Snapshot) -> ClaimBook:
        alive = self.unit.alive or (lambda resource: True)
        return ClaimBook(claims.claims, self.unit.cluster, self.compiled.resources, alive)

    def _cluster_diff(self, view: ClusterView, roles: Snapshot) -> tuple[list[c.Change], list[ObjectStatus]]:
        book = self._book(view.snapshot)
        found, problems = diff_cluster(
            self.desired, roles.roles, view.databases, book, self.compiled.adopt, roles.version
        )
        return self._without_failed(c.ordered(found)), problems

    def _database_diff(self, snapshot: Snapshot) -> tuple[list[c.Change], list[ObjectStatus]]:
        found, problems = diff_database(self.desired, snapshot, self._book(snapshot), self.compiled.prune)
        return self._without_failed(c.ordered(found)), problems

    def _without_failed(self, found: list[c.Change]) -> list[c.Change]:
        kept = []
        for change in found:
            if isinstance(change, c.BOOKKEEPING):
                rest = without_claims(change, set(self.failed), self.compiled.policies)
                if rest is not None:
                    kept.append(rest)
            elif (change.ref, change.member) not in self.failed:
                kept.append(change)
        return kept

    def _gate(self, found: list[c.Change]) -> tuple[list[c.Change], list[c.Change]]:
        digests = {uid: self._digest(uid, found) for uid in self.compiled.policies}
        return split(found, self.compiled.policies, digests, self.plan_only)

    def _digest(self, uid: str, found: list[c.Change]) -> str:
        mine = [self._statement(x) for x in found if x.member == uid and not isinstance(x, c.BOOKKEEPING)]
        return digest(self.system_identifier, self.desired.database.name, mine) if mine else ""

    def _residue(self, snapshot: Snapshot) -> list[c.Change]:
        """What is still to be done after everything was: has to be empty before a commit."""
        changes, _ = self._database_diff(snapshot)
        return self._gate(changes)[0]

    def _residue_of_cluster(self, late_only: bool) -> Callable[[ClusterView], list[c.Change]]:
        def residue(view: ClusterView) -> list[c.Change]:
            changes, _ = self._cluster_diff(view, view.snapshot)
            now, _ = self._gate(changes)
            skipped = (c.CreateDatabase, c.DropClaims) if not late_only else (c.CreateDatabase,)
            return [x for x in now if not isinstance(x, skipped) and (late_only or not late(x))]

        return residue

    def _note(self, snapshot: Snapshot) -> None:
        self.version = snapshot.version
        self.system_identifier = snapshot.system_identifier

    def _find_drift(self, found: list[c.Change]) -> None:
        """What differs although this very generation had been verified; new objects of a migration are no drift."""
        seen = self.engine.seen(self.desired.database.name)
        for change in found:
            policy = self.compiled.policies[change.member]
            if not policy.verified or isinstance(change, c.BOOKKEEPING):
                continue
            if seen is not None and isinstance(change, c.GrantPrivileges):
                what = change.what
                if not any((what.kind, what.schema, name) in seen for name in what.names) and what.kind in (
                    "table",
                    "sequence",
                    "function",
                    "column",
                ):
                    continue
            self.drift.setdefault(change.member, set()).add(change.ref)

    def _settle(self, snapshot: Snapshot) -> None:
        if not self.plan_only and not self.pending:
            self.engine.saw(self.desired.database.name, snapshot)

    def _statement(self, change: c.Change) -> str:
        return summary(
            change,
            version=self.version,
            database=self.desired.database.name,
            metadata_schema=self.engine.metadata_schema,
        )

    def _summaries(self, found: list[c.Change], uid: str) -> tuple[ChangeSummary, ...]:
        return tuple(
            ChangeSummary(x.ref, x.risk, self._statement(x))
            for x in found
            if x.member == uid and not isinstance(x, c.BOOKKEEPING)
        )

    def _result(self) -> UnitResult:
        owners = {(role.name, "role"): role.member for role in self.desired.roles}
        owners |= {(schema.name, "schema"): schema.member for schema in self.desired.schemas}
        owners |= {(extension.name, "extension"): extension.member for extension in self.desired.extensions}
        results = {}
        for uid, declared in self.compiled.declared.items():
            mine = [*self.compiled.problems[uid]]
            for status in self.problems:
                grants = {g.name for g in self.desired.grants if g.member == uid}
                owned = owners.get((status.ref.name, status.ref.kind)) == uid
                if status.ref.kind == "database" or owned or (status.ref.kind == "grant" and status.ref.name in grants):
                    mine.append(status)
            mine += [status for (_, member), status in self.failed.items() if member == uid]
            pending = self._summaries(self.pending, uid)
            blocking = {"database", "schema", "role", "extension"}
            blocked = any(status.ref.kind in blocking for status in mine) or any(
                summary.ref.kind in blocking for summary in pending if summary.risk.value == "Additive"
            )
            bad = {status.ref for status in mine} | {change.ref for change in pending}
            results[uid] = MemberResult(
                ready=max(0, declared - len(bad)),
                problems=tuple(mine),
                applied=self._summaries(self.applied, uid),
                pending=pending,
                drift=tuple(sorted(self.drift.get(uid, ()))),
                advice=self._advice(uid),
                provisioned=self.exists and not blocked,
                digest=self._digest(uid, self.pending),
            )
        return UnitResult(results, self.system_identifier)

    def _advice(self, uid: str) -> tuple[str, ...]:
        advice = []
        if self.version < 160000:
            for role in self.desired.roles:
                if role.member == uid and any(not (m.inherit and m.set) for m in role.memberships):
                    advice.append(
                        f"role {role.name}: inherit and set of a membership exist from Postgres 16 on and are ignored here"
                    )
        return tuple(advice)


_INSIDE = (
    c.AlterDatabaseOwner,
    c.SetDatabaseSetting,
    c.CreateSchema,
    c.AlterSchemaOwner,
    c.CommentSchema,
    c.CreateExtension,
    c.UpdateExtension,
    c.RevokePrivileges,
    c.GrantPrivileges,
    c.DropExtension,
    c.DropSchema,
)
