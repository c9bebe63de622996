"""Checksums that do not depend on how an editor or Git ended the lines."""

from __future__ import annotations

import hashlib

BOM = "\ufeff"


def normalise(text: str) -> str:
    """The text that counts: without a byte order mark, with LF, without empty lines at its end.

    Comments stay in: a migration that ran is a document, and a change of its comments is a change.
    """
    return text.removeprefix(BOM).replace("\r\n", "\n").rstrip("\n")


def checksum(text: str) -> str:
    """sha256 of the normalised text, in hexadecimal."""
    return hashlib.sha256(normalise(text).encode()).hexdigest()
