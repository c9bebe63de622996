"""Row-level security as data: what is declared, what stands, and what a difference between the two consists of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from selvedge.core.names import PUBLIC
from selvedge.core.postgres.change import Change, Problem
from selvedge.core.postgres.rls_changes import RowPolicy, TableKey
from selvedge.core.postgres.rls_record import KIND, Canonical
from selvedge.core.unit import ObjectRef


@dataclass(frozen=True, slots=True)
class TenantProbe:
    """Two tenants are sampled from ``column``; ``role`` sees neither's rows but through ``setting``."""

    column: str
    setting: str
    role: str
    writes: bool = False


@dataclass(frozen=True, slots=True)
class Expectation:
    """``role`` sees all rows, or none."""

    role: str
    sees_all: bool


@dataclass(frozen=True, slots=True)
class DesiredRowSecurity:
    """An entry of ``spec.postgres.rowLevelSecurity``; absent policies are left out."""

    member: str
    schema: str
    table: str
    force: bool = False
    policies: tuple[RowPolicy, ...] = ()
    tenant: TenantProbe | None = None
    expect: tuple[Expectation, ...] = ()

    @property
    def key(self) -> TableKey:
        """Schema and table."""
        return self.schema, self.table

    @property
    def ref(self) -> ObjectRef:
        """The entry as statuses name it."""
        return table_ref(self.key)

    @property
    def probed(self) -> bool:
        """Whether anything is to be tried."""
        return self.tenant is not None or bool(self.expect)

    def digest(self) -> str:
        """What identifies this declaration."""
        tenant = self.tenant and [self.tenant.column, self.tenant.setting, self.tenant.role, self.tenant.writes]
        policies = [[p.name, p.command, p.permissive, p.roles, p.using, p.check] for p in sorted(self.policies)]
        expect = sorted([e.role, e.sees_all] for e in self.expect)
        return fingerprint([self.force, policies, tenant, expect])

    def role_names(self) -> frozenset[str]:
        """The roles that policies and probes name."""
        names = {role for policy in self.policies for role in policy.roles if role != PUBLIC}
        names.update(expectation.role for expectation in self.expect)
        return frozenset(names | ({self.tenant.role} if self.tenant else set()))


@dataclass(frozen=True, slots=True)
class PartitionState:
    """A partition at any depth below a table.

    ``grants`` are those to others than its owner, by grantee and grantor; empty where the owner gave it.
    """

    schema: str
    name: str
    enabled: bool = False
    forced: bool = False
    foreign: bool = False
    owner: str = ""
    policies: tuple[str, ...] = ()
    grants: Mapping[tuple[str, str], frozenset[str]] = field(default_factory=dict)

    @property
    def key(self) -> TableKey:
        """Schema and name."""
        return self.schema, self.name


@dataclass(frozen=True, slots=True)
class TableState:
    """A table as it is. ``rows`` is the server's estimate, ``functions`` a fingerprint of what its policies call.

    ``privileged``: whoever is the owner may act as an administrator, so nothing of a declaration is run as he.
    """

    schema: str
    table: str
    owner: str = ""
    privileged: bool = False
    relation: str = "r"
    enabled: bool = False
    forced: bool = False
    rows: int = 0
    policies: Mapping[str, RowPolicy] = field(default_factory=dict)
    functions: str = ""
    partitions: tuple[PartitionState, ...] = ()

    @property
    def key(self) -> TableKey:
        """Schema and table."""
        return self.schema, self.table

    def renamed(self, role: Callable[[str], str]) -> TableState:
        """The table as it will be when roles have other names: policies know roles by number."""
        policies = {
            name: replace(policy, roles=normal_roles(map(role, policy.roles))) for name, policy in self.policies.items()
        }
        return replace(self, owner=role(self.owner), policies=policies)


Question = tuple[TableKey, str | None, str | None]
"""A table, and the declared expressions of one of its policies."""

Learned = Mapping[Question, Canonical | str]
"""What the server makes of declared expressions; a text is why it refuses them."""


@dataclass(slots=True)
class RowSecurityDiff:
    """Changes, problems, and what has to be learned or proven before more can be said.

    ``unlearned`` are declared policies of which the server's words are not known; ``unproven`` the tables that stand
    as declared and whose probes have to be run; ``unprotected`` those that stay open: nothing is granted on them.
    """

    changes: list[Change] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    unlearned: list[tuple[DesiredRowSecurity, RowPolicy]] = field(default_factory=list)
    unproven: list[DesiredRowSecurity] = field(default_factory=list)
    unprotected: set[TableKey] = field(default_factory=set)


def fingerprint(value: object) -> str:
    """A short digest of JSON data."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def question(key: TableKey, policy: RowPolicy) -> Question:
    """What has to be asked of the server about a declared policy."""
    return key, policy.using, policy.check


def table_ref(key: TableKey) -> ObjectRef:
    """How statuses name the row-level security of a table."""
    return ObjectRef(KIND, ".".join(key))


def claim_key(key: TableKey) -> str:
    """The name of a table's claim."""
    return f"{KIND}:{'.'.join(key)}"


def normal_roles(roles: Iterable[str]) -> tuple[str, ...]:
    """Sorted, and PUBLIC alone where it is among them: it covers all others."""
    names = sorted(set(roles))
    return (PUBLIC,) if PUBLIC in names else tuple(names)


def state_digest(table: TableState) -> str:
    """What a proof is about: what stands on the table, and the functions that its policies call."""
    policies = [[p.name, p.command, p.permissive, p.roles, p.using, p.check] for p in sorted(table.policies.values())]
    partitions = sorted([*p.key, p.enabled, p.forced, sorted(p.policies)] for p in table.partitions)
    return fingerprint([table.enabled, table.forced, policies, table.functions, partitions])


def proof_key(entry: DesiredRowSecurity, current: TableState) -> str:
    """What a proof holds for: this declaration and this state of the table."""
    return fingerprint([entry.digest(), state_digest(current)])
