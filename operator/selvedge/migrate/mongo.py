"""MongoDB's migrations: arrays of database commands in Extended JSON v2.

The documents stay plain JSON here, with the order of their keys; the engine turns ``{"$oid": …}`` into BSON. One
command is our own: ``{"x-batchUpdate": {"coll": …, "filter": {…}, "update": {…}, "batchSize": 1000}}``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from selvedge.core.duration import parse_duration
from selvedge.core.errors import InvalidError
from selvedge.migrate.directives import Directives
from selvedge.migrate.extended_json import problem
from selvedge.migrate.json_reader import Reader, invalid
from selvedge.migrate.mongo_rules import BATCH, check, check_transaction

_OPTIONS = {"up", "down", "transaction", "irreversible", "allow", "env", "requiresVersion", "statementTimeout"}
_BATCH_SIZE = 1000
_MAX_BATCH = 10_000
"""A batch is one transaction, and the server ends one that takes longer than a minute."""


@dataclass(frozen=True, slots=True)
class BatchUpdate:
    """An update of every document that a filter finds, ``size`` of them in each transaction, in the order of _id."""

    collection: str
    filter: dict[str, Any]
    update: dict[str, Any] | list[dict[str, Any]]
    size: int = _BATCH_SIZE


@dataclass(frozen=True, slots=True)
class Command:
    """One database command, and the line of the file on which it begins (from 1).

    ``if_not_exists`` allows the command to find its work done already: a collection that exists with equal options, a
    collection or index to drop that is gone, an index that exists under another name. ``batch`` is set for our own
    command only.
    """

    document: dict[str, Any] = field(repr=False)
    line: int
    text: str = field(repr=False)
    if_not_exists: bool = False
    batch: BatchUpdate | None = field(default=None, repr=False)

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
    reader = Reader(text, file)
    start = reader.skip(0)
    if start == len(text):
        raise invalid(file, 1, "the file is empty, there is nothing to run; write its commands, or remove the file")
    if text[start : start + 1] == "[":
        return Document(text, 1, None, 0, {})
    if text[start : start + 1] != "{":
        raise reader.error(start, 'the file is neither [command, …] nor {"up": […], "down": […]}')
    members, end = reader.members(start)
    reader.ends(end)
    parts: dict[str, tuple[str, int]] = {}
    options: dict[str, Any] = {}
    for key, position, item in members:
        if key not in _OPTIONS or key in parts or key in options:
            known = ", ".join(sorted(_OPTIONS))
            raise reader.error(position, f"unknown or repeated key {key!r}; {known} are known")
        if key in ("up", "down"):
            parts[key] = (text[item.begin : item.end], reader.line(item.begin))
        else:
            options[key] = item.value
    if "up" not in parts:
        raise invalid(file, 1, 'there is no "up"; add the array of commands')
    down = parts.get("down")
    return Document(*parts["up"], down[0] if down else None, down[1] if down else 0, options)


def commands(text: str, *, file: str, line: int = 1, transaction: bool | None = None) -> tuple[Command, ...]:
    """The commands of an array, each with its line.

    Raises InvalidError where one is no command, and with ``transaction`` where one cannot run in a transaction.
    """
    reader = Reader(text, file, line)
    start = reader.skip(0)
    if text[start : start + 1] != "[":
        raise invalid(file, line, "up and down are arrays of commands: [{…}, {…}]")
    items, end = reader.array(start)
    reader.ends(end)
    found = tuple(_command(item.value, text[item.begin : item.end], reader.line(item.begin), file) for item in items)
    if transaction:
        check_transaction(found, file)
    return found


def directives(options: dict[str, Any], file: str) -> Directives:
    """The file's options as directives; raises InvalidError."""
    transaction, irreversible = options.get("transaction"), options.get("irreversible", False)
    if not isinstance(transaction, bool | None) or not isinstance(irreversible, bool):
        raise invalid(file, 1, "transaction and irreversible are true or false")
    return Directives(
        transaction=transaction,
        irreversible=irreversible,
        allow=_words(options, "allow", file),
        environments=_words(options, "env", file),
        requires_version=_version(options.get("requiresVersion"), file),
        statement_timeout=_seconds(options.get("statementTimeout"), file),
    )


