"""Checksums that do not depend on how an editor or Git ended the lines."""

from __future__ import annotations

import hashlib
import re

BOM = "\ufeff"
_ENDS = re.compile(r"\r+\n")
_PIECE = 1 << 20
"""Characters that are encoded at a time: a file of data is not held twice for its checksum."""


def normalise(text: str) -> str:
    """The text that counts: without a byte order mark, with LF, without empty lines at its end.

    Comments stay in: a migration that ran is a document, and a change of its comments is a change. Normalised again, it
    stays as it is.
    """
    text = text.lstrip(BOM).replace("\r\n", "\n")
    return (_ENDS.sub("\n", text) if "\r\n" in text else text).rstrip("\n")


def checksum(text: str) -> str:
    """sha256 of the normalised text, in hexadecimal."""
    text = normalise(text)
    found = hashlib.sha256()
    for start in range(0, len(text), _PIECE):
        found.update(text[start : start + _PIECE].encode())
    return found.hexdigest()
