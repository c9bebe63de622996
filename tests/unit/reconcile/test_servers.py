"""When the Secrets of a server are read again while it is away."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import pytest

from selvedge.api.databaseserver import DatabaseServerSpec
from selvedge.config import Settings
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
