"""The typed changes of a plan: one class for each SQL effect. Rendering them to SQL is the engine's.

``ref`` names the declared object that wants the change, ``member`` the DatabaseSchema (its uid).
"""

from __future__ import annotations

from dataclasses import dataclass

from selvedge.core.postgres.change import Change as Change
from selvedge.core.postgres.change import Destructive as Destructive
from selvedge.core.postgres.change import Narrowing as Narrowing
from selvedge.core.postgres.default_privileges import GrantDefaults as GrantDefaults
from selvedge.core.postgres.default_privileges import RevokeDefaults as RevokeDefaults
from selvedge.core.postgres.model import Claim, Membership
from selvedge.core.postgres.renames import RenameRole as RenameRole
from selvedge.core.postgres.renames import RenameSchema as RenameSchema
from selvedge.core.postgres.retirement import HandOverDatabase as HandOverDatabase
from selvedge.core.postgres.retirement import RetireElsewhere as RetireElsewhere
from selvedge.core.postgres.retirement import RetireRole as RetireRole
from selvedge.core.postgres.rls_changes import (
    AlterPolicy,
    ClosePartition,
    CreatePolicy,
    DisableRowSecurity,
    DropPolicy,
    EnableRowSecurity,
    ForceRowSecurity,
)
from selvedge.core.postgres.role_attributes import AlterRole as AlterRole
from selvedge.core.postgres.role_attributes import RestrictRole as RestrictRole
from selvedge.core.postgres.role_attributes import Words

# --- the cluster's phase: run in the maintenance database ---


@dataclass(frozen=True, slots=True)
class CreateRole(Change):
    """``CREATE ROLE name NOLOGIN``, with what is declared besides."""

    role: str
    words: Words = ()


@dataclass(frozen=True, slots=True)
class CommentRole(Change):
    """``COMMENT ON ROLE``."""

    role: str
    comment: str


@dataclass(frozen=True, slots=True)
class SetRoleSetting(Change):
    """``ALTER ROLE … SET setting``; ``value`` None is ``RESET``."""

    role: str
    setting: str
    value: str | None


@dataclass(frozen=True, slots=True)
class SetRoleSettingHere(Change):
    """``ALTER ROLE … IN DATABASE … SET setting``, in the unit's database; ``value`` None is ``RESET``."""

    role: str
    setting: str
    value: str | None


@dataclass(frozen=True, slots=True)
class BecomeAble(Change):
    """The operator's own login becomes a member of a role whose objects it has to change, without inheriting it."""

    role: str


@dataclass(frozen=True, slots=True)
class GrantRole(Change):
    """``GRANT role TO member``, with the options spelled out where the server knows them."""

    grantee: str
    membership: Membership


@dataclass(frozen=True, slots=True)
class RevokeAdminOption(Narrowing):
    """``REVOKE ADMIN OPTION FOR role FROM member``: before Postgres 16 a second GRANT does not take it away."""

    grantee: str
    role: str


@dataclass(frozen=True, slots=True)
class RevokeRole(Narrowing):
    """``REVOKE role FROM member``; from Postgres 16 on what ``grantor`` gave: each grantor's is a row of its own.

    ``cascade``: what the member granted on goes too, or the server refuses.
    """

    grantee: str
    role: str
    grantor: str = ""
    cascade: bool = False


@dataclass(frozen=True, slots=True)
class DropRole(Narrowing):
    """``DROP ROLE``: a group role that we created and that left the declaration."""

    role: str


@dataclass(frozen=True, slots=True)
class CreateDatabase(Change):
    """``CREATE DATABASE name [OWNER owner]``; cannot run in a transaction."""

    database: str
    owner: str | None


@dataclass(frozen=True, slots=True)
class DropDatabase(Destructive):
    """``DROP DATABASE name WITH (FORCE)``; only with ``deletionPolicy: Delete`` and only what we created."""

    database: str


# --- the database's phase ---


@dataclass(frozen=True, slots=True)
class AlterDatabaseOwner(Change):
    """``ALTER DATABASE … OWNER TO``."""

    database: str
    owner: str


@dataclass(frozen=True, slots=True)
class SetDatabaseSetting(Change):
    """``ALTER DATABASE … SET``; ``value`` None is ``RESET``."""

    database: str
    setting: str
    value: str | None


