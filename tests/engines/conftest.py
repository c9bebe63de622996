"""What the tests of the MongoDB engine are given: an engine, the database as it stands, the commands that are sent."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import pytest

from selvedge.engines.mongodb.connect import Server
from tests.engines.mongodb_support import Commands, running, target

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from pymongo.database import Database

    from sandbox import MongoEndpoint
    from selvedge.engines.mongodb import MongoEngine


@pytest.fixture(scope="module")
def collected() -> Iterator[None]:
    """For ``LEAVES_SOCKETS``: what the driver left goes while the module's own filter of warnings still holds."""
    yield
    gc.collect()


@pytest.fixture
async def engine(mongodb: MongoEndpoint) -> AsyncIterator[MongoEngine]:
    """A MongoDB engine with the administrator's login."""
    async with running(target(mongodb)) as engine:
        yield engine


@pytest.fixture
def live(mongodb: MongoEndpoint, mongo_database: str) -> Iterator[Database[dict[str, Any]]]:
    """The test's database on MongoDB, as a client sees it."""
    with mongodb.client() as client:
        yield client[mongo_database]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Every command that MongoDB engines made after this fixture send."""
    commands = Commands()
    opened = Server._open

    def watched(self: Server) -> Any:
        client = opened(self)
        client._event_listeners._EventListeners__command_listeners.append(commands)
        return client

    monkeypatch.setattr(Server, "_open", watched)
    return commands
