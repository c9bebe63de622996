"""Which login is in use, with which password, and when that changes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from selvedge.core.users import (
    Published,
    Wish,
    credentials,
    default_username,
    generate,
    next_rotation,
    pair,
    resource_of,
    retires,
    user_of,
)

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
ONE = Wish("app")
TWO = Wish("app", dual=True, every=86400.0, grace=3600.0)


def held(username: str = "app", password: str = "known-password", **fields: Any) -> Published:  # noqa: S107 - no password of anything
    return replace(Published(username, password, NOW - timedelta(hours=2)), **fields)


def test_without_a_secret_a_password_is_made():
    made = credentials(ONE, None, NOW)
    assert (made.username, made.rotated, made.rotating, made.first) == ("app", NOW, True, True)
    assert len(made.password) == 32
    assert credentials(replace(ONE, length=20), None, NOW).password != made.password
    assert len(credentials(replace(ONE, length=20), None, NOW).password) == 20


def test_what_the_secret_says_holds():
    kept = credentials(ONE, held(), NOW)
    assert (kept.username, kept.password, kept.rotating) == ("app", "known-password", False)
    assert kept.rotated == NOW - timedelta(hours=2)


def test_a_secret_without_a_password_gets_a_new_one_and_never_an_empty_one():
    made = credentials(ONE, held(password=""), NOW)
    assert made.rotating
    assert made.password


def test_two_logins_take_turns():
    first = credentials(TWO, None, NOW)
    assert first.username == "app_a"
    assert not credentials(TWO, held("app_a"), NOW).rotating
    second = credentials(TWO, held("app_a", rotated=NOW - timedelta(days=1)), NOW)
    assert (second.username, second.rotating) == ("app_b", True)
    assert credentials(TWO, held("app_b", rotated=NOW - timedelta(days=1)), NOW).username == "app_a"


def test_another_strategy_is_a_rotation():
    assert credentials(TWO, held("app"), NOW).username == "app_a"
    back = credentials(ONE, held("app_b"), NOW)
    assert (back.username, back.rotating) == ("app", True)


def test_one_rotation_for_each_request():
    wish = replace(ONE, request="monday")
    asked = credentials(wish, held(), NOW)
    assert (asked.rotating, asked.request) == (True, "monday")
    assert not credentials(wish, held(request="monday"), NOW).rotating
    assert credentials(replace(ONE, request="tuesday"), held(request="monday"), NOW).rotating
    assert not credentials(ONE, held(request="monday"), NOW).rotating


def test_a_given_password_is_followed_and_never_made_up():
    wish = replace(TWO, every=None, given="given-password")
    made = credentials(wish, None, NOW)
    assert (made.username, made.password) == ("app_a", "given-password")
    assert not credentials(wish, held("app_a", "given-password"), NOW).rotating
    other = credentials(wish, held("app_a", "before"), NOW)
    assert (other.username, other.password, other.rotating) == ("app_b", "given-password", True)
    assert not credentials(replace(wish, request="now"), held("app_a", "given-password"), NOW).rotating


def test_an_external_password_is_nobodys_here():
    wish = replace(ONE, external=True)
    assert credentials(wish, None, NOW).password == ""
    assert not credentials(wish, None, NOW).rotating
    assert credentials(replace(wish, given="vault"), held(password="before"), NOW).password == "vault"
    assert next_rotation(replace(wish, every=60.0), NOW) is None


def test_times():
    assert next_rotation(TWO, NOW) == NOW + timedelta(days=1)
    assert next_rotation(ONE, NOW) is None
    assert retires(TWO, NOW) == NOW + timedelta(hours=1)
    assert credentials(TWO, held("app_a", rotated=None), NOW).rotated == NOW, "an unreadable time begins anew"


def test_names():
    assert default_username("avatar-service.v2") == "avatar_service_v2"
    one, other = pair("ü" * 31)
    assert one != other
    assert max(len(name.encode()) for name in (one, other)) <= 63
    assert pair("x" * 62)[0] != pair("x" * 61 + "y")[0]
    assert user_of(resource_of("shop", "app")) == ("shop", "app")
    assert user_of("shop/app") is None


def test_a_generated_password_needs_no_quoting():
    assert all(generate(128).isalnum() and generate(128).isascii() for _ in range(20))


@pytest.mark.parametrize("value", [credentials(ONE, None, NOW), held(), replace(ONE, given="known-password")])
def test_no_password_in_a_repr(value: object):
    assert "password" not in repr(value).replace("password=", "")
    assert getattr(value, "password", "known-password") not in repr(value)
