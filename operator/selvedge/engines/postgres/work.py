"""What the passes of one call share, and what was drift in them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from selvedge.core.postgres import changes as c
from selvedge.core.postgres.cluster_diff import ClaimBook
from selvedge.core.postgres.conventions import PutView
from selvedge.core.postgres.gate import split
from selvedge.core.postgres.model import AclGroup, CurrentRole, Desired, Snapshot
from selvedge.core.postgres.renames import renamed_snapshot, role_renames
from selvedge.core.postgres.rls_changes import ClosePartition
from selvedge.core.postgres.takeover import Takeover
from selvedge.core.postgres.triggers import OnTable, PutTrigger
from selvedge.core.unit import ObjectRef, ObjectStatus
from selvedge.engines.base import Unit
from selvedge.engines.postgres.compile import Compiled
from selvedge.engines.postgres.rls_phase import RowSecurity
from selvedge.engines.postgres.tables_phase import Tables

if TYPE_CHECKING:
    from selvedge.engines.postgres.engine import PostgresEngine

#: Objects that migrations make: new ones are no drift.
_MIGRATED = ("table", "sequence", "function", "column")


@dataclass(slots=True)
class Work:
    """What the passes of one call share: a pass is made again when the server refused a change, without that change.

    ``failed`` are those, ``applied`` what stands committed by now, ``drift`` what was found by member; ``told``: the
    unit's ``on_drift`` was awaited.
    """

    engine: PostgresEngine
    unit: Unit
    compiled: Compiled
    may_write: Callable[[], None]
    plan_only: bool
    failed: dict[c.Change, ObjectStatus] = field(default_factory=dict)
    applied: list[c.Change] = field(default_factory=list)
    drift: dict[str, set[ObjectRef]] = field(default_factory=dict)
    told: bool = False
    rows: RowSecurity = field(init=False)
    tables: Tables = field(init=False)
    takeover: Takeover = field(default_factory=Takeover)

    def __post_init__(self) -> None:
        self.rows = RowSecurity(self.engine, self.unit.database, self.book, self.may_write)
        self.tables = Tables(self.engine, self.unit.database, self.may_write)

    def book(self, claims: Snapshot) -> ClaimBook:
        """Who owns what, by the claims of a look."""
        alive = self.unit.alive or (lambda resource: True)
        return ClaimBook(claims.claims, self.unit.cluster, self.compiled.resources, alive)

    def split(self, found: Sequence[c.Change], granted: Collection[c.Change]) -> tuple[list[c.Change], list[c.Change]]:
        """What may be made now, and what waits; ``granted`` are the changes that a person approved."""
        return split(found, self.compiled.policies, granted, self.plan_only, self.takeover.takes)

    @property
    def straight(self) -> bool:
        """Whether the first look may be the one under the lock.

        So for what is new: there will be something to do. Not where the whole plan has to be known before its first
        part is made, for an approval or to tell of drift.
        """
        known = self.engine.seen(self.unit.database) is not None
        policies = self.compiled.policies.values()
        careful = any(policy.verified or policy.approved or not policy.automatic for policy in policies)
        return not (self.plan_only or known or careful)

    def find_drift(self, found: Iterable[c.Change]) -> None:
        """What differs although this very generation had been verified; new objects of a migration are no drift."""
        seen = self.engine.seen(self.unit.database)
        for change in found:
            if not self.compiled.policies[change.member].verified or isinstance(change, c.BOOKKEEPING):
                continue
            if seen is not None and isinstance(change, ClosePartition) and ("partition", *change.partition) not in seen:
                continue
            if isinstance(change, OnTable) and (change.upkeep or _new_table(change, seen)):
                continue
            if seen is not None and isinstance(change, c.GrantPrivileges) and change.what.kind in _MIGRATED:
                what = change.what
                if not any((what.kind, what.schema, name) in seen for name in what.names):
                    continue
            self.drift.setdefault(change.member, set()).add(change.ref)

    def untold(self, now: Iterable[c.Change]) -> dict[str, frozenset[ObjectRef]]:
        """By member what drifted, where it is to be repaired now and nobody was told yet."""
        if self.told or self.unit.on_drift is None:
            return {}
        writing = {change.member for change in now if not isinstance(change, c.BOOKKEEPING)}
        return {uid: frozenset(refs) for uid, refs in self.drift.items() if uid in writing}

    async def tell(self, now: Iterable[c.Change]) -> None:
        """Await the unit's ``on_drift`` for what is untold; no lock and no session may be held."""
        drift = self.untold(now)
        if drift and self.unit.on_drift is not None:
            self.told = True
            await self.unit.on_drift(drift)


def foreseen(snapshot: Snapshot, cluster: Sequence[c.Change]) -> Snapshot:
    """The snapshot with the roles that the server-wide changes rename and make: what is given to them is one plan."""
    found = renamed_snapshot(snapshot, role_renames(cluster))
    made = {change.role: CurrentRole(change.role) for change in cluster if isinstance(change, c.CreateRole)}
    return replace(found, roles={**found.roles, **made}) if made else found


def _new_table(change: OnTable, seen: frozenset[tuple[str, str, str]] | None) -> bool:
    """Whether a trigger or view is missing because a migration made the table."""
    base = change.of if isinstance(change, PutView) else change.table
    return seen is not None and isinstance(change, (PutTrigger, PutView)) and ("table", *base) not in seen


def new_database(desired: Desired, server: Snapshot, cluster: Sequence[c.Change]) -> Snapshot:
    """How a database that does not exist will look once the server-wide changes are made."""
    owner = desired.database.owner or server.me
    public = AclGroup("schema", "", "pg_database_owner", ("public",), {"PUBLIC": frozenset({"USAGE"})})
    itself = AclGroup("database", "", owner, ("",), {"PUBLIC": frozenset({"CONNECT", "TEMPORARY"})})
    roles = dict(server.roles)
    for change in cluster:
        if isinstance(change, c.CreateRole):
            roles[change.role] = server.roles.get(change.role) or CurrentRole(change.role)
    return replace(
        server,
        database_owner=owner,
        database_settings={},
        roles=roles,
        schemas={"public": ("pg_database_owner", "standard public schema")},
        extensions={},
        groups=(itself, public),
        functions={},
        row_security={},
        tables=None,
        available=dict.fromkeys(extension.name for extension in desired.extensions),
        claims={},
    )
