"""The SQL of each change, word for word."""

from __future__ import annotations

from dataclasses import replace

import pytest

from selvedge.core.postgres import changes as c
from selvedge.core.postgres import rls_changes as rls
from selvedge.core.postgres.default_privileges import Defaults
from selvedge.core.postgres.model import Claim, Membership
from selvedge.core.postgres.settings import equal, join_list, split_list
from selvedge.core.unit import ObjectRef
from selvedge.engines.postgres.render import render, summary

REF = ObjectRef("role", "app")


def text(change: c.Change, version: int = 160000) -> str:
    return summary(change, version=version, database="shop", metadata_schema="selvedge")


def privileges(kind: str, names: tuple[str, ...], *words: str, schema: str = "s", grantee: str = "app") -> c.Privileges:
    return c.Privileges(kind, schema, names, words, grantee)


EXPECTED = {
    'CREATE ROLE "a""b" NOLOGIN': c.CreateRole(REF, "u", 'a"b'),
    "COMMENT ON ROLE \"app\" IS 'it''s; 100%'": c.CommentRole(REF, "u", "app", "it's; 100%"),
    'ALTER ROLE "app" SET "app"."tenant" TO \'x\'': c.SetRoleSetting(REF, "u", "app", "app.tenant", "x"),
    "ALTER ROLE \"app\" SET \"search_path\" TO 'a,b', '$user', 'plain'": c.SetRoleSetting(
        REF, "u", "app", "search_path", '"a,b", "$user", PLAIN'
    ),
    'ALTER ROLE "app" RESET "work_mem"': c.SetRoleSetting(REF, "u", "app", "work_mem", None),
    'GRANT "r" TO "app" WITH ADMIN FALSE, INHERIT FALSE, SET TRUE': c.GrantRole(
        REF, "u", "app", Membership("r", inherit=False)
    ),
    'REVOKE "r" FROM "app"': c.RevokeRole(REF, "u", "app", "r"),
    'REVOKE ADMIN OPTION FOR "r" FROM "app"': c.RevokeAdminOption(REF, "u", "app", "r"),
    'CREATE DATABASE "shop" OWNER "app"': c.CreateDatabase(REF, "u", "shop", "app"),
    'ALTER DATABASE "shop" OWNER TO "app"': c.AlterDatabaseOwner(REF, "u", "shop", "app"),
    'CREATE EXTENSION "uuid-ossp" SCHEMA "public" VERSION \'1.1\'': c.CreateExtension(
        REF, "u", "uuid-ossp", "public", "1.1"
    ),
    'CREATE SCHEMA "s" AUTHORIZATION "app"': c.CreateSchema(REF, "u", "s", "app"),
    'DROP SCHEMA "s" RESTRICT': c.DropSchema(REF, "u", "s"),
    'DROP SCHEMA "s" CASCADE': c.DropSchema(REF, "u", "s", cascade=True),
    'GRANT SELECT, UPDATE ON TABLE "s"."t1", "s"."t 2" TO "app"': c.GrantPrivileges(
        REF, "u", privileges("table", ("t1", "t 2"), "SELECT", "UPDATE")
    ),
    'REVOKE TEMPORARY ON DATABASE "shop" FROM PUBLIC': c.RevokePrivileges(
        REF, "u", privileges("database", ("",), "TEMPORARY", schema="", grantee="PUBLIC")
    ),
    'GRANT EXECUTE ON ROUTINE "s"."f"(text, integer) TO "app"': c.GrantPrivileges(
        REF, "u", privileges("function", ("f\0text, integer",), "EXECUTE")
    ),
    'GRANT EXECUTE ON ROUTINE "s"."f() TO PUBLIC; --"(integer) TO "app"': c.GrantPrivileges(
        REF, "u", privileges("function", ("f() TO PUBLIC; --\0integer",), "EXECUTE")
    ),
    'GRANT USAGE ON FOREIGN SERVER "far" TO "app" WITH GRANT OPTION': c.GrantPrivileges(
        REF, "u", replace(privileges("server", ("far",), "USAGE", schema=""), grantable=True)
    ),
    'GRANT USAGE ON FOREIGN DATA WRAPPER "w" TO "app"': c.GrantPrivileges(
        REF, "u", privileges("wrapper", ("w",), "USAGE", schema="")
    ),
    'GRANT USAGE ON LANGUAGE "sql" TO "app"': c.GrantPrivileges(
        REF, "u", privileges("language", ("sql",), "USAGE", schema="")
    ),
    'REVOKE GRANT OPTION FOR USAGE ON TYPE "s"."t" FROM "app" CASCADE': c.RevokePrivileges(
        REF, "u", replace(privileges("type", ("t",), "USAGE"), grantable=True, cascade=True)
    ),
    'SET LOCAL ROLE "x"; REVOKE SELECT ON TABLE "s"."t" FROM "app"; SET LOCAL ROLE NONE': c.RevokePrivileges(
        REF, "u", replace(privileges("table", ("t",), "SELECT"), grantor="x")
    ),
    'REVOKE "r" FROM "app" GRANTED BY "x" CASCADE': c.RevokeRole(REF, "u", "app", "r", "x"),
    'CREATE ROLE "app" NOLOGIN NOINHERIT CONNECTION LIMIT 3': c.CreateRole(
        REF, "u", "app", (("NOINHERIT", None), ("CONNECTION LIMIT", 3))
    ),
    "ALTER ROLE \"app\" VALID UNTIL '2031-01-01 00:00:00+00'": c.AlterRole(
        REF, "u", "app", (("VALID UNTIL", "2031-01-01 00:00:00+00"),)
    ),
    'ALTER ROLE "app" NOSUPERUSER NOLOGIN': c.RestrictRole(REF, "u", "app", (("NOSUPERUSER", None), ("NOLOGIN", None))),
    'ALTER ROLE "app" IN DATABASE "shop" RESET "work_mem"': c.SetRoleSettingHere(REF, "u", "app", "work_mem", None),
    'GRANT "app" TO CURRENT_USER WITH INHERIT FALSE, SET TRUE': c.BecomeAble(REF, "u", "app"),
    'ALTER ROLE "a" RENAME TO "b"': c.RenameRole(REF, "u", "a", "b"),
    'ALTER SCHEMA "a" RENAME TO "b"': c.RenameSchema(REF, "u", "a", "b"),
    'ALTER DATABASE "other" OWNER TO CURRENT_USER': c.HandOverDatabase(REF, "u", "app", "other"),
    'REASSIGN OWNED BY "app" TO "owner"; DROP OWNED BY "app"': c.RetireRole(REF, "u", "app", "owner"),
    '/* in database "a* /b" */ REASSIGN OWNED BY "app" TO /* its owner, or a role that may do nothing */; '
    'DROP OWNED BY "app"': c.RetireElsewhere(REF, "u", "app", "a*/b"),
    'ALTER DEFAULT PRIVILEGES FOR ROLE "o" GRANT SELECT ON TABLES TO "app"': c.GrantDefaults(
        REF, "u", Defaults("o", (), "table", ("SELECT",), "app")
    ),
    'ALTER DEFAULT PRIVILEGES FOR ROLE "o" IN SCHEMA "s" REVOKE USAGE ON TYPES FROM PUBLIC': c.RevokeDefaults(
        REF, "u", Defaults("o", ("s",), "type", ("USAGE",), "PUBLIC")
    ),
    'GRANT SELECT ("a", "b") ON TABLE "s"."t" TO "r"; GRANT SELECT ("c") ON TABLE "s"."u" TO "r"': c.GrantPrivileges(
        REF, "u", privileges("column", ("t\0a", "t\0b", "u\0c"), "SELECT", grantee="r")
    ),
    'DELETE FROM "selvedge"."claims" WHERE object = ANY (\'{role:app}\'::text[])': c.DropClaims(
        REF, "u", ("role:app",)
    ),
}


