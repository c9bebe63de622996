"""What an operation needs a person for, and how files and history stand to each other."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from selvedge.core.errors import InvalidError, RefusedError
from selvedge.core.reasons import Reason
from selvedge.migrate.history import HistoryRow, RowState
from selvedge.migrate.operation import (
    Operation,
    Prepared,
    check_approval,
    concerns_of,
    losses_of,
    newest_version,
    prepare,
    source_of,
)
from selvedge.migrate.overview import Standing, overview
from selvedge.migrate.plan import RunPlan, line_of, plan, state_line
from selvedge.migrate.protocol import MigrationSession
from tests.waiting import rounds_of_the_loop

FILES = {
    "1_users.sql": "-- migrate:up\ncreate table users (id int);\n-- migrate:down\ndrop table users;\n",
    "2_gone.sql": "-- migrate:up\ndrop table old;\n-- migrate:down\ncreate table old (id int);\n",
    "R__view.sql": "create or replace view v as select 1;\n",
}


def ran(files: dict[str, str], *keys: str, **changes: Any) -> tuple[HistoryRow, ...]:
    return tuple(
        HistoryRow(
            one.version,
            one.name,
            one.checksum,
            kind=one.kind,
            down=one.down,
            down_checksum=one.down_checksum,
            up=one.up,
            **changes,
        )
        for one in source_of(files, "Postgres").migrations
        if one.key in keys
    )


def planned(files: dict[str, str], history: tuple[HistoryRow, ...] = (), **choices: Any) -> RunPlan:
    return plan(source_of(files, "Postgres").migrations, history, **choices)


@pytest.mark.parametrize(
    ("choices", "ran_already"),
    [({}, ()), ({"action": "To", "target": "0"}, ("1", "2")), ({"action": "Baseline", "target": "2"}, ())],
)
def test_the_digest_is_taken_of_the_lines_of_its_steps(choices: dict[str, str], ran_already: tuple[str, ...]) -> None:
    """An approval is recognised from the lines that the status shows: they have to be the digest's own."""
    found = planned(FILES, ran(FILES, *ran_already), **choices)
    lines = "".join([*map(line_of, found.steps), *(f"{line}\n" for line in found.inputs)])
    assert found.steps
    assert found.digest == "sha256:" + hashlib.sha256(lines.encode()).hexdigest()
    assert bool(found.state) == (choices.get("action") == "To")


@pytest.mark.parametrize(
    "choices",
    [
        {"action": "Down"},
        {"action": "To", "target": "1"},
        {"action": "Redo"},
        {"action": "Repair", "repair": "MarkUnapplied", "target": "2"},
    ],
)
def test_an_approval_to_go_back_is_good_for_one_state_of_the_history(choices: dict[str, str]) -> None:
    before = ran(FILES, "1", "2", applied_at=1_700_000_000.000001)
    digest = planned(FILES, before, **choices).digest
    assert planned(FILES, tuple(reversed(before)), **choices).digest == digest
    undone_and_run_again = (before[0], replace(before[1], applied_at=1_700_000_000.000002))
    assert planned(FILES, undone_and_run_again, **choices).digest != digest
    other = (replace(before[0], checksum="0" * 64), before[1])
    assert state_line(other) != state_line(before)


def test_what_goes_forward_has_one_digest_in_every_database() -> None:
    staging, production = (ran(FILES, "1", applied_at=time) for time in (1.0, 2.0))
    assert planned(FILES, staging).digest == planned(FILES, production).digest
    assert planned(FILES, staging, action="Baseline", target="2").state == ()


DIRECTIVES = (
    "transaction: false",
    "lock-timeout: 2s",
    "statement-timeout: 1m",
    "allow: drop-table",
    "irreversible",
    "requires-version: >=16",
    "env: staging",
    "verify: SELECT true",
)


@pytest.mark.parametrize("line", DIRECTIVES)
def test_a_digest_covers_how_a_file_runs(line: str) -> None:
    """A directive may stand outside of the part whose checksum it changes."""
    plain = {"1_users.sql": FILES["1_users.sql"]}
    marked = {"1_users.sql": f"-- {line}\n{FILES['1_users.sql']}"}
    one, other = (planned(files, environment="staging") for files in (plain, marked))
    assert one.steps[0].migration.checksum == other.steps[0].migration.checksum, "what ran stays what ran"
    assert one.digest != other.digest
    if line != "irreversible":
        back, other_back = (planned(files, ran(files, "1"), action="Down") for files in (plain, marked))
        assert back.digest != other_back.digest


