"""All DatabaseSchemas on one database as one desired state: who owns which object, and what of ours has to go.

Pure: declarations, what was found and the claims go in. Conflicts are per object: the older claim wins, and the younger
resource never drops or changes what it does not own.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from selvedge.api.databaseschema import Adoption, Collection, Prune
from selvedge.core.mongodb.model import Desired, collection_ref, index_ref
from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectRef, ObjectState, ObjectStatus
from selvedge.engines.mongodb import declare
from selvedge.engines.mongodb.claims import COLLECTION, DATABASE, RESERVED_PREFIX, Claim, is_metadata, own_database

if TYPE_CHECKING:
    from collections.abc import Mapping

    from selvedge.core.mongodb import model
    from selvedge.engines.base import Member, Unit
    from selvedge.engines.mongodb.inspect import Snapshot

_RESERVED_DATABASES = frozenset({"admin", "local", "config"})


@dataclass
class Compilation:
    """The desired state and, by object or by uid, who it comes from. Built once, then only read."""

    desired: Desired = field(default_factory=Desired)
    owners: dict[ObjectRef, str] = field(default_factory=dict)
    declared: dict[str, list[ObjectRef]] = field(default_factory=dict)
    collections: dict[str, list[str]] = field(default_factory=dict)
    indexes: dict[str, list[tuple[str, ObjectRef]]] = field(default_factory=dict)
    statuses: dict[str, list[ObjectStatus]] = field(default_factory=dict)
    adopted: set[ObjectRef] = field(default_factory=set)
    claims: dict[ObjectRef, Claim] = field(default_factory=dict)
    releases: set[ObjectRef] = field(default_factory=set)


def declared_names(unit: Unit) -> set[str]:
    """Every collection that some member speaks of, also under a former name."""
    names: set[str] = set()
    for member in unit.members:
        for entry in _declared(member):
            names |= {entry.name} | ({entry.renamed_from} if entry.renamed_from else set())
    return names


def compile_unit(unit: Unit, found: Snapshot, metadata: str = "selvedge") -> Compilation:
    """Compile all members of a unit against what was found; ``metadata`` is the operator's own database."""
    return _Compiler(unit, found, metadata).run()


def _declared(member: Member) -> tuple[Collection, ...]:
    mongodb = member.spec.mongodb
    return () if member.deleting or mongodb is None else mongodb.collections


