"""Who owns what in a database: the collection ``selvedge.claims`` of that very database.

A claim is written before the object it is about, so that a crash in between leaves a claim without an object, which is
harmless, and never an object that nobody knows to be ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from selvedge.core.unit import ObjectRef

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

COLLECTION = "selvedge.claims"
RESERVED_PREFIX = "selvedge."
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
    """The ``_id`` of a claim: ``index:designs.userId``."""
    return f"{ref.kind}:{ref.name}"


def from_document(document: Mapping[str, Any]) -> Claim:
    """A claim as it was read."""
    kind, _, name = str(document["_id"]).partition(":")
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


def write_commands(claims: Iterable[Claim], releases: Iterable[ObjectRef]) -> list[dict[str, Any]]:
    """The commands that write these claims and remove those; at most two, none when there is nothing to do."""
    updates = [_upsert(claim) for claim in claims]
    deletes = [key_of(ref) for ref in releases]
    commands: list[dict[str, Any]] = []
    if updates:
        commands.append({"update": COLLECTION, "updates": updates})
    if deletes:
        commands.append({"delete": COLLECTION, "deletes": [{"q": {"_id": {"$in": deletes}}, "limit": 0}]})
    return commands


def _upsert(claim: Claim) -> dict[str, Any]:
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
    return {"q": {"_id": key_of(claim.ref)}, "u": [{"$set": update}], "upsert": True}
