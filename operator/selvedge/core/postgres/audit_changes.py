"""The typed changes of an audit's log."""

from __future__ import annotations

from dataclasses import dataclass

from selvedge.core.postgres.triggers import OnTable, Table
from selvedge.core.unit import Risk


@dataclass(frozen=True, slots=True)
class MakeLog(OnTable):
    """The log's table, with its indexes, its owner and the writer's privileges; partitions come by themselves."""

    owner: str
    writer: str

    @property
    def risk(self) -> Risk:
        """Additive: it is new."""
        return Risk.ADDITIVE


@dataclass(frozen=True, slots=True)
class OwnLog(OnTable):
    """``ALTER TABLE … OWNER TO`` the audit's owner: who owns the log, or a partition of it, can empty it."""

    relation: Table
    owner: str


@dataclass(frozen=True, slots=True)
class LetWrite(OnTable):
    """USAGE on the schema and INSERT on the log for the role that the functions run as."""

    writer: str

    @property
    def risk(self) -> Risk:
        """Additive."""
        return Risk.ADDITIVE


@dataclass(frozen=True, slots=True)
class ProtectLog(OnTable):
    """Privileges on the log, a partition of it or a ``column`` that nobody is meant to have are taken away.

    Of those in ``options`` only the right to pass them on. All of it as the owner, whose grants all others hang on:
    what was granted on goes with it. ``grantors`` are others who gave some of it; the server keeps what they gave where
    they have lost the right to give it by now.
    """

    relation: Table
    column: str
    grantee: str
    privileges: tuple[str, ...]
    options: tuple[str, ...] = ()
    grantors: tuple[str, ...] = ()

    @property
    def risk(self) -> Risk:
        """Narrowing."""
        return Risk.NARROWING


@dataclass(frozen=True, slots=True)
class DropHook(OnTable):
    """A trigger or rule (``kind``) on the log or a partition of it that nobody declared.

    One that fires before could lose or change entries, and one that fires after runs as the log's writer.
    """

    relation: Table
    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class ExpelMember(OnTable):
    """Nobody may become the role that owns the log or writes it, whoever made him a member."""

    role: str
    grantee: str
    grantor: str = ""

    @property
    def risk(self) -> Risk:
        """Narrowing."""
        return Risk.NARROWING
