"""The operator's own roles of a database: which there are, what they are called, and how they are known again.

Some are logins as which users' code runs, some own what nobody else may. Whoever had one of these names, or were a
member of one, could keep migrations and probes from running, or act as what they may become. So no declaration has
them: neither as a role or a login, nor as something to be a member of, to grant to or to hand objects to.
"""

from __future__ import annotations

import re

from selvedge.core.names import shorten

MIGRATOR = "_migrator"
PROBE = "_probe"
POLICIES = "_policies"
PARTITIONS = "_partitions"
AUDIT = "_audit"
AUDIT_WRITER = "_audit_writer"

#: Logins as which users' code runs; they go with the database.
LOGINS = (MIGRATOR, POLICIES, PROBE, PARTITIONS)
SUFFIXES = (*LOGINS, AUDIT, AUDIT_WRITER)

#: How the comments of these roles begin, and of those that stand in for a role that is gone.
OWN_COMMENT = "selvedge: "

#: Ends the name of the role that keeps what a retired role owned, where nobody else may have it.
RETIRED = "_retired"

_SHORTENED = re.compile(r"_[0-9a-f]{12}(?:" + "|".join(SUFFIXES) + r")\Z")


def own_role(database: str, suffix: str) -> str:
    """The name of one of them, at most 63 bytes."""
    return shorten(database, suffix)


def own_roles(database: str) -> frozenset[str]:
    """The names of all of them."""
    return frozenset(own_role(database, suffix) for suffix in SUFFIXES)


def ends_like_own(name: str) -> bool:
    """Whether the name could be that of an own role of some database."""
    return name.endswith(SUFFIXES)


def is_shortened(name: str) -> bool:
    """Whether it is the name of an own role of a database whose name was too long to stand in it."""
    return len(name.encode()) > 60 and _SHORTENED.search(name) is not None


def databases_of(name: str) -> tuple[str, ...]:
    """The databases whose own role this would be, if they exist; of a shortened name they cannot be told."""
    return tuple(name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix) and name != suffix)


def is_own_comment(comment: str | None) -> bool:
    """Whether the comment of a live role says that it is the operator's own."""
    return (comment or "").startswith(OWN_COMMENT)


def heir_of(role: str) -> str:
    """The role that gets what a retired role owned where the database's owner must not: it may do nothing else."""
    return shorten(role, RETIRED)


def heir_comment(role: str) -> str:
    """The comment by which such a role is known again."""
    return f"{OWN_COMMENT}owns what role {role} left behind"
