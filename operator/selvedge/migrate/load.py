"""From files to migrations: the names paired, the parts cut out, the checksums taken. No statement is parsed yet."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from selvedge.core.errors import InvalidError
from selvedge.core.reasons import Reason
from selvedge.migrate import mongo
from selvedge.migrate.checksum import checksum, normalise
from selvedge.migrate.directives import NONE, Directives, Part, header, refuse_markers, render, split_parts
from selvedge.migrate.names import METADATA, Engine, FileName, Kind, group, parse_name
from selvedge.migrate.placeholders import substitute
from selvedge.migrate.session_state import check_session
from selvedge.migrate.splitter import Statement, split
from selvedge.migrate.transactions import Script, prepare

__all__ = ["Kind", "Migration", "load"]

_DOWN = ', "down": '


@dataclass(frozen=True)
class Migration:
    """One version: the text of both directions, normalised, and what was said in the files about how to run it.

    ``version`` is 0 for what has none. ``placeholders`` are names and values; the texts and checksums are those before
    the substitution.
    """

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
    placeholders: tuple[tuple[str, str], ...] | None = field(default=None, repr=False)

    @property
    def key(self) -> str:
        """What the history knows the migration by: its version, or kind and name where it has none."""
        return str(self.version) if self.kind == "Versioned" else f"{self.kind}:{self.name}"

    @property
    def mark(self) -> str:
        """What a plan and the events know the way up by: its text, and how its directives make it run."""
        return _mark(self.checksum, self.directives)

    @property
    def down_mark(self) -> str:
        """The same for the way down; empty where there is none."""
        return _mark(self.down_checksum or "", self.down_directives)

    @cached_property
    def script(self) -> Script:
        """The up part as statements; raises InvalidError for what cannot be split or must not run."""
        return self._script(self.up, self.file, self.up_line, self.directives)

    @cached_property
    def down_script(self) -> Script:
        """The down part as statements, empty where there is none; raises InvalidError as ``script`` does."""
        return self._script(self.down or "", self.down_file or self.file, self.down_line, self.down_directives)

    @cached_property
    def commands(self) -> tuple[mongo.Command, ...]:
        """The up part as MongoDB's commands; raises InvalidError for what is no command."""
        text = self._substituted(self.up, self.file, self.up_line)
        return mongo.commands(text, file=self.file, line=self.up_line, transaction=self.directives.transaction)

    @cached_property
    def down_commands(self) -> tuple[mongo.Command, ...]:
        """The down part as MongoDB's commands, none where there is none; raises InvalidError as ``commands`` does."""
        file = self.down_file or self.file
        text = self._substituted(self.down or "[]", file, self.down_line)
        return mongo.commands(text, file=file, line=self.down_line, transaction=self.down_directives.transaction)

    @property
    def reversible(self) -> bool:
        """Whether there is a way down that the file allows."""
        return self.down is not None and not self.directives.irreversible and not self.down_directives.irreversible

    @property
    def stored_down(self) -> str | None:
        """The way down as the history keeps it, with its directives, which may stand elsewhere in the file.

        :func:`undo_only` reads it.
        """
        if self.down is None or self.down_directives == NONE:
            return self.down
        if self.engine == "MongoDB":
            return _stored_json(self.down, self.down_directives)
        return render(self.down_directives) + self.down

    @cached_property
    def verifications(self) -> tuple[Statement, ...]:
        """The queries of ``-- verify:`` lines; raises InvalidError for one that is not one statement."""
        found: list[Statement] = []
        for query in self.directives.verify:
            statements = split(query, file=self.file, line=self.up_line)
            if len(statements) != 1 or statements[0].head[:1] not in (("SELECT",), ("WITH",)):
                raise _invalid(self.file, f"-- verify: {query[:60]} is not one query; write each on a line of its own")
            found += statements
        return tuple(found)

    def check(self) -> None:
        """Parse the up part now; raises InvalidError with file and line."""
        _ = (self.script, self.verifications) if self.engine == "Postgres" else self.commands

    @property
    def steps(self) -> int:
        """How many statements or commands the up part has."""
        return len(self.script.statements if self.engine == "Postgres" else self.commands)

    def _script(self, text: str, file: str, line: int, directives: Directives) -> Script:
        script = prepare(split(self._substituted(text, file, line), file=file, line=line), directives, file)
        if not script.transactional:
            check_session(script.statements, file)
        return script

    def _substituted(self, text: str, file: str, line: int) -> str:
        if self.placeholders is None:
            return text
        return substitute(text, dict(self.placeholders), file=file, line=line)


def load(
    files: Mapping[str, str], engine: Engine = "Postgres", *, placeholders: Mapping[str, str] | None = None
) -> tuple[Migration, ...]:
    """The migrations in these files (name → content), in the order in which they run.

    Names are relative to the migrations' directory. Files that are no migrations (``README.md``) are left out.
    ``placeholders`` are the values of those that are listed, see :func:`placeholders.placeholder_values`; ``None`` lets
    ``${env:…}`` pass through. Raises InvalidError (InvalidMigration) for a name that cannot be understood, a version
    that is used twice, a file that is empty, binary or wrongly marked.
    """
    names = [name for file in files if (name := parse_name(file, engine)) is not None]
    values = None if placeholders is None else tuple(sorted(placeholders.items()))
    return tuple(_migration(members, files, engine, values) for members in group(names))


