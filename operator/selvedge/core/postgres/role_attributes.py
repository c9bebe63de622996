"""Attributes of a role: what is declared, what a group must never have, and the difference.

Only what differs is named in ``ALTER ROLE``: a login that is no superuser is refused ``NOSUPERUSER``, ``NOREPLICATION``
and ``NOBYPASSRLS`` even where they change nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from selvedge.core.postgres.change import Change, Narrowing

#: What makes a role as good as the administrator; a declared role has none of them, whoever gave it.
POWERS = ("superuser", "createrole", "replication", "bypassrls")


@dataclass(frozen=True, slots=True)
class DesiredAttributes:
    """What a declaration says; None is not looked at."""

    inherit: bool | None = None
    connection_limit: int | None = None
    valid_until: str | None = None

    def declared(self) -> tuple[str, ...]:
        """The names of those that are declared."""
        return tuple(name for name in ("connection_limit", "inherit", "valid_until") if getattr(self, name) is not None)


@dataclass(frozen=True, slots=True)
class LiveAttributes:
    """What ``pg_roles`` says; ``valid_until`` is the server's text in UTC, empty where there is none."""

    login: bool = False
    superuser: bool = False
    createrole: bool = False
    createdb: bool = False
    replication: bool = False
    bypassrls: bool = False
    inherit: bool = True
    connection_limit: int = -1
    valid_until: str = ""


_UNDECLARED = DesiredAttributes()
_PLAIN = LiveAttributes()

Words = tuple[tuple[str, str | int | None], ...]
"""The words of an ALTER ROLE in their order, with the value of those that have one."""


@dataclass(frozen=True, slots=True)
class AlterRole(Change):
    """``ALTER ROLE`` with these attributes; nothing is taken away by them."""

    role: str
    words: Words


@dataclass(frozen=True, slots=True)
class RestrictRole(Narrowing):
    """``ALTER ROLE`` with these attributes, which take something away."""

    role: str
    words: Words


def instant(text: str) -> str:
    """A time of the declaration (RFC 3339, or ``infinity``) as the server writes it under UTC and ISO.

    Raises ValueError for what is no time or has no time zone.
    """
    if text == "infinity":
        return text
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text} has no time zone: end it with Z")
    moment = moment.astimezone(UTC)
    fraction = f".{moment.microsecond:06d}".rstrip("0") if moment.microsecond else ""
    return f"{moment:%Y-%m-%d %H:%M:%S}{fraction}+00"


def diff_attributes(
    desired: DesiredAttributes, live: LiveAttributes, *, ours: bool, before: frozenset[str] = frozenset()
) -> tuple[Words, Words]:
    """What is to be given and what is to be taken away.

    ``ours``: we made the role, so it is a group and no login and makes no databases; of a role that was taken over
    these two are left as they are. ``before`` are the attributes that were declared once: what left the declaration
    goes back to Postgres's own default.
    """
    if live == _PLAIN and desired == _UNDECLARED and not before:
        return (), ()
    give: list[tuple[str, str | int | None]] = []
    take: list[tuple[str, str | int | None]] = [(f"NO{name.upper()}", None) for name in POWERS if getattr(live, name)]
    if ours and live.createdb:
        take.append(("NOCREATEDB", None))
    if ours and live.login:
        take.append(("NOLOGIN", None))
    inherit = True if desired.inherit is None and "inherit" in before else desired.inherit
    if inherit is not None and inherit != live.inherit:
        (give if inherit else take).append(("INHERIT" if inherit else "NOINHERIT", None))
    limit = -1 if desired.connection_limit is None and "connection_limit" in before else desired.connection_limit
    if limit is not None and limit != live.connection_limit:
        narrower = limit >= 0 and (live.connection_limit < 0 or limit < live.connection_limit)
        (take if narrower else give).append(("CONNECTION LIMIT", limit))
    until = "infinity" if desired.valid_until is None and "valid_until" in before else desired.valid_until
    if until is not None and until != live.valid_until and (until, live.valid_until) != ("infinity", ""):
        narrower = until != "infinity" and (live.valid_until in ("", "infinity") or until < live.valid_until)
        (take if narrower else give).append(("VALID UNTIL", until))
    return tuple(give), tuple(take)


def creation_words(desired: DesiredAttributes) -> Words:
    """The attributes that ``CREATE ROLE … NOLOGIN`` is to name."""
    give, take = diff_attributes(desired, LiveAttributes(), ours=True)
    return (*give, *take)
