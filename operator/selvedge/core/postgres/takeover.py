"""What is taken away from others where something is taken over: it waits for an approval.

What we gave is ours to take, and what was verified once is ours to put back. But whoever adopts a database, or a role
that was there before, has not seen yet whose access goes with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from selvedge.core.postgres.change import Change
from selvedge.core.postgres.changes import BOOKKEEPING, RevokeAdminOption, RevokePrivileges, RevokeRole
from selvedge.core.postgres.cluster_diff import ClaimBook
from selvedge.core.postgres.default_privileges import RevokeDefaults
from selvedge.core.postgres.rls_changes import DropPolicy
from selvedge.core.postgres.role_attributes import RestrictRole
from selvedge.core.unit import ObjectRef

#: Of these, one that waits waits with everything that belongs to it: what was given of it is remembered as a whole.
_WHOLE = ("grant", "defaultPrivilege", "rowLevelSecurity")


class Takeover:
    """What of the newest differences takes from others what they gave; the server-wide part has to be told first."""

    def __init__(self) -> None:
        self._adopted = False
        self._cluster: frozenset[Change] = frozenset()
        self._inside: frozenset[Change] = frozenset()

    @property
    def takes(self) -> frozenset[Change]:
        """The changes that wait while their generation was not verified yet."""
        return self._cluster | self._inside

    def cluster(self, found: Iterable[Change], book: ClaimBook, database: str, *, exists: bool) -> None:
        """The difference of the server-wide part. A database that stands, and that we did not make, is adopted."""
        claim = book.claims.get(f"database:{database}")
        self._adopted = exists and not (claim is not None and claim.detail.get("created"))
        self._cluster = frozenset(
            change
            for change in found
            if isinstance(change, (RevokeRole, RevokeAdminOption, RestrictRole)) and _not_ours(change.ref, book)
        )

    def inside(self, found: Iterable[Change], book: ClaimBook) -> None:
        """The difference inside the database."""
        found = tuple(found) if self._adopted else ()
        taking = {(change.ref, change.member) for change in _taking(found, book)}
        whole = {one for one in taking if one[0].kind in _WHOLE}
        self._inside = frozenset(
            change
            for change in found
            if not isinstance(change, BOOKKEEPING)
            and ((change.ref, change.member) in whole or is_authoritative(change))
        )


def is_authoritative(change: Change) -> bool:
    """Whether it takes from a declared role what no grant names; that is the role's, and nobody's own entry."""
    return isinstance(change, RevokePrivileges) and change.ref.kind == "role"


def _taking(found: Iterable[Change], book: ClaimBook) -> Iterator[Change]:
    """The changes of objects that nobody claims yet by which somebody loses something."""
    for change in found:
        taking = isinstance(change, (RevokePrivileges, RevokeDefaults)) or (
            isinstance(change, DropPolicy) and change.permissive
        )
        if taking and not is_authoritative(change) and _key(change.ref, change.member, book) not in book.claims:
            yield change


def _key(ref: ObjectRef, member: str, book: ClaimBook) -> str:
    """The object's name among the claims."""
    if ref.kind == "rowLevelSecurity":
        return f"{ref.kind}:{ref.name}"
    return f"{ref.kind}:{book.resources[member]}:{ref.name}"


def _not_ours(ref: ObjectRef, book: ClaimBook) -> bool:
    """Whether a role is taken over by this plan: nobody claims it, or somebody does who is gone and had adopted it."""
    claim = book.claims.get(f"role:{ref.name}")
    if claim is None:
        return True
    ours = claim.cluster == book.cluster and claim.resource in book.resources.values()
    return not ours and not claim.detail.get("created")
