"""Down, to a version, redo, baseline and repair; repeatables and seeds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from selvedge.core.errors import InvalidError
from selvedge.core.reasons import Reason
from selvedge.migrate import HistoryRow, Migration, RowState, RunPlan, load, make_plan
from selvedge.migrate.names import Engine
from selvedge.migrate.plan import line_of
from selvedge.migrate.steps import is_done, unfit
from selvedge.migrate.together import check_together

BOTH = "-- migrate:up\nCREATE TABLE t{0} ();\n-- migrate:down\nDROP TABLE t{0};\n"
ONE, TWO, THREE = (f"{number}_m.sql" for number in (1, 2, 3))
FILES = {ONE: BOTH.format(1), TWO: BOTH.format(2), THREE: BOTH.format(3)}


def ran(migrations: tuple[Migration, ...], *versions: int) -> list[HistoryRow]:
    return [
        HistoryRow(
            one.version,
            one.name,
            one.checksum,
            kind=one.kind,
            down_checksum=one.down_checksum,
            up=one.up,
            down=one.stored_down,
        )
        for one in migrations
        if one.version in versions or one.kind in versions
    ]


def shown(plan: RunPlan) -> list[str]:
    return [f"{step.direction} {step.migration.file}" for step in plan.steps]


ALL = load(FILES)
HISTORY = ran(ALL, 1, 2, 3)


def test_down_is_one_step_and_can_be_planned_again() -> None:
    plan = make_plan(ALL, HISTORY, "Down")
    assert shown(plan) == [f"down {THREE}"]
    assert plan.target == "2"
    again = make_plan(ALL, ran(ALL, 1, 2), "Down", plan.target)
    assert again.steps == ()
    assert make_plan(ALL, ran(ALL, 1), "Down").target == "0"
    assert make_plan(ALL, [], "Down").steps == ()


def test_down_to_a_version_undoes_what_is_newer_newest_first() -> None:
    assert shown(make_plan(ALL, HISTORY, "Down", "1")) == [f"down {THREE}", f"down {TWO}"]
    assert shown(make_plan(ALL, HISTORY, "Down", 0)) == [f"down {THREE}", f"down {TWO}", f"down {ONE}"]


@pytest.mark.parametrize("target", ["4", "x", "-1"])
def test_down_to_what_never_ran(target: str) -> None:
    with pytest.raises(InvalidError) as error:
        make_plan(ALL, HISTORY, "Down", target)
    assert error.value.reason is Reason.INVALID_SPEC


def test_the_file_is_gone() -> None:
    plan = make_plan(ALL[:2], HISTORY, "Down")
    assert shown(plan) == [f"down {THREE}"]
    assert plan.steps[0].migration.down == "\nDROP TABLE t3;"
    assert plan.warnings == (f"{THREE}: the file is gone; the way down that the history kept is used",)
    assert shown(make_plan([], HISTORY, "To", "0")) == [f"down {THREE}", f"down {TWO}", f"down {ONE}"]


def test_directives_of_a_way_down_survive_in_the_history() -> None:
    text = "-- migrate:up\nSELECT 1;\n-- migrate:down transaction:false lock-timeout\nSELECT 2;"
    migrations = load({ONE: text.replace(" lock-timeout", "")})
    step = make_plan([], ran(migrations, 1), "Down").steps[0]
    assert step.migration.down_directives.transaction is False
    assert not step.migration.down_script.transactional


def test_a_way_down_that_was_mended_is_used_with_a_warning() -> None:
    mended = load({**FILES, THREE: FILES[THREE].replace("DROP TABLE t3", "DROP TABLE IF EXISTS t3")})
    plan = make_plan(mended, HISTORY, "Down")
    assert plan.steps[0].migration is mended[2]
    assert plan.warnings == (f"{THREE}: its way down changed after it ran; that of the file is used",)
    assert plan.digest != make_plan(ALL, HISTORY, "Down").digest
    assert make_plan(mended, HISTORY).warnings == ()


def test_what_changed_after_it_ran_is_not_undone() -> None:
    changed = load({**FILES, THREE: BOTH.format(33)})
    with pytest.raises(InvalidError, match=f"{THREE} changed after it ran") as error:
        make_plan(changed, HISTORY, "Down")
    assert error.value.reason is Reason.CHECKSUM_MISMATCH


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("SELECT 2;", "has no way down: write one below -- migrate:down"),
        ("-- migrate:up\nSELECT 2;\n-- migrate:down\n", "has no way down"),
        ("-- irreversible\n-- migrate:up\nSELECT 2;\n-- migrate:down\nSELECT 1;", "says that it is irreversible"),
    ],
)
def test_no_way_down_is_found_before_anything_runs(text: str, why: str) -> None:
    migrations = load({**FILES, TWO: text})
    with pytest.raises(InvalidError, match=f"{TWO} {why}") as error:
        make_plan(migrations, ran(migrations, 1, 2, 3), "Down", "0")
    assert error.value.reason is Reason.IRREVERSIBLE
    with pytest.raises(InvalidError) as error:
        make_plan([], ran(migrations, 2), "Down")
    assert error.value.reason is Reason.IRREVERSIBLE


def test_a_way_down_that_cannot_be_read() -> None:
    broken = load({**FILES, TWO: "-- migrate:up\nSELECT 2;\n-- migrate:down\nSELECT 'x;"})
    with pytest.raises(InvalidError, match=f"{TWO}, line 4: a string is not closed"):
        make_plan(broken, ran(broken, 1, 2), "Down")
    plan = make_plan(broken, [])
    assert len(plan.steps) == 3
    assert len(plan.warnings) == 1
    assert plan.warnings[0].startswith(f"the way down cannot be read: {TWO}, line 4: a string is not closed")
    with pytest.raises(InvalidError, match="line 4"):
        make_plan(broken, [], "Validate")


def test_to_goes_either_way() -> None:
    assert shown(make_plan(ALL, HISTORY, "To", "2")) == [f"down {THREE}"]
    assert shown(make_plan(ALL, ran(ALL, 1), "To", "2")) == [f"up {TWO}"]
    assert shown(make_plan(ALL, ran(ALL, 1, 3), "To", "2")) == [f"down {THREE}", f"up {TWO}"]
    assert make_plan(ALL, HISTORY, "To", "3").steps == ()
    with pytest.raises(InvalidError, match="needs a target"):
        make_plan(ALL, HISTORY, "To")
    with pytest.raises(InvalidError, match="target 9 is no version"):
        make_plan(ALL, HISTORY, "To", "9")


def test_redo_is_down_and_up_and_survives_a_crash_in_between() -> None:
    plan = make_plan(ALL, HISTORY, "Redo")
    assert shown(plan) == [f"down {THREE}", f"up {THREE}"]
    assert plan.target == "3"
    done = [line_of(plan.steps[0])]
    assert shown(make_plan(ALL, ran(ALL, 1, 2), "Redo", plan.target, done=done)) == [f"up {THREE}"]
    half = replace(HISTORY[2], state=RowState.PARTIAL, done=1, total=2)
    assert shown(make_plan(ALL, [*HISTORY[:2], half], "Redo", plan.target, done=done)) == [f"up {THREE}"]
    undone = replace(half, direction="down")
    assert shown(make_plan(ALL, [*HISTORY[:2], undone], "Redo", plan.target)) == shown(plan)
    with pytest.raises(InvalidError, match="version 2 is not the newest that ran, 3 is"):
        make_plan(ALL, HISTORY, "Redo", "2")
    with pytest.raises(InvalidError, match="nothing to redo"):
        make_plan(ALL, [], "Redo")


def test_redo_does_not_undo_what_somebody_else_applied_meanwhile() -> None:
    """It has undone its own already: what it finds, whole or half, is another's."""
    plan = make_plan(ALL, HISTORY, "Redo")
    done = [line_of(plan.steps[0])]
    half = replace(HISTORY[2], state=RowState.PARTIAL, done=1, total=2, direction="down")
    for row in (HISTORY[2], replace(HISTORY[2], checksum="another"), half):
        again = make_plan(ALL, [*HISTORY[:2], row], "Redo", plan.target, done=done)
        assert shown(again) == [f"up {THREE}"]
        error = unfit(again.steps[0], {row.key: row}, 18, in_order=True)
        assert (error is None) == is_done(again.steps[0], row) == (row is HISTORY[2])


