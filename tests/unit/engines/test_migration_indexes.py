"""The statement that ends a DETACH PARTITION … CONCURRENTLY which broke off."""

from __future__ import annotations

import pytest

from selvedge.engines.postgres.migration_indexes import finalize
from selvedge.migrate.splitter import split


@pytest.mark.parametrize(
    ("text", "ended"),
    [
        ("ALTER TABLE a DETACH PARTITION b CONCURRENTLY", "ALTER TABLE a DETACH PARTITION b FINALIZE"),
        # ß is two letters in capitals, and the word may stand in a comment or a name too
        ("alter table straße detach partition ŉ concurrently", "alter table straße detach partition ŉ FINALIZE"),
        (
            'ALTER TABLE "concurrently" DETACH PARTITION b CONCURRENTLY /* not CONCURRENTLY */',
            'ALTER TABLE "concurrently" DETACH PARTITION b FINALIZE /* not CONCURRENTLY */',
        ),
        (
            "ALTER TABLE a DETACH PARTITION b\nCONCURRENTLY -- concurrently",
            "ALTER TABLE a DETACH PARTITION b\nFINALIZE",
        ),
    ],
)
def test_finalize(text: str, ended: str) -> None:
    (statement,) = split(text)
    done = finalize(statement)
    assert done.text.startswith(ended)
    assert (done.line, done.head) == (statement.line, statement.head)