@pytest.mark.parametrize("expected", EXPECTED)
def test_the_statement_of_a_change(expected: str) -> None:
    assert text(EXPECTED[expected]) == expected


def test_options_of_a_membership_are_not_spelled_before_16() -> None:
    grant = c.GrantRole(REF, "u", "app", Membership("r", inherit=False))
    assert text(grant, 150000) == 'GRANT "r" TO "app"'


def test_only_privileges_that_exist_become_words_of_a_statement() -> None:
    change = c.GrantPrivileges(REF, "u", privileges("table", ("t",), "SELECT; DROP TABLE x"))
    with pytest.raises(ValueError, match="DROP TABLE"):
        text(change)


def test_every_change_has_a_statement() -> None:
    made = {type(change) for change in EXPECTED.values()}
    rest = {
        c.DropRole(REF, "u", "app"),
        c.DropDatabase(REF, "u", "shop"),
        c.SetDatabaseSetting(REF, "u", "shop", "work_mem", "1MB"),
        c.AlterSchemaOwner(REF, "u", "s", "app"),
        c.CommentSchema(REF, "u", "s", "x"),
        c.UpdateExtension(REF, "u", "e", "2"),
        c.DropExtension(REF, "u", "e"),
        rls.EnableRowSecurity(REF, "u", "s", "t"),
        rls.DisableRowSecurity(REF, "u", "s", "t"),
        rls.ForceRowSecurity(REF, "u", "s", "t", True),
        rls.ClosePartition(REF, "u", "s", "t", ("s", "t_1")),
        rls.CreatePolicy(REF, "u", "s", "t", rls.RowPolicy("p", using="true")),
        rls.AlterPolicy(REF, "u", "s", "t", "p", ("app",)),
        rls.DropPolicy(REF, "u", "s", "t", "p"),
    }
    claims = c.WriteClaims(REF, "u", (Claim("role:app", "k", "shop/one", "u"),))
    for change in (*rest, claims):
        assert render(change, version=160000, database="shop", metadata_schema="selvedge").as_string(None)
    assert made | {type(change) for change in rest} | {c.WriteClaims} == set(c.ORDER)


@pytest.mark.parametrize("parts", [["a"], ["a", "b"], ["$user", "public"], ["a,b"], ['quo"te', "x"], [""], [" x "]])
def test_a_list_survives_being_one_text(parts: list[str]) -> None:
    assert split_list(join_list(parts)) == parts


def test_settings_are_compared_as_the_server_stores_them() -> None:
    assert equal("search_path", '"Select", public', '"Select","public"')
    assert not equal("search_path", "a, b", "b, a")
    assert not equal("search_path", None, "a")
    assert equal("work_mem", "1MB", "1MB")
    assert not equal("app.note", "a, b", "a,b")