def test_redo_is_no_way_up_for_what_did_not_run() -> None:
    """It asks nobody about its way up, and skips what is pending before it."""
    down, up = map(line_of, make_plan(ALL, HISTORY, "Redo").steps)
    elsewhere = line_of(make_plan(ALL, ran(ALL, 1, 2), "Redo").steps[0])
    for done in ([], [down, up], [elsewhere]):
        with pytest.raises(InvalidError, match=r"version 3 did not run: there is nothing to redo.* the action Up"):
            make_plan(ALL, ran(ALL, 1), "Redo", "3", done=done)
    with pytest.raises(InvalidError, match="version 1 did not run"):
        make_plan(ALL, [], "Redo", "1")
    half = replace(HISTORY[2], state=RowState.PARTIAL, done=1, total=2)
    with pytest.raises(InvalidError, match=r"version 3 \(m\) is half applied, 1 of 2 statements: finish it"):
        make_plan(ALL, [*HISTORY[:2], half], "Redo")


def test_redo_of_a_changed_file_goes_back_by_what_ran() -> None:
    changed = load({**FILES, THREE: BOTH.format(33)})
    down, up = make_plan(changed, HISTORY, "Redo").steps
    assert down.migration.down == "\nDROP TABLE t3;"
    assert "t33" in up.migration.up
    with pytest.raises(InvalidError, match="no file to redo it from"):
        make_plan(ALL[:2], HISTORY, "Redo")