class _Compiler:
    def __init__(self, unit: Unit, found: Snapshot, metadata: str) -> None:
        self.unit = unit
        self.metadata = metadata
        self.found = found
        self.live = found.live.collections
        self.result = Compilation()
        self.wanted: list[model.Collection] = []
        self.drop_indexes: list[tuple[str, str]] = []
        self.drop_collections: list[str] = []
        # Collections of which nothing is known to have left: their declaration could not be taken as it stands.
        self.unclear: set[str] = set()
        self.refused: set[str] = set()
        members = sorted(unit.members, key=lambda member: (member.created, member.uid))
        self.members = {member.uid: member for member in members}
        self.active = {member.uid: member for member in members if not member.deleting}
        # The database of somebody else: it holds collections, and not one claim.
        self.unclaimed = bool(found.foreign) and not found.claims

    def run(self) -> Compilation:
        result = self.result
        candidates: dict[str, list[tuple[Member, Collection]]] = {}
        for member in self.members.values():
            result.declared[member.uid] = []
            result.collections[member.uid] = []
            result.indexes[member.uid] = []
            result.statuses[member.uid] = []
            refusal = self._refused(member)
            if refusal is not None:
                result.statuses[member.uid].append(refusal)
                self.refused.add(member.uid)
                continue
            self._roles(member)
            for entry in _declared(member):
                result.declared[member.uid].append(collection_ref(entry.name))
                indexes = [index_ref(entry.name, index.name) for index in entry.indexes]
                result.declared[member.uid].extend(indexes)
                result.indexes[member.uid].extend((entry.name, ref) for ref in indexes)
                candidates.setdefault(entry.name, []).append((member, entry))
        for claimants in candidates.values():
            self._collection(claimants)
        self._left_behind({name for name, claimants in candidates.items() if claimants})
        self._claim_database()
        result.desired = Desired(tuple(self.wanted), tuple(self.drop_indexes), tuple(self.drop_collections))
        return result

    def _refused(self, member: Member) -> ObjectStatus | None:
        database = self.unit.database
        ref = ObjectRef("database", database)
        if member.deleting:
            return None
        if database in _RESERVED_DATABASES:
            message = f"database {database} belongs to MongoDB itself: declare another one"
            return ObjectStatus(ref, ObjectState.FAILED, Reason.FORBIDDEN_NAME, message)
        if is_metadata(database, self.metadata):
            message = own_database(database)
            return ObjectStatus(ref, ObjectState.FAILED, Reason.INVALID_SPEC, message)
        claim = self.found.claims.get(DATABASE)
        if claim is not None and claim.cluster != self.unit.cluster:
            return ObjectStatus(ref, ObjectState.CONFLICT, Reason.CONFLICT, self._foreign(ref, claim))
        if self.unit.access is not None:
            patterns = self.unit.access(member).databases
            if not any(fnmatch.fnmatchcase(database, pattern) for pattern in patterns):
                message = (
                    f"namespace {member.namespace} may not use database {database}: "
                    "ask whoever keeps the DatabaseServer for an entry in spec.access"
                )
                return ObjectStatus(ref, ObjectState.FAILED, Reason.ACCESS_DENIED, message)
        return None

    def _roles(self, member: Member) -> None:
        """Said, not passed over: Ready would be a lie."""
        mongodb = member.spec.mongodb
        for role in () if member.deleting or mongodb is None else mongodb.roles:
            ref = ObjectRef("role", role.name)
            message = f"{ref} is not made by this version: create it with db.createRole() and leave it out of the spec"
            self.result.declared[member.uid].append(ref)
            self.result.statuses[member.uid].append(ObjectStatus(ref, ObjectState.FAILED, Reason.UNSUPPORTED, message))

    def _collection(self, claimants: list[tuple[Member, Collection]]) -> None:
        entry = claimants[0][1]
        ref = collection_ref(entry.name)
        owner, claim, refusal = self._owner(ref, [member for member, _ in claimants])
        for member, other in claimants:
            if member.uid == owner.uid and refusal is None:
                self._owned(member, other, claim)
                continue
            if member.uid == owner.uid and refusal is not None:
                self.unclear.add(entry.name)
                state, reason, message = refusal
            else:
                state, reason = ObjectState.CONFLICT, Reason.CONFLICT
                message = (
                    f"{ref} is claimed by DatabaseSchema {owner.namespace}/{owner.name}: "
                    "declare it in one of the two only"
                )
            for each in (ref, *(index_ref(other.name, index.name) for index in other.indexes)):
                self.result.statuses[member.uid].append(ObjectStatus(each, state, reason, message))

    def _owner(
        self, ref: ObjectRef, claimants: list[Member]
    ) -> tuple[Member, Claim, tuple[ObjectState, Reason, str] | None]:
        """Who owns an object, the claim as it should be, and why it may not be touched yet."""
        first = claimants[0]
        claim = self.found.claims.get(ref)
        exists = ref.name in self.live
        if claim is None:
            fresh = self._claim(ref, first, ref.name, made=not exists)
            if exists or self.unclaimed:
                what = str(ref) if exists else f"database {self.unit.database}"
                return first, fresh, self._adoption(first, what, "nobody claims it")
            return first, fresh, None
        if claim.cluster != self.unit.cluster:
            return first, claim, (ObjectState.CONFLICT, Reason.CONFLICT, self._foreign(ref, claim))
        holder = next((member for member in claimants if member.uid == claim.resource), None)
        if holder is not None:
            return holder, self._claim(ref, holder, ref.name, claim.made, claim), None
        # Its resource is gone or let go of it. One of the same name goes on where it ended; another takes over, and
        # what it takes over it did not make.
        successor = self._heir(claim, claimants)
        inside = any((m.namespace, m.name) == (claim.namespace, claim.name) for m in self.members.values())
        if successor is None and not inside and self.unit.alive is not None and self.unit.alive(claim.holder):
            message = f"{ref} is claimed by DatabaseSchema {claim.holder}: declare it in one of the two only"
            return first, claim, (ObjectState.CONFLICT, Reason.CONFLICT, message)
        taker = successor or first
        return taker, self._claim(ref, taker, ref.name, claim.made and successor is not None, claim), None

    def _foreign(self, ref: ObjectRef, claim: Claim) -> str:
        """What is said of an object that a DatabaseSchema of another Kubernetes cluster holds, and how to get it."""
        database = self.unit.database
        claims = f'db.getSiblingDB("{self.metadata}").{COLLECTION}'
        return (
            f"{ref} is claimed by DatabaseSchema {claim.holder} of another cluster ({claim.cluster}): "
            "remove it from one of the two; if that cluster is gone for good, remove its claims with "
            f'{claims}.deleteMany({{"_id.database": "{database}", cluster: "{claim.cluster}"}}) '
            "and set spec.adoption to Allow"
        )

    @staticmethod
    def _heir(claim: Claim, claimants: list[Member]) -> Member | None:
        """The claimant of the same namespace and name: the holder itself, restored or made again."""
        return next((m for m in claimants if (m.namespace, m.name) == (claim.namespace, claim.name)), None)

    def _adoption(self, member: Member, what: str, whose: str) -> tuple[ObjectState, Reason, str] | None:
        if member.spec.adoption is Adoption.ALLOW:
            return None
        if member.spec.adoption is Adoption.REFUSE:
            message = f"{what} exists and {whose}, and spec.adoption is Refuse: declare another name"
            return ObjectState.FAILED, Reason.CONFLICT, message
        message = f"{what} exists and {whose}: set spec.adoption to Allow to take it over, or declare another name"
        return ObjectState.PENDING, Reason.ADOPTION_REQUIRED, message

    def _claim(self, ref: ObjectRef, member: Member, collection: str, made: bool, before: Claim | None = None) -> Claim:
        validates = before is not None and before.validates
        return Claim(ref, collection, member.uid, self.unit.cluster, member.namespace, member.name, made, validates)

    def _owned(self, member: Member, entry: Collection, claim: Claim) -> None:
        if member.spec.suspend:
            return
        ref = collection_ref(entry.name)
        live = self.live.get(entry.name)
        self._own(ref, member, claim)
        problem = self._unusable(entry)
        if problem is not None:
            self.unclear.add(entry.name)
            self.result.statuses[member.uid].append(problem)
            return
        if entry.ensure.value == "Absent":
            if live is None:
                self._release(ref)
            else:
                self._keep(claim)
                self.drop_collections.append(entry.name)
            return
        try:
            wanted = declare.collection(entry, claim.validates)
        except declare.MALFORMED as error:
            message = f"{ref} holds a validator or filter that MongoDB cannot read ({error}): correct it"
            failed = ObjectStatus(ref, ObjectState.FAILED, Reason.INVALID_SPEC, message)
            self.result.statuses[member.uid].append(failed)
            self.unclear.add(entry.name)
            return
        self.result.collections[member.uid].append(entry.name)
        still = wanted.validator is not None or (claim.validates and live is not None and live.validator is not None)
        self._keep(replace(claim, validates=still))
        indexes: list[model.Index] = []
        for index in entry.indexes:
            indexes.extend(self._index(member, entry, index.name, wanted))
        self.wanted.append(replace(wanted, indexes=tuple(indexes)))

    def _index(self, member: Member, entry: Collection, name: str, wanted: model.Collection) -> tuple[model.Index, ...]:
        ref = index_ref(entry.name, name)
        live = self.live.get(entry.name)
        standing = live is not None and live.index(name) is not None
        before = self.found.claims.get(ref)
        made = not standing
        if before is not None:
            same = before.resource == member.uid or (before.namespace, before.name) == (member.namespace, member.name)
            made = before.made and same and before.cluster == self.unit.cluster
        claim = self._claim(ref, member, entry.name, made, before)
        self._own(ref, member, claim)
        index = next((each for each in wanted.indexes if each.name == name), None)
        if index is None:
            if standing:
                self._keep(claim)
                self.drop_indexes.append((entry.name, name))
            else:
                self._release(ref)
            return ()
        former = next(declared.renamed_from for declared in entry.indexes if declared.name == name)
        if former and not standing and live is not None and live.index(former) is not None:
            message = f"{ref} cannot be renamed from {former} where it stands: drop {former}, it is built anew"
            self.result.statuses[member.uid].append(ObjectStatus(ref, ObjectState.FAILED, Reason.UNSUPPORTED, message))
            return ()
        self._keep(claim)
        return (index,)

    def _unusable(self, entry: Collection) -> ObjectStatus | None:
        ref = collection_ref(entry.name)
        namespace = len(f"{self.unit.database}.{entry.name}".encode())
        if entry.name.startswith(RESERVED_PREFIX):
            message = f"names that begin with {RESERVED_PREFIX} are the operator's own: choose another one"
            return ObjectStatus(ref, ObjectState.FAILED, Reason.FORBIDDEN_NAME, message)
        if namespace > 255:
            message = f"{ref} and its database are {namespace} bytes long and MongoDB takes 255: shorten the name"
            return ObjectStatus(ref, ObjectState.FAILED, Reason.INVALID_SPEC, message)
        if entry.renamed_from and entry.name not in self.live and entry.renamed_from in self.live:
            message = (
                f"{ref} is not renamed from {entry.renamed_from} by this version: rename it with "
                f"db.getCollection('{entry.renamed_from}').renameCollection('{entry.name}')"
            )
            return ObjectStatus(ref, ObjectState.FAILED, Reason.UNSUPPORTED, message)
        return None

    def _left_behind(self, declared: set[str]) -> None:
        """What is claimed by members of this unit and declared by none any more."""
        # Collections first: the indexes of one that goes are not spoken of.
        for ref, claim in sorted(self.found.claims.items()):
            member = self.members.get(claim.resource)
            if member is None or claim.cluster != self.unit.cluster or ref in self.result.owners:
                continue
            if member.uid in self.refused or claim.collection in self.unclear:
                continue
            if member.spec.suspend and not member.deleting:
                continue
            if ref.kind == "collection" and ref.name not in declared:
                self._left_collection(member, claim)
            elif ref.kind == "index" and claim.collection not in self.drop_collections:
                self._left_index(member, claim, claim.collection in declared)

    def _left_collection(self, member: Member, claim: Claim) -> None:
        delete = member.deleting and member.spec.deletion_policy.value == "Delete"
        prune = not member.deleting and member.spec.prune is Prune.OWNED
        if claim.ref.name not in self.live:
            self._release(claim.ref)
        elif claim.made and (delete or prune):
            self.result.owners[claim.ref] = member.uid
            self.drop_collections.append(claim.ref.name)
        elif delete:
            self._release(claim.ref)

    def _left_index(self, member: Member, claim: Claim, declared: bool) -> None:
        live = self.live.get(claim.collection)
        delete = member.deleting and member.spec.deletion_policy.value == "Delete"
        if live is None or live.index(claim.index) is None:
            self._release(claim.ref)
        elif claim.made and (delete or (declared and not member.deleting)):
            self.result.owners[claim.ref] = member.uid
            self.drop_indexes.append((claim.collection, claim.index))
        elif delete or (declared and not member.deleting):
            self._release(claim.ref)

    def _claim_database(self) -> None:
        """The mark that this database is ours, so that a second DatabaseSchema finds no stranger's database."""
        claim = self.found.claims.get(DATABASE)
        first = next((m for m in self.active.values() if not m.spec.suspend and m.uid not in self.refused), None)
        if claim is not None:
            holder = self.members.get(claim.resource)
            if holder is not None and holder.deleting and holder.spec.deletion_policy.value == "Delete":
                self._release(DATABASE)
        elif first is not None and (not self.unclaimed or self.result.claims):
            self._keep(self._claim(DATABASE, first, "", made=not self.found.foreign))

    def _own(self, ref: ObjectRef, member: Member, claim: Claim) -> None:
        self.result.owners[ref] = member.uid
        if not claim.made:
            self.result.adopted.add(ref)

    def _keep(self, claim: Claim) -> None:
        before: Mapping[ObjectRef, Claim] = self.found.claims
        standing = before.get(claim.ref)
        if standing is None or replace(standing, since="") != claim:
            self.result.claims[claim.ref] = claim

    def _release(self, ref: ObjectRef) -> None:
        if ref in self.found.claims:
            self.result.releases.add(ref)
