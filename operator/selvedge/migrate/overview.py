"""How files and history stand to each other, migration by migration: for ``status``, which refuses nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from selvedge.migrate.history import HistoryRow, RowState
from selvedge.migrate.load import Migration
from selvedge.migrate.names import sort_key


class Standing(StrEnum):
    """How one migration stands. Only ``Applied`` and ``NotHere`` ask nothing of anybody."""

    APPLIED = "Applied"
    PENDING = "Pending"
    PARTIAL = "Partial"
    OUT_OF_ORDER = "OutOfOrder"
    CHANGED = "Changed"
    MISSING = "Missing"
    NOT_HERE = "NotHere"


SETTLED = (Standing.APPLIED, Standing.NOT_HERE)
"""Nothing is to be done about these."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One migration. ``file`` is empty where only the history knows it, ``row`` is its row in the history.

    ``note`` says what a person should know, and is empty where there is nothing.
    """

    key: str
    version: int
    name: str
    kind: str
    standing: Standing
    file: str = ""
    note: str = ""
    row: HistoryRow | None = None


def overview(
    migrations: Sequence[Migration], history: Iterable[HistoryRow], environment: str = "", *, files: bool = True
) -> tuple[Entry, ...]:
    """Every migration of the files or of the history once: versions in their order, then repeatables, then seeds.

    ``Partial`` runs without a transaction and stopped half way. ``OutOfOrder`` did not run and is older than one that
    did. ``Changed`` has another text than when it ran, ``Missing`` ran and has no file. ``NotHere`` is meant for other
    environments. ``files`` False says that there are none to compare with. Nothing is parsed and nothing is raised.
    """
    rows = {row.key: row for row in history}
    known = {migration.key: migration for migration in migrations}
    applied = [row.version for row in rows.values() if row.kind == "Versioned" and row.state is RowState.APPLIED]
    newest = max(applied, key=sort_key, default=0)
    found = [_entry(known.get(key), rows.get(key), newest, environment, files) for key in rows.keys() | known.keys()]
    kinds = ("Versioned", "Repeatable", "Seed")
    return tuple(sorted(found, key=lambda entry: (kinds.index(entry.kind), sort_key(entry.version), entry.name)))


def _entry(migration: Migration | None, row: HistoryRow | None, newest: int, environment: str, files: bool) -> Entry:
    one = migration or row
    if one is None:
        raise AssertionError("a key is one of the files or of the history")
    standing, note = _standing(migration, row, newest, environment, files)
    file = migration.file if migration else ""
    return Entry(one.key, one.version, one.name, one.kind, standing, file, note, row)


def _standing(
    migration: Migration | None, row: HistoryRow | None, newest: int, environment: str, files: bool
) -> tuple[Standing, str]:
    if row is not None and row.state is RowState.PARTIAL:
        what = "undone" if row.half_undone else "done"
        return Standing.PARTIAL, f"{row.done} of {row.total} statements are {what}; the next run goes on there"
    if migration is None:
        gone = files and row is not None and row.kind == "Versioned"
        return (Standing.MISSING, "ran, and its file is gone") if gone else (Standing.APPLIED, "")
    if row is None:
        return _not_run(migration, newest, environment)
    if row.checksum == migration.checksum:
        return Standing.APPLIED, ""
    if migration.kind != "Versioned":
        return Standing.PENDING, "its file changed: it runs again"
    return Standing.CHANGED, "its file changed after it ran"


def _not_run(migration: Migration, newest: int, environment: str) -> tuple[Standing, str]:
    meant = migration.directives.environments
    if (meant or migration.kind == "Seed") and (not environment or environment not in meant):
        return Standing.NOT_HERE, f"only in {', '.join(meant)}" if meant else "names no environment"
    if migration.kind == "Versioned" and sort_key(migration.version) < sort_key(newest):
        return Standing.OUT_OF_ORDER, f"older than {newest}, which ran already"
    return Standing.PENDING, ""
