"""Migrations in a directory: what is read, what is left aside, and what is refused before anything runs."""

from __future__ import annotations

import codecs
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from selvedge.core.errors import InvalidError
from selvedge.core.reasons import Reason
from selvedge.migrate.checksum import normalise
from selvedge.migrate.load import Migration, load
from selvedge.migrate.names import EXTENSIONS, HOOKS, METADATA, SEEDS, Engine, is_migration_directory, parse_name

_PARTS = ("up.sql", "down.sql", METADATA)
_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True, slots=True)
class Source:
    """The files of a directory: name → text; and the directories with SQL in them that were left aside."""

    files: dict[str, str] = field(repr=False)
    ignored: tuple[str, ...] = ()


def load_directory(
    path: Path | str, engine: Engine = "Postgres", *, placeholders: Mapping[str, str] | None = None
) -> tuple[Migration, ...]:
    """The migrations of a directory, in the order in which they run. See :func:`read_directory` and ``load``."""
    return load(read_directory(path, engine).files, engine, placeholders=placeholders)


def read_directory(path: Path | str, engine: Engine = "Postgres") -> Source:
    """Read the migrations' files of a directory: its own, those of Diesel's directories, and those of ``seeds/``.

    Hidden names are left out, so a mounted ConfigMap is read once. Raises InvalidError (InvalidMigration) with the next
    step for a directory that is none, a file that cannot be read, and one that is not UTF-8 text.
    """
    root = Path(path)
    files: dict[str, str] = {}
    ignored: list[str] = []
    for name, entry in _entries(root, str(root)):
        if not _is_directory(entry, name):
            if "." not in name and is_migration_directory(name):
                raise _invalid(name, "it is named like a migration's directory and is a file; add .sql, or move it")
            if parse_name(name, engine) is not None or (name in HOOKS and engine == "Postgres"):
                files[name] = _read(entry, name)
        elif name.lower().endswith(tuple(EXTENSIONS.values())):
            raise _invalid(name, "it is named like a migration and is a directory; rename it")
        elif name == SEEDS:
            files |= _seeds(entry, engine)
        elif engine == "Postgres" and is_migration_directory(name):
            files |= _diesel(name, entry)
        elif any(one.lower().endswith(EXTENSIONS[engine]) for one, _ in _entries(entry, name)):
            ignored.append(name)
    return Source(files, tuple(ignored))


def _seeds(directory: Path, engine: Engine) -> dict[str, str]:
    found = {}
    for name, entry in _entries(directory, SEEDS):
        if parse_name(f"{SEEDS}/{name}", engine) is not None:
            found[f"{SEEDS}/{name}"] = _read(entry, f"{SEEDS}/{name}")
    return found


def _diesel(directory: str, path: Path) -> dict[str, str]:
    """``up.sql``, ``down.sql`` and the metadata; other SQL files are refused, others are not ours."""
    found = {}
    for name, entry in _entries(path, directory):
        file = f"{directory}/{name}"
        if name in _PARTS:
            found[file] = _read(entry, file)
        else:
            parse_name(file, "Postgres")
    if "up.sql" not in {file.rpartition("/")[2] for file in found}:
        raise _invalid(directory, "a migration's directory without up.sql; add it, or remove the directory")
    return found


def _entries(directory: Path, shown: str) -> list[tuple[str, Path]]:
    try:
        return sorted((entry.name, entry) for entry in directory.iterdir() if not entry.name.startswith("."))
    except FileNotFoundError as error:
        raise _invalid(shown, "there is no such directory; name the one that holds the migrations") from error
    except NotADirectoryError as error:
        raise _invalid(shown, "it is a file and no directory; name the directory that holds the migrations") from error
    except PermissionError as error:
        raise _invalid(shown, "the directory cannot be read: permission denied; allow it to this user") from error
    except OSError as error:
        raise _invalid(shown, f"the directory cannot be read: {error.strerror}") from error


def _is_directory(path: Path, shown: str) -> bool:
    try:
        return path.is_dir()
    except OSError as error:
        raise _invalid(shown, f"the file cannot be read: {error.strerror}; correct it, or remove it") from error


def _read(path: Path, shown: str) -> str:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise _invalid(shown, "it is no regular file; put the migration's text into one")
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise _invalid(shown, "the link leads nowhere, or the file just went; restore it, or remove it") from error
    except PermissionError as error:
        raise _invalid(shown, "the file cannot be read: permission denied; allow it to this user") from error
    except OSError as error:
        raise _invalid(shown, f"the file cannot be read: {error.strerror}; correct it, or remove it") from error
    return decode(content, shown)


def decode(content: bytes, file: str) -> str:
    """The text of a migration's file, as it is normalised; raises InvalidError with the line for what is not UTF-8."""
    if content.startswith(_WIDE):
        raise _invalid(file, "the file is UTF-16; save it as UTF-8")
    if b"\0" in content:
        raise _invalid(file, "the file is binary; a migration is UTF-8 text: remove the file, or save it as text")
    # a file may be large: what is taken off here is not copied again when the text is loaded
    content = content if b"\r" in content else content.rstrip(b"\n")
    try:
        return normalise(content.decode())
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InvalidError(
            Reason.INVALID_MIGRATION,
            f"{file}, line {line}: byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8 "
            "(from Latin-1: iconv -f latin1 -t utf-8)",
        ) from error


def _invalid(file: str, why: str) -> InvalidError:
    return InvalidError(Reason.INVALID_MIGRATION, f"{file}: {why}")
