"""Durations: text at the edges, seconds inside."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selvedge.core.duration import (
    DURATION_PATTERN,
    format_duration,
    parse_duration,
)
from selvedge.core.errors import InvalidError
from selvedge.core.reasons import Reason


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0s", 0),
        ("200ms", 0.2),
        ("30s", 30),
        ("5m", 300),
        ("1h", 3600),
        ("30d", 2_592_000),
        ("1h30m", 5400),
        ("007s", 7),
    ],
)
def test_a_duration_is_seconds(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "-5s", "1.5h", "5 m", "5M", "s", "1w", "٣s", "5s\n", "1s" * 20])
def test_what_is_no_duration_is_refused_with_an_example(text):
    with pytest.raises(InvalidError, match="is not a duration: write a number and ms, s, m, h or d") as caught:
        parse_duration(text)
    assert caught.value.reason is Reason.INVALID_SPEC


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (0.2, "200ms"), (90, "1m30s"), (300, "5m"), (3600, "1h"), (7_776_000, "90d")]
)
def test_a_duration_is_written_in_as_few_units_as_it_needs(seconds, text):
    assert format_duration(seconds) == text


@given(st.integers(min_value=0, max_value=10**11))
def test_what_is_written_is_read_again(milliseconds):
    text = format_duration(milliseconds / 1000)
    assert parse_duration(text) == milliseconds / 1000
    assert re.fullmatch(DURATION_PATTERN, text)


def test_nothing_negative_is_written():
    with pytest.raises(ValueError, match="never negative"):
        format_duration(-1)
