"""Servers that are dead hold nothing else up: three hundred DatabaseSchemas, thirty of them on dead servers.

What they cost the others in time is measured (``bench/dead.py``), not tested.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from sandbox.ports import LOOPBACK, free_port
from tests.cluster.kube_api import Document
from tests.cluster.world import World, condition, verdict, wait_for

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]

_LIVING, _DEAD, _DATABASES, _TURNS = 270, 30, 6, 30
_SECONDS = 300.0
#: It leads on where the machine is too busy for a renewal in time: this is about something else.
_PATIENT = {"SELVEDGE_LEASE_DURATION": "90s", "SELVEDGE_RENEW_DEADLINE": "80s", "SELVEDGE_RETRY_PERIOD": "2s"}


@pytest.fixture
def silent() -> Iterator[int]:
    """A port on which connections are taken and nothing is ever said."""
    with socket.create_server((LOOPBACK, 0), backlog=1024) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("operator_env", [_PATIENT], indirect=True)
def test_those_on_living_servers_are_served_beside_the_dead_ones(world: World, silent: int):
    living = [f"small-{index}" for index in range(_LIVING)]
    _apply(
        world, [_small(world, name, "main", f"{world.name}_{index % _DATABASES}") for index, name in enumerate(living)]
    )
    for name in living:
        world.ready("DatabaseSchema", name, _SECONDS)
    hosts = {"refusing": (LOOPBACK, free_port()), "silent": (LOOPBACK, silent), "nowhere": ("nowhere.invalid", 5432)}
    for name, (host, port) in hosts.items():
        world.server(name=name, hosts=[{"host": host, "port": port}])
    dead = [f"dead-{index}" for index in range(_DEAD)]
    servers = list(hosts)
    _apply(world, [_small(world, name, servers[index % 3], f"dead_{index}") for index, name in enumerate(dead)])
    for kind, names in (("DatabaseServer", servers), ("DatabaseSchema", dead)):
        for name in names:
            wait_for(lambda kind=kind, name=name: verdict(world.api.get(kind, name))[0] == "False", _SECONDS)
    _change(world, living)
    writes, started = _writes(world), time.monotonic()
    wait_for(lambda: time.monotonic() - started > 60, 70)  # that hardly anything is written in it is what is asked
    # of each server, and of what is on it, what is known changes twice a minute at most
    assert _writes(world) - writes <= 4 * (len(hosts) + _DEAD)
    assert all(condition(one)["status"] == "True" for one in world.api.list("DatabaseSchema") if _lives(one))


def _lives(document: Document) -> bool:
    return str(document["metadata"]["name"]).startswith("small-")


def _small(world: World, name: str, server: str, database: str, **role: str) -> Document:
    """A role, in a database that it shares with others."""
    reader = {"name": world.role(name.replace("-", "_")), **role}
    return world.schema_document(name, server=server, database=database, interval="1h", postgres={"roles": [reader]})


def _apply(world: World, documents: list[Document]) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(world.api.apply, documents))


def _change(world: World, names: list[str]) -> None:
    """Change one after the other, spread over all, and see each Ready again with its change."""
    for turn in range(_TURNS):
        index = turn * len(names) // _TURNS
        world.api.apply(_small(world, names[index], "main", f"{world.name}_{index % _DATABASES}", comment="changed"))
        world.ready("DatabaseSchema", names[index], 60)
        role = world.role(names[index].replace("-", "_"))
        assert world.ask(f"SELECT shobj_description('{role}'::regrole, 'pg_authid')", database="postgres") == "changed"


def _writes(world: World) -> float:
    return sum(world.operator.writes().values())