def test_baseline() -> None:
    plan = make_plan(ALL, [], "Baseline", "2")
    assert shown(plan) == [f"mark {ONE}", f"mark {TWO}"]
    assert shown(make_plan(ALL, ran(ALL, 1), "Baseline", "2")) == [f"mark {TWO}"]
    with pytest.raises(InvalidError, match="target 9 is no version"):
        make_plan(ALL, [], "Baseline", "9")
    with pytest.raises(InvalidError, match="baseline needs a target"):
        make_plan(ALL, [], "Baseline")
    half = [HistoryRow(1, "m", ALL[0].checksum, RowState.PARTIAL, 1, 2)]
    with pytest.raises(InvalidError, match=r"version 1 \(m\) is half applied, 1 of 2 statements") as error:
        make_plan(ALL, half, "Baseline", "2")
    assert error.value.reason is Reason.PARTLY_APPLIED


def test_repair_accepts_changed_texts() -> None:
    changed = load({**FILES, ONE: BOTH.format(11), TWO: FILES[TWO].replace("DROP", "DROP /* now */")})
    assert shown(make_plan(changed, HISTORY, "Repair", repair="Accept")) == [f"accept {ONE}", f"accept {TWO}"]
    assert shown(make_plan(changed, HISTORY, "Repair", "1", repair="Accept")) == [f"accept {ONE}"]
    assert shown(make_plan(changed, HISTORY, "Repair", ONE, repair="Accept")) == [f"accept {ONE}"]
    assert make_plan(ALL, HISTORY, "Repair", repair="Accept").steps == ()


def test_repair_marks() -> None:
    assert shown(make_plan(ALL, [], "Repair", "2", repair="MarkApplied")) == [f"mark {TWO}"]
    assert make_plan(ALL, HISTORY, "Repair", "2", repair="MarkApplied").steps == ()
    assert shown(make_plan(ALL[:1], HISTORY, "Repair", "2", repair="MarkUnapplied")) == [f"unmark {TWO}"]
    assert make_plan(ALL, [], "Repair", "2", repair="MarkUnapplied").steps == ()
    half = [HistoryRow(2, "m", "x", RowState.PARTIAL, 1, 2)]
    assert shown(make_plan(ALL, half, "Repair", "2", repair="MarkApplied")) == [f"mark {TWO}"]
    with pytest.raises(InvalidError, match="needs a target"):
        make_plan(ALL, [], "Repair", repair="MarkApplied")
    with pytest.raises(InvalidError, match="neither in the source nor in the history"):
        make_plan(ALL, [], "Repair", "9", repair="MarkUnapplied")
    with pytest.raises(InvalidError, match="has no file"):
        make_plan(ALL[:1], half, "Repair", "2", repair="MarkApplied")


def test_repair_of_indexes_and_of_nothing_else() -> None:
    plan = make_plan(ALL, HISTORY, "Repair", repair="DropInvalidIndexes")
    assert plan.drop_invalid_indexes
    assert plan.steps == ()
    assert plan.digest != make_plan(ALL, HISTORY).digest
    with pytest.raises(InvalidError, match="repair Everything: use one of Accept, MarkApplied"):
        make_plan(ALL, HISTORY, "Repair", repair="Everything")


def test_half_way() -> None:
    up = [*ran(ALL, 1), HistoryRow(2, "m", ALL[1].checksum, RowState.PARTIAL, 1, 2, "x")]
    with pytest.raises(InvalidError, match="half applied, 1 of 2 statements: finish it with the action Up"):
        make_plan(ALL, up, "Down")
    down = [*ran(ALL, 1), HistoryRow(2, "m", ALL[1].checksum, RowState.PARTIAL, 1, 2, "x", direction="down")]
    with pytest.raises(InvalidError, match="half undone, 1 of 2 statements: end it with the action Down"):
        make_plan(ALL, down)
    assert shown(make_plan(ALL, down, "Down", "1")) == [f"down {TWO}"]


