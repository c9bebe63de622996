from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from selvedge.core import conditions as c
from selvedge.core.reasons import Reason

NOW = datetime(2025, 11, 20, 12, 0, 0, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)


def ready(before, *, status=True, reason=Reason.VERIFIED, message="ok", generation=1, now=NOW):
    return c.set_condition(
        before, type="Ready", status=status, reason=reason, message=message, generation=generation, now=now
    )


def test_a_condition_is_written_as_kubernetes_wants_it():
    assert ready([]) == [
        {
            "type": "Ready",
            "status": "True",
            "reason": "Verified",
            "message": "ok",
            "observedGeneration": 1,
            "lastTransitionTime": "2025-11-20T12:00:00Z",
        }
    ]


def test_the_transition_time_moves_only_when_the_status_changes():
    first = ready([])
    again = ready(first, message="still", generation=2, now=LATER)
    assert again[0]["lastTransitionTime"] == "2025-11-20T12:00:00Z"
    assert again[0]["observedGeneration"] == 2
    assert ready(first, now=LATER) == first
    changed = ready(again, status=False, now=LATER)
    assert changed[0]["lastTransitionTime"] == "2025-11-20T13:00:00Z"
    unknown = ready(changed, status=None, now=NOW)
    assert (unknown[0]["status"], unknown[0]["lastTransitionTime"]) == ("Unknown", "2025-11-20T12:00:00Z")


def test_other_conditions_and_their_order_stay_and_the_input_is_not_changed():
    before = [{"type": "Provisioned", "status": "True", "foreign": 1}, *ready([])]
    after = ready(before, status=False)
    assert after[0] == before[0]
    assert [entry["type"] for entry in after] == ["Provisioned", "Ready"]
    assert before[1]["status"] == "True"


def test_a_message_is_cut_to_1024_characters():
    message = ready([], message="x" * 5000)[0]["message"]
    assert (len(message), message[-1]) == (1024, "…")


def test_times_are_written_in_utc_and_a_time_without_zone_is_refused():
    assert c.timestamp(datetime(2025, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))) == "2025-01-01T00:00:00Z"
    with pytest.raises(ValueError, match="without a zone"):
        c.timestamp(datetime(2025, 1, 1))  # noqa: DTZ001 - the point of the test


@pytest.mark.parametrize(
    ("is_ready", "retrying", "expected"),
    [
        (True, True, {"Ready": True, "Reconciling": False, "Stalled": False}),
        (True, False, {"Ready": True, "Reconciling": False, "Stalled": False}),
        (False, True, {"Ready": False, "Reconciling": True, "Stalled": False}),
        (False, False, {"Ready": False, "Reconciling": False, "Stalled": True}),
        (None, True, {"Ready": None, "Reconciling": True, "Stalled": False}),
        (None, False, {"Ready": None, "Reconciling": False, "Stalled": False}),
    ],
)
def test_the_three_standard_conditions_agree(is_ready, retrying, expected):
    result = c.standard(
        [], ready=is_ready, retrying=retrying, reason=Reason.UNREACHABLE, message="m", generation=3, now=NOW
    )
    found = {type_: c.find(result, type_) for type_ in expected}
    assert {type_: condition.status for type_, condition in found.items()} == expected
    assert sum(condition.status is True for condition in found.values()) <= 1
    assert {condition.observed_generation for condition in found.values()} == {3}


def test_find_says_none_where_there_is_no_such_condition():
    assert c.find(ready([]), "Stalled") is None
    found = c.find(ready([]), "Ready")
    assert found.to_json() == ready([])[0]
