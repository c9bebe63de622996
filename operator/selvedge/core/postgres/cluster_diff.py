"""The difference in what belongs to the whole server: roles, their settings and memberships, and the database."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from selvedge.core.own_roles import databases_of, is_own_comment, own_roles
from selvedge.core.postgres.changes import (
    AlterRole,
    Change,
    CommentRole,
    CreateDatabase,
    CreateRole,
    DropClaims,
    DropRole,
    RestrictRole,
    SetRoleSetting,
    WriteClaims,
)
from selvedge.core.postgres.memberships_diff import diff_memberships, privileged_role, revocations
from selvedge.core.postgres.model import Claim, CurrentRole, Desired, DesiredRole, Elsewhere, Problem
from selvedge.core.postgres.renames import Rename, plan_renames, rename_changes, renamed_claims, renamed_roles
from selvedge.core.postgres.retirement import diff_elsewhere
from selvedge.core.postgres.role_attributes import creation_words, diff_attributes
from selvedge.core.postgres.settings import changed
from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectRef, ObjectState, ObjectStatus


@dataclass(frozen=True, slots=True)
class Places:
    """Where roles that go hold something: other databases, those that each member may use, and who cannot go.

    ``blocked`` are roles that the unit's own database holds for good.
    """

    elsewhere: Mapping[str, tuple[Elsewhere, ...]] = field(default_factory=dict)
    may_use: Mapping[str, frozenset[str]] = field(default_factory=dict)
    blocked: frozenset[str] = frozenset()


class ClaimBook:
    """Who owns what. Answers for one unit of work, by the claims that stand in the server.

    ``owner_of`` maps a member's uid to (namespace/name); ``alive`` says whether a resource still exists in this
    cluster: a claim of a resource that is gone binds nobody (its objects count as existing and unclaimed).
    """

    def __init__(
        self, claims: Mapping[str, Claim], cluster: str, resources: Mapping[str, str], alive: Callable[[str], bool]
    ) -> None:
        self.claims = claims
        self.cluster = cluster
        self.resources = resources
        self.alive = alive
        self.new: dict[str, Claim] = {}
        self.moved: set[str] = set()
        self._of_resource: dict[str, list[Claim]] | None = None  # made when it is asked for

    def move(self, renames: Iterable[Rename]) -> None:
        """Take the objects for what they will be called; ``moved`` are the claims that have to be written anew."""
        renames = tuple(renames)
        self.moved = {one.new_key for one in renames if one.old_key in self.claims}
        if renames:
            self.claims = renamed_claims(self.claims, renames)
            self._of_resource = None

    def mine(self, object_name: str, member: str) -> bool:
        """Whether the object is the member's to have: it, or another member of this unit, owns it already.

        Which of the members has it was decided when they were compiled; the claim follows the declaration.
        """
        claim = self.claims.get(object_name)
        return claim is not None and self._ours(claim)

    def _ours(self, claim: Claim) -> bool:
        return claim.cluster == self.cluster and claim.resource in self.resources.values()

    def foreign(self, object_name: str) -> Claim | None:
        """The claim of somebody outside of this unit that still holds, if there is one."""
        claim = self.claims.get(object_name)
        if claim is None or self._ours(claim) or (claim.cluster == self.cluster and not self.alive(claim.resource)):
            return None
        return claim

    def inherits(self, object_name: str, member: str) -> bool:
        """Whether the member shared the object with the resource that held it and is gone."""
        claim = self.claims.get(object_name)
        if claim is None or claim.cluster != self.cluster:
            return False
        shared = claim.detail.get("members")
        return isinstance(shared, (list, tuple)) and self.resources[member] in shared

    def want(self, object_name: str, member: str, detail: Mapping[str, object]) -> None:
        """Claim the object, if the claim does not stand as wanted already. ``created`` survives an update."""
        current = self.claims.get(object_name)
        detail = {"created": False, **detail}
        if current is not None and self.mine(object_name, member):
            detail["created"] = current.detail.get("created", False)
            same = current.resource == self.resources[member] and dict(current.detail) == detail
            if same and object_name not in self.moved:
                return
        self.new[object_name] = Claim(object_name, self.cluster, self.resources[member], member, detail)

    def owned(self, prefix: str, member: str) -> list[Claim]:
        """The member's claims whose object starts with the prefix, in order."""
        if self._of_resource is None:
            self._of_resource = {}
            for _, claim in sorted(self.claims.items()):
                if claim.cluster == self.cluster:
                    self._of_resource.setdefault(claim.resource, []).append(claim)
        mine = self._of_resource.get(self.resources[member], ())
        return [claim for claim in mine if claim.object.startswith(prefix)]


