"""Roles that go: what they still hold, in which databases, and what has to happen before ``DROP ROLE``.

``DROP ROLE`` is refused while any database holds an object, a privilege, a default privilege or a policy that names
the role. ``REASSIGN OWNED`` and ``DROP OWNED`` reach the database that they run in and what all databases share, so
every database is visited. Their order matters: ``DROP OWNED`` alone would drop the role's tables. And it deletes a
RESTRICTIVE policy whose only role this is, which shows more rows to everybody else: that is refused and named.

What a role owns may act with its owner's rights: a SECURITY DEFINER function, a view, an index expression. Whoever may
call it would act with the successor's. So nobody gets anything by which somebody could gain (:func:`successor`), and a
role's default privileges end with it: given to the successor, whoever could log in as the role would have a say in who
may use the successor's future objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from selvedge.core.own_roles import heir_of
from selvedge.core.postgres.change import Change, Narrowing, Problem
from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectRef, ObjectState, ObjectStatus

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Holdings:
    """What one role holds in one database.

    ``entries`` counts the rows of ``pg_shdepend`` there: objects that it owns (``owned``), privileges, policies.
    ``restrictive`` are RESTRICTIVE policies of which it is the only role, as ``schema.table.policy``. ``acting`` counts
    the objects of its that act with their owner's rights, or could. ``heir`` says of the role that is to keep them
    whether it is there: None where it is not, else whether it is ours and may do nothing. ``schemas`` are those in
    which it owns something, with their owners.
    """

    entries: int = 0
    owned: int = 0
    restrictive: tuple[str, ...] = ()
    acting: int = 0
    heir: bool | None = None
    schemas: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Owner:
    """The owner of a database. ``privileged``: it is a superuser, has another attribute, or a role of the server's.

    ``gained`` counts what acts with its rights and became its own in this very transaction: made by a session of the
    role that goes after it was looked at.
    """

    name: str
    privileged: bool = False
    gained: int = 0


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Another database in which a role holds something; ``open`` is false where nobody may connect to it."""

    database: str
    entries: int
    open: bool = True
    #: The role owns the database itself.
    owner: bool = False


@dataclass(frozen=True, slots=True)
class RetireRole(Narrowing):
    """``REASSIGN OWNED … TO successor``, ``DROP OWNED``, in one database.

    An empty ``successor`` is the operator's login, where there is nothing to own. ``makes_heir``: the successor has to
    be made, a role that nobody logs in as and that may do nothing. ``database`` is set where the role owns that too: it
    goes to the operator's login before. ``schemas`` (with their owners) are those in which an heir gets something: an
    operator's login that is no superuser may give it nothing there, unless it may create there for that long.
    """

    role: str
    successor: str
    makes_heir: bool = False
    database: str = ""
    schemas: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class RetireElsewhere(Narrowing):
    """The same in another database; what the role holds there is looked at when it is visited."""

    role: str
    database: str


@dataclass(frozen=True, slots=True)
class HandOverDatabase(Change):
    """``ALTER DATABASE … OWNER TO``, before REASSIGN OWNED would give it to the successor in some other database."""

    role: str
    database: str


def successor(role: str, held: Holdings, owner: Owner | None) -> str:
    """Who gets what the role owns in a database: nobody who could act with it, or be acted with.

    The database's owner, unless he has rights of the server's, or something of the role's could act with his; then a
    role that has nothing but this. ``owner`` is None where the owner himself goes.
    """
    if owner is None or owner.privileged or held.acting:
        return heir_of(role)
    return owner.name


def diff_retirement(
    retiring: Mapping[str, str], holdings: Mapping[str, Holdings], owner: Owner, database: str
) -> tuple[list[Change], list[Problem]]:
    """What has to happen in one database; ``retiring`` maps a role to the uid of the member whose it was.

    ``owner`` is the database's, as it is or as it is to be.
    """
    changes: list[Change] = []
    problems: list[Problem] = []
    for role, member in sorted(retiring.items()):
        held = holdings.get(role)
        if held is None or not (held.entries or held.restrictive or owner.gained):
            continue
        ref = ObjectRef("role", role)
        if held.restrictive:
            problems.append(Problem(member, _restrictive(ref, held.restrictive, database)))
            continue
        goes = owner.name in retiring
        to = successor(role, held, None if goes else owner)
        makes_heir = False
        schemas: tuple[tuple[str, str], ...] = ()
        if to == heir_of(role) and not held.owned:
            to = "" if goes else owner.name  # it gets nothing, and nobody has to be made for that
        elif to == heir_of(role):
            if held.heir is False:
                problems.append(Problem(member, _taken(ref, to, database)))
                continue
            makes_heir, schemas = held.heir is None, held.schemas
        changes.append(RetireRole(ref, member, role, to, makes_heir, database if owner.name == role else "", schemas))
    return changes, problems


def _taken(ref: ObjectRef, heir: str, database: str) -> ObjectStatus:
    message = (
        f"{ref} is not dropped: what it owns in database {database} would go to role {heir}, which exists and was not "
        "made by selvedge for that, or may do more than own them; rename or drop it, or hand the objects over yourself"
    )
    return ObjectStatus(ref, ObjectState.FAILED, Reason.ADOPTION_REQUIRED, message)


def _restrictive(ref: ObjectRef, policies: tuple[str, ...], database: str) -> ObjectStatus:
    shown = ", ".join(policies[:_SHOWN]) + (f" and {len(policies) - _SHOWN} more" if len(policies) > _SHOWN else "")
    message = (
        f"{ref} is not dropped: in database {database} it is the only role of RESTRICTIVE policy {shown}, which would "
        "go with it and show others more rows; drop the policy yourself, or give it another role"
    )
    return ObjectStatus(ref, ObjectState.FAILED, Reason.DESTRUCTIVE_REFUSED, message)


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
