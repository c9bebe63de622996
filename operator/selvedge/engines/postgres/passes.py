"""One pass over one database: look, and where something is to be done, do it in its phases.

The phases are the server-wide part (roles, memberships, the database itself) in the maintenance database, then the
database's own part, then the roles that are to go. Each is a transaction under the lock of its database.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from selvedge.core.errors import TransientError
from selvedge.core.own_roles import databases_of
from selvedge.core.postgres import changes as c
from selvedge.core.postgres.audit_guard import guard_logs
from selvedge.core.postgres.cluster_diff import Places, diff_cluster
from selvedge.core.postgres.database_diff import diff_database, going, stuck
from selvedge.core.postgres.default_privileges import other_makers
from selvedge.core.postgres.gate import without_failed
from selvedge.core.postgres.model import Elsewhere, Problem, Snapshot, owners
from selvedge.core.postgres.remembering import remembered, united
from selvedge.core.postgres.renames import renamed_snapshot, role_renames
from selvedge.core.postgres.retirement import diff_elsewhere
from selvedge.core.postgres.rights import become_able, not_permitted
from selvedge.core.postgres.rls_changes import RowSecurityChange
from selvedge.core.postgres.tables import ask_timescale, diff_tables, headroom_of
from selvedge.core.postgres.triggers import OnTable
from selvedge.core.reasons import Reason
from selvedge.core.unit import UnitResult
from selvedge.engines.postgres.approvals import Approvals
from selvedge.engines.postgres.cluster_phase import ClusterPhase
from selvedge.engines.postgres.counting import count_rows, loses_rows
from selvedge.engines.postgres.ending import PENDING, go_on_ending
from selvedge.engines.postgres.errors import DatabaseMissingError
from selvedge.engines.postgres.freeing import free_elsewhere, usable
from selvedge.engines.postgres.looks import ClusterView, read_snapshot
from selvedge.engines.postgres.report import Findings, results
from selvedge.engines.postgres.session import Session
from selvedge.engines.postgres.work import Work, foreseen, new_database

#: How often row-level security may be found wanting before somebody else must be at it.
_ROUNDS = 8


class Pass:
    """One pass."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.engine = work.engine
        self.compiled = work.compiled
        self.desired = work.compiled.desired
        self.approvals = Approvals(self.desired.database.name, self.engine.metadata_schema, self.compiled.policies)
        self.pending_cluster: list[c.Change] = []
        self.pending_inside: list[c.Change] = []
        self.cluster_problems: list[Problem] = []
        self.inside_problems: list[Problem] = []
        self.looked = False
        self.exists = False
        self.available: frozenset[str] | None = None
        self.last_phase = False
        self.elsewhere: dict[str, tuple[Elsewhere, ...]] = {}
        self.blocked: frozenset[str] = frozenset()
        self.able: frozenset[str] = frozenset()
        self.freeing_problems: list[Problem] = []
        self.advice: list[tuple[str, str]] = []
        self.rows = work.rows
        self.rows_now: list[RowSecurityChange] = []
        self.tables_now: list[OnTable] = []
        self.headroom: dict[str, tuple[tuple[str, float], ...]] = {}
        self.settled: Snapshot | None = None

    async def run(self) -> UnitResult:
        """Look, and do. At most one session is held at a time."""
        await self._run()
        await self._count()
        return self._result()

    async def _run(self) -> None:
        if not self.desired.database.member:
            return  # nobody of the unit may use the database
        server_wide = True
        if not self.work.straight:
            view = await self.engine.view(self.keys, self.resources)
            if self.desired.database.name not in view.databases:  # somebody may have made it since the book was read
                view = await self.engine.view(self.keys, self.resources, fresh=True)
            if await self._end_sessions(view):
                view = await self.engine.view(self.keys, self.resources, fresh=True)
            self.remember(view.snapshot)
            if self.desired.database.name in view.databases:
                try:
                    cluster, inside = await self._look(view)
                    if self._must_learn:
                        await self.rows.learn()
                        cluster, inside = await self._look(view)
                    if not cluster and not inside and not self.rows.may_succeed_now(self.work.applied):
                        await self._finish()
                        return
                    await self.work.tell([*cluster, *inside])
                    server_wide = bool(cluster)
                except DatabaseMissingError:
                    pass  # dropped by hand since the view was read: made again from nothing
        if server_wide:
            await self._cluster_phase()
        if not self.exists or self.refused():
            return
        snapshot = await self._inside()
        if self.last_phase:
            await self._free_elsewhere(snapshot)
            await self._cluster_phase(late_only=True)
        self._settle(snapshot)
        await self._finish()

    async def _look(self, view: ClusterView) -> tuple[list[c.Change], list[c.Change]]:
        """One statement; then the database's own changes in the same session, if there are no others.

        Returns the server-wide changes that are to be made first, and the database's own that are still to be made.
        """
        engine = self.engine
        async with engine.pool.session(self.desired.database.name) as session:
            self.exists = True
            snapshot = await read_snapshot(session, self.desired, engine.metadata_schema)
            if self.remember(snapshot):
                snapshot = await read_snapshot(session, self.desired, engine.metadata_schema)
            self.note(snapshot)
            engine.check_identity(snapshot)
            self._note_places(snapshot)
            cluster, self.cluster_problems = self.cluster_diff(view, snapshot)
            self.looked = True
            if self.refused():
                return [], []
            inside, self.inside_problems = self._database_diff(foreseen(snapshot, cluster))
            if self._must_learn:
                return [], []
            self.work.find_drift([*cluster, *inside])
            cluster_now, inside_now = self._plan(cluster, inside)
            if inside_now and not cluster_now and not self.work.untold(inside_now):
                made = await self._database_phase(session)
                if made is not None:
                    snapshot, inside_now = made, [*self.tables_now]
            if not cluster_now and not inside_now:
                self._settle(snapshot)
            return cluster_now, inside_now

    # --- the two phases ---

    async def _cluster_phase(self, *, late_only: bool = False) -> None:
        """Roles, memberships and the database itself; in one transaction with other units that wait for the same."""
        phase = ClusterPhase(self, late_only)
        view = await self.engine.turns.take(phase)
        await self._end_sessions(view)
        if phase.untold:
            await self.work.tell(phase.now)
            await self._cluster_phase(late_only=late_only)
            return
        self.work.applied += phase.todo
        if phase.creation:
            await self._create(phase.creation, view)

    async def _end_sessions(self, view: ClusterView) -> bool:
        """Go on with ending sessions that keep a role they lost; False where there are none."""
        if PENDING not in view.snapshot.claims or self.work.plan_only:
            return False
        await go_on_ending(self.engine, self.desired.role_names(), self.work.may_write)
        return True

    async def _create(self, creation: list[c.CreateDatabase], view: ClusterView) -> None:
        """CREATE DATABASE, which cannot be part of a transaction."""
        async with self.engine.maintenance() as session:
            transaction = self.engine.transaction(session, self.work.may_write)
            for change in creation:
                await transaction.create_database(change, view.snapshot)
                self.work.applied.append(change)
                self.engine.made(change.database)
                self.exists = True

    async def _inside(self) -> Snapshot:
        """The database's own part, with row-level security before it: a table is closed before anything is granted."""
        for _ in range(_ROUNDS):
            async with self.engine.pool.session(self.desired.database.name) as session:
                snapshot = await self._database_phase(session)
            if snapshot is not None and not self.tables_now:
                if not self.rows.may_succeed_now(self.work.applied):
                    return snapshot
            elif snapshot is not None:
                self.work.applied += await self.work.tables.make(self.tables_now, snapshot, self.desired.tables)
            elif self._must_learn:
                await self.rows.learn()
            else:
                self.work.applied += await self.rows.make(self.rows_now, self.desired)
        names = ", ".join(sorted({str(change.ref) for change in (*self.rows_now, *self.tables_now)}))
        message = f"{names} was made {_ROUNDS} times and is not there; another session may be putting it back"
        raise TransientError(Reason.NOT_CONVERGED, message)

    async def _finish(self) -> None:
        """Probes that are due, after everything is committed; what they mean for the objects; and advice."""
        if self.rows.must_prove and not self.work.plan_only:
            self.work.applied += await self.rows.prove(self.desired)
            self.settled = await self._inside()
        if self.settled is not None:
            await self.rows.lint(self.desired, self.settled)

    async def _count(self) -> None:
        """The rows that go with what waits: once for a plan, since whoever decides needs no newer number."""
        losing = {self.approvals.key(x): x for x in self.pending_inside if loses_rows(x)}
        known = self.engine.lost.get(self.desired.database.name, {})
        new = [change for key, change in losing.items() if key not in known]
        if new and self.exists:
            async with self.engine.pool.session(self.desired.database.name) as session:
                counted = await count_rows(session, new)
            known = {**known, **{self.approvals.key(change): rows for change, rows in counted.items()}}
        self.approvals.lost = {change: known[key] for key, change in losing.items() if key in known}
        self.engine.lost.pop(self.desired.database.name, None)
        if losing:
            self.engine.lost[self.desired.database.name] = {key: known[key] for key in losing if key in known}

    async def _database_phase(self, session: Session) -> Snapshot | None:
        """Everything but row-level security, under the lock; None where that has something to be made first."""
        async with self.engine.transaction(session, self.work.may_write) as transaction:
            snapshot = await transaction.snapshot(self.desired)
            if self.remember(snapshot):
                await session.rollback()
                snapshot = await transaction.snapshot(self.desired)
            self.note(snapshot)
            self._note_places(snapshot)
            self.engine.check_identity(snapshot)
            changes, self.inside_problems = self._database_diff(snapshot)
            self.approvals.compare_inside(changes)
            now, self.pending_inside = self.gate(changes)
            if self._rows_first(now):
                return None
            now = [change for change in now if not isinstance(change, OnTable)]
            if now:
                snapshot = await transaction.apply(now, snapshot, self.desired, self._residue)
                self.work.applied += now
                changes, self.inside_problems = self._database_diff(snapshot)
                if self._rows_first(self.gate(changes)[0]):
                    return None
        return snapshot

    def _rows_first(self, now: Sequence[c.Change]) -> bool:
        """Whether row-level security has something to learn or to make."""
        self.rows_now = [change for change in now if isinstance(change, RowSecurityChange)]
        self.tables_now = [change for change in now if isinstance(change, OnTable)]
        return bool(self.rows_now) or self._must_learn

    async def _free_elsewhere(self, snapshot: Snapshot) -> None:
        """What roles that go hold in other databases; where one cannot be freed it stays, and says why."""
        found, _ = diff_elsewhere(going(self.desired, snapshot), self.elsewhere, self._may_use())
        now, _ = self.gate(self._possible(found, snapshot)[0])
        for change in now:
            if change.ref.name in self.blocked:
                continue
            problem = await free_elsewhere(self.engine.pool, self.engine.maintenance, change, self.work.may_write)
            if problem is None:
                self.work.applied.append(change)
            else:
                self.freeing_problems.append(problem)
                self.blocked |= {change.ref.name}
        self.elsewhere = {role: places for role, places in self.elsewhere.items() if role in self.blocked}

    # --- pure steps ---

    def _note_places(self, snapshot: Snapshot) -> None:
        """Take over where roles that go hold something."""
        own = self.desired.database.name
        held = snapshot.elsewhere.items()
        self.elsewhere = {role: tuple(x for x in places if x.database != own) for role, places in held}
        self.blocked = stuck(self.desired, snapshot)

    def _may_use(self) -> dict[str, frozenset[str]]:
        """By member the databases, of those that roles that go are held by, that the server's access gives to it."""
        names = {place.database for places in self.elsewhere.values() for place in places}
        return {one.uid: usable(self.work.unit, one, names) for one in self.work.unit.members}

    def refused(self) -> bool:
        """Whether the database itself belongs to somebody else; then nothing in it is touched."""
        return any(problem.status.ref.kind == "database" for problem in self.cluster_problems)

    @property
    def resources(self) -> tuple[str, ...]:
        """The unit's resources, as claims name them."""
        return tuple(sorted(self.compiled.resources.values()))

    @property
    def keys(self) -> tuple[str, ...]:
        """The server-wide objects that the unit declares, as claims name them."""
        roles = [role.name for role in self.desired.roles]
        databases = {self.desired.database.name, *(name for role in roles for name in databases_of(role))}
        return (PENDING, *(f"database:{name}" for name in sorted(databases)), *(f"role:{role}" for role in roles))

    @property
    def _must_learn(self) -> bool:
        return self.rows.must_learn and not self.work.plan_only

    def remember(self, snapshot: Snapshot) -> bool:
        """Have the next snapshot show what claims remember; True when it shows more than the one before."""
        known = self.desired.remembered
        found = united(known, remembered(self.desired, self.work.book(snapshot), self.compiled.prune))
        self.desired = replace(self.desired, remembered=found)
        tables = ask_timescale(self.desired.tables, snapshot)
        if tables is not None:
            self.desired = replace(self.desired, tables=tables)
        return found != known or tables is not None

    def cluster_diff(self, view: ClusterView, roles: Snapshot) -> tuple[list[c.Change], list[Problem]]:
        """What differs in the server-wide part: claims and databases as in ``view``, roles as in ``roles``."""
        book = self.work.book(view.snapshot)
        places = Places(self.elsewhere, self._may_use(), self.blocked)
        found, problems = diff_cluster(
            self.desired, roles.roles, view.databases, book, self.compiled.adopt, roles.version, places
        )
        made = {change.role for change in found if isinstance(change, c.CreateRole)}
        able, lacking = become_able(self.desired, renamed_snapshot(roles, role_renames(found)), made)
        self.able = frozenset(change.ref.name for change in able) | made
        possible, refused = self._possible([*found, *able], roles)
        self.approvals.saw_cluster(possible, roles, self.elsewhere)
        self.work.takeover.cluster(
            possible, book, self.desired.database.name, exists=self.desired.database.name in view.databases
        )
        return possible, [*problems, *lacking, *refused]

    def _database_diff(self, snapshot: Snapshot) -> tuple[list[c.Change], list[Problem]]:
        self.available = frozenset(snapshot.available) | frozenset(snapshot.extensions)
        book = self.work.book(snapshot)
        rows, row_problems = self.rows.diff(self.desired, snapshot, book)
        self.headroom = headroom_of(self.desired, snapshot)
        kept, trouble = diff_tables(self.desired, snapshot, book, self.compiled.adopt, self.engine.metadata_schema)
        found, problems = diff_database(self.desired, snapshot, book, self.compiled.prune, self.compiled.adopt)
        logs = guard_logs(self.desired, snapshot, book)
        found = [*rows, *self.rows.held(logs.kept(found)), *self.work.tables.possible(kept)]
        problems = [*problems, *row_problems, *trouble, *self.work.tables.problems(kept), *logs.problems]
        self.advice = [*other_makers(self.desired.defaults, snapshot.defaults, owners(snapshot.groups)), *logs.advice]
        possible, refused = self._possible(found, snapshot)
        self.approvals.saw_inside(possible, snapshot)
        self.work.takeover.inside(possible, book)
        return possible, [*problems, *refused]

    def _possible(self, found: list[c.Change], server: Snapshot) -> tuple[list[c.Change], list[Problem]]:
        """The changes without those that the server refused, and without those that it would refuse to this login."""
        blocked, problems = not_permitted(found, server, self.able)
        failed = [*self.work.failed, *blocked]
        return without_failed(c.ordered(found), failed, self.compiled.policies), problems

    def _plan(self, cluster: list[c.Change], inside: list[c.Change]) -> tuple[list[c.Change], list[c.Change]]:
        """What is to be made now. An approval is for the whole plan, so it is compared here and kept for the phases."""
        self.approvals.decide([*cluster, *inside], exists=self.exists)
        cluster_now, self.pending_cluster = self.gate(cluster)
        inside_now, self.pending_inside = self.gate(inside)
        return cluster_now, inside_now

    def foresee(self, cluster: list[c.Change], server: Snapshot) -> None:
        """The plan for a database that does not exist: what is to be made in it is known all the same."""
        self.work.find_drift(cluster)
        inside: list[c.Change] = []
        if not self.exists:
            inside, _ = self._database_diff(new_database(self.desired, server, cluster))
            self.available = None
        self._plan(cluster, inside)

    def gate(self, found: list[c.Change]) -> tuple[list[c.Change], list[c.Change]]:
        """What may be made now, and what waits."""
        return self.rows.gated(*self.work.split(found, self.approvals.granted(found)))

    def _residue(self, snapshot: Snapshot) -> list[c.Change]:
        """What is still to be done after everything was: has to be empty before a commit."""
        changes, _ = self._database_diff(snapshot)
        # Tables have transactions of their own: what differs there by now comes after this one.
        return [change for change in self.gate(changes)[0] if not isinstance(change, (RowSecurityChange, OnTable))]

    def note(self, snapshot: Snapshot) -> None:
        """Take over which server it is."""
        self.approvals.note(snapshot)

    def _settle(self, snapshot: Snapshot) -> None:
        self.settled = snapshot
        if not self.work.plan_only and not self.pending_cluster and not self.pending_inside:
            self.engine.saw(self.desired.database.name, snapshot)

    def _result(self) -> UnitResult:
        pending = [*self.pending_cluster, *self.pending_inside]
        failed = [Problem(change.member, status) for change, status in self.work.failed.items()]
        members = {}
        for uid in self.compiled.declared:
            found = Findings(
                problems=(*self.cluster_problems, *self.inside_problems, *self.freeing_problems, *failed),
                advice=(*(text for member, text in self.advice if member == uid), *self.rows.advice(uid)),
                row_security=self.rows.proofs(uid),
                headroom=self.headroom.get(uid, ()),
                applied=self.approvals.made(uid, self.work.applied),
                pending=self.approvals.waiting(uid, pending),
                refused=self.approvals.refused(uid, pending),
                drift=tuple(sorted(self.work.drift.get(uid, ()))),
                digest=self.approvals.digest(uid, pending),
            )
            members[uid] = results(
                self.compiled, uid, found, exists=self.exists, version=self.approvals.version, available=self.available
            )
        return UnitResult(members, self.approvals.system_identifier)
