"""Who may do what with an audit's log, whatever the declarations say: the log is no table like others.

Nobody may change or remove an entry, and nobody may pass a right on the log on. Reading it is for the DatabaseSchema
whose audit it is to grant; writing events into ``audit_logs``, where who wrote them is stamped on them, for everybody
in the database. Nothing is granted on a partition by its own name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from selvedge.core.postgres.audit import EVENTS, DesiredAudit, Meant
from selvedge.core.postgres.change import Change, Problem
from selvedge.core.postgres.changes import GrantPrivileges, Privileges, RevokePrivileges
from selvedge.core.postgres.cluster_diff import ClaimBook
from selvedge.core.postgres.grants_wanted import expand
from selvedge.core.postgres.model import Desired, DesiredGrant, Snapshot
from selvedge.core.postgres.triggers import Table
from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectState, ObjectStatus


@dataclass(frozen=True, slots=True)
class _Log:
    audit: DesiredAudit
    events: bool
    partition: bool

    def allows(self, member: str) -> frozenset[str]:
        """What a grant of this member may give on it."""
        if self.partition:
            return frozenset()
        return frozenset({"SELECT"} if member == self.audit.member else ()) | ({"INSERT"} if self.events else set())


@dataclass(frozen=True, slots=True)
class LogGuard:
    """The logs of a database and what is meant to be granted on each. ``problems`` are of grants that ask for more.

    ``functions`` write the logs with the rights of their writer: whoever may execute one could put it on a table of his
    own and write what he likes, so the audit alone says who may. Names as in :class:`Privileges`, without arguments.
    """

    logs: Mapping[Table, _Log] = field(default_factory=dict)
    meant: Mapping[Table, Meant] = field(default_factory=dict)
    functions: frozenset[tuple[str, str]] = frozenset()
    problems: tuple[Problem, ...] = ()
    advice: tuple[tuple[str, str], ...] = ()

    def kept(self, changes: Iterable[Change]) -> list[Change]:
        """The changes without what may not be granted on a log; what is to be revoked there is the audit's matter."""
        if not self.logs:
            return list(changes)
        return [one for change in changes for one in self._kept(change)]

    def _kept(self, change: Change) -> Iterator[Change]:
        if not isinstance(change, (GrantPrivileges, RevokePrivileges)):
            yield change
            return
        others = tuple(name for name in change.what.names if not self._guarded(change.what, name))
        if others == change.what.names:
            yield change
            return
        if others:
            yield replace(change, what=replace(change.what, names=others))
        for name in change.what.names:
            allowed = self._allowed(change.what, name)
            if isinstance(change, GrantPrivileges) and allowed:
                yield replace(change, what=replace(change.what, names=(name,), privileges=allowed))

    def _guarded(self, what: Privileges, name: str) -> bool:
        if what.kind in ("table", "column"):
            return (what.schema, name.partition("\0")[0]) in self.logs
        return what.kind == "function" and (what.schema, name) in self.functions

    def _allowed(self, what: Privileges, name: str) -> tuple[str, ...]:
        table, _, column = name.partition("\0")
        if what.kind == "function" or what.grantable:
            return ()
        meant = self.meant.get((what.schema, table), {}).get((column, what.grantee), frozenset())
        return tuple(word for word in what.privileges if word in meant)


