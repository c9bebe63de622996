"""``renamedFrom`` of roles and schemas: what has to be renamed, whose it is, and how everything looks afterwards.

A rename keeps what hangs on the object: privileges, memberships, settings, data. A DROP and a CREATE would lose all of
it. It is done where the old name exists and is ours, and the new one does not; otherwise it is over already, or it is
named as a problem.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from selvedge.core.postgres.change import Change, Problem
from selvedge.core.postgres.model import AclGroup, Claim, CurrentRole, Snapshot
from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectRef, ObjectState, ObjectStatus


@dataclass(frozen=True, slots=True)
class Rename:
    """``ref`` is the object by its new name; ``old`` is what it was called."""

    member: str
    ref: ObjectRef
    old: str

    @property
    def old_key(self) -> str:
        """The claim of the object under its old name."""
        return f"{self.ref.kind}:{self.old}"

    @property
    def new_key(self) -> str:
        """The claim of the object under its new name."""
        return f"{self.ref.kind}:{self.ref.name}"


@dataclass(frozen=True, slots=True)
class RenameRole(Change):
    """``ALTER ROLE … RENAME TO``."""

    old: str
    new: str


@dataclass(frozen=True, slots=True)
class RenameSchema(Change):
    """``ALTER SCHEMA … RENAME TO``."""

    old: str
    new: str


class Claims(Protocol):
    """What is asked of the book of claims."""

    claims: Mapping[str, Claim]

    def mine(self, object_name: str, member: str) -> bool:
        """Whether the object is the member's."""

    def foreign(self, object_name: str) -> Claim | None:
        """The claim of somebody else that holds."""


def plan_renames(
    wanted: Iterable[Rename],
    existing: frozenset[str],
    book: Claims,
    adopt: Mapping[str, bool],
    privileged: frozenset[str] = frozenset(),
) -> tuple[list[Rename], list[Problem]]:
    """The renames that are to be made, and those that cannot be.

    ``existing`` are the names that exist, ``adopt`` says for each member's uid whether it may take over what nobody
    claims; what stands in ``privileged`` is never taken over. Where two declarations name one old object, the first has
    it and the other is told.
    """
    todo: list[Rename] = []
    problems: list[Problem] = []
    taken: dict[str, Rename] = {}
    for one in wanted:
        if one.old not in existing:
            continue  # done, or never there: then the object is made under its new name
        obstacle = _obstacle(one, existing, book, adopt, privileged, taken.get(one.old))
        if obstacle is None:
            taken[one.old] = one
            todo.append(one)
        elif obstacle[1]:
            state = ObjectState.CONFLICT if obstacle[0] is Reason.CONFLICT else ObjectState.FAILED
            problems.append(Problem(one.member, ObjectStatus(one.ref, state, *obstacle)))
    return todo, problems


def _obstacle(
    one: Rename,
    existing: frozenset[str],
    book: Claims,
    adopt: Mapping[str, bool],
    privileged: frozenset[str],
    rival: Rename | None,
) -> tuple[Reason, str] | None:
    """Why the rename cannot be made; an empty text where there is nothing to be said, because it is no longer ours."""
    kind, new, old = one.ref.kind, one.ref.name, one.old
    ours = book.mine(one.old_key, one.member)
    holder = book.foreign(one.old_key)
    if new in existing:
        # The old name may by now belong to another declaration, or have been made again by hand: none of our business.
        if not ours or book.mine(one.new_key, one.member):
            return Reason.CONFLICT, ""
        return Reason.CONFLICT, (
            f"{kind} {new} and {kind} {old} both exist: move what {old} holds and drop it, or remove renamedFrom"
        )
    if holder is not None:
        return Reason.CONFLICT, f"{kind} {old} is claimed by DatabaseSchema {holder.resource}: it cannot be renamed"
    if rival is not None:
        return Reason.CONFLICT, f"{kind} {old} is to be renamed to {rival.ref.name} already: remove one renamedFrom"
    if not ours and not adopt.get(one.member):
        return Reason.ADOPTION_REQUIRED, (
            f"{kind} {old} exists and no DatabaseSchema claims it: set spec.adoption to Allow to rename it to {new}"
        )
    if old in privileged:
        return Reason.FORBIDDEN_NAME, (
            f"{kind} {old} may act as a superuser or on the server's files: a declaration cannot take it over"
        )
    return None


def rename_changes(todo: Iterable[Rename]) -> list[Change]:
    """The changes of the renames."""
    kinds: Mapping[str, type[RenameRole] | type[RenameSchema]] = {"role": RenameRole, "schema": RenameSchema}
    return [kinds[one.ref.kind](one.ref, one.member, one.old, one.ref.name) for one in todo]


def role_renames(changes: Iterable[Change]) -> list[Rename]:
    """The renames of roles among these changes."""
    return [Rename(change.member, change.ref, change.old) for change in changes if isinstance(change, RenameRole)]


def renamed_roles(roles: Mapping[str, CurrentRole], todo: Iterable[Rename]) -> dict[str, CurrentRole]:
    """The roles as they will be called, in their memberships too."""
    to = _translation(todo, "role")
    return {
        to(name): replace(
            role,
            name=to(role.name),
            memberships={to(one): replace(held, role=to(held.role)) for one, held in role.memberships.items()},
            granted=tuple((to(grantor), replace(held, role=to(held.role))) for grantor, held in role.granted),
        )
        for name, role in roles.items()
    }


def renamed_claims(claims: Mapping[str, Claim], todo: Iterable[Rename]) -> dict[str, Claim]:
    """The claims as they will stand: an object keeps what is known of it under its new name."""
    moved = {one.old_key: one.new_key for one in todo}
    return {
        moved.get(name, name): replace(claim, object=moved.get(name, name))
        for name, claim in sorted(claims.items(), key=lambda item: item[0] in moved)
    }


def renamed_snapshot(snapshot: Snapshot, todo: Iterable[Rename]) -> Snapshot:
    """The snapshot as it will be when the renames are made, so that the plan behind them is made in the same round."""
    todo = tuple(todo)
    if not todo:
        return snapshot
    role, schema = _translation(todo, "role"), _translation(todo, "schema")
    return replace(
        snapshot,
        me=role(snapshot.me),
        database_owner=role(snapshot.database_owner),
        become=frozenset(role(name) for name in snapshot.become),
        roles=renamed_roles(snapshot.roles, todo),
        schemas={schema(name): (role(owner), comment) for name, (owner, comment) in snapshot.schemas.items()},
        groups=tuple(_group(group, role, schema) for group in snapshot.groups),
        functions={
            signature: (schema(found[0]), found[1]) if found else None
            for signature, found in snapshot.functions.items()
        },
        row_security={key: table.renamed(role) for key, table in snapshot.row_security.items()},
    )


def _group(group: AclGroup, role: Callable[[str], str], schema: Callable[[str], str]) -> AclGroup:
    names = tuple(schema(name) for name in group.names) if group.kind == "schema" else group.names
    grants = {role(grantee): held for grantee, held in group.grants.items()}
    given = frozenset((role(by), role(to), privilege, option) for by, to, privilege, option in group.given)
    alike = frozenset(map(role, group.alike))
    owner = role(group.owner)
    return replace(
        group, schema=schema(group.schema), owner=owner, names=names, grants=grants, given=given, alike=alike
    )


def _translation(todo: Iterable[Rename], kind: str) -> Callable[[str], str]:
    names = {one.old: one.ref.name for one in todo if one.ref.kind == kind}
    return lambda name: names.get(name, name)
