"""``kubectl selvedge rotate``: a new password stands in the Secret when it returns, or it says why not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.plugin import Plugin
from tests.cluster.user_support import binding, bound, logs_in, shop, user
from tests.cluster.world import World

pytestmark = pytest.mark.cluster


@pytest.fixture
def plugin(kubeconfig: Path, namespace: str) -> Plugin:
    return Plugin(kubeconfig, namespace)


def test_a_password_is_rotated_when_the_command_returns_and_shown_nowhere(world: World, plugin: Plugin) -> None:
    shop(world)
    user(world, "app", rotation={"strategy": "DualUser", "grace": "1h"})
    user(world, "given", password={"management": "External"})
    first = bound(world, "app")
    done = plugin("rotate", "app")
    assert (done.returncode, done.stderr) == (0, "")
    second = binding(world, "app-db")
    assert second["password"] != first["password"]
    assert f"login {second['username']} has a new password; it stands in secret app-db" in done.stdout
    assert second["password"] not in done.stdout
    assert logs_in(world, second)

    refused = plugin("rotate", "app")
    assert refused.returncode == 1
    assert f"login {first['username']} of the last rotation still works" in refused.stderr
    assert binding(world, "app-db") == second
    assert plugin("rotate", "app", "--now").returncode == 0
    third = binding(world, "app-db")
    assert third["password"] not in (first["password"], second["password"])
    assert logs_in(world, third)

    refused = plugin("rotate", "given")
    assert (refused.returncode, "management External: change the password where it is kept" in refused.stderr) == (
        1,
        True,
    )
    refused = plugin("rotate", "nobody")
    assert (refused.returncode, "does not exist" in refused.stderr) == (1, True)


@pytest.mark.long
def test_it_says_why_a_password_was_not_rotated_in_time(world: World, plugin: Plugin) -> None:
    shop(world)
    user(world, "app")
    bound(world, "app")
    user(world, "app", roles=[{"role": world.role("missing")}])
    world.until("DatabaseUser", "app", "False")
    late = plugin("rotate", "app", "--timeout", "1")
    assert late.returncode == 1
    assert "was asked to rotate and has not in 1 s" in late.stderr
    assert world.role("missing") in late.stderr
