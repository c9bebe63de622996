"""Whose word on lost data counts for a MigrationRun: whoever makes one writes its owner."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from selvedge.api.databaseschema import DatabaseSchemaSpec, Migrations
from selvedge.api.databaseserver import ServerPolicy
from selvedge.api.migrationrun import MigrationRunSpec
from selvedge.reconcile.autoapply import _manifest
from selvedge.reconcile.databaseschema import _floored
from selvedge.reconcile.migrationrun import _destructive, _Word
from selvedge.reconcile.servers import Server

SCHEMA = {
    "apiVersion": "v1",
    "kind": "DatabaseSchema",
    "metadata": {"namespace": "fashion", "name": "shop", "uid": "1"},
}


def server(policy: str = "") -> Server:
    """A DatabaseServer with this floor, or without any."""
    floor = ServerPolicy.model_validate({"destructive": policy}) if policy else None
    return cast("Server", SimpleNamespace(spec=SimpleNamespace(policy=floor), name="fashion/main"))


def word(migrations: dict[str, Any] | None, policy: str = "", schema: str = "Allow", **forged: Any) -> _Word:
    """Of a run as autoApply makes it, but for what is ``forged``, on a DatabaseSchema that says ``schema``."""
    spec: dict[str, Any] = {"serverRef": {"name": "main"}, "database": "shop", "destructive": schema, "postgres": {}}
    made = Migrations.model_validate({"source": {"configMaps": [{"name": "files"}]}, **(migrations or {})})
    declared = DatabaseSchemaSpec.model_validate({**spec, "migrations": made if migrations is not None else None})
    run = _manifest(SCHEMA, "up", made)
    asked = MigrationRunSpec.model_validate({**run["spec"], **forged})
    return _destructive(run, asked, SCHEMA, declared, server(policy))


@pytest.mark.parametrize("migrations", [{}, {"targetVersion": "2"}, {"environment": "staging", "targetVersion": "2"}])
def test_a_run_as_autoapply_makes_it_follows_its_schema(migrations: dict[str, Any]) -> None:
    assert word(migrations)[:2] == ("Allow", "spec.destructive of DatabaseSchema fashion/shop")
    assert word(migrations, approvedPlan="sha256:" + "0" * 64).destructive == "Allow"


@pytest.mark.parametrize(
    ("migrations", "forged"),
    [
        ({"targetVersion": "2"}, {"target": None}),
        ({"targetVersion": "2"}, {"target": "3"}),
        ({}, {"target": "1"}),
        ({}, {"environment": "dev"}),
        ({"environment": "production"}, {"environment": ""}),
        ({}, {"action": "Down"}),
        ({"autoApply": False}, {}),
        (None, {}),
    ],
)
def test_what_autoapply_would_not_ask_for_runs_by_its_own_word(
    migrations: dict[str, Any] | None, forged: dict[str, Any]
) -> None:
    assert word(migrations, **forged)[:2] == ("RequireApproval", "spec.destructive")


WORDS = ("Allow", "RequireApproval", "Refuse")


@pytest.mark.parametrize("policy", ["", *WORDS])
@pytest.mark.parametrize("asked", WORDS)
def test_the_floor_of_the_server_holds_where_it_is_stricter(asked: str, policy: str) -> None:
    """For a run by its own word, for one of autoApply, and for the DatabaseSchema itself."""
    stricter = max(asked, policy or "Allow", key=WORDS.index)
    named = ["spec.destructive"] if stricter == asked else []
    named += ["spec.policy.destructive of DatabaseServer fashion/main"] if stricter == policy else []
    says = " as well as ".join(named)
    assert word({"autoApply": False}, policy, destructive=asked)[:2] == (stricter, says)
    assert word({}, policy).destructive == (policy or "Allow"), "the DatabaseSchema's own word is Allow"
    spec = {"serverRef": {"name": "main"}, "database": "shop", "destructive": asked, "postgres": {}}
    schema, decides = _floored(DatabaseSchemaSpec.model_validate(spec), server(policy))
    assert (schema.destructive.value, decides) == (stricter, says)


def test_a_refusal_says_where_the_word_stands_and_how_to_go_on() -> None:
    own, floor = (
        "spec.destructive of DatabaseSchema fashion/shop",
        "spec.policy.destructive of DatabaseServer fashion/main",
    )
    anew = "loosen that, then delete this run: it is made anew"
    assert word({}, schema="Refuse") == ("Refuse", own, anew)
    assert word({}, "Refuse") == ("Refuse", floor, anew)
    assert word({}, "Refuse", "Refuse") == ("Refuse", f"{own} as well as {floor}", anew)
    run = {"migrations": {"autoApply": False}, "destructive": "Refuse"}
    assert word(**run) == ("Refuse", "spec.destructive", "make a run that allows it")
    assert word(**run, policy="Refuse").way_out == "make a run that allows it once the server does"
