"""Which scripts run in a transaction."""

from __future__ import annotations

import pytest

from selvedge.core.errors import InvalidError
from selvedge.migrate.directives import Directives
from selvedge.migrate.splitter import split
from selvedge.migrate.transactions import IndexBuild, forbids_transaction, index_build, prepare

FORBIDS = [
    "CREATE INDEX CONCURRENTLY a ON t (b)",
    "create /* x */ unique index -- y\n concurrently if not exists a on t (b)",
    "DROP INDEX CONCURRENTLY a",
    "REINDEX INDEX CONCURRENTLY a",
    "REINDEX (VERBOSE, CONCURRENTLY) TABLE a",
    "REINDEX (VERBOSE) TABLE CONCURRENTLY a",
    "REINDEX SCHEMA shop",
    "REINDEX DATABASE shop",
    "VACUUM ANALYZE t",
    "VACUUM",
    "CLUSTER",
    "CLUSTER VERBOSE",
    "CLUSTER (VERBOSE)",
    "ALTER SYSTEM SET work_mem = '1MB'",
    "CREATE DATABASE a",
    "DROP DATABASE a",
    "CREATE TABLESPACE a LOCATION '/x'",
    "ALTER DATABASE a SET TABLESPACE b",
    "CREATE SUBSCRIPTION s CONNECTION 'x' PUBLICATION p",
    "ALTER TABLE a DETACH PARTITION b CONCURRENTLY",
    "DISCARD ALL",
    "ALTER SUBSCRIPTION s REFRESH PUBLICATION",
    "ALTER SUBSCRIPTION s SET PUBLICATION p",
    "ALTER SUBSCRIPTION s ADD PUBLICATION p, q WITH (copy_data = false)",
]
ALLOWS = [
    "REFRESH MATERIALIZED VIEW CONCURRENTLY m",
    "ALTER TYPE t ADD VALUE 'x'",
    "CREATE INDEX a ON t (b) /* not CONCURRENTLY */",
    "CREATE INDEX a ON t (concurrently)",
    "COMMENT ON INDEX a IS 'made CONCURRENTLY'",
    "CREATE TABLE vacuum_log (id int)",
    "REINDEX TABLE a",
    "CLUSTER t USING i",
    "ALTER TABLE a DETACH PARTITION b",
    "ALTER DATABASE a SET work_mem = '1MB'",
    "CREATE SUBSCRIPTION s CONNECTION 'x' PUBLICATION p WITH (create_slot = false)",
    "CREATE SUBSCRIPTION s CONNECTION 'create_slot' PUBLICATION p WITH (slot_name = x,\nconnect\t=\n'off')",
    "ALTER SUBSCRIPTION s SET PUBLICATION p WITH (refresh = off)",
    "ALTER SUBSCRIPTION s DISABLE",
    "ALTER SUBSCRIPTION s RENAME TO refresh",
    "CALL p()",
    "DO $$ BEGIN COMMIT; END $$",
    "DROP INDEX a",
]


@pytest.mark.parametrize("text", FORBIDS)
def test_forbids(text: str) -> None:
    (statement,) = split(text)
    assert forbids_transaction(statement)


@pytest.mark.parametrize("text", ALLOWS)
def test_allows(text: str) -> None:
    (statement,) = split(text)
    assert not forbids_transaction(statement)


@pytest.mark.parametrize("opening", ["BEGIN", "begin transaction", "START TRANSACTION", "BEGIN WORK"])
@pytest.mark.parametrize("closing", ["COMMIT", "end", "COMMIT WORK", "COMMIT TRANSACTION"])
def test_an_envelope_is_stripped(opening: str, closing: str) -> None:
    script = prepare(split(f"{opening}; SELECT 1; SELECT 2; {closing};"), Directives(), "a.sql")
    assert [statement.text for statement in script.statements] == ["SELECT 1", "SELECT 2"]
    assert script.transactional


@pytest.mark.parametrize(
    "text",
    [
        "BEGIN; SELECT 1",
        "SELECT 1; COMMIT",
        "BEGIN; SELECT 1; COMMIT; BEGIN; SELECT 2; COMMIT",
        "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT 1; COMMIT",
        "BEGIN; SELECT 1; ROLLBACK",
        "BEGIN; SELECT 1; COMMIT AND CHAIN",
        "SELECT 1; PREPARE TRANSACTION 'x'",
        "COMMIT PREPARED 'x'",
        "ABORT",
        "START TRANSACTION",
    ],
)
def test_other_control_is_refused(text: str) -> None:
    with pytest.raises(InvalidError, match=r"a\.sql, line 1: \w+ would end the transaction"):
        prepare(split(text), Directives(), "a.sql")


@pytest.mark.parametrize(
    "text", ["SAVEPOINT a; ROLLBACK TO a; RELEASE a", "ROLLBACK TO SAVEPOINT a", "PREPARE p AS SELECT 1"]
)
def test_what_stays_inside_is_allowed(text: str) -> None:
    assert prepare(split(text), Directives(), "a.sql").transactional


def test_the_marker() -> None:
    statements = split("SELECT 1")
    assert not prepare(statements, Directives(transaction=False), "a.sql").transactional
    concurrently = split("SELECT 1;\nDROP INDEX CONCURRENTLY a")
    assert not prepare(concurrently, Directives(), "a.sql").transactional
    with pytest.raises(InvalidError, match="line 2: DROP INDEX CONCURRENTLY A cannot run in a transaction"):
        prepare(concurrently, Directives(transaction=True), "a.sql")


