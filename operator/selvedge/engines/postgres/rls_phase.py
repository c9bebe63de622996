"""Row-level security within a pass: what is to be learned, made and proven, and what that means for its objects.

It comes before the database's own transaction, so that a table is closed before anything on it is granted, and takes a
short transaction for each table. Probes come last, after everything else is committed. A declaration whose probes fail
is put back at once and remembered in the table's claim: it is tried again when it changes, and not before.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from selvedge.core.errors import ConflictError, InvalidError, NotPermittedError, RefusedError
from selvedge.core.postgres import changes as c
from selvedge.core.postgres.cluster_diff import ClaimBook
from selvedge.core.postgres.model import Desired, Problem, Snapshot
from selvedge.core.postgres.rls import broken_message, diff_row_security
from selvedge.core.postgres.rls_changes import RowSecurityChange, TableKey
from selvedge.core.postgres.rls_lint import Finding, advice, findings_of_policies
from selvedge.core.postgres.rls_model import (
    DesiredRowSecurity,
    RowSecurityDiff,
    TableState,
    claim_key,
    proof_key,
    question,
)
from selvedge.core.postgres.rls_record import Broken, Canonical, PreImage, Proof, TableRecord, record_of
from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectState, ObjectStatus, TableProof
from selvedge.engines.postgres.rls_apply import Known, apply_tables, learn, policies_login
from selvedge.engines.postgres.rls_lint_sql import lint
from selvedge.engines.postgres.rls_memory import advice_state
from selvedge.engines.postgres.rls_probe import Verdict, probe_login, prove

if TYPE_CHECKING:
    from selvedge.engines.postgres.engine import PostgresEngine

#: What waiting does not change; it concerns the tables and not the whole database.
_LASTING = (ConflictError, InvalidError, NotPermittedError, RefusedError)
_NOTES = 5
#: What a refusal that only a right is missing for says.
_LACK = "(SQLSTATE 42501)"

Update = Callable[[TableRecord, TableState], TableRecord]


@dataclass(frozen=True, slots=True)
class _Proven:
    entry: DesiredRowSecurity
    state: str
    verdict: Verdict


class RowSecurity:
    """The row-level security of one unit, through all passes of one call."""

    def __init__(
        self,
        engine: PostgresEngine,
        database: str,
        book: Callable[[Snapshot], ClaimBook],
        may_write: Callable[[], None],
    ) -> None:
        self.engine = engine
        self.database = database
        self.may_write = may_write
        self._book_of = book
        self._learned: Known = {}
        self._asked: set[object] = set()
        self._tried_again = False
        self._failed: dict[TableKey, Problem] = {}
        self._found = RowSecurityDiff()
        self._tables: Mapping[TableKey, TableState] = {}
        self._desired: Sequence[DesiredRowSecurity] = ()
        self._records: dict[TableKey, TableRecord] = {}
        self._schemas: dict[str, frozenset[str]] = {}
        self._findings: tuple[Finding, ...] = ()

    # --- the difference ---

    def diff(self, desired: Desired, snapshot: Snapshot, book: ClaimBook) -> tuple[list[c.Change], list[Problem]]:
        """The changes that may still succeed, and the problems; to be asked before others claim from ``book``."""
        if not desired.row_security and not desired.remembered.tables:
            return [], []
        self._tables, self._desired = snapshot.row_security, desired.row_security
        self._recall(desired.row_security)
        roles = {name: role for name, role in snapshot.roles.items() if name not in desired.remembered.dropped}
        self._found = found = diff_row_security(
            desired.row_security,
            snapshot.row_security,
            roles,
            book,
            self._learned,
            partition_grants=_granted_by_name(desired),
            refused=desired.refused,
            renamed={one.renamed_from: one.name for one in desired.schemas if one.renamed_from},
            superuser=snapshot.superuser,
        )
        for key in self._failed:
            if key in self._tables and not self._tables[key].enabled:
                found.unprotected.add(key)
        self._records = {entry.key: _newest(book, entry.key) for entry in desired.row_security}
        changes = [x for x in found.changes if not (isinstance(x, RowSecurityChange) and x.key in self._failed)]
        return changes, [*found.problems, *self._failed.values()]

    def held(self, changes: Iterable[c.Change]) -> list[c.Change]:
        """The changes without grants on tables whose rows nothing protects."""
        return _without_grants(changes, self._found.unprotected)[0]

    @staticmethod
    def gated(now: list[c.Change], waiting: list[c.Change]) -> tuple[list[c.Change], list[c.Change]]:
        """What may be made now, without grants on tables whose row-level security waits."""
        tables = {change.key for change in waiting if isinstance(change, RowSecurityChange)}
        kept, held = _without_grants(now, tables)
        return kept, [*waiting, *held]

    @property
    def must_learn(self) -> bool:
        """Whether there are declared expressions that only the server can compare, and that it was not asked about."""
        return any(question(entry.key, policy) not in self._asked for entry, policy in self._found.unlearned)

    def _recall(self, desired: Iterable[DesiredRowSecurity]) -> None:
        """What this process learned before about the same declaration and the same live policy."""
        for entry in desired:
            table = self._tables.get(entry.key)
            for policy in entry.policies if table else ():
                live = table.policies.get(policy.name) if table else None
                asked = question(entry.key, policy)
                if live is not None and asked not in self._learned:
                    known = self.engine.rows.words((self.database, asked, live.using, live.check))
                    if known is not None:
                        self._learned[asked] = known

    async def learn(self) -> None:
        """Ask the server what it makes of the expressions that differ as text. Raises only what passes by itself."""
        wanted = [one for one in self._found.unlearned if question(one[0].key, one[1]) not in self._asked]
        self._asked.update(question(entry.key, policy) for entry, policy in wanted)
        login = policies_login(self.engine.target, self.database)
        try:
            learned = await learn(self.engine.pool, login, wanted, self._tables)
        except _LASTING:
            return  # making the change meets the same, and there it is the object's problem
        self._learned.update(learned)
        for entry, policy in wanted:
            asked = question(entry.key, policy)
            known = learned.get(asked)
            live = self._tables[entry.key].policies.get(policy.name)
            if isinstance(known, Canonical) and live is not None:
                self.engine.rows.learn((self.database, asked, live.using, live.check), known)

    # --- making ---

    async def make(self, changes: Sequence[c.Change], desired: Desired) -> list[c.Change]:
        """Make the changes table by table; what fails becomes a problem of its table. Returns what stands."""
        mine = [change for change in changes if isinstance(change, RowSecurityChange)]
        await self._attempt(mine, desired)
        try:
            login = policies_login(self.engine.target, self.database)
            applied = await apply_tables(self.engine.pool, login, mine, self._tables, self.may_write)
        except _LASTING as error:
            for change in mine:
                status = ObjectStatus(change.ref, ObjectState.FAILED, error.reason, error.message)
                self._failed[change.key] = Problem(change.member, status)
            return []
        self._learned.update(applied.learned)
        members = {change.key: change.member for change in mine}
        for key, status in applied.failed.items():
            self._failed[key] = Problem(members[key], status)
        return applied.made

    def may_succeed_now(self, applied: Iterable[c.Change]) -> bool:
        """Whether what was refused for want of a right is to be tried again, because other changes were made since.

        Row-level security comes first, as the table's owner, and what lets him into the schema, its new owner or a
        grant, comes after it. True once in a call: whoever still lacks the right then is told so.
        """
        others = any(not isinstance(x, (RowSecurityChange, *c.BOOKKEEPING)) for x in applied)
        lacking = {
            key for key, problem in self._failed.items() if problem.status.reason is Reason.INSUFFICIENT_PRIVILEGES
        }
        refused = {asked for asked, known in self._learned.items() if isinstance(known, str) and _LACK in known}
        if self._tried_again or not others or not (lacking or refused):
            return False
        self._tried_again = True
        self._failed = {key: problem for key, problem in self._failed.items() if key not in lacking}
        self._learned = {asked: known for asked, known in self._learned.items() if asked not in refused}
        self._asked -= refused
        return True

    async def _attempt(self, changes: Sequence[RowSecurityChange], desired: Desired) -> None:
        """Write down what stands on tables with probes before it is changed, so that it can be put back."""
        touched = {change.key for change in changes}
        wanted: dict[TableKey, DesiredRowSecurity] = {}
        for entry in desired.row_security:
            record = self._records.get(entry.key, TableRecord())
            tried = record.attempt is not None and record.attempt[0] == entry.digest()
            if entry.key in touched and entry.probed and record.standing != entry.digest() and not tried:
                wanted[entry.key] = entry

        def update(entry: DesiredRowSecurity) -> Update:
            def apply(record: TableRecord, table: TableState) -> TableRecord:
                return replace(record, attempt=(entry.digest(), _pre_image(table)))

            return apply

        await self._write({key: (entry, update(entry)) for key, entry in wanted.items()}, desired)

    async def _write(
        self, updates: Mapping[TableKey, tuple[DesiredRowSecurity, Update]], desired: Desired
    ) -> Snapshot | None:
        """Update the claims of these tables, under the lock and from what stands in them then."""
        if not updates:
            return None
        engine = self.engine
        async with (
            engine.pool.session(self.database) as session,
            engine.transaction(session, self.may_write) as transaction,
        ):
            snapshot = await transaction.snapshot(desired)
            engine.check_identity(snapshot)
            book = self._book_of(snapshot)
            for key, (entry, update) in updates.items():
                table = snapshot.row_security.get(key)
                if table is not None and book.foreign(claim_key(key)) is None:
                    record = update(record_of(book, claim_key(key)), table)
                    book.want(claim_key(key), entry.member, record.detail())
            if not book.new:
                return snapshot
            entry = next(iter(updates.values()))[0]
            rows = tuple(book.new[name] for name in sorted(book.new))
            return await transaction.apply(
                [c.WriteClaims(entry.ref, entry.member, rows)], snapshot, desired, lambda _: []
            )

    # --- proving ---

    @property
    def must_prove(self) -> bool:
        """Whether a table stands as declared and its probes have not said so."""
        return bool(self._found.unproven)

    async def prove(self, desired: Desired) -> list[c.Change]:
        """Run the probes that are due and write down what they said. Returns the changes that put something back."""
        proven = [await self._verdict(entry) for entry in self._found.unproven]

        def update(one: _Proven) -> Update:
            return lambda record, table: _with_verdict(one, record, table)

        after = await self._write({one.entry.key: (one.entry, update(one)) for one in proven}, desired)
        if after is None:
            return []
        book = self._book_of(after)
        self.diff(desired, after, book)
        failed = {one.entry.key for one in proven if one.verdict.failures}
        back = [
            change
            for change in self._found.changes
            if isinstance(change, RowSecurityChange)
            and change.key in failed
            and record_of(book, claim_key(change.key)).broken is not None
        ]
        return await self.make(back, desired) if back else []

    async def _verdict(self, entry: DesiredRowSecurity) -> _Proven:
        table = self._tables[entry.key]
        login = probe_login(self.engine.target, self.database)
        try:
            verdict = await prove(self.engine.pool, login, entry, table)
        except _LASTING as error:
            verdict = Verdict(not_probed=[error.message])
        return _Proven(entry, proof_key(entry, table), verdict)

    # --- what is told ---

    def proofs(self, member: str) -> tuple[TableProof, ...]:
        """How the tables of a member stand."""
        found = []
        for entry in self._desired:
            table = self._tables.get(entry.key)
            if entry.member == member and table is not None:
                proof = self._records[entry.key].proof or Proof("")
                counts = (proof.passed, proof.failed, proof.not_probed)
                found.append(TableProof(".".join(entry.key), len(table.policies), *counts))
        return tuple(found)

    def advice(self, member: str) -> tuple[str, ...]:
        """What weakens the row-level security of a member's tables, and why something was not probed."""
        mine = [entry for entry in self._desired if entry.member == member]
        if not mine:
            return ()
        found: list[str] = []
        for entry in mine:
            proof = self._records[entry.key].proof
            if proof is not None and not proof.failed:
                found += proof.notes
        for entry, policy in self._found.unlearned:
            if entry.member == member and question(entry.key, policy) not in self._asked:
                found.append(
                    f"policy {policy.name} of {'.'.join(entry.key)} is written otherwise than the server shows it; "
                    "the two are compared when it is applied, and nothing is changed where they are equal"
                )
        schemas = self._schemas.get(member, frozenset()) | {entry.schema for entry in mine}
        shown = [x for x in self._findings if not x.in_schema or x.object.partition(".")[0] in schemas]
        return (*found, *advice(shown))

    async def lint(self, desired: Desired, snapshot: Snapshot) -> None:
        """Look for what weakens row-level security, unless nothing changed since that was looked for."""
        if not desired.row_security:
            return
        self._schemas = {}
        for schema in desired.schemas:
            self._schemas[schema.member] = self._schemas.get(schema.member, frozenset()) | {schema.name}
        state = advice_state(snapshot)
        known = self.engine.rows.findings(self.database, state)
        if known is None:
            schemas = {schema.name for schema in desired.schemas} | {entry.schema for entry in desired.row_security}
            roles = {name for entry in desired.row_security for name in entry.role_names()}
            # And who can be a guarded table's owner, whom only FORCE keeps in.
            roles |= {table.owner for table in snapshot.row_security.values()}
            async with self.engine.pool.session(self.database) as session:
                known = (*await lint(session, schemas, roles), *findings_of_policies(snapshot.row_security.values()))
            self.engine.rows.advise(self.database, state, known)
        self._findings = known


