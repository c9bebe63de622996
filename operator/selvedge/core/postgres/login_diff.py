"""What differs between an account as it is declared and the logins on the server; pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from selvedge.core.errors import ConflictError, RefusedError, TransientError
from selvedge.core.postgres import changes as c
from selvedge.core.postgres import settings as pg_settings
from selvedge.core.postgres.model import Claim, Membership
from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectRef
from selvedge.core.users import Account, detail, user_of

#: A comment that begins so marks a login of the operator's own (design §5).
OWN_COMMENT = "selvedge: runs"

SCRAM = "SCRAM-SHA-256$"


@dataclass(frozen=True, slots=True)
class Member:
    """A row of pg_auth_members, seen from the member."""

    role: str
    admin: bool
    inherit: bool
    set: bool
    grantor: str


@dataclass(frozen=True, slots=True)
class LoginState:
    """A login as it is. ``verifier`` is None where the operator may not read it; ``valid_until`` is UTC, or empty.

    ``settings`` hold in every database, ``database_settings`` in one: (database, setting). Both without those that no
    declaration may name (log_statement, pgaudit.log): they are a DBA's, and stay.
    """

    name: str
    login: bool
    attributes: Mapping[str, bool]
    connection_limit: int = -1
    valid_until: str = ""
    comment: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    database_settings: tuple[tuple[str, str], ...] = ()
    memberships: tuple[Member, ...] = ()
    privileged: bool = False
    verifier: str | None = field(default=None, repr=False)
    sessions: int = 0
    may_connect: bool = True


@dataclass(frozen=True, slots=True)
class LoginView:
    """What the maintenance database shows of one account. ``roles`` says of each declared role if it is privileged."""

    version: int
    me: str
    superuser: bool
    logins: Mapping[str, LoginState]
    roles: Mapping[str, bool]
    claims: Mapping[str, Claim]
    database_exists: bool = True


@dataclass(frozen=True, slots=True)
class CreateLogin(c.Change):
    """``CREATE ROLE``, with LOGIN or without, and no other right."""

    role: str
    login: bool


@dataclass(frozen=True, slots=True)
class AlterLogin(c.Change):
    """``ALTER ROLE`` with the attributes that differ, and only these: others a CREATEROLE login may not even name."""

    role: str
    attributes: tuple[str, ...] = ()
    connection_limit: int | None = None
    valid_until: str | None = None


@dataclass(frozen=True, slots=True)
class SetPassword(c.Change):
    """``ALTER ROLE … PASSWORD``: the verifier of the account's password."""

    role: str


@dataclass(frozen=True, slots=True)
class RetireLogin(c.Narrowing):
    """``ALTER ROLE … NOLOGIN PASSWORD NULL``: the login before the last rotation."""

    role: str


@dataclass(frozen=True, slots=True)
class RevokeMembership(c.Narrowing):
    """``REVOKE role FROM login``, of the one grant that this grantor made."""

    grantee: str
    role: str
    grantor: str


@dataclass(frozen=True, slots=True)
class ResetDatabaseSetting(c.Narrowing):
    """``ALTER ROLE … IN DATABASE … RESET``: it would outrank what is declared."""

    role: str
    database: str
    setting: str


ORDER: tuple[type[c.Change], ...] = (
    CreateLogin,
    RevokeMembership,
    AlterLogin,
    ResetDatabaseSetting,
    c.SetRoleSetting,
    c.GrantRole,
    SetPassword,
    RetireLogin,
    c.WriteClaims,
)

_WORDS = {
    "superuser": "NOSUPERUSER",
    "createdb": "NOCREATEDB",
    "createrole": "NOCREATEROLE",
    "replication": "NOREPLICATION",
    "bypassrls": "NOBYPASSRLS",
}


def check(account: Account, view: LoginView, alive: Callable[[str], bool]) -> None:
    """Whether the account may be made at all.

    ``alive`` says of a claim's resource whether it still exists in this cluster. Raises ConflictError for a login
    that another resource claims, RefusedError for one that was there before or that nobody may have, and
    TransientError while database or roles are missing.
    """
    if not view.database_exists:
        raise TransientError(
            Reason.WAITING_FOR_SCHEMA,
            f"database {account.database} does not exist yet: see the status of the DatabaseSchema",
        )
    for name in account.names if account.dual else (account.base,):
        _check_name(account, view, name, alive)
    for role in account.roles:
        if role.role not in view.roles:
            raise TransientError(
                Reason.ROLE_NOT_FOUND, f"role {role.role} does not exist yet: declare it in a DatabaseSchema"
            )
        if view.roles[role.role]:
            raise RefusedError(
                Reason.FORBIDDEN_NAME,
                f"role {role.role} may act as a superuser, make roles, pass row-level security or reach the server's "
                "files: no login gets it; name another in spec.roles",
            )


def _check_name(account: Account, view: LoginView, name: str, alive: Callable[[str], bool]) -> None:
    claim, state = view.claims.get(f"role:{name}"), view.logins.get(name)
    ours = _ours(account, claim)
    if claim is not None and not ours and (claim.cluster != account.cluster or alive(claim.resource)):
        where = "" if claim.cluster == account.cluster else f" of another cluster ({claim.cluster})"
        message = f"login {name} is claimed by {_holder(claim)}{where}: choose another username, or remove one"
        raise ConflictError(Reason.CONFLICT, message)
    if state is None or ours:
        return
    if name == view.me or state.privileged or state.comment.startswith(OWN_COMMENT):
        message = f"login {name} is a superuser's, a privileged one or the operator's own: choose another username"
        raise RefusedError(Reason.FORBIDDEN_NAME, message)
    if not account.adopt:
        message = (
            f"login {name} exists and no DatabaseUser claims it: set spec.adoption to Allow to take it over with a new "
            "password, or choose another username"
        )
        raise RefusedError(Reason.ADOPTION_REQUIRED, message)


