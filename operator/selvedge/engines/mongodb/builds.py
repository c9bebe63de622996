"""Builds of indexes that take longer than a pass may: the server goes on with them, and somebody keeps listening.

``createIndexes`` answers when the index stands, and a build of many documents takes hours. The command is sent once and
stays with its connection; the pass that sent it waits a moment and goes on. Passes after it see in ``listIndexes`` that
the index is being built, or find here what became of the command: why a build failed at its end, the server tells its
sender and nobody else.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pymongo.errors import OperationFailure

from selvedge.engines.mongodb.errors import connection_lost

if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any

    from selvedge.core.mongodb.changes import Command
    from selvedge.core.unit import ObjectRef
    from selvedge.engines.mongodb.connect import Server

PATIENCE = 3.0
"""Seconds that a pass waits for a build before it leaves it to the server."""

_AT_ONCE = 3
"""What a server builds at the same time (maxNumActiveUserIndexBuilds); one more would wait there unseen."""

Key = tuple[str, "ObjectRef"]


class StillBuildingError(Exception):
    """The index is not there yet.

    ``sent``: by this very call. ``queued``: not at all, since as many others are being built as the server builds.
    """

    def __init__(self, *, sent: bool = False, queued: bool = False) -> None:
        super().__init__("the index is still being built")
        self.sent = sent
        self.queued = queued


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a build failed after its pass had gone on, and what puts back the index that it was to replace."""

    error: OperationFailure
    undo: tuple[Command, ...]


class Builds:
    """The builds that this process has started on one server, by database and index."""

    def __init__(self, server: Server, patience: float = PATIENCE) -> None:
        self.patience = patience
        self._server = server
        self._running: dict[Key, asyncio.Task[Any]] = {}
        self._failed: dict[Key, Failure] = {}

    def take_failure(self, database: str, ref: ObjectRef) -> Failure | None:
        """What became of the last build of this index, if it failed and nobody was told yet."""
        return self._failed.pop((database, ref), None)

    async def build(self, database: str, ref: ObjectRef, command: Command, undo: tuple[Command, ...] = ()) -> None:
        """Send a ``createIndexes``, or wait for the one that was sent for this index before.

        Raises :class:`StillBuildingError` after ``patience`` seconds, and what the command raised. What an earlier pass
        sent may fail now: :meth:`take_failure` has what puts back the index that it was to replace.
        """
        key = (database, ref)
        task = self._running.get(key)
        send = task is None
        if task is None:
            if len(self._running) >= max(1, min(_AT_ONCE, self._server.target.limits.max // 2)):
                raise StillBuildingError(queued=True)
            task = asyncio.create_task(self._server.run(database, command, None, read=False))
            self._running[key] = task
            task.add_done_callback(lambda done: self._ended(key, done, undo))
        done, _ = await asyncio.wait({task}, timeout=self.patience)
        if done:
            if send:
                self._failed.pop(key, None)  # told of by what is raised here
            task.result()
            return
        if self._server.target.limits.max < 2:
            task.cancel()  # the only connection is needed for everything else; the server does not stop for that
            await asyncio.wait({task})
        raise StillBuildingError(sent=send)

    def forget(self, database: str, wanted: Collection[ObjectRef]) -> None:
        """Forget the failures of a database's builds but for these: nobody asks for the others any more."""
        for key in [key for key in self._failed if key[0] == database and key[1] not in wanted]:
            del self._failed[key]

    async def close(self) -> None:
        """Stop listening; the server goes on building."""
        tasks = set(self._running.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _ended(self, key: Key, task: asyncio.Task[Any], undo: tuple[Command, ...]) -> None:
        self._running.pop(key, None)
        error = None if task.cancelled() else task.exception()
        # Of a lost connection nothing is known: the next look at the database tells.
        if isinstance(error, OperationFailure) and not connection_lost(error):
            self._failed[key] = Failure(error, undo)
