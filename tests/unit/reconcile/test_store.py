"""What is kept of the resources, and how much memory it takes."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest

from selvedge.reconcile.store import Store

_MOST_BYTES = 6 * 1024


def _schema(number: int, version: int = 1, **metadata: Any) -> dict[str, Any]:
    """A small DatabaseSchema, as it comes from the API server: nothing in it is shared with another."""
    name = f"small-{number}"
    condition = {
        "status": "True",
        "reason": "Verified",
        "message": "the live database equals this declaration: 3 objects",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
        "observedGeneration": 1,
    }
    spec = {
        "serverRef": {"name": "main"},
        "database": f"shared_{number % 10}",
        "interval": "1h",
        "postgres": {
            "schemas": [{"name": name}],
            "roles": [{"name": f"{name}_reader"}],
            "grants": [{"name": "usage", "privileges": ["USAGE"], "objects": {"schemas": [name]}, "to": [name]}],
        },
    }
    obj = {
        "apiVersion": "selvedge.dev/v1alpha1",
        "kind": "DatabaseSchema",
        "metadata": {
            "namespace": "shop",
            "name": name,
            "uid": f"11111111-0000-4000-8000-{number:012}",
            "resourceVersion": str(version),
            "generation": 1,
            "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {"f:database": {}}}}],
            **metadata,
        },
        "spec": spec,
        "status": {
            "conditions": [{"type": kind, **condition} for kind in ("Ready", "Provisioned", "Reconciling", "Stalled")],
            "objects": {"ready": 3, "waiting": 0, "failed": 0},
        },
    }
    copy: dict[str, Any] = json.loads(json.dumps(obj))
    return copy


def test_what_nobody_reads_is_left_out_and_the_rest_is_as_it_was() -> None:
    store = Store()
    annotations = {"kubectl.kubernetes.io/last-applied-configuration": "{}", "selvedge.dev/abandon": "true"}
    seen = _schema(1, annotations=annotations)
    before = json.dumps(seen)
    assert store.put("databaseschemas", seen) is None
    kept = store.get("databaseschemas", "shop", "small-1")
    assert kept is not None
    assert kept["metadata"]["annotations"] == {"selvedge.dev/abandon": "true"}
    assert "managedFields" not in kept["metadata"]
    assert (kept["spec"], kept["status"]) == (seen["spec"], seen["status"])
    assert json.dumps(seen) == before


def test_a_spec_may_use_the_words_that_metadata_is_rid_of() -> None:
    store = Store()
    seen = _schema(1)
    seen["spec"]["mongodb"] = {"managedFields": ["a"], "kubectl.kubernetes.io/last-applied-configuration": "b"}
    store.put("databaseschemas", seen)
    assert store.unit(("shop", "main"), "shared_1")[0]["spec"] == seen["spec"]


@pytest.mark.parametrize("plural", ["secrets", "configmaps"])
def test_of_secrets_no_data_is_kept(plural: str) -> None:
    store = Store()
    metadata = {"namespace": "shop", "name": "login", "uid": "1", "resourceVersion": "7"}
    store.put(plural, {"apiVersion": "v1", "metadata": metadata, "data": {"password": "marked-5f1c"}, "spec": {}})
    assert store.get(plural, "shop", "login") == {"apiVersion": "v1", "metadata": metadata}


def test_only_a_newer_version_takes_the_place_of_the_known_one() -> None:
    store = Store()
    store.put("databaseschemas", _schema(1, 10, labels={"seen": "first"}))
    for version in (9, 10):
        known = store.put("databaseschemas", _schema(1, version, labels={"seen": "again"}))
        assert known is store.get("databaseschemas", "shop", "small-1")
        assert known is not None
        assert known["metadata"]["labels"] == {"seen": "first"}
    store.put("databaseschemas", _schema(1, 11, labels={"seen": "last"}))
    found = store.get("databaseschemas", "shop", "small-1")
    assert found is not None
    assert found["metadata"]["labels"] == {"seen": "last"}


def test_what_is_told_late_of_an_object_does_not_take_the_place_of_the_next_of_its_name() -> None:
    store = Store()
    store.put("databaseschemas", _schema(1, 10))
    store.put("databaseschemas", _schema(1, 12, uid="22222222-0000-4000-8000-000000000001"))
    store.put("databaseschemas", _schema(1, 11))
    found = store.get("databaseschemas", "shop", "small-1")
    assert found is not None
    assert found["metadata"]["uid"].startswith("2222")


def test_a_small_object_takes_no_more_than_so_much_memory() -> None:
    store = Store()
    number = 500
    store.put("databaseschemas", _schema(0))
    tracemalloc.start()
    try:
        taken = []
        for turn in range(3):
            before = tracemalloc.get_traced_memory()[0]
            for index in range(1, number + 1):
                store.put("databaseschemas", _schema(turn * number + index))
            taken.append(tracemalloc.get_traced_memory()[0] - before)
    finally:
        tracemalloc.stop()
    # the process's table of shared texts grows by leaps, and may do so in one of the turns
    assert min(taken) / number < _MOST_BYTES


def test_what_is_known_in_one_namespace_is_forgotten_there_only() -> None:
    store = Store()
    for namespace in ("shop", "other"):
        store.put("databaseschemas", _schema(1, namespace=namespace))
        store.put("databaseschemas", _schema(2, namespace=namespace))
    unseen = store.known("databaseschemas", "shop")
    unseen.pop(("shop", "small-1"))
    assert [obj["metadata"]["name"] for obj in store.forget("databaseschemas", unseen)] == ["small-2"]
    assert len(list(store.all("databaseschemas"))) == 3
    assert len(store.forget("databaseschemas", store.known("databaseschemas"))) == 3


def test_what_is_made_while_a_list_is_read_is_not_forgotten_for_not_being_in_it() -> None:
    store = Store()
    store.put("databaseschemas", _schema(1, 10))
    unseen = store.known("databaseschemas")
    store.put("databaseschemas", _schema(1, 12, uid="22222222-0000-4000-8000-000000000001"))
    store.put("databaseschemas", _schema(2, 13))
    assert store.forget("databaseschemas", unseen) == []
    assert len(list(store.all("databaseschemas"))) == 2


@pytest.mark.parametrize(
    "wanted",
    [
        {"generation": 2},
        {"generation": 2, "deletionTimestamp": "2026-01-01T00:00:00Z"},
        {"annotations": {"selvedge.dev/reconcile-now": "now"}},
    ],
    ids=lambda wanted: ", ".join(wanted),
)
def test_what_somebody_wants_is_a_change_also_where_the_answer_to_our_own_write_was_quicker(
    wanted: dict[str, Any],
) -> None:
    """Else it would be known already when the watch tells of it, and nothing would be done."""
    store = Store()
    store.put("databaseschemas", _schema(1, 5, generation=1))
    store.answered("databaseschemas", _schema(1, 11, **{"generation": 1, **wanted}))
    before = store.put("databaseschemas", _schema(1, 10, **{"generation": 1, **wanted}))
    assert before is not None
    assert before["metadata"]["resourceVersion"] == "5"
    found = store.get("databaseschemas", "shop", "small-1")
    assert found is not None
    assert wanted.items() <= found["metadata"].items()


def _ready(store: Store) -> str:
    found = store.get("databaseschemas", "shop", "small-1")
    assert found is not None
    return str(found["status"]["conditions"][0]["reason"])


def test_the_next_status_is_counted_from_the_last_one_also_where_somebody_wants_something_meanwhile() -> None:
    """Else what was written is believed not to be there, and stays: as drift that was repaired long ago."""
    store = Store()
    store.put("databaseschemas", _schema(1, 5))
    answer = _schema(1, 12, generation=2)
    answer["status"]["conditions"][0]["reason"] = "DriftDetected"
    store.answered("databaseschemas", answer)
    assert _ready(store) == "DriftDetected"
    # the spec was changed before the status was written, and so the watch tells it
    before = store.put("databaseschemas", _schema(1, 11, generation=2))
    assert before is not None
    assert before["metadata"]["generation"] == 1
    assert _ready(store) == "DriftDetected"
    answer["metadata"]["resourceVersion"] = "14"
    answer["status"]["conditions"][0]["reason"] = "Verified"
    store.put("databaseschemas", answer)
    assert _ready(store) == "Verified"
    store.put("databaseschemas", {**_schema(1, 15, generation=2), "status": {"conditions": [{"reason": "Other"}]}})
    assert _ready(store) == "Other"


@pytest.mark.parametrize("how", ["removed", "another of its name"])
def test_a_status_that_was_known_early_is_not_that_of_the_next_of_its_name(how: str) -> None:
    store = Store()
    store.put("databaseschemas", _schema(1, 5))
    answer = _schema(1, 30, generation=2)
    answer["status"]["conditions"][0]["reason"] = "DriftDetected"
    store.answered("databaseschemas", answer)
    if how == "removed":
        store.remove("databaseschemas", "shop", "small-1")
    store.put("databaseschemas", _schema(1, 20, uid="22222222-0000-4000-8000-000000000001"))
    assert _ready(store) == "Verified"
    store.answered("databaseschemas", {**answer, "metadata": {**answer["metadata"], "resourceVersion": "31"}})
    assert _ready(store) == "Verified"


def test_the_answer_to_our_own_write_is_known_before_the_watch_tells_of_it() -> None:
    store = Store()
    store.put("databaseschemas", _schema(1, 5))
    store.answered("databaseschemas", _schema(1, 6, finalizers=["selvedge.dev/cleanup"]))
    found = store.get("databaseschemas", "shop", "small-1")
    assert found is not None
    assert found["metadata"]["finalizers"] == ["selvedge.dev/cleanup"]


def test_the_answer_to_our_own_write_brings_nothing_back_that_is_gone() -> None:
    store = Store()
    store.answered("databaseschemas", _schema(1, 6))
    assert store.get("databaseschemas", "shop", "small-1") is None
