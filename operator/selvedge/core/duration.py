"""Durations (``30s``, ``5m``, ``1h``, ``30d``) as they are written in a declaration.

Inside the program a duration is seconds as a float; text is only at the edges.
"""

from __future__ import annotations

import re

from selvedge.core.errors import InvalidError
from selvedge.core.reasons import Reason

DURATION_PATTERN = r"^([0-9]{1,9}(ms|s|m|h|d))+$"
DURATION_MAX_LENGTH = 32

_MILLISECONDS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}

_DURATION = re.compile(DURATION_PATTERN, re.ASCII)
_PART = re.compile(r"([0-9]+)(ms|s|m|h|d)")


def parse_duration(text: str) -> float:
    """Seconds of a duration such as ``200ms``, ``30s`` or ``1h30m``; raises InvalidError."""
    if len(text) > DURATION_MAX_LENGTH or not _DURATION.fullmatch(text):
        raise InvalidError(
            Reason.INVALID_SPEC,
            f"{text[:40]!r} is not a duration: write a number and ms, s, m, h or d, such as 30s or 5m",
        )
    return sum(int(number) * _MILLISECONDS[unit] for number, unit in _PART.findall(text)) / 1000


def format_duration(seconds: float) -> str:
    """The text of a duration in seconds, to the millisecond: ``5m`` for 300, ``1m30s`` for 90, ``0s`` for 0.

    Raises ValueError for a negative duration.
    """
    if seconds < 0:
        raise ValueError("a duration is never negative")
    rest = round(seconds * 1000)
    text = ""
    for unit, length in _MILLISECONDS.items():
        count, rest = divmod(rest, length)
        if count:
            text += f"{count}{unit}"
    return text or "0s"
