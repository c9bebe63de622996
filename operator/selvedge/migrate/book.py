"""Files and history side by side: what is pending, what changed, what is missing, and what cannot be undone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from selvedge.core.errors import InvalidError
from selvedge.core.reasons import Reason
from selvedge.migrate.history import HistoryRow, RowState, from_history, is_kept
from selvedge.migrate.load import Migration
from selvedge.migrate.names import Engine, sort_key

EMPTY = "0"
"""The target that is the empty database. A version 0, where there is one, is meant by two digits and more."""

_SHOWN = 5


class Book:
    """What the planner asks. ``files`` and ``rows`` are by key, ``warnings`` collects what a person should read."""

    def __init__(
        self,
        migrations: Sequence[Migration],
        history: Iterable[HistoryRow],
        environment: str,
        engine: Engine,
        *,
        strict_order: bool,
    ) -> None:
        self.rows = {row.key: row for row in history}
        self.files = {one.key: one for one in migrations}
        self.environment = environment
        self.engine: Engine = migrations[0].engine if migrations else engine
        self.strict_order = strict_order
        self.warnings: list[str] = []

    # -- history -------------------------------------------------------------------------------------------------

    def versioned(self, rows: Mapping[str, HistoryRow] | None = None) -> list[HistoryRow]:
        """The rows that have a version, oldest version first."""
        found = (self.rows if rows is None else rows).values()
        return sorted((row for row in found if row.kind == "Versioned"), key=lambda row: sort_key(row.version))

    def unversioned(self) -> list[HistoryRow]:
        """The rows of repeatables and seeds."""
        return sorted((row for row in self.rows.values() if row.kind != "Versioned"), key=lambda row: row.name)

    def newest(self, rows: Mapping[str, HistoryRow] | None = None) -> int:
        """The newest version that ran to its end, 0 for none."""
        applied = [row.version for row in self.versioned(rows) if row.state is RowState.APPLIED]
        return applied[-1] if applied else 0

    def from_history(self, row: HistoryRow) -> Migration:
        """The migration that a row still holds; its placeholders have the values that the files' have."""
        placeholders = next((file.placeholders for file in self.files.values()), None)
        return replace(from_history(row, self.engine), placeholders=placeholders)

    # -- what runs -----------------------------------------------------------------------------------------------

    def pending(self, limit: int | None = None, rows: Mapping[str, HistoryRow] | None = None) -> list[Migration]:
        """Versioned migrations that did not run to their end, up to ``limit`` (None: all)."""
        rows = self.rows if rows is None else rows
        return [
            one
            for one in self.files.values()
            if one.kind == "Versioned"
            and not (one.key in rows and rows[one.key].state is RowState.APPLIED)
            and self._meant(one)
            and (limit is None or sort_key(one.version) <= sort_key(limit))
        ]

    def again(self, rows: Mapping[str, HistoryRow]) -> list[Migration]:
        """Repeatables, then seeds, that never ran or ran with another text."""
        return [
            one
            for one in self.files.values()
            if one.kind != "Versioned"
            and self._meant(one)
            and not (
                one.key in rows and rows[one.key].state is RowState.APPLIED and rows[one.key].checksum == one.checksum
            )
        ]

    def changed(self, only: str | None) -> list[Migration]:
        """Migrations whose file is not what ran, in either direction; ``only`` is the key of one."""
        return [
            file
            for key, file in self.files.items()
            if only in (None, key)
            and (row := self.rows.get(key)) is not None
            and row.state is RowState.APPLIED
            # a repeatable whose text changed runs again instead
            and (row.kind == "Versioned" or only == key)
            and (row.checksum, row.down_checksum) != (file.checksum, file.down_checksum)
        ]

    def undo(self, row: HistoryRow, *, may_have_changed: bool = False) -> Migration:
        """The migration whose way down undoes a row: the file's, the history's where the file is gone.

        Where the file changed after it ran its way down may not fit what ran: refused, or with ``may_have_changed``
        that of the history is taken. Raises InvalidError where there is no way down or it cannot be read.
        """
        file = self.files.get(row.key)
        migration = file or self.from_history(row)
        if file is None or file.checksum != row.checksum:
            self._check_kept(row, migration)
        if file is None:
            self.warnings.append(f"{migration.file}: the file is gone; the way down that the history kept is used")
        elif file.checksum != row.checksum:
            if not may_have_changed:
                raise _changed([file.file])
            migration = self.from_history(row)
            self.warnings.append(f"{file.file} changed after it ran; the way down that the history kept is used")
        elif file.down_checksum != row.down_checksum:
            self.warnings.append(f"{file.file}: its way down changed after it ran; that of the file is used")
        if migration.directives.irreversible or migration.down_directives.irreversible:
            raise InvalidError(
                Reason.IRREVERSIBLE, f"{migration.file} says that it is irreversible: undo it by a new migration"
            )
        if not migration.reversible:
            raise InvalidError(
                Reason.IRREVERSIBLE,
                f"{migration.file} has no way down: write one below -- migrate:down, or undo it by a new migration",
            )
        _ = migration.down_script if migration.engine == "Postgres" else migration.down_commands
        return migration

    def _check_kept(self, row: HistoryRow, migration: Migration) -> None:
        """Raises InvalidError where the way down of the history is not what was written there with its checksum."""
        if not is_kept(row, self.engine):
            raise InvalidError(
                Reason.CHECKSUM_MISMATCH,
                f"the way down of {migration.file} in the history does not have the checksum that stands beside it: it "
                "was changed or damaged there; put the file back as it ran, or undo it by a new migration",
            )

    # -- checks --------------------------------------------------------------------------------------------------

    def check_files(self, rows: Mapping[str, HistoryRow] | None = None, *, all_parts: bool = False) -> None:
        """Raises InvalidError where a migration that ran has no file any more, or another text."""
        found = self.versioned(rows)
        missing = [f"{row.version} ({row.name})" for row in found if row.key not in self.files]
        if missing:
            raise InvalidError(
                Reason.MIGRATION_MISSING,
                f"the database's history has {_some(missing)} and the source has no such file: put it back, or use the "
                "source that this database was migrated with",
            )
        changed = [
            self.files[row.key].file
            for row in found
            # one that stopped half way may be mended: the runner compares the statements that are done
            if row.state is RowState.APPLIED and row.checksum != self.files[row.key].checksum
        ]
        if changed:
            raise _changed(changed)
        if all_parts:
            for one in self.files.values():
                one.check()
                if one.reversible:
                    _ = one.down_script if one.engine == "Postgres" else one.down_commands

    def check_order(self, pending: Sequence[Migration], rows: Mapping[str, HistoryRow] | None = None) -> None:
        """Raises InvalidError for one that is older than what ran, unless that is allowed."""
        rows = self.rows if rows is None else rows
        newest = self.newest(rows)
        late = [one.file for one in pending if sort_key(one.version) < sort_key(newest) and one.key not in rows]
        if late and self.strict_order:
            raise InvalidError(
                Reason.OUT_OF_ORDER,
                f"{_some(late)} is older than version {newest}, which ran already: give it a newer version, "
                "or set outOfOrder: Apply",
            )

    def check_down(self, migration: Migration) -> None:
        """A warning where the way down cannot be read; that must not stop the way up."""
        if not migration.reversible:
            return
        try:
            _ = migration.down_script if migration.engine == "Postgres" else migration.down_commands
        except InvalidError as error:
            self.warnings.append(f"the way down cannot be read: {error.message}")

    def half(self, row: HistoryRow, advice: str) -> InvalidError:
        """The error for a migration that stopped half way."""
        what = "undone" if row.direction == "down" else "applied"
        return InvalidError(
            Reason.PARTLY_APPLIED,
            f"version {row.version} ({row.name}) is half {what}, {row.done} of {row.total} statements: {advice}",
        )

    # -- targets -------------------------------------------------------------------------------------------------

    def file_version(self, target: str | int | None) -> int | None:
        """A target that has to be a version of the source; None for none."""
        if target in (None, ""):
            return None
        version = _number(target)
        if str(version) not in self.files:
            raise InvalidError(
                Reason.INVALID_SPEC, f"target {target} is no version of the source; name one of its files"
            )
        return version

    def row_version(self, target: str | int | None) -> int | None:
        """A target to go back to: a version of the history, or None for the empty database."""
        if str(target) == EMPTY:
            return None
        version = _number(target)
        if str(version) not in self.rows or self.rows[str(version)].state is not RowState.APPLIED:
            raise InvalidError(
                Reason.INVALID_SPEC,
                f"target {target} did not run, so there is no way back to it; name a version of the history, or 0",
            )
        return version

    def any_version(self, target: str | int | None) -> int | None:
        """A version of source or history, or None for the empty database; a target has to be given."""
        if target in (None, ""):
            raise InvalidError(Reason.INVALID_SPEC, "the action needs a target: a version, or 0 for the empty database")
        if str(target) == EMPTY:
            return None
        version = _number(target)
        if str(version) not in self.files and str(version) not in self.rows:
            raise InvalidError(
                Reason.INVALID_SPEC, f"target {target} is no version of the source; name one of its files"
            )
        return version

    def find(self, target: str | int | None) -> str:
        """The key that a version, a key or a file's name stands for; raises InvalidError where there is none."""
        wanted = str(target)
        wanted = str(int(wanted)) if wanted.isascii() and wanted.isdecimal() else wanted
        by_file = next((key for key, one in self.files.items() if one.file == wanted), None)
        key = by_file or wanted
        if key not in self.files and key not in self.rows:
            raise InvalidError(Reason.INVALID_SPEC, f"target {target} is neither in the source nor in the history")
        return key

    def _meant(self, migration: Migration) -> bool:
        environments = migration.directives.environments
        if migration.kind == "Seed":
            return bool(self.environment) and self.environment in environments
        return not environments or self.environment in environments


def target_of(version: int | None) -> str:
    """A version as a target that means just that one, None as the empty database."""
    return EMPTY if version is None else str(version) if version else "00"


def _number(target: str | int | None) -> int:
    text = str(target)
    if not text.isascii() or not text.isdecimal():
        raise InvalidError(Reason.INVALID_SPEC, f"target {target} is no version of the source; name one of its files")
    return int(text)


def _changed(files: list[str]) -> InvalidError:
    return InvalidError(
        Reason.CHECKSUM_MISMATCH,
        f"{_some(files)} changed after it ran: put the old text back and write the change as a new migration",
    )


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