def conflict(ref: ObjectRef, member: str, claim: Claim, cluster: str) -> Problem:
    """The status of an object that somebody else owns."""
    where = "" if claim.cluster == cluster else f" of another cluster ({claim.cluster})"
    message = f"{ref} is claimed by DatabaseSchema {claim.resource}{where}: remove it from one of the two"
    if where:  # adoption is for what nobody claims: two clusters that both adopt would take it from each other for ever
        message += (
            "; if that cluster is gone for good, delete its rows from table claims in the operator's schema, in this "
            "database and in the maintenance database, and set spec.adoption to Allow"
        )
    return Problem(member, ObjectStatus(ref, ObjectState.CONFLICT, Reason.CONFLICT, message))


def adoption_required(ref: ObjectRef, member: str) -> Problem:
    """The status of an object that was there before us."""
    message = (
        f"{ref} exists and no DatabaseSchema claims it: set spec.adoption to Allow to take it over, or rename yours"
    )
    return Problem(member, ObjectStatus(ref, ObjectState.CONFLICT, Reason.ADOPTION_REQUIRED, message))


def diff_cluster(
    desired: Desired,
    roles: Mapping[str, CurrentRole],
    databases: Iterable[str],
    book: ClaimBook,
    adopt: Mapping[str, bool],
    version: int,
    places: Places | None = None,
) -> tuple[list[Change], list[Problem]]:
    """Changes and problems of the server-wide part.

    ``roles`` are the live roles that matter, ``databases`` the names of those that exist, ``adopt`` says for each
    member's uid whether it may take over what nobody claims; ``places`` where roles that go hold something. A conflict
    on the database itself, or an owner that it cannot have yet, is a problem of the whole unit and stands alone.
    """
    changes: list[Change] = []
    problems: list[Problem] = []
    database = desired.database
    databases = frozenset(databases)
    ref = ObjectRef("database", database.name)
    key = f"database:{database.name}"
    exists = database.name in databases
    holder = book.foreign(key)
    if holder is not None:
        return [], [conflict(ref, database.member, holder, book.cluster)]
    if not exists and database.owner and not _will_exist(database.owner, desired, roles):
        message = f"{ref} is to be owned by role {database.owner}, which does not exist: declare it"
        status = ObjectStatus(ref, ObjectState.WAITING, Reason.ROLE_NOT_FOUND, message)
        return [], [Problem(database.member, status)]
    # Who shares the database stands in its claim: when the one that holds it goes, another goes on without adoption.
    members = sorted(book.resources.values())
    if not book.mine(key, database.member):
        heir = book.inherits(key, database.member)
        if exists and not adopt[database.member] and not heir:
            return [], [adoption_required(ref, database.member)]
        book.want(key, database.member, {"created": not exists, "members": members})
    else:
        book.want(key, database.member, {"members": members})
    if not exists:
        changes.append(CreateDatabase(ref, database.member, database.name, database.owner))
    renamed, trouble = _renames(desired, roles, book, adopt)
    roles = renamed_roles(roles, renamed)
    book.move(renamed)
    changes += rename_changes(renamed)
    changes += [DropClaims(one.ref, one.member, (one.old_key,)) for one in renamed if one.new_key in book.moved]
    problems += trouble
    going = dropped_roles(desired, book)
    staying = {name: role for name, role in roles.items() if name not in going}
    own = [found for role in desired.roles for found in _is_own(role, staying, database.name, databases, book)]
    problems += own
    kept_back = {problem.status.ref for problem in (*trouble, *own)}
    strange = {problem.status.ref.name for problem in own}
    declared = {role.name for role in desired.roles if not role.absent} - strange
    for role in desired.roles:
        if ObjectRef("role", role.name) not in kept_back:
            found, trouble = _diff_role(role, staying, declared, book, adopt[role.member], version)
            changes += found
            problems += trouble
    found, trouble = _retired(desired, roles, book, version, places or Places())
    changes += found
    problems += trouble
    if book.new:
        member = database.member
        changes.append(WriteClaims(ref, member, tuple(book.new[name] for name in sorted(book.new))))
    return changes, problems


def _will_exist(role: str, desired: Desired, roles: Mapping[str, CurrentRole]) -> bool:
    """Whether the role is there, or is made before the database; a role that was refused is not among the declared."""
    return role in roles or any(one.name == role and not one.absent for one in desired.roles)


def _renames(
    desired: Desired, roles: Mapping[str, CurrentRole], book: ClaimBook, adopt: Mapping[str, bool]
) -> tuple[list[Rename], list[Problem]]:
    wanted = (
        Rename(role.member, ObjectRef("role", role.name), role.renamed_from)
        for role in desired.roles
        if role.renamed_from and not role.absent
    )
    privileged = frozenset(name for name, role in roles.items() if role.privileged)
    return plan_renames(wanted, frozenset(roles), book, adopt, privileged)


