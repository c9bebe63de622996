"""Rotation: in place, by two logins that take turns, asked for, due, and under load without one refused login."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from tests.cluster.kube_api import Document, KubeApi
from tests.cluster.user_support import binding, bound, changed, connect, logs_in, shop, user
from tests.cluster.world import World, wait_for

pytestmark = pytest.mark.cluster


def rotate(world: World, name: str, request: str) -> None:
    """Ask for a rotation, as ``kubectl annotate`` does."""
    world.api.patch("DatabaseUser", name, {"metadata": {"annotations": {"selvedge.dev/rotate": request}}})


def backdate(world: World, name: str, hours: float) -> None:
    """Make the last rotation older than it is, as far as the Secret says."""
    moment = (datetime.now(UTC) - timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ")
    world.api.patch("Secret", name, {"metadata": {"annotations": {"selvedge.dev/rotated-at": moment}}})


def test_in_place_the_new_password_is_set_and_the_old_one_is_refused(world: World):
    shop(world)
    user(world, "app", rotation={"every": "30d"})
    first = bound(world, "app")
    with connect(world, first) as session:
        rotate(world, "app", "monday")
        second = changed(world, "app-db", first)
        assert second["username"] == first["username"]
        assert session.execute("SELECT 1").fetchone() == (1,), "sessions go on"
    assert logs_in(world, second)
    assert not logs_in(world, first)
    assert len(wait_for(lambda: world.api.events("app", "Rotated"))) == 1
    rotate(world, "app", "monday")
    user(world, "app", rotation={"every": "31d"})
    found = world.ready("DatabaseUser", "app")
    assert binding(world, "app-db") == second, "one rotation for each request"
    status = found["status"]
    due = datetime.fromisoformat(status["nextRotationTime"]) - datetime.fromisoformat(status["lastRotationTime"])
    assert due == timedelta(days=31)


def test_a_rotation_that_is_due_happens_by_itself(world: World):
    shop(world)
    user(world, "app", rotation={"every": "1h"})
    first = bound(world, "app")
    backdate(world, "app-db", 2)
    second = changed(world, "app-db", first)
    assert logs_in(world, second)


def test_two_logins_take_turns_and_the_old_one_ends_after_grace_and_use(world: World):
    shop(world)
    user(world, "app", rotation={"strategy": "DualUser", "grace": "2s"}, interval="10s")
    first = bound(world, "app")
    assert first["username"] == world.role("app_a")
    session = connect(world, first)
    assert session.execute("SELECT current_user::text").fetchone() == (world.role("app"),)
    rotate(world, "app", "monday")
    second = changed(world, "app-db", first)
    assert second["username"] == world.role("app_b")
    assert logs_in(world, first)
    assert logs_in(world, second)
    found = world.ready("DatabaseUser", "app")
    assert found["status"]["currentUsername"] == second["username"]
    assert found["status"]["previousUsername"] == first["username"]
    wait_for(lambda: world.api.events("app", "PreviousLoginInUse"), 15)
    assert logs_in(world, first), "not switched off while an application uses it"
    session.close()
    user(world, "app", rotation={"strategy": "DualUser", "grace": "1s"}, interval="10s")
    wait_for(lambda: not logs_in(world, first), 30)
    wait_for(lambda: "previousUsername" not in world.ready("DatabaseUser", "app")["status"])
    assert logs_in(world, second)
    assert not world.api.events("app", "DriftCorrected"), "a login that ends as planned is no drift"
    rotate(world, "app", "tuesday")
    third = changed(world, "app-db", second)
    assert third["username"] == first["username"]
    assert logs_in(world, third)


def test_the_strategy_may_change_either_way(world: World):
    shop(world)
    user(world, "app")
    first = bound(world, "app")
    user(world, "app", rotation={"strategy": "DualUser", "grace": "1h"})
    second = changed(world, "app-db", first, "username")
    assert logs_in(world, first)
    assert logs_in(world, second)
    user(world, "app")
    third = changed(world, "app-db", second, "username")
    assert third["username"] == first["username"]
    assert logs_in(world, third)


@dataclass
class Application:
    """Clients that log in again and again with what their Secret says, as it was read a moment ago.

    A Secret that is mounted into a pod is up to a minute old; here it is read again every ``stale`` seconds.
    """

    world: World
    secret: str
    stale: float
    failures: list[str] = field(default_factory=list)
    logins: int = 0
    usernames: set[str] = field(default_factory=set)
    stop: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, number: int) -> None:
        api = KubeApi(self.world.kubeconfig, self.world.namespace)
        try:
            data, read = _data(api.get("Secret", self.secret)), time.monotonic()
            while not self.stop.wait(0.02 * (number % 5 + 1)):
                if time.monotonic() - read > self.stale * (0.5 + number / 40):
                    data, read = _data(api.get("Secret", self.secret)), time.monotonic()
                self._log_in(data)
        finally:
            api.close()

    def _log_in(self, data: dict[str, str]) -> None:
        try:
            connect(self.world, data).close()
        except psycopg.OperationalError as error:
            with self.lock:
                self.failures.append(str(error))
        else:
            with self.lock:
                self.logins += 1
                self.usernames.add(data["username"])


def _data(secret: Document | None) -> dict[str, str]:
    found = (secret or {}).get("data") or {}
    return {key: base64.b64decode(value).decode() for key, value in found.items()}


@contextmanager
def clients(world: World, secret: str, count: int, stale: float) -> Iterator[Application]:
    """``count`` clients at work while the block runs."""
    application = Application(world, secret, stale)
    threads = [threading.Thread(target=application.run, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield application
    finally:
        application.stop.set()
        for thread in threads:
            thread.join(30)


@pytest.mark.parametrize(
    ("seconds", "rotations"), [(8.0, 2), pytest.param(60.0, 6, marks=pytest.mark.long)], ids=["short", "long"]
)
def test_twenty_clients_see_no_refused_login_while_the_password_is_rotated(
    world: World, seconds: float, rotations: int
):
    """T23."""
    shop(world)
    user(world, "app", rotation={"strategy": "DualUser", "grace": "3s"}, interval="10s")
    before = bound(world, "app")
    pause = seconds / rotations
    with clients(world, "app-db", 20, stale=pause / 4) as application:
        for number in range(rotations):
            rotate(world, "app", f"rotation {number}")
            after = changed(world, "app-db", before)
            assert after["username"] != before["username"]
            before = after
            time.sleep(pause)  # the load itself, for as long as was asked
    assert application.failures == []
    assert application.logins > 20 * rotations
    assert application.usernames == {world.role("app_a"), world.role("app_b")}
