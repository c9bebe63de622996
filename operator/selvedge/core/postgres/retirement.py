"""Roles that go: what they still hold, in which databases, and what has to happen before ``DROP ROLE``.

``DROP ROLE`` is refused while any database holds an object, a privilege, a default privilege or a policy that names
the role. ``REASSIGN OWNED`` and ``DROP OWNED`` reach the database that they run in and what all databases share, so
every database is visited. Their order matters: ``DROP OWNED`` alone would drop the role's tables. And it deletes a
RESTRICTIVE policy whose only role this is, which shows more rows to everybody else: that is refused and named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from selvedge.core.postgres.change import Change, Narrowing, Problem
from selvedge.core.postgres.default_privileges import DefaultKey, Held
from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectRef, ObjectState, ObjectStatus

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Holdings:
    """What one role holds in one database.

    ``entries`` counts the rows of ``pg_shdepend`` there: objects that it owns (``owned``), privileges, policies.
    ``restrictive`` are RESTRICTIVE policies of which it is the only role, as ``schema.table.policy``. ``defaults`` are
    the default privileges of the role as a creator: they would be lost, while its objects go to the successor.
    """

    entries: int = 0
    owned: int = 0
    restrictive: tuple[str, ...] = ()
    defaults: Mapping[DefaultKey, Mapping[str, Held]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Another database in which a role holds something; ``open`` is false where nobody may connect to it."""

    database: str
    entries: int
    open: bool = True
    #: The role owns the database itself.
    owner: bool = False


@dataclass(frozen=True, slots=True)
class CopiedDefault:
    """A default privilege of the role that goes, to be given to the successor's new objects."""

    key: DefaultKey
    grantee: str
    privileges: tuple[str, ...]
    grantable: bool


@dataclass(frozen=True, slots=True)
class RetireRole(Narrowing):
    """Default privileges for the successor, ``REASSIGN OWNED … TO successor``, ``DROP OWNED``, in one database."""

    role: str
    successor: str
    defaults: tuple[CopiedDefault, ...] = ()


@dataclass(frozen=True, slots=True)
class RetireElsewhere(Narrowing):
    """The same in another database; what the role holds there is looked at when it is visited."""

    role: str
    database: str


@dataclass(frozen=True, slots=True)
class HandOverDatabase(Change):
    """``ALTER DATABASE … OWNER TO``, before REASSIGN OWNED would give it to the owner of some other database."""

    role: str
    database: str


def diff_retirement(
    retiring: Mapping[str, str], holdings: Mapping[str, Holdings], successor: str, database: str
) -> tuple[list[Change], list[Problem]]:
    """What has to happen in one database; ``retiring`` maps a role to the uid of the member whose it was.

    ``successor`` gets what the roles own there; it is none of them.
    """
    changes: list[Change] = []
    problems: list[Problem] = []
    for role, member in sorted(retiring.items()):
        held = holdings.get(role)
        if held is None or not (held.entries or held.restrictive):
            continue
        ref = ObjectRef("role", role)
        if held.restrictive:
            problems.append(Problem(member, _restrictive(ref, held.restrictive, database)))
            continue
        changes.append(RetireRole(ref, member, role, successor, copied_defaults(held, role, successor)))
    return changes, problems


def _restrictive(ref: ObjectRef, policies: tuple[str, ...], database: str) -> ObjectStatus:
    shown = ", ".join(policies[:_SHOWN]) + (f" and {len(policies) - _SHOWN} more" if len(policies) > _SHOWN else "")
    message = (
        f"{ref} is not dropped: in database {database} it is the only role of RESTRICTIVE policy {shown}, which would "
        "go with it and show others more rows; drop the policy yourself, or give it another role"
    )
    return ObjectStatus(ref, ObjectState.FAILED, Reason.DESTRUCTIVE_REFUSED, message)


def copied_defaults(held: Holdings, role: str, successor: str) -> tuple[CopiedDefault, ...]:
    """What the role's new objects would have been born with, for those of the successor."""
    copied = []
    for key, grantees in sorted(held.defaults.items()):
        for grantee, privileges in sorted(grantees.items()):
            if grantee in (role, successor):
                continue
            for grantable in (False, True):
                names = tuple(sorted(name for name, option in privileges.items() if option is grantable))
                if names:
                    copied.append(CopiedDefault(key._replace(creator=successor), grantee, names, grantable))
    return tuple(copied)


def diff_elsewhere(
    retiring: Mapping[str, str], elsewhere: Mapping[str, Iterable[Elsewhere]], may_use: Mapping[str, frozenset[str]]
) -> tuple[list[Change], list[Problem]]:
    """What has to happen in other databases.

    ``may_use`` are, by member, those of these databases that the server's access gives to its namespace: a role that
    holds something in another's database is named and stays.
    """
    handed: list[Change] = []
    changes: list[Change] = []
    problems: list[Problem] = []
    for role, member in sorted(retiring.items()):
        ref = ObjectRef("role", role)
        for place in sorted(elsewhere.get(role, ()), key=lambda one: one.database):
            why, reason = "", Reason.ACCESS_DENIED
            if place.database not in may_use.get(member, frozenset()):
                why = "which the DatabaseServer's access does not give to this namespace"
            elif not place.open:
                why, reason = "which takes no connections", Reason.UNSUPPORTED
            if why:
                message = (
                    f"{ref} is not dropped: it holds something in database {place.database}, {why}; there, run "
                    "REASSIGN OWNED and then DROP OWNED yourself"
                )
                problems.append(Problem(member, ObjectStatus(ref, ObjectState.FAILED, reason, message)))
                continue
            if place.owner:
                handed.append(HandOverDatabase(ref, member, role, place.database))
            if place.entries:
                changes.append(RetireElsewhere(ref, member, role, place.database))
    # First of all: REASSIGN OWNED in any database takes the databases that the role owns with it.
    return [*handed, *changes], problems
