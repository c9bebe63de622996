"""Renames: what is done, what is named, and how everything looks afterwards."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from selvedge.core.postgres.model import AclGroup, Claim, CurrentRole, Membership
from selvedge.core.postgres.renames import (
    Rename,
    plan_renames,
    rename_changes,
    renamed_claims,
    renamed_roles,
)
from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectRef

OURS, THEIRS = "shop/ours", "shop/theirs"


@dataclass
class Book:
    claims: dict[str, Claim] = field(default_factory=dict)

    def mine(self, object_name: str, member: str) -> bool:
        return object_name in self.claims and self.claims[object_name].resource == OURS

    def foreign(self, object_name: str) -> Claim | None:
        claim = self.claims.get(object_name)
        return claim if claim is not None and claim.resource == THEIRS else None


def claim(name: str, resource: str = OURS) -> dict[str, Claim]:
    return {f"role:{name}": Claim(f"role:{name}", "c", resource, "u", {"created": True})}


def rename(new: str = "new", old: str = "old") -> Rename:
    return Rename("u", ObjectRef("role", new), old)


def plan(
    existing: set[str], claims: dict[str, Claim], *wanted: Rename, **fields: Any
) -> tuple[list[Rename], list[str]]:
    known: dict[str, Any] = {"adopt": {}, **fields}
    todo, problems = plan_renames(wanted or (rename(),), frozenset(existing), Book(claims), **known)
    return todo, [str(problem.status.reason.value) for problem in problems]


@pytest.mark.parametrize(
    ("existing", "claims", "expected"),
    [
        ({"old"}, claim("old"), ([rename()], [])),
        (set(), claim("old"), ([], [])),
        ({"new"}, claim("new"), ([], [])),
        ({"old", "new"}, claim("new"), ([], [])),
        ({"old", "new"}, {**claim("old"), **claim("new")}, ([], [])),
        ({"old", "new"}, claim("old"), ([], ["Conflict"])),
        ({"old"}, claim("old", THEIRS), ([], ["Conflict"])),
        ({"old"}, {}, ([], ["AdoptionRequired"])),
    ],
)
def test_what_is_renamed(existing: set[str], claims: dict[str, Claim], expected: Any) -> None:
    assert plan(existing, claims) == expected


def test_what_nobody_claims_is_renamed_where_it_may_be_taken_over() -> None:
    assert plan({"old"}, {}, adopt={"u": True}) == ([rename()], [])
    assert plan({"old"}, {}, adopt={"u": True}, privileged=frozenset({"old"})) == ([], [Reason.FORBIDDEN_NAME.value])


def test_the_first_of_two_has_it() -> None:
    todo, told = plan({"old"}, claim("old"), rename("a"), rename("b"))
    assert (todo, told) == ([rename("a")], ["Conflict"])


def test_claims_keep_what_they_know() -> None:
    moved = renamed_claims({**claim("old"), **claim("other")}, [rename()])
    assert sorted(moved) == ["role:new", "role:other"]
    assert moved["role:new"].object == "role:new"
    assert moved["role:new"].detail == {"created": True}


def test_memberships_follow() -> None:
    roles = {"old": CurrentRole("old"), "app": CurrentRole("app", memberships={"old": Membership("old")})}
    found = renamed_roles(roles, [rename()])
    assert found["new"].name == "new"
    assert found["app"].memberships == {"new": Membership("new")}
    assert [type(change).__name__ for change in rename_changes([rename()])] == ["RenameRole"]


def test_who_granted_follows_too() -> None:
    from selvedge.core.postgres.renames import _group, _translation

    to = _translation([rename()], "role")
    group = AclGroup(
        "table",
        "s",
        "old",
        ("t",),
        {"old": frozenset({"SELECT"})},
        frozenset({("old", "x", "SELECT", True)}),
        frozenset({"old", "other"}),
    )
    found = _group(group, to, lambda name: name)
    assert found.given == frozenset({("new", "x", "SELECT", True)})
    assert found.alike == frozenset({"new", "other"})
    assert (found.owner, set(found.grants)) == ("new", {"new"})
