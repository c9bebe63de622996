"""What the tests of MongoDB's migrations share: runs in this process, and in processes that are killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pymongo.errors import OperationFailure

from selvedge.core.errors import TransientError
from selvedge.engines.base import ConnectionLimits, ServerTarget, TlsOptions
from selvedge.engines.mongodb.connect import Server
from selvedge.engines.mongodb.migration_lease import COLLECTION
from selvedge.engines.mongodb.migrations import MongoMigrations, open_session
from selvedge.migrate import Progress, RunResult, Timeouts, load, make_plan, run
from tests.engines.mongodb_support import Record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import pymongo

    from sandbox import MongoEndpoint

CHILD = Path(__file__).with_name("mongo_migrations_child.py")


def up(*commands: dict[str, Any], **options: Any) -> str:
    """A file of commands; ``down`` and the file's options by name. The first command is on line 3."""
    return json.dumps({"up": commands, **options}, indent=1)


def both(forth: list[dict[str, Any]], back: list[dict[str, Any]], **options: Any) -> str:
    return json.dumps({"up": forth, "down": back, **options}, indent=1)


@dataclass
class Shop:
    """One database, and runs of migrations on it."""

    endpoint: MongoEndpoint
    database: str
    rows: list[Progress] = field(default_factory=list)
    standalone: bool = False
    _client: pymongo.MongoClient[dict[str, Any]] | None = None

    @property
    def client(self) -> pymongo.MongoClient[dict[str, Any]]:
        """A client of the administrator, kept until the shop is closed."""
        if self._client is None:
            self._client = self.endpoint.client()
        return self._client

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def target(self) -> ServerTarget:
        endpoint = self.endpoint
        return ServerTarget(
            hosts=((endpoint.host, endpoint.port),),
            username=endpoint.username,
            password=endpoint.password,
            tls=TlsOptions("VerifyFull", endpoint.ca) if endpoint.ca else TlsOptions("Disable"),
            limits=ConnectionLimits(connect_timeout=20.0),
            replica_set="" if self.standalone else endpoint.replica_set,
        )

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[MongoMigrations]:
        admin = Server(self.target(), Record())
        try:
            async with open_session(
                self.target(), admin, database=self.database, observer=Record(), run="run-uid"
            ) as session:
                yield session
        finally:
            await admin.close()

    async def run(
        self, files: dict[str, str], action: str = "Up", target: str = "", *, repair: str = "", **options: Any
    ) -> RunResult:
        async def remember(row: Progress) -> None:
            self.rows.append(row)

        async with self.session() as session:
            migrations = load(files, "MongoDB")
            plan = make_plan(
                migrations, await session.history(), action, target or None, repair=repair, engine="MongoDB"
            )
            known: dict[str, Any] = {"stop": asyncio.Event(), "may_write": lambda: None, "timeouts": Timeouts()}
            return await run(session, plan, on_progress=remember, **{**known, **options})

    async def up(self, files: dict[str, str], **options: Any) -> RunResult:
        return await self.run(files, **options)

    async def ok(self, files: dict[str, str], action: str = "Up", target: str = "", **options: Any) -> RunResult:
        """As the operator runs it: what a run that was cut left behind may hold it up, and it is tried again."""
        deadline = time.monotonic() + 120
        result = await self.run(files, action, target, **options)
        while isinstance(result.error, TransientError) and time.monotonic() < deadline:
            result = await self.run(files, action, target, **options)
        assert result.error is None, result.error
        return result

    def find(self, collection: str, **query: Any) -> list[dict[str, Any]]:
        return list(self.client[self.database][collection].find(query))

    def command(self, document: dict[str, Any]) -> dict[str, Any]:
        return self.client[self.database].command(document)

    def fill(self, collection: str, documents: list[dict[str, Any]]) -> None:
        self.client[self.database][collection].insert_many(documents)

    def indexes(self, collection: str) -> list[str]:
        return sorted(self.client[self.database][collection].index_information())

    def end_lease(self) -> None:
        """The lease of the dead is waited for in production; here it ends at once."""
        with contextlib.suppress(OperationFailure):
            now = {"$set": {"expires": "$$NOW"}}
            self.command({"update": COLLECTION, "updates": [{"q": {"_id": "lease"}, "u": [now]}]})

    def dump(self, *, raw: bool = False) -> dict[str, Any]:
        """Everything in the database; what differs from run to run only when ``raw``."""
        database = self.client[self.database]
        found: dict[str, Any] = {}
        for about in sorted(database.list_collections(), key=lambda one: one["name"]):
            name = about["name"]
            if name.startswith("system.") or (name == COLLECTION and not raw):
                continue
            documents = list(database[name].find().sort("at" if name == "selvedge.events" else "_id"))
            if not raw and name in ("selvedge.history", "selvedge.events"):
                documents = [_steady(one) for one in documents]
            indexes = {} if about["type"] == "view" else database[name].index_information()
            found[name] = (about["type"], about["options"], indexes, documents)
        found["(users)"] = database.command({"usersInfo": 1})["users"]
        return found

    def order(self, files: dict[str, str], **more: Any) -> dict[str, Any]:
        target = self.target()
        return {
            "host": target.hosts[0][0],
            "port": target.hosts[0][1],
            "username": target.username,
            "password": target.password,
            "replica_set": target.replica_set,
            "tls": [target.tls.mode, target.tls.ca],
            "database": self.database,
            "files": files,
            **more,
        }


def _steady(document: dict[str, Any]) -> dict[str, Any]:
    changing = ("appliedAt", "at", "durationMs", "runUid")
    left = {key: value for key, value in document.items() if key not in changing}
    return {**left, "_id": None} if "event" in left else left


@contextlib.contextmanager
def opened(endpoint: MongoEndpoint, database: str, **options: Any) -> Iterator[Shop]:
    """A shop whose client is closed at the end."""
    shop = Shop(endpoint, database, **options)
    try:
        yield shop
    finally:
        shop.close()


class Nursery:
    """A process that has imported everything and forks one runner for each order."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def start(self, order: dict[str, Any]) -> Runner:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        kind, pid = await self.read("pid")
        assert kind == "pid"
        return Runner(self, int(pid))

    async def read(self, *kinds: str) -> tuple[str, str]:
        """The next line of one of these kinds; with no kind, the next one."""
        assert self._process.stdout is not None
        while True:
            line = (await self._process.stdout.readline()).decode().rstrip("\n")
            assert line, "the process that forks is gone"
            kind, _, rest = line.partition(" ")
            if not kinds or kind in kinds:
                return kind, rest


@dataclass
class Runner:
    """A run of migrations in a process of its own."""

    nursery: Nursery
    pid: int

    async def wait(self, *kinds: str) -> tuple[str, str]:
        """Until it has ended (``exit``), is stopped (``stopped``) or says a line of these kinds."""
        return await self.nursery.read("exit", "stopped", *kinds)


@contextlib.asynccontextmanager
async def nursery() -> AsyncIterator[Nursery]:
    """A process that forks runners; it ends with the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(CHILD), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=2**24
    )
    try:
        yield Nursery(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        await process.wait()
