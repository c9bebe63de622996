"""What a pass over one resource means for its status, and when to look again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from selvedge.api.base import Status
from selvedge.api.status import fit
from selvedge.core.conditions import set_condition, standard, timestamp
from selvedge.core.errors import SelvedgeError, TransientError
from selvedge.core.reasons import Reason


@dataclass(frozen=True, slots=True)
class Notice:
    """An event to post: something changed that people want to know."""

    reason: Reason
    message: str
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a pass over one resource.

    ``ready`` None is neither good nor bad (suspended). ``retrying`` False means that nothing happens by itself until
    somebody changes something. ``status`` are the kind's own fields, ``extra`` its own conditions.
    """

    ready: bool | None
    reason: Reason
    message: str
    retrying: bool = True
    status: Mapping[str, Any] = field(default_factory=dict)
    extra: tuple[tuple[str, bool, Reason, str], ...] = ()
    notices: tuple[Notice, ...] = ()
    retry_at: datetime | None = None


def from_error(error: SelvedgeError, retry_at: datetime | None = None) -> Outcome:
    """The outcome of a pass that an error ended."""
    transient = isinstance(error, TransientError)
    return Outcome(False, error.reason, error.message, retrying=transient, retry_at=retry_at if transient else None)


def status_document(outcome: Outcome, before: Mapping[str, Any], generation: int, now: datetime) -> dict[str, Any]:
    """The whole new status: the fields of ``outcome`` over those that stay from ``before``."""
    conditions = standard(
        before.get("conditions") or (),
        ready=outcome.ready,
        reason=outcome.reason,
        message=outcome.message,
        generation=generation,
        now=now,
        retrying=outcome.retrying,
    )
    for kind, true, reason, message in outcome.extra:
        conditions = set_condition(
            conditions, type=kind, status=true, reason=reason, message=message, generation=generation, now=now
        )
    status = {**before, **outcome.status, "observedGeneration": generation, "conditions": conditions}
    status["nextRetryTime"] = timestamp(outcome.retry_at) if outcome.retry_at else None
    return {key: value for key, value in status.items() if value is not None}


def finished(
    outcome: Outcome,
    before: Mapping[str, Any],
    generation: int,
    now: datetime,
    redact: Callable[[str], str],
    model: type[Status],
) -> dict[str, Any]:
    """The status as the API server gets it: without secrets, and only then cut to the bounds of its CRD.

    In this order, since half a secret is one that no net would recognise.
    """
    extra = tuple((kind, true, reason, redact(message)) for kind, true, reason, message in outcome.extra)
    outcome = replace(outcome, message=redact(outcome.message), extra=extra)
    return fit(model, _redacted(status_document(outcome, before, generation, now), redact))


def _redacted(value: Any, redact: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: _redacted(inner, redact) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_redacted(inner, redact) for inner in value]
    return value


def merge_patch(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """RFC 7386: what turns ``before`` into ``after``; empty when they are equal, and then nothing is written.

    A value of None is none: a patch could not set it, and would be sent with each pass.
    """
    patch: dict[str, Any] = {}
    for key in before.keys() - {key for key, value in after.items() if value is not None}:
        patch[key] = None
    for key, value in after.items():
        if value is None:
            continue
        old = before.get(key)
        if isinstance(value, dict) and isinstance(old, Mapping):
            inner = merge_patch(old, value)
            if inner:
                patch[key] = inner
        elif key not in before or old != value:
            patch[key] = value
    return patch
