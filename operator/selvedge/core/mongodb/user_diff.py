"""What differs between an account as it is declared and the users of a MongoDB database; pure.

MongoDB has no groups of users: with two logins that take turns, each has the roles itself. The claim on a user stands
in its ``customData``, which no role that we give can change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from selvedge.core.errors import ConflictError, RefusedError, TransientError
from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectRef, Risk
from selvedge.core.users import Account, RoleRef, user_of

MECHANISM = "SCRAM-SHA-256"
CLAIM = "selvedge"
SYSTEM = frozenset({"admin", "local", "config"})

#: Actions with which a user could give himself or others more than he was given, or take a claim away.
ADMINISTRATIVE = frozenset(
    {
        "anyAction",
        "changeCustomData",
        "changeOwnCustomData",
        "changePassword",
        "createRole",
        "createUser",
        "dropRole",
        "dropUser",
        "grantRole",
        "internal",
        "revokeRole",
        "setAuthenticationRestriction",
        "updateRole",
        "updateUser",
    }
)


@dataclass(frozen=True, slots=True)
class RoleState:
    """A role as it is. ``privileged``: it reaches other databases or the server, or may give rights away."""

    ref: RoleRef
    privileged: bool = False


@dataclass(frozen=True, slots=True)
class UserState:
    """A user as it is; ``custom`` is its customData, ``holds`` whether it has the account's password."""

    name: str
    roles: frozenset[RoleRef] = frozenset()
    mechanisms: frozenset[str] = frozenset()
    custom: Mapping[str, Any] = field(default_factory=dict)
    holds: bool = True
    sessions: int = 0

    @property
    def claim(self) -> Mapping[str, Any]:
        """Who claims it; empty where nobody does."""
        found = self.custom.get(CLAIM)
        return found if isinstance(found, Mapping) else {}


@dataclass(frozen=True, slots=True)
class UserChange:
    """One command about one user: ``createUser``, ``updateUser`` with these fields, or ``dropUser``."""

    ref: ObjectRef
    verb: str
    fields: tuple[str, ...] = ()

    @property
    def risk(self) -> Risk:
        """Dropping takes access away."""
        return Risk.NARROWING if self.verb == "dropUser" else Risk.ADDITIVE

    @property
    def bookkeeping(self) -> bool:
        """Whether only the claim is written."""
        return self.fields == ("customData",)

    def summary(self) -> str:
        """The command without what is secret."""
        return f"{self.verb} {self.ref.name}" + (f": {', '.join(self.fields)}" if self.fields else "")


def wanted_names(account: Account) -> tuple[str, ...]:
    """The users that have to be the account's own."""
    return tuple(name for name in account.names if name != account.base) if account.dual else (account.base,)


def check(
    account: Account,
    users: Mapping[str, UserState],
    roles: Mapping[RoleRef, RoleState],
    alive: Callable[[str], bool],
) -> None:
    """Whether the account may be made; raises as :func:`selvedge.core.postgres.login_diff.check` does."""
    for name in wanted_names(account):
        state = users.get(name)
        if state is None or is_ours(account, state):
            continue
        claim = state.claim
        if claim and (claim.get("cluster") != account.cluster or alive(str(claim.get("resource")))):
            user = user_of(str(claim.get("resource")))
            who = "/".join(user) if user else "another"
            where = "" if claim.get("cluster") == account.cluster else f" of another cluster ({claim.get('cluster')})"
            message = f"user {name} is claimed by DatabaseUser {who}{where}: choose another username, or remove one"
            raise ConflictError(Reason.CONFLICT, message)
        if any(role.database in SYSTEM for role in state.roles):
            message = f"user {name} of database {account.database} has roles of the server: choose another username"
            raise RefusedError(Reason.FORBIDDEN_NAME, message)
        if not account.adopt:
            message = (
                f"user {name} exists in database {account.database} and no DatabaseUser claims it: set spec.adoption "
                "to Allow to take it over with a new password, or choose another username"
            )
            raise RefusedError(Reason.ADOPTION_REQUIRED, message)
    for role in account.roles:
        found = roles.get(role)
        if found is None:
            message = f"role {role.role} does not exist in database {role.database} yet: declare it in a DatabaseSchema"
            raise TransientError(Reason.ROLE_NOT_FOUND, message)
        if found.privileged:
            message = (
                f"role {role.role} of database {role.database} reaches other databases or may give rights away: no "
                "login gets it; name another in spec.roles"
            )
            raise RefusedError(Reason.FORBIDDEN_NAME, message)


def is_ours(account: Account, state: UserState) -> bool:
    """Whether the user is claimed by this very resource."""
    claim = state.claim
    return claim.get("cluster") == account.cluster and claim.get("resource") == account.resource


def claim_of(account: Account, state: UserState | None) -> dict[str, Any]:
    """The claim that the user is to carry."""
    created = state is None or bool(is_ours(account, state) and state.claim.get("created"))
    return {"cluster": account.cluster, "resource": account.resource, "uid": account.uid, "created": created}


def diff(account: Account, users: Mapping[str, UserState]) -> list[UserChange]:
    """The commands to send, the current user's first."""
    ref = ObjectRef("login", account.current)
    state = users.get(account.current)
    found: list[UserChange] = []
    if state is None:
        found.append(UserChange(ref, "createUser"))
    else:
        fields = []
        if state.roles != frozenset(account.roles):
            fields.append("roles")
        if account.password and (not state.holds or state.mechanisms != {MECHANISM}):
            fields.append("pwd")
        if dict(state.claim) != claim_of(account, state):
            fields.append("customData")
        if fields:
            found.append(UserChange(ref, "updateUser", tuple(fields)))
    for state in previous(account, users):
        if account.may_retire and not state.sessions:
            found.append(UserChange(ObjectRef("login", state.name), "dropUser"))
    return found


def previous(account: Account, users: Mapping[str, UserState]) -> list[UserState]:
    """Our users beside the current one."""
    found = (users.get(name) for name in account.others)
    return [state for state in found if state is not None and is_ours(account, state)]