def _words(options: dict[str, Any], key: str, file: str) -> tuple[str, ...]:
    words = options.get(key, [])
    if not isinstance(words, list) or not all(isinstance(word, str) and word for word in words):
        raise invalid(file, 1, f"{key} is a list of words")
    return tuple(words)


def _version(value: Any, file: str) -> int | None:
    if value is None:
        return None
    digits = value.removeprefix(">=").strip() if isinstance(value, str) and value.startswith(">=") else ""
    if not digits.isascii() or not digits.isdecimal() or len(digits) > 3:
        raise invalid(file, 1, f'requiresVersion is {value!r}; write ">=7"')
    return int(digits)


def _seconds(value: Any, file: str) -> float | None:
    if value is None:
        return None
    if value in ("0", 0):
        return 0.0
    try:
        return parse_duration(str(value))
    except InvalidError as error:
        raise invalid(file, 1, f"statementTimeout: {error.message}") from error


def _command(item: Any, text: str, line: int, file: str) -> Command:
    if not isinstance(item, dict) or not item:
        raise invalid(file, line, 'a command is an object, such as {"create": "designs"}')
    document = dict(item)
    tolerated = document.pop("ifNotExists", False)
    if not isinstance(tolerated, bool) or not document:
        raise invalid(file, line, "ifNotExists is true or false, beside a command")
    why = problem(document)
    if why:
        raise invalid(file, line, why)
    batch = _batch(document, line, file) if next(iter(document)) == BATCH else None
    command = Command(document, line, text, tolerated, batch)
    check(command, file)
    return command


def _batch(document: dict[str, Any], line: int, file: str) -> BatchUpdate:
    parts = document[BATCH]
    shape = (
        f'{{"{BATCH}": {{"coll": "designs", "filter": {{}}, "update": {{"$set": {{…}}}}, "batchSize": {_BATCH_SIZE}}}}}'
    )
    if len(document) > 1 or not isinstance(parts, dict) or not {"coll", "update"} <= set(parts):
        raise invalid(file, line, f"a batched update is {shape}")
    unknown = sorted(set(parts) - {"coll", "filter", "update", "batchSize"})
    if unknown:
        raise invalid(file, line, f"{unknown[0]} is unknown in {BATCH}; a batched update is {shape}")
    collection, where, update, size = parts["coll"], parts.get("filter", {}), parts["update"], parts.get("batchSize")
    if not isinstance(collection, str) or not collection:
        raise invalid(file, line, f"coll of {BATCH} is the name of a collection")
    if not isinstance(where, dict):
        raise invalid(file, line, f"filter of {BATCH} is an object, as in find")
    if not _is_update(update):
        raise invalid(file, line, f'update of {BATCH} is {{"$set": {{…}}}} or a pipeline [{{"$set": {{…}}}}]')
    size = int(size["$numberInt"]) if isinstance(size, dict) and set(size) == {"$numberInt"} else size
    if size is None:
        size = _BATCH_SIZE
    if type(size) is not int or not 1 <= size <= _MAX_BATCH:
        raise invalid(file, line, f"batchSize of {BATCH} is a number from 1 to {_MAX_BATCH}")
    return BatchUpdate(collection, where, update, size)


def _is_update(update: Any) -> bool:
    """Operators, or a pipeline; a whole document would take the place of every document."""
    if isinstance(update, list):
        return bool(update) and all(isinstance(stage, dict) and len(stage) == 1 for stage in update)
    return isinstance(update, dict) and bool(update) and all(key.startswith("$") for key in update)
