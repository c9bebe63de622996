from __future__ import annotations

from typing import Any

import pytest

from selvedge.kube.resources import DATABASE_SCHEMAS, DATABASE_SERVERS, DATABASE_USERS, FINALIZER, MIGRATION_RUNS
from selvedge.reconcile.finalizer import is_due
from selvedge.reconcile.removal import ABANDON, abandoned
from selvedge.reconcile.shards import server_behind
from selvedge.reconcile.store import Store


def obj(name: str, *, status: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    metadata = {"namespace": "shop", "name": name, "uid": name, "resourceVersion": "1"}
    return {"metadata": metadata, "spec": spec, "status": status or {}}


def dying(document: dict[str, Any]) -> dict[str, Any]:
    return {**document, "metadata": {**document["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}}


@pytest.fixture
def store() -> Store:
    store = Store()
    store.put(DATABASE_SCHEMAS.plural, obj("wallet", serverRef={"name": "main"}, database="wallet"))
    store.put(DATABASE_SCHEMAS.plural, obj("far", serverRef={"name": "main", "namespace": "ops"}, database="far"))
    return store


@pytest.mark.parametrize(
    ("plural", "document", "server"),
    [
        (DATABASE_SERVERS.plural, obj("main"), ("shop", "main")),
        (DATABASE_SCHEMAS.plural, obj("new", serverRef={"name": "nobody"}), ("shop", "nobody")),
        (DATABASE_SCHEMAS.plural, obj("new", serverRef={"name": "main", "namespace": "ops"}), ("ops", "main")),
        (DATABASE_SCHEMAS.plural, obj("broken"), ("shop", "")),
        (DATABASE_USERS.plural, obj("app", schemaRef={"name": "wallet"}), ("shop", "main")),
        (DATABASE_USERS.plural, obj("app", schemaRef={"name": "far"}), ("ops", "main")),
        (DATABASE_USERS.plural, obj("app", schemaRef={"name": "none"}), ("shop", "none")),
        (MIGRATION_RUNS.plural, obj("run", schemaRef={"name": "far"}), ("ops", "main")),
        (MIGRATION_RUNS.plural, obj("run"), ("shop", "")),
    ],
)
def test_everything_belongs_to_one_server(store, plural, document, server):
    assert server_behind(store, plural, document) == server


def test_a_login_goes_where_it_was_made_and_lives_where_its_database_is(store):
    moved = obj("app", schemaRef={"name": "wallet"}, status={"server": "shop/old"})
    assert server_behind(store, DATABASE_USERS.plural, moved) == ("shop", "main")
    assert server_behind(store, DATABASE_USERS.plural, dying(moved)) == ("shop", "old")


@pytest.mark.parametrize("resource", [DATABASE_SCHEMAS, DATABASE_USERS])
@pytest.mark.parametrize("policy", ["Retain", "Delete"])
@pytest.mark.parametrize("deleting", [False, True])
@pytest.mark.parametrize("held", [False, True])
def test_the_finalizer_is_where_a_deletion_has_work(resource, policy, deleting, held):
    document = obj("it", deletionPolicy=policy)
    document["metadata"]["finalizers"] = ["foregroundDeletion", *([FINALIZER] if held else [])]
    due = is_due(resource, dying(document) if deleting else document)
    assert due is (held if deleting else held is not (policy == "Delete"))


def test_other_kinds_have_none():
    assert not is_due(DATABASE_SERVERS, obj("main", deletionPolicy="Delete"))
    assert not is_due(MIGRATION_RUNS, obj("run"))


@pytest.mark.parametrize(("value", "said"), [("true", True), ("True", False), ("", False)])
def test_letting_go_is_said_in_one_word(value, said):
    document = obj("it")
    document["metadata"]["annotations"] = {ABANDON: value}
    assert abandoned(document) is said
    assert not abandoned(obj("it"))
