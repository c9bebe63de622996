"""Commands of MongoDB's that lose data: what the gate asks a person about."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from selvedge.migrate.finding import Finding
from selvedge.migrate.load import Migration


def mongo_losses(migration: Migration, direction: Literal["up", "down"]) -> Iterator[Finding]:
    """A finding for each command that drops, renames or empties something."""
    down = direction == "down"
    made: set[str] = set()
    for command in migration.down_commands if down else migration.commands:
        document: dict[str, Any] = command.document
        if command.name == "create" and not command.if_not_exists:
            made.add(str(document["create"]))
        for rule, message in _losses(command.name, document):
            if str(document[command.name]) not in made:
                file = (migration.down_file if down else "") or migration.file
                step = f'look that nothing uses it, or write "allow": ["{rule}"] into the file'
                yield Finding(file, command.line, rule, "error", message, step)


def _losses(name: str, document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    target = document[name]
    match name:
        case "drop":
            yield "drop-collection", f"drops collection {target} and its documents"
        case "dropDatabase":
            yield "drop-database", "drops the whole database"
        case "renameCollection":
            yield "rename", f"renames collection {target}"
        case "delete":
            for one in _objects(document.get("deletes")):
                if not one.get("q") and one.get("limit") != 1:
                    yield "delete-all", f"deletes every document of {target}"
        case _:
            pass


def _objects(given: Any) -> list[dict[str, Any]]:
    return [one for one in given if isinstance(one, dict)] if isinstance(given, list) else []
