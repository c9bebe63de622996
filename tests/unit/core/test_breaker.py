from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from selvedge.core.breaker import BreakerState, CircuitBreaker


def opened(**options):
    breaker = CircuitBreaker(pause=5, cap=60, **options)
    for now in (0, 1, 2):
        assert breaker.allow(now)
        breaker.failure(now)
    return breaker


def test_it_opens_after_three_consecutive_failures_only():
    breaker = CircuitBreaker()
    for now in range(20):
        breaker.failure(now)
        breaker.failure(now)
        assert breaker.state(now) is BreakerState.CLOSED
        breaker.success()
    breaker = opened()
    assert breaker.state(2) is BreakerState.OPEN
    assert not breaker.allow(6.9)
    assert breaker.retry_after(3) == 4


def test_one_probe_is_allowed_after_the_pause_and_success_closes():
    breaker = opened()
    assert breaker.state(7) is BreakerState.HALF_OPEN
    assert breaker.retry_after(7) == 0
    assert [breaker.allow(7) for _ in range(5)] == [True, False, False, False, False]
    breaker.success()
    assert breaker.state(7) is BreakerState.CLOSED
    assert all(breaker.allow(7) for _ in range(5))
    breaker.failure(8)
    assert breaker.state(8) is BreakerState.CLOSED


def test_the_pause_doubles_with_each_failed_probe_up_to_the_cap():
    breaker, now, pauses = opened(), 2.0, []
    for _ in range(6):
        pause = breaker.retry_after(now)
        pauses.append(pause)
        now += pause
        assert breaker.allow(now)
        breaker.failure(now)
    assert pauses == [5, 10, 20, 40, 60, 60]
    now += 60
    assert breaker.allow(now)
    breaker.success()
    now += breaker.calm
    for _ in range(3):
        breaker.failure(now)
    assert breaker.retry_after(now) == 5


def test_a_circuit_that_does_not_stay_closed_is_closed_more_and_more_seldom():
    """The probe has a connection, and whoever comes after it gets none."""
    breaker = CircuitBreaker(pause=1, cap=5)
    now, pauses = 100.0, []
    for _ in range(9):
        for _ in range(breaker.threshold):
            breaker.failure(now)
        pauses.append(breaker.retry_after(now))
        now += pauses[-1]
        breaker.success()
        now += 2
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    # away as a whole it is probed as any other: a probe that fails wakes nobody
    for _ in range(breaker.threshold):
        breaker.failure(now)
    now += breaker.retry_after(now)
    breaker.failure(now)
    assert breaker.retry_after(now) == 5
    now += 5
    breaker.success()
    now += breaker.calm
    for _ in range(breaker.threshold):
        breaker.failure(now)
    assert breaker.retry_after(now) == 1


@given(
    steps=st.lists(st.tuples(st.sampled_from(["failure", "success"]), st.floats(0, 20)), max_size=200),
    options=st.fixed_dictionaries({"pause": st.floats(0.1, 5), "cap": st.floats(5, 300)}),
)
def test_whatever_happens_it_closes_with_the_next_success_and_is_open_for_no_longer_than_its_caps(steps, options):
    breaker, now, last = CircuitBreaker(**options), 0.0, None
    for what, seconds in steps:
        now += seconds
        before = breaker.state(now)
        breaker.failure(now) if what == "failure" else breaker.success()
        after = breaker.state(now)
        if what == "success":
            assert after is BreakerState.CLOSED
            continue
        assert 0 <= breaker.retry_after(now) <= max(options["cap"], breaker.flap_cap)
        if before is BreakerState.CLOSED and after is BreakerState.OPEN:
            rest = breaker.retry_after(now)
            if last is not None and now - last[0] < last[1] + breaker.calm - 1e-6:
                assert rest >= min(breaker.flap_cap, 2 * last[1]) - 1e-6, "it closed a moment ago"
            last = now, rest
        elif before is BreakerState.HALF_OPEN:
            last = None


def test_late_failures_of_attempts_that_began_before_do_not_lengthen_the_pause():
    breaker = opened()
    for _ in range(17):
        breaker.failure(4)
    assert breaker.retry_after(4) == 3


def test_a_probe_that_never_reports_does_not_block_for_ever():
    breaker = opened(probe_timeout=30)
    assert breaker.allow(7)
    assert breaker.retry_after(10) == 27
    assert breaker.allow(37)
    breaker.abandon()
    assert breaker.allow(38)


def test_jitter_shortens_a_pause_by_a_fifth_at_most():
    pauses = {opened(random=Random(seed)).retry_after(2) for seed in range(50)}
    assert len(pauses) > 40
    assert all(4 <= pause <= 5 for pause in pauses)