AGAIN = {**FILES, "R__b.sql": "SELECT 'b';", "R__a.sql": "SELECT 'a';", "seeds/users.sql": "-- env: test\nSELECT 9;"}


def test_repeatables_come_last_and_again_when_they_changed() -> None:
    migrations = load(AGAIN)
    assert shown(make_plan(migrations, ran(ALL, 1, 2))) == [f"up {THREE}", "up R__a.sql", "up R__b.sql"]
    history = ran(migrations, 1, 2, 3, "Repeatable")
    assert make_plan(migrations, history).steps == ()
    changed = load({**AGAIN, "R__a.sql": "SELECT 'aa';"})
    assert shown(make_plan(changed, history)) == ["up R__a.sql"]
    assert make_plan(ALL, history).steps == (), "one that is gone is nobody's business"
    assert shown(make_plan(migrations, [], target="2")) == [f"up {ONE}", f"up {TWO}"]
    undone = make_plan(migrations, history, "To", "0")
    assert shown(undone)[-2:] == ["unmark R__a.sql", "unmark R__b.sql"]
    assert "unmark" not in " ".join(shown(make_plan(migrations, history, "Down")))


def test_seeds_are_asked_for_by_their_environment() -> None:
    migrations = load(AGAIN)
    history = ran(migrations, 1, 2, 3, "Repeatable")
    assert make_plan(migrations, history, environment="production").steps == ()
    assert shown(make_plan(migrations, history, environment="test")) == ["up seeds/users.sql"]


def test_a_repeatable_may_be_for_some_environments_only() -> None:
    migrations = load({**FILES, "R__all.sql": "SELECT 1;", "R__some.sql": "-- env: staging, test\nSELECT 2;"})
    history = ran(migrations, 1, 2, 3)
    for environment in ("", "production"):
        assert shown(make_plan(migrations, history, environment=environment)) == ["up R__all.sql"]
    assert shown(make_plan(migrations, history, environment="test")) == ["up R__all.sql", "up R__some.sql"]


@pytest.mark.parametrize(
    ("second", "why"),
    [
        ("CREATE INDEX CONCURRENTLY i ON t (a);", "2_m.sql runs without a transaction"),
        ("-- transaction: false\nSELECT 1;", "2_m.sql runs without a transaction"),
        ("\nINSERT INTO t VALUES ('it''s');", "2_m.sql, line 2 uses the enum value 'it''s' that 1_m.sql, line 1 adds"),
        ("COPY t FROM stdin;\n1\tit''s\n\\.\n", "2_m.sql, line 1 uses the enum value"),
    ],
)
def test_all_in_one_is_refused_where_it_would_be_a_lie(second: str, why: str) -> None:
    plan = make_plan(load({ONE: "ALTER TYPE shop.kind ADD VALUE IF NOT EXISTS 'it''s' BEFORE 'b';", TWO: second}), [])
    with pytest.raises(InvalidError) as error:
        check_together(plan.steps)
    assert why in str(error.value)


def test_all_in_one() -> None:
    check_together(make_plan(ALL, HISTORY, "Down", "0").steps)
    other = {ONE: "ALTER TYPE kind ADD VALUE 'new';", TWO: "INSERT INTO t VALUES ('newer'); SELECT $$renew$$;"}
    check_together(make_plan(load(other), []).steps)


DELETE = '{"delete": "a", "deletes": [{"limit": 1, "q": {"x": 1, "down": 1}}]}'
KEPT = {
    "Postgres": [
        "-- migrate:up\nSELECT 1;\n-- migrate:down\nSELECT 2;",
        "-- env: a\n-- migrate:up\nSELECT 1;\n-- migrate:down transaction:false\n-- lock-timeout: 2s\nSELECT 2;",
        "-- migrate:up\nSELECT 1;\n-- migrate:down\n-- verify: SELECT true\n-- note\n\nSELECT 2;\n\n",
    ],
    "MongoDB": [
        '{"up": [{"create": "a"}], "down": [{"drop": "a"}]}',
        '{"transaction": false, "statementTimeout": "5s", "up": [{"create": "a"}], "down": [ {"drop": "a"} ]}',
        *(
            (f'{{{options}"up": [{{"insert": "a", "documents": [{{"down": 1}}]}}]}}', f"{space}{down}{space}")
            for options in ("", '"transaction": true, "statementTimeout": "5s", ')
            for down in (f"[{DELETE}]", f'{{"up": [ {DELETE} ]}}')
            for space in ("", "\n", " \t\n ")
        ),
    ],
}


