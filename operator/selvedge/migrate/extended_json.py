"""Whether a document in Extended JSON v2 can become BSON, found before any command runs, without a driver."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any

MAX_DEPTH = 100
"""The server's own limit for nesting."""

_INT32 = range(-(2**31), 2**31)
_INT64 = range(-(2**63), 2**63)
_OBJECT_ID = re.compile(r"[0-9a-fA-F]{24}")
_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:?\d\d)", re.ASCII)
_MILLISECONDS = range(-62_135_596_800_000, 253_402_300_800_000)
"""The years 1 to 9999, which the driver can hold."""
_DOUBLE = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?|-?Infinity|NaN")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_DIGITS = re.compile(r"-?[0-9]{1,20}")
_SUBTYPE = re.compile(r"[0-9a-fA-F]{1,2}")
_SCRIPTS = frozenset({"$code", "$scope", "$symbol", "$dbPointer"})


def problem(value: Any, path: str = "", depth: int = 0) -> str | None:
    """What the server or the driver would refuse in a value, with the way to it; None where nothing is wrong."""
    if depth > MAX_DEPTH:
        return f"{path}: nested more than {MAX_DEPTH} deep"
    if isinstance(value, Mapping):
        return _object(value, path, depth)
    if isinstance(value, list):
        for index, inner in enumerate(value):
            why = problem(inner, f"{path}[{index}]", depth + 1)
            if why:
                return why
        return None
    if isinstance(value, str) and not _encodes(value):
        return f"{path}: half of a surrogate pair is no text"
    if isinstance(value, int) and value not in _INT64:
        return f'{path}: {str(value)[:24]} has more than 64 bits; write {{"$numberDecimal": "…"}}'
    return None


def _object(value: Mapping[str, Any], path: str, depth: int) -> str | None:
    if len(value) == 1:
        word, inner = next(iter(value.items()))
        fits = _WRAPPERS.get(word)
        if fits is not None:
            return None if fits(inner) else f"{path or word}: {_EXPECTED.get(word, f'this is no {word}')}"
    for key, inner in value.items():
        if "\0" in key or not _encodes(key):
            return f"{path}: a key holds a character that no field's name may hold"
        if key in _SCRIPTS:
            return f"{path}: {key} is not taken; no JavaScript and no outdated type is run"
        why = problem(inner, f"{path}.{key}" if path else key, depth + 1)
        if why:
            return why
    return None


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _matches(pattern: re.Pattern[str]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


def _integer(value: Any, allowed: range) -> bool:
    return isinstance(value, str) and _DIGITS.fullmatch(value) is not None and int(value) in allowed


def _decimal(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        number = Decimal(value)
    except InvalidOperation:
        return False
    return not number.is_finite() or (len(number.as_tuple().digits) <= 34 and abs(number.adjusted()) <= 6144)


def _date(value: Any) -> bool:
    if isinstance(value, Mapping):
        return len(value) == 1 and _integer(value.get("$numberLong"), _MILLISECONDS)
    if not isinstance(value, str) or not _DATE.fullmatch(value):
        return False
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return True


def _binary(value: Any) -> bool:
    if not isinstance(value, Mapping) or set(value) != {"base64", "subType"}:
        return False
    text, kind = value["base64"], value["subType"]
    if not isinstance(text, str) or not isinstance(kind, str) or not _SUBTYPE.fullmatch(kind):
        return False
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    return True


def _timestamp(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and set(value) == {"t", "i"}
        and all(type(number) is int and 0 <= number < 2**32 for number in value.values())
    )


def _expression(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and set(value) == {"pattern", "options"}
        and all(isinstance(text, str) and "\0" not in text and _encodes(text) for text in value.values())
    )


_WRAPPERS: dict[str, Callable[[Any], bool]] = {
    "$oid": _matches(_OBJECT_ID),
    "$numberInt": lambda value: _integer(value, _INT32),
    "$numberLong": lambda value: _integer(value, _INT64),
    "$numberDouble": _matches(_DOUBLE),
    "$numberDecimal": _decimal,
    "$date": _date,
    "$binary": _binary,
    "$uuid": _matches(_UUID),
    "$timestamp": _timestamp,
    "$regularExpression": _expression,
    "$minKey": lambda value: type(value) is int and value == 1,
    "$maxKey": lambda value: type(value) is int and value == 1,
    "$undefined": lambda value: value is True,
}
_EXPECTED = {
    "$oid": "an $oid is 24 hexadecimal digits",
    "$numberInt": "a $numberInt is a whole number of 32 bits in quotes",
    "$numberLong": "a $numberLong is a whole number of 64 bits in quotes",
    "$numberDouble": "a $numberDouble is a number in quotes",
    "$numberDecimal": "a $numberDecimal is a number of at most 34 digits in quotes",
    "$date": 'a $date is "2025-01-31T12:00:00Z" or {"$numberLong": "milliseconds"}',
    "$binary": '$binary is {"base64": "…", "subType": "00"}',
    "$uuid": "a $uuid is 32 hexadecimal digits with hyphens",
    "$timestamp": '$timestamp is {"t": seconds, "i": number}',
    "$regularExpression": '$regularExpression is {"pattern": "…", "options": ""}',
}
