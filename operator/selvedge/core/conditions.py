"""Status conditions as Kubernetes and kstatus read them.

``Ready`` says whether the live server equals the declaration, ``Reconciling`` that work goes on by itself, ``Stalled``
that nothing will happen until somebody changes something. At most one of the three is true, so that ``kubectl wait``,
Argo CD and Flux come to the same verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from selvedge.core.reasons import Reason

READY = "Ready"
RECONCILING = "Reconciling"
STALLED = "Stalled"
MAX_MESSAGE = 1024


@dataclass(frozen=True, slots=True)
class Condition:
    """One entry of ``status.conditions``; ``status`` is None where Kubernetes says Unknown."""

    type: str
    status: bool | None
    reason: str
    message: str
    observed_generation: int
    last_transition_time: str

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Condition:
        """Read what the API server returned; a missing field becomes its empty value."""
        return cls(
            type=str(raw.get("type", "")),
            status={"True": True, "False": False}.get(str(raw.get("status", ""))),
            reason=str(raw.get("reason", "")),
            message=str(raw.get("message", "")),
            observed_generation=int(raw.get("observedGeneration") or 0),
            last_transition_time=str(raw.get("lastTransitionTime", "")),
        )

    def to_json(self) -> dict[str, Any]:
        """The entry as the API server wants it."""
        return {
            "type": self.type,
            "status": status_word(self.status),
            "reason": self.reason,
            "message": self.message,
            "observedGeneration": self.observed_generation,
            "lastTransitionTime": self.last_transition_time,
        }


def status_word(status: bool | None) -> str:
    """``True``, ``False`` or ``Unknown``."""
    return "Unknown" if status is None else str(status)


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC with whole seconds, as ``metav1.Time`` is written; a naive ``moment`` is refused.

    Raises:
        ValueError: ``moment`` has no time zone.
    """
    if moment.tzinfo is None:
        raise ValueError("a time without a zone cannot be written to a status")
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def find(conditions: Sequence[Mapping[str, Any]], type: str) -> Condition | None:  # noqa: A002 - Kubernetes' own word
    """The condition of this type, or None."""
    return next((Condition.from_json(raw) for raw in conditions if raw.get("type") == type), None)


def set_condition(
    conditions: Sequence[Mapping[str, Any]],
    *,
    type: str,  # noqa: A002 - Kubernetes' own word
    status: bool | None,
    reason: Reason,
    message: str,
    generation: int,
    now: datetime,
) -> list[dict[str, Any]]:
    """``conditions`` with this one set, the others and the order untouched.

    ``lastTransitionTime`` moves only when the status changes, so an equal call returns an equal list and nothing has
    to be written. The message has to be redacted by the caller; it is cut to 1,024 characters.
    """
    before = find(conditions, type)
    unchanged = before is not None and before.status is status and before.last_transition_time
    entry = Condition(
        type=type,
        status=status,
        reason=str(reason),
        message=_shortened(message),
        observed_generation=generation,
        last_transition_time=before.last_transition_time if before and unchanged else timestamp(now),
    ).to_json()
    result = [dict(raw) for raw in conditions]
    for index, raw in enumerate(result):
        if raw.get("type") == type:
            result[index] = entry
            return result
    return [*result, entry]


def standard(
    conditions: Sequence[Mapping[str, Any]],
    *,
    ready: bool | None,
    reason: Reason,
    message: str,
    generation: int,
    now: datetime,
    retrying: bool = True,
) -> list[dict[str, Any]]:
    """``conditions`` with Ready, Reconciling and Stalled set so that they agree.

    ``ready`` None (nothing is known yet, or the resource is suspended) and ``retrying`` False is neither stalled nor
    at work: nothing is wrong, and nothing is done. ``ready`` False is Stalled where ``retrying`` is False, else
    Reconciling. All three carry the reason and the message, because tools show whichever they look at.
    """
    reconciling = ready is not True and retrying
    stalled = ready is False and not retrying
    for type_, status in ((READY, ready), (RECONCILING, reconciling), (STALLED, stalled)):
        conditions = set_condition(
            conditions, type=type_, status=status, reason=reason, message=message, generation=generation, now=now
        )
    return [dict(raw) for raw in conditions]


def _shortened(message: str) -> str:
    return message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 1] + "…"
