"""Names of migration files: version, description, layout and order.

Read are one file with markers (``20250101120000_users.sql``), a pair of files (``20250101120000_users.up.sql`` and
``….down.sql``), a directory for each migration as Diesel makes them (``2025-01-01-120000_users/up.sql``), repeatables
(``R__views.sql``) and the files of ``seeds/``. MongoDB's files end in ``.json``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from selvedge.core.errors import InvalidError
from selvedge.core.reasons import Reason

Engine = Literal["Postgres", "MongoDB"]
Kind = Literal["Versioned", "Repeatable", "Seed"]
"""Versioned: runs once, in order. Repeatable (``R__x.sql``): after those, whenever its text changed. Seed: after
those, in the environments that it names."""
HOOKS = ("beforeRun.sql", "afterRun.sql", "beforeEach.sql", "afterEach.sql")
"""Files beside the migrations that run around them; see ``hooks.py``."""
EXTENSIONS: dict[Engine, str] = {"Postgres": ".sql", "MongoDB": ".json"}
METADATA = "metadata.toml"
"""What Diesel keeps beside a migration's parts: whether they run in a transaction."""
SEEDS = "seeds"
"""The directory whose files are seeds."""

_NAME = re.compile(r"(?P<version>[0-9]+)[_-](?P<name>[A-Za-z0-9_.-]+?)(?:\.(?P<part>up|down))?(?P<ext>\.sql|\.json)")
_REPEATABLE = re.compile(r"R__(?P<name>[A-Za-z0-9_.-]+)(?P<ext>\.sql|\.json)")
_SEED = re.compile(r"(?P<name>[A-Za-z0-9_.-]+)(?P<ext>\.sql|\.json)")
_DIRECTORY = re.compile(r"(?P<version>[0-9][0-9-]*)_(?P<name>[A-Za-z0-9_.-]+)")
_PART = re.compile(r"(?P<part>up|down)\.sql")
_FLYWAY = re.compile(r"[VUB][0-9._]+__.*|[VB]__.*")
_PROGRAM = re.compile(r"[0-9]+[_-].*\.(?:go|py|js|mjs|ts|rb|php|java|cs|exs?)")
_TIMESTAMP_DIGITS = 14
_MAX_DIGITS = 20


@dataclass(frozen=True, slots=True)
class FileName:
    """A file's name, taken apart. ``part`` is empty for a file that holds both directions.

    A repeatable and a seed have version 0: they are known by their name.
    """

    file: str
    version: int
    name: str
    part: Literal["", "up", "down"]
    kind: Kind = "Versioned"


def parse_name(file: str, engine: Engine) -> FileName | None:
    """Take a file's name apart; ``None`` for a file that is no migration at all (``README.md``, ``.gitkeep``).

    ``file`` is relative to the migrations' directory, with ``/``. A file with a migration's extension and another name
    is refused rather than skipped: a migration that is never run because of a typing error in its name would be found
    too late. Raises InvalidError.
    """
    directory, _, base = file.rpartition("/")
    if file in HOOKS and engine == "Postgres":
        return None
    if any(part.startswith(".") for part in file.split("/")):
        return None
    if not base.lower().endswith(tuple(EXTENSIONS.values())):
        if _PROGRAM.fullmatch(base):
            raise _invalid(file, "a program is no migration that can be run here; write it as SQL, or move it away")
        return None
    if directory == SEEDS or base.startswith("R__"):
        return _unversioned(file, directory, base, engine)
    if directory:
        return _in_directory(file, directory, base, engine)
    match = _NAME.fullmatch(base)
    if match is None:
        if _FLYWAY.fullmatch(base):
            raise _invalid(file, "Flyway's names are not read; rename it to VERSION_description" + EXTENSIONS[engine])
        raise _invalid(file, "the name is not YYYYMMDDHHMMSS_description" + EXTENSIONS[engine] + "; rename it")
    _check_extension(file, match["ext"], engine)
    version = _version(file, match["version"])
    if version == 0:
        raise _invalid(file, "version 0 means an empty database; begin with 1")
    return FileName(file, version, match["name"], match["part"] or "")  # type: ignore[arg-type]  # up or down


