"""Names inside a database: how long they may be, which are taken, and how a long one is shortened.

Postgres keeps 63 bytes of an identifier and cuts the rest off in silence, so two long names can become one. Names are
therefore checked in bytes (the API server's ``maxLength`` counts characters) and shortened here, never by the server.
"""

from __future__ import annotations

import hashlib

from selvedge.core.errors import InvalidError
from selvedge.core.reasons import Reason

MAX_BYTES = 63
PUBLIC = "PUBLIC"
PROVIDER_PREFIXES = ("rds_", "rdsadmin", "rdsrepladmin", "cloudsql", "azure_", "azuresu")

_HASH_DIGITS = 12


def check_identifier(name: str, what: str = "name") -> str:
    """Return ``name`` when Postgres can hold it whole: 1 to 63 bytes of UTF-8 without control characters.

    ``what`` names it in the message (``role``, ``schema`` …). Raises InvalidError.
    """
    if not name:
        raise InvalidError(Reason.INVALID_SPEC, f"the {what} is empty: give it a name")
    size = len(name.encode())
    if size > MAX_BYTES:
        raise InvalidError(
            Reason.INVALID_SPEC, f"{what} {name[:20]}… is {size} bytes long and Postgres keeps {MAX_BYTES}: shorten it"
        )
    if any(ord(character) < 32 or ord(character) == 127 for character in name):
        raise InvalidError(Reason.INVALID_SPEC, f"{what} {name!r} holds a control character: remove it")
    return name


def reserved_role(name: str) -> str:
    """Why nobody may declare a role of this name or be made its member, or an empty string when anybody may.

    ``pg_*`` belongs to Postgres, ``rds_*``, ``cloudsql*`` and ``azure_*`` to the provider of the server, ``public`` and
    ``none`` are words of the language. The comparison ignores case, so that no look-alike slips through.
    """
    lowered = name.lower()
    if lowered.startswith("pg_"):
        return "names that begin with pg_ belong to Postgres"
    if lowered in ("public", "none"):
        return f"{lowered} is a word of SQL and no role"
    for prefix in PROVIDER_PREFIXES:
        if lowered.startswith(prefix):
            return f"names that begin with {prefix} belong to the provider of the server"
    return ""


def check_role(name: str) -> str:
    """Return ``name`` when a declaration may create a role of this name; raises InvalidError otherwise."""
    check_identifier(name, "role")
    why = reserved_role(name)
    if why:
        raise InvalidError(Reason.FORBIDDEN_NAME, f"role {name} is refused: {why}; choose another name")
    return name


def shorten(name: str, suffix: str = "") -> str:
    """``name`` + ``suffix`` in at most 63 bytes: a name that is too long is cut and gets a hash of the whole.

    The same name gives the same result for ever, and two long names that begin alike give two results. The suffix is
    never cut; raises ValueError for one that leaves no room.
    """
    whole = name + suffix
    if len(whole.encode()) <= MAX_BYTES:
        return whole
    digest = hashlib.sha256(name.encode()).hexdigest()[:_HASH_DIGITS]
    room = MAX_BYTES - len(suffix.encode()) - len(digest) - 1
    if room < 1:
        raise ValueError(f"suffix {suffix!r} leaves no room for a name")
    kept = name.encode()[:room].decode(errors="ignore")
    return f"{kept}_{digest}{suffix}"
