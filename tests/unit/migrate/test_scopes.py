"""One set of files for several schemas, told as one plan."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest

from selvedge.core.errors import InvalidError, RefusedError, TransientError
from selvedge.core.reasons import Reason
from selvedge.migrate.history import HistoryRow
from selvedge.migrate.operation import Operation, Prepared, check_approval, concerns_of, source_of
from selvedge.migrate.plan import line_of
from selvedge.migrate.protocol import MigrationSession
from selvedge.migrate.scopes import InTurn, Part, check_scopes, prepare_part, scoped, told_of
from selvedge.migrate.statusrows import digest_of_lines, line_of_row
from selvedge.migrate.steps import first_row
from selvedge.reconcile.runboard import _shown
from tests.unit.migrate.test_operation import FILES, planned, ran

KEYS = ("1", "2", "Repeatable:view")


def part(scope: str, *keys: str, action: str = "Up", target: str = "") -> Part:
    found = planned(FILES, ran(FILES, *keys), action=action, target=target)
    return Part(scope, scoped(Prepared(Operation(action, target), found, concerns=concerns_of(found)), scope))


def test_the_whole_is_the_parts_in_their_order() -> None:
    turn = InTurn((part("north"), part("south", "1"), part("west", *KEYS)))
    steps = [(step.scope, step.migration.key) for step in turn.prepared.plan.steps]
    assert steps == [("north", key) for key in KEYS] + [("south", key) for key in KEYS[1:]]
    assert [step.migration.key for step in turn.once.plan.steps] == list(KEYS)
    assert turn.version == "", "one schema has no version at all"
    turn.versions["north"] = "20250101000000"
    assert turn.version == "1", "the newest that all have"


def test_the_digest_says_in_which_schema() -> None:
    plain = Prepared(Operation(), planned(FILES))
    assert scoped(plain, "").digest == plain.digest
    north, south = InTurn((part("north"),)).prepared, InTurn((part("south"),)).prepared
    assert len({plain.digest, north.digest, south.digest, InTurn((part("north"), part("south"))).prepared.digest}) == 4
    # the rows of the status have the same lines: what a person sees is what he approves
    rows = [
        _shown(first_row(number, step)) | {"checksum": line_of(step).split(" ")[1]}
        for number, step in enumerate(north.plan.steps)
    ]
    assert {row["schema"] for row in rows} == {"north"}
    assert digest_of_lines(map(line_of_row, rows)) == north.digest


def test_an_approval_is_for_all_schemas() -> None:
    back = InTurn((part("north", *KEYS, action="Down", target="1"), part("south", *KEYS, action="Down", target="1")))
    alone = InTurn((part("north", *KEYS, action="Down", target="1"),))
    prepared = back.prepared
    assert len(prepared.concerns) == 1, "each is said once"
    approved = replace(prepared, operation=replace(prepared.operation, approved=prepared.digest))
    check_approval(approved)
    with pytest.raises(RefusedError, match="what waits now") as refused:
        check_approval(replace(prepared, operation=replace(prepared.operation, approved=alone.prepared.digest)))
    assert refused.value.reason is Reason.SUPERSEDED


def test_what_concerns_some_schemas_names_them() -> None:
    here, there = part("north", *KEYS, action="To", target="1"), part("south", "1", action="To", target="1")
    assert [one.split(":")[0] for one in InTurn((here, there)).prepared.concerns] == ["schema north"]


def test_what_cannot_be_asked_of_several() -> None:
    with pytest.raises(InvalidError, match="schemas are for Postgres"):
        check_scopes(["north"], Operation(engine="MongoDB"))
    for action in ("Down", "Redo"):
        with pytest.raises(InvalidError, match=f"{action} in 2 schemas needs a target"):
            check_scopes(["north", "south"], Operation(action))
        check_scopes(["north"], Operation(action))
        check_scopes(["north", "south"], Operation(action, "1"))


def test_an_error_names_its_schema() -> None:
    with pytest.raises(TransientError, match=r"^schema north: the lock is held") as caught, told_of("north"):
        raise TransientError(Reason.WAITING_FOR_LOCK, "the lock is held")
    assert caught.value.message == str(caught.value)


def test_the_approval_of_a_way_back_in_several_schemas_is_for_the_state_of_each() -> None:
    def back(scope: str, time: float) -> Part:
        found = planned(FILES, ran(FILES, *KEYS, applied_at=time), action="To", target="0")
        return Part(scope, scoped(Prepared(Operation("To", "0"), found), scope))

    whole = InTurn((back("north", 1.0), back("south", 1.0))).prepared
    assert len(whole.plan.state) == 1
    assert InTurn((back("north", 1.0), back("south", 2.0))).prepared.digest != whole.digest
    assert InTurn((back("north", 1.0),)).prepared.plan.state == back("north", 1.0).prepared.plan.state


async def test_a_redo_of_what_was_edited_both_ways_is_done_once() -> None:
    """What is undone is what ran, by the history's own text; once it is redone, the file's way down is another."""
    before = {"1_users.sql": FILES["1_users.sql"]}
    after = {
        "1_users.sql": "-- migrate:up\ncreate table users (id bigint);\n-- migrate:down\ndrop table if exists users;\n"
    }
    source = source_of(after, "Postgres")
    operation, resumed = Operation("Redo", "1"), Operation("Redo", "1", resumes=True)

    async def pass_over(history: tuple[HistoryRow, ...], *events: str, operation: Operation = resumed) -> Part:
        async def rows() -> tuple[HistoryRow, ...]:
            return history

        async def done() -> tuple[str, ...]:
            return events

        async def check_place() -> None:
            """It is there."""

        session = cast("MigrationSession", SimpleNamespace(history=rows, done=done, check_place=check_place))
        return await prepare_part(session, source, operation, "north")

    first = await pass_over(ran(before, "1"), operation=operation)
    down, up = (line_of(replace(step, scope="")) for step in first.prepared.plan.steps)
    assert len((await pass_over((), down)).prepared.plan.steps) == 1, "undone, and not run again yet"
    with pytest.raises(InvalidError, match="schema north: version 1 did not run"):
        await pass_over((), down, operation=operation)
    with pytest.raises(InvalidError, match="schema north: version 1 did not run"):
        await pass_over(())
    second = await pass_over(ran(after, "1"), down, up)
    assert second.prepared.plan.steps == ()
    assert second.done == tuple(line_of(step) for step in first.prepared.plan.steps)
    other = await pass_over(ran(after, "1"), down)
    assert [step.direction for step in other.prepared.plan.steps] == ["up"], "somebody else ran it again: it stays"
