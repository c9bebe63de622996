"""Runs migrations in a process of its own, to be killed: reads one JSON object from standard input."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from typing import Any

import psycopg

from selvedge.engines.base import ServerTarget, TlsOptions
from selvedge.engines.mongodb import migrations as mongodb
from selvedge.engines.mongodb.connect import Server
from selvedge.engines.postgres import migrator as postgres
from selvedge.migrate import Progress, Timeouts, load, make_plan, run


class Nobody:
    def statement(self, operation: str, seconds: float, error: str = "") -> None:
        pass


async def open_session(order: dict[str, Any], target: ServerTarget, stack: AsyncExitStack) -> Any:
    if order.get("engine") == "MongoDB":
        admin = Server(target, Nobody())
        stack.push_async_callback(admin.close)
        return await stack.enter_async_context(
            mongodb.open_session(target, admin, database=order["database"], observer=Nobody())
        )
    connection = await psycopg.AsyncConnection.connect(order["admin"], autocommit=True)
    await stack.enter_async_context(connection)
    return await stack.enter_async_context(
        postgres.open_session(
            target, connection, database=order["database"], run_as=order["run_as"], owner=order["owner"]
        )
    )


async def main() -> None:
    order = json.load(sys.stdin)

    async def tell(row: Progress) -> None:
        print(f"{row.version} {row.state} {row.done}", flush=True)

    target = ServerTarget(
        hosts=((order["host"], order["port"]),),
        username=order["username"],
        password=order["password"],
        tls=TlsOptions(*order["tls"]),
        replica_set=order.get("replica_set", ""),
    )
    async with AsyncExitStack() as stack:
        session = await open_session(order, target, stack)
        files = load(order["files"], order.get("engine", "Postgres"))
        plan = make_plan(files, await session.history(), order.get("action", "Up"), order.get("target"))
        result = await run(
            session, plan, timeouts=Timeouts(), on_progress=tell, stop=asyncio.Event(), may_write=lambda: None
        )
        print(f"end {result.error}", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
