"""Markers (``-- migrate:up``) and directives (``-- lock-timeout: 2s``) in the comments of a SQL file."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from selvedge.core.duration import parse_duration
from selvedge.core.errors import InvalidError
from selvedge.core.reasons import Reason

_MARKER = re.compile(r"^--[ \t]*migrate:(?P<direction>\w+)[ \t]*(?P<options>[^\n]*)$", re.MULTILINE)
_FOREIGN = re.compile(r"^--[ \t]*\+(?:goose|migrate)\b", re.MULTILINE | re.IGNORECASE)
_COMMENT = re.compile(r"--[ \t]*(?P<key>[a-z][a-z-]*)[ \t]*(?::[ \t]*(?P<value>\S[^\n]*?))?[ \t]*")
_REQUIRES = re.compile(r">=[ ]*([0-9]{1,3})")
_BOOLEANS = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Directives:
    """What a migration asks of the runner. Timeouts are seconds; ``None`` leaves the choice to the run."""

    transaction: bool | None = None
    lock_timeout: float | None = None
    statement_timeout: float | None = None
    allow: tuple[str, ...] = ()
    irreversible: bool = False
    requires_version: int | None = None
    environments: tuple[str, ...] = ()


NONE = Directives()
"""Nothing asked for."""


@dataclass(frozen=True, slots=True)
class Part:
    """One direction of a file: its text, the line of the file on which it begins (from 1), its directives."""

    text: str
    line: int
    directives: Directives


def split_parts(file: str, text: str) -> tuple[Part, Part | None]:
    """The up part and the down part of one file with markers; a file without markers is all up.

    ``text`` is normalised. Raises InvalidError for unknown, repeated or lonely markers and for other tools' markers.
    """
    markers = list(_MARKER.finditer(text))
    if not markers:
        foreign = _FOREIGN.search(text)
        if foreign:
            raise _invalid(file, _line(text, foreign.start()), "markers of another tool; write -- migrate:up instead")
        return Part(text, 1, header(file, text, 1)), None
    directions = [marker["direction"] for marker in markers]
    if directions not in (["up"], ["up", "down"]):
        raise _invalid(
            file,
            _line(text, markers[0].start()),
            f"markers {', '.join(directions)}; a file has one -- migrate:up and after it at most one -- migrate:down",
        )
    preamble = text[: markers[0].start()]
    for number, comment in enumerate(preamble.split("\n"), start=1):
        if comment.strip() and not comment.lstrip().startswith("--"):
            raise _invalid(file, number, "a statement before -- migrate:up would never run; move it below")
    shared = header(file, preamble, 1)
    parts = []
    for index, marker in enumerate(markers):
        end = markers[index + 1].start() if index + 1 < len(markers) else len(text)
        body = text[marker.end() : end]
        line = _line(text, marker.end())
        directives = header(file, body.lstrip("\n"), line, shared)
        parts.append(Part(body, line, _options(file, line, marker["options"], directives)))
    return parts[0], parts[1] if len(parts) > 1 else None


def header(file: str, text: str, line: int, base: Directives | None = None) -> Directives:
    """The directives in the comment lines before the first statement, on top of those of ``base``."""
    found = base or Directives()
    for offset, raw in enumerate(text.split("\n")):
        stripped = raw.strip()
        if not stripped:
            continue
        if not stripped.startswith("--"):
            break
        match = _COMMENT.fullmatch(stripped)
        if match:
            found = _apply(file, line + offset, match["key"], match["value"], found)
    return found


def _options(file: str, line: int, options: str, directives: Directives) -> Directives:
    for option in options.split():
        key, _, value = option.partition(":")
        if key != "transaction":
            raise _invalid(file, line, f"unknown option {option!r} of a marker; transaction:false is the only one")
        directives = _apply(file, line, key, value, directives)
    return directives


def _apply(file: str, line: int, key: str, value: str | None, found: Directives) -> Directives:
    """One directive; a comment that only looks like one (``-- note: …``) changes nothing."""
    if key == "irreversible" and value is None:
        return replace(found, irreversible=True)
    if value is None:
        return found
    if key == "transaction":
        if value not in _BOOLEANS:
            raise _invalid(file, line, f"transaction is {value!r}; write true or false")
        return replace(found, transaction=_BOOLEANS[value])
    if key in ("lock-timeout", "statement-timeout"):
        seconds = _seconds(file, line, key, value)
        return replace(found, lock_timeout=seconds) if key[0] == "l" else replace(found, statement_timeout=seconds)
    if key == "requires-version":
        match = _REQUIRES.fullmatch(value)
        if match is None:
            raise _invalid(file, line, f"requires-version is {value!r}; write >=16")
        return replace(found, requires_version=int(match[1]))
    if key == "allow":
        return replace(found, allow=tuple(word.strip() for word in value.split(",") if word.strip()))
    if key == "env":
        return replace(found, environments=tuple(word.strip() for word in value.split(",") if word.strip()))
    return found


def _seconds(file: str, line: int, key: str, value: str) -> float:
    if value == "0":
        return 0.0
    try:
        return parse_duration(value)
    except InvalidError as error:
        raise _invalid(file, line, f"{key}: {error.message}") from error


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def _invalid(file: str, line: int, why: str) -> InvalidError:
    return InvalidError(Reason.INVALID_MIGRATION, f"{file}, line {line}: {why}")