def test_a_digest_covers_the_options_of_a_marker() -> None:
    text = FILES["1_users.sql"]
    files = [text, text.replace("up", "up transaction:false"), text.replace("down", "down transaction:false")]
    plans = [planned({"1_users.sql": one}, ran({"1_users.sql": one}, "1"), action="Redo") for one in files]
    assert len({found.digest for found in plans}) == 3


def test_what_loses_data_is_a_concern_and_refused_without_a_word_in_its_file() -> None:
    shown, unmarked = losses_of(planned(FILES))
    assert len(shown) == len(unmarked) == 1
    assert shown[0].startswith("2_gone.sql, line 2: ")
    marked = {**FILES, "2_gone.sql": "-- allow: drop-table\n" + FILES["2_gone.sql"]}
    shown, unmarked = losses_of(planned(marked))
    assert (len(shown), unmarked) == (1, ())
    assert losses_of(planned({"1_users.sql": FILES["1_users.sql"]})) == ((), ())


def test_what_a_redo_loses_anew_is_a_concern() -> None:
    history = ran(FILES, "1", "2")
    assert losses_of(planned(FILES, history, action="Redo")) == ((), ()), "its way down has lost it"
    changed = {**FILES, "2_gone.sql": FILES["2_gone.sql"].replace("drop table old;", "drop table users;", 1)}
    redo = planned(changed, history, action="Redo")
    shown, unmarked = losses_of(redo)
    assert len(shown) == len(unmarked) == 1
    assert shown[0].startswith("2_gone.sql, line 2: ")
    rest = planned(changed, history[:1], action="Redo", target="2", done=[line_of(redo.steps[0])])
    assert losses_of(rest) == (shown, unmarked), "nobody knows what ran before"


def test_going_back_and_repairs_are_concerns_and_a_baseline_is_not() -> None:
    history = ran(FILES, "1", "2")
    assert concerns_of(planned(FILES, history)) == ()
    assert concerns_of(planned(FILES, history, action="Down")) == ("2 gone is undone",)
    assert concerns_of(planned(FILES, history, action="Down", target="0")) == (
        "2 migrations (2 gone, 1 users): each is undone",
    )
    assert concerns_of(planned(FILES, action="Baseline", target="1")) == ()
    [concern] = concerns_of(planned(FILES, history, action="Repair", repair="MarkUnapplied", target="1"))
    assert concern == "1 users is marked as not run without undoing it"
    assert concerns_of(planned(FILES, history, action="Repair", repair="DropInvalidIndexes")) == (
        "invalid indexes are dropped",
    )


def refused(**choices: str) -> Reason | None:
    found = planned(FILES, ran(FILES, "1", "2"), action="Down")
    prepared = Prepared(Operation(**choices), found, concerns=concerns_of(found))
    try:
        check_approval(prepared)
    except RefusedError as error:
        return error.reason
    return None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "destructive is Refuse, so nothing was run: make a run that allows it"),
        ({"deciding": "spec.this", "way_out": "loosen it"}, "spec.this is Refuse, so nothing was run: loosen it"),
    ],
)
def test_a_refusal_names_the_field_that_refuses(fields: dict[str, str], words: str) -> None:
    found = planned(FILES, ran(FILES, "1", "2"), action="Down")
    operation = Operation(destructive="Refuse", approved=found.digest, **fields)
    with pytest.raises(RefusedError) as caught:
        check_approval(Prepared(operation, found, concerns=concerns_of(found)))
    assert caught.value.message == f"{concerns_of(found)[0]}; {words}"


def test_an_approval_is_for_one_plan() -> None:
    digest = planned(FILES, ran(FILES, "1", "2"), action="Down").digest
    assert refused() is Reason.WAITING_FOR_APPROVAL
    assert refused(approved=digest) is None
    assert refused(approved="sha256:" + "0" * 64) is Reason.SUPERSEDED
    assert refused(destructive="Refuse") is Reason.DESTRUCTIVE_REFUSED
    assert refused(destructive="Refuse", approved=digest) is Reason.DESTRUCTIVE_REFUSED
    assert refused(destructive="Allow") is None


