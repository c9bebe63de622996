"""What an approval is for beside the statement: the state that a change replaces, in words that do not flap."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

import selvedge.core.postgres
from selvedge.core.postgres import changes as c
from selvedge.core.postgres import login_diff
from selvedge.core.postgres.default_privileges import DefaultKey, Defaults, LiveDefaults
from selvedge.core.postgres.model import AclGroup, CurrentRole, Elsewhere, Membership, Snapshot
from selvedge.core.postgres.preimage import _WORDS, WITHOUT, pre_image
from selvedge.core.postgres.preimage_state import State
from selvedge.core.postgres.retirement import Holdings
from selvedge.core.postgres.rls_changes import DropPolicy, RowPolicy
from selvedge.core.postgres.rls_model import TableState
from selvedge.core.postgres.role_attributes import LiveAttributes
from selvedge.core.unit import ObjectRef

REF = ObjectRef("role", "app")


def snapshot(**fields: object) -> Snapshot:
    known: dict[str, object] = {
        "version": 180000,
        "me": "postgres",
        "superuser": True,
        "standby": False,
        "system_identifier": "1",
        "database_owner": "fw_owner",
        "database_settings": {},
        "roles": {},
        "schemas": {},
        "extensions": {},
        "groups": (),
        "functions": {},
    }
    return Snapshot(**{**known, **fields})


def before(change: c.Change, **fields: object) -> str:
    return pre_image(change, State(snapshot(**fields), [change]))


def kinds() -> Iterator[type[c.Change]]:
    """Every class of change that a plan of a database may hold; the abstract ones have subclasses.

    Those of logins are in no plan: nobody approves them.
    """
    for module in pkgutil.iter_modules(selvedge.core.postgres.__path__, "selvedge.core.postgres."):
        importlib.import_module(module.name)
    todo: list[type[c.Change]] = [c.Change]
    while todo:
        kind = todo.pop()
        todo += kind.__subclasses__()
        # A dataclass with slots is a copy of the class as written: only the one that the module holds is made.
        real = getattr(sys.modules[kind.__module__], kind.__name__, None) is kind
        if real and kind.__module__ != login_diff.__name__ and not kind.__subclasses__():
            yield kind


def test_of_every_kind_of_change_it_is_said_what_it_replaces_or_that_it_replaces_nothing() -> None:
    assert sorted(kind.__name__ for kind in kinds() if (kind in _WORDS) == (kind in WITHOUT)) == []


READER = AclGroup("table", "app", "fw_owner", ("users", "orders"), {"reader": frozenset({"SELECT", "UPDATE"})})
ROLE = CurrentRole("app", "reads", {"work_mem": "4MB", "app.key": "k1"}, attributes=LiveAttributes(createdb=True))
POLICY = RowPolicy("own", "ALL", True, ("app",), "(id = 1)")
TABLE = TableState("app", "users", "fw_owner", enabled=True, policies={"own": POLICY})
REVOKE = c.RevokePrivileges(REF, "u", c.Privileges("table", "app", ("orders", "users"), ("SELECT",), "reader"))
MEMBER = CurrentRole("app", granted=(("", Membership("reader", admin=True)),))
KEY = DefaultKey("fw_owner", "app", "table")
DEFAULTS = LiveDefaults({KEY: {"reader": {"SELECT": False}}})

CASES: list[tuple[c.Change, dict[str, object], dict[str, object], str]] = [
    (
        c.AlterSchemaOwner(REF, "u", "app", "fw_owner"),
        {"schemas": {"app": ("alice", None)}},
        {"schemas": {"app": ("bob", None)}},
        "owner alice",
    ),
    (
        c.DropSchema(REF, "u", "app"),
        {"schemas": {"app": ("alice", None)}},
        {"schemas": {"app": ("alice", None)}, "groups": (READER,)},
        "owner alice; no comment; ; empty",
    ),
    (c.AlterDatabaseOwner(REF, "u", "shop", "x"), {}, {"database_owner": "bob"}, "owner fw_owner"),
    (
        c.DropRole(REF, "u", "app"),
        {"roles": {"app": ROLE}},
        {"roles": {"app": replace(ROLE, attributes=LiveAttributes(login=True))}},
        (
            "createdb, inherit, connection limit -1, valid until infinity; comment reads; app.key set to something "
            "(1983d9fce8a6); work_mem set to 4MB"
        ),
    ),
    (
        c.SetRoleSetting(REF, "u", "app", "work_mem", None),
        {"roles": {"app": ROLE}},
        {"roles": {"app": replace(ROLE, settings={})}},
        "set to 4MB",
    ),
    (
        c.RevokeRole(REF, "u", "app", "reader"),
        {"roles": {"app": MEMBER}},
        {"roles": {"app": replace(MEMBER, granted=(("bob", Membership("reader")),))}},
        "member with admin, inherit, set",
    ),
    (
        REVOKE,
        {"groups": (READER,)},
        {"groups": (replace(READER, owner="mallory"),)},
        "SELECT, UPDATE, owner fw_owner",
    ),
    (
        c.RevokeDefaults(REF, "u", Defaults("fw_owner", ("app",), "table", ("SELECT",), "reader")),
        {"defaults": DEFAULTS},
        {"defaults": LiveDefaults({KEY: {"reader": {"SELECT": True}}})},
        "app: SELECT",
    ),
    (
        DropPolicy(REF, "u", "app", "users", "own"),
        {"row_security": {("app", "users"): TABLE}},
        {"row_security": {("app", "users"): replace(TABLE, policies={"own": replace(POLICY, using="true")})}},
        "permissive ALL to app using ((id = 1))",
    ),
    (
        c.RetireRole(REF, "u", "app", "fw_owner"),
        {"holdings": {"app": Holdings(3, 2)}},
        {"holdings": {"app": Holdings(4, 3)}},
        "owns 2 objects, 3 entries name it",
    ),
    (
        c.DropExtension(REF, "u", "citext"),
        {"extensions": {"citext": ("1.6", "public")}, "extension_oids": {"citext": 16401}},
        {"extensions": {"citext": ("1.6", "public")}, "extension_oids": {"citext": 16402}},
        "version 1.6 in schema public, oid 16401",
    ),
    (
        c.UpdateExtension(REF, "u", "citext", "1.7"),
        {"extensions": {"citext": ("1.6", "public")}, "extension_oids": {"citext": 16401}},
        {"extensions": {"citext": ("1.6", "app")}, "extension_oids": {"citext": 16401}},
        "version 1.6 in schema public",
    ),
]


@pytest.mark.parametrize(("change", "state", "other", "text"), CASES, ids=lambda x: type(x).__name__)
def test_another_state_is_another_pre_image(
    change: c.Change, state: dict[str, object], other: dict[str, object], text: str
) -> None:
    assert before(change, **state) == text
    assert before(change, **other) != text


def test_the_order_in_which_the_server_lists_things_changes_nothing() -> None:
    parts = [replace(READER, names=("users",)), replace(READER, names=("orders",))]
    assert before(REVOKE, groups=tuple(parts)) == before(REVOKE, groups=tuple(reversed(parts)))
    assert before(REVOKE, groups=(READER,)) == before(REVOKE, groups=tuple(parts))
    granted = (("", Membership("reader")), ("bob", Membership("reader", set=False)))
    change = c.RevokeRole(REF, "u", "app", "reader")
    one, other = (CurrentRole("app", granted=rows) for rows in (granted, granted[::-1]))
    assert before(change, roles={"app": one}) == before(change, roles={"app": other})


def test_what_is_renamed_by_the_same_plan_is_found_by_its_old_name() -> None:
    rename = c.RenameSchema(ObjectRef("schema", "new"), "u", "old", "new")
    owner = c.AlterSchemaOwner(ObjectRef("schema", "new"), "u", "new", "fw_owner")
    state = State(snapshot(schemas={"old": ("alice", None)}), [rename, owner])
    assert pre_image(owner, state) == "owner alice"
    role = c.RenameRole(ObjectRef("role", "new"), "u", "old", "new")
    setting = c.SetRoleSetting(ObjectRef("role", "new"), "u", "new", "work_mem", "8MB")
    state = State(snapshot(roles={"old": ROLE}), [role, setting])
    assert pre_image(setting, state) == "set to 4MB"


def test_a_setting_of_an_application_may_be_a_secret_and_is_not_shown() -> None:
    change = c.SetDatabaseSetting(ObjectRef("database", "shop"), "u", "shop", "app.key", None)
    text = before(change, database_settings={"app.key": "hunter2hunter2"})
    assert "hunter2" not in text
    assert text != before(change, database_settings={"app.key": "hunter3hunter3"})


def test_what_a_role_holds_elsewhere_is_part_of_it() -> None:
    change = c.RetireElsewhere(REF, "u", "app", "other")
    for entries in (1, 2):
        state = State(snapshot(), [change], {"app": (Elsewhere("other", entries),)})
        assert pre_image(change, state) == f"{entries} entries name it there"
