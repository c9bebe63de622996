"""What a MigrationRun's status keeps over a restart: rows that are done, the target, an approval of the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from selvedge.core.errors import InvalidError, NotPermittedError, RefusedError, TransientError
from selvedge.core.reasons import Reason
from selvedge.migrate.history import HistoryRow
from selvedge.migrate.operation import Operation, Prepared, losses_of, source_of
from selvedge.migrate.plan import Step, line_of, plan
from selvedge.migrate.protocol import MigrationSession
from selvedge.migrate.scopes import InTurn, Part, scoped
from selvedge.migrate.statusrows import digest_of_lines, line_of_row
from selvedge.reconcile.context import Context
from selvedge.reconcile.migrationrun import _advise, _allow
from selvedge.reconcile.outcome import Outcome
from selvedge.reconcile.runboard import Board

FILES = {
    f"{number}_{name}.sql": f"-- migrate:up\ncreate table {name} ();\n-- migrate:down\ndrop table {name};\n"
    for number, name in enumerate(("a", "b", "c"), start=1)
}


def prepared(
    *ran: int,
    action: str = "Down",
    target: str = "0",
    files: dict[str, str] | None = None,
    ran_as: dict[str, str] | None = None,
    at: float = 1.0,
) -> Prepared:
    source = source_of(files or FILES, "Postgres")
    return Prepared(
        Operation(action, target), plan(source.migrations, history(*ran, files=ran_as, at=at), action, target)
    )


def history(*ran: int, files: dict[str, str] | None = None, at: float = 1.0) -> list[HistoryRow]:
    return [
        HistoryRow(
            one.version,
            one.name,
            one.checksum,
            down_checksum=one.down_checksum,
            up=one.up,
            down=one.down,
            applied_at=at,
        )
        for one in source_of(files or FILES, "Postgres").migrations
        if one.version in ran
    ]


def board(status: dict[str, Any] | None = None) -> Board:
    obj = {"metadata": {"name": "back", "namespace": "shop", "generation": 1}, "status": status or {}}
    return Board(cast("Context", None), obj)


def told(found: Prepared, done: int = 0, *, started: bool = True) -> dict[str, Any]:
    """The status of a pass over this plan that got so far."""
    first = board()
    first.begin(found)
    status = first._shown_status("Running")
    for row in status["migrations"][:done]:
        row["state"] = "Undone"
    status["progress"] = f"{done}/{len(status['migrations'])}"
    if started:
        status |= {"startedAt": "2026-01-01T00:00:00Z", "target": found.plan.target}
    return status


def test_an_approval_holds_for_the_rest_of_its_plan_and_for_nothing_else() -> None:
    whole, rest = prepared(1, 2, 3), prepared(1, 2)
    status, done = told(whole, done=1), [line_of(whole.plan.steps[0])]
    assert board(status).approves(whole.digest, whole)
    assert board(status).approves(whole.digest, rest, done)
    assert not board(status).approves("", whole)
    assert not board(status).approves("", rest, done)
    assert not board(status).approves(rest.digest, whole), "what was approved is less"
    assert not board(status).approves(whole.digest, rest), "the database knows nothing of what was done"
    changed = {**FILES, "1_a.sql": FILES["1_a.sql"].replace("drop table a", "drop table other")}
    other = prepared(1, 2, files=changed)
    assert not board(status).approves(whole.digest, other, done), "a way down was changed meanwhile"
    marked = {**FILES, "1_a.sql": "-- transaction: false\n" + FILES["1_a.sql"]}
    assert not board(status).approves(whole.digest, prepared(1, 2, files=marked), done), "how it runs was changed"
    status["inputs"] = ["history " + "0" * 64]
    assert not board(status).approves(whole.digest, rest, done), "the status was altered"


def in_schemas(north: Prepared, south: Prepared) -> Prepared:
    return InTurn((Part("north", scoped(north, "north")), Part("south", scoped(south, "south")))).prepared


@pytest.mark.parametrize(
    "passes",
    [
        [prepared(1, 2, 3), prepared(1, 2), prepared(1), prepared()],
        [prepared(1, 2, 3, action="To", target="1"), prepared(1, 2, action="To", target="1")],
        [
            in_schemas(prepared(1, 2), prepared(1, 2)),
            in_schemas(prepared(1), prepared(1, 2)),
            in_schemas(prepared(), prepared(1, 2)),
            in_schemas(prepared(), prepared(1)),
        ],
    ],
)
def test_an_approval_holds_however_often_the_rest_is_cut_off(passes: list[Prepared]) -> None:
    """Each pass writes its status as it begins; the state that was approved is known from there alone."""
    whole = passes[0]
    status = told(whole)
    lines = [line_of(step) for step in whole.plan.steps]
    for rest in [*passes, passes[-1]]:
        done = lines[: len(lines) - len(rest.plan.steps)]
        again = board(status)
        assert again.approves(whole.digest, rest, done), f"after {len(done)} steps"
        again.begin(rest)
        status |= again._shown_status("Running")
        assert (status["plan"], status["inputs"]) == (whole.digest, list(whole.plan.inputs))
        # as who approves computes it
        shown = [*map(line_of_row, status["migrations"]), *(f"{line}\n" for line in status["inputs"])]
        assert digest_of_lines(shown) == whole.digest


def test_an_approval_that_was_used_is_used_up() -> None:
    """Whatever becomes of the status: the database says what this run did, and when the rest ran."""
    whole = prepared(1, 2, 3, target="2")
    status, done = told(whole), [line_of(whole.plan.steps[0])]
    again = prepared(1, 2, 3, target="2", at=2.0)
    assert again.digest != whole.digest
    for kept in (status, {}, {"startedAt": status["startedAt"], "inputs": status["inputs"]}):
        assert not board(kept).approves(whole.digest, again), "another run, with the same approval in Git"
        assert not board(kept).approves(whole.digest, again, done), "the same run once more"


class Written(Context):
    """A context whose statuses are kept instead of written."""

    def __init__(self) -> None:
        self.written: list[Outcome] = []

    async def write_status(self, resource: object, obj: object, outcome: Outcome) -> bool:
        self.written.append(outcome)
        return True


@pytest.mark.parametrize(
    ("phase", "status", "reason", "message"),
    [
        ("Succeeded", "True", "Undone", "1 migration was undone"),
        ("Failed", "False", "StatementFailed", "it said no; this run is over: once that is mended, make a new run"),
    ],
)
async def test_what_is_over_stays_over(phase: str, status: str, reason: str, message: str) -> None:
    """An approval that is set after the end starts nothing; the status is of the newest spec all the same."""
    ready = {"type": "Ready", "status": status, "reason": reason, "message": message.partition(";")[0]}
    known = {"phase": phase, "observedGeneration": 1, "conditions": [ready]}
    context = Written()
    obj = {"metadata": {"name": "back", "namespace": "shop", "generation": 2}, "status": known}
    await Board(context, obj).stay()
    [outcome] = context.written
    assert (outcome.ready, outcome.reason, outcome.message) == (status == "True", reason, message)
    assert not outcome.retrying
    known["observedGeneration"] = 2
    await Board(context, obj).stay()
    assert len(context.written) == 1
    obj["metadata"]["generation"], ready["reason"] = 3, "AsAnEarlierVersionSaidIt"
    await Board(context, obj).stay()
    assert context.written[1].reason == (Reason.APPLIED if phase == "Succeeded" else Reason.STATEMENT_FAILED)


def test_an_approval_of_the_rest_is_for_the_same_values_and_hooks() -> None:
    def with_hook(found: Prepared, text: str) -> Prepared:
        hooks = source_of({}, "Postgres", hooks={"beforeRun": text}).hooks
        return replace(found, plan=replace(found.plan, hooks=hooks.lines), hooks=hooks)

    whole, rest = prepared(1, 2, 3), prepared(1, 2)
    approved = with_hook(whole, "select 1;")
    status = told(approved, done=1)
    done = [line_of(whole.plan.steps[0])]
    assert status["inputs"] == [*approved.plan.hooks, *whole.plan.state]
    assert board(status).approves(approved.digest, with_hook(rest, "select 1;"), done)
    assert not board(status).approves(approved.digest, with_hook(rest, "select 2;"), done)
    assert not board({**status, "inputs": []}).approves(approved.digest, with_hook(rest, "select 1;"), done)


def test_a_redo_of_what_was_edited_both_ways_is_recognised_as_done() -> None:
    """It was undone by the history's way down, and what would undo it now is the file's."""
    text = "-- migrate:up\ncreate table c (id int);\n-- migrate:down\ndrop table if exists c;\n"
    edited = {**FILES, "3_c.sql": text}
    first = prepared(1, 2, 3, action="Redo", target="3", files=edited)
    status, done = told(first, done=2), [line_of(step) for step in first.plan.steps]
    second = prepared(1, 2, 3, action="Redo", target="3", files=edited, ran_as=edited)
    assert line_of(second.plan.steps[0]) != done[0]
    again = board(status)
    again.begin(second)
    assert not again.is_redone(second, done[:1]), "undone alone"
    assert again.is_redone(second, done)
    assert [str(row.state) for row in again.rows] == ["Undone", "Applied"]
    assert again.approves(first.digest, replace(second, plan=replace(second.plan, steps=())), done)


def test_the_rest_of_a_redo_runs_by_the_approval_of_the_whole_alone() -> None:
    """A file that loses data, and ran with it: once it is undone, nobody knows any more that it is the same."""
    lossy = {**FILES, "3_c.sql": "-- migrate:up\ndrop table b;\n-- migrate:down\ncreate table b ();\n"}
    whole = prepared(1, 2, 3, action="Redo", target="3", files=lossy, ran_as=lossy)
    assert losses_of(whole.plan) == ((), ())
    status, done = told(whole, done=1), [line_of(whole.plan.steps[0])]

    def rest(files: dict[str, str]) -> Prepared:
        migrations = source_of(files, "Postgres").migrations
        found = replace(whole, plan=plan(migrations, history(1, 2), "Redo", "3", done=done))
        shown, unmarked = losses_of(found.plan)
        assert len(shown) == len(unmarked) == 1
        return replace(found, concerns=shown, unmarked=unmarked, operation=Operation("Redo", approved=whole.digest))

    _allow(board(status), rest(lossy), done)
    other = {**lossy, "3_c.sql": lossy["3_c.sql"].replace("drop table b", "drop table a")}
    with pytest.raises(RefusedError) as refused:
        _allow(board(status), rest(other), done)
    assert refused.value.reason is Reason.DESTRUCTIVE_REFUSED


async def test_what_the_server_foresees_is_asked_for_once_for_a_plan() -> None:
    asked: list[int] = []

    async def look(steps: Sequence[Step], _: object) -> None:
        asked.append(len(steps))
        raise NotPermittedError(Reason.INSUFFICIENT_PRIVILEGES, "login shop may not run migrations as role owner")

    session = cast("MigrationSession", SimpleNamespace(preflight=look, server_version=18))
    found, status = prepared(1, 2, 3), {}
    for _ in range(3):
        again = board(status)
        again.begin(found)
        await _advise(session, found, again)
        status = again._shown_status("WaitingForApproval")
        assert status["advice"] == ["warning: login shop may not run migrations as role owner"], "no plan ends with it"
    assert asked == [3]
    again = board(status)
    again.begin(prepared(1, 2))
    await _advise(session, prepared(1, 2), again)
    assert asked == [3, 2], "another plan"


def test_what_was_done_before_a_restart_stays_in_view() -> None:
    whole, rest = prepared(1, 2, 3), prepared(1, 2)
    status = told(whole, done=0)
    status["migrations"][0] |= {"state": "Running", "statements": "0/1", "waitingFor": "a lock"}
    second = board(status)
    assert second.kept_target == "0"
    second.begin(rest)
    shown = second._shown_status("Running")
    assert shown["progress"] == "1/3"
    assert shown["plan"] == whole.digest, "what was approved is the whole"
    assert [(row["name"], row["state"], row["statements"]) for row in shown["migrations"]] == [
        ("c", "Undone", "1/1"),
        ("b", "Pending", "0/1"),
        ("a", "Pending", "0/1"),
    ]
    assert "waitingFor" not in shown["migrations"][0]


def test_a_plan_that_only_waited_is_made_anew() -> None:
    waited = board(told(prepared(1, 2, 3), started=False))
    assert waited.kept_target == ""
    waited.begin(prepared(1, 2))
    assert waited._shown_status("Pending")["progress"] == "0/2"


def test_more_rows_than_a_status_holds_are_counted_all_the_same() -> None:
    files = {f"{number}_x.sql": "select 1;\n" for number in range(1, 251)}
    many = board()
    many.begin(prepared(action="Up", target="", files=files))
    status = many._shown_status("Running")
    assert (status["progress"], len(status["migrations"])) == ("0/250", 200)
    again = board(status | {"startedAt": "2026-01-01T00:00:00Z"})
    rest = source_of(files, "Postgres").migrations[:100]
    history = [HistoryRow(one.version, one.name, one.checksum) for one in rest]
    again.begin(Prepared(Operation(), plan(source_of(files, "Postgres").migrations, history)))
    assert again._shown_status("Running")["progress"] == "100/250"


@pytest.mark.parametrize("ran", [0, 1, 60, 100, 249, 250, 399])
def test_the_rest_of_more_steps_than_a_status_shows_needs_no_new_approval(ran: int) -> None:
    """400 steps back, cut off after ``ran``: the database's events say what is done, and with the rest that is all."""
    files = {f"{n}_t.sql": f"-- migrate:up\nselect {n};\n-- migrate:down\nselect -{n};\n" for n in range(1, 401)}
    source = source_of(files, "Postgres").migrations

    def back(*, left: int) -> Prepared:
        history = [
            HistoryRow(one.version, one.name, one.checksum, down_checksum=one.down_checksum, up=one.up, down=one.down)
            for one in source[:left]
        ]
        return Prepared(Operation("To", "0"), plan(source, history, "To", "0"))

    whole, rest = back(left=400), back(left=400 - ran)
    status = told(whole) | {"progress": "0/400"}
    assert len(status["migrations"]) == 200
    done = [line_of(step) for step in whole.plan.steps[:ran]]
    again = board(status)
    assert again.approves(whole.digest, rest, done)
    if ran:
        assert not again.approves(whole.digest, rest, done[:-1]), "one that did not run is missing"
        assert not again.approves(whole.digest, rest, [*done[:-1], done[-1].replace("down", "up")])
    other = replace(rest, plan=replace(rest.plan, steps=rest.plan.steps[1:]))
    assert not again.approves(whole.digest, other, done), "what is left out now was approved as well"
    again.begin(rest)
    shown = again._shown_status("Running")
    assert (shown["progress"], shown["plan"], len(shown["migrations"])) == (f"{ran}/400", whole.digest, 200)