def is_migration_directory(name: str) -> bool:
    """True for the name of a directory that holds one migration, as Diesel makes them."""
    return _DIRECTORY.fullmatch(name) is not None


def sort_key(version: int) -> tuple[int, int, int]:
    """The order of versions: by the first 14 digits (a timestamp), then by what follows them."""
    digits = str(version)
    head, rest = digits[:_TIMESTAMP_DIGITS], digits[_TIMESTAMP_DIGITS:]
    return int(head), int(rest or 0), version


def group(names: Iterable[FileName]) -> tuple[tuple[FileName, ...], ...]:
    """The files of each migration, in the order in which they run: versions, then repeatables, then seeds, by name.

    Raises InvalidError where two files claim one version, naming both.
    """
    groups: dict[tuple[Kind, int, str], list[FileName]] = {}
    for name in sorted(names, key=_order):
        key = (name.kind, name.version, "" if name.kind == "Versioned" else name.name)
        groups.setdefault(key, []).append(name)
    for members in groups.values():
        _check_group(members)
    return tuple(tuple(members) for members in groups.values())


def _order(name: FileName) -> tuple[int, tuple[int, int, int], str]:
    return _ORDER[name.kind], sort_key(name.version) if name.kind == "Versioned" else (0, 0, 0), name.file


_ORDER: dict[Kind, int] = {"Versioned": 0, "Repeatable": 1, "Seed": 2}


def _check_group(members: Sequence[FileName]) -> None:
    parts = sorted(member.part for member in members)
    files = ", ".join(member.file for member in members)
    if parts not in ([""], ["up"], ["down", "up"]):
        if parts == ["down"]:
            raise _invalid(files, "there is a down file and no up file; add it")
        raise _invalid(files, f"version {members[0].version} is used twice; give one of them a new version")
    if len({member.name for member in members}) > 1:
        raise _invalid(files, "the two files of a pair need the same description; rename one")
    if len({member.file.rpartition("/")[0] for member in members}) > 1:
        raise _invalid(files, f"version {members[0].version} is used twice; give one of them a new version")


def _in_directory(file: str, directory: str, base: str, engine: Engine) -> FileName:
    match = _DIRECTORY.fullmatch(directory)
    part = _PART.fullmatch(base)
    if match is None or part is None or engine != "Postgres":
        raise _invalid(
            file, "of directories only VERSION_description/up.sql, …/down.sql and seeds/ are read; move the file"
        )
    version = _version(file, match["version"].replace("-", ""))
    # 00000000000000_diesel_initial_setup is a migration of every project that Diesel set up
    return FileName(file, version, match["name"], part["part"])  # type: ignore[arg-type]  # up or down


def _unversioned(file: str, directory: str, base: str, engine: Engine) -> FileName:
    kind: Kind = "Seed" if directory == SEEDS else "Repeatable"
    form = f"{SEEDS}/description" if directory == SEEDS else "R__description"
    match = (_SEED if directory == SEEDS else _REPEATABLE).fullmatch(base)
    if match is None or directory not in ("", SEEDS):
        raise _invalid(file, f"the name is not {form}{EXTENSIONS[engine]}; rename it")
    _check_extension(file, match["ext"], engine)
    if match["name"].endswith((".up", ".down")):
        raise _invalid(file, f"both directions are in one file, with markers; rename it to {form}{EXTENSIONS[engine]}")
    return FileName(file, 0, match["name"], "", kind)


def _check_extension(file: str, extension: str, engine: Engine) -> None:
    if extension != EXTENSIONS[engine]:
        raise _invalid(file, f"this database is {engine}, whose migrations end in {EXTENSIONS[engine]}; move the file")


def _version(file: str, digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise _invalid(file, f"the version has {len(digits)} digits, {_MAX_DIGITS} are the most; shorten it")
    return int(digits)


def _invalid(file: str, why: str) -> InvalidError:
    return InvalidError(Reason.INVALID_MIGRATION, f"{file}: {why}")
