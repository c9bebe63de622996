"""Attributes of a role in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg import sql

from selvedge.core.postgres.role_attributes import LiveAttributes, Words

_FLAGS = {
    word: sql.SQL(word)
    for word in (
        "NOSUPERUSER",
        "NOCREATEROLE",
        "NOREPLICATION",
        "NOBYPASSRLS",
        "NOCREATEDB",
        "NOLOGIN",
        "INHERIT",
        "NOINHERIT",
    )
}
_VALUES = {"CONNECTION LIMIT": sql.SQL("CONNECTION LIMIT {}"), "VALID UNTIL": sql.SQL("VALID UNTIL {}")}

#: One JSON array for a row ``r`` of pg_roles; :func:`parse_attributes` reads it.
ATTRIBUTES = sql.SQL(
    "json_build_array(r.rolcanlogin, r.rolsuper, r.rolcreaterole, r.rolcreatedb, r.rolreplication, r.rolbypassrls, "
    "r.rolinherit, r.rolconnlimit, coalesce(r.rolvaliduntil::text, ''))"
)


def parse_attributes(row: Sequence[Any]) -> LiveAttributes:
    """The frozen form of what :data:`ATTRIBUTES` gives."""
    return LiveAttributes(*row)


def render_words(words: Words) -> sql.Composable:
    """The words as ``ALTER ROLE`` and ``CREATE ROLE`` take them. Raises KeyError for one that neither knows."""
    return sql.SQL(" ").join(
        _FLAGS[word] if value is None else _VALUES[word].format(sql.Literal(value)) for word, value in words
    )
