"""What a pass tells each member: its problems, what was done and what waits, and advice."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from selvedge.core.postgres.model import Problem
from selvedge.core.unit import ChangeSummary, MemberResult, ObjectRef, ObjectStatus, Risk, TableProof
from selvedge.engines.postgres.compile import Compiled

#: What migrations need: while one of these is missing, the member is not Provisioned.
_NEEDED = frozenset({"database", "schema", "role", "extension"})


@dataclass(frozen=True, slots=True)
class Findings:
    """What a pass found: the problems of all members, and the changes and the drift of one.

    ``refused`` is what is said of those pending changes that no approval lets be made.
    """

    problems: tuple[Problem, ...]
    applied: tuple[ChangeSummary, ...]
    pending: tuple[ChangeSummary, ...]
    drift: tuple[ObjectRef, ...]
    digest: str
    advice: tuple[str, ...] = ()
    row_security: tuple[TableProof, ...] = ()
    headroom: tuple[tuple[str, float], ...] = ()
    refused: tuple[ObjectStatus, ...] = ()


def results(
    compiled: Compiled, uid: str, found: Findings, *, exists: bool, version: int, available: frozenset[str] | None
) -> MemberResult:
    """The result of one member. A problem of the database itself is everybody's."""
    mine = [*compiled.problems[uid]]
    for problem in found.problems:
        if problem.member == uid or problem.status.ref.kind == "database":
            mine.append(problem.status)
    blocked = any(status.ref.kind in _NEEDED for status in mine) or any(
        change.ref.kind in _NEEDED for change in found.pending if change.risk is Risk.ADDITIVE
    )
    bad = {status.ref for status in mine} | {change.ref for change in found.pending}
    return MemberResult(
        ready=_ready(compiled, uid, mine, bad, exists=exists),
        # What is refused stands as it was: nobody who needs it waits for it.
        problems=(*mine, *found.refused),
        applied=found.applied,
        pending=found.pending,
        drift=found.drift,
        advice=(*_advice(compiled, uid, version, available), *found.advice),
        row_security=found.row_security,
        headroom=found.headroom,
        provisioned=exists and not blocked,
        digest=found.digest,
    )


def _ready(
    compiled: Compiled, uid: str, problems: Collection[ObjectStatus], bad: Collection[ObjectRef], *, exists: bool
) -> int:
    """How many objects are as declared; not what nobody looked at, in a database that is somebody else's or gone."""
    if any(status.ref.kind == "database" for status in problems):
        return 0
    if exists:
        return max(0, compiled.declared[uid] - len(bad))
    roles = (ObjectRef("role", role.name) for role in compiled.desired.roles if role.member == uid)
    return sum(ref not in bad for ref in roles)


def _advice(compiled: Compiled, uid: str, version: int, available: frozenset[str] | None) -> tuple[str, ...]:
    advice = []
    for role in compiled.desired.roles:
        if version < 160000 and role.member == uid and any(not (m.inherit and m.set) for m in role.memberships):
            advice.append(
                f"role {role.name}: inherit and set of a membership exist from Postgres 16 on and are ignored here"
            )
    for extension in compiled.desired.extensions:
        wanted = extension.member == uid and extension.optional and not extension.absent
        if wanted and available is not None and extension.name not in available:
            advice.append(
                f"extension {extension.name} is optional and not installed on the server: what needs it is missing; "
                "install its package there to have it"
            )
    return tuple(advice)
