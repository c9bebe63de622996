"""What a reason asks of a person: none is left out, and one that is misspelt is found."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result

from selvedge.cli.kubectl import kubectl
from selvedge.cli.remedies import Standing, again, known, remedy_of, step_of
from selvedge.core.reasons import Reason


def explain(*arguments: str) -> Result:
    return CliRunner().invoke(kubectl, ["explain", *arguments])


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_a_remedy_that_can_be_filled_in(reason: Reason) -> None:
    remedy = remedy_of(reason)
    step = remedy.shown("dbsrv", "shop", "main")
    assert step
    assert "{" not in step
    assert not step.endswith(".")
    assert "describe" not in step  # that is what is said of one that is left out
    if remedy.standing not in (Standing.GOOD, Standing.EVENT):
        assert step != "nothing to do"


def test_a_reason_is_explained_for_people_and_machines() -> None:
    shown = explain("AuthenticationFailed")
    assert shown.exit_code == 0
    first, second, third = shown.stdout.splitlines()
    assert first == f"AuthenticationFailed: {Reason.AUTHENTICATION_FAILED.explanation}"
    assert "waiting does not help" in second
    assert third.startswith("  next: put the right user name and password")

    document = json.loads(explain("AuthenticationFailed", "-o", "json").stdout)
    assert document["reason"] == "AuthenticationFailed"
    assert document["standing"] == "Action"
    assert document["waitingHelps"] is False
    assert document["meaning"] == Reason.AUTHENTICATION_FAILED.explanation


@pytest.mark.parametrize("word", ["waitingforapproval", "WAITING_FOR_APPROVAL", "waiting-for-approval"])
def test_a_reason_may_be_written_otherwise(word: str) -> None:
    assert explain(word).stdout.startswith("WaitingForApproval: ")


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("AuthentificationFailed", "AuthenticationFailed"),
        ("Secret", "SecretNotFound"),
        ("Aproval", "WaitingForApproval"),
        ("Lock", "WaitingForLock"),
    ],
)
def test_an_unknown_reason_names_those_that_are_near(word: str, near: str) -> None:
    shown = explain(word)
    assert shown.exit_code == 1
    assert shown.stdout == ""
    assert near in shown.stderr
    assert "did you mean" in shown.stderr


def test_an_unknown_reason_with_nothing_near_says_where_all_are() -> None:
    shown = explain("xyzzy")
    assert shown.exit_code == 1
    assert "lists all of them" in shown.stderr


def test_without_a_reason_all_are_listed() -> None:
    assert len(explain().stdout.splitlines()) == len(Reason)
    assert [entry["reason"] for entry in json.loads(explain("-o", "json").stdout)] == [str(one) for one in Reason]


def test_a_reason_of_a_newer_operator_leads_to_describe() -> None:
    assert known("FromTheFuture") is None
    assert step_of("FromTheFuture", "dbs", "shop", "fw") == "kubectl -n shop describe dbs fw"
    assert again("dbs", "shop", "fw").startswith(
        "kubectl -n shop annotate dbs fw --overwrite selvedge.dev/reconcile-now="
    )
