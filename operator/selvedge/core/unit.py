"""What one pass over one database found and did, in the words of the declaration, for either engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from selvedge.core.reasons import Reason
from selvedge.core.rowcount import RowCount


class Risk(StrEnum):
    """How much a change can hurt (design §4). The order of the members is the order of severity."""

    ADDITIVE = "Additive"
    NARROWING = "Narrowing"
    LOCKING = "Locking"
    DESTRUCTIVE = "Destructive"


class ObjectState(StrEnum):
    """The state of one declared object after a pass."""

    READY = "Ready"
    WAITING = "Waiting"
    FAILED = "Failed"
    CONFLICT = "Conflict"
    PENDING = "Pending"


@dataclass(frozen=True, slots=True, order=True)
class ObjectRef:
    """A declared object: the kind in the declaration's words (``role``, ``grant``, ``collection`` …) and its name."""

    kind: str
    name: str

    def __str__(self) -> str:
        """Kind and name, as messages show them."""
        return f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class ObjectStatus:
    """One object that is not as declared, and what to do about it."""

    ref: ObjectRef
    state: ObjectState
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class ChangeSummary:
    """One change of a plan as a person reads it: the object, the risk and the statement, secrets left out.

    ``before`` is what it replaces, where the statement does not show that: an approval is for both. ``rows`` is what is
    lost with it, for whoever decides; it changes every second, so no approval is for it.
    """

    ref: ObjectRef
    risk: Risk
    statement: str
    before: str = ""
    rows: RowCount | None = None


#: In the message of every refusal, and of nothing else: who asks the cluster sees no more than messages.
NO_APPROVAL = "which no approval overrides"
_STATEMENT = " and approve the plan: "


def refusal(ref: ObjectRef, what: str, field: str, statement: str) -> ObjectStatus:
    """What is said of a change that would lose data (``what``) and that ``field`` refuses, whoever approved it."""
    message = (
        f"{ref} is not changed: that would lose {what}, and {field} is Refuse, {NO_APPROVAL}; declare it "
        f"as it is, or set {field} to RequireApproval{_STATEMENT}{statement}"
    )
    return ObjectStatus(ref, ObjectState.PENDING, Reason.DESTRUCTIVE_REFUSED, message)


def with_beside(message: str, beside: str) -> str:
    """A refusal's message with what is to be said beside it, before its statement: that may be cut off."""
    said, _, statement = message.partition(_STATEMENT)
    return f"{said}{_STATEMENT[:-2]}{beside}; refused: {statement}" if beside and statement else message + beside


@dataclass(frozen=True, slots=True)
class TableProof:
    """The row-level security of one declared table: policies that stand, and probes by their result."""

    table: str
    policies: int
    passed: int = 0
    failed: int = 0
    not_probed: int = 0


@dataclass(frozen=True, slots=True)
class MemberResult:
    """What a pass means for one DatabaseSchema.

    ``applied`` are the changes that this pass made and committed; ``pending`` those it found and did not make
    (``drift: Report``, an approval, or a plan). ``drift`` names the objects that had been verified for this very
    generation before and differed now. Ready means: no ``problems``, nothing ``pending``, and the database was looked
    at after the last change. ``headroom``: until when (Unix time) the partitions of each table by time reach.
    """

    ready: int = 0
    problems: tuple[ObjectStatus, ...] = ()
    applied: tuple[ChangeSummary, ...] = ()
    pending: tuple[ChangeSummary, ...] = ()
    drift: tuple[ObjectRef, ...] = ()
    advice: tuple[str, ...] = ()
    row_security: tuple[TableProof, ...] = ()
    provisioned: bool = False
    digest: str = ""
    headroom: tuple[tuple[str, float], ...] = ()

    @property
    def verified(self) -> bool:
        """True when the live database equals what this member declares."""
        return self.provisioned and not self.problems and not self.pending

    @property
    def approvable(self) -> tuple[ChangeSummary, ...]:
        """Those of the ``pending`` changes that an approval lets be made: not what loses data and is refused."""
        refused = {problem.ref for problem in self.problems if problem.reason is Reason.DESTRUCTIVE_REFUSED}
        return tuple(x for x in self.pending if x.risk is not Risk.DESTRUCTIVE or x.ref not in refused)


@dataclass(frozen=True, slots=True)
class UnitResult:
    """The results of all DatabaseSchemas on one database, by the resource's uid."""

    members: dict[str, MemberResult] = field(default_factory=dict)
    system_identifier: str = ""
