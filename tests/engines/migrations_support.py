"""What the tests of migrations on Postgres share: a database with roles, and a run on it."""

from __future__ import annotations

import asyncio
import os
import secrets
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import sql

from selvedge.engines.base import ConnectionLimits, ServerTarget, TlsOptions
from selvedge.engines.postgres.migrator import open_session
from selvedge.migrate import Progress, RunPlan, RunResult, Timeouts, load, make_plan, run, split_hooks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sandbox import PostgresEndpoint


SERVERS = ("18", *(pytest.param(version, marks=pytest.mark.long) for version in ("15", "16", "17")))
"""Parameters of a fixture: what hardly depends on the version is seen on the newest, and on all in a long run."""


def server(request: pytest.FixtureRequest) -> PostgresEndpoint:
    """The server that a parameter of :data:`SERVERS` names."""
    if request.param == "18" or os.environ.get("SELVEDGE_POSTGRES_URL"):
        return request.getfixturevalue("postgres18")
    return request.getfixturevalue("sandbox").postgres[request.param]


@contextmanager
def fresh_shop(endpoint: PostgresEndpoint) -> Iterator[Shop]:
    """A shop in a database of its own, dropped afterwards: for what is seen on one version of the server."""
    name = f"db_{secrets.token_hex(6)}"
    with endpoint.connect() as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    shop = Shop(endpoint, name)
    try:
        shop.create()
        yield shop
    finally:
        with endpoint.connect() as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
            for role in (shop.login, shop.run_as, shop.owner):
                connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))


@dataclass
class Shop:
    """One database, with an owner and a role for migrations."""

    endpoint: PostgresEndpoint
    database: str
    rows: list[Progress] = field(default_factory=list)
    plan: RunPlan | None = None

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
            "limits": ConnectionLimits(connect_timeout=20.0),
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

    async def up(self, files: dict[str, str], **options: Any) -> RunResult:
        """Everything that a MigrationRun of action Up does, except Kubernetes."""
        return await self.do(files, "Up", **options)

    async def do(
        self,
        files: dict[str, str],
        action: str,
        target: str | None = None,
        *,
        timeouts: Timeouts = Timeouts(),  # noqa: B008 - frozen
        stop: asyncio.Event | None = None,
        may_write: Callable[[], None] = lambda: None,
        owner: str | None = "",
        session: dict[str, Any] | None = None,
        running: dict[str, Any] | None = None,
        server: ServerTarget | None = None,
        **choices: Any,
    ) -> RunResult:
        """One action; ``session`` are options of open_session, ``running`` of run, ``choices`` of the plan."""
        self.rows = []

        async def remember(row: Progress) -> None:
            self.rows.append(row)

        hooks, rest = split_hooks(files)
        async with (
            await psycopg.AsyncConnection.connect(
                self.endpoint.conninfo(self.database), autocommit=True, options="-c role=none"
            ) as admin,
            open_session(
                server or self.target(),
                admin,
                database=self.database,
                run_as=self.run_as,
                owner=self.owner if owner == "" else owner,
                run="run-uid",
                **(session or {}),
            ) as opened,
        ):
            plan = make_plan(load(rest), await opened.history(), action, target, **choices)
            self.plan = plan
            return await run(
                opened,
                plan,
                timeouts=timeouts,
                on_progress=remember,
                stop=stop or asyncio.Event(),
                may_write=may_write,
                hooks=hooks,
                **(running or {}),
            )

    def tables(self, schema: str = "shop") -> list[str]:
        return [
            str(row[0])
            for row in self.query("SELECT tablename FROM pg_tables WHERE schemaname = %s ORDER BY 1", schema)
        ]

    def history(self) -> list[str]:
        return [str(row[0]) for row in self.query("SELECT key FROM selvedge.history ORDER BY version, key")]

    def events(self) -> list[tuple[Any, ...]]:
        return self.query("SELECT event, version::text, actor, message FROM selvedge.events ORDER BY id")
