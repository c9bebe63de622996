"""Names are measured in bytes, reserved ones are refused, long ones are shortened the same way for ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selvedge.core.errors import InvalidError
from selvedge.core.names import MAX_BYTES, check_identifier, check_role, reserved_role, shorten
from selvedge.core.reasons import Reason

names = st.text(min_size=1, max_size=200)


@pytest.mark.parametrize("name", ["n" * 63, "ä" * 31, "Übersicht", "uuid-ossp"])
def test_a_name_of_up_to_63_bytes_is_accepted(name):
    assert check_identifier(name) == name


@pytest.mark.parametrize(("name", "size"), [("n" * 64, 64), ("ä" * 32, 64), ("😀" * 16, 64)])
def test_a_name_is_measured_in_bytes(name, size):
    with pytest.raises(InvalidError, match=f"is {size} bytes long and Postgres keeps 63: shorten it"):
        check_identifier(name, "role")


def test_an_empty_name_is_refused():
    with pytest.raises(InvalidError, match="the schema is empty: give it a name"):
        check_identifier("", "schema")


@pytest.mark.parametrize("name", ["a\0b", "a\nb", "a\x7fb"])
def test_a_control_character_is_refused(name):
    with pytest.raises(InvalidError, match="holds a control character"):
        check_identifier(name)


@pytest.mark.parametrize(
    "name",
    [
        "pg_monitor",
        "PG_boss",
        "public",
        "PUBLIC",
        "none",
        "rds_superuser",
        "rdsadmin",
        "cloudsqladmin",
        "azure_pg_admin",
    ],
)
def test_a_reserved_role_is_refused(name):
    assert reserved_role(name)
    with pytest.raises(InvalidError, match=f"role {name} is refused") as caught:
        check_role(name)
    assert caught.value.reason is Reason.FORBIDDEN_NAME


@pytest.mark.parametrize("name", ["app_readonly", "pgbouncer", "rd", "publications", "azure"])
def test_a_name_that_only_looks_alike_is_free(name):
    assert check_role(name) == name


def test_a_short_name_stays_as_it_is():
    assert shorten("fashion_wallet", "_migrator") == "fashion_wallet_migrator"


def test_a_long_name_is_cut_and_gets_a_hash_that_never_changes():
    assert shorten("d" * 63, "_migrator") == "d" * 41 + "_dc2d0f189f12_migrator"


def test_two_long_names_that_begin_alike_stay_two():
    assert shorten("d" * 62 + "a", "_probe") != shorten("d" * 62 + "b", "_probe")


@given(names, st.sampled_from(["", "_migrator", "_probe"]))
def test_a_shortened_name_always_fits_and_keeps_its_suffix(name, suffix):
    result = shorten(name, suffix)
    assert len(result.encode()) <= MAX_BYTES
    assert result.endswith(suffix)
    assert shorten(name, suffix) == result


def test_a_suffix_that_leaves_no_room_is_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match="leaves no room"):
        shorten("n" * 63, "s" * 60)
