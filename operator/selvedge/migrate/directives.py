"""Markers (``-- migrate:up``) and directives (``-- lock-timeout: 2s``) in the comments of a SQL file.

The markers of goose (``-- +goose Up``) and of sql-migrate (``-- +migrate Up``) are read as they are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from selvedge.core.duration import parse_duration
from selvedge.core.errors import InvalidError
from selvedge.core.reasons import Reason

_MARKER = re.compile(r"^--[ \t]*migrate:(?P<direction>\w+)[ \t]*(?P<options>[^\n]*)$", re.MULTILINE)
_FOREIGN = re.compile(
    r"^--[ \t]*\+(?P<tool>goose|migrate)[ \t]+(?P<direction>[A-Za-z]+)[ \t]*(?P<options>[^\n]*)$",
    re.MULTILINE | re.IGNORECASE,
)
#: A whole line that somebody meant as a marker: taken for a comment, it would make the way down part of the way up.
_NEARLY = re.compile(
    r"^[ \t]*--[ \t]*\+?[ \t]*(?:migrate|goose)[ \t]*:?[ \t]*(?P<direction>up|down)(?:[ \t]+\w+:\w+)*[ \t]*$",
    re.MULTILINE | re.IGNORECASE,
)
#: Where the way down begins in the files of tern, node-pg-migrate, rambler, micrate, shmig and MyBatis.
_UNREAD = re.compile(
    r"^[ \t]*--+[ \t]*(?:create above[ \t]*/[ \t]*drop below[ \t]*-*|down migration|rambler down|\+micrate down"
    r"|=+[ \t]*down[ \t]*=+|//[ \t]*@undo)[ \t]*$",
    re.MULTILINE | re.IGNORECASE,
)
_COMMENT = re.compile(r"--[ \t]*(?P<key>[a-z][a-z-]*)[ \t]*(?::[ \t]*(?P<value>\S[^\n]*?))?[ \t]*")
_LINE = re.compile(r"[^\n]*(?:\n|\Z)")
_BLOCK = re.compile(r"/\*|\*/")
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
    verify: tuple[str, ...] = ()
    """Queries that have to answer true before the migration is committed."""


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

    ``text`` is normalised. Raises InvalidError for unknown, repeated or lonely markers, and where those of two tools
    are mixed.
    """
    for one in _NEARLY.finditer(text):
        if not (_MARKER.match(text, one.start()) or _FOREIGN.match(text, one.start())):
            meant = f"-- migrate:{one['direction'].lower()}, at the beginning of the line"
            raise _invalid(file, _line(text, one.start()), f"{one[0].strip()!r} is no marker; write {meant}")
    markers = list(_MARKER.finditer(text))
    foreign = list(_FOREIGN.finditer(text))
    if markers and foreign:
        line = _line(text, foreign[0].start())
        raise _invalid(file, line, f"markers of {_tool(foreign[0])} beside -- migrate:up; keep one kind")
    if foreign:
        return _foreign_parts(file, text, foreign)
    if not markers:
        _refuse_unread(file, text)
        return Part(text, 1, header(file, text, 1)), None
    return _cut(file, text, markers, "-- migrate:up", "-- migrate:down")


def refuse_markers(file: str, text: str) -> None:
    """Raise InvalidError for a marker in a file that holds one direction by its name."""
    marker = _MARKER.search(text) or _FOREIGN.search(text)
    if marker:
        raise _invalid(
            file,
            _line(text, marker.start()),
            f"a marker in a file whose name says its direction; remove {marker[0].strip()!r}",
        )
    _refuse_unread(file, text)


def _refuse_unread(file: str, text: str) -> None:
    """Raise InvalidError where another tool's way down would run as a part of the way up."""
    unread = _UNREAD.search(text)
    if unread is None or _head(text[unread.end() :])[1] is None:
        return
    why = (
        "is a marker that is not read, what is behind it would run; write -- migrate:up and -- migrate:down, and where "
        "the file ran already, take its new text over by the repair Accept"
    )
    raise _invalid(file, _line(text, unread.start()), f"{unread[0].strip()!r} {why}")


