"""What a table's claim remembers of its row-level security: the server's words, the last proof, a change put back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from selvedge.core.postgres.cluster_diff import ClaimBook
from selvedge.core.postgres.rls_changes import RowPolicy, TableKey

KIND = "rowLevelSecurity"


@dataclass(frozen=True, slots=True)
class Canonical:
    """What the server makes (``using``, ``check``) of declared expressions."""

    declared_using: str | None
    declared_check: str | None
    using: str | None
    check: str | None

    def of(self, policy: RowPolicy) -> bool:
        """Whether this is about the expressions of that declaration."""
        return (self.declared_using, self.declared_check) == (policy.using, policy.check)

    def stands_as(self, live: RowPolicy) -> bool:
        """Whether the live policy has just these expressions."""
        return (self.using, self.check) == (live.using, live.check)


@dataclass(frozen=True, slots=True)
class Proof:
    """The result of probes. ``state`` is what they were about, ``rows`` the estimate for the table then.

    ``notes`` say why something was not probed.
    """

    state: str
    passed: int = 0
    failed: int = 0
    not_probed: int = 0
    rows: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PreImage:
    """What stood on a table before a change, in the server's words."""

    enabled: bool = False
    forced: bool = False
    policies: tuple[RowPolicy, ...] = ()


@dataclass(frozen=True, slots=True)
class Broken:
    """A declaration (its digest) whose probes failed, and what was put back in its stead."""

    declared: str
    message: str
    before: PreImage


@dataclass(frozen=True, slots=True)
class TableRecord:
    """All of it. ``standing`` is the digest of the declaration that was last seen to stand.

    ``attempt`` is the pre-image of a change whose probes have not answered yet, with the digest of its declaration.
    """

    standing: str = ""
    canonical: Mapping[str, Canonical] = field(default_factory=dict)
    proof: Proof | None = None
    broken: Broken | None = None
    attempt: tuple[str, PreImage] | None = None

    def detail(self) -> dict[str, object]:
        """As JSON, without what is not there."""
        detail: dict[str, object] = {
            "policies": {
                name: [one.declared_using, one.declared_check, one.using, one.check]
                for name, one in sorted(self.canonical.items())
            },
            "standing": self.standing,
        }
        if self.proof is not None:
            proof = self.proof
            detail["proof"] = {
                "state": proof.state,
                "passed": proof.passed,
                "failed": proof.failed,
                "notProbed": proof.not_probed,
                "rows": proof.rows,
                "notes": list(proof.notes),
            }
        if self.broken is not None:
            detail["broken"] = {
                "declared": self.broken.declared,
                "message": self.broken.message,
                "before": _image_detail(self.broken.before),
            }
        if self.attempt is not None:
            detail["attempt"] = {"declared": self.attempt[0], "before": _image_detail(self.attempt[1])}
        return detail


def record_of(book: ClaimBook, name: str) -> TableRecord:
    """What the claim of this name remembers; an empty record where it is not ours or does not exist."""
    claim = book.claims.get(name)
    if claim is None or not book.mine(name, ""):
        return TableRecord()
    detail: Mapping[str, Any] = claim.detail
    proof = detail.get("proof")
    broken = detail.get("broken")
    attempt = detail.get("attempt")
    return TableRecord(
        standing=detail.get("standing") or "",
        canonical={name: Canonical(*texts) for name, texts in (detail.get("policies") or {}).items()},
        proof=proof
        and Proof(
            proof["state"],
            proof["passed"],
            proof["failed"],
            proof["notProbed"],
            proof["rows"],
            tuple(proof.get("notes") or ()),
        ),
        broken=broken and Broken(broken["declared"], broken["message"], _image(broken["before"])),
        attempt=(attempt["declared"], _image(attempt["before"])) if attempt else None,
    )


def remembered_tables(book: ClaimBook) -> frozenset[TableKey]:
    """The tables that claims of this unit name: the snapshot has to show them, declared or not."""
    found = set()
    for member in book.resources:
        for claim in book.owned(f"{KIND}:", member):
            schema, _, table = claim.object.removeprefix(f"{KIND}:").partition(".")
            found.add((schema, table))
    return frozenset(found)


def _image_detail(image: PreImage) -> dict[str, object]:
    policies = [[p.name, p.command, p.permissive, list(p.roles), p.using, p.check] for p in image.policies]
    return {"enabled": image.enabled, "forced": image.forced, "policies": policies}


def _image(detail: Mapping[str, Any]) -> PreImage:
    policies = tuple(
        RowPolicy(name, command, permissive, tuple(roles), using, check)
        for name, command, permissive, roles, using, check in detail["policies"]
    )
    return PreImage(detail["enabled"], detail["forced"], policies)
