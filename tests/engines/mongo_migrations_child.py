"""Forks a runner of migrations for each line of JSON on standard input, and tells of it on standard output.

``at`` is the event of the driver at which the runner sends itself ``signal``: its number, or its text such as ``before
insert designs`` (the command is about to be sent) and ``after insert designs`` (it was answered); 0 for none.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import Any

from pymongo import monitoring

from selvedge.engines.base import ServerTarget, TlsOptions
from selvedge.engines.mongodb.connect import Server
from selvedge.engines.mongodb.migrations import open_session
from selvedge.migrate import Progress, Timeouts, load, make_plan, run


class Nobody:
    def statement(self, operation: str, seconds: float, error: str = "") -> None:
        pass


class Counter(monitoring.CommandListener):
    def __init__(self, at: int | str, how: int) -> None:
        self.count = 0
        self.at = at
        self.how = how
        self.sent: dict[int, str] = {}

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        self.sent[event.request_id] = f"{event.command_name} {event.command.get(event.command_name)}"
        self.step(event, "before")

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        self.step(event, "after")

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        self.step(event, "after")

    def step(self, event: Any, when: str) -> None:
        self.count += 1
        what = f"{when} {self.sent.get(event.request_id, event.command_name)}"
        say(f"event {self.count} {what}")
        if self.at in (self.count, what):
            os.kill(os.getpid(), self.how)


def say(line: str) -> None:
    os.write(1, (line + "\n").encode())


async def main(order: dict[str, Any]) -> None:
    monitoring.register(Counter(order.get("at", 0), order.get("signal", signal.SIGKILL)))

    async def tell(row: Progress) -> None:
        say(f"row {row.version} {row.state} {row.done} {row.waiting_for}")

    target = ServerTarget(
        hosts=((order["host"], order["port"]),),
        username=order["username"],
        password=order["password"],
        tls=TlsOptions(*order["tls"]),
        replica_set=order.get("replica_set", ""),
    )
    admin = Server(target, Nobody())
    try:
        async with open_session(target, admin, database=order["database"], observer=Nobody(), run="run-uid") as session:
            plan = make_plan(
                load(order["files"], "MongoDB"),
                await session.history(),
                order.get("action", "Up"),
                order.get("target") or None,
                engine="MongoDB",
            )
            result = await run(
                session, plan, timeouts=Timeouts(), on_progress=tell, stop=asyncio.Event(), may_write=lambda: None
            )
            say(f"end {result.error}")
    finally:
        await admin.close()


def fork(order: dict[str, Any]) -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            asyncio.run(main(order))
            status = 0
        except Exception as error:  # noqa: BLE001 - told to the test
            say(f"end {error}")
        finally:
            os._exit(status)
    return pid


def nursery() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        running = {fork(order) for _ in range(order.get("count", 1))}
        say(f"pid {min(running)}")
        while running:
            pid, status = os.waitpid(-1, os.WUNTRACED)
            if os.WIFSTOPPED(status):
                say("stopped")
            else:
                running.discard(pid)
                say(f"exit {os.waitstatus_to_exitcode(status)}")


if __name__ == "__main__":
    nursery()
