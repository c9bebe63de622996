"""What of a plan takes from others, and what is ours to take."""

from __future__ import annotations

import pytest

from selvedge.core.postgres import changes as c
from selvedge.core.postgres.cluster_diff import ClaimBook
from selvedge.core.postgres.model import Claim
from selvedge.core.postgres.rls_changes import CreatePolicy, DropPolicy, RowPolicy
from selvedge.core.postgres.takeover import Takeover
from selvedge.core.unit import ObjectRef

GRANT, ROLE, TABLE = ObjectRef("grant", "read"), ObjectRef("role", "app"), ObjectRef("rowLevelSecurity", "a.t")
WHAT = c.Privileges("table", "a", ("t",), ("SELECT",), "app")
GIVE, TAKE = c.GrantPrivileges(GRANT, "u1", WHAT), c.RevokePrivileges(GRANT, "u1", WHAT)
BEYOND = c.RevokePrivileges(ROLE, "u1", WHAT)
LEAVE, COMMENT = c.RevokeRole(ROLE, "u1", "app", "other"), c.CommentRole(ROLE, "u1", "app", "x")
MAKE = CreatePolicy(TABLE, "u1", "a", "t", RowPolicy("own"))


def book(*claims: Claim) -> ClaimBook:
    return ClaimBook({claim.object: claim for claim in claims}, "k", {"u1": "shop/one"}, lambda _: True)


def claim(name: str, *, cluster: str = "k", resource: str = "shop/one", **detail: object) -> Claim:
    return Claim(name, cluster, resource, "u1", detail)


def takes(changes: tuple[c.Change, ...], *claims: Claim, exists: bool = True) -> frozenset[c.Change]:
    found = Takeover()
    found.cluster(changes, book(*claims), "shop", exists=exists)
    found.inside(changes, book(*claims))
    return found.takes


ADOPTED, MADE = claim("database:shop", created=False), claim("database:shop", created=True)


def test_in_an_adopted_database_an_entry_that_takes_waits_as_a_whole() -> None:
    assert takes((GIVE, TAKE), ADOPTED) == {GIVE, TAKE}
    assert takes((GIVE, TAKE)) == {GIVE, TAKE}, "one that is about to be adopted"
    assert takes((GIVE,), ADOPTED) == frozenset()


def test_a_tables_row_level_security_is_one_transaction() -> None:
    wide, narrow = (DropPolicy(TABLE, "u1", "a", "t", "theirs", permissive) for permissive in (True, False))
    assert takes((MAKE, wide), ADOPTED) == {MAKE, wide}
    assert takes((MAKE, wide), ADOPTED, claim("rowLevelSecurity:a.t")) == frozenset()
    assert takes((MAKE, narrow), ADOPTED) == frozenset(), "without a restrictive one more is seen, and not less"


def test_what_a_claim_remembers_is_ours() -> None:
    assert takes((GIVE, TAKE), ADOPTED, claim("grant:shop/one:read")) == frozenset()


@pytest.mark.parametrize("claims", [(MADE,), (MADE, claim("role:app", created=True))])
def test_in_a_database_of_our_own_nothing_waits(claims: tuple[Claim, ...]) -> None:
    assert takes((GIVE, TAKE, BEYOND), *claims) == frozenset()
    assert takes((GIVE, TAKE), exists=False) == frozenset(), "it is made by this plan"


def test_what_no_entry_names_waits_whoever_claims_the_role() -> None:
    """``grantMode: Authoritative`` speaks of what nobody wrote down."""
    assert takes((BEYOND, COMMENT), ADOPTED, claim("role:app", created=False)) == {BEYOND}


def test_a_role_that_is_taken_over_keeps_its_memberships_wherever_it_is_declared() -> None:
    assert takes((LEAVE, COMMENT), MADE) == {LEAVE}
    assert takes((LEAVE,), MADE, claim("role:app", created=False)) == frozenset()
    assert takes((LEAVE,), MADE, claim("role:app", resource="shop/gone", created=True)) == frozenset()
    assert takes((LEAVE,), MADE, claim("role:app", resource="shop/gone", created=False)) == {LEAVE}
