"""The patch that is sent for a status, and when nothing is sent."""

from __future__ import annotations

from selvedge.reconcile.outcome import merge_patch


def test_what_is_equal_makes_no_patch() -> None:
    plan = {"digest": "sha256:1", "risks": {"Additive": 1}}
    assert merge_patch({"drift": 1, "plan": plan}, {"plan": dict(plan), "drift": 1}) == {}


def test_a_value_of_none_is_none_and_is_not_sent_again_and_again() -> None:
    """The API server keeps no null, so what it holds would differ from it for ever."""
    assert merge_patch({"plan": {"digest": "a"}}, {"plan": {"digest": "a", "rows": None}}) == {}
    assert merge_patch({}, {"rows": None}) == {}


def test_what_is_gone_is_removed_and_what_differs_is_set() -> None:
    before = {"plan": {"digest": "a", "rows": "3 rows"}, "drift": 1, "reason": "x"}
    after = {"plan": {"digest": "b", "rows": None}, "drift": 1}
    assert merge_patch(before, after) == {"plan": {"digest": "b", "rows": None}, "reason": None}
