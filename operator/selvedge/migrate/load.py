"""From files to migrations: the names paired, the parts cut out, the checksums taken. No statement is parsed yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from selvedge.core.errors import InvalidError
from selvedge.core.reasons import Reason
from selvedge.migrate import mongo
from selvedge.migrate.checksum import checksum, normalise
from selvedge.migrate.directives import NONE, Directives, Part, header, split_parts
from selvedge.migrate.names import Engine, FileName, group, parse_name
from selvedge.migrate.splitter import split
from selvedge.migrate.transactions import Script, prepare

Kind = Literal["Versioned", "Repeatable", "Seed"]
"""Versioned: runs once, in order. Repeatable (``R__x.sql``): after those, whenever its text changed. Seed: after
those, in the environments that it names."""


@dataclass(frozen=True)
class Migration:
    """One version: the text of both directions, normalised, and what was said in the files about how to run it."""

    version: int
    name: str
    file: str
    up: str = field(repr=False)
    down: str | None = field(repr=False)
    checksum: str
    down_checksum: str | None
    directives: Directives = NONE
    down_directives: Directives = NONE
    up_line: int = 1
    down_line: int = 1
    engine: Engine = "Postgres"
    kind: Kind = "Versioned"
    down_file: str = ""
    """The file of the down part, where it is not ``file``."""

    @property
    def key(self) -> str:
        """What the history knows the migration by: its version, or kind and name where it has none."""
        return str(self.version) if self.kind == "Versioned" else f"{self.kind}:{self.name}"

    @cached_property
    def script(self) -> Script:
        """The up part as statements; raises InvalidError for what cannot be split or must not run."""
        return prepare(split(self.up, file=self.file, line=self.up_line), self.directives, self.file)

    @cached_property
    def down_script(self) -> Script:
        """The down part as statements, empty where there is none; raises InvalidError as ``script`` does."""
        file = self.down_file or self.file
        return prepare(split(self.down or "", file=file, line=self.down_line), self.down_directives, file)

    @cached_property
    def commands(self) -> tuple[mongo.Command, ...]:
        """The up part as MongoDB's commands; raises InvalidError for what is no command."""
        return mongo.commands(self.up, file=self.file, line=self.up_line)

    @cached_property
    def down_commands(self) -> tuple[mongo.Command, ...]:
        """The down part as MongoDB's commands, none where there is none; raises InvalidError as ``commands`` does."""
        text = self.down or "[]"
        return mongo.commands(text, file=self.down_file or self.file, line=self.down_line)

    def check(self) -> None:
        """Parse the up part now; raises InvalidError with file and line."""
        _ = self.script if self.engine == "Postgres" else self.commands

    @property
    def steps(self) -> int:
        """How many statements or commands the up part has."""
        return len(self.script.statements if self.engine == "Postgres" else self.commands)


def load(files: Mapping[str, str], engine: Engine = "Postgres") -> tuple[Migration, ...]:
    """The migrations in these files (name → content), in the order in which they run.

    Files that are no migrations (``README.md``) are left out. Raises InvalidError (InvalidMigration) for a name that
    cannot be understood, a version that is used twice, a file that is empty, binary or wrongly marked.
    """
    names = [name for file in files if (name := parse_name(file, engine)) is not None]
    return tuple(_migration(members, files, engine) for members in group(names).values())


def _migration(members: tuple[FileName, ...], files: Mapping[str, str], engine: Engine) -> Migration:
    texts: dict[str, tuple[str, str]] = {
        member.part: (member.file, _text(member.file, files[member.file])) for member in members
    }
    reader = _sql if engine == "Postgres" else _json
    file, up, down = reader(texts)
    if not up.text.strip():
        raise InvalidError(
            Reason.INVALID_MIGRATION, f"{file}: the file has nothing to run; write a statement or remove it"
        )
    return Migration(
        version=members[0].version,
        name=members[0].name,
        file=file,
        up=up.text,
        down=down.text if down else None,
        checksum=checksum(up.text),
        down_checksum=checksum(down.text) if down else None,
        directives=up.directives,
        down_directives=down.directives if down else NONE,
        up_line=up.line,
        down_line=down.line if down else 1,
        engine=engine,
    )


def _sql(texts: dict[str, tuple[str, str]]) -> tuple[str, Part, Part | None]:
    if "" in texts:
        file, text = texts[""]
        return file, *split_parts(file, text)
    file, text = texts["up"]
    up = Part(text, 1, header(file, text, 1))
    if "down" not in texts:
        return file, up, None
    down_file, down_text = texts["down"]
    return file, up, Part(down_text, 1, header(down_file, down_text, 1))


def _json(texts: dict[str, tuple[str, str]]) -> tuple[str, Part, Part | None]:
    file, text = texts.get("") or texts["up"]
    document = mongo.read(text, file)
    directives = mongo.directives(document.options, file)
    up = Part(document.up, document.up_line, directives)
    if "down" in texts:
        if document.down is not None:
            raise InvalidError(
                Reason.INVALID_MIGRATION, f"{file}: the down part is in a file of its own as well; keep one"
            )
        other = mongo.read(texts["down"][1], texts["down"][0])
        return file, up, Part(other.up, other.up_line, directives)
    return file, up, Part(document.down, document.down_line, directives) if document.down is not None else None


def _text(file: str, content: str) -> str:
    if "\0" in content:
        raise InvalidError(Reason.INVALID_MIGRATION, f"{file}: the file is binary; a migration is UTF-8 text")
    return normalise(content)
