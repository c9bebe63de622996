"""The database that ``selvedge migrate`` works on, and sessions with it."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from selvedge.cli.url import MONGODB, POSTGRES, invalid, target_of
from selvedge.core.errors import SelvedgeError
from selvedge.core.redact import Redactor

if TYPE_CHECKING:
    from selvedge.engines.base import ServerTarget
    from selvedge.migrate.names import Engine
    from selvedge.migrate.operation import Source
    from selvedge.migrate.protocol import MigrationSession

HISTORY_SCHEMA, HISTORY_TABLE = "selvedge", "history"


@dataclass(frozen=True, slots=True)
class Place:
    """One database, with all that is needed to log in.

    Postgres only: ``role`` is whom new objects belong to, ``scope`` the schema that the migrations run in.
    ``placeholders`` are the values of ``${env:NAME}`` in the files; ``None`` lets it pass through.
    """

    engine: Engine
    target: ServerTarget
    database: str
    role: str = ""
    history_schema: str = HISTORY_SCHEMA
    history_table: str = HISTORY_TABLE
    scope: str = ""
    placeholders: Mapping[str, str] | None = None
    redactor: Redactor = field(default_factory=Redactor, repr=False)

    @property
    def title(self) -> str:
        """How people are told of it."""
        return f"{self.database}, schema {self.scope}" if self.scope else self.database


def place_of(
    url: str,
    *,
    password: str = "",
    environ: Mapping[str, str],
    database: str = "",
    role: str = "",
    history_schema: str = HISTORY_SCHEMA,
    history_table: str = HISTORY_TABLE,
) -> Place:
    """Read ``--url``; the database is its path, unless ``database`` names another. Raises InvalidError."""
    engine, target = target_of(url, password, environ)
    name = database or unquote(urlsplit(url).path.lstrip("/"))
    if not name:
        example = "postgresql://USER@HOST:PORT/DATABASE" if engine == POSTGRES else "mongodb://USER@HOST:PORT/DATABASE"
        raise invalid(f"--url names no database to migrate: write {example}, or give --database")
    if engine == MONGODB and role:
        raise invalid("--role is for Postgres: a MongoDB database has no owner; leave it out")
    redactor = Redactor()
    redactor.add(target.password)
    return Place(
        "Postgres" if engine == POSTGRES else "MongoDB",
        target,
        name,
        role,
        history_schema,
        history_table,
        redactor=redactor,
    )


def source_in(place: Place, directory: str | None) -> Source:
    """The migrations and hooks in a directory, none without one. Raises InvalidError."""
    from selvedge.migrate.files import read_directory
    from selvedge.migrate.operation import Source, source_of

    if directory is None:
        return Source()
    return source_of(read_directory(directory, place.engine).files, place.engine, placeholders=place.placeholders)


def who() -> str:
    """Who calls, as it is written into the history: ``cli: user@host``."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        user = str(os.getuid())
    return f"cli: {user}@{socket.gethostname()}"


@asynccontextmanager
async def opened(place: Place) -> AsyncIterator[MigrationSession]:
    """A session with the database, which writes nothing before it is locked. Raises SelvedgeError."""
    if place.engine == POSTGRES:
        from selvedge.engines.postgres.own_login import open_for_command

        async with open_for_command(
            place.target,
            place.database,
            role=place.role,
            schema=place.history_schema,
            table=place.history_table,
            scope=place.scope,
            run=who(),
        ) as postgres:
            yield postgres
        return
    from selvedge.engines.mongodb.connect import Server
    from selvedge.engines.mongodb.migrations import open_session

    observer = _NoObserver()
    server = Server(place.target, observer)
    try:
        async with open_session(place.target, server, database=place.database, observer=observer, run=who()) as mongodb:
            yield mongodb
    finally:
        await server.close()


class _NoObserver:
    def statement(self, operation: str, seconds: float, error: str = "") -> None:
        """Nobody scrapes a command."""


@contextmanager
def in_words_of(place: Place) -> Iterator[None]:
    """Errors of an engine in the words of the command line, and without the password."""
    try:
        yield
    except SelvedgeError as error:
        raise type(error)(error.reason, message_of(place, error)) from None


# A MigrationRun and a DatabaseSchema have fields, a command has options.
_WORDS = (
    ("set outOfOrder: Apply", "add --out-of-order"),
    ("in migrations.role", "with --role"),
    ("the action Down", "`selvedge migrate down`"),
    ("the action Up", "`selvedge migrate up`"),
    ("repair: MarkUnapplied", "`selvedge migrate repair --mark-unapplied VERSION`"),
    ("set transaction to PerMigration", "leave out --transaction all"),
    ("timeouts.lock", "--lock-timeout"),
    ("timeouts.statement", "--statement-timeout"),
    ("grant it in the DatabaseSchema", "grant it"),
    ("; tried again", "; run the command again"),
)


def message_of(place: Place, error: SelvedgeError) -> str:
    """An error's sentence in the words of the command line, and without the password."""
    from selvedge.cli.output import in_our_words

    message = in_our_words(error.message, postgres=place.engine == POSTGRES)
    for theirs, ours in _WORDS:
        message = message.replace(theirs, ours)
    return place.redactor.redact(message)
