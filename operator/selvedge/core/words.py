"""Numbers and names in sentences."""

from __future__ import annotations

from collections.abc import Sequence

_NAMED = 5


def count(number: int, noun: str) -> str:
    """``1 object``, ``2 objects``: the number with its noun, whose plural is made by an s."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def some(names: Sequence[object], limit: int = _NAMED) -> str:
    """The names with commas between them; an ellipsis stands for those beyond ``limit``."""
    return ", ".join(str(name) for name in names[:limit]) + (" …" if len(names) > limit else "")
