"""What :mod:`selvedge.migrate.image_reader` printed, found again in a log."""

from __future__ import annotations

import base64
import hashlib
import re

from selvedge.migrate.image_reader import BEGIN, END

_BEGIN = re.compile(rf"^{BEGIN} (?P<size>[0-9]{{1,9}}) (?P<digest>[0-9a-f]{{64}})$", re.MULTILINE)


def packed_in(text: str) -> str | None:
    """The base64 text among the lines of a log; None where it is not whole, as in a log that was cut or rotated."""
    begin = _BEGIN.search(text)
    end = text.find(f"\n{END}", begin.end()) if begin else -1
    if begin is None or end < 0:
        return None
    body = "".join(text[begin.end() : end].split())
    try:
        packed = base64.b64decode(body, validate=True)
    except ValueError:
        return None
    whole = len(packed) == int(begin["size"]) and hashlib.sha256(packed).hexdigest() == begin["digest"]
    return body if whole else None
