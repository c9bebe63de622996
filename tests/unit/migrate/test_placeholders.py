"""``${env:NAME}``: only what is listed, never a secret, and nothing that makes another statement."""

from __future__ import annotations

import pytest

from selvedge.core.errors import InvalidError
from selvedge.core.reasons import Reason
from selvedge.migrate import load
from selvedge.migrate.placeholders import placeholder_values

FILE = {
    "1_a.sql": "-- migrate:up\nSELECT 1;\nCREATE SCHEMA ${env:TENANT};\n-- migrate:down\nDROP SCHEMA ${env:TENANT};"
}


def test_without_a_list_everything_passes_through() -> None:
    (found,) = load({"1_a.sql": "SELECT '${env:HOME} {{x}} %s $1';"})
    assert found.script.statements[0].text == "SELECT '${env:HOME} {{x}} %s $1'"


def test_both_directions_and_the_checksum_before() -> None:
    one, other = (load(FILE, placeholders={"TENANT": tenant})[0] for tenant in ("acme", "globex"))
    assert one.script.statements[1].text == "CREATE SCHEMA acme"
    assert one.down_script.statements[0].text == "DROP SCHEMA acme"
    assert (one.checksum, one.up) == (other.checksum, other.up)
    assert other.script.statements[1].text == "CREATE SCHEMA globex"


def test_one_that_is_not_listed_is_refused_with_its_line() -> None:
    (found,) = load(FILE, placeholders={})
    with pytest.raises(InvalidError) as error:
        found.check()
    assert str(error.value) == "1_a.sql, line 3: ${env:TENANT} is not among the placeholders; list it, or correct it"


def test_in_mongodb() -> None:
    (found,) = load({"1_a.json": '[{"create": "${env:TENANT}-designs"}]'}, "MongoDB", placeholders={"TENANT": "acme"})
    assert found.commands[0].document == {"create": "acme-designs"}


REFUSED = {
    "not set": (["TENANT"], {}, "placeholder TENANT: the environment variable is not set"),
    "no name": (["TEN ANT"], {}, "the name of an environment variable"),
    "a password": (["PGPASSWORD"], {"PGPASSWORD": "x"}, "secrets are not put into migrations"),
    "a token": (["GITHUB_TOKEN"], {"GITHUB_TOKEN": "x"}, "secrets are not put into migrations"),
    "a quote": (["A"], {"A": "x'; drop table users"}, "could change what a statement is"),
    "a comment": (["A"], {"A": "x --"}, "could change what a statement is"),
    "a line": (["A"], {"A": "x\ny"}, "could change what a statement is"),
    "a dollar quote": (["A"], {"A": "$$"}, "could change what a statement is"),
}


@pytest.mark.parametrize(("names", "environment", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(names: list[str], environment: dict[str, str], why: str) -> None:
    with pytest.raises(InvalidError) as error:
        placeholder_values(names, environment)
    assert error.value.reason is Reason.INVALID_SPEC
    assert why in str(error.value)


def test_values() -> None:
    environment = {"TENANT": "acme-2.eu/x", "HOME": "/root"}
    assert placeholder_values(["TENANT"], environment) == {"TENANT": "acme-2.eu/x"}
