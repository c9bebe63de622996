"""Files beside the history."""

from __future__ import annotations

import pytest

from selvedge.core.errors import InvalidError
from selvedge.core.reasons import Reason
from selvedge.migrate import HistoryRow, Migration, RowState, load, make_plan
from selvedge.migrate.plan import RunPlan


def files(*versions: int, **texts: str) -> tuple[Migration, ...]:
    return load({f"{version}_m.sql": texts.get(f"v{version}", f"SELECT {version};") for version in versions})


def ran(*migrations: Migration) -> list[HistoryRow]:
    return [HistoryRow(one.version, one.name, one.checksum) for one in migrations]


def versions(plan: RunPlan) -> list[int]:
    return [step.migration.version for step in plan.steps]


def test_pending() -> None:
    migrations = files(1, 2, 3)
    plan = make_plan(migrations, ran(migrations[0]))
    assert (versions(plan), plan.version) == ([2, 3], 1)
    assert versions(make_plan(migrations, ran(*migrations))) == []
    assert versions(make_plan(migrations, [], target="2")) == [1, 2]
    assert versions(make_plan(migrations, [], "Validate")) == []


def test_changed() -> None:
    migrations = files(1, 2)
    with pytest.raises(InvalidError, match=r"1_m\.sql changed after it ran: put the old text back") as error:
        make_plan(files(1, 2, v1="SELECT 0;"), ran(*migrations))
    assert error.value.reason is Reason.CHECKSUM_MISMATCH


def test_missing() -> None:
    with pytest.raises(InvalidError, match=r"1 \(m\) and the source has no such file") as error:
        make_plan(files(2), ran(*files(1)))
    assert error.value.reason is Reason.MIGRATION_MISSING


def test_out_of_order() -> None:
    migrations = files(1, 2, 3)
    with pytest.raises(InvalidError, match=r"2_m\.sql is older than version 3") as error:
        make_plan(migrations, ran(migrations[0], migrations[2]))
    assert error.value.reason is Reason.OUT_OF_ORDER
    assert versions(make_plan(migrations, ran(migrations[0], migrations[2]), out_of_order="Apply")) == [2]


def test_a_partial_one_goes_first_and_may_be_mended() -> None:
    row = HistoryRow(1, "m", "another", RowState.PARTIAL, done=1, total=2, cursor="x")
    assert versions(make_plan(files(1, 2), [row])) == [1, 2]


def test_environment() -> None:
    migrations = files(1, 2, v1="-- env: staging\nSELECT 1;")
    assert versions(make_plan(migrations, [])) == [2]
    assert versions(make_plan(migrations, [], environment="staging")) == [1, 2]


def test_a_later_file_that_cannot_be_read_stops_all() -> None:
    with pytest.raises(InvalidError, match=r"2_m\.sql, line 1: a string is not closed"):
        make_plan(files(1, 2, v2="SELECT 'x"), [])


@pytest.mark.parametrize("target", ["9", "x", "1.5", "²"])
def test_target(target: str) -> None:
    with pytest.raises(InvalidError, match="is no version of the source"):
        make_plan(files(1), [], target=target)


def test_other_actions() -> None:
    with pytest.raises(InvalidError, match="action Sideways is not known; use one of Up, Down"):
        make_plan(files(1), [], "Sideways")


def test_the_digest_is_the_plan() -> None:
    migrations = files(1, 2)
    digest = make_plan(migrations, []).digest
    assert digest.startswith("sha256:")
    assert len(digest) == 71
    assert digest == make_plan(files(1, 2), []).digest
    assert digest != make_plan(migrations, ran(migrations[0])).digest
    assert digest != make_plan(files(1, 2, v2="SELECT 0;"), []).digest