def test_no_approval_makes_up_for_a_missing_word() -> None:
    found = planned(FILES)
    prepared = Prepared(Operation(approved=found.digest), found, concerns=("x",), unmarked=("2_gone.sql, line 2: …",))
    with pytest.raises(RefusedError, match=r"2_gone\.sql, line 2") as caught:
        check_approval(prepared)
    assert caught.value.reason is Reason.DESTRUCTIVE_REFUSED


def test_every_standing() -> None:
    files = {
        **FILES,
        "3_staging.sql": "-- env: staging\nselect 1;\n",
        "5_later.sql": "select 1;\n",
        "4_half.sql": "select 1;\n",
    }
    history = (
        *ran(files, "1", "Repeatable:view"),
        HistoryRow(2, "gone", "other"),
        HistoryRow(4, "half", "x", RowState.PARTIAL, done=1, total=3),
        HistoryRow(6, "lost", "x"),
    )
    found = {entry.key: entry.standing for entry in overview(source_of(files, "Postgres").migrations, history)}
    assert found == {
        "1": Standing.APPLIED,
        "2": Standing.CHANGED,
        "3": Standing.NOT_HERE,
        "4": Standing.PARTIAL,
        "5": Standing.OUT_OF_ORDER,
        "6": Standing.MISSING,
        "Repeatable:view": Standing.APPLIED,
    }
    assert newest_version(history) == "6"
    alone = overview((), history, files=False)
    assert {entry.standing for entry in alone} == {Standing.APPLIED, Standing.PARTIAL}
    changed = source_of({"R__view.sql": "create or replace view v as select 2;\n"}, "Postgres").migrations
    [again, *_] = [entry for entry in overview(changed, history) if entry.kind == "Repeatable"]
    assert again.standing is Standing.PENDING


def test_hooks_belong_to_what_is_approved_and_to_what_is_asked_about() -> None:
    """A run that a person approved does not do more because somebody changed a hook meanwhile."""
    given = {"beforeRun": "-- allow: drop-table\ndrop table old;\n", "afterEach": "drop table other;\n"}
    source = source_of(FILES, "Postgres", hooks=given)
    chosen = plan(source.migrations, ())
    with_hooks = replace(chosen, hooks=source.hooks.lines)
    assert with_hooks.digest != chosen.digest
    losses, unmarked = losses_of(with_hooks, source.hooks)
    assert [text.split(":")[0] for text in losses] == [
        "2_gone.sql, line 2",
        "hooks.beforeRun, line 2",
        "hooks.afterEach, line 1",
    ]
    assert [text.split(":")[0] for text in unmarked] == ["2_gone.sql, line 2", "hooks.afterEach, line 1"]
    assert losses_of(chosen, source.hooks)[0] == losses[:1], "hooks that do not run lose nothing"
    other = source_of(FILES, "Postgres", hooks={**given, "beforeRun": "select 1;"})
    assert replace(chosen, hooks=other.hooks.lines).digest != with_hooks.digest
    as_files = source_of({**FILES, **{f"{name}.sql": text for name, text in given.items()}}, "Postgres")
    assert as_files.hooks.lines == source.hooks.lines, "CI computes the digest from files"


def test_a_hook_stands_in_one_place_and_is_sql() -> None:
    with pytest.raises(InvalidError, match=r"hook beforeRun stands in spec.hooks, and beforeRun.sql lies among"):
        source_of({"beforeRun.sql": "select 1;"}, "Postgres", hooks={"beforeRun": "select 1;"})
    with pytest.raises(InvalidError, match="hooks are SQL, and MongoDB takes none: leave out beforeRun"):
        source_of({}, "MongoDB", hooks={"beforeRun": "select 1;"})


async def test_a_large_source_leaves_the_event_loop_to_others() -> None:
    """A Lease is renewed and a probe answered meanwhile."""

    async def history() -> tuple[HistoryRow, ...]:
        return ()

    source = source_of({"1_large.sql": "ALTER TABLE shop.orders ADD COLUMN a int;\n" * 10_000}, "Postgres")

    async def check_place() -> None:
        """It is there."""

    session = cast("MigrationSession", SimpleNamespace(history=history, check_place=check_place))
    async with rounds_of_the_loop() as rounds:
        prepared = await prepare(session, source, Operation())
        let_in = rounds()
    assert prepared.plan.steps[0].migration.steps == 10_000
    assert let_in > 2
