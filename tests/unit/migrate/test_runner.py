"""The runner over a history in memory: order, retries, what another run did meanwhile, and how it stops."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest

from selvedge.core.errors import InvalidError, SelvedgeError, TransientError
from selvedge.core.reasons import Reason
from selvedge.migrate import (
    Failure,
    HistoryRow,
    Hooks,
    Migration,
    MigrationState,
    RowState,
    Timeouts,
    load,
    make_plan,
    runner,
    split_hooks,
)
from selvedge.migrate.protocol import StatementFailedError
from tests.unit.migrate.runner_support import Memory, Perform

BOTH = "-- migrate:up\nSELECT {0};\nSELECT {0};\n-- migrate:down\nSELECT -{0};\n"
FILES = {f"{number}_m.sql": BOTH.format(number) for number in (1, 2, 3)}
ALL = load(FILES)


@pytest.fixture
def perform(monkeypatch: pytest.MonkeyPatch) -> Perform:
    monkeypatch.setattr(runner, "_RETRY_BASE", 0.001)
    monkeypatch.setattr(runner, "_RETRY_CAP", 0.002)
    return Perform(Memory())


def locked_for(times: int) -> Callable[[Migration], None]:
    left = [times]

    def fail(migration: Migration) -> None:
        if left[0]:
            left[0] -= 1
            raise StatementFailedError(Failure(migration.file, 1, "ALTER", "55P03", "lock"), retry=True)

    return fail


async def history(session: Memory) -> tuple[HistoryRow, ...]:
    return await session.history()


async def test_in_order_and_what_is_told(perform: Perform) -> None:
    result = await perform(make_plan(ALL, []))
    assert (result.error, result.stopped, result.applied) == (None, False, 3)
    assert perform.session.done == ["up 1", "up 2", "up 3"]
    first = [(row.state, row.statements, row.waiting_for) for row in perform.told if row.version == 1]
    assert first == [
        (MigrationState.PENDING, "0/2", ""),
        (MigrationState.PENDING, "0/2", "somebody"),
        (MigrationState.PENDING, "0/2", ""),
        (MigrationState.RUNNING, "0/2", ""),
        (MigrationState.RUNNING, "1/2", ""),
        (MigrationState.APPLIED, "2/2", ""),
    ]


async def test_redo_tells_of_two_steps_of_one_version(perform: Perform) -> None:
    await perform(make_plan(ALL, []))
    result = await perform(make_plan(ALL, await history(perform.session), "Redo"))
    assert [(row.step, row.version, row.state) for row in result.migrations] == [
        (0, 3, MigrationState.UNDONE),
        (1, 3, MigrationState.APPLIED),
    ]
    assert perform.session.done[3:] == ["down 3", "up 3"]


async def test_what_another_run_did_meanwhile_is_skipped(perform: Perform) -> None:
    plan = make_plan(ALL, [])
    perform.session.rows["1"] = HistoryRow(1, "m", ALL[0].checksum)
    result = await perform(plan)
    assert [row.state for row in result.migrations] == [
        MigrationState.SKIPPED,
        MigrationState.APPLIED,
        MigrationState.APPLIED,
    ]
    down = make_plan(ALL, await history(perform.session), "Down")
    del perform.session.rows["3"]
    result = await perform(down)
    assert [row.state for row in result.migrations] == [MigrationState.SKIPPED]
    assert len(perform.session.rows) == 2, "one step, whoever went it"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (HistoryRow(2, "m", "another"), Reason.CHECKSUM_MISMATCH),
        (HistoryRow(2, "m", "x", RowState.PARTIAL, 1, 2, direction="down"), Reason.PARTLY_APPLIED),
    ],
)
async def test_what_another_run_did_otherwise_stops_before_it(
    perform: Perform, row: HistoryRow, reason: Reason
) -> None:
    plan = make_plan(ALL, [])
    perform.session.rows.update({"1": HistoryRow(1, "m", ALL[0].checksum), "2": row})
    result = await perform(plan)
    assert result.error is not None
    assert result.error.reason is reason
    assert perform.session.done == []


async def test_a_newer_one_that_another_run_applied_meanwhile(perform: Perform) -> None:
    newer = {"4": HistoryRow(4, "m", "x")}
    plan = make_plan(ALL, [])
    perform.session.rows.update(newer)
    result = await perform(plan)
    assert result.error is not None
    assert result.error.reason is Reason.OUT_OF_ORDER
    assert perform.session.done == []
    assert (await perform(make_plan(ALL, [], out_of_order="Apply"))).error is None
    back = make_plan(ALL, [row for row in await history(perform.session) if row.version != 4], "Down")
    result = await perform(back)
    assert result.error is not None
    assert "3_m.sql is not the newest any more: another run applied 4 meanwhile" in result.error.message
    assert len(perform.session.rows) == 4


async def test_a_lock_is_waited_for(perform: Perform) -> None:
    perform.session.fail = locked_for(4)
    result = await perform(make_plan(ALL, []))
    assert result.error is None
    assert "a lock (55P03)" in {row.waiting_for for row in perform.told}


@pytest.mark.parametrize(("times", "limits"), [(runner.ATTEMPTS, Timeouts()), (2, Timeouts(lock_wait=0.0))])
async def test_patience_ends(perform: Perform, times: int, limits: Timeouts) -> None:
    perform.session.fail = locked_for(times)
    result = await perform(make_plan(ALL, []), timeouts=limits)
    assert isinstance(result.error, TransientError)
    assert result.error.reason is Reason.WAITING_FOR_LOCK
    assert {row.state for row in result.migrations} == {MigrationState.PENDING}
    assert perform.session.done == []


async def test_only_waiting_counts_as_waiting(perform: Perform, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(runner, "time", SimpleNamespace(monotonic=lambda: clock[0], time=time.time))
    fail = locked_for(1)

    def slow(migration: Migration) -> None:
        if migration.version == 2:
            clock[0] += 5000
            fail(migration)

    perform.session.fail = slow
    result = await perform(make_plan(ALL, []), timeouts=Timeouts(lock=0.5, lock_wait=600))
    assert result.error is None


async def test_a_refused_statement_is_final(perform: Perform) -> None:
    def fail(migration: Migration) -> None:
        if migration.version == 2:
            raise StatementFailedError(Failure(migration.file, 3, "SELECT 2", "42601", "no", "mend it"))

    perform.session.fail = fail
    result = await perform(make_plan(ALL, []))
    assert isinstance(result.error, InvalidError)
    assert str(result.error) == "2_m.sql, line 3: no (42601) in: SELECT 2; mend it"
    assert [row.state for row in result.migrations] == [
        MigrationState.APPLIED,
        MigrationState.FAILED,
        MigrationState.PENDING,
    ]


async def test_other_errors_leave_nothing_running(perform: Perform) -> None:
    def fail(_: Migration) -> None:
        raise InvalidError(Reason.CHECKSUM_MISMATCH, "one of its statements changed")

    perform.session.fail = fail
    result = await perform(make_plan(ALL, []))
    assert result.migrations[0].state is MigrationState.FAILED


async def test_stop_between_two(perform: Perform) -> None:
    def fail(migration: Migration) -> None:
        if migration.version == 1:
            perform.stop.set()

    perform.session.fail = fail
    result = await perform(make_plan(ALL, []))
    assert result.stopped
    assert perform.session.done == ["up 1"]
    assert [row.state for row in result.migrations][1:] == [MigrationState.PENDING] * 2


async def test_stop_ends_the_pause_before_the_next_attempt(perform: Perform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_RETRY_BASE", 60.0)
    monkeypatch.setattr(runner, "_RETRY_CAP", 60.0)
    perform.session.fail = locked_for(9)
    asyncio.get_running_loop().call_later(0.05, perform.stop.set)
    assert (await perform(make_plan(ALL, []))).stopped


async def test_who_may_not_write_does_not(perform: Perform) -> None:
    def refuse() -> None:
        raise TransientError(Reason.NOT_LEADING, "another process leads")

    perform.may_write = refuse
    with pytest.raises(SelvedgeError, match="another process leads"):
        await perform(make_plan(ALL, []))
    assert perform.session.done == []


async def test_all_together(perform: Perform) -> None:
    perform.session.fail = locked_for(1)
    result = await perform(make_plan(ALL, []), transaction="All")
    assert (result.error, result.applied) == (None, 3)
    assert perform.session.done == ["up 1", "up 2", "up 3", "commit"]
    views = load({**FILES, "R__v.sql": "SELECT 1;"})
    perform.session.rows["Repeatable:v"] = HistoryRow(0, "v", views[3].checksum, kind="Repeatable")
    result = await perform(make_plan(views, await history(perform.session), "To", "0"), transaction="All")
    assert [row.state for row in result.migrations] == [MigrationState.UNDONE] * 3 + [MigrationState.UNMARKED]
    assert perform.session.rows.keys() == {"Repeatable:v"} - {"Repeatable:v"}


async def test_all_together_with_what_is_half_done(perform: Perform) -> None:
    plan = make_plan(ALL, [])
    perform.session.rows["2"] = HistoryRow(2, "m", ALL[1].checksum, RowState.PARTIAL, 1, 2, "cursor")
    result = await perform(plan, transaction="All")
    assert result.error is not None
    assert "half done, 1 of 2 statements" in result.error.message
    assert perform.session.done == []


async def test_hooks_run_around_what_there_is_to_do(perform: Perform) -> None:
    hooks, rest = split_hooks({**FILES, "beforeRun.sql": "SELECT 1;", "afterRun.sql": "SELECT 2;"})
    assert rest == FILES
    await perform(make_plan(ALL, []), hooks=hooks)
    assert perform.session.done == ["owe afterRun", "beforeRun", "up 1", "up 2", "up 3", "afterRun"]
    await perform(make_plan(ALL, await history(perform.session), "Repair", "3", repair="MarkUnapplied"), **WHO)
    assert perform.session.done[-1] == "down 3 ana why", "what changes the history alone has no hooks"
    with pytest.raises(InvalidError, match=r"afterEach\.sql: a hook runs in a transaction"):
        split_hooks({"afterEach.sql": "VACUUM;"})
    assert split_hooks({"1_m.sql": ""})[0] == Hooks()


async def test_what_a_hook_waited_for_is_not_waited_for_any_more(perform: Perform) -> None:
    hooks, _ = split_hooks({**FILES, "afterRun.sql": "SELECT 2;"})
    result = await perform(make_plan(ALL, []), hooks=hooks)
    assert result.error is None
    assert [row.waiting_for for row in perform.told[-2:]] == ["somebody", ""]
    assert result.migrations[0].waiting_for == ""


@pytest.mark.parametrize("transaction", ["PerMigration", "All"])
async def test_after_run_is_owed_by_a_run_that_did_not_come_to_it(perform: Perform, transaction: str) -> None:
    hooks, _ = split_hooks({**FILES, "afterRun.sql": "SELECT 2;"})

    def fail(migration: Migration) -> None:
        if migration.name == "afterRun":
            raise TransientError(Reason.CONNECTION_LOST, "gone")

    perform.session.fail = fail
    result = await perform(make_plan(ALL, []), hooks=hooks, transaction=transaction)
    assert isinstance(result.error, TransientError)
    perform.session.fail = lambda _: None
    rest = make_plan(ALL, await history(perform.session))
    assert rest.steps == ()
    before = list(perform.session.done)
    result = await perform(rest, hooks=hooks, transaction=transaction)
    assert perform.session.done == before, "what was not planned, and so not approved, does not run"
    owed = replace(rest, owes_after_run=True)
    result = await perform(owed, hooks=hooks, transaction=transaction)
    assert (result.error, perform.session.done[len(before) :]) == (None, ["afterRun"])
    result = await perform(owed, hooks=hooks, transaction=transaction)
    assert perform.session.done[len(before) :] == ["afterRun"], "another run did it meanwhile"


WHO = {"actor": "ana", "reason": "why"}


async def test_repair_needs_somebody_and_a_reason(perform: Perform) -> None:
    plan = make_plan(ALL, [], "Repair", repair="DropInvalidIndexes")
    for one in ({}, {"actor": "ana"}, {"reason": "why"}, {"actor": " ", "reason": "why"}):
        with pytest.raises(InvalidError, match="give an actor and a reason"):
            await perform(plan, **one)
    result = await perform(plan, **WHO)
    assert (result.dropped, result.error) == (("shop.bad",), None)
    marked = await perform(make_plan(ALL, [], "Baseline", "2"), actor="ana")
    assert [row.state for row in marked.migrations] == [MigrationState.MARKED] * 2


@pytest.mark.parametrize("action", ["Plan", "Status", "Validate"])
async def test_what_only_looks_is_never_run(perform: Perform, action: str) -> None:
    with pytest.raises(AssertionError, match="only looks"):
        await perform(make_plan(ALL, [], action))
    assert not perform.session.locked


async def test_a_server_that_is_too_old(perform: Perform) -> None:
    migrations = load({"1_m.sql": "-- requires-version: >=17\nSELECT 1;"})
    result = await perform(make_plan(migrations, []))
    assert result.error is not None
    assert result.error.reason is Reason.UNSUPPORTED_VERSION
    perform.session = replace(perform.session, server_version=17)
    assert (await perform(make_plan(migrations, []))).error is None
