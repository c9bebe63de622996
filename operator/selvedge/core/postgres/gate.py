"""What of a plan may be done now, and what has to wait: the policy of the declaration, as pure functions."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from selvedge.core.digest import plan_digest
from selvedge.core.postgres.changes import (
    BOOKKEEPING,
    Change,
    CreateDatabase,
    CreateExtension,
    CreateRole,
    CreateSchema,
    DropClaims,
    DropDatabase,
    DropRole,
    DropSchema,
    HandOverDatabase,
    RenameRole,
    RenameSchema,
    RetireElsewhere,
    WriteClaims,
)
from selvedge.core.postgres.takeover import is_authoritative
from selvedge.core.postgres.triggers import TableChange
from selvedge.core.unit import ObjectRef, Risk

#: Objects whose names are the resource's own: two resources may each have one of that name.
_OF_A_RESOURCE = ("grant", "defaultPrivilege")


@dataclass(frozen=True, slots=True)
class Policy:
    """What one member allows.

    ``approved`` is the digest in ``spec.approvedPlan``. ``refuses`` names the field by which data is lost with no
    approval either; it is empty where none is Refuse.
    """

    resource: str
    automatic: bool = True
    destructive: bool = False
    report_drift: bool = False
    verified: bool = False
    approved: str = ""
    refuses: str = ""


def digest(system_identifier: str, database: str, changes: Iterable[tuple[str, str]]) -> str:
    """What an approval names: sha256 over the server's identity, the database and the ordered changes.

    Each is its statement and what it replaces.
    """
    return plan_digest(system_identifier, database, changes)


def approved(changes: Sequence[Change], policies: Mapping[str, Policy], digests: Mapping[str, str]) -> list[Change]:
    """The changes of the members whose approval names exactly this plan; ``digests`` are those of their own parts."""
    named = {uid for uid, policy in policies.items() if policy.approved and policy.approved == digests.get(uid)}
    return [change for change in changes if change.member in named]


def split(
    changes: Sequence[Change],
    policies: Mapping[str, Policy],
    granted: Collection[Change],
    plan_only: bool,
    takes: Collection[Change] = (),
) -> tuple[list[Change], list[Change]]:
    """Changes to make now, and changes that wait.

    ``granted`` are those that a person approved, ``takes`` those that take from others what they gave. What is refused
    waits whoever approved it. Claims of objects with a waiting change wait too, or what was granted before would be
    forgotten.
    """
    now: list[Change] = []
    waiting: list[Change] = []
    for change in changes:
        if isinstance(change, BOOKKEEPING):
            continue
        policy = policies[change.member]
        free = change not in takes or policy.verified or policy.destructive
        may = change in granted or (free and _allowed(change, policy))
        allowed = may and not plan_only and not refused(change, policy)
        (now if allowed else waiting).append(change)
    held = {(change.ref, change.member) for change in waiting if not is_authoritative(change)}
    # What is refused waits for ever: what matches beside it is claimed all the same.
    everything_waits = not now and any(not refused(change, policies[change.member]) for change in waiting)
    for change in changes:
        if isinstance(change, BOOKKEEPING) and not plan_only:
            kept = without_claims(change, held, policies)
            if kept is not None and not everything_waits:
                now.append(kept)
    return now, waiting


def refused(change: Change, policy: Policy) -> bool:
    """Whether no approval lets the change be made: it loses data, and ``destructive`` is Refuse.

    A schema goes with an approval all the same: the server drops it only while it is empty.
    """
    empty = isinstance(change, DropSchema) and not change.cascade
    return bool(policy.refuses) and change.risk is Risk.DESTRUCTIVE and not empty


def told(change: Change, policy: Policy) -> bool:
    """Whether a change that waits is a problem of its object: refused, and no drift that is only reported.

    Drift stays drift: another reason than DriftDetected, and the generation would count as never verified.
    """
    return refused(change, policy) and not (policy.verified and policy.report_drift)


def _allowed(change: Change, policy: Policy) -> bool:
    if policy.verified and policy.report_drift and not (isinstance(change, TableChange) and change.upkeep):
        return False
    if change.risk is Risk.DESTRUCTIVE and not isinstance(change, DropDatabase):
        return policy.destructive and policy.automatic
    return policy.automatic


def without_failed(changes: Sequence[Change], failed: Sequence[Change], policies: Mapping[str, Policy]) -> list[Change]:
    """The changes without those that the server refused, and without all that needs an object it refused to make."""
    creations = (CreateRole, CreateDatabase, CreateSchema, CreateExtension, RenameRole, RenameSchema)
    never_made = {(change.ref, change.member) for change in failed if isinstance(change, creations)}
    # A database whose owner could not be made would only fail as well, and hide why.
    roles = {change.ref.name for change in failed if isinstance(change, CreateRole)}
    never_made |= {(x.ref, x.member) for x in changes if isinstance(x, CreateDatabase) and x.owner in roles}
    kept: list[Change] = []
    for change in changes:
        if isinstance(change, BOOKKEEPING):
            rest = without_claims(change, never_made, policies)
            if rest is not None:
                kept.append(rest)
        elif change not in failed and (change.ref, change.member) not in never_made:
            kept.append(change)
    return kept


def without_claims(change: Change, held: set[tuple[ObjectRef, str]], policies: Mapping[str, Policy]) -> Change | None:
    """The bookkeeping without the rows of objects that are held back; None when nothing is left of it."""
    names = set()
    for ref, member in held:
        middle = f"{policies[member].resource}:" if ref.kind in _OF_A_RESOURCE else ""
        names.add(f"{ref.kind}:{middle}{ref.name}")
        if ref.kind == "role":
            names.add(f"roleSettings:{ref.name}")
    if isinstance(change, WriteClaims):
        rows = tuple(claim for claim in change.claims if claim.object not in names)
        return WriteClaims(change.ref, change.member, rows) if rows else None
    if isinstance(change, DropClaims):
        # The claim of an object's old name goes when it is renamed, and not before.
        if change.ref.kind in ("role", "schema") and (change.ref, change.member) in held:
            return None
        objects = tuple(name for name in change.objects if name not in names)
        return DropClaims(change.ref, change.member, objects) if objects else None
    return change


def late(change: Change) -> bool:
    """Whether a change of the cluster's phase comes after the database's phase."""
    return isinstance(change, (DropRole, DropDatabase, RetireElsewhere, HandOverDatabase))
