"""``kubectl selvedge explain REASON``: what a reason means, whether waiting helps, and the next step."""

from __future__ import annotations

import json
from difflib import get_close_matches
from typing import Any

import click

from selvedge.cli.remedies import Standing, remedy_of
from selvedge.core.reasons import Reason
from selvedge.core.words import some

_WHO = {
    Standing.GOOD: "all is well",
    Standing.WORKING: "the operator goes on by itself",
    Standing.RETRIED: "something failed and is tried again by itself, for ever; status.nextRetryTime says when",
    Standing.ACTION: "waiting does not help: somebody has to change something",
    Standing.DECISION: "a person has to decide",
    Standing.EVENT: "an event: it says what happened",
}


def find(word: str) -> Reason:
    """The reason that ``word`` names, however it is written: WaitingForLock, waitingforlock, waiting-for-lock.

    Raises ClickException with those that are written alike where there is none.
    """
    names = {_plain(str(reason)): reason for reason in Reason}
    asked = _plain(word)
    if asked in names:
        return names[asked]
    near = get_close_matches(asked, names, n=3, cutoff=0.5)
    near += [name for name in names if len(asked) > 2 and asked in name and name not in near]
    if near:
        raise click.ClickException(f"no reason is called {word[:63]!r}: did you mean {some(_shown(near, names))}?")
    raise click.ClickException(f"no reason is called {word[:63]!r}: `kubectl selvedge explain` lists all of them")


def document(reason: Reason) -> dict[str, Any]:
    """The form for machines."""
    remedy = remedy_of(reason)
    return {
        "reason": str(reason),
        "meaning": reason.explanation,
        "standing": str(remedy.standing),
        "waitingHelps": remedy.standing in (Standing.WORKING, Standing.RETRIED),
        "nextStep": remedy.shown(),
    }


def lines(reason: Reason) -> list[str]:
    """The form for people."""
    remedy = remedy_of(reason)
    return [f"{reason}: {reason.explanation}", f"  {_WHO[remedy.standing]}", f"  next: {remedy.shown()}"]


def show(word: str, form: str) -> str:
    """The text of one reason, or of all of them where ``word`` is empty. Raises ClickException."""
    if word:
        reason = find(word)
        return _json(document(reason)) if form == "json" else "\n".join(lines(reason))
    if form == "json":
        return _json([document(reason) for reason in Reason])
    width = max(len(reason) for reason in Reason)
    return "\n".join(f"{reason.ljust(width)}  {reason.explanation}" for reason in Reason)


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _plain(word: str) -> str:
    return "".join(letter for letter in word.lower() if letter.isalnum())


def _shown(near: list[str], names: dict[str, Reason]) -> list[str]:
    return [str(names[name]) for name in near]
