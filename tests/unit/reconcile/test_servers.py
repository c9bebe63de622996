"""When the Secrets of a server are read again while it is away, and what counts as its failure."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import pytest

from selvedge.api.databaseserver import DatabaseServerSpec
from selvedge.config import Settings
from selvedge.core.breaker import BreakerState
from selvedge.core.errors import BudgetError, TransientError
from selvedge.core.reasons import Reason
from selvedge.engines.base import ServerTarget, TlsOptions
from selvedge.reconcile.servers import Servers
from selvedge.telemetry.metrics import Metrics

KEY = ("fashion", "main")
TARGET = ServerTarget((("db.example.com", 5432),), "selvedge", "secret", TlsOptions("VerifyFull"))
SPEC = DatabaseServerSpec.model_validate(
    {"engine": "Postgres", "hosts": [{"host": "db.example.com"}], "credentials": {"secretRef": {"name": "main-admin"}}}
)


@pytest.mark.parametrize("changed", [False, True], ids=["the same", "another password"])
async def test_a_secret_that_changes_while_it_is_read_is_read_again(changed: bool) -> None:
    servers = Servers(Metrics().observer, Settings())
    began = time.monotonic()
    server = await servers.put(KEY, SPEC, TARGET, "", began)
    assert server.read_at == began

    servers.read_again(KEY)  # told after the next pass has begun to read, with what it reads then or without
    assert server.read_at == -math.inf
    target = replace(TARGET, password="other") if changed else TARGET
    server = await servers.put(KEY, SPEC, target, "", began)
    assert server.read_at == -math.inf

    began = time.monotonic()
    server = await servers.put(KEY, SPEC, target, "", began)
    assert server.read_at == began
    await servers.close()


@pytest.mark.parametrize(
    ("error", "opens"),
    [
        (BudgetError(Reason.TOO_MANY_CONNECTIONS, "all of ours are in use"), False),
        (TransientError(Reason.TOO_MANY_CONNECTIONS, "the server has none left"), True),
        (TransientError(Reason.UNREACHABLE, "it does not answer"), True),
        (TransientError(Reason.WAITING_FOR_LOCK, "it answers"), False),
    ],
    ids=["our budget", "the server's", "unreachable", "a lock"],
)
async def test_what_the_operator_lacks_itself_is_no_failure_of_the_server(error: TransientError, opens: bool) -> None:
    servers = Servers(Metrics().observer, Settings())
    server = await servers.put(KEY, SPEC, TARGET, "", time.monotonic())
    for _ in range(10):
        with pytest.raises(TransientError):
            async with server.use():
                raise error
    assert (server.breaker.state(time.monotonic()) is not BreakerState.CLOSED) is opens
    await servers.close()


async def test_the_budget_that_is_used_up_does_not_close_a_circuit() -> None:
    servers = Servers(Metrics().observer, Settings())
    server = await servers.put(KEY, SPEC, TARGET, "", time.monotonic())
    for _ in range(server.breaker.threshold):
        server.note(TransientError(Reason.UNREACHABLE, "it does not answer"), time.monotonic())
    server.note(BudgetError(Reason.TOO_MANY_CONNECTIONS, "all of ours are in use"), time.monotonic())
    assert server.breaker.state(time.monotonic()) is not BreakerState.CLOSED
    await servers.close()