def guard_logs(desired: Desired, snapshot: Snapshot, book: ClaimBook) -> LogGuard:
    """The guard of all logs that the unit's own audits keep."""
    audits = [one for one in desired.tables.audits if book.foreign(one.key) is None] if desired.tables else []
    if not audits:
        return LogGuard()
    logs = _logs(audits, snapshot)
    functions = {f"{one.name[0]}.{one.name[1]}()": (one, audit) for audit in audits
                 for one in (desired.tables.functions[audit.schema] if desired.tables else ())}  # fmt: skip
    meant: dict[Table, dict[tuple[str, str], frozenset[str]]] = {}
    problems: list[Problem] = []
    advice: list[tuple[str, str]] = []
    for grant in desired.grants:
        if grant.absent:
            continue
        for signature in grant.target.functions:
            if signature in functions:
                problems.append(_of_function(grant, signature, book.resources[functions[signature][1].member]))
        if grant.target.kind not in ("table", "column"):
            continue
        refused: list[tuple[Table, _Log, frozenset[str]]] = []
        for table, column, named in _on(grant, logs):
            words = expand(grant.privileges, grant.target.kind, snapshot.version)
            log = logs[table]
            allowed = frozenset() if grant.grantable else words & log.allows(grant.member)
            for role in grant.to:
                mine = meant.setdefault(table, {})
                mine[column, role] = mine.get((column, role), frozenset()) | allowed
            if words - allowed:
                refused.append((table, log, words - allowed))
                if not named:
                    advice.append((grant.member, _left_out(grant, table, words - allowed)))
        if any(grant.target.tables) or grant.target.columns:
            problems += _refused(grant, refused, book)
    names = frozenset((one.name[0], f"{one.name[1]}\0") for one, _ in functions.values())
    return LogGuard(logs, meant, names, tuple(problems), tuple(dict.fromkeys(advice)))


def _logs(audits: Iterable[DesiredAudit], snapshot: Snapshot) -> dict[Table, _Log]:
    found: dict[Table, _Log] = {}
    for audit in audits:
        for name in audit.logs():
            table = (audit.schema, name)
            found[table] = _Log(audit, name == EVENTS, partition=False)
            live = snapshot.tables.audit.owners.get(table, {}) if snapshot.tables else {}
            for relation in live.keys() - {table}:
                found[relation] = _Log(audit, name == EVENTS, partition=True)
    return found


def _on(grant: DesiredGrant, logs: Mapping[Table, _Log]) -> Iterator[tuple[Table, str, bool]]:
    """The logs that a grant is about, each with a column or none, and whether it is named there."""
    for table in grant.target.tables:
        if table in logs:
            yield table, "", True
    for schema, name, columns in grant.target.columns:
        if (schema, name) in logs:
            for column in columns:
                yield (schema, name), column, True
    for table, log in logs.items():
        if table[0] in grant.target.tables_in and not log.partition:
            yield table, "", False


def _refused(
    grant: DesiredGrant, refused: Iterable[tuple[Table, _Log, frozenset[str]]], book: ClaimBook
) -> Iterator[Problem]:
    for table, log, words in refused:
        if table not in grant.target.tables and table not in {(s, t) for s, t, _ in grant.target.columns}:
            continue
        whose = f"the audit log of DatabaseSchema {book.resources[log.audit.member]}"
        name, listed = ".".join(table), ", ".join(sorted(words))
        if log.partition:
            text = f"names {name}, a partition of {whose}: grant SELECT on the log itself, there"
        elif grant.grantable:
            text = f"gives {listed} on {name}, {whose}, to be passed on: leave grantOption out"
        elif words == {"SELECT"}:
            text = f"gives SELECT on {name}, {whose}, which shows everybody's rows: declare the grant there"
        else:
            text = (
                f"gives {listed} on {name}, {whose}: nobody may forge, change or remove its entries; leave the table "
                "out of the grant (retention removes what is old)"
            )
        status = ObjectStatus(grant.ref, ObjectState.CONFLICT, Reason.CONFLICT, f"grant {grant.name} {text}")
        yield Problem(grant.member, status)
        return  # one sentence for a grant


def _of_function(grant: DesiredGrant, signature: str, whose: str) -> Problem:
    text = (
        f"grant {grant.name} gives EXECUTE on {signature}, which writes the audit log of DatabaseSchema {whose}: "
        "whoever may execute it could write entries of his own; leave it out of the grant"
    )
    return Problem(grant.member, ObjectStatus(grant.ref, ObjectState.CONFLICT, Reason.CONFLICT, text))


def _left_out(grant: DesiredGrant, table: Table, words: frozenset[str]) -> str:
    return (
        f"grant {grant.name} covers schema {table[0]} with the audit log {table[1]} in it, on which it does not give "
        f"{', '.join(sorted(words))}"
    )