def _without_grants(changes: Iterable[c.Change], tables: Collection[TableKey]) -> tuple[list[c.Change], list[c.Change]]:
    """The changes without grants on these tables, and those grants."""
    if not tables:
        return list(changes), []
    kept: list[c.Change] = []
    held: list[c.Change] = []
    for change in changes:
        if not isinstance(change, c.GrantPrivileges) or change.what.kind not in ("table", "column"):
            kept.append(change)
            continue
        what = change.what
        free = tuple(name for name in what.names if (what.schema, name.partition("\0")[0]) not in tables)
        rest = tuple(name for name in what.names if name not in free)
        if free:
            kept.append(change if free == what.names else replace(change, what=replace(what, names=free)))
        if rest:
            held.append(replace(change, what=replace(what, names=rest)))
    return kept, held


def _newest(book: ClaimBook, key: TableKey) -> TableRecord:
    """The record as it will stand once the book's new claims are written."""
    name = claim_key(key)
    written = ClaimBook({**book.claims, **book.new}, book.cluster, book.resources, book.alive)
    return record_of(written, name)


def _granted_by_name(desired: Desired) -> frozenset[TableKey]:
    """Tables that a grant names, partitions among them."""
    named: set[TableKey] = set()
    for grant in desired.grants:
        if not grant.absent:
            named.update(grant.target.tables)
            named.update((schema, table) for schema, table, _ in grant.target.columns)
    return frozenset(named)


def _pre_image(table: TableState) -> PreImage:
    return PreImage(table.enabled, table.forced, tuple(sorted(table.policies.values())))


def _with_verdict(one: _Proven, record: TableRecord, table: TableState) -> TableRecord:
    """The record with what probes said, if they were about what stands now."""
    if proof_key(one.entry, table) != one.state:
        return record
    verdict = one.verdict
    notes = tuple((verdict.failures or verdict.not_probed)[:_NOTES])
    counts = (verdict.passed, len(verdict.failures), len(verdict.not_probed))
    proof = Proof(one.state, *counts, rows=table.rows, notes=notes)
    digest = one.entry.digest()
    if not verdict.failures or record.attempt is None or record.attempt[0] != digest:
        return replace(record, proof=proof, attempt=None)
    message = (
        f"{broken_message(one.entry.key, verdict.failures)}; what stood before was put back, and this is tried again "
        "when the declaration of the table changes"
    )
    return replace(record, proof=proof, broken=Broken(digest, message, record.attempt[1]))
