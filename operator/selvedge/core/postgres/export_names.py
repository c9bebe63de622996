"""What an export can write down: names that the API takes, how long lists may be, and what is told of the rest."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from selvedge.core.names import MAX_BYTES, PUBLIC, reserved_role
from selvedge.core.postgres.model import Snapshot

T = TypeVar("T")

#: An object inside the database: (kind, schema, name) as in :class:`~selvedge.core.postgres.model.AclGroup`.
Key = tuple[str, str, str]

_IDENTIFIER = re.compile(r'[^\x00-\x1f\x7f"]+')
_SCHEMA = re.compile(r'[^\x00-\x1f\x7f".]+')
_FUNCTION = re.compile(r'[^\x00-\x1f\x7f".()]+')
_TABLE_LENGTH = 127
_FUNCTION_LENGTH = 512
_SHOWN = 12
#: How the comments of roles begin that the operator makes for its own work.
_OWN = "selvedge: "


@dataclass(frozen=True, slots=True)
class Extension:
    """What the server says of an installed extension beside its version and schema.

    ``home`` is the schema that its control file demands, ``default`` the version that a new one would get.
    """

    home: str | None = None
    default: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """A live database: the snapshot of everything in it, and what a snapshot does not show.

    ``initial`` are the objects of extensions, each with what PUBLIC and roles got by CREATE EXTENSION (None: the
    server's own default). ``untrusted`` are languages. ``others`` is what exists and no declaration has a word for: a
    sentence's beginning (``event triggers``) with the names.
    """

    database: str
    snapshot: Snapshot
    initial: Mapping[Key, Mapping[str, frozenset[str]] | None] = field(default_factory=dict)
    extensions: Mapping[str, Extension] = field(default_factory=dict)
    untrusted: frozenset[str] = frozenset()
    others: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def own_roles(self) -> frozenset[str]:
        """The roles that the operator keeps for its own work: it makes them again where it needs them."""
        roles = self.snapshot.roles.items()
        return frozenset(name for name, role in roles if (role.comment or "").startswith(_OWN))


@dataclass(slots=True)
class Notes:
    """What is left out of a manifest, and why: one sentence each, nothing twice."""

    texts: list[str] = field(default_factory=list)
    _listed: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def add(self, text: str) -> None:
        """One sentence of its own."""
        self.texts.append(text)

    def listed(self, what: str, why: str, name: str) -> None:
        """One of several that are told in one sentence: ``what`` name, name: ``why``."""
        self._listed.setdefault((what, why), []).append(name)

    def all(self) -> tuple[str, ...]:
        """Every sentence, in a stable order."""
        found = [f"{what} {names(listed)}: {why}" for (what, why), listed in sorted(self._listed.items())]
        return tuple(dict.fromkeys([*self.texts, *found]))


def names(found: Iterable[str]) -> str:
    """Names for a sentence: the first ones, and how many more there are."""
    unique = sorted(set(found))
    shown = ", ".join(visible(name) for name in unique[:_SHOWN])
    return shown if len(unique) <= _SHOWN else f"{shown} and {len(unique) - _SHOWN} more"


def visible(name: str) -> str:
    """A name on one line: control characters are written as Python writes them."""
    return name if name.isprintable() else repr(name)[1:-1]


def is_identifier(name: str) -> bool:
    """Whether the API takes it as the name of a role, column, extension or language."""
    return _IDENTIFIER.fullmatch(name) is not None and len(name.encode()) <= MAX_BYTES


def is_schema(name: str) -> bool:
    """Whether the API takes it as the name of a schema."""
    return _SCHEMA.fullmatch(name) is not None and len(name.encode()) <= MAX_BYTES


def dotted(schema: str, name: str) -> str | None:
    """A table, sequence or type as ``schema.name``; None where the API could not tell its parts."""
    text = f"{schema}.{name}"
    fits = is_schema(schema) and _SCHEMA.fullmatch(name) is not None and len(text) <= _TABLE_LENGTH
    return text if fits else None


def signature(schema: str, function: str) -> str | None:
    """A function (``name NUL types``) as ``schema.name(type, type)``; None where the API could not tell its parts."""
    name, _, types = function.partition("\0")
    text = f"{schema}.{name}({', '.join(_without_mode(one) for one in split_types(types))})"
    fits = all(_FUNCTION.fullmatch(part) for part in (schema, name)) and len(text) <= _FUNCTION_LENGTH
    return text if fits and is_schema(schema) and "\n" not in text else None


def split_types(types: str) -> list[str]:
    """The types between the parentheses, split at commas that stand in no quotes and no other parentheses."""
    parts, depth, quoted = [""], 0, False
    for character in types:
        quoted ^= character == '"'
        if not quoted:
            depth += (character == "(") - (character == ")")
        if character == "," and depth == 0 and not quoted:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def _without_mode(type_name: str) -> str:
    """The snapshot names a procedure's arguments with IN, which GRANT wants and a lookup refuses."""
    return type_name.removeprefix("IN ")


def shown(key: Key) -> str:
    """An object for a sentence: ``schema.table``."""
    _, schema, name = key
    if key[0] == "function":
        function, _, types = name.partition("\0")
        name = f"{function}({types})"
    return ".".join(part for part in (schema, name.replace("\0", ".")) if part)


def why_not_role(name: str) -> str:
    """Why a declaration cannot name this role, or an empty string."""
    if name == PUBLIC:
        return ""
    if not is_identifier(name):
        return "its name has a quote or a control character, which the API does not take"
    return reserved_role(name)


def chunks(items: Sequence[T], size: int) -> Iterator[tuple[T, ...]]:
    """The items in order, at most ``size`` at a time."""
    for start in range(0, len(items), size):
        yield tuple(items[start : start + size])