@dataclass(frozen=True, slots=True)
class CreateExtension(Change):
    """``CREATE EXTENSION``; the schema is decided when the server's control file is known."""

    extension: str
    schema: str | None
    version: str | None


@dataclass(frozen=True, slots=True)
class UpdateExtension(Change):
    """``ALTER EXTENSION … UPDATE TO``."""

    extension: str
    version: str


@dataclass(frozen=True, slots=True)
class DropExtension(Destructive):
    """``DROP EXTENSION … RESTRICT``."""

    extension: str


@dataclass(frozen=True, slots=True)
class CreateSchema(Change):
    """``CREATE SCHEMA [AUTHORIZATION]``."""

    schema: str
    owner: str | None


@dataclass(frozen=True, slots=True)
class AlterSchemaOwner(Change):
    """``ALTER SCHEMA … OWNER TO``."""

    schema: str
    owner: str


@dataclass(frozen=True, slots=True)
class CommentSchema(Change):
    """``COMMENT ON SCHEMA``."""

    schema: str
    comment: str


@dataclass(frozen=True, slots=True)
class DropSchema(Destructive):
    """``DROP SCHEMA … RESTRICT``, refused while anything is in it; ``cascade`` on ``deletionPolicy: Delete``."""

    schema: str
    cascade: bool = False


@dataclass(frozen=True, slots=True)
class Privileges:
    """Privileges on objects of one kind in one schema; ``names`` sorted. For columns: ``table NUL column``.

    ``grantable`` is WITH GRANT OPTION in a grant and GRANT OPTION FOR in a revocation, which is also where ``cascade``
    and ``grantor`` count: empty for what the owner gave. ``owner`` is set where the operator's login is no superuser
    and has to become the owner first.
    """

    kind: str
    schema: str
    names: tuple[str, ...]
    privileges: tuple[str, ...]
    grantee: str
    grantable: bool = False
    grantor: str = ""
    cascade: bool = False
    owner: str = ""


@dataclass(frozen=True, slots=True)
class GrantPrivileges(Change):
    """One GRANT for many objects."""

    what: Privileges


@dataclass(frozen=True, slots=True)
class RevokePrivileges(Narrowing):
    """One REVOKE for many objects."""

    what: Privileges


@dataclass(frozen=True, slots=True)
class WriteClaims(Change):
    """Insert or update rows of the claims table. Bookkeeping: never shown in a plan."""

    claims: tuple[Claim, ...]


@dataclass(frozen=True, slots=True)
class DropClaims(Change):
    """Delete rows of the claims table."""

    objects: tuple[str, ...]


#: What is made in the maintenance database before the database's own part, and after it.
_FIRST: tuple[type[Change], ...] = (
    RenameRole,
    CreateRole,
    RestrictRole,
    BecomeAble,
    AlterRole,
    CommentRole,
    SetRoleSetting,
    RevokeAdminOption,
    GrantRole,
    CreateDatabase,
)
_LAST: tuple[type[Change], ...] = (RevokeRole, HandOverDatabase, RetireElsewhere, DropDatabase, DropRole)

#: All changes of the server-wide part; the others are of the database.
SERVER_WIDE = (*_FIRST, *_LAST)

#: Restrict before widen, and what is needed before what needs it (facts §1.7).
ORDER: tuple[type[Change], ...] = (
    *_FIRST,
    AlterDatabaseOwner,
    SetDatabaseSetting,
    SetRoleSettingHere,
    RenameSchema,
    CreateSchema,
    AlterSchemaOwner,
    CommentSchema,
    CreateExtension,
    UpdateExtension,
    EnableRowSecurity,
    ForceRowSecurity,
    ClosePartition,
    DropPolicy,
    CreatePolicy,
    AlterPolicy,
    DisableRowSecurity,
    RevokePrivileges,
    RevokeDefaults,
    GrantPrivileges,
    GrantDefaults,
    DropExtension,
    DropSchema,
    RetireRole,
    *_LAST,
    WriteClaims,
    DropClaims,
)

BOOKKEEPING = (WriteClaims, DropClaims)


def ordered(changes: list[Change]) -> list[Change]:
    """The changes in the order in which they are applied; stable, so that a plan is deterministic."""
    position = {kind: index for index, kind in enumerate(ORDER)}
    on_tables = position[WriteClaims] - 0.5  # these keep the order in which they were found
    return sorted(changes, key=lambda change: position.get(type(change), on_tables))
