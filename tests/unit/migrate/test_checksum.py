"""One text has one checksum, however its lines are ended and on whichever way it comes in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selvedge.migrate import load
from selvedge.migrate.checksum import checksum, normalise
from selvedge.migrate.files import decode

TEXTS = st.lists(st.sampled_from(("a", "é", "\r", "\n", "\r\n", "\ufeff", " ", "-- migrate:up\n")), max_size=9)


@given(TEXTS.map("".join))
def test_normalised_once_is_normalised_for_good(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    assert "\r\n" not in once
    assert not once.endswith("\n")
    assert not once.startswith("\ufeff")


@given(TEXTS.map("".join))
def test_a_file_and_a_text_are_read_as_the_same(text: str) -> None:
    """A directory's file is decoded, a ConfigMap's text comes as it is: both have one checksum."""
    assert decode(text.encode(), "1_a.sql") == normalise(text)
    assert checksum(decode(text.encode(), "1_a.sql")) == checksum(text)


@given(st.lists(st.sampled_from(("a", "", "b c")), max_size=5), st.integers(0, 3), st.integers(0, 3))
def test_how_lines_end_does_not_matter(lines: list[str], end: int, returns: int) -> None:
    text = "\n".join(lines) + "\n" * end
    assert checksum(text.replace("\n", "\r" * returns + "\n")) == checksum(text)


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\r\n\n", "\n\r\n", "\r\r\n", "\n\n\r\n\r\n\n"])
def test_however_a_file_ends(end: str) -> None:
    [plain] = load({"1_a.sql": "SELECT 1;"})
    [read] = load({"1_a.sql": decode(f"SELECT 1;{end}".encode(), "1_a.sql")})
    [given_] = load({"1_a.sql": f"SELECT 1;{end}"})
    assert plain.checksum == read.checksum == given_.checksum
