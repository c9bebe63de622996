"""A DatabaseUser in the words of both engines: which login is in use, which are on their way out, when to rotate. Pure.

The Secret that applications read is the truth about the password and about which login is in use; the server follows
it. So nothing has to be remembered anywhere else, and a pass that was cut off is simply made again.
"""

from __future__ import annotations

import hmac
import secrets
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from selvedge.core.names import shorten
from selvedge.core.unit import ChangeSummary, ObjectRef

MARK = " (DatabaseUser)"
"""Ends the resource of a claim that a DatabaseUser holds; no Kubernetes name ends so."""

#: Letters and digits only: such a password needs no quoting in a URI, a shell, a properties file or YAML.
_ALPHABET = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True)
class RoleRef:
    """A role that a login gets; ``database`` is MongoDB's, where roles belong to one."""

    role: str
    database: str = ""


@dataclass(frozen=True, slots=True)
class Account:
    """What a server is to hold for one DatabaseUser.

    ``base`` is the name that was declared. ``current`` is the login that applications use: the base itself, or one of
    two below it (DualUser), which are then members of the base and act as it. Without ``password`` it is somebody
    else's to set. ``may_retire``: the grace of the last rotation is over. ``valid_until`` is UTC, RFC 3339.
    """

    resource: str
    uid: str
    cluster: str
    database: str
    base: str
    current: str
    password: str = field(default="", repr=False)
    roles: tuple[RoleRef, ...] = ()
    connection_limit: int = -1
    valid_until: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    adopt: bool = False
    may_retire: bool = False
    verified: bool = False

    @property
    def dual(self) -> bool:
        """Whether two logins take turns."""
        return self.current != self.base

    @property
    def names(self) -> tuple[str, ...]:
        """Every login that this account may have on the server."""
        return (self.base, *pair(self.base))

    @property
    def others(self) -> tuple[str, ...]:
        """All but the one in use."""
        return tuple(name for name in self.names if name != self.current)


@dataclass(frozen=True, slots=True)
class LoginResult:
    """What a pass over an account found and did.

    ``drift`` are the objects that had been verified for this very generation and differed now. ``previous`` are logins
    that still work beside the current one, ``sessions`` how many sessions they have.
    """

    applied: tuple[ChangeSummary, ...] = ()
    drift: tuple[ObjectRef, ...] = ()
    previous: tuple[str, ...] = ()
    sessions: int = 0
    may_connect: bool = True


@dataclass(frozen=True, slots=True)
class Removal:
    """What was removed, and what was left because it was there before us."""

    removed: tuple[str, ...] = ()
    retained: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Published:
    """What stands in the Secret now. ``request`` is the last rotation asked for by annotation."""

    username: str
    password: str = field(repr=False)
    rotated: datetime | None = None
    request: str = ""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a DatabaseUser asks for, as far as passwords go; seconds.

    ``given`` is the password of somebody else's Secret. ``external``: the server's password is not ours to set.
    """

    base: str
    dual: bool = False
    length: int = 32
    given: str | None = field(default=None, repr=False)
    external: bool = False
    every: float | None = None
    grace: float = 0.0
    request: str = ""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Which login is to be in use, with which password, since when."""

    username: str
    password: str = field(repr=False)
    rotated: datetime
    rotating: bool
    first: bool = False
    request: str = ""


def resource_of(namespace: str, name: str) -> str:
    """How a claim names a DatabaseUser."""
    return f"{namespace}/{name}{MARK}"


def user_of(resource: str) -> tuple[str, str] | None:
    """Namespace and name of the DatabaseUser that a claim names, or None where it names something else."""
    if not resource.endswith(MARK):
        return None
    namespace, _, name = resource.removesuffix(MARK).partition("/")
    return namespace, name


def pair(base: str) -> tuple[str, str]:
    """The two logins that take turns below a base, at most 63 bytes each."""
    return shorten(base, "_a"), shorten(base, "_b")


def default_username(resource: str) -> str:
    """The username of a DatabaseUser that declares none: its name with underscores."""
    return resource.replace("-", "_").replace(".", "_")


def generate(length: int) -> str:
    """A random password of letters and digits."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def credentials(wish: Wish, published: Published | None, now: datetime) -> Credentials:
    """The credentials that have to be in force now.

    They are those of the Secret, unless there is none, a rotation is due or asked for, the strategy changed, or the
    given password is another one. A Secret without a password never leads to a login without one.
    """
    if wish.external:
        rotated = (published.rotated if published else None) or now
        return Credentials(wish.base, wish.given or "", rotated, rotating=False, first=published is None)
    usable = published is not None and bool(published.password) and published.username in _allowed(wish)
    if published is not None and usable and not _due(wish, published, now):
        return Credentials(
            published.username, published.password, published.rotated or now, rotating=False, request=wish.request
        )
    password = generate(wish.length) if wish.given is None else wish.given
    username = _next(wish, published.username if published else "")
    return Credentials(username, password, now, rotating=True, first=published is None, request=wish.request)


def next_rotation(wish: Wish, rotated: datetime) -> datetime | None:
    """When the password is changed by itself, or None."""
    if wish.every is None or wish.external or wish.given is not None:
        return None
    return rotated + timedelta(seconds=wish.every)


def retires(wish: Wish, rotated: datetime) -> datetime:
    """From when on the login before the last rotation may be switched off."""
    return rotated + timedelta(seconds=wish.grace)


def _allowed(wish: Wish) -> tuple[str, ...]:
    return pair(wish.base) if wish.dual else (wish.base,)


def _next(wish: Wish, current: str) -> str:
    allowed = _allowed(wish)
    return next((name for name in allowed if name != current), allowed[0])


def _due(wish: Wish, published: Published, now: datetime) -> bool:
    if wish.given is not None and not hmac.compare_digest(wish.given.encode(), published.password.encode()):
        return True
    if wish.given is not None:
        return False
    if wish.request and wish.request != published.request:
        return True
    due = next_rotation(wish, published.rotated) if published.rotated else None
    return due is not None and now >= due


def detail(**values: Any) -> dict[str, Any]:
    """The detail of a claim on a login."""
    return {"created": False, "kind": "login", **values}
