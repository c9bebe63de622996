"""How an export names an entry: privileges in the order in which people say them, and a verb for the usual sets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from selvedge.core.names import shorten
from selvedge.core.postgres.model import ALL_PRIVILEGES

_ORDER = (
    *("CONNECT", "TEMPORARY", "USAGE", "SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"),
    *("MAINTAIN", "CREATE", "EXECUTE"),
)
_VERBS: Mapping[frozenset[str], str] = {
    frozenset({"SELECT"}): "read",
    frozenset({"INSERT", "UPDATE", "DELETE"}): "write",
    frozenset({"SELECT", "INSERT", "UPDATE", "DELETE"}): "read-write",
    frozenset({"USAGE"}): "use",
}


def places(privileges: Iterable[str]) -> tuple[int, ...]:
    """The place of each privilege in the order."""
    return tuple(_ORDER.index(word) if word in _ORDER else len(_ORDER) for word in privileges)


def in_order(privileges: Iterable[str]) -> tuple[str, ...]:
    """The privileges as people say them: SELECT, INSERT, UPDATE, DELETE and so on."""
    return tuple(sorted(privileges, key=lambda word: (places((word,)), word)))


def verb(privileges: Iterable[str], kind: str) -> str:
    """What the privileges on this kind of object let one do: ``read``, ``write``, ``all``."""
    words = in_order(privileges)
    found = _VERBS.get(frozenset(words))
    if found is not None:
        return found
    everything = len(words) > 1 and frozenset(words) - {"MAINTAIN"} == ALL_PRIVILEGES[kind]
    return "all" if everything else "-".join(word.lower() for word in words)


def unique(name: str, taken: set[str]) -> str:
    """The name, with a number where it is taken already; it is added to ``taken``."""
    chosen, number = name, 1
    while chosen in taken:
        number += 1
        chosen = shorten(name, f"-{number}")
    taken.add(chosen)
    return chosen
