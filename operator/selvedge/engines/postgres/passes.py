"""One pass over one database: look, and where something is to be done, do it in its phases.

The phases are the server-wide part (roles, memberships, the database itself) in the maintenance database, then the
database's own part, then the roles that are to go. Each is a transaction under the lock of its database.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from selvedge.core.postgres import changes as c
from selvedge.core.postgres.cluster_diff import ClaimBook, diff_cluster
from selvedge.core.postgres.database_diff import diff_database, remembered, united
from selvedge.core.postgres.gate import approved, digest, late, split, without_failed
from selvedge.core.postgres.model import AclGroup, CurrentRole, Problem, Snapshot
from selvedge.core.unit import ChangeSummary, ObjectRef, ObjectStatus, UnitResult
from selvedge.engines.base import Unit
from selvedge.engines.postgres.compile import Compiled
from selvedge.engines.postgres.connections import Session
from selvedge.engines.postgres.errors import DatabaseMissingError
from selvedge.engines.postgres.render import summary
from selvedge.engines.postgres.report import Findings, results
from selvedge.engines.postgres.transaction import ClusterView, read_snapshot

if TYPE_CHECKING:
    from selvedge.engines.postgres.engine import PostgresEngine

#: Objects that migrations make: new ones are no drift.
_MIGRATED = ("table", "sequence", "function", "column")


@dataclass(slots=True)
class Work:
    """What the passes of one call share: a pass is made again when the server refused a change, without that change.

    ``failed`` are those, ``applied`` what stands committed by now, ``drift`` what was found by member; ``told``: the
    unit's ``on_drift`` was awaited.
    """

    engine: PostgresEngine
    unit: Unit
    compiled: Compiled
    may_write: Callable[[], None]
    plan_only: bool
    failed: dict[c.Change, ObjectStatus] = field(default_factory=dict)
    applied: list[c.Change] = field(default_factory=list)
    drift: dict[str, set[ObjectRef]] = field(default_factory=dict)
    told: bool = False


class Pass:
    """One pass."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.engine = work.engine
        self.compiled = work.compiled
        self.desired = work.compiled.desired
        self.granted: list[c.Change] = []
        self.pending_cluster: list[c.Change] = []
        self.pending_inside: list[c.Change] = []
        self.cluster_problems: list[Problem] = []
        self.inside_problems: list[Problem] = []
        self.looked = False
        self.exists = False
        self.version = 150000
        self.system_identifier = ""
        self.available: frozenset[str] | None = None
        self.without_claims = False

    async def run(self) -> UnitResult:
        """Look, and do. At most one session is held at a time."""
        if not self.desired.database.member:
            return self._result()  # nobody of the unit may use the database
        view = await self.engine.view(fresh=False)
        self._remember(view.snapshot)
        rest: list[c.Change] = []
        try:
            if self.desired.database.name in view.databases:
                rest, inside = await self._look(view)
                if not rest and not inside:
                    return self._result()
                await self._tell([*rest, *inside])
        except DatabaseMissingError:
            # Dropped by hand since the view was read: made again from nothing.
            self.engine.note_claims(self.desired.database.name, exist=True)
        if rest or not self.looked:
            await self._cluster_phase()
        if not self.exists or self._refused():
            return self._result()
        async with self.engine.pool.session(self.desired.database.name) as session:
            snapshot = await self._database_phase(session)
        if any(late(change) for change in rest):
            await self._cluster_phase(late_only=True)
        self._settle(snapshot)
        return self._result()

    async def _look(self, view: ClusterView) -> tuple[list[c.Change], list[c.Change]]:
        """One statement; then the database's own changes in the same session, if there are no others.

        Returns the server-wide changes that are to be made first, and the database's own that are still to be made.
        """
        async with self.engine.pool.session(self.desired.database.name) as session:
            self.exists = True
            snapshot = await read_snapshot(session, self.desired, self.engine.claims_in(session.dbname))
            if self._remember(snapshot):
                snapshot = await read_snapshot(session, self.desired, self.engine.claims_in(session.dbname))
            self._note(snapshot)
            # An adopted database has no claims yet: asking for them again under the lock would only fail again.
            self.without_claims = not snapshot.has_claims_table
            self.engine.check_identity(snapshot)
            cluster, self.cluster_problems = self._cluster_diff(view, snapshot)
            self.looked = True
            if self._refused():
                return [], []
            inside, self.inside_problems = self._database_diff(snapshot)
            self._find_drift([*cluster, *inside])
            cluster_now, inside_now = self._plan(cluster, inside)
            if inside_now and not cluster_now and not self._untold([*cluster_now, *inside_now]):
                snapshot, inside_now = await self._database_phase(session), []
            if not cluster_now and not inside_now:
                self._settle(snapshot)
            return cluster_now, inside_now

    # --- drift ---

    def _untold(self, now: Sequence[c.Change]) -> dict[str, frozenset[ObjectRef]]:
        """By member what drifted, where it is to be repaired now and nobody was told yet."""
        if self.work.told or self.work.unit.on_drift is None:
            return {}
        writing = {change.member for change in now if not isinstance(change, c.BOOKKEEPING)}
        return {uid: frozenset(refs) for uid, refs in self.work.drift.items() if uid in writing}

    async def _tell(self, now: Sequence[c.Change]) -> None:
        drift = self._untold(now)
        if drift and self.work.unit.on_drift is not None:
            self.work.told = True
            await self.work.unit.on_drift(drift)

    # --- the two phases ---

    async def _cluster_phase(self, *, late_only: bool = False) -> None:
        """Roles, memberships and the database itself."""
        engine, resources, keys = self.engine, self._resources(), self._cluster_keys()
        # All of them meet at one lock: whoever waits here holds no connection meanwhile, and runs into no lock_timeout.
        async with engine.turn, engine.pool.session(engine.target.maintenance_database) as session:
            async with engine.transaction(session, self.work.may_write) as transaction:
                view = await transaction.cluster(self.desired.role_names(), keys, resources)
                self._note(view.snapshot)
                engine.check_identity(view.snapshot)
                self._remember(view.snapshot)
                changes, self.cluster_problems = self._cluster_diff(view, view.snapshot)
                self.exists = self.desired.database.name in view.databases
                engine.remember(view, keys, resources)
                if self._refused():
                    self.pending_cluster, self.pending_inside = [], []
                    return
                if not self.looked:
                    self._foresee(changes, view.snapshot)
                now, self.pending_cluster = self._gate(changes)
                untold = bool(self._untold(now))
                creation = [change for change in now if isinstance(change, c.CreateDatabase)]
                todo = self._in_phase(now, late_only)
                if not self.exists and not creation:
                    return
                if not untold:
                    view = await transaction.apply_cluster(
                        todo, view, self.desired, keys, resources, self._residue_of_cluster(late_only)
                    )
                    self.work.applied += todo
            engine.remember(view, keys, resources)
        if untold:
            await self._tell(now)  # without the lock and the connection: it may take long
            await self._cluster_phase(late_only=late_only)
        elif creation:
            await self._create(creation, view)

    async def _create(self, creation: list[c.CreateDatabase], view: ClusterView) -> None:
        """CREATE DATABASE; several may be under way at once."""
        engine, resources, keys = self.engine, self._resources(), self._cluster_keys()
        async with engine.pool.session(engine.target.maintenance_database) as session:
            transaction = engine.transaction(session, self.work.may_write)
            for change in creation:
                await transaction.create_database(change, self.version)
                self.work.applied.append(change)
                engine.note_claims(change.database, exist=False)
                made = ClusterView(view.snapshot, view.databases | {change.database})
                engine.remember(made, keys, resources)
                self.exists = True

    @staticmethod
    def _in_phase(now: list[c.Change], late_only: bool) -> list[c.Change]:
        """What of the server-wide changes is made in this phase; roles go last, and their claims with them."""
        retired = {x.ref for x in now if isinstance(x, c.DropRole)}
        todo: list[c.Change] = []
        for change in now:
            if isinstance(change, c.CreateDatabase):
                continue
            if isinstance(change, c.DropClaims):
                if late_only or change.ref not in retired:
                    todo.append(change)
            elif late(change) == late_only:
                todo.append(change)
        return todo

    async def _database_phase(self, session: Session) -> Snapshot:
        engine = self.engine
        claims = None if self.without_claims else engine.claims_in(session.dbname)
        async with engine.transaction(session, self.work.may_write) as transaction:
            snapshot = await transaction.snapshot(self.desired, claims)
            if self._remember(snapshot):
                await session.rollback()
                snapshot = await transaction.snapshot(self.desired, claims)
            engine.note_claims(session.dbname, exist=snapshot.has_claims_table)
            changes, self.inside_problems = self._database_diff(snapshot)
            now, self.pending_inside = self._gate(changes)
            if now:
                snapshot = await transaction.apply(now, snapshot, self.desired, self._residue)
                engine.note_claims(session.dbname, exist=True)
                self.work.applied += now
                _, self.inside_problems = self._database_diff(snapshot)
        return snapshot

    # --- pure steps ---

    def _refused(self) -> bool:
        """Whether the database itself belongs to somebody else; then nothing in it is touched."""
        return any(problem.status.ref.kind == "database" for problem in self.cluster_problems)

    def _resources(self) -> tuple[str, ...]:
        return tuple(sorted(self.compiled.resources.values()))

    def _cluster_keys(self) -> tuple[str, ...]:
        names = [f"role:{role.name}" for role in self.desired.roles]
        return (f"database:{self.desired.database.name}", *names)

    def _book(self, claims: Snapshot) -> ClaimBook:
        alive = self.work.unit.alive or (lambda resource: True)
        return ClaimBook(claims.claims, self.work.unit.cluster, self.compiled.resources, alive)

    def _remember(self, snapshot: Snapshot) -> bool:
        """Have the next snapshot show what claims remember; True when it shows more than the one before."""
        known = self.desired.remembered
        found = united(known, remembered(self.desired, self._book(snapshot), self.compiled.prune))
        self.desired = replace(self.desired, remembered=found)
        return found != known

    def _cluster_diff(self, view: ClusterView, roles: Snapshot) -> tuple[list[c.Change], list[Problem]]:
        book = self._book(view.snapshot)
        found, problems = diff_cluster(
            self.desired, roles.roles, view.databases, book, self.compiled.adopt, roles.version
        )
        return self._possible(found), problems

    def _database_diff(self, snapshot: Snapshot) -> tuple[list[c.Change], list[Problem]]:
        self.available = frozenset(snapshot.available) | frozenset(snapshot.extensions)
        found, problems = diff_database(self.desired, snapshot, self._book(snapshot), self.compiled.prune)
        return self._possible(found), problems

    def _possible(self, found: list[c.Change]) -> list[c.Change]:
        return without_failed(c.ordered(found), list(self.work.failed), self.compiled.policies)

    def _plan(self, cluster: list[c.Change], inside: list[c.Change]) -> tuple[list[c.Change], list[c.Change]]:
        """What is to be made now. An approval is for the whole plan, so it is compared here and kept for the phases."""
        whole = [*cluster, *inside]
        digests = {uid: self._digest(uid, whole) for uid in self.compiled.policies}
        self.granted = approved(whole, self.compiled.policies, digests)
        cluster_now, self.pending_cluster = self._gate(cluster)
        inside_now, self.pending_inside = self._gate(inside)
        return cluster_now, inside_now

    def _foresee(self, cluster: list[c.Change], server: Snapshot) -> None:
        """The plan for a database that does not exist: what is to be made in it is known all the same."""
        self._find_drift(cluster)
        if self.exists:
            self._plan(cluster, [])
            return
        owner = self.desired.database.owner or server.me
        public = AclGroup("schema", "", "pg_database_owner", ("public",), {"PUBLIC": frozenset({"USAGE"})})
        itself = AclGroup("database", "", owner, ("",), {"PUBLIC": frozenset({"CONNECT", "TEMPORARY"})})
        roles = dict(server.roles)
        for change in cluster:
            if isinstance(change, c.CreateRole):
                roles[change.role] = server.roles.get(change.role) or CurrentRole(change.role)
        empty = replace(
            server,
            database_owner=owner,
            database_settings={},
            roles=roles,
            schemas={"public": ("pg_database_owner", "standard public schema")},
            extensions={},
            groups=(itself, public),
            functions={},
            available=dict.fromkeys(extension.name for extension in self.desired.extensions),
            claims={},
        )
        inside, _ = self._database_diff(empty)
        self.available = None
        self._plan(cluster, inside)

    def _gate(self, found: list[c.Change]) -> tuple[list[c.Change], list[c.Change]]:
        return split(found, self.compiled.policies, self.granted, self.work.plan_only)

    def _digest(self, uid: str, found: Sequence[c.Change]) -> str:
        mine = [self._statement(x) for x in found if x.member == uid and not isinstance(x, c.BOOKKEEPING)]
        return digest(self.system_identifier, self.desired.database.name, mine) if mine else ""

    def _residue(self, snapshot: Snapshot) -> list[c.Change]:
        """What is still to be done after everything was: has to be empty before a commit."""
        changes, _ = self._database_diff(snapshot)
        return self._gate(changes)[0]

    def _residue_of_cluster(self, late_only: bool) -> Callable[[ClusterView], list[c.Change]]:
        def residue(view: ClusterView) -> list[c.Change]:
            changes, _ = self._cluster_diff(view, view.snapshot)
            return [x for x in self._in_phase(self._gate(changes)[0], late_only) if not isinstance(x, c.DropClaims)]

        return residue

    def _note(self, snapshot: Snapshot) -> None:
        self.version = snapshot.version
        self.system_identifier = snapshot.system_identifier

    def _find_drift(self, found: list[c.Change]) -> None:
        """What differs although this very generation had been verified; new objects of a migration are no drift."""
        seen = self.engine.seen(self.desired.database.name)
        for change in found:
            if not self.compiled.policies[change.member].verified or isinstance(change, c.BOOKKEEPING):
                continue
            if seen is not None and isinstance(change, c.GrantPrivileges) and change.what.kind in _MIGRATED:
                what = change.what
                if not any((what.kind, what.schema, name) in seen for name in what.names):
                    continue
            self.work.drift.setdefault(change.member, set()).add(change.ref)

    def _settle(self, snapshot: Snapshot) -> None:
        if not self.work.plan_only and not self.pending_cluster and not self.pending_inside:
            self.engine.saw(self.desired.database.name, snapshot)

    def _statement(self, change: c.Change) -> str:
        return summary(
            change,
            version=self.version,
            database=self.desired.database.name,
            metadata_schema=self.engine.metadata_schema,
        )

    def _summaries(self, found: Sequence[c.Change], uid: str) -> tuple[ChangeSummary, ...]:
        return tuple(
            ChangeSummary(x.ref, x.risk, self._statement(x))
            for x in found
            if x.member == uid and not isinstance(x, c.BOOKKEEPING)
        )

    def _result(self) -> UnitResult:
        pending = [*self.pending_cluster, *self.pending_inside]
        failed = [Problem(change.member, status) for change, status in self.work.failed.items()]
        members = {}
        for uid in self.compiled.declared:
            found = Findings(
                problems=(*self.cluster_problems, *self.inside_problems, *failed),
                applied=self._summaries(self.work.applied, uid),
                pending=self._summaries(pending, uid),
                drift=tuple(sorted(self.work.drift.get(uid, ()))),
                digest=self._digest(uid, pending),
            )
            members[uid] = results(
                self.compiled, uid, found, exists=self.exists, version=self.version, available=self.available
            )
        return UnitResult(members, self.system_identifier)
