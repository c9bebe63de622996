"""What the linter sees in a statement beside what Postgres' own parser sees in it.

Over generated migrations, our own, and every SQL file below ``SELVEDGE_MIGRATIONS_CORPUS``.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import postgast
from hypothesis import given
from hypothesis import strategies as st
from postgast import pg_query_pb2 as pg

from selvedge.core.errors import InvalidError
from selvedge.migrate import load
from selvedge.migrate.lint_facts import facts
from selvedge.migrate.splitter import split
from tests.migrations_generator import generate

ROOT = Path(__file__).resolve().parents[3]
CORPUS = Path(os.environ.get("SELVEDGE_MIGRATIONS_CORPUS") or ROOT / "migrations")
COMPARED = (
    "drop",
    "drop-column",
    "truncate",
    "delete-all",
    "update-all",
    "rename",
    "move",
    "set-not-null",
    "change-type",
)
COLUMNS = {
    "AT_DropColumn": "drop-column",
    "AT_SetNotNull": "set-not-null",
    "AT_AlterColumnType": "change-type",
}


def test_generated_migrations() -> None:
    texts = [
        statement.text
        for migration in load(generate(250, seed=11))
        for script in (migration.script, migration.down_script)
        for statement in script.statements
    ]
    assert compare(texts) > 1500


def test_the_corpus() -> None:
    texts = []
    for path in sorted(CORPUS.rglob("*.sql")):
        try:
            found = split(path.read_bytes().decode("utf-8-sig", "replace").replace("\r\n", "\n"))
        except InvalidError:
            continue
        texts += [statement.text for statement in found]
    print(f"\n{compare(texts)} statements compared")


LETTERS = st.one_of(
    st.sampled_from('aZſıİKßüÄ😀_$1."é\u00a0'), st.characters(min_codepoint=0x21, exclude_categories=["Cs"])
)


@given(st.text(LETTERS, min_size=1, max_size=12), st.booleans())
def test_names_are_folded_as_the_server_does(word: str, quoted: bool) -> None:
    """Only ASCII letters change; ſ and K are no S and K, and everything above ASCII may stand in a name."""
    name = '"' + word.replace('"', '""') + '"' if quoted else word
    text = f"DROP TABLE {name}"
    try:
        objects = postgast.parse(text).stmts[0].stmt.drop_stmt.objects
    except (postgast.PgQueryError, IndexError):
        return
    parts = [item.string.sval for item in objects[0].list.items]
    if len(objects) == 1 and all(len(part.encode()) < 63 for part in parts):
        # a table that is called set_config counts as one who sets the search path too: better once too often
        (fact,) = (one for one in facts(text) if one.what == "drop")
        assert fact.name == ".".join(f'"{part}"' if set(part) & set('."') else part for part in parts)
        assert len(split(text)) == 1


def compare(texts: list[str]) -> int:
    number, wrong = 0, []
    for text in texts:
        try:
            tree = postgast.parse(text).stmts[0].stmt
        except postgast.PgQueryError:
            continue
        kind = tree.WhichOneof("node")
        if kind == "do_stmt":  # its body is a text to the parser
            continue
        number += 1
        expected = Counter(_expected(tree))
        seen = Counter(fact.what for fact in facts(text) if fact.what in COMPARED)
        if seen != expected:
            wrong.append((text[:300], dict(seen), dict(expected)))
    assert not wrong, wrong[:5]
    return number


INNER = (pg.OBJECT_TABCONSTRAINT, pg.OBJECT_TRIGGER, pg.OBJECT_POLICY, pg.OBJECT_RULE)
"""What is named by the administrator's statements alone: no code meets another name of it."""


def _expected(tree: pg.Node) -> Iterator[str]:
    kind = tree.WhichOneof("node")
    if kind == "drop_stmt":
        yield from ["drop"] * len(tree.drop_stmt.objects)
    elif kind == "dropdb_stmt":
        yield "drop"
    elif kind == "drop_owned_stmt":
        yield from ["drop"] * len(tree.drop_owned_stmt.roles)
    elif kind == "truncate_stmt":
        yield from ["truncate"] * len(tree.truncate_stmt.relations)
    elif _renames(tree):
        yield "rename"
    elif kind == "alter_object_schema_stmt":
        yield "move"
    elif kind == "alter_table_stmt":
        for command in tree.alter_table_stmt.cmds:
            what = COLUMNS.get(pg.AlterTableType.Name(command.alter_table_cmd.subtype))
            if what:
                yield what
    elif kind in ("delete_stmt", "update_stmt", "select_stmt", "insert_stmt"):
        yield from ["delete-all" for one in postgast.find_nodes(tree, pg.DeleteStmt) if _every_row(one)]
        yield from ["update-all" for one in postgast.find_nodes(tree, pg.UpdateStmt) if _every_row(one)]


def _renames(tree: pg.Node) -> bool:
    if tree.HasField("rename_stmt"):
        return tree.rename_stmt.rename_type not in INNER
    return bool(tree.alter_enum_stmt.old_val)


def _every_row(statement: pg.DeleteStmt | pg.UpdateStmt) -> bool:
    where = statement.where_clause
    return not where.WhichOneof("node") or (where.HasField("a_const") and where.a_const.boolval.boolval)
