"""Hooks: SQL files of the user's that run before and after a run, or each migration of it.

``beforeRun.sql`` and ``afterRun.sql`` have a transaction of their own, ``beforeEach.sql`` and ``afterEach.sql`` run in
the migration's. All run as the role of the migrations. They lie beside the migrations and are no migrations: the
history does not know them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from selvedge.core.errors import InvalidError
from selvedge.core.reasons import Reason
from selvedge.migrate.checksum import checksum, normalise
from selvedge.migrate.directives import header
from selvedge.migrate.load import Migration
from selvedge.migrate.names import HOOKS

_FIELDS = dict(zip(HOOKS, ("before_run", "after_run", "before_each", "after_each"), strict=True))


@dataclass(frozen=True, slots=True)
class Hooks:
    """The scripts of a run; ``None`` where there is none."""

    before_run: Migration | None = None
    after_run: Migration | None = None
    before_each: Migration | None = None
    after_each: Migration | None = None

    @property
    def all(self) -> tuple[Migration, ...]:
        """Those that there are, in the order in which they first run."""
        return tuple(
            hook for hook in (self.before_run, self.before_each, self.after_each, self.after_run) if hook is not None
        )

    @property
    def lines(self) -> tuple[str, ...]:
        """What a plan's digest is taken of: ``hook beforeRun <sha256>`` for each."""
        return tuple(f"hook {hook.name} {hook.checksum}" for hook in self.all)


def split_hooks(files: Mapping[str, str], given: Mapping[str, str] | None = None) -> tuple[Hooks, dict[str, str]]:
    """The hooks among these files (name → content), and the other files, for ``load``.

    ``given`` are hooks that a resource holds itself, by name: ``beforeRun`` and so on. Raises InvalidError for a hook
    that cannot be read or does not run in a transaction, and for one that stands in both.
    """
    found = {_FIELDS[name]: _hook(name, normalise(text)) for name, text in files.items() if name in HOOKS}
    for name, text in (given or {}).items():
        field = _FIELDS[f"{name}.sql"]
        if field in found:
            raise InvalidError(
                Reason.INVALID_MIGRATION,
                f"hook {name} stands in spec.hooks, and {name}.sql lies among the files: remove one",
            )
        found[field] = _hook(f"hooks.{name}", normalise(text))
    return Hooks(**found), {name: text for name, text in files.items() if name not in HOOKS}


def _hook(file: str, text: str) -> Migration:
    name = file.removesuffix(".sql").removeprefix("hooks.")
    hook = Migration(0, name, file, text, None, checksum(text), None, header(file, text, 1))
    if not hook.script.transactional:
        raise InvalidError(
            Reason.INVALID_MIGRATION,
            f"{file}: a hook runs in a transaction, and one of its statements forbids that; move it into a migration",
        )
    return hook
