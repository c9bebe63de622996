"""Migrations: from files to a plan, without a database; and the runner, over whatever keeps the history.

::

    migrations = load({"20250101120000_users.sql": "…"}, engine="Postgres")
    async with open_session(…) as session:            # engines/postgres/migrator.py, engines/mongodb/migrations.py
        plan = make_plan(migrations, await session.history())
        result = await run(session, plan, timeouts=Timeouts(), on_progress=…, stop=…, may_write=…)

A file is ``YYYYMMDDHHMMSS_description.sql`` with ``-- migrate:up`` and ``-- migrate:down``, or a pair ``….up.sql`` and
``….down.sql``; for MongoDB ``.json``: ``{"up": [command, …], "down": […]}`` or an array. A file without markers has no
way down. The checksum is sha256 over the up part, so that line ends and the way down may be mended later.

The truth about what ran is the history in the database itself, never memory or a resource's status: after a crash at
any point a new run reads it and goes on. A Postgres migration runs in one transaction together with its history row.
One that holds a statement which forbids that (CREATE INDEX CONCURRENTLY …) runs statement by statement, with a cursor
in its history row; every statement that can is committed together with the cursor.
"""

from __future__ import annotations

from selvedge.migrate.history import HistoryRow, RowState
from selvedge.migrate.hooks import Hooks, split_hooks
from selvedge.migrate.load import Migration, load
from selvedge.migrate.plan import RunPlan, Step, digest
from selvedge.migrate.plan import plan as make_plan
from selvedge.migrate.protocol import Failure, MigrationSession, MigrationState, Progress, Timeouts
from selvedge.migrate.runner import RunResult, run

__all__ = [
    "Failure",
    "HistoryRow",
    "Hooks",
    "Migration",
    "MigrationSession",
    "MigrationState",
    "Progress",
    "RowState",
    "RunPlan",
    "RunResult",
    "Step",
    "Timeouts",
    "digest",
    "load",
    "make_plan",
    "run",
    "split_hooks",
]
