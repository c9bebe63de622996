"""Statements for an administrator's mongosh: a name stays a name."""

from __future__ import annotations

from selvedge.engines.mongodb.shell import granting


def test_roles_are_given_to_one_user() -> None:
    assert granting("shop", "app", [("readWrite", "shop"), ("dbAdmin", "shop")]) == (
        'db.getSiblingDB("shop").grantRolesToUser("app", '
        '[{role: "readWrite", db: "shop"}, {role: "dbAdmin", db: "shop"}])'
    )


def test_a_name_brings_no_statement_with_it() -> None:
    user = 'x", []); db.dropDatabase(); ("\\\n\u2028\u202e'
    assert granting("shop", user, []) == (
        'db.getSiblingDB("shop").grantRolesToUser("x\\", []); db.dropDatabase(); (\\"\\\\\\n\\u2028\\u202e", [])'
    )
