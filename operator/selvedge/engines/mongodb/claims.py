"""Who owns what in a database: the collection ``claims`` of a database of the operator's own, by default ``selvedge``.

A database of its own, because the user of the migrations may write every collection of the database that it migrates:
claims kept in there could be given away by a migration. Rights on the operator's database nobody gets from us. What
stands in the ``_id`` is the database first, so that the claims of one database are one range of the index on it.

A database that is dropped by hand leaves its claims behind: they say that what is missing is ours to make again.

A claim is written before the object it is about, so that a crash in between leaves a claim without an object, which is
harmless, and never an object that nobody knows to be ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bson import MaxKey, MinKey
from pymongo.errors import OperationFailure

from selvedge.core.errors import NotPermittedError
from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectRef
from selvedge.engines.mongodb.errors import UNAUTHORIZED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from selvedge.engines.mongodb.connect import Server

COLLECTION = "claims"
RESERVED_PREFIX = "selvedge."
"""The operator's own collections in a database that it migrates: the history, its events and its lease."""

DATABASE = ObjectRef("database", "")


@dataclass(frozen=True, slots=True)
class Claim:
    """``made``: the object was not there before its resource. ``validates``: its validator is ours to take away."""

    ref: ObjectRef
    collection: str
    resource: str
    cluster: str
    namespace: str
    name: str
    made: bool
    validates: bool = False
    since: str = ""

    @property
    def index(self) -> str:
        """The index's name without the collection's; names of both may hold dots."""
        return self.ref.name[len(self.collection) + 1 :] if self.ref.kind == "index" else ""

    @property
    def holder(self) -> str:
        """The resource that holds it, as people call it."""
        return f"{self.namespace}/{self.name}"


def key_of(ref: ObjectRef) -> str:
    """How an object is called in the ``_id`` of its claim: ``index:designs.userId``."""
    return f"{ref.kind}:{ref.name}"


def is_metadata(database: str, metadata: str) -> bool:
    """Whether this is the operator's own database: MongoDB knows no two whose names differ in case only."""
    return database.lower() == metadata.lower()


def own_database(database: str) -> str:
    """What is said to whoever declares or migrates the operator's own database."""
    return f"database {database} is the operator's own, where it keeps claims and locks: declare another one"


def of_database(database: str) -> dict[str, Any]:
    """The filter for the claims of one database: a range of the index on ``_id``."""
    return {"_id": {"$gte": _id(database, MinKey()), "$lte": _id(database, MaxKey())}}


def error_of(error: BaseException, server: Server, metadata: str, doing: str) -> Exception:
    """A driver's exception from a command on the operator's own database; names the role that is missing there."""
    if isinstance(error, OperationFailure) and error.code == UNAUTHORIZED:
        return NotPermittedError(
            Reason.INSUFFICIENT_PRIVILEGES,
            f"the operator's user on {server.where} may not do this ({doing}): grant it readWrite on database "
            f"{metadata}, where claims and locks are kept",
        )
    return server.error(error, doing)


def _id(database: str, key: object) -> dict[str, Any]:
    return {"database": database, "object": key}


def from_document(document: Mapping[str, Any]) -> Claim:
    """A claim as it was read."""
    kind, _, name = str(document["_id"]["object"]).partition(":")
    return Claim(
        ref=ObjectRef(kind, name),
        collection=str(document.get("collection", "")),
        resource=str(document.get("resource", "")),
        cluster=str(document.get("cluster", "")),
        namespace=str(document.get("namespace", "")),
        name=str(document.get("name", "")),
        made=bool(document.get("made", False)),
        validates=bool(document.get("validates", False)),
        since=str(document.get("since", "")),
    )


def write_commands(database: str, claims: Iterable[Claim], releases: Iterable[ObjectRef]) -> list[dict[str, Any]]:
    """The commands that write these claims and remove those; at most two, none when there is nothing to do."""
    updates = [_upsert(database, claim) for claim in claims]
    deletes = [_id(database, key_of(ref)) for ref in releases]
    commands: list[dict[str, Any]] = []
    if updates:
        commands.append({"update": COLLECTION, "updates": updates})
    if deletes:
        commands.append({"delete": COLLECTION, "deletes": [{"q": {"_id": {"$in": deletes}}, "limit": 0}]})
    return commands


def _upsert(database: str, claim: Claim) -> dict[str, Any]:
    values = {
        "collection": claim.collection,
        "resource": claim.resource,
        "cluster": claim.cluster,
        "namespace": claim.namespace,
        "name": claim.name,
    }
    # The time is the server's, and only moves when the claim changes hands: clocks of operators differ.
    same = {"$eq": ["$resource", claim.resource]}
    since = {"$cond": [same, {"$ifNull": ["$since", "$$NOW"]}, "$$NOW"]}
    literal = {name: {"$literal": value} for name, value in values.items()}
    update = {"since": since, **literal, "made": claim.made, "validates": claim.validates}
    return {"q": {"_id": _id(database, key_of(claim.ref))}, "u": [{"$set": update}], "upsert": True}
