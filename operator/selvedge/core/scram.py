"""SCRAM-SHA-256 (RFC 5802, RFC 7677): what a server keeps of a password, computed here, so that it never sees one.

A verifier proves nothing to the server that reads it: who has it still cannot log in. Two verifiers of one password
differ by their salt, so a password is compared with a verifier by computing it again with the salt that stands in it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import stringprep
import unicodedata
from dataclasses import dataclass, field

ITERATIONS = 4096
"""What Postgres itself uses, and the least that RFC 7677 allows."""

_SALT_BYTES = 16
_SCHEME = "SCRAM-SHA-256"

_PROHIBITED = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
    stringprep.in_table_a1,
)


@dataclass(frozen=True, slots=True)
class Keys:
    """What is derived from a password: ``stored`` checks a client, ``server`` proves the server to it."""

    stored: bytes = field(repr=False)
    server: bytes = field(repr=False)


def saslprep(text: str) -> str:
    """The normal form of a password (RFC 4013): NFKC, without what is mapped to nothing.

    Raises ValueError for a character that is prohibited or unassigned, and for mixed directions of writing. The
    message holds nothing of the text.
    """
    mapped = "".join(
        " " if stringprep.in_table_c12(character) else character
        for character in text
        if not stringprep.in_table_b1(character)
    )
    prepared = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    if any(prohibited(character) for character in prepared for prohibited in _PROHIBITED):
        raise ValueError("the password holds a character that SASLprep prohibits")
    if any(stringprep.in_table_d1(character) for character in prepared):
        ends = prepared[0], prepared[-1]
        left_to_right = any(stringprep.in_table_d2(character) for character in prepared)
        if left_to_right or not all(stringprep.in_table_d1(character) for character in ends):
            raise ValueError("the password mixes directions of writing in a way that SASLprep prohibits")
    return prepared


def normalized(password: str) -> bytes:
    """The bytes that Postgres and libpq hash: the normal form where there is one, else the password as it is."""
    try:
        prepared = saslprep(password)
    except ValueError:
        return password.encode()
    return (prepared or password).encode()


def derive(password: bytes, salt: bytes, iterations: int) -> Keys:
    """StoredKey and ServerKey of RFC 5802, section 3, for a normalized password."""
    salted = hashlib.pbkdf2_hmac("sha256", password, salt, iterations)
    client = hmac.digest(salted, b"Client Key", "sha256")
    return Keys(hashlib.sha256(client).digest(), hmac.digest(salted, b"Server Key", "sha256"))


def verifier(password: str, *, salt: bytes | None = None, iterations: int = ITERATIONS) -> str:
    """The verifier as Postgres keeps it: ``SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey``.

    Without ``salt`` a random one is taken.
    """
    salt = secrets.token_bytes(_SALT_BYTES) if salt is None else salt
    keys = derive(normalized(password), salt, iterations)
    parts = [base64.b64encode(part).decode() for part in (salt, keys.stored, keys.server)]
    return f"{_SCHEME}${iterations}:{parts[0]}${parts[1]}:{parts[2]}"


def verifies(password: str, stored: str | None) -> bool:
    """Whether this is the password of a verifier; False for none, and for one of another kind (md5)."""
    try:
        scheme, parameters, keys = (stored or "").split("$")
        rounds, salt = parameters.split(":")
        stored_key, server_key = (base64.b64decode(part, validate=True) for part in keys.split(":"))
        iterations, raw_salt = int(rounds), base64.b64decode(salt, validate=True)
    except (ValueError, binascii.Error):
        return False
    if scheme != _SCHEME or not 0 < iterations <= 10_000_000:
        return False
    found = derive(normalized(password), raw_salt, iterations)
    return hmac.compare_digest(found.stored, stored_key) and hmac.compare_digest(found.server, server_key)
