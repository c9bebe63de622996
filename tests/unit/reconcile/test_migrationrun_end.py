"""What a run that is over leaves behind keeps nobody waiting."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from selvedge.kube.errors import KubeError
from selvedge.reconcile import migrationrun
from selvedge.reconcile.context import Context
from selvedge.reconcile.store import Store
from selvedge.telemetry.metrics import Metrics


async def test_the_database_is_woken_also_where_the_job_of_the_run_cannot_be_deleted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, woken = Store(), []
    metadata = {"namespace": "fashion", "uid": "1", "resourceVersion": "1"}
    spec: dict[str, Any] = {"schemaRef": {"name": "shop"}, "source": {"image": {"reference": "a"}}}
    store.put("migrationruns", {"metadata": {**metadata, "name": "up"}, "spec": spec})
    spec = {"serverRef": {"name": "main"}, "database": "shop"}
    store.put("databaseschemas", {"metadata": {**metadata, "name": "shop"}, "spec": spec})

    async def ends(_context: object, _obj: object, board: Any) -> None:
        board.phase, board.image = "Succeeded", {"reference": "a"}

    async def refuse(*_: object) -> None:
        raise KubeError("the API server does not answer")

    monkeypatch.setattr(migrationrun, "_run", ends)
    monkeypatch.setattr(migrationrun, "forget_image", refuse)
    context = cast("Context", SimpleNamespace(store=store, failures={}, metrics=Metrics(), enqueue=woken.append))
    with pytest.raises(KubeError):
        await migrationrun.reconcile_run(context, "fashion", "up")
    assert woken == [("unit", "fashion", "main", "shop")]
