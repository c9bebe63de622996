"""How far the build of an index is, as the status of a run shows it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.engines.migrations_support import fresh_shop

if TYPE_CHECKING:
    from sandbox import PostgresEndpoint

#: A row takes 5 ms, and a block holds few of them: what a large table is to a real index.
TABLE = (
    "CREATE FUNCTION shop.slow(n int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS "
    "$$ BEGIN PERFORM pg_catalog.pg_sleep(0.005); RETURN n; END $$;\n"
    "CREATE TABLE shop.big (n int, filler text);\nALTER TABLE shop.big ALTER filler SET STORAGE PLAIN;\n"
    "INSERT INTO shop.big SELECT g, repeat('x', 2000) FROM generate_series(1, 500) g;\n"
)
FILES = {
    "20250101000000_big.sql": TABLE,
    "20250102000000_index.sql": "CREATE INDEX CONCURRENTLY big_n ON shop.big (shop.slow(n));\n",
}


async def test_how_many_blocks_of_a_build_are_done(postgres18: PostgresEndpoint) -> None:
    with fresh_shop(postgres18) as shop:
        assert (await shop.up(FILES)).error is None
        told = [row.waiting_for for row in shop.rows if row.name == "index" and row.waiting_for]
        found = [re.fullmatch(r"index build: .*?, (\d+) of (\d+) blocks \((\d+) %\).*", text) for text in told]
        counted = [tuple(map(int, match.groups())) for match in found if match]
        begun = [one for one in counted if one[0]]
        assert begun, told
        for done, total, share in begun:
            assert done <= total == 125
            assert share == done * 100 // total
        assert shop.rows[-1].waiting_for == "", "nothing is waited for at the end"
