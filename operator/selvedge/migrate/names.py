"""Names of migration files: version, description, style and order.

Two styles are read: one file with markers (``20250101120000_users.sql``), and a pair of files
(``20250101120000_users.up.sql`` and ``….down.sql``). MongoDB's files end in ``.json``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from selvedge.core.errors import InvalidError
from selvedge.core.reasons import Reason

Engine = Literal["Postgres", "MongoDB"]
EXTENSIONS: dict[Engine, str] = {"Postgres": ".sql", "MongoDB": ".json"}

_NAME = re.compile(r"(?P<version>[0-9]+)[_-](?P<name>[A-Za-z0-9_.-]+?)(?:\.(?P<part>up|down))?(?P<ext>\.sql|\.json)")
_TIMESTAMP_DIGITS = 14
_MAX_DIGITS = 20


@dataclass(frozen=True, slots=True)
class FileName:
    """A file's name, taken apart. ``part`` is empty for a file that holds both directions."""

    file: str
    version: int
    name: str
    part: Literal["", "up", "down"]


def parse_name(file: str, engine: Engine) -> FileName | None:
    """Take a file's name apart; ``None`` for a file that is no migration at all (``README.md``).

    A file with a migration's extension and another name is refused rather than skipped: a migration that is never
    run because of a typing error in its name would be found too late. Raises InvalidError.
    """
    if not file.lower().endswith(tuple(EXTENSIONS.values())):
        return None
    match = _NAME.fullmatch(file)
    if match is None:
        if file.startswith("R__") or "/" in file:
            raise InvalidError(
                Reason.UNSUPPORTED, f"{file}: only versioned migrations without directories are run; remove this file"
            )
        raise _invalid(file, "the name is not YYYYMMDDHHMMSS_description" + EXTENSIONS[engine] + "; rename it")
    if match["ext"] != EXTENSIONS[engine]:
        raise _invalid(file, f"this database is {engine}, whose migrations end in {EXTENSIONS[engine]}; move the file")
    digits = match["version"]
    if len(digits) > _MAX_DIGITS:
        raise _invalid(file, f"the version has {len(digits)} digits, {_MAX_DIGITS} are the most; shorten it")
    version = int(digits)
    if version == 0:
        raise _invalid(file, "version 0 means an empty database; begin with 1")
    part = match["part"] or ""
    return FileName(file, version, match["name"], part)  # type: ignore[arg-type]  # the expression allows no other


def sort_key(version: int) -> tuple[int, int, int]:
    """The order of versions: by the first 14 digits (a timestamp), then by what follows them."""
    digits = str(version)
    head, rest = digits[:_TIMESTAMP_DIGITS], digits[_TIMESTAMP_DIGITS:]
    return int(head), int(rest or 0), version


def group(names: Iterable[FileName]) -> dict[int, tuple[FileName, ...]]:
    """The files of each version, in order of versions; raises InvalidError where two files claim one version."""
    groups: dict[int, list[FileName]] = {}
    for name in sorted(names, key=lambda name: (sort_key(name.version), name.file)):
        groups.setdefault(name.version, []).append(name)
    for version, members in groups.items():
        parts = sorted(member.part for member in members)
        if parts not in ([""], ["up"], ["down", "up"]):
            files = ", ".join(member.file for member in members)
            if parts == ["down"]:
                raise _invalid(files, "there is a down file and no up file; add it")
            raise _invalid(files, f"version {version} is used twice; give one of them a new version")
        if len({member.name for member in members}) > 1:
            files = ", ".join(member.file for member in members)
            raise _invalid(files, "the two files of a pair need the same description; rename one")
    return {version: tuple(members) for version, members in groups.items()}


def _invalid(file: str, why: str) -> InvalidError:
    return InvalidError(Reason.INVALID_MIGRATION, f"{file}: {why}")
