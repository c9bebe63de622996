"""The pure part of an export: what is folded into which entry, and what is told instead."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from selvedge.api.base import FunctionName, Identifier, SchemaName, TableName
from selvedge.core.postgres import export_names
from selvedge.core.postgres.export import export_database, places_of_roles
from selvedge.core.postgres.export_names import Found
from selvedge.core.postgres.model import AclGroup, CurrentRole, Membership, Snapshot

NAMES = st.text(st.sampled_from('abÄ ".()\n\x7f\x00,;%') | st.characters(exclude_categories=["Cs"]), max_size=70)


def takes(annotation: object, text: str) -> bool:
    try:
        TypeAdapter(annotation).validate_python(text)
    except ValidationError:
        return False
    return True


@given(NAMES, NAMES)
def test_the_names_that_are_written_are_those_that_the_api_takes(schema: str, name: str) -> None:
    assert export_names.is_identifier(name) == takes(Identifier, name)
    assert export_names.is_schema(schema) == takes(SchemaName, schema)
    table = export_names.dotted(schema, name)
    assert table is None or takes(TableName, table)
    function = export_names.signature(schema, f"{name}\0integer, text")
    assert function is None or takes(FunctionName, function)


def snapshot(*groups: AclGroup, roles: tuple[CurrentRole, ...] = ()) -> Snapshot:
    return Snapshot(
        version=160000,
        me="postgres",
        superuser=True,
        standby=False,
        system_identifier="1",
        database_owner="postgres",
        database_settings={},
        roles={role.name: role for role in roles},
        schemas={"public": ("pg_database_owner", "standard public schema"), "shop": ("postgres", None)},
        extensions={"plpgsql": ("1.0", "pg_catalog")},
        groups=groups,
        functions={},
    )


def tables(names: str, **grants: set[str]) -> AclGroup:
    held = {"postgres": frozenset({"SELECT", "INSERT"})} | {to: frozenset(found) for to, found in grants.items()}
    return AclGroup("table", "shop", "postgres", tuple(names.split()), held)


def grants(*groups: AclGroup) -> list[tuple[list[str], object, list[str]]]:
    [spec] = export_database(Found("shop", snapshot(*groups)), frozenset()).specs
    return [(grant["privileges"], grant["objects"], grant["to"]) for grant in spec.get("grants", ())]


def test_what_all_tables_have_is_said_of_the_schema_and_the_rest_by_name() -> None:
    assert grants(tables("a b", app={"SELECT"}), tables("c", app={"SELECT", "INSERT"}, other={"SELECT"})) == [
        (["SELECT"], {"tablesIn": ["shop"]}, ["app"]),
        (["INSERT"], {"tables": ["shop.c"]}, ["app"]),
        (["SELECT"], {"tables": ["shop.c"]}, ["other"]),
    ]


def test_one_table_without_it_is_enough_to_name_the_others() -> None:
    assert grants(tables("a b", app={"SELECT"}), tables("c")) == [
        (["SELECT"], {"tables": ["shop.a", "shop.b"]}, ["app"])
    ]


def test_a_single_table_speaks_for_no_schema() -> None:
    assert grants(tables("a", app={"SELECT"})) == [(["SELECT"], {"tables": ["shop.a"]}, ["app"])]


def test_a_table_that_belongs_to_the_grantee_does_not_stand_in_the_way() -> None:
    own = AclGroup("table", "shop", "app", ("own",), {"app": frozenset({"SELECT", "INSERT"})})
    assert grants(tables("a b", app={"SELECT"}), own) == [(["SELECT"], {"tablesIn": ["shop"]}, ["app"])]


def test_partitions_are_no_tables_of_the_schema() -> None:
    partition = AclGroup("partition", "shop", "postgres", ("p",), {"postgres": frozenset({"SELECT"})})
    assert grants(tables("a b", app={"SELECT"}), partition) == [(["SELECT"], {"tablesIn": ["shop"]}, ["app"])]


def test_more_than_a_declaration_may_hold_becomes_several() -> None:
    groups = [tables(f"t{number}", **{f"role_{number:04}": {"SELECT"}}) for number in range(501)]
    specs = export_database(Found("shop", snapshot(*groups)), frozenset()).specs
    assert [len(spec["grants"]) for spec in specs] == [500, 1]
    assert len({grant["name"] for spec in specs for grant in spec["grants"]}) == 501


@pytest.mark.parametrize(
    ("name", "value"),
    [("app.api_key", "x"), ("app.password", "x"), ("app.dsn", "x"), ("app.url", "https://me:secret@host/")],
)
def test_a_setting_that_looks_like_a_secret_stays_out(name: str, value: str) -> None:
    role = CurrentRole("app", settings={name: value, "app.tenant": "a"})
    exported = export_database(Found("shop", snapshot(roles=(role,))), frozenset({"app"}))
    assert exported.specs[0]["roles"] == [{"name": "app", "settings": {"app.tenant": "a"}}]
    assert f"of role app, setting {name}: its value may be a secret" in exported.notes
    assert "secret@" not in " ".join(exported.notes)


def test_a_role_is_declared_where_it_has_settings_and_only_there() -> None:
    member = CurrentRole("app", memberships={"group": Membership("group")})
    first = Found("a", snapshot(tables("t", app={"SELECT"}), roles=(member, CurrentRole("group"))))
    there = CurrentRole("app", memberships={"group": Membership("group")}, database_settings={"work_mem": "1MB"})
    second = Found("b", snapshot(roles=(there, CurrentRole("group"), CurrentRole("idle"))))
    assert places_of_roles([first, second], whole_server=False) == {
        "a": frozenset({"group"}),
        "b": frozenset({"app"}),
    }
