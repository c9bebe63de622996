"""MongoDB behind the contract of :mod:`selvedge.engines.base`: look, compare, lock, look again, write, verify."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pymongo.errors import PyMongoError

from selvedge.core.errors import InvalidError
from selvedge.core.mongodb.diff import Difference, difference
from selvedge.core.mongodb.model import collection_ref
from selvedge.core.reasons import Reason
from selvedge.core.unit import ChangeSummary, MemberResult, ObjectRef, ObjectState, ObjectStatus, UnitResult
from selvedge.engines.mongodb import claims, policy, probe
from selvedge.engines.mongodb.apply import Applied, apply_changes, not_converged
from selvedge.engines.mongodb.builds import Builds
from selvedge.engines.mongodb.compile import Compilation, compile_unit, declared_names
from selvedge.engines.mongodb.connect import Server, operation
from selvedge.engines.mongodb.counting import Losses, key_of
from selvedge.engines.mongodb.inspect import Snapshot, look_closer, snapshot
from selvedge.engines.mongodb.lock import Lock, locked
from selvedge.engines.mongodb.migrations import open_session
from selvedge.engines.mongodb.retries import Retries
from selvedge.engines.mongodb.users import MongoLogins

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping

    from selvedge.core.mongodb.changes import Change
    from selvedge.core.rowcount import RowCount
    from selvedge.engines.base import Member, Observer, ServerFacts, ServerTarget, Unit
    from selvedge.engines.mongodb.claims import Claim
    from selvedge.engines.mongodb.counting import Key
    from selvedge.engines.mongodb.policy import Decision
    from selvedge.migrate.protocol import MigrationSession

_ROUNDS = 4


@dataclass
class _View:
    """One look at the database, compared and decided; ``held`` is what failed before and is not tried yet."""

    found: Snapshot
    compiled: Compilation
    compared: Difference
    decisions: dict[str, Decision] = field(default_factory=dict)
    held: dict[ObjectRef, ObjectStatus] = field(default_factory=dict)

    @property
    def now(self) -> tuple[Change, ...]:
        """The changes to make, in order."""
        chosen = {id(change) for decision in self.decisions.values() for change in decision.now}
        return tuple(change for change in self.compared.changes if id(change) in chosen and change.ref not in self.held)

    def claims(self, failed: Mapping[ObjectRef, ObjectStatus]) -> list[Claim]:
        """The claims to write: none on what has to wait or could not be made."""
        return [
            claim
            for ref, claim in self.compiled.claims.items()
            if ref not in failed
            and self.decisions[claim.resource].may_claim(ref)
            and (ref.kind != "database" or not self._everything_waits(claim.resource))
        ]

    def drift(self, member: Member) -> tuple[ObjectRef, ...]:
        """What of a member differs that was as declared before."""
        owners = self.compiled.owners
        found = (change.ref for change in self.compared.changes if owners.get(change.ref) == member.uid)
        return tuple(dict.fromkeys(found)) if member.verified else ()

    def writes(self) -> bool:
        """Whether there is anything to write, claims included."""
        return bool(self.now or self.claims({}) or self.compiled.releases)

    def _everything_waits(self, uid: str) -> bool:
        return bool(self.decisions[uid].later) and not self.decisions[uid].now and not self.found.claims


class MongoEngine:
    """One MongoDB server or replica set. ``metadata_schema`` names the database that holds claims and locks."""

    def __init__(self, target: ServerTarget, observer: Observer, *, metadata_schema: str = "selvedge") -> None:
        self.metadata_schema = metadata_schema
        self._target = target
        self._observer = observer
        self._server = Server(target, observer)
        self._logins = MongoLogins(self._server, observer, metadata_schema)
        self._builds = Builds(self._server)
        self._retries = Retries()
        self._losses = Losses(self._server)
        self._system: str | None = None

    async def probe(self) -> ServerFacts:
        """Log in and look. Raises the errors of ``core/errors.py``."""
        with _during("probe"):
            facts = await probe.probe(self._server, self.metadata_schema)
        self._system = facts.system_identifier
        return facts

    async def converge(self, unit: Unit, may_write: Callable[[], None]) -> UnitResult:
        """See :class:`selvedge.engines.base.Engine`."""
        first = await self._look(unit)
        self._builds.forget(unit.database, {change.ref for change in first.now})
        if not first.writes():
            return await self._told(unit, first, first, Applied())
        await self._tell(unit, first)
        patience = self._server.target.limits.lock_timeout
        async with locked(self._server, self.metadata_schema, unit.database, patience) as lock:
            view, applied = await self._write(unit, lock, may_write)
            if not view.found.claims and all(member.deleting for member in unit.members):
                may_write()
                await lock.remove()
        return await self._told(unit, first, view, applied)

    async def remove(self, unit: Unit, may_write: Callable[[], None]) -> UnitResult:
        """See :class:`selvedge.engines.base.Engine`: members that are being deleted are compiled as absent."""
        return await self.converge(policy.at_rest(unit), may_write)

    async def plan(self, unit: Unit) -> UnitResult:
        """What :meth:`converge` would do now, as ``pending``; writes nothing."""
        view = await self._look(unit)
        result = self._result(unit, view, view, Applied(), {})
        changes = policy.by_owner(view.compared.changes, view.compiled.owners)
        lost = await self._count(unit.database, view.compared.changes)
        members = {
            uid: replace(member, pending=_summaries(changes.get(uid, ()), lost))
            for uid, member in result.members.items()
        }
        for uid, member in members.items():
            if member.pending and not member.digest:
                digest = policy.digest_of(self._system or "", unit.database, changes[uid])
                members[uid] = replace(member, digest=digest)
        return replace(result, members=members)

    @asynccontextmanager
    async def migrations(
        self,
        database: str,
        *,
        run_as: str = "",
        owner: str = "",
        run: str = "",
        closed: Iterable[tuple[str, str]] = (),
        login: tuple[str, str] | None = None,
        scope: str = "",
    ) -> AsyncIterator[MigrationSession]:
        """See :meth:`selvedge.engines.base.Engine.migrations`; there are no roles to run as, and no schemas."""
        # Its user may write everything in the database: in the operator's own that would be all claims.
        if claims.is_metadata(database, self.metadata_schema):
            raise InvalidError(Reason.INVALID_SPEC, claims.own_database(database))
        async with open_session(
            self._target, self._server, database=database, observer=self._observer, run=run, login=login
        ) as session:
            yield session

    def logins(self) -> MongoLogins:
        """See :meth:`selvedge.engines.base.Engine.logins`."""
        return self._logins

    def connections(self) -> dict[str, int]:
        """Connections that are open now, by state: active, idle, waiting."""
        return self._server.connections()

    async def close(self) -> None:
        """Close every connection."""
        await self._builds.close()
        await self._server.close()

    async def _look(self, unit: Unit, doing: str = "snapshot") -> _View:
        with _during(doing):
            if self._system is None:
                # Alone, so that a refused login is told as that and not as a crowd of broken connections.
                self._system = await probe.system_identifier(self._server)
            system, found = await asyncio.gather(
                probe.system_identifier(self._server),
                snapshot(self._server, self.metadata_schema, unit.database, declared_names(unit)),
            )
            self._system = system
            compiled = compile_unit(unit, found, self.metadata_schema)
            compared = difference(compiled.desired, found.live)
            if compared.look_into or compared.count:
                live = await look_closer(self._server, unit.database, found.live, compiled.desired, compared)
                compared = difference(compiled.desired, live)
        view = _View(found, compiled, compared)
        changes = policy.by_owner(compared.changes, compiled.owners)
        for member in unit.members:
            decision = policy.decide(member, changes.get(member.uid, []), compiled.adopted, system, unit.database)
            view.decisions[member.uid] = decision
            for change in decision.now:
                held = self._retries.held(unit.database, member.generation, change)
                view.held |= {change.ref: held} if held is not None else {}
        return view

    @staticmethod
    async def _tell(unit: Unit, view: _View) -> None:
        """Say what drifted, of the members of which something is to be put back now."""
        if unit.on_drift is None:
            return
        drift = {member.uid: frozenset(view.drift(member)) for member in unit.members if view.decisions[member.uid].now}
        drift = {uid: refs for uid, refs in drift.items() if refs}
        if drift:
            await unit.on_drift(drift)

    async def _write(self, unit: Unit, lock: Lock, may_write: Callable[[], None]) -> tuple[_View, Applied]:
        """Rounds of claim, apply and look again, until nothing is left that could be done."""
        total = Applied()
        view = await self._look(unit)
        for _ in range(_ROUNDS):
            todo = [change for change in view.now if change.ref not in total.failed]
            claiming = view.claims(total.failed)
            if not todo and not claiming and not view.compiled.releases:
                return view, total
            with _during("apply"):
                lock.check()
                await self._claim(unit.database, claiming, view.compiled.releases, may_write)
                applied = await apply_changes(self._server, unit.database, todo, lock, may_write, self._builds)
                unmade = {change.ref for change in todo if change.before is None and applied.unmade(change.ref)}
                await self._claim(unit.database, (), unmade - view.found.claims.keys(), may_write)
            self._learn(unit, view, applied)
            total.done += applied.done
            total.failed |= applied.failed
            view = await self._look(unit, "verify")
        residue = [change for change in view.now if change.ref not in total.failed]
        if residue:
            raise not_converged(unit.database, residue)
        return view, total

    def _learn(self, unit: Unit, view: _View, applied: Applied) -> None:
        """Remember which indexes could not be replaced, and say of them when they are tried again."""
        generations = {member.uid: member.generation for member in unit.members}
        for change in applied.done:
            self._retries.done(unit.database, change)
        for change in applied.restored:
            generation = generations[view.compiled.owners[change.ref]]
            status = applied.failed[change.ref]
            applied.failed[change.ref] = self._retries.failed(unit.database, generation, change, status)

    async def _claim(
        self, database: str, claiming: Iterable[Claim], releases: Iterable[ObjectRef], may_write: Callable[[], None]
    ) -> None:
        limit = self._server.target.limits.statement_timeout
        for command in claims.write_commands(database, claiming, sorted(releases)):
            may_write()
            try:
                await self._server.run(self.metadata_schema, command, limit, read=False)
            except (PyMongoError, OSError) as error:
                doing = f"{next(iter(command))} {self.metadata_schema}.{claims.COLLECTION}"
                raise claims.error_of(error, self._server, self.metadata_schema, doing) from None

    async def _count(self, database: str, pending: Iterable[Change]) -> dict[Key, RowCount]:
        with _during("count"):
            try:
                return await self._losses.count(database, pending)
            except (PyMongoError, OSError) as error:
                raise self._server.error(error, "count what would be lost") from None

    async def _told(self, unit: Unit, first: _View, last: _View, applied: Applied) -> UnitResult:
        pending = [change for decision in last.decisions.values() for change in decision.pending()]
        return self._result(unit, first, last, applied, await self._count(unit.database, pending))

    def _result(
        self, unit: Unit, first: _View, last: _View, applied: Applied, lost: Mapping[Key, RowCount]
    ) -> UnitResult:
        members = {member.uid: self._member(member, first, last, applied, lost) for member in unit.members}
        return UnitResult(members, self._system or "")

    def _member(
        self, member: Member, first: _View, last: _View, applied: Applied, lost: Mapping[Key, RowCount]
    ) -> MemberResult:
        owners, compiled = last.compiled.owners, last.compiled
        decision = last.decisions[member.uid]
        problems: dict[ObjectRef, ObjectStatus] = {s.ref: s for s in compiled.statuses[member.uid]}
        problems |= {status.ref: status for status in last.compared.blocked if owners.get(status.ref) == member.uid}
        for change, status in decision.later:
            # What no approval allows says more than what waits for one on the same object.
            if change.ref not in problems or problems[change.ref].reason is not Reason.DESTRUCTIVE_REFUSED:
                problems[change.ref] = status
        # What failed in this very pass says more than what is held back because of it.
        problems |= {ref: status for ref, status in last.held.items() if owners.get(ref) == member.uid}
        problems |= {ref: status for ref, status in applied.failed.items() if owners.get(ref) == member.uid}
        declared = compiled.declared[member.uid]
        changing = {change.ref for change in decision.now}
        standing = last.found.live.collections
        compared = {c.name for c in compiled.desired.collections if c.name in standing}
        compared -= {status.ref.name for status in last.compared.blocked if status.state is ObjectState.FAILED}
        for collection, ref in compiled.indexes[member.uid]:
            above = problems.get(collection_ref(collection))
            # Nobody looked at the indexes of a collection that is not there or is of another kind.
            if above is not None and ref not in problems and collection not in compared:
                message = f"{ref} waits for {above.ref}"
                problems[ref] = replace(above, ref=ref, state=ObjectState.WAITING, message=message)
        before = first.compiled.owners
        refused = any(status.ref.kind == "database" for status in compiled.statuses[member.uid])
        adoption = any(status.reason is Reason.ADOPTION_REQUIRED for status in problems.values())
        return MemberResult(
            ready=sum(1 for ref in declared if ref not in problems and ref not in changing),
            problems=tuple(problems.values()),
            applied=tuple(
                change.summary()
                for change in applied.done
                if before.get(change.ref, owners.get(change.ref)) == member.uid
            ),
            pending=_summaries(decision.pending(), lost),
            drift=first.drift(member),
            provisioned=not refused
            and not adoption
            and all(name in standing for name in compiled.collections[member.uid]),
            digest=decision.digest,
        )


def _summaries(changes: Iterable[Change], lost: Mapping[Key, RowCount]) -> tuple[ChangeSummary, ...]:
    """Changes that wait, with the documents that go with them."""
    return tuple(replace(change.summary(), rows=lost.get(key_of(change))) for change in changes)


@contextmanager
def _during(name: str) -> Iterator[None]:
    token = operation.set(name)
    try:
        yield
    finally:
        operation.reset(token)