@pytest.mark.parametrize(
    ("error", "phase", "retrying"),
    [
        (TransientError(Reason.CONNECTION_LOST, "…"), "Running", True),
        (TransientError(Reason.WAITING_FOR_SCHEMA, "…"), "Pending", True),
        (TransientError(Reason.SECRET_NOT_FOUND, "…"), "Pending", True),
        (RefusedError(Reason.WAITING_FOR_APPROVAL, "…"), "WaitingForApproval", True),
        (RefusedError(Reason.SUPERSEDED, "…"), "WaitingForApproval", True),
        (RefusedError(Reason.DESTRUCTIVE_REFUSED, "…"), "Failed", False),
        (InvalidError(Reason.STATEMENT_FAILED, "…"), "Failed", False),
    ],
)
def test_what_an_error_means(error: Any, phase: str, retrying: bool) -> None:
    class Clock:
        @staticmethod
        def now() -> Any:
            from datetime import UTC, datetime

            return datetime(2026, 1, 1, tzinfo=UTC)

    found = Board(cast("Context", Clock), {"metadata": {"name": "x"}}).failed(error)
    assert (found.status["phase"], found.retrying, found.ready) == (phase, retrying, False)


@pytest.mark.parametrize(
    ("waits", "reason"),
    [
        ("", Reason.RUNNING),
        ("session 5 (psql)", Reason.WAITING_FOR_LOCK),
        ("the build of index t on big: scanning collection, 5 %", Reason.BUILDING_INDEX),
        ("the update of big: 30 of 95 documents", Reason.RUNNING),
        ("the search for duplicates before unique index mail on users", Reason.RUNNING),
    ],
)
async def test_the_reason_says_what_a_run_waits_for(
    monkeypatch: pytest.MonkeyPatch, waits: str, reason: Reason
) -> None:
    written: list[Outcome] = []

    async def write(_: Board, outcome: Outcome) -> None:
        written.append(outcome)

    monkeypatch.setattr(Board, "write", write)
    one = board()
    one.begin(prepared(1, 2, 3))
    await one.progress(replace(one.rows[0], waiting_for=waits))
    assert [outcome.reason for outcome in written] == [reason]
    assert waits in str(written[0].message)