def _is_own(
    role: DesiredRole, roles: Mapping[str, CurrentRole], database: str, databases: frozenset[str], book: ClaimBook
) -> list[Problem]:
    """Whether the role is, or will be, the operator's own of some other database: nobody's to make or to take over.

    Those of this database were refused before; what is declared under such a name is the operator's itself.
    """
    if role.absent or role.name in own_roles(database) or book.mine(f"role:{role.name}", role.member):
        return []
    live = roles.get(role.name)
    place = next((name for name in databases_of(role.name) if name in databases), "")
    if not place and not (live is not None and is_own_comment(live.comment)):
        return []
    where = f" of database {place}" if place else ""
    message = f"role {role.name} is the operator's own{where}: choose another name"
    status = ObjectStatus(ObjectRef("role", role.name), ObjectState.FAILED, Reason.FORBIDDEN_NAME, message)
    return [Problem(role.member, status)]


def _diff_role(
    role: DesiredRole,
    roles: Mapping[str, CurrentRole],
    declared: set[str],
    book: ClaimBook,
    adopt: bool,
    version: int,
) -> tuple[list[Change], list[Problem]]:
    ref = ObjectRef("role", role.name)
    key = f"role:{role.name}"
    current = roles.get(role.name)
    holder = book.foreign(key)
    if holder is not None:
        return [], [conflict(ref, role.member, holder, book.cluster)]
    mine = book.mine(key, role.member)
    if role.absent:
        return ([DropRole(ref, role.member, role.name)] if current and mine else []), []
    if current is not None and not mine:
        if not adopt:
            return [], [adoption_required(ref, role.member)]
        if current.privileged:
            return [], [privileged_role(ref, role.member, role.name, "taken over")]
    known = book.claims[key].detail if mine else {}
    before = _names(known.get("settings"))
    named = role.attributes.declared()
    detail = {"settings": sorted(role.settings), "created": current is None}
    book.want(key, role.member, {**detail, "attributes": list(named)} if named else detail)
    changes: list[Change] = []
    if current is None:
        changes.append(CreateRole(ref, role.member, role.name, creation_words(role.attributes)))
        current = CurrentRole(role.name)
    else:
        ours, once = bool(known.get("created")), _names(known.get("attributes"))
        give, take = diff_attributes(role.attributes, current.attributes, ours=ours, before=once)
        changes += [RestrictRole(ref, role.member, role.name, take)] if take else []
        changes += [AlterRole(ref, role.member, role.name, give)] if give else []
    if role.comment is not None and role.comment != (current.comment or ""):
        changes.append(CommentRole(ref, role.member, role.name, role.comment))
    for setting, value in changed(current.settings, role.settings):
        changes.append(SetRoleSetting(ref, role.member, role.name, setting, value))
    for setting in sorted((before - role.settings.keys()) & current.settings.keys()):
        changes.append(SetRoleSetting(ref, role.member, role.name, setting, None))
    found, problems = diff_memberships(role, current, roles, declared, version)
    return [*changes, *found], problems


def retired_roles(desired: Desired, book: ClaimBook) -> dict[str, list[Claim]]:
    """For each member's uid the claims of roles that left its declaration."""
    kept = {f"role:{role.name}" for role in desired.roles} | desired.refused
    kept |= {f"role:{role.renamed_from}" for role in desired.roles if role.renamed_from}
    return {member: [x for x in book.owned("role:", member) if x.object not in kept] for member in book.resources}


def dropped_roles(desired: Desired, book: ClaimBook) -> frozenset[str]:
    """Those of them that are to be dropped: we made them."""
    return frozenset(retiring(desired, book))


def retiring(desired: Desired, book: ClaimBook) -> dict[str, str]:
    """The roles that are to be dropped, each with the uid of the member whose it was."""
    return {
        claim.object.removeprefix("role:"): member
        for member, claims in retired_roles(desired, book).items()
        for claim in claims
        if claim.detail.get("created")
    }


def _retired(
    desired: Desired, roles: Mapping[str, CurrentRole], book: ClaimBook, version: int, places: Places
) -> tuple[list[Change], list[Problem]]:
    """Roles that left the declaration: access is always taken away, and those that we made go.

    One that cannot be freed somewhere stays, and its claim with it.
    """
    going = {role: member for role, member in retiring(desired, book).items() if role in roles}
    changes, problems = diff_elsewhere(going, places.elsewhere, places.may_use)
    stuck = {problem.status.ref.name for problem in problems} | places.blocked
    changes = [change for change in changes if change.ref.name not in stuck]
    for member, claims in retired_roles(desired, book).items():
        for claim in claims:
            name = claim.object.removeprefix("role:")
            ref = ObjectRef("role", name)
            current = roles.get(name)
            if current is not None:
                for parent in sorted(current.memberships):
                    changes += revocations(ref, member, current, parent, version)
                if name in stuck:
                    continue
                if name in going:
                    changes.append(DropRole(ref, member, name))
            changes.append(DropClaims(ref, member, (claim.object,)))
    return changes, problems


def _names(value: object) -> frozenset[str]:
    return frozenset(str(item) for item in value) if isinstance(value, (list, tuple)) else frozenset()
