"""Runs migrations in a process of its own, to be killed: reads one JSON object from standard input."""

from __future__ import annotations

import asyncio
import json
import sys

import psycopg

from selvedge.engines.base import ServerTarget, TlsOptions
from selvedge.engines.postgres.migrator import open_session
from selvedge.migrate import Progress, Timeouts, load, make_plan, run


async def main() -> None:
    order = json.load(sys.stdin)

    async def tell(row: Progress) -> None:
        print(f"{row.version} {row.state} {row.done}", flush=True)

    target = ServerTarget(
        hosts=((order["host"], order["port"]),),
        username=order["username"],
        password=order["password"],
        tls=TlsOptions(*order["tls"]),
    )
    async with (
        await psycopg.AsyncConnection.connect(order["admin"], autocommit=True) as admin,
        open_session(
            target, admin, database=order["database"], run_as=order["run_as"], owner=order["owner"]
        ) as session,
    ):
        plan = make_plan(load(order["files"]), await session.history())
        result = await run(
            session, plan, timeouts=Timeouts(), on_progress=tell, stop=asyncio.Event(), may_write=lambda: None
        )
        print(f"end {result.error}", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