def _holder(claim: Claim) -> str:
    user = user_of(claim.resource)
    return f"DatabaseUser {'/'.join(user)}" if user else f"DatabaseSchema {claim.resource}"


def _ours(account: Account, claim: Claim | None) -> bool:
    return claim is not None and claim.belongs_to(account.cluster, account.resource)


def diff(account: Account, view: LoginView, *, password_holds: bool) -> list[c.Change]:
    """The changes, in the order to make them.

    ``password_holds`` says whether the current login has the account's password, as far as that can be known.
    """
    found: list[c.Change] = []
    claims: list[Claim] = []
    wanted = (account.base, account.current) if account.dual else (account.base,)
    for name in wanted:
        found += _login(account, view, name)
        claims += _claimed(account, view, name)
    current = view.logins.get(account.current)
    missing = current is None or not current.login or not password_holds
    if account.password and missing:
        found.append(SetPassword(_ref(account.current), account.uid, account.current))
    for name in account.others:
        found += _other(account, view, name, wanted)
    found.sort(key=lambda change: ORDER.index(type(change)))
    if claims:
        found.append(c.WriteClaims(_ref(account.base), account.uid, tuple(claims)))
    return found


def _ref(name: str) -> ObjectRef:
    return ObjectRef("login", name)


def _login(account: Account, view: LoginView, name: str) -> list[c.Change]:
    """What a login that is to be there lacks: the current one, and the base whose members take turns."""
    ref, uid = _ref(name), account.uid
    current = name == account.current
    found: list[c.Change] = []
    state = view.logins.get(name)
    if state is None:
        found.append(CreateLogin(ref, uid, name, current))
        state = LoginState(name, current, {})
    words = [_WORDS[key] for key, on in state.attributes.items() if on and key in _WORDS]
    if not state.attributes.get("inherit", True):
        words.append("INHERIT")
    if current and not state.login:
        words.append("LOGIN")
    limit = account.connection_limit if current and state.connection_limit != account.connection_limit else None
    until = account.valid_until if current and state.valid_until != account.valid_until else None
    if words or limit is not None or until is not None:
        found.append(AlterLogin(ref, uid, name, tuple(words), limit, until))
    return found + _settings(account, state) + _memberships(account, view, state)


def _settings(account: Account, state: LoginState) -> list[c.Change]:
    """Settings outside of the declaration go: what a login does at its start is all declared."""
    ref, uid, name = _ref(state.name), account.uid, state.name
    wanted = dict(account.settings) if name == account.current else {}
    if account.dual and name == account.current:
        wanted["role"] = account.base  # what it makes belongs to the base, whichever of the two made it
    found: list[c.Change] = [
        c.SetRoleSetting(ref, uid, name, setting, value)
        for setting, value in pg_settings.changed(state.settings, wanted)
    ]
    found += [c.SetRoleSetting(ref, uid, name, key, None) for key in sorted(state.settings.keys() - wanted.keys())]
    found += [ResetDatabaseSetting(ref, uid, name, where, key) for where, key in sorted(state.database_settings)]
    return found


def _memberships(account: Account, view: LoginView, state: LoginState) -> list[c.Change]:
    ref, uid, name = _ref(state.name), account.uid, state.name
    wanted = {account.base} if account.dual and name == account.current else {role.role for role in account.roles}
    options = view.version >= 160000
    found: list[c.Change] = []
    kept: set[str] = set()
    for member in state.memberships:
        full = not member.admin and (not options or (member.inherit and member.set))
        if member.role in wanted and full:
            kept.add(member.role)
        elif member.role not in wanted or member.admin:
            found.append(RevokeMembership(ref, uid, name, member.role, member.grantor))
    for role in sorted(wanted - kept):
        found.append(c.GrantRole(ref, uid, name, Membership(role)))
    return found


def _other(account: Account, view: LoginView, name: str, wanted: tuple[str, ...]) -> list[c.Change]:
    """A login that is not in use: it goes on until its time is over and nobody uses it, then it is switched off."""
    state = view.logins.get(name)
    if state is None or not state.login or not (name in wanted or _ours(account, view.claims.get(f"role:{name}"))):
        return []
    if not account.may_retire or state.sessions:
        return []
    return [RetireLogin(_ref(name), account.uid, name)]


def _claimed(account: Account, view: LoginView, name: str) -> list[Claim]:
    claim = view.claims.get(f"role:{name}")
    if _ours(account, claim) and claim is not None and claim.uid == account.uid:
        return []
    created = bool(claim.detail.get("created")) if _ours(account, claim) and claim else name not in view.logins
    return [Claim(f"role:{name}", account.cluster, account.resource, account.uid, detail(created=created))]


def previous(account: Account, view: LoginView) -> tuple[tuple[str, ...], int]:
    """The logins beside the current one that still work, and the number of their sessions."""
    found = [
        state
        for name in account.others
        if (state := view.logins.get(name)) is not None
        and state.login
        and _ours(account, view.claims.get(f"role:{name}"))
    ]
    return tuple(state.name for state in found), sum(state.sessions for state in found)


def owned(account: Account, view: LoginView) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The logins that this account made, and those that it took over: the base last, its members before."""
    made: list[str] = []
    adopted: list[str] = []
    for name in reversed(account.names):
        claim = view.claims.get(f"role:{name}")
        if _ours(account, claim) and claim is not None:
            (made if claim.detail.get("created") else adopted).append(name)
    return tuple(made), tuple(adopted)
