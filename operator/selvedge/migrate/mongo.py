"""MongoDB's migrations: arrays of database commands in Extended JSON v2.

The documents stay plain JSON here, with the order of their keys; the engine turns ``{"$oid": …}`` into BSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from selvedge.core.errors import InvalidError
from selvedge.core.reasons import Reason
from selvedge.migrate.directives import Directives

_SPACE = " \t\n\r"
_OPTIONS = {"up", "down", "transaction", "irreversible", "allow"}


@dataclass(frozen=True, slots=True)
class Command:
    """One database command, and the line of the file on which it begins (from 1).

    ``if_not_exists`` allows the command to find its work done already: a collection that exists with equal options, a
    collection or index to drop that is gone.
    """

    document: dict[str, Any] = field(repr=False)
    line: int
    text: str = field(repr=False)
    if_not_exists: bool = False

    @property
    def name(self) -> str:
        """The command's name: the first key, as the server reads it."""
        return next(iter(self.document))


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file: each direction's own text with its first line, and the file's options."""

    up: str
    up_line: int
    down: str | None
    down_line: int
    options: dict[str, Any]


def read(text: str, file: str) -> Document:
    """Take a file apart that is an array (up only) or an object with ``up`` and ``down``; raises InvalidError."""
    start = _skip(text, 0)
    if text[start : start + 1] == "[":
        return Document(text, 1, None, 0, {})
    if text[start : start + 1] != "{":
        raise _invalid(file, _line(text, start), 'the file is neither [command, …] nor {"up": […], "down": […]}')
    parts: dict[str, tuple[str, int]] = {}
    options: dict[str, Any] = {}
    for key, value, begin, end in _members(text, start, file):
        if key not in _OPTIONS or key in parts or key in options:
            raise _invalid(
                file, _line(text, begin), f"unknown or repeated key {key!r}; {', '.join(sorted(_OPTIONS))} are known"
            )
        if key in ("up", "down"):
            parts[key] = (text[begin:end], _line(text, begin))
        else:
            options[key] = value
    if "up" not in parts:
        raise _invalid(file, 1, 'there is no "up"; add the array of commands')
    down = parts.get("down")
    return Document(*parts["up"], down[0] if down else None, down[1] if down else 0, options)


def commands(text: str, *, file: str, line: int = 1) -> tuple[Command, ...]:
    """The commands of an array, each with its line; raises InvalidError where one is no command."""
    start = _skip(text, 0)
    if text[start : start + 1] != "[":
        raise _invalid(file, line, "up and down are arrays of commands: [{…}, {…}]")
    found = []
    for item, begin, end in _items(text, start, file, line):
        found.append(_command(item, text[begin:end], _line(text, begin) + line - 1, file))
    return tuple(found)


def directives(options: dict[str, Any], file: str) -> Directives:
    """The file's options (``transaction``, ``irreversible``, ``allow``) as directives; raises InvalidError."""
    transaction, irreversible = options.get("transaction"), options.get("irreversible", False)
    allow = options.get("allow", [])
    if not isinstance(transaction, bool | None) or not isinstance(irreversible, bool):
        raise _invalid(file, 1, "transaction and irreversible are true or false")
    if not isinstance(allow, list) or not all(isinstance(word, str) for word in allow):
        raise _invalid(file, 1, "allow is a list of words")
    return Directives(transaction=transaction, irreversible=irreversible, allow=tuple(allow))


def _command(item: Any, text: str, line: int, file: str) -> Command:
    if not isinstance(item, dict) or not item:
        raise _invalid(file, line, 'a command is an object, such as {"create": "designs"}')
    document = dict(item)
    tolerated = document.pop("ifNotExists", False)
    if not isinstance(tolerated, bool) or not document:
        raise _invalid(file, line, "ifNotExists is true or false, beside a command")
    refused = [key for key in document if key.startswith("$") or key in ("lsid", "txnNumber", "autocommit")]
    if refused:
        raise _invalid(file, line, f"{refused[0]} is the driver's to send; remove it")
    if next(iter(document)).startswith("x-"):
        raise InvalidError(
            Reason.UNSUPPORTED, f"{file}, line {line}: {next(iter(document))} is no command that is known"
        )
    return Command(document, line, text, tolerated)


def _items(text: str, start: int, file: str, line: int) -> Iterator[tuple[Any, int, int]]:
    """The values of the array that begins at ``start``, each with its span."""
    position = _skip(text, start + 1)
    while text[position : position + 1] != "]":
        value, end = _value(text, position, file, line)
        yield value, position, end
        position = _separator(text, end, "]", file, line)
    _nothing_after(text, position + 1, file, line)


def _members(text: str, start: int, file: str) -> Iterator[tuple[str, Any, int, int]]:
    """The members of the object that begins at ``start``: key, value and the span of the value."""
    position = _skip(text, start + 1)
    while text[position : position + 1] != "}":
        key, end = _value(text, position, file, 1)
        end = _skip(text, end)
        if not isinstance(key, str) or text[end : end + 1] != ":":
            raise _invalid(file, _line(text, position), "not JSON: a key in double quotes and a colon belong here")
        begin = _skip(text, end + 1)
        value, end = _value(text, begin, file, 1)
        yield key, value, begin, end
        position = _separator(text, end, "}", file, 1)
    _nothing_after(text, position + 1, file, 1)


def _separator(text: str, position: int, closing: str, file: str, line: int) -> int:
    """Past a comma to the next value, or to the closing bracket."""
    position = _skip(text, position)
    if text[position : position + 1] == closing:
        return position
    after = _skip(text, position + 1)
    if text[position : position + 1] != "," or text[after : after + 1] == closing:
        raise _invalid(file, _line(text, position) + line - 1, f"not JSON: a comma or {closing} belongs here")
    return after


def _nothing_after(text: str, position: int, file: str, line: int) -> None:
    position = _skip(text, position)
    if position < len(text):
        raise _invalid(file, _line(text, position) + line - 1, "not JSON: something follows the end")


def _value(text: str, position: int, file: str, line: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, position)
    except json.JSONDecodeError as error:
        raise _invalid(file, error.lineno + line - 1, f"not JSON: {error.msg.lower()}") from error
    except (RecursionError, _RepeatedKeyError) as error:
        why = f"the key {error} is there twice" if isinstance(error, _RepeatedKeyError) else "nested too deeply"
        raise _invalid(file, _line(text, position) + line - 1, f"not JSON: {why}") from error


class _RepeatedKeyError(ValueError):
    """Python would keep the last of two equal keys, in silence."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _RepeatedKeyError(next(key for key in keys if keys.count(key) > 1))
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in _SPACE:
        position += 1
    return position


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def _invalid(file: str, line: int, why: str) -> InvalidError:
    return InvalidError(Reason.INVALID_MIGRATION, f"{file}, line {line}: {why}")