def _foreign_parts(file: str, text: str, found: list[re.Match[str]]) -> tuple[Part, Part | None]:
    """The parts of a file with goose's or sql-migrate's markers; what begins and ends statements is not needed."""
    markers, transaction = [], True
    for marker in found:
        words = f"{marker['direction']} {marker['options']}".lower().split()
        match words:
            case ["up" | "down"]:
                markers.append(marker)
            case ["up" | "down", "notransaction"] if _tool(marker) == "sql-migrate":
                markers.append(marker)
                transaction = False
            case ["no", "transaction"]:
                transaction = False
            case ["statementbegin" | "statementend"]:
                pass
            case ["envsub", "on"]:
                raise _invalid(
                    file,
                    _line(text, marker.start()),
                    "ENVSUB is not done; write ${env:NAME} and give --placeholder NAME, or what it stands for",
                )
            case _:
                raise _invalid(file, _line(text, marker.start()), f"unknown marker {marker[0].strip()!r}; correct it")
    tool = "goose" if _tool(found[0]) == "goose" else "migrate"
    up, down = _cut(file, text, markers, f"-- +{tool} Up", f"-- +{tool} Down", at=_line(text, found[0].start()))
    if not transaction:
        up = replace(up, directives=replace(up.directives, transaction=False))
        down = replace(down, directives=replace(down.directives, transaction=False)) if down else None
    return up, down


def _cut(
    file: str, text: str, markers: list[re.Match[str]], up: str, down: str, *, at: int | None = None
) -> tuple[Part, Part | None]:
    directions = [marker["direction"].lower() for marker in markers]
    if directions not in (["up"], ["up", "down"]):
        raise _invalid(
            file,
            _line(text, markers[0].start()) if markers else at or 1,
            f"markers {', '.join(directions) or 'without a direction'}; a file has one {up} and after it at most one "
            f"{down}",
        )
    preamble = text[: markers[0].start()]
    if (begins := _head(preamble)[1]) is not None:
        raise _invalid(file, begins + 1, f"a statement before {up} would never run; move it below")
    shared = header(file, preamble, 1)
    parts = []
    for index, marker in enumerate(markers):
        end = markers[index + 1].start() if index + 1 < len(markers) else len(text)
        body = text[marker.end() : end]
        line = _line(text, marker.end())
        directives = header(file, body, line, shared)
        if up == "-- migrate:up":
            directives = _options(file, line, marker["options"], directives)
        parts.append(Part(body, line, directives))
    return parts[0], parts[1] if len(parts) > 1 else None


def _tool(marker: re.Match[str]) -> str:
    return "goose" if marker["tool"].lower() == "goose" else "sql-migrate"


def header(file: str, text: str, line: int, base: Directives | None = None) -> Directives:
    """The directives in the comment lines before the first statement, on top of those of ``base``.

    Block comments may stand before and between them; what stands in one is no directive.
    """
    found = base or Directives()
    for offset, comment in _head(text)[0]:
        match = _COMMENT.fullmatch(comment)
        if match:
            found = _apply(file, line + offset, match["key"], match["value"], found)
    return found


def _head(text: str) -> tuple[list[tuple[int, str]], int | None]:
    """The comments ``-- …`` before the first statement, each with its line from 0, and the line of that statement."""
    comments: list[tuple[int, str]] = []
    depth = 0
    for offset, raw in enumerate(_LINE.finditer(text)):
        rest = raw[0].strip()
        while rest:
            if depth or rest.startswith("/*"):
                rest, depth = _skip(rest, depth)
            elif rest.startswith("--"):
                comments.append((offset, rest))
                break
            else:
                return comments, offset
    return comments, None


def _skip(line: str, depth: int) -> tuple[str, int]:
    """What of a line follows a block comment that is ``depth`` deep, and how deep it still is; they nest."""
    for mark in _BLOCK.finditer(line):
        depth += 1 if mark[0] == "/*" else -1
        if not depth:
            return line[mark.end() :].lstrip(), 0
    return "", depth


def render(directives: Directives) -> str:
    """The directives as comment lines: what :func:`header` reads as the same; empty where nothing is asked for."""
    lines = []
    if directives.transaction is not None:
        lines.append(f"transaction: {str(directives.transaction).lower()}")
    for name, seconds in (("lock", directives.lock_timeout), ("statement", directives.statement_timeout)):
        if seconds is not None:
            lines.append(f"{name}-timeout: {f'{round(seconds * 1000)}ms' if seconds else '0'}")
    if directives.allow:
        lines.append("allow: " + ", ".join(directives.allow))
    if directives.irreversible:
        lines.append("irreversible")
    if directives.requires_version is not None:
        lines.append(f"requires-version: >={directives.requires_version}")
    if directives.environments:
        lines.append("env: " + ", ".join(directives.environments))
    lines += [f"verify: {query}" for query in directives.verify]
    return "".join(f"-- {line}\n" for line in lines)


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
        # what follows a word is its reason: -- allow: drop-column nobody reads it since release 12
        words = tuple(word.split()[0] for word in value.split(",") if word.strip())
        return replace(found, allow=tuple(dict.fromkeys((*found.allow, *words))))
    if key == "verify" and value.split()[0].lower() in ("select", "with"):
        return replace(found, verify=tuple(dict.fromkeys((*found.verify, value))))
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
