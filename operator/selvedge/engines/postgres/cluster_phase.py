"""What one unit wants of the server-wide part: roles, memberships, the database itself, and the claims of these."""

from __future__ import annotations

from typing import TYPE_CHECKING

from selvedge.core.postgres import changes as c
from selvedge.core.postgres.gate import late
from selvedge.engines.postgres.looks import ClusterView

if TYPE_CHECKING:
    from selvedge.engines.postgres.passes import Pass


class ClusterPhase:
    """A pass's turn in the server-wide part; see :class:`selvedge.engines.postgres.turns.Turn`.

    ``now`` is what may be made, ``todo`` what is made in this phase and transaction, ``creation`` what comes after it.
    ``untold``: nothing was made, because somebody is to be told of drift before.
    """

    def __init__(self, one: Pass, late_only: bool) -> None:
        self._pass = one
        self._late_only = late_only
        self.now: list[c.Change] = []
        self.todo: list[c.Change] = []
        self.creation: list[c.CreateDatabase] = []
        self.untold = False

    @property
    def roles(self) -> frozenset[str]:
        """The roles that the declaration names."""
        return self._pass.desired.role_names()

    @property
    def keys(self) -> tuple[str, ...]:
        """The server-wide objects that it declares."""
        return self._pass.keys

    @property
    def resources(self) -> tuple[str, ...]:
        """The unit's resources."""
        return self._pass.resources

    def may_write(self) -> None:
        """Raise where this process does not lead any more."""
        self._pass.work.may_write()

    def decide(self, view: ClusterView) -> list[c.Change]:
        """What is made in this transaction; the pass takes over what was seen."""
        one = self._pass
        self.now, self.todo, self.creation, self.untold = [], [], [], False
        one.note(view.snapshot)
        one.engine.check_identity(view.snapshot)
        one.remember(view.snapshot)
        changes, one.cluster_problems = one.cluster_diff(view, view.snapshot)
        one.exists = one.desired.database.name in view.databases
        if one.refused():
            one.pending_cluster, one.pending_inside = [], []
            return []
        if not one.looked:
            one.foresee(changes, view.snapshot)
        elif not self._late_only:
            one.approvals.compare_cluster(changes)
        self.now, one.pending_cluster = one.gate(changes)
        if not self._late_only:
            one.last_phase = any(late(change) for change in self.now)
        self.untold = bool(one.work.untold(self.now))
        creation = [change for change in self.now if isinstance(change, c.CreateDatabase)]
        if not self.untold and (one.exists or creation):
            self.creation = creation
            self.todo = self._in_phase(self.now)
        return self.todo

    def residue(self, view: ClusterView) -> list[c.Change]:
        """What of it is still to be done."""
        one = self._pass
        changes, _ = one.cluster_diff(view, view.snapshot)
        return [x for x in self._in_phase(one.gate(changes)[0]) if not isinstance(x, c.DropClaims)]

    def _in_phase(self, now: list[c.Change]) -> list[c.Change]:
        """What of the server-wide changes is made in this phase; roles go last, and their claims with them."""
        retired = {x.ref for x in now if isinstance(x, c.DropRole)}
        todo: list[c.Change] = []
        for change in now:
            if isinstance(change, c.CreateDatabase):
                continue
            if isinstance(change, c.DropClaims):
                if self._late_only or change.ref not in retired:
                    todo.append(change)
            elif late(change) == self._late_only:
                todo.append(change)
        return todo
