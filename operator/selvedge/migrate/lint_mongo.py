"""Commands of MongoDB's that lose data, which the gate asks a person about, and those that running code meets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from selvedge.migrate.finding import Finding
from selvedge.migrate.lint_running import RULE as BREAKS
from selvedge.migrate.load import Migration
from selvedge.migrate.mongo import Command

RULES = frozenset(
    {
        "convert-to-capped",
        "delete-all",
        "drop-collection",
        "expire-documents",
        "overwrite-documents",
        "rename",
        "replace-collection",
        "update-all",
    }
)
"""The words that ``"allow"`` takes for what loses data, or breaks what knows a name."""

#: ``$merge`` that only adds, and never changes a document that is there.
_ADDING = ("keepExisting", "fail")

Loss = tuple[str, str, str]
"""Rule, collection, and what happens to it."""


def mongo_losses(migration: Migration, direction: Literal["up", "down"], made: set[str]) -> Iterator[Finding]:
    """A finding for each command that drops, renames, empties or rewrites a collection.

    ``made`` are the collections that the plan itself made so far, whose documents are nobody's; it is kept up to date.
    """
    file, commands = _part(migration, direction)
    for command in commands:
        for rule, target, message in _losses(command):
            if target not in made:
                step = f'look that nothing uses it, or write "allow": ["{rule}"] into the file'
                yield Finding(file, command.line, rule, "error", message, step)
        _make(command, made)


def mongo_breaks(migration: Migration, made: set[str]) -> Iterator[Finding]:
    """A finding for each command that code does not survive which runs now; ``made`` as in :func:`mongo_losses`."""
    file, commands = _part(migration, "up")
    for command in commands:
        for target, what, step in _breaks(command):
            if target not in made:
                yield Finding(file, command.line, BREAKS, "warning", f"code that runs now {what}", step)
        _make(command, made)


def _part(migration: Migration, direction: Literal["up", "down"]) -> tuple[str, tuple[Command, ...]]:
    if direction == "down":
        return migration.down_file or migration.file, migration.down_commands
    return migration.file, migration.commands


def _make(command: Command, made: set[str]) -> None:
    """Learn what a command made; what takes its name afterwards is somebody's again."""
    if command.name == "create" and not command.if_not_exists:
        made.add(str(command.document["create"]))
    elif command.name == "drop":
        made.discard(str(command.document["drop"]))
    elif command.name == "renameCollection":
        old, new = str(command.document["renameCollection"]), str(command.document["to"])
        fresh = old in made
        made -= {old, new}
        if fresh:
            made.add(new)


def _losses(command: Command) -> Iterator[Loss]:
    document = command.document
    target = str(document[command.name])
    match command.name:
        case "drop":
            yield "drop-collection", target, f"drops collection {target} and its documents"
        case "renameCollection":
            yield "rename", target, f"renames collection {target}"
            if document.get("dropTarget"):
                other = str(document.get("to"))
                yield "drop-collection", other, f"drops collection {other}, which has the new name now (dropTarget)"
        case "convertToCapped":
            yield "convert-to-capped", target, f"drops the oldest documents of {target} beyond its new size"
        case "collMod" | "createIndexes":
            yield from _expiring(target, document)
        case "aggregate":
            yield from _outputs(document.get("pipeline"))
        case _:
            yield from _changes(command, target)


def _changes(command: Command, target: str) -> Iterator[Loss]:
    """Documents that are changed or deleted without a condition."""
    document = command.document
    if command.name == "delete":
        for one in _objects(document.get("deletes")):
            if not one.get("q") and _number(one.get("limit")) != 1:
                yield "delete-all", target, f"deletes every document of {target}"
    elif command.name == "update":
        for one in _objects(document.get("updates")):
            if not one.get("q") and one.get("multi"):
                yield "update-all", target, f"changes every document of {target}"
    elif command.batch is not None and not command.batch.filter:
        target = command.batch.collection
        yield "update-all", target, f"changes every document of {target}"


def _expiring(target: str, document: Mapping[str, Any]) -> Iterator[Loss]:
    """A time to live, of an index or of a time series: the server begins to delete."""
    for one in [document, document.get("index"), *_objects(document.get("indexes"))]:
        if isinstance(one, Mapping) and "expireAfterSeconds" in one and _number(one["expireAfterSeconds"]) != "off":
            seconds = _number(one["expireAfterSeconds"])
            message = f"has the server delete documents of {target} that are older than {seconds} s"
            yield "expire-documents", target, message


def _outputs(pipeline: Any) -> Iterator[Loss]:
    for stage in _objects(pipeline):
        if "$out" in stage:
            target = _into(stage["$out"], "coll")
            yield "replace-collection", target, f"takes every document out of {target} and puts a result there ($out)"
        if "$merge" in stage:
            merge = stage["$merge"]
            target = _into(merge, "into")
            matched = merge.get("whenMatched") if isinstance(merge, Mapping) else None
            if matched not in _ADDING:
                yield (
                    "overwrite-documents",
                    target,
                    f"writes over documents of {target} that have the same key ($merge)",
                )


def _into(stage: Any, key: str) -> str:
    into = stage.get(key) if isinstance(stage, Mapping) else stage
    if isinstance(into, Mapping):
        return ".".join(str(into[part]) for part in ("db", "coll") if part in into)
    if isinstance(stage, Mapping) and "db" in stage:
        return f"{stage['db']}.{into}"
    return str(into)


def _breaks(command: Command) -> Iterator[tuple[str, str, str]]:
    document = command.document
    target = str(document[command.name])
    later = "in a release after the one that stops using it"
    match command.name:
        case "drop":
            yield target, f"may still use collection {target}", f"drop it {later}"
        case "renameCollection":
            step = "copy it, let the code use the new one, and drop the old one in a later release"
            yield target, f"knows collection {target} by its old name", step
        case "dropIndexes":
            step = "look at $indexStats that nothing uses it, or hide it first: collMod with hidden"
            yield target, f"may need the index of {target} that is dropped", step
        case "collMod" if "validator" in document and document.get("validationAction") != "warn":
            step = "let the code write what fits first, or begin with validationAction warn"
            yield target, f"may write documents into {target} that the new validator refuses", step
        case "update":
            for one in _objects(document.get("updates")):
                yield from _fields(target, one.get("u"), later)
        case _:
            if command.batch is not None:
                yield from _fields(command.batch.collection, command.batch.update, later)


def _fields(target: str, update: Any, later: str) -> Iterator[tuple[str, str, str]]:
    stages = _objects(update if isinstance(update, list) else [update])
    gone = [str(field) for stage in stages for field in _names(stage.get("$unset"))]
    moved = [str(field) for stage in stages for field in _names(stage.get("$rename"))]
    for field in gone:
        yield target, f"may still read field {field} of {target}", f"take it away {later}"
    for field in moved:
        step = "write both fields, let the code read the new one, and take the old one away in a later release"
        yield target, f"knows field {field} of {target} by its old name", step


def _names(given: Any) -> list[str]:
    if isinstance(given, Mapping):
        return list(given)
    return [str(one) for one in given] if isinstance(given, list) else [given] if isinstance(given, str) else []


def _number(given: Any) -> Any:
    """A number as Extended JSON writes it, too."""
    if isinstance(given, Mapping) and len(given) == 1:
        (key, text), *_ = given.items()
        if key in ("$numberInt", "$numberLong") and isinstance(text, str) and text.lstrip("-").isdecimal():
            return int(text)
    return given


def _objects(given: Any) -> list[Mapping[str, Any]]:
    return [one for one in given if isinstance(one, Mapping)] if isinstance(given, list) else []
