"""What every change of a plan has, and what stands in the way of one."""

from __future__ import annotations

from dataclasses import dataclass

from selvedge.core.unit import ObjectRef, ObjectStatus, Risk


@dataclass(frozen=True, slots=True)
class Problem:
    """What stands in the way of one object of one member (its uid)."""

    member: str
    status: ObjectStatus


@dataclass(frozen=True, slots=True)
class Change:
    """What all changes have."""

    ref: ObjectRef
    member: str

    @property
    def risk(self) -> Risk:
        """How much it can hurt (design §4)."""
        return Risk.ADDITIVE


class Narrowing(Change):
    """A change that takes access away."""

    __slots__ = ()

    @property
    def risk(self) -> Risk:
        """Narrowing."""
        return Risk.NARROWING


class Destructive(Change):
    """A change that can lose data."""

    __slots__ = ()

    @property
    def risk(self) -> Risk:
        """Destructive."""
        return Risk.DESTRUCTIVE
