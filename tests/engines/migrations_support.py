"""What the tests of migrations on Postgres share: a database with roles, and a run on it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from selvedge.engines.base import ConnectionLimits, ServerTarget, TlsOptions
from selvedge.engines.postgres.migrator import open_session
from selvedge.migrate import Progress, RunResult, Timeouts, load, make_plan, run

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox import PostgresEndpoint


@dataclass
class Shop:
    """One database, with an owner and a role for migrations."""

    endpoint: PostgresEndpoint
    database: str
    rows: list[Progress] = field(default_factory=list)

    @property
    def owner(self) -> str:
        return f"{self.database}_owner"

    @property
    def run_as(self) -> str:
        return f"{self.database}_runner"

    @property
    def login(self) -> str:
        return f"{self.database}_migrator"

    def target(self, **changes: Any) -> ServerTarget:
        endpoint = self.endpoint
        tls = TlsOptions("VerifyFull", endpoint.ca) if endpoint.ca else TlsOptions("Disable")
        known: dict[str, Any] = {
            "hosts": ((endpoint.host, endpoint.port),),
            "username": endpoint.username,
            "password": endpoint.password,
            "tls": tls,
            "limits": ConnectionLimits(),
        }
        return ServerTarget(**{**known, **changes})

    def create(self) -> None:
        set_option = " WITH INHERIT FALSE, SET TRUE" if int(self.endpoint.version.split(".")[0]) >= 16 else ""
        with self.endpoint.connect(self.database) as connection:
            names = {"owner": sql.Identifier(self.owner), "run": sql.Identifier(self.run_as)}
            for text in (
                "CREATE ROLE {owner}",
                "CREATE ROLE {run} NOINHERIT",
                "GRANT {owner} TO {run}" + set_option,
                "CREATE SCHEMA shop AUTHORIZATION {owner}",
            ):
                connection.execute(sql.SQL(text).format(**names))

    def query(self, text: str, *values: object) -> list[tuple[Any, ...]]:
        with self.endpoint.connect(self.database) as connection:
            cursor = connection.execute(text, values or None)
            return cursor.fetchall() if cursor.description else []

    def value(self, text: str, *values: object) -> Any:
        return self.query(text, *values)[0][0]

    async def up(
        self,
        files: dict[str, str],
        *,
        timeouts: Timeouts = Timeouts(),  # noqa: B008 - frozen
        stop: asyncio.Event | None = None,
        may_write: Callable[[], None] = lambda: None,
        owner: str | None = "",
        **choices: Any,
    ) -> RunResult:
        """Everything that a MigrationRun of action Up does, except Kubernetes."""
        self.rows = []

        async def remember(row: Progress) -> None:
            self.rows.append(row)

        async with (
            await psycopg.AsyncConnection.connect(self.endpoint.conninfo(self.database), autocommit=True) as admin,
            open_session(
                self.target(),
                admin,
                database=self.database,
                run_as=self.run_as,
                owner=self.owner if owner == "" else owner,
                run="run-uid",
            ) as session,
        ):
            plan = make_plan(load(files), await session.history(), **choices)
            return await run(
                session,
                plan,
                timeouts=timeouts,
                on_progress=remember,
                stop=stop or asyncio.Event(),
                may_write=may_write,
            )
