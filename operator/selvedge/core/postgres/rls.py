"""Row-level security: what is declared, what stands, what claims remember of it, and the difference.

The server stores a policy's expression as a tree and shows it in its own words, so a declaration is never compared with
it as text. What the server makes of a declared expression is learned once (the engine asks it, without evaluating
anything), kept in the table's claim, and believed for as long as declaration and live policy are both unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from selvedge.core.postgres.changes import DropClaims, Privileges, RevokePrivileges
from selvedge.core.postgres.cluster_diff import ClaimBook, conflict
from selvedge.core.postgres.expression import refusal
from selvedge.core.postgres.model import CurrentRole, Problem
from selvedge.core.postgres.rls_changes import (
    AlterPolicy,
    ClosePartition,
    CreatePolicy,
    DisableRowSecurity,
    DropPolicy,
    EnableRowSecurity,
    ForceRowSecurity,
    RowPolicy,
    RowSecurityChange,
    TableKey,
    carries_expression,
    ordered,
)
from selvedge.core.postgres.rls_model import (
    DesiredRowSecurity,
    Learned,
    PartitionState,
    RowSecurityDiff,
    TableState,
    claim_key,
    proof_key,
    question,
    table_ref,
)
from selvedge.core.postgres.rls_record import KIND, Canonical, TableRecord, record_of
from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectState, ObjectStatus


def diff_row_security(
    desired: Iterable[DesiredRowSecurity],
    tables: Mapping[TableKey, TableState],
    roles: Mapping[str, CurrentRole],
    book: ClaimBook,
    learned: Learned,
    *,
    partition_grants: frozenset[TableKey] = frozenset(),
    refused: frozenset[str] = frozenset(),
    renamed: Mapping[str, str] | None = None,
    superuser: bool = True,
) -> RowSecurityDiff:
    """The difference for all tables of a unit; claims go into ``book``.

    ``partition_grants`` are tables that a declared grant names: their privileges are the grant's matter. ``refused``
    are claims of what a member declares and may not have: left alone. ``renamed`` maps the old names of schemas that
    are being renamed to the new ones. ``superuser``: the operator's login is one, and need not become an owner first.
    """
    found = RowSecurityDiff()
    entries = tuple(desired)
    declared = frozenset(entry.key for entry in entries)
    for entry in entries:
        look = _Look(tables.get(entry.key), roles, book, learned, partition_grants, declared, superuser)
        _Table(entry, look, found).run()
    moving = {(old, table) for old, new in (renamed or {}).items() for schema, table in declared if schema == new}
    there = {claim_key(key) for key in moving if key in tables}
    _left(refused.union(map(claim_key, declared), there), tables, book, found)
    found.changes = ordered(found.changes)
    return found


@dataclass(frozen=True, slots=True)
class _Look:
    """What is known of a declared table and around it; ``declared`` are all tables with an entry of their own."""

    current: TableState | None
    roles: Mapping[str, CurrentRole]
    book: ClaimBook
    learned: Learned
    partition_grants: frozenset[TableKey]
    declared: frozenset[TableKey]
    superuser: bool


class _Table:
    """One declared table."""

    def __init__(self, entry: DesiredRowSecurity, look: _Look, found: RowSecurityDiff) -> None:
        self.entry = entry
        self.ref = entry.ref
        self.look = look
        self.current = look.current
        self.roles = look.roles
        self.book = look.book
        self.learned = look.learned
        self.found = found
        self.record = record_of(look.book, claim_key(entry.key))
        self.canonical: dict[str, Canonical] = {}
        self.changes: list[RowSecurityChange] = []
        self.waits = False

    def run(self) -> None:
        holder = self.book.foreign(claim_key(self.entry.key))
        if holder is not None:
            self.found.problems.append(conflict(self.ref, self.entry.member, holder, self.book.cluster))
            return
        if not self._possible():
            if self.current is not None and not self.current.enabled:
                self.found.unprotected.add(self.entry.key)
            return
        if self.current is None:
            raise AssertionError("_possible() lets only tables through that exist")
        wanted = self._wanted()
        self._flags(wanted, self.current)
        self._policies(wanted, self.current)
        self._partitions(wanted, self.current)
        if self.current.privileged and any(carries_expression(change) for change in self.changes):
            self._owned_by_administrator(self.current)
        if not self.current.enabled and not any(isinstance(change, EnableRowSecurity) for change in self.changes):
            self.found.unprotected.add(self.entry.key)
        self.found.changes += self.changes
        self._claim(self.current)

    def _wanted(self) -> DesiredRowSecurity:
        """The declaration, or what stood before it where its probes failed: that is tried no second time."""
        broken = self.record.broken
        if broken is None or broken.declared != self.entry.digest():
            return self.entry
        self._problem(ObjectState.FAILED, Reason.ISOLATION_BROKEN, broken.message)
        return replace(self.entry, force=broken.before.forced, policies=broken.before.policies)

    # --- what stands in the way ---

    def _problem(self, state: ObjectState, reason: Reason, message: str) -> None:
        status = ObjectStatus(self.ref, state, reason, message)
        self.found.problems.append(Problem(self.entry.member, status))

    def _possible(self) -> bool:
        name = ".".join(self.entry.key)
        wrong = _contradiction(self.entry)
        if wrong:
            self._problem(ObjectState.FAILED, Reason.INVALID_SPEC, f"row-level security of {name}: {wrong}")
            return False
        if self.current is None:
            message = f"row-level security is declared for table {name}, which does not exist: a migration creates it"
            self._problem(ObjectState.WAITING, Reason.WAITING_FOR_OBJECTS, message)
            return False
        if self.current.relation not in ("r", "p"):
            message = f"{name} is no table, and only tables have row-level security: name the table behind it"
            self._problem(ObjectState.FAILED, Reason.INVALID_SPEC, message)
            return False
        missing = sorted(self.entry.role_names() - self.roles.keys())
        if missing:
            message = f"row-level security of {name} names role {missing[0]}, which does not exist: declare it"
            self._problem(ObjectState.WAITING, Reason.ROLE_NOT_FOUND, message)
            return False
        return self._may_probe(name)

    def _may_probe(self, name: str) -> bool:
        probed = {expectation.role for expectation in self.entry.expect}
        probed |= {self.entry.tenant.role} if self.entry.tenant else set()
        for role in sorted(probed):
            if self.roles[role].privileged:
                message = (
                    f"the probes of {name} name role {role}, which may act as an administrator or bypass row-level "
                    "security: nothing is tried as such a role, name one without these rights"
                )
                self._problem(ObjectState.FAILED, Reason.INVALID_SPEC, message)
                return False
        return True

    def _owned_by_administrator(self, current: TableState) -> None:
        """Nothing with an expression; and nothing at all where the table was open and ours to close never was."""
        name = ".".join(self.entry.key)
        message = (
            f"table {name} is owned by {current.owner}, who may act as an administrator: the server could run code of "
            f"a policy's expression as that role, so no policy is created; run ALTER TABLE {name} OWNER TO a role "
            "without these rights"
        )
        self._problem(ObjectState.FAILED, Reason.UNSAFE_OWNER, message)
        keep = bool(self.record.standing) or current.enabled
        self.changes = [x for x in self.changes if keep and not carries_expression(x)]
        self.waits = True

    # --- the difference ---

    def _flags(self, wanted: DesiredRowSecurity, current: TableState) -> None:
        where = (self.ref, self.entry.member, *self.entry.key)
        broken = self.record.broken if wanted is not self.entry else None
        open_before = broken is not None and not broken.before.enabled
        if not current.enabled and not open_before:
            self.changes.append(EnableRowSecurity(*where))
        if current.enabled and open_before and self.record.attempt is not None:
            # Once, to put back what stood; whoever closes the table by hand later is not contradicted.
            self.changes.append(DisableRowSecurity(*where))
        if current.forced != wanted.force:
            self.changes.append(ForceRowSecurity(*where, wanted.force))

    def _policies(self, wanted: DesiredRowSecurity, current: TableState) -> None:
        where = (self.ref, self.entry.member, *self.entry.key)
        declared = {policy.name: policy for policy in wanted.policies}
        for name, live in sorted(current.policies.items()):
            if name not in declared:
                self.changes.append(DropPolicy(*where, name, live.permissive))
        for name, policy in declared.items():
            present = current.policies.get(name)
            if present is not None and _alterable(policy, present):
                self._compare(wanted, policy, present)
            elif not self._refused(wanted, policy):
                if present is not None:
                    self.changes.append(DropPolicy(*where, name, present.permissive))
                self.changes.append(CreatePolicy(*where, policy))

    def _compare(self, wanted: DesiredRowSecurity, policy: RowPolicy, live: RowPolicy) -> None:
        where = (self.ref, self.entry.member, *self.entry.key)
        roles = policy.roles if policy.roles != live.roles else None
        known = self._known(policy, live)
        if known is None and question(self.entry.key, policy) not in self.learned:
            self.found.unlearned.append((wanted, policy))
        if known is not None and known.stands_as(live):
            self.canonical[policy.name] = known
            if roles is not None:
                self.changes.append(AlterPolicy(*where, policy.name, roles))
        elif not self._refused(wanted, policy):
            self.changes.append(AlterPolicy(*where, policy.name, roles, policy.using, policy.check))

    def _known(self, policy: RowPolicy, live: RowPolicy) -> Canonical | None:
        """What the server makes of the declared expressions, as far as that is known."""
        if (policy.using, policy.check) == (live.using, live.check):
            return Canonical(policy.using, policy.check, live.using, live.check)
        recorded = self.record.canonical.get(policy.name)
        if recorded is not None and recorded.of(policy) and recorded.stands_as(live):
            return recorded
        fresh = self.learned.get(question(self.entry.key, policy))
        return fresh if isinstance(fresh, Canonical) else None

    def _refused(self, wanted: DesiredRowSecurity, policy: RowPolicy) -> bool:
        """Whether the server refuses the declared expression: then there is no use in sending it."""
        why = self.learned.get(question(wanted.key, policy))
        if not isinstance(why, str):
            return False
        name = ".".join(self.entry.key)
        self._problem(ObjectState.FAILED, Reason.STATEMENT_FAILED, f"policy {policy.name} of {name}: {why}")
        self.waits = True
        return True

    def _partitions(self, wanted: DesiredRowSecurity, current: TableState) -> None:
        """A partition read by its own name knows nothing of its parent's policies: it is closed that way."""
        where = (self.ref, self.entry.member, *self.entry.key)
        if wanted is not self.entry:
            return
        for partition in current.partitions:
            if partition.foreign:
                self._foreign(partition)
                continue
            if partition.key in self.look.declared:
                continue
            if not partition.enabled or (wanted.force and not partition.forced):
                self.changes.append(ClosePartition(*where, partition.key, wanted.force))
            for name in partition.policies:
                self.changes.append(DropPolicy(*where, name, True, partition.key))
        self._direct_grants(current)

    def _foreign(self, partition: PartitionState) -> None:
        name = ".".join(partition.key)
        message = (
            f"partition {name} of {'.'.join(self.entry.key)} is a foreign table, which has no row-level security: "
            f"take from everybody what is granted on {name} itself"
        )
        if partition.grants:
            self._problem(ObjectState.FAILED, Reason.UNSUPPORTED, message)

    def _direct_grants(self, current: TableState) -> None:
        """What is granted on partitions themselves goes, unless a grant of the declaration names the partition.

        First what others than the owner gave, each as himself while he still may; then what hangs on the owner.
        """
        first: list[RevokePrivileges] = []
        last: list[RevokePrivileges] = []
        for partition in current.partitions:
            if partition.foreign or partition.key in self.look.partition_grants | self.look.declared:
                continue
            for (grantee, grantor), privileges in sorted(partition.grants.items()):
                owner = "" if self.look.superuser else partition.owner
                held, name = tuple(sorted(privileges)), (partition.name,)
                what = Privileges("table", partition.schema, name, held, grantee, False, grantor, True, owner)
                (first if grantor else last).append(RevokePrivileges(self.ref, self.entry.member, what))
        self.found.changes += [*first, *last]

    # --- the claim ---

    def _claim(self, current: TableState) -> None:
        done = not self.changes and not self.waits
        declared = self.entry.digest()
        kept = {name: known for name, known in self.record.canonical.items() if name in current.policies}
        record = replace(self.record, canonical={**kept, **self.canonical})
        if record.broken is not None and record.broken.declared != declared:
            record = replace(record, broken=None)
        if done and record.broken is not None:
            record = replace(record, attempt=None)
        elif done:
            record = replace(record, standing=declared)
            if not self.entry.probed:
                record = replace(record, attempt=None, proof=None)
            elif self._unproven(record, current):
                self.found.unproven.append(self.entry)
        self.book.want(claim_key(self.entry.key), self.entry.member, record.detail())

    def _unproven(self, record: TableRecord, current: TableState) -> bool:
        proof = record.proof
        if proof is None or proof.state != proof_key(self.entry, current):
            return True
        if proof.failed:
            self._problem(ObjectState.FAILED, Reason.ISOLATION_BROKEN, broken_message(self.entry.key, proof.notes))
        # Not probed for want of rows: tried again when there are some, or twice as many.
        return proof.not_probed > 0 and current.rows > 2 * proof.rows


