"""The state that a difference was computed from, to be asked for the objects that its changes touch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from selvedge.core.postgres import changes as c
from selvedge.core.postgres.grants_wanted import base
from selvedge.core.postgres.model import AclGroup, CurrentRole, Elsewhere, Snapshot
from selvedge.core.postgres.partitions import PartitionedTable
from selvedge.core.postgres.rls_model import TableState
from selvedge.core.postgres.triggers import LiveTable


class State:
    """Objects by the names that they have or will have.

    ``changes`` are all of the difference: objects that it renames are found by their old names. ``elsewhere`` is what
    roles that go hold in other databases.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        changes: Iterable[c.Change] = (),
        elsewhere: Mapping[str, tuple[Elsewhere, ...]] | None = None,
    ) -> None:
        self.snapshot = snapshot
        self.elsewhere = elsewhere or {}
        changes = tuple(changes)
        self.old_roles = {x.new: x.old for x in changes if isinstance(x, c.RenameRole)}
        self.old_schemas = {x.new: x.old for x in changes if isinstance(x, c.RenameSchema)}
        self._groups: dict[tuple[str, str, str], AclGroup] | None = None

    def role(self, name: str) -> CurrentRole | None:
        """A role, by the name that it will have or has."""
        roles = self.snapshot.roles
        return roles.get(name) or roles.get(self.old_roles.get(name, ""))

    def schema(self, name: str) -> str:
        """A schema's name as it is now."""
        old = self.old_schemas.get(name, "")
        return old if old in self.snapshot.schemas and name not in self.snapshot.schemas else name

    def group(self, kind: str, schema: str, name: str) -> AclGroup | None:
        """The objects with the same privileges that this one is among."""
        if self._groups is None:
            self._groups = {
                (base(group.kind), group.schema, one): group for group in self.snapshot.groups for one in group.names
            }
        if kind == "schema":
            return self._groups.get((kind, "", self.schema(name)))
        return self._groups.get((kind, self.schema(schema), name))

    def table(self, key: tuple[str, str]) -> TableState | None:
        """A table with its row-level security."""
        return self.snapshot.row_security.get((self.schema(key[0]), key[1]))

    def live(self, key: tuple[str, str]) -> LiveTable | None:
        """A table on which something is kept."""
        tables = self.snapshot.tables
        return tables.tables.get(key) if tables is not None else None

    def partitioned(self, key: tuple[str, str]) -> PartitionedTable | None:
        """A table with partitions."""
        tables = self.snapshot.tables
        return tables.partitions.tables.get(key) if tables is not None else None


def fingerprint(value: object) -> str:
    """A short digest of what has one order, where the whole would be too long to read."""
    return hashlib.sha256(repr(value).encode()).hexdigest()[:12]