def test_refused_statements() -> None:
    with pytest.raises(InvalidError, match="needs a name"):
        prepare(split("CREATE INDEX CONCURRENTLY ON t (a)"), Directives(), "a.sql")
    with pytest.raises(InvalidError, match="its name, and its table's, without escapes"):
        prepare(split('CREATE INDEX CONCURRENTLY U&"\\0061" ON t (a)'), Directives(), "a.sql")
    with pytest.raises(InvalidError, match="TO STDOUT"):
        prepare(split("COPY t TO STDOUT"), Directives(), "a.sql")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CREATE INDEX CONCURRENTLY Big_ix ON Shop.T (a)", IndexBuild("big_ix", "shop.t", False)),
        ('CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS "A ""b" ON ONLY "X y" (a)', IndexBuild('A "b', '"X y"', True)),
        ("CREATE INDEX CONCURRENTLY a ON t USING gin (b)", IndexBuild("a", "t", False)),
        # letters beyond ASCII stay as they are, as in the server
        ("CREATE INDEX CONCURRENTLY Übersicht ON Shop.Ärger (a)", IndexBuild("Übersicht", "shop.Ärger", False)),
        ("CREATE INDEX CONCURRENTLY ſI ON ſT (a)", IndexBuild("ſi", "ſt", False)),
        ("CREATE INDEX a ON t (b)", None),
        ("DROP INDEX CONCURRENTLY a", None),
    ],
)
def test_index_build(text: str, expected: IndexBuild | None) -> None:
    assert index_build(split(text)[0]) == expected


NONE = Directives(transaction=False)


@pytest.mark.parametrize(
    ("text", "statements", "blocks"),
    [
        ("BEGIN; SELECT 1; COMMIT; BEGIN; SELECT 2; SELECT 3; END;", 3, ((0, 1), (1, 3))),
        ("SELECT 1; START TRANSACTION; SELECT 2; SAVEPOINT a; ROLLBACK TO a; COMMIT; VACUUM", 5, ((1, 4),)),
        ("BEGIN; COMMIT; SELECT 1", 1, ()),
        ("BEGIN; SELECT 1; COMMIT", 1, ()),
        ("SELECT 1; SELECT 2", 2, ()),
    ],
)
def test_blocks_of_a_file_without_a_transaction(
    text: str, statements: int, blocks: tuple[tuple[int, int], ...]
) -> None:
    script = prepare(split(text), NONE, "a.sql")
    assert (len(script.statements), script.blocks, script.transactional) == (statements, blocks, False)


def test_statements_that_share_a_transaction() -> None:
    script = prepare(split("SELECT 0; BEGIN; SELECT 1; SELECT 2; SELECT 3; COMMIT; SELECT 4"), NONE, "a.sql")
    assert [script.together(number) for number in range(5)] == [1, 4, 4, 4, 5]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("SELECT 1;\nBEGIN;\nSELECT 1", "line 2: BEGIN without a COMMIT"),
        ("SELECT 1;\nCOMMIT", "line 2: COMMIT without a BEGIN before it"),
        ("BEGIN;\nBEGIN;\nCOMMIT;\nSELECT 1", "line 2: BEGIN between BEGIN and COMMIT"),
        ("BEGIN;\nSELECT 1;\nROLLBACK;\nSELECT 2", "line 3: ROLLBACK between BEGIN and COMMIT"),
        ("BEGIN ISOLATION LEVEL SERIALIZABLE;\nSELECT 1;\nCOMMIT", "line 1: BEGIN ISOLATION LEVEL without a BEGIN"),
        ("SELECT 1;\nBEGIN;\nVACUUM;\nCOMMIT", "line 3: VACUUM cannot run between BEGIN and COMMIT"),
    ],
)
def test_what_is_no_block(text: str, why: str) -> None:
    with pytest.raises(InvalidError, match=rf"a\.sql, {why}"):
        prepare(split(text), NONE, "a.sql")


def test_an_envelope_is_taken_off_without_a_transaction_too() -> None:
    script = prepare(split("BEGIN; CREATE INDEX CONCURRENTLY i ON t (a); COMMIT"), NONE, "a.sql")
    assert (len(script.statements), script.blocks) == (1, ())


ALONE = [
    "CALL p()",
    "DO $$ BEGIN COMMIT; END $$",
    "DO $$ BEGIN IF x THEN ROLLBACK AND CHAIN; END IF; END $$",
    "DO LANGUAGE plpgsql 'BEGIN CALL p(); END'",
    "REINDEX TABLE a",
    "CLUSTER a USING b",
    "ALTER SUBSCRIPTION s DISABLE",
    "VACUUM",
]
TOGETHER = [
    "DO $$ BEGIN DELETE FROM a WHERE b; END $$",
    "DO $$ BEGIN RAISE 'commit'; /* COMMIT */ END $$",
    "COMMENT ON TABLE a IS 'commit'",
    "SELECT f()",
]


@pytest.mark.parametrize("text", ALONE)
def test_what_is_sent_bare_where_the_file_says_so(text: str) -> None:
    assert prepare(split(f"SELECT 1; {text}"), NONE, "a.sql").alone == {1}


@pytest.mark.parametrize("text", TOGETHER)
def test_what_is_committed_with_its_cursor_all_the_same(text: str) -> None:
    assert prepare(split(f"SELECT 1; {text}"), NONE, "a.sql").alone == frozenset()


def test_nothing_is_sent_bare_by_itself_that_need_not_be() -> None:
    assert prepare(split("CALL p(); VACUUM; REINDEX TABLE a"), Directives(), "a.sql").alone == {1}
    assert prepare(split("CALL p(); REINDEX TABLE a"), Directives(), "a.sql").transactional
    inside = prepare(split("CALL p(); BEGIN; CALL p(); COMMIT; CALL p()"), NONE, "a.sql")
    assert inside.alone == {0, 2}
