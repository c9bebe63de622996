"""Configuration settings as ``pg_db_role_setting`` stores them, and when two of them mean the same."""

from __future__ import annotations

import re
from collections.abc import Mapping

#: Settings whose value is a list of names (GUC_LIST_QUOTE): the server quotes the elements by itself where it has to.
LIST_SETTINGS = frozenset(
    {"search_path", "temp_tablespaces", "local_preload_libraries", "session_preload_libraries"}
)  # fmt: skip

_ELEMENT = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^,"]*))\s*(?:,|$)')


def split_list(value: str) -> list[str]:
    """The elements of a list setting as it is stored or written: ``shared, "$user"``; names without quotes fold."""
    parts: list[str] = []
    at = 0
    while at <= len(value):
        found = _ELEMENT.match(value, at)
        if found is None:
            return [*parts, value[at:]]  # not a list: the server says what is wrong with it
        quoted, plain = found.groups()
        parts.append(quoted.replace('""', '"') if quoted is not None else plain.strip().lower())
        if found.end() == len(value) and not value.endswith(",", at, found.end()):
            break
        at = found.end()
    return parts


def join_list(parts: tuple[str, ...] | list[str]) -> str:
    """The elements of a list setting as one text, each quoted."""
    return ", ".join('"' + part.replace('"', '""') + '"' for part in parts)


def stored(name: str, value: str | tuple[str, ...] | list[str]) -> str:
    """A declared value as one text."""
    if isinstance(value, str):
        return value
    return join_list(value) if name in LIST_SETTINGS else ", ".join(value)


def equal(name: str, live: str | None, wanted: str) -> bool:
    """Whether the stored value is the declared one; lists are compared by their elements."""
    if live is None or name not in LIST_SETTINGS:
        return live == wanted
    return split_list(live) == split_list(wanted)


def changed(live: Mapping[str, str], wanted: Mapping[str, str]) -> list[tuple[str, str]]:
    """The declared settings that are not stored as declared, by name."""
    return [(name, value) for name, value in sorted(wanted.items()) if not equal(name, live.get(name), value)]