@pytest.mark.parametrize(("engine", "text"), [(engine, text) for engine, texts in KEPT.items() for text in texts])
def test_a_way_down_out_of_the_history_is_the_one_that_was_written_there(
    engine: Engine, text: str | tuple[str, str]
) -> None:
    """``text`` is a file, or a pair of them: the way down is the second as it stands, white space and all."""
    extension = "sql" if engine == "Postgres" else "json"
    parts = {"": text} if isinstance(text, str) else dict(zip((".up", ".down"), text, strict=True))
    [row] = ran(load({f"1_m{part}.{extension}": text for part, text in parts.items()}, engine), 1)
    assert row.down is not None
    assert len(make_plan([], [row], "Down", engine=engine).steps) == 1
    for old, new in (("SELECT 2", "SELECT 3"), ('"a"', '"b"')):
        if old not in row.down:
            continue
        with pytest.raises(
            InvalidError, match=r"the way down of 1_m.* does not have the checksum that stands beside it"
        ):
            make_plan([], [replace(row, down=row.down.replace(old, new))], "Down", engine=engine)
    with pytest.raises(InvalidError) as error:
        make_plan([], [replace(row, down_checksum=None)], "Down", engine=engine)
    assert error.value.reason is Reason.CHECKSUM_MISMATCH
    with pytest.raises(InvalidError):
        make_plan([], [replace(row, down="")], "Down", engine=engine)


def test_a_changed_file_takes_the_way_down_of_the_history_if_that_is_whole() -> None:
    changed = load({**FILES, THREE: FILES[THREE].replace("TABLE t3 ()", "TABLE t3 (a int)")})
    assert shown(make_plan(changed, HISTORY, "Redo")) == [f"down {THREE}", f"up {THREE}"]
    damaged = [*HISTORY[:2], replace(HISTORY[2], down="\nDROP TABLE t1;")]
    with pytest.raises(InvalidError, match=r"the way down of 3_m\.sql in the history"):
        make_plan(changed, damaged, "Redo")
    assert shown(make_plan(ALL, damaged, "Redo")) == [f"down {THREE}", f"up {THREE}"], "the file is what ran"


#: What Diesel makes in every project.
SETUP = "00000000000000_diesel_initial_setup"
INIT = f"{SETUP}/up.sql"
ZERO = {INIT: "SELECT 1;", f"{SETUP}/down.sql": "SELECT 2;", **FILES}


@pytest.mark.parametrize("action", ["Down", "To"])
@pytest.mark.parametrize("target", ["0", 0])
def test_to_0_undoes_a_version_0_too(action: str, target: str | int) -> None:
    files = load(ZERO)
    plan = make_plan(files, ran(files, 0, 1), action, target)
    assert shown(plan) == [f"down {ONE}", f"down {INIT}"]
    assert plan.target == "0"
    rest = make_plan(files, ran(files, 0), action, plan.target)
    assert shown(rest) == [f"down {INIT}"]
    assert make_plan(files, [], action, plan.target).steps == ()


@pytest.mark.parametrize("target", ["00", "00000000000000"])
def test_two_zeros_are_the_version_0(target: str) -> None:
    files = load(ZERO)
    assert shown(make_plan(files, ran(files, 0, 1), "Down", target)) == [f"down {ONE}"]
    assert shown(make_plan(files, ran(files, 0, 1, 2), "To", target)) == [f"down {TWO}", f"down {ONE}"]
    up = make_plan(files, [], "To", target)
    assert (shown(up), up.target) == ([f"up {INIT}"], "00")


def test_one_step_down_to_a_version_0_is_one_step_when_it_is_planned_again() -> None:
    files = load(ZERO)
    plan = make_plan(files, ran(files, 0, 1), "Down")
    assert (shown(plan), plan.target) == ([f"down {ONE}"], "00")
    assert make_plan(files, ran(files, 0), "Down", plan.target).steps == ()
    assert make_plan(files, ran(files, 0), "Down").target == "0"


def test_a_version_0_is_a_target_like_any_other() -> None:
    files = load(ZERO)
    assert shown(make_plan(files, [], "Up", "0")) == [f"up {INIT}"]
    assert shown(make_plan(files, [], "Baseline", "0")) == [f"mark {INIT}"]
    redo = make_plan(files, ran(files, 0), "Redo")
    assert (shown(redo), redo.target) == ([f"down {INIT}", f"up {INIT}"], "00")
    done = [line_of(redo.steps[0])]
    assert shown(make_plan(files, [], "Redo", redo.target, done=done)) == [f"up {INIT}"]
    for action in ("Up", "Baseline"):
        with pytest.raises(InvalidError, match="target 0 is no version of the source"):
            make_plan(ALL, [], action, "0")
