"""What a role is a member of, and what it is to be: options, grantors, and what nobody may declare."""

from __future__ import annotations

from collections.abc import Mapping

from selvedge.core.names import reserved_role
from selvedge.core.own_roles import is_own_comment
from selvedge.core.postgres.change import Change, Problem
from selvedge.core.postgres.changes import GrantRole, RevokeAdminOption, RevokeRole
from selvedge.core.postgres.model import CurrentRole, DesiredRole, Membership
from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectRef, ObjectState, ObjectStatus

#: From this version on a membership has options, and a row for each grantor.
OPTIONS = 160000


def privileged_role(ref: ObjectRef, member: str, name: str, what: str) -> Problem:
    """The status of an object that names a role which may do what no declaration may give."""
    message = (
        f"role {name} is a superuser, or can make roles, replicate, bypass row-level security or reach the server's "
        f"files: it cannot be {what} by a declaration; name another role"
    )
    return Problem(member, ObjectStatus(ref, ObjectState.FAILED, Reason.FORBIDDEN_NAME, message))


def diff_memberships(
    role: DesiredRole, current: CurrentRole, roles: Mapping[str, CurrentRole], declared: set[str], version: int
) -> tuple[list[Change], list[Problem]]:
    """What the role is to be a member of, and no more than that.

    ``roles`` are those that exist, ``declared`` those that will.
    """
    ref = ObjectRef("role", role.name)
    changes: list[Change] = []
    problems: list[Problem] = []
    wanted = {membership.role: membership for membership in role.memberships}
    for name, membership in sorted(wanted.items()):
        if name not in roles and name not in declared:
            message = f"role {role.name} is to be a member of role {name}, which does not exist: declare it"
            status = ObjectStatus(ref, ObjectState.WAITING, Reason.ROLE_NOT_FOUND, message)
            problems.append(Problem(role.member, status))
            continue
        if name in roles and is_own_comment(roles[name].comment) and name not in declared:
            # Its login may become what runs users' code or owns what nobody else may; so could a member.
            message = f"role {name} is the operator's own: role {role.name} cannot be its member; name another role"
            problems.append(Problem(role.member, ObjectStatus(ref, ObjectState.FAILED, Reason.FORBIDDEN_NAME, message)))
            wanted = {other: kept for other, kept in wanted.items() if other != name}
            continue
        # Reserved names passed the server's access by being listed there; what is declared is checked by itself.
        if name in roles and roles[name].privileged and name not in declared and not reserved_role(name):
            problems.append(privileged_role(ref, role.member, name, "granted"))
            wanted = {other: kept for other, kept in wanted.items() if other != name}
            continue
        changes += _one(ref, role, current, membership, version)
    for name in sorted(current.memberships.keys() - wanted.keys()):
        changes += revocations(ref, role.member, current, name, version)
    return changes, problems


def revocations(ref: ObjectRef, member: str, current: CurrentRole, name: str, version: int) -> list[Change]:
    """One REVOKE, or from Postgres 16 on one for each who granted it: a plain one would leave the others' rows."""
    if version < OPTIONS:
        return [RevokeRole(ref, member, current.name, name)]
    rows = {grantor: held.admin for grantor, held in current.granted if held.role == name} or {"": False}
    return [RevokeRole(ref, member, current.name, name, grantor, rows[grantor]) for grantor in sorted(rows)]


def _one(ref: ObjectRef, role: DesiredRole, current: CurrentRole, wanted: Membership, version: int) -> list[Change]:
    live = current.memberships.get(wanted.role)
    grant = GrantRole(ref, role.member, role.name, wanted)
    if live is None:
        return [grant]
    if version < OPTIONS:
        if live.admin and not wanted.admin:
            return [RevokeAdminOption(ref, role.member, role.name, wanted.role)]
        return [grant] if wanted.admin and not live.admin else []
    if live == wanted:
        return []
    # What others granted beyond it goes row by row; what is ours is granted again, with every option spelled out.
    rows = [(grantor, held) for grantor, held in current.granted if held.role == wanted.role]
    beyond = {grantor: held.admin for grantor, held in rows if grantor and _exceeds(held, wanted)}
    kept = [held for grantor, held in rows if grantor not in beyond]
    changes: list[Change] = [
        RevokeRole(ref, role.member, role.name, wanted.role, grantor, admin) for grantor, admin in beyond.items()
    ]
    if not kept or united(kept) != wanted:
        changes.append(grant)
    return changes


def _exceeds(held: Membership, wanted: Membership) -> bool:
    options = ((held.admin, wanted.admin), (held.inherit, wanted.inherit), (held.set, wanted.set))
    return any(have and not want for have, want in options)


def united(rows: list[Membership]) -> Membership:
    """What several grantors' memberships in one role allow together; ``rows`` is not empty."""
    return Membership(
        rows[0].role,
        any(row.admin for row in rows),
        any(row.inherit for row in rows),
        any(row.set for row in rows),
    )
