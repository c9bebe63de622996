"""JSON read piece by piece, so that every complaint can name its line; stricter than Python's own reader.

Python takes ``NaN``, keeps the last of two equal keys and turns ``1e999`` into infinity, all in silence.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from typing import Any, NamedTuple

from selvedge.core.errors import InvalidError
from selvedge.core.reasons import Reason

_SPACE = " \t\n\r"


class Item(NamedTuple):
    """A value and where it stands in the text."""

    value: Any
    begin: int
    end: int


class Reader:
    """One text of a file; ``line`` is the file's line on which the text begins. Raises InvalidError with file and line.

    The positions that the methods take and give are those of the text.
    """

    def __init__(self, text: str, file: str, line: int = 1) -> None:
        self.text = text
        self.file = file
        self._first = line
        self._breaks = [index for index, character in enumerate(text) if character == "\n"] if "\n" in text else []

    def line(self, position: int) -> int:
        """The file's line of a position."""
        return self._first + bisect_left(self._breaks, position)

    def error(self, position: int, why: str) -> InvalidError:
        """What is wrong at a position, with file and line."""
        return invalid(self.file, self.line(position), why)

    def skip(self, position: int) -> int:
        """The position of the next character that is no space."""
        while position < len(self.text) and self.text[position] in _SPACE:
            position += 1
        return position

    def array(self, start: int) -> tuple[list[Item], int]:
        """The values of the array that begins at ``start``, and the position behind it."""
        found: list[Item] = []
        position = self.skip(start + 1)
        while self.text[position : position + 1] != "]":
            value, end = self.value(position)
            found.append(Item(value, position, end))
            position = self._separator(end, "]")
        return found, position + 1

    def members(self, start: int) -> tuple[list[tuple[str, int, Item]], int]:
        """The members of the object at ``start``: key, the key's position, value; and the position behind it.

        An array among the values is read value by value, which gives the right line for what is wrong in it.
        """
        found: list[tuple[str, int, Item]] = []
        position = self.skip(start + 1)
        while self.text[position : position + 1] != "}":
            if self.text[position : position + 1] != '"':
                raise self.error(position, f"not JSON: a key in double quotes belongs here{self._comment(position)}")
            key, end = self.value(position)
            end = self.skip(end)
            if self.text[end : end + 1] != ":":
                raise self.error(end, f"not JSON: a colon belongs behind the key {key!r}")
            begin = self.skip(end + 1)
            if self.text[begin : begin + 1] == "[":
                items, end = self.array(begin)
                value: Any = [item.value for item in items]
            else:
                value, end = self.value(begin)
            found.append((key, position, Item(value, begin, end)))
            position = self._separator(end, "}")
        return found, position + 1

    def value(self, position: int) -> tuple[Any, int]:
        """The value at a position, and the position behind it."""
        try:
            return _DECODER.raw_decode(self.text, position)
        except json.JSONDecodeError as error:
            at = min(error.pos, max(0, len(self.text) - 1))
            raise self.error(at, f"not JSON: {error.msg.lower()}{self._comment(error.pos)}") from error
        except _UnfitError as error:
            raise self.error(position, f"not JSON: {error}") from error
        except RecursionError as error:
            raise self.error(position, "not JSON: nested too deeply") from error
        except ValueError as error:  # more digits than Python converts
            raise self.error(position, "not JSON: a number has too many digits") from error

    def ends(self, position: int) -> None:
        """Raise where anything but space follows."""
        position = self.skip(position)
        if position < len(self.text):
            raise self.error(position, "not JSON: something follows the end")

    def _separator(self, position: int, closing: str) -> int:
        """Past a comma to the next value, or to the closing bracket."""
        position = self.skip(position)
        if self.text[position : position + 1] == closing:
            return position
        after = self.skip(position + 1)
        if self.text[position : position + 1] != "," or self.text[after : after + 1] == closing:
            why = f"not JSON: a comma or {closing} belongs here{self._comment(position)}"
            raise self.error(min(position, max(0, len(self.text) - 1)), why)
        return after

    def _comment(self, position: int) -> str:
        return "; JSON has no comments" if self.text[position : position + 1] in ("/", "#") else ""


def invalid(file: str, line: int, why: str) -> InvalidError:
    """The one form of complaints about a migration's file."""
    return InvalidError(Reason.INVALID_MIGRATION, f"{file}, line {line}: {why}")


class _UnfitError(ValueError):
    """Python would accept it."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _UnfitError(f"the key {next(key for key in keys if keys.count(key) > 1)} is there twice")
    return found


def _constant(word: str) -> Any:
    raise _UnfitError(f'{word} is no number of JSON; write {{"$numberDouble": "{word}"}}')


def _float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise _UnfitError(f"the number {digits[:20]} is too large")
    return number


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)
