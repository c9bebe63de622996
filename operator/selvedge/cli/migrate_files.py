"""``selvedge migrate new``: a file with both markers, under a version that comes after every other."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

from selvedge.cli.url import invalid
from selvedge.migrate.names import Engine

_DESCRIPTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}")
_VERSION = re.compile(r"([0-9]{14})[0-9]*[_-]")
_STAMP = "%Y%m%d%H%M%S"

ENGINES: dict[str, Engine] = {"postgres": "Postgres", "mongodb": "MongoDB"}
"""The engines by their names on the command line."""

TEMPLATES: dict[Engine, tuple[str, str]] = {
    "Postgres": (".sql", "-- migrate:up\n\n\n-- migrate:down\n\n"),
    "MongoDB": (".json", '{\n  "up": [\n  ],\n  "down": [\n  ]\n}\n'),
}


def create(directory: str, name: str, engine: Engine | None, now: datetime) -> Path:
    """Write a new migration with both markers, newer than every other in the directory; returns its path.

    ``engine`` defaults to that of the files that are there. Raises InvalidError.
    """
    description = re.sub(r"\s+", "_", name.strip())
    if not _DESCRIPTION.fullmatch(description):
        raise invalid(f"{name!r} is no description: use letters, digits, _, . and -, such as add_wishlists")
    path = Path(directory)
    try:
        path.mkdir(parents=True, exist_ok=True)
        there = [entry.name for entry in path.iterdir()]
        suffix, text = TEMPLATES[engine or engine_of(there)]
        target = path / f"{_next_version(there, now)}_{description}{suffix}"
        with target.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except OSError as error:
        raise invalid(f"--dir {directory} cannot be written: {error.strerror or error}") from None
    return target


def engine_of(names: Iterable[str]) -> Engine:
    """The engine that a directory's files are for: MongoDB where all its migrations are JSON."""
    known = list(names)
    json = any(name.endswith(".json") and name[:1].isdigit() for name in known)
    return "MongoDB" if json and not any(name.endswith(".sql") for name in known) else "Postgres"


def _next_version(names: list[str], now: datetime) -> str:
    """The present time, or a second after the newest version if that lies in the future."""
    stamp = now.strftime(_STAMP)
    newest = max((match[1] for name in names if (match := _VERSION.match(name))), default="")
    if newest < stamp:
        return stamp
    try:
        return (datetime.strptime(newest, _STAMP) + timedelta(seconds=1)).strftime(_STAMP)  # noqa: DTZ007 - a name
    except ValueError:  # a version such as 20259999000000 is no time
        return str(int(newest) + 1)
