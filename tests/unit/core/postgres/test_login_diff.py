"""What differs between an account and the logins on a server, case by case."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from selvedge.core.errors import ConflictError, RefusedError, TransientError
from selvedge.core.postgres import changes as c
from selvedge.core.postgres.login_diff import (
    AlterLogin,
    CreateLogin,
    LoginState,
    LoginView,
    Member,
    ResetDatabaseSetting,
    RetireLogin,
    RevokeMembership,
    SetPassword,
    check,
    diff,
    owned,
    previous,
)
from selvedge.core.postgres.model import Claim
from selvedge.core.reasons import Reason
from selvedge.core.users import Account, RoleRef

ACCOUNT = Account(
    "shop/app (DatabaseUser)",
    "uid",
    "cluster",
    "shop",
    "app",
    "app",
    "password-1",
    (RoleRef("rw"),),
    settings={"a.b": "1"},
)
TWO = replace(ACCOUNT, current="app_b", may_retire=True)
PLAIN = {
    "superuser": False,
    "createdb": False,
    "createrole": False,
    "replication": False,
    "bypassrls": False,
    "inherit": True,
}


def claim(name: str, **fields: Any) -> Claim:
    known = {"cluster": "cluster", "resource": ACCOUNT.resource, "uid": "uid", "detail": {"created": True}}
    return Claim(f"role:{name}", **{**known, **fields})


def state(name: str = "app", **fields: Any) -> LoginState:
    known: dict[str, Any] = {
        "login": True,
        "attributes": PLAIN,
        "settings": {"a.b": "1"},
        "memberships": (Member("rw", admin=False, inherit=True, set=True, grantor="op"),),
    }
    return LoginState(name, **{**known, **fields})


def view(*states: LoginState, **fields: Any) -> LoginView:
    known: dict[str, Any] = {
        "version": 180000,
        "me": "op",
        "superuser": True,
        "logins": {one.name: one for one in states},
        "roles": {"rw": False, **{one.name: False for one in states}},
        "claims": {f"role:{one.name}": claim(one.name) for one in states},
    }
    return LoginView(**{**known, **fields})


def names(changes: list[c.Change]) -> list[str]:
    return [type(change).__name__ for change in changes]


def test_what_is_as_declared_has_no_difference():
    assert diff(ACCOUNT, view(state()), password_holds=True) == []


def test_a_new_login_comes_with_its_claim_last():
    found = diff(ACCOUNT, view(claims={}), password_holds=False)
    assert names(found) == ["CreateLogin", "SetRoleSetting", "GrantRole", "SetPassword", "WriteClaims"]
    assert found[-1].claims[0].detail == {"created": True, "kind": "login"}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"login": False}, ["AlterLogin", "SetPassword"]),
        ({"attributes": {**PLAIN, "superuser": True}}, ["AlterLogin"]),
        ({"attributes": {**PLAIN, "inherit": False}}, ["AlterLogin"]),
        ({"connection_limit": 3}, ["AlterLogin"]),
        ({"valid_until": "2001-01-01T00:00:00Z"}, ["AlterLogin"]),
        ({"settings": {}}, ["SetRoleSetting"]),
        ({"settings": {"a.b": "1", "role": "boss"}}, ["SetRoleSetting"]),
        ({"database_settings": (("shop", "a.b"),)}, ["ResetDatabaseSetting"]),
        ({"memberships": ()}, ["GrantRole"]),
        ({"memberships": (Member("rw", True, True, True, "x"),)}, ["RevokeMembership", "GrantRole"]),
        ({"memberships": (Member("rw", False, False, True, "x"),)}, ["GrantRole"]),
        (
            {"memberships": (Member("rw", False, True, True, "x"), Member("boss", False, True, True, "y"))},
            ["RevokeMembership"],
        ),
    ],
)
def test_each_difference_has_its_change(changed: dict[str, Any], expected: list[str]):
    assert names(diff(ACCOUNT, view(state(**changed)), password_holds=True)) == expected


def test_only_what_differs_is_named():
    worse = state(attributes={**PLAIN, "createdb": True}, connection_limit=3)
    (found,) = diff(ACCOUNT, view(worse), password_holds=True)
    assert found == AlterLogin(found.ref, "uid", "app", ("NOCREATEDB",), -1, None)


def test_before_16_options_of_memberships_do_not_exist():
    old = state(memberships=(Member("rw", False, False, False, "x"),))
    assert diff(ACCOUNT, view(old, version=150000), password_holds=True) == []


def test_a_password_of_somebody_else_is_never_set():
    external = replace(ACCOUNT, password="")
    assert SetPassword not in map(type, diff(external, view(claims={}), password_holds=False))
    assert names(diff(external, view(state(login=False)), password_holds=False)) == ["AlterLogin"]


def test_two_logins_are_members_of_the_base_and_act_as_it():
    found = diff(TWO, view(claims={}), password_holds=False)
    made = {(change.role, change.login) for change in found if isinstance(change, CreateLogin)}
    assert made == {("app", False), ("app_b", True)}
    settings = {(x.role, x.setting, x.value) for x in found if isinstance(x, c.SetRoleSetting)}
    assert settings == {("app_b", "role", "app"), ("app_b", "a.b", "1")}
    members = {(x.grantee, x.membership.role) for x in found if isinstance(x, c.GrantRole)}
    assert members == {("app", "rw"), ("app_b", "app")}


def test_the_other_login_is_switched_off_when_its_time_is_over_and_nobody_uses_it():
    base = state("app", login=False, settings={})
    current = state(
        "app_b", settings={"a.b": "1", "role": "app"}, memberships=(Member("app", False, True, True, "op"),)
    )
    old = state("app_a")
    found = diff(TWO, view(base, current, old), password_holds=True)
    assert found == [RetireLogin(found[0].ref, "uid", "app_a")]
    assert previous(TWO, view(base, current, old)) == (("app_a",), 0)
    assert diff(TWO, view(base, current, replace(old, sessions=1)), password_holds=True) == []
    assert diff(replace(TWO, may_retire=False), view(base, current, old), password_holds=True) == []
    foreign = view(base, current, old, claims={f"role:{name}": claim(name) for name in ("app", "app_b")})
    assert diff(TWO, foreign, password_holds=True) == [], "a login of somebody else of that name is left alone"


def test_whose_a_login_is():
    nobody, gone, there = (lambda _: True), (lambda _: False), (lambda _: True)
    check(ACCOUNT, view(state()), nobody)
    foreign = view(state(), claims={"role:app": claim("app", resource="shop/other (DatabaseUser)")})
    with pytest.raises(ConflictError, match="DatabaseUser shop/other"):
        check(ACCOUNT, foreign, there)
    with pytest.raises(RefusedError) as refused:
        check(ACCOUNT, foreign, gone)
    assert refused.value.reason is Reason.ADOPTION_REQUIRED
    check(replace(ACCOUNT, adopt=True), foreign, gone)
    elsewhere = view(state(), claims={"role:app": claim("app", cluster="other")})
    with pytest.raises(ConflictError, match="of another cluster"):
        check(replace(ACCOUNT, adopt=True), elsewhere, gone)
    schema = view(state(), claims={"role:app": claim("app", resource="shop/main")})
    with pytest.raises(ConflictError, match="DatabaseSchema shop/main"):
        check(ACCOUNT, schema, there)


def test_another_user_may_be_called_as_our_second_login_would_be():
    other = view(state(), state("app_a"))
    other = replace(other, claims={**other.claims, "role:app_a": claim("app_a", resource="shop/x (DatabaseUser)")})
    check(ACCOUNT, other, lambda _: True)
    with pytest.raises(ConflictError):
        check(TWO, other, lambda _: True)


@pytest.mark.parametrize(
    "changed", [{"name": "op"}, {"privileged": True}, {"comment": "selvedge: runs the migrations"}]
)
def test_what_is_never_taken_over(changed: dict[str, Any]):
    name = changed.pop("name", "app")
    wanted = replace(ACCOUNT, base=name, current=name, adopt=True)
    with pytest.raises(RefusedError) as refused:
        check(wanted, view(state(name, **changed), claims={}), lambda _: True)
    assert refused.value.reason is Reason.FORBIDDEN_NAME


def test_what_is_waited_for():
    with pytest.raises(TransientError):
        check(ACCOUNT, view(database_exists=False), lambda _: True)
    with pytest.raises(TransientError):
        check(ACCOUNT, view(roles={}), lambda _: True)
    with pytest.raises(RefusedError):
        check(ACCOUNT, view(roles={"rw": True}), lambda _: True)


def test_members_go_before_the_base():
    assert owned(TWO, view(state(), state("app_a"), state("app_b"))) == (("app_b", "app_a", "app"), ())
    adopted = {"role:app": claim("app", detail={"created": False})}
    assert owned(ACCOUNT, view(state(), claims=adopted)) == ((), ("app",))


def test_a_resource_that_was_made_again_takes_its_claim_over():
    found = diff(ACCOUNT, view(state(), claims={"role:app": claim("app", uid="before")}), password_holds=True)
    assert names(found) == ["WriteClaims"]
    assert found[0].claims[0].detail["created"] is True


def test_every_change_has_its_place_in_the_order():
    kinds = (CreateLogin, AlterLogin, SetPassword, RetireLogin, RevokeMembership, ResetDatabaseSetting)
    from selvedge.core.postgres.login_diff import ORDER

    assert set(kinds) <= set(ORDER)


def test_nothing_of_a_password_in_a_repr():
    assert "password-1" not in repr(ACCOUNT)
    assert "SCRAM" not in repr(state(verifier="SCRAM-SHA-256$x"))
