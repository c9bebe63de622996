"""What grants and default privileges ask for, spelled out object by object or schema by schema."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from selvedge.core.postgres.default_privileges import DesiredDefault
from selvedge.core.postgres.model import ALL_PRIVILEGES, PUBLIC, AclGroup, DesiredGrant, Problem
from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectRef, ObjectState, ObjectStatus

#: An object inside the database: (kind, schema, name).
ObjectKey = tuple[str, str, str]

#: In place of a schema's name: every schema.
EVERYWHERE = "\0"


class Asking(Protocol):
    """A grant, or default privileges: who asks for a privilege."""

    @property
    def member(self) -> str:
        """The uid of the DatabaseSchema."""
        ...

    @property
    def ref(self) -> ObjectRef:
        """The object as statuses name it."""
        ...

    @property
    def grantable(self) -> bool:
        """WITH GRANT OPTION."""
        ...


Asked = dict[str, Asking]


def expand(privileges: Iterable[str], kind: str, version: int) -> frozenset[str]:
    """Spell ``ALL`` out for the kind of object and the server's version; TEMP is TEMPORARY."""
    wanted = {"TEMPORARY" if name == "TEMP" else name for name in privileges}
    if "ALL" in wanted:
        wanted.discard("ALL")
        wanted |= ALL_PRIVILEGES[kind]
        if kind == "table" and version >= 170000:
            wanted.add("MAINTAIN")
    return frozenset(wanted)


def base(kind: str) -> str:
    """A partition is a table when it is named; ``tablesIn`` leaves it out."""
    return "table" if kind == "partition" else kind


@dataclass(slots=True)
class Index:
    """Live objects by key; built once for a diff."""

    groups: tuple[AclGroup, ...]
    version: int
    functions: Mapping[str, tuple[str, str] | None]
    known: set[ObjectKey] = field(default_factory=set)

    def __post_init__(self) -> None:
        for group in self.groups:
            kind = base(group.kind)
            self.known.update((kind, group.schema, name) for name in group.names)


def _nested() -> defaultdict[tuple[str, str], dict[str, Asked]]:
    return defaultdict(dict)


@dataclass(slots=True)
class Wanted:
    """Privileges by grantee: for every object of a kind in a schema, for what one role owns of these, and by object."""

    by_schema: defaultdict[tuple[str, str], dict[str, Asked]] = field(default_factory=_nested)
    by_owner: defaultdict[tuple[str, str], dict[str, dict[str, Asked]]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    by_object: dict[ObjectKey, dict[str, Asked]] = field(default_factory=dict)

    def names(self) -> set[ObjectKey]:
        """The objects that are named."""
        return set(self.by_object)

    def of(self, group: AclGroup, name: str, *, partitions: bool = False) -> dict[str, Asked]:
        """What is asked for one object of a group; ``partitions``: by role for partitions too."""
        found: dict[str, Asked] = {}
        _merge(found, self.by_schema.get((group.kind, group.schema), {}))
        kind = base(group.kind) if partitions else group.kind
        for schema in (group.schema, EVERYWHERE):
            _merge(found, self.by_owner.get((kind, schema), {}).get(group.owner, {}))
        _merge(found, self.by_object.get((base(group.kind), group.schema, name), {}))
        return found


def _merge(into: dict[str, Asked], more: Mapping[str, Asked]) -> None:
    for grantee, privileges in more.items():
        put(into, grantee, privileges)


def put(into: dict[str, Asked], grantee: str, privileges: Asked) -> None:
    """Add privileges of a grantee; where two ask for one, the grant option wins."""
    have = into.setdefault(grantee, {})
    for privilege, ask in privileges.items():
        if privilege not in have or (ask.grantable and not have[privilege].grantable):
            have[privilege] = ask


def collect(grant: DesiredGrant, into: Wanted, index: Index, known_roles: frozenset[str]) -> list[Problem]:
    """Write one grant into the table of what is wanted; what cannot be resolved yet is a problem and waits."""
    return _Collector(grant, into, index, known_roles).run()


def collect_default(default: DesiredDefault, into: Wanted, known_roles: frozenset[str], version: int) -> None:
    """The same for what the creators of default privileges own already."""
    privileges: Asked = dict.fromkeys(expand(default.privileges, default.kind, version), default)
    grantees = [name for name in default.to if name == PUBLIC or name in known_roles]
    for schema in default.schemas or (EVERYWHERE,):
        for creator in default.creators:
            owned = into.by_owner[default.kind, schema].setdefault(creator, {})
            for grantee in grantees:
                put(owned, grantee, privileges)


class _Collector:
    def __init__(self, grant: DesiredGrant, into: Wanted, index: Index, known_roles: frozenset[str]) -> None:
        self.grant = grant
        self.into = into
        self.index = index
        self.kind = grant.target.kind
        self.privileges: Asked = dict.fromkeys(expand(grant.privileges, self.kind, index.version), grant)
        self.grantees = [name for name in grant.to if name == PUBLIC or name in known_roles]
        self.problems: list[Problem] = []

    def run(self) -> list[Problem]:
        target = self.grant.target
        for name in self.grant.to:
            if name not in self.grantees:
                self.waiting(f"names role {name}, which does not exist: declare it", Reason.ROLE_NOT_FOUND)
        if target.database:
            self.single("", "")
        for name in (*target.schemas, *target.names):
            self.single("", name)
        for schema in (*target.tables_in, *target.sequences_in, *target.functions_in):
            self.all_in(schema)
        for schema, name in (*target.tables, *target.sequences, *target.types):
            self.single(schema, name)
        for signature in target.functions:
            self.function(signature)
        for schema, table, columns in target.columns:
            for column in columns:
                self.single(schema, f"{table}\0{column}")
        return self.problems

    def waiting(self, message: str, reason: Reason = Reason.WAITING_FOR_OBJECTS) -> None:
        if not self.grant.absent:
            text = f"grant {self.grant.name} {message}"
            status = ObjectStatus(self.grant.ref, ObjectState.WAITING, reason, text)
            self.problems.append(Problem(self.grant.member, status))

    def single(self, schema: str, name: str) -> None:
        key = (self.kind, schema, name)
        if key not in self.index.known:
            shown = ".".join(part for part in (schema, name.replace("\0", ".")) if part)
            what = "declare it" if self.kind == "schema" else "a migration has to create it"
            kind = {"server": "foreign server", "wrapper": "foreign data wrapper"}.get(self.kind, self.kind)
            self.waiting(f"names {kind} {shown}, which does not exist yet: {what}")
            return
        by_grantee = self.into.by_object.setdefault(key, {})
        for grantee in self.grantees:
            put(by_grantee, grantee, self.privileges)

    def all_in(self, schema: str) -> None:
        if ("schema", "", schema) not in self.index.known:
            self.waiting(f"names schema {schema}, which does not exist: declare it in spec.postgres.schemas")
        by_grantee = self.into.by_schema[self.kind, schema]
        for grantee in self.grantees:
            put(by_grantee, grantee, self.privileges)

    def function(self, signature: str) -> None:
        resolved = self.index.functions.get(signature)
        if resolved is None:
            self.waiting(f"names function {signature}, which does not exist yet: a migration has to create it")
        else:
            self.single(*resolved)
