"""What a pass tells of its changes, the digest that an approval names, and which changes a person approved.

A digest covers each statement and what it replaces. Between the look that an approval was compared with and the lock,
somebody may change an object by hand: what is replaced is compared again there, and the approval does not hold for what
is another plan by then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from selvedge.api.base import Destructive
from selvedge.api.databaseschema import Apply, Drift
from selvedge.core.postgres import changes as c
from selvedge.core.postgres.gate import Policy, approved, digest, told
from selvedge.core.postgres.model import Elsewhere, Snapshot
from selvedge.core.postgres.preimage import pre_image
from selvedge.core.postgres.preimage_state import State
from selvedge.core.rowcount import RowCount
from selvedge.core.unit import ChangeSummary, ObjectRef, ObjectStatus, refusal
from selvedge.engines.base import Member
from selvedge.engines.postgres.render import summary


def policy(member: Member) -> Policy:
    """What a member lets happen by itself."""
    spec = member.spec
    return Policy(
        resource=f"{member.namespace}/{member.name}",
        automatic=spec.apply is Apply.AUTO,
        destructive=spec.destructive is Destructive.ALLOW,
        report_drift=spec.drift is Drift.REPORT,
        verified=member.verified,
        approved=spec.approved_plan,
        refuses=member.refuses,
    )


class Approvals:
    """The plan of one pass. ``version`` and ``system_identifier`` are the server's, once it was looked at."""

    def __init__(self, database: str, metadata_schema: str, policies: Mapping[str, Policy]) -> None:
        self.version = 150000
        self.system_identifier = ""
        self.lost: dict[c.Change, RowCount] = {}
        self._database = database
        self._metadata_schema = metadata_schema
        self._policies = policies
        self._granted: dict[tuple[str, str], str] = {}
        self._cluster: State | None = None
        self._inside: State | None = None
        self._foreseen = False
        self._compared = False

    # --- what the differences were computed from ---

    def note(self, snapshot: Snapshot) -> None:
        """Take over which server it is."""
        self.version = snapshot.version
        self.system_identifier = snapshot.system_identifier

    def saw_cluster(
        self, found: Iterable[c.Change], snapshot: Snapshot, elsewhere: Mapping[str, tuple[Elsewhere, ...]]
    ) -> None:
        """The newest difference of the server-wide part, and what it was computed from."""
        self._cluster = State(snapshot, found, elsewhere)

    def saw_inside(self, found: Iterable[c.Change], snapshot: Snapshot) -> None:
        """The same for the database's own part."""
        self._inside = State(snapshot, found)

    # --- what a person approved ---

    def decide(self, whole: Sequence[c.Change], *, exists: bool) -> None:
        """Compare the approvals with the whole plan. Where the database is not there yet, nothing in it is replaced."""
        digests = {uid: self.digest(uid, whole) for uid, policy in self._policies.items() if policy.approved}
        self._granted = {self.key(x): self.before(x) for x in approved(whole, self._policies, digests)}
        self._foreseen = not exists

    def granted(self, found: Iterable[c.Change]) -> frozenset[c.Change]:
        """Those of the changes that were approved."""
        if not self._granted:
            return frozenset()
        return frozenset(x for x in found if not isinstance(x, c.BOOKKEEPING) and self.key(x) in self._granted)

    def compare_cluster(self, found: Iterable[c.Change]) -> None:
        """Under the lock, before anything is made: what was approved has to replace what it replaced then."""
        self._compare(found)

    def compare_inside(self, found: Iterable[c.Change]) -> None:
        """The same in the database: once, since what this pass makes itself changes the rest as well."""
        if not self._compared and not self._foreseen:
            self._compare(found)
        self._compared = True

    def _compare(self, found: Iterable[c.Change]) -> None:
        changed = {x.member for x in self.granted(found) if self._granted[self.key(x)] != self.before(x)}
        self._granted = {key: before for key, before in self._granted.items() if key[0] not in changed}

    def key(self, change: c.Change) -> tuple[str, str]:
        """What is approved: a member's statement."""
        return change.member, self.statement(change)

    # --- what is told ---

    def statement(self, change: c.Change) -> str:
        """The change as a person reads it."""
        return summary(change, version=self.version, database=self._database, metadata_schema=self._metadata_schema)

    def before(self, change: c.Change) -> str:
        """What it replaces, by the newest look."""
        state = self._cluster if isinstance(change, c.SERVER_WIDE) else self._inside
        return pre_image(change, state) if state is not None else ""

    def digest(self, uid: str, found: Iterable[c.Change]) -> str:
        """What an approval of a member's changes has to name; empty where there are none."""
        mine = [(self.statement(x), self.before(x)) for x in _of(uid, found)]
        return digest(self.system_identifier, self._database, mine) if mine else ""

    def made(self, uid: str, found: Iterable[c.Change]) -> tuple[ChangeSummary, ...]:
        """A member's changes that were made."""
        return tuple(ChangeSummary(x.ref, x.risk, self.statement(x)) for x in _of(uid, found))

    def waiting(self, uid: str, found: Iterable[c.Change]) -> tuple[ChangeSummary, ...]:
        """A member's changes that wait, with what they replace and the rows that go with them."""
        return tuple(
            ChangeSummary(x.ref, x.risk, self.statement(x), self.before(x), self.lost.get(x)) for x in _of(uid, found)
        )

    def refused(self, uid: str, found: Iterable[c.Change]) -> tuple[ObjectStatus, ...]:
        """What is said of each object of a member that would lose data and may not, whoever approved it."""
        policy = self._policies[uid]
        statements: dict[ObjectRef, list[str]] = {}
        for change in _of(uid, found):
            if told(change, policy):
                statements.setdefault(change.ref, []).append(self.statement(change))
        return tuple(refusal(ref, "data", policy.refuses, "; ".join(of)) for ref, of in statements.items())


def _of(uid: str, found: Iterable[c.Change]) -> list[c.Change]:
    return [x for x in found if x.member == uid and not isinstance(x, c.BOOKKEEPING)]
