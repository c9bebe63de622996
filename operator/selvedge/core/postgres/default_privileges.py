"""Default privileges: what new objects of a creating role are born with, as set algebra.

Postgres keeps one ACL for each (creating role, schema or none, kind of object). The two forms differ: the global one
*replaces* the built-in default (everything for the owner, and for PUBLIC EXECUTE on functions and USAGE on types), so
it can take away as well as give; the one of a schema only *adds* to the global one, and a REVOKE in it takes away
nothing but what was added in it before, without any error.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from selvedge.core.names import PUBLIC
from selvedge.core.postgres.change import Change, Narrowing, Problem
from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectRef, ObjectState, ObjectStatus

#: The kind of object that default privileges are for, and all that can be granted on one; MAINTAIN from 17 on.
PRIVILEGES: Mapping[str, frozenset[str]] = {
    "table": frozenset({"SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"}),
    "sequence": frozenset({"USAGE", "SELECT", "UPDATE"}),
    "function": frozenset({"EXECUTE"}),
    "type": frozenset({"USAGE"}),
    "schema": frozenset({"USAGE", "CREATE"}),
}

#: What PUBLIC has on new objects as long as nobody says otherwise.
_PUBLIC: Mapping[str, str] = {"function": "EXECUTE", "type": "USAGE"}


@dataclass(frozen=True, slots=True)
class DesiredDefault:
    """One entry of ``spec.postgres.defaultPrivileges``; no schemas mean the global form."""

    member: str
    name: str
    creators: tuple[str, ...]
    schemas: tuple[str, ...]
    kind: str
    privileges: frozenset[str]
    to: tuple[str, ...]
    grantable: bool = False
    absent: bool = False

    @property
    def ref(self) -> ObjectRef:
        """The entry as statuses name it."""
        return ObjectRef("defaultPrivilege", self.name)


class DefaultKey(NamedTuple):
    """One row of ``pg_default_acl``: ``schema`` is empty for the global form."""

    creator: str
    schema: str
    kind: str


#: What one grantee has: by privilege, whether with the grant option.
Held = Mapping[str, bool]


@dataclass(frozen=True, slots=True)
class LiveDefaults:
    """Default privileges as they are: ``rows`` by key and grantee.

    ``makers`` are, for each schema that was asked for, the logins that may create objects in it and the role whose the
    objects become (``ALTER ROLE … SET role``), themselves where that is not set.
    """

    rows: Mapping[DefaultKey, Mapping[str, Held]] = field(default_factory=dict)
    makers: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)

    def of(self, key: DefaultKey, version: int) -> Mapping[str, Held]:
        """What is in force: the built-in default where no global row replaces it."""
        found = self.rows.get(key)
        if found is not None or key.schema:
            return found or {}
        owner = dict.fromkeys(all_privileges(key.kind, version), False)
        public = _PUBLIC.get(key.kind)
        return {key.creator: owner, **({PUBLIC: {public: False}} if public else {})}


@dataclass(frozen=True, slots=True)
class Defaults:
    """Default privileges of one creator for one grantee; ``schemas`` empty is the global form.

    ``grantable``: WITH GRANT OPTION in a grant, GRANT OPTION FOR in a revocation.
    """

    creator: str
    schemas: tuple[str, ...]
    kind: str
    privileges: tuple[str, ...]
    grantee: str
    grantable: bool = False


@dataclass(frozen=True, slots=True)
class GrantDefaults(Change):
    """``ALTER DEFAULT PRIVILEGES FOR ROLE … GRANT``."""

    what: Defaults


@dataclass(frozen=True, slots=True)
class RevokeDefaults(Narrowing):
    """``ALTER DEFAULT PRIVILEGES FOR ROLE … REVOKE``."""

    what: Defaults


def all_privileges(kind: str, version: int) -> frozenset[str]:
    """What ``ALL`` means for new objects of this kind on this server (``server_version_num``)."""
    return PRIVILEGES[kind] | ({"MAINTAIN"} if kind == "table" and version >= 170000 else set())


def expand(privileges: Iterable[str], kind: str, version: int) -> frozenset[str]:
    """Spell ``ALL`` out."""
    found = frozenset(privileges)
    return found - {"ALL"} | all_privileges(kind, version) if "ALL" in found else found


class _Row(NamedTuple):
    """One privilege of one grantee in one ACL."""

    key: DefaultKey
    grantee: str
    privilege: str


class _Statement(NamedTuple):
    """What one statement says, but for its schemas."""

    creator: str
    everywhere: bool
    kind: str
    grantee: str
    grantable: bool
    member: str
    name: str


def diff_defaults(
    defaults: Sequence[DesiredDefault],
    left: Sequence[DesiredDefault],
    live: LiveDefaults,
    known_roles: frozenset[str],
    known_schemas: frozenset[str],
    version: int,
    all_roles: frozenset[str] | None = None,
) -> tuple[list[Change], list[Problem]]:
    """Grants and revocations, and the entries that wait for a role or a schema or cannot be.

    ``left`` are entries that the declaration held before and does not any more; for them ``all_roles`` counts, which
    has the roles that are to go as well. What is there is not granted again:
    each ALTER DEFAULT PRIVILEGES writes a row of the catalogue, whether it changes anything or not.
    """
    wanted: dict[_Row, DesiredDefault] = {}
    unwanted: dict[_Row, DesiredDefault] = {}
    problems: list[Problem] = []
    for entry in defaults:
        problems += _obstacles(entry, live, known_roles, known_schemas, version)
        for row in _rows(entry, known_roles, known_schemas, version):
            into = unwanted if entry.absent else wanted
            if row not in into or entry.grantable:
                into[row] = entry
    for entry in left:
        for row in _rows(entry, all_roles or known_roles, known_schemas, version):
            unwanted.setdefault(row, entry)
    grants: dict[_Statement, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    revokes: dict[_Statement, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for row, entry in wanted.items():
        held = live.of(row.key, version).get(row.grantee, {}).get(row.privilege)
        if held is None or (entry.grantable and not held):
            _note(grants, row, entry, grantable=entry.grantable)
        elif held and not entry.grantable and row.grantee != row.key.creator:
            _note(revokes, row, entry, grantable=True)
    for row, entry in unwanted.items():
        if row not in wanted and row.privilege in live.of(row.key, version).get(row.grantee, {}):
            _note(revokes, row, entry, grantable=False)
    return [*_changes(revokes, RevokeDefaults), *_changes(grants, GrantDefaults)], problems


def _rows(
    entry: DesiredDefault, known_roles: frozenset[str], known_schemas: frozenset[str], version: int
) -> Iterator[_Row]:
    privileges = expand(entry.privileges, entry.kind, version)
    for creator in entry.creators:
        for schema in entry.schemas or ("",):
            if creator not in known_roles or (schema and schema not in known_schemas):
                continue
            key = DefaultKey(creator, schema, entry.kind)
            for grantee in entry.to:
                if grantee == PUBLIC or grantee in known_roles:
                    yield from (_Row(key, grantee, privilege) for privilege in sorted(privileges))


def _obstacles(
    entry: DesiredDefault,
    live: LiveDefaults,
    known_roles: frozenset[str],
    known_schemas: frozenset[str],
    version: int,
) -> Iterator[Problem]:
    def problem(state: ObjectState, reason: Reason, text: str) -> Problem:
        return Problem(entry.member, ObjectStatus(entry.ref, state, reason, f"{entry.ref} {text}"))

    if not entry.absent:
        for name in (*entry.creators, *(name for name in entry.to if name != PUBLIC)):
            if name not in known_roles:
                text = f"names role {name}, which does not exist: declare it"
                yield problem(ObjectState.WAITING, Reason.ROLE_NOT_FOUND, text)
        for schema in entry.schemas:
            if schema not in known_schemas:
                text = f"names schema {schema}, which does not exist: declare it in spec.postgres.schemas"
                yield problem(ObjectState.WAITING, Reason.WAITING_FOR_OBJECTS, text)
        return
    # A schema's defaults cannot subtract: what the global ones give stays, whatever is revoked in the schema.
    if not entry.schemas:
        return
    for creator in entry.creators:
        for grantee in entry.to:
            given = live.of(DefaultKey(creator, "", entry.kind), version).get(grantee, {}).keys()
            stays = sorted(expand(entry.privileges, entry.kind, version) & given)
            if creator in known_roles and grantee != creator and stays:
                text = (
                    f"cannot take {', '.join(stays)} from {grantee} in single schemas: {creator}'s global default "
                    "gives it; leave schemas out"
                )
                yield problem(ObjectState.FAILED, Reason.INVALID_SPEC, text)


def _note(into: dict[_Statement, dict[str, set[str]]], row: _Row, entry: DesiredDefault, *, grantable: bool) -> None:
    key = row.key
    statement = _Statement(key.creator, not key.schema, key.kind, row.grantee, grantable, entry.member, entry.name)
    into[statement][key.schema].add(row.privilege)


def _changes(
    found: Mapping[_Statement, Mapping[str, set[str]]], kind: type[GrantDefaults] | type[RevokeDefaults]
) -> list[Change]:
    """One statement for all schemas that get the same."""
    changes: list[Change] = []
    for statement in sorted(found):
        alike: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for schema, privileges in found[statement].items():
            alike[tuple(sorted(privileges))].append(schema)
        for privileges_, schemas in sorted(alike.items()):
            what = Defaults(
                statement.creator,
                () if statement.everywhere else tuple(sorted(schemas)),
                statement.kind,
                privileges_,
                statement.grantee,
                statement.grantable,
            )
            changes.append(kind(ObjectRef("defaultPrivilege", statement.name), statement.member, what))
    return changes


def other_makers(
    defaults: Iterable[DesiredDefault], live: LiveDefaults, owners: Mapping[tuple[str, str], frozenset[str]]
) -> list[tuple[str, str]]:
    """For each member's uid what it should know: who makes objects that the declared defaults do not reach.

    ``owners`` are the owners of the objects that exist, by (kind, schema).
    """
    creators: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for entry in defaults:
        if not entry.absent:
            for schema in entry.schemas:
                creators[entry.member, entry.kind, schema].update(entry.creators)
    advice: list[tuple[str, str]] = []
    for (member, kind, schema), listed in sorted(creators.items()):
        if kind not in ("table", "sequence", "function", "type"):
            continue
        for login, becomes in sorted(live.makers.get(schema, ())):
            if login not in listed and becomes not in listed:
                text = (
                    f"login {login} may create {kind}s in schema {schema} and is none of the creators of its default "
                    f"privileges: ALTER ROLE {login} SET role = {min(listed)}, or add it to creators"
                )
                advice.append((member, text))
        for owner in sorted(owners.get((kind, schema), frozenset()) - listed):
            text = (
                f"role {owner} owns {kind}s in schema {schema} and is none of the creators of its default privileges, "
                f"which they do not have: give them to {min(listed)} (OWNER TO), or add {owner} to creators"
            )
            advice.append((member, text))
    return advice
