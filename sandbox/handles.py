"""The servers of a sandbox as its clients hold them: where they answer, and how to stop and start them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sandbox.mongodb import MongoEndpoint
from sandbox.postgres import PostgresEndpoint

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(slots=True)
class Part:
    """A server program of the sandbox that can be stopped and started, always on the same port."""

    control: Callable[..., dict[str, Any]] = field(repr=False)
    name: str

    def stop(self, *, immediate: bool = False) -> None:
        """Stop it; ``immediate`` as in a crash."""
        self.control("stop", self.name, immediate=immediate)

    def start(self) -> None:
        """Start it (again) and wait until it answers."""
        self.control("start", self.name)

    def restart(self, *, immediate: bool = False) -> None:
        """Stop and start it, and wait until it answers."""
        self.control("restart", self.name, immediate=immediate)


@dataclass(slots=True, kw_only=True)
class SandboxPostgres(PostgresEndpoint):
    """A Postgres server of a sandbox."""

    part: Part = field(repr=False)

    def stop(self, *, immediate: bool = False) -> None:
        """Shut down; ``immediate`` as in a crash."""
        self.part.stop(immediate=immediate)

    def start(self) -> None:
        """Start it (again) on the same port."""
        self.part.start()

    def restart(self) -> None:
        """Stop and start on the same port."""
        self.part.restart()


@dataclass(slots=True, kw_only=True)
class SandboxMongo(MongoEndpoint):
    """The MongoDB server of a sandbox."""

    part: Part = field(repr=False)

    def stop(self, *, immediate: bool = False) -> None:
        """Shut down; ``immediate`` as in a crash."""
        self.part.stop(immediate=immediate)

    def start(self) -> None:
        """Start it (again) on the same port."""
        self.part.start()

    def restart(self) -> None:
        """Stop and start on the same port."""
        self.part.restart()
