from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selvedge.core.backoff import delay


@given(st.integers(0, 10_000), st.integers())
def test_a_delay_lies_between_the_floor_and_the_cap(attempt, seed):
    seconds = delay(attempt, base=1.0, cap=300.0, random=Random(seed))
    assert 0.5 <= seconds <= min(300.0, 2.0 ** min(attempt, 20))


def test_delays_grow_and_are_spread():
    random = Random(7)
    means = [sum(delay(attempt, random=random) for _ in range(2000)) / 2000 for attempt in range(8)]
    assert means == sorted(means)
    late = [delay(20, random=random) for _ in range(2000)]
    assert min(late) < 30
    assert max(late) > 270


def test_the_same_seed_gives_the_same_delay():
    assert delay(5, random=Random(1)) == delay(5, random=Random(1))


@pytest.mark.parametrize(("attempt", "base", "cap"), [(-1, 1, 1), (0, 0, 1), (0, 1, 0)])
def test_nonsense_is_refused(attempt, base, cap):
    with pytest.raises(ValueError, match="must be"):
        delay(attempt, base=base, cap=cap, random=Random(0))