def broken_message(key: TableKey, failures: Sequence[str]) -> str:
    """What a failed proof means."""
    name = ".".join(key)
    more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
    return f"row-level security of {name} does not hold: {failures[0] if failures else 'a probe failed'}{more}"


def _alterable(policy: RowPolicy, live: RowPolicy) -> bool:
    """ALTER POLICY changes neither command nor mode, and can change an expression and not take it away."""
    gone = (policy.using is None and live.using is not None) or (policy.check is None and live.check is not None)
    return (live.command, live.permissive) == (policy.command, policy.permissive) and not gone


def _contradiction(entry: DesiredRowSecurity) -> str:
    """What no server would take, in words that name the policy."""
    for policy in entry.policies:
        for word, text in (("using", policy.using), ("withCheck", policy.check)):
            why = refusal(text) if text is not None else ""
            if why:
                return f"{word} of policy {policy.name} is no expression: {why}"
        if policy.command == "INSERT" and (policy.using is not None or policy.check is None):
            return f"policy {policy.name} is for Insert and needs withCheck and no using"
        if policy.command in ("SELECT", "DELETE") and (policy.check is not None or policy.using is None):
            return f"policy {policy.name} is for {policy.command.capitalize()} and needs using and no withCheck"
    return ""


def _left(kept: Iterable[str], tables: Mapping[TableKey, TableState], book: ClaimBook, found: RowSecurityDiff) -> None:
    """Tables that left the declaration: their policies go, and row-level security stays.

    A line that is deleted from a manifest closes a table; it never opens one.
    """
    names = frozenset(kept)
    for member in book.resources:
        for claim in book.owned(f"{KIND}:", member):
            if claim.object in names:
                continue
            schema, _, name = claim.object.removeprefix(f"{KIND}:").partition(".")
            ref = table_ref((schema, name))
            table = tables.get((schema, name))
            if table is not None:
                for policy in sorted(record_of(book, claim.object).canonical):
                    if policy in table.policies:
                        permissive = table.policies[policy].permissive
                        found.changes.append(DropPolicy(ref, member, schema, name, policy, permissive))
            found.changes.append(DropClaims(ref, member, (claim.object,)))