def undo_only(
    version: int, name: str, stored_down: str | None, *, file: str, checksum: str = "", engine: Engine = "Postgres"
) -> Migration:
    """A migration whose file is gone, from what the history kept of it: it can go down and no more.

    ``stored_down`` is :attr:`Migration.stored_down`; lines are counted in it. Raises InvalidError where it cannot be
    read.
    """
    down, found = stored_down, NONE
    if stored_down is not None and engine == "MongoDB":
        document = mongo.read(stored_down, file)
        down, found = document.down or document.up, mongo.directives(document.options, file)
    elif stored_down is not None:
        found = header(file, stored_down, 1)
    return Migration(version, name, file, "", down, checksum, None, NONE, found, engine=engine)


def _migration(
    members: tuple[FileName, ...],
    files: Mapping[str, str],
    engine: Engine,
    placeholders: tuple[tuple[str, str], ...] | None,
) -> Migration:
    texts: dict[str, tuple[str, str]] = {
        member.part: (member.file, _text(member.file, files[member.file])) for member in members
    }
    reader = _sql if engine == "Postgres" else _json
    file, up, down = reader(texts)
    metadata = f"{file.rpartition('/')[0]}/{METADATA}"
    if metadata in files:
        up, down = _with_metadata(metadata, files[metadata], up, down)
    if not up.text.strip():
        what = "the up part" if texts.get("", ("", ""))[1].strip() else "the file"
        raise _invalid(file, f"{what} is empty, there is nothing to run; write its statements, or remove the file")
    kind = members[0].kind
    if kind == "Seed" and not up.directives.environments:
        raise _invalid(file, "a seed says where it may run; add a first line such as -- env: development")
    if down is not None and not down.text.strip():
        # an empty way down is a template that nobody filled in: to undo nothing is said with a comment
        down = None
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
        kind=kind,
        down_file=texts["down"][0] if down and "down" in texts else "",
        placeholders=placeholders,
    )


def _mark(text: str, directives: Directives) -> str:
    """A directive may stand outside of the part whose checksum this is: before the marker, or behind it."""
    return text if not text or directives == NONE else checksum(f"{text}\n{render(directives)}")


def _sql(texts: dict[str, tuple[str, str]]) -> tuple[str, Part, Part | None]:
    if "" in texts:
        file, text = texts[""]
        return file, *split_parts(file, text)
    file, text = texts["up"]
    refuse_markers(file, text)
    up = Part(text, 1, header(file, text, 1))
    if "down" not in texts:
        return file, up, None
    down_file, down_text = texts["down"]
    refuse_markers(down_file, down_text)
    return file, up, Part(down_text, 1, header(down_file, down_text, 1))


def _json(texts: dict[str, tuple[str, str]]) -> tuple[str, Part, Part | None]:
    file, text = texts.get("") or texts["up"]
    document = mongo.read(text, file)
    directives = mongo.directives(document.options, file)
    up = Part(document.up, document.up_line, directives)
    if "down" in texts:
        if document.down is not None:
            raise _invalid(file, "the down part is in a file of its own as well; keep one")
        other = mongo.read(texts["down"][1], texts["down"][0])
        return file, up, Part(other.up, other.up_line, directives)
    return file, up, Part(document.down, document.down_line, directives) if document.down is not None else None


def _with_metadata(file: str, text: str, up: Part, down: Part | None) -> tuple[Part, Part | None]:
    """Diesel's metadata: ``run_in_transaction = false`` is a ``-- transaction: false`` of both parts."""
    import tomllib  # few directories have one

    try:
        wanted = tomllib.loads(text).get("run_in_transaction", True)
    except tomllib.TOMLDecodeError as error:
        raise _invalid(file, f"it is no TOML: {error}; correct it") from error
    if not isinstance(wanted, bool):
        raise _invalid(file, "run_in_transaction is true or false; correct it")
    if wanted:
        return up, down
    changed = [
        replace(part, directives=replace(part.directives, transaction=False)) for part in (up, down) if part is not None
    ]
    return changed[0], changed[1] if down is not None else None


def _stored_json(down: str, directives: Directives) -> str:
    """A file of MongoDB's with this way down alone, and with what it asks for."""
    options: dict[str, object] = {"up": []}
    if directives.transaction is not None:
        options["transaction"] = directives.transaction
    if directives.statement_timeout is not None:
        options["statementTimeout"] = f"{round(directives.statement_timeout * 1000)}ms"
    return json.dumps(options)[:-1] + f"{_DOWN}{down}}}"


def embedded_down(stored: str) -> str:
    """The way down in what :attr:`Migration.stored_down` made of it, to the letter; empty where it stands alone."""
    # no string of JSON holds the separator: it would end at the first quote
    return stored.partition(_DOWN)[2].removesuffix("}")


def _text(file: str, content: str) -> str:
    if "\0" in content:
        raise _invalid(file, "the file is binary; a migration is UTF-8 text")
    return normalise(content)


def _invalid(file: str, why: str) -> InvalidError:
    return InvalidError(Reason.INVALID_MIGRATION, f"{file}: {why}")
