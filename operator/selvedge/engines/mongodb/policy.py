"""Which changes of a plan may be made now, and what is said of the others. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from selvedge.api.databaseschema import Apply, Drift
from selvedge.core.digest import plan_digest
from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectRef, ObjectState, ObjectStatus, Risk, refusal

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from selvedge.core.mongodb.changes import Change
    from selvedge.engines.base import Member, Unit


@dataclass(frozen=True, slots=True)
class Decision:
    """The changes of one member: ``now``, and those that wait, each with the status that says for what."""

    now: tuple[Change, ...] = ()
    later: tuple[tuple[Change, ObjectStatus], ...] = ()
    digest: str = ""

    def may_claim(self, ref: ObjectRef) -> bool:
        """Whether a claim on the object may be written: not before it may be made, or a stranger's becomes ours."""
        return not any(change.ref == ref and change.before is None for change, _ in self.later)

    def pending(self) -> tuple[Change, ...]:
        """The changes that wait."""
        return tuple(change for change, _ in self.later)


def decide(
    member: Member, changes: Sequence[Change], adopted: Collection[ObjectRef], system: str, database: str
) -> Decision:
    """Sort the changes of one member by its policies.

    The digest is that of the changes that need a person's word: what goes by itself does not change it, so that an
    approval given to the whole plan holds for what is left of it. ``approvedPlan`` equal to it lets them all through.
    """
    now: list[Change] = []
    held: list[tuple[Change, Reason, str]] = []
    for change in changes:
        reason, message = _hold(member, change, change.ref in adopted)
        if reason is None:
            now.append(change)
        else:
            held.append((change, reason, message))
    digest = digest_of(system, database, (change for change, _, _ in held)) if held else ""
    if digest and digest == member.spec.approved_plan:
        # destructive: Refuse is stronger than an approval, whatever else the change waited for.
        refused = {id(change) for change, _, _ in held if _refused(member, change)}
        now = [change for change in changes if id(change) not in refused]
        held = [entry for entry in held if id(entry[0]) in refused]
    later = tuple((change, _pending(member, change, reason, message)) for change, reason, message in held)
    return Decision(tuple(now), later, digest)


def at_rest(unit: Unit) -> Unit:
    """The unit for a removal: whoever stays is heeded and not changed.

    It may be suspended, have lost its access, or wait for an approval; its own pass knows.
    """
    rest = {"apply": Apply.ON_APPROVAL, "approved_plan": ""}
    members = (one if one.deleting else replace(one, spec=one.spec.model_copy(update=rest)) for one in unit.members)
    return replace(unit, members=tuple(members))


def digest_of(system: str, database: str, changes: Iterable[Change]) -> str:
    """What an approval of these changes has to name."""
    summaries = (change.summary() for change in changes)
    return plan_digest(system, database, ((summary.statement, summary.before) for summary in summaries))


def by_owner(changes: Iterable[Change], owners: Mapping[ObjectRef, str]) -> dict[str, list[Change]]:
    """The changes of each member."""
    result: dict[str, list[Change]] = {}
    for change in changes:
        result.setdefault(owners[change.ref], []).append(change)
    return result


def _hold(member: Member, change: Change, adopted: bool) -> tuple[Reason | None, str]:
    spec = member.spec
    if member.deleting:
        return None, ""
    if spec.drift is Drift.REPORT and member.verified:
        return Reason.DRIFT_DETECTED, "differs from the declaration; spec.drift is Report, so it stays as it is"
    if _refused(member, change):
        return Reason.DESTRUCTIVE_REFUSED, ""
    if spec.apply is Apply.ON_APPROVAL:
        return Reason.WAITING_FOR_APPROVAL, "waits for an approval: spec.apply is OnApproval"
    if change.risk is Risk.DESTRUCTIVE and spec.destructive.value != "Allow":
        return Reason.WAITING_FOR_APPROVAL, "would lose data or an index in use, and waits for an approval"
    if change.risk is Risk.NARROWING and adopted and spec.destructive.value != "Allow":
        return Reason.WAITING_FOR_APPROVAL, "may refuse writes to an adopted collection, and waits for an approval"
    return None, ""


def _refused(member: Member, change: Change) -> bool:
    return bool(member.refuses) and change.risk is Risk.DESTRUCTIVE


def _pending(member: Member, change: Change, reason: Reason, message: str) -> ObjectStatus:
    if reason is Reason.DESTRUCTIVE_REFUSED:
        return refusal(change.ref, "data or an index in use", member.refuses, change.summary().statement)
    return ObjectStatus(
        change.ref, ObjectState.PENDING, reason, f"{change.ref} {message}: {change.summary().statement}"
    )
