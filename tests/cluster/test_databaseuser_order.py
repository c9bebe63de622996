"""DatabaseUsers beside everything else: applied in any order, deleted in any order, and through an outage."""

from __future__ import annotations

import random
import time

import pytest

from tests.cluster.user_support import bound, logs_in, user_document
from tests.cluster.world import World, secret, wait_for

pytestmark = pytest.mark.cluster

_USERS = ("one", "two")


def _documents(world: World) -> list[dict[str, object]]:
    roles = [{"name": world.role("owner")}, {"name": world.role("rw")}]
    users = [user_document(world, name, roles=[{"role": world.role("rw")}]) for name in _USERS]
    users[1]["spec"]["rotation"] = {"strategy": "DualUser"}
    return [
        secret("main-admin", username=world.endpoint.username, password=world.endpoint.password),
        secret("main-ca", ca__crt=world.endpoint.ca),
        world.server_document(world.endpoint),
        world.schema_document("shop", postgres={"owner": world.role("owner"), "roles": roles}),
        *users,
    ]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_applied_in_any_order_all_become_ready_and_deleted_in_any_order_all_go(bare: World, seed: int):
    shuffle = random.Random(seed)
    documents = _documents(bare)
    shuffle.shuffle(documents)
    for document in documents:
        bare.api.apply(document)
    for name in _USERS:
        assert logs_in(bare, bound(bare, name))
    shuffle.shuffle(documents)
    for document in documents:
        bare.api.delete(str(document["kind"]), str(document["metadata"]["name"]))
    kinds = ("DatabaseUser", "DatabaseSchema", "DatabaseServer")
    wait_for(lambda: not any(bare.api.list(kind) for kind in kinds), 30)


def test_a_login_that_is_dropped_while_a_pass_goes_on_is_not_made_again(world: World):
    """A removal and passes at the same moment, again and again: the removal is the last word."""
    world.schema("shop", postgres={"owner": world.role("owner"), "roles": [{"name": world.role("owner")}]})
    world.ready("DatabaseSchema", "shop")
    for number in range(8):
        world.api.apply(user_document(world, "app"))
        if number % 2:
            world.ready("DatabaseUser", "app")
        now = str(time.time())
        world.api.patch("DatabaseUser", "app", {"metadata": {"annotations": {"selvedge.dev/rotate": now}}})
        world.api.delete("DatabaseUser", "app")
        wait_for(lambda: world.api.get("DatabaseUser", "app") is None)
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        assert world.sql(f"SELECT 1 FROM pg_roles WHERE rolname = '{world.role('app')}'") == []
        time.sleep(0.1)  # between two looks: nothing may come any more, and that cannot be waited for
    assert (
        world.sql(f"SELECT 1 FROM selvedge.claims WHERE object = 'role:{world.role('app')}'", database="postgres") == []
    )


def test_a_server_that_is_away_costs_no_login_and_is_waited_for(world: World):
    world.schema("shop", postgres={"owner": world.role("owner"), "roles": [{"name": world.role("owner")}]})
    world.api.apply(user_document(world, "app", interval="10s"))
    data = bound(world, "app")
    world.server(hosts=[{"host": "localhost", "port": 1}])
    found = world.until("DatabaseUser", "app", "False", timeout=30)
    reason = next(c["reason"] for c in found["status"]["conditions"] if c["type"] == "Ready")
    assert reason in ("Unreachable", "CircuitOpen", "WaitingForServer")
    assert found["status"]["currentUsername"] == data["username"]
    world.server()
    world.ready("DatabaseUser", "app", 30)
    assert bound(world, "app") == data
    assert logs_in(world, data)
