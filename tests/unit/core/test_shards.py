from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selvedge.core.shards import MOST, Shard, shard_of

NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)


@given(NAMES, NAMES, st.integers(1, MOST))
def test_each_server_belongs_to_exactly_one_part(namespace, name, count):
    assert sum(Shard(index, count).owns(namespace, name) for index in range(count)) == 1


@given(NAMES, NAMES, st.integers(1, MOST - 1))
def test_with_one_part_more_a_server_stays_or_goes_to_the_new_one(namespace, name, count):
    before, after = (shard_of(namespace, name, parts) for parts in (count, count + 1))
    assert after in (before, count)


@pytest.mark.parametrize("count", [2, 3, 5, 16, MOST])
def test_the_parts_are_even(count):
    """Within five standard deviations of a fair draw, and with names as alike as people give them."""
    number = 20_000
    found = Counter(shard_of(f"team-{n % 40}", f"postgres-{n}", count) for n in range(number))
    fair = number / count
    assert set(found) == set(range(count))
    assert max(abs(parts - fair) for parts in found.values()) < 5 * fair**0.5


@pytest.mark.parametrize(
    ("namespace", "name", "parts"),
    [
        ("shop", "main-postgres", [0, 1, 1, 1, 1, 1]),
        ("shop", "main-mongo", [0, 0, 0, 0, 4, 4]),
        ("billing", "main-postgres", [0, 0, 0, 0, 0, 5]),
        ("", "", [0, 0, 0, 0, 0, 0]),
    ],
)
def test_the_answer_never_changes(namespace, name, parts):
    """Two versions that answered otherwise would both hold a server, or neither."""
    assert [shard_of(namespace, name, count) for count in range(1, 7)] == parts


def test_the_answer_is_the_same_in_every_process():
    code = "from selvedge.core.shards import shard_of; print([shard_of('a', str(n), 7) for n in range(50)])"
    here = [shard_of("a", str(n), 7) for n in range(50)]
    for seed in ("1", "2"):
        answer = subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True)
        assert answer.stdout.decode().strip() == str(here)


def test_a_slash_keeps_namespace_and_name_apart():
    pairs = [("ab", "c"), ("a", "bc"), ("abc", "")]
    assert len({tuple(shard_of(*pair, count) for count in range(2, MOST)) for pair in pairs}) == 3


@pytest.mark.parametrize("text", ["0/2", "2/3", "63/64"])
def test_a_shard_is_read_as_it_is_written(text):
    assert str(Shard.parse(text)) == text


def test_one_part_is_the_whole():
    assert Shard.parse("0/1") is None


@pytest.mark.parametrize("text", ["", "1", "3/3", "1/0", "-1/3", "0/65", "a/b", "1/2/3", "0/", " 0/2"])
def test_what_is_no_shard_is_refused_with_what_to_write(text):
    with pytest.raises(ValueError, match=r"write INDEX/COUNT .* such as 0/3"):
        Shard.parse(text)
