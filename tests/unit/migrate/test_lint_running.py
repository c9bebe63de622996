"""What code that runs now meets in the new schema."""

from __future__ import annotations

import pytest

from tests.unit.migrate.lint_support import own

BREAKS = {
    "ALTER TABLE a RENAME b TO c": "knows column b of a by its old name",
    "ALTER TABLE a DROP b": "may still read column b of a",
    "DROP TABLE a": "may still use table a",
    "DROP FUNCTION f(int)": "may still use function f",
    "ALTER TABLE a ADD b int NOT NULL": "inserts rows without column b of a",
    "ALTER TABLE a ALTER b SET NOT NULL": "may write no value into column b of a",
    "ALTER TABLE a ALTER b DROP DEFAULT": "may rely on the default of column b of a",
    "ALTER TABLE a ALTER b TYPE text": "reads and writes column b of a with its old type",
}


HOLDS = [
    "ALTER TABLE a ADD b int",
    "ALTER TABLE a ADD b int NOT NULL DEFAULT 1",
    "ALTER TABLE a ADD b bigint GENERATED ALWAYS AS IDENTITY NOT NULL",
    "ALTER TABLE a ADD b bigserial PRIMARY KEY",
    "CREATE TABLE a (b int NOT NULL); ALTER TABLE a ALTER b DROP DEFAULT",
    "DROP VIEW v; CREATE VIEW v AS SELECT 1",
    "DROP FUNCTION f(int); CREATE OR REPLACE FUNCTION f(a int) RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "DROP INDEX a",
]


@pytest.mark.parametrize(("text", "what"), BREAKS.items())
def test_what_running_code_does_not_survive(text: str, what: str) -> None:
    (found,) = [one for one in own(text) if one.rule == "breaks-running-code"]
    assert what in found.message
    assert found.next_step
    assert found.severity == "warning"


@pytest.mark.parametrize("text", HOLDS)
def test_what_running_code_survives(text: str) -> None:
    assert not [one for one in own(text) if one.rule == "breaks-running-code"]
