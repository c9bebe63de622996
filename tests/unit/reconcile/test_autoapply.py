"""Which MigrationRun stands for a source: what an earlier version made goes on counting."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from selvedge.reconcile.autoapply import _last_change, run_for
from selvedge.reconcile.context import Context
from selvedge.reconcile.sources import digest_of
from selvedge.reconcile.store import Store

_DIGEST = digest_of({"20250101000000_items.sql": "CREATE TABLE stock.items (id int);"}, "")
#: As 0.1.0 names it, whatever the environment.
_OLD = f"shop-{_DIGEST[:10]}"


def _made(store: Store, name: str, environment: str) -> None:
    metadata = {"namespace": "fashion", "name": name, "uid": name, "resourceVersion": "1"}
    spec = {"schemaRef": {"name": "shop"}, "action": "Up"}
    store.put("migrationruns", {"metadata": metadata, "spec": {**spec, "environment": environment}})


def _found(store: Store, environment: str) -> tuple[str, bool]:
    name, run = run_for(store, "fashion", "shop", _DIGEST, environment)
    return name, run is not None


def test_the_run_that_0_1_0_made_for_an_environment_is_not_made_again():
    store = Store()
    assert _found(store, "staging") == (_OLD, False)
    _made(store, _OLD, "staging")
    assert _found(store, "staging") == (_OLD, True)


def test_another_environment_is_another_run_and_the_one_before_is_found_again():
    store = Store()
    _made(store, _OLD, "staging")
    names = set()
    for environment in ("", "production"):
        name, there = _found(store, environment)
        assert not there
        _made(store, name, environment)
        assert _found(store, environment) == (name, True)
        names.add(name)
    assert len(names | {_OLD}) == 3
    assert _found(store, "staging") == (_OLD, True)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_two_runs_that_ended_in_the_same_second_the_later_is_the_one_written_later(order: tuple[int, int]):
    """As two files that come one after the other: nothing is pruned by the wrong one, no Down is the last word."""
    second = "2026-01-01T00:00:00Z"
    runs = [
        {
            "metadata": {"namespace": "fashion", "name": name, "creationTimestamp": second, "resourceVersion": version},
            "spec": {"schemaRef": {"name": "shop"}},
            "status": {"phase": "Succeeded", "progress": "1/1", "finishedAt": second},
        }
        for name, version in (("b", "99"), ("a", "100"))
    ]
    store = Store()
    for index in order:
        store.put("migrationruns", runs[index])
    context = cast("Context", SimpleNamespace(store=store))
    last = _last_change(context, {"metadata": {"namespace": "fashion", "name": "shop"}})
    assert last is not None
    assert last["metadata"]["name"] == "a"


def test_it_is_found_when_the_run_that_had_its_name_was_pruned():
    store = Store()
    _made(store, _OLD, "staging")
    name, _ = _found(store, "production")
    _made(store, name, "production")
    store.remove("migrationruns", "fashion", _OLD)
    assert _found(store, "production") == (name, True)
