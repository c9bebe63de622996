"""Placeholders: ``${env:NAME}`` in a migration, only where NAME is listed.

Without a list every ``$``, ``{{`` and ``%`` of a migration passes through untouched. The checksum is taken before the
substitution, so that one set of files serves every environment.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from selvedge.core.errors import InvalidError
from selvedge.core.reasons import Reason

_PLACEHOLDER = re.compile(r"\$\{env:(?P<name>[^}\n]*)\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
# A migration's text stands in the history, in messages and in the server's log.
_SECRET = re.compile(r"passw|secret|token|credential|private|api_?key|dsn|conninfo|database_url", re.IGNORECASE)
# What ends a string, a name, a comment or a statement would make another statement of the one that was reviewed.
_VALUE = re.compile(r"(?!.*(?:--|/\*|\*/))[A-Za-z0-9_ .,:/@+=*-]*", re.ASCII)


def placeholder_values(names: Iterable[str], environment: Mapping[str, str]) -> dict[str, str]:
    """The values of the listed placeholders, taken from the environment's variables.

    Raises InvalidError (InvalidSpec) for a name that looks like a secret's, one that is not set, and a value with a
    character that could begin or end a statement, string, name or comment.
    """
    values: dict[str, str] = {}
    for name in names:
        if not _NAME.fullmatch(name):
            raise _invalid(f"placeholder {name[:40]!r}: the name of an environment variable is letters, digits and _")
        if _SECRET.search(name):
            raise _invalid(f"placeholder {name}: secrets are not put into migrations, whose text is kept; leave it out")
        if name not in environment:
            raise _invalid(f"placeholder {name}: the environment variable is not set; set it, or leave it out")
        if not _VALUE.fullmatch(environment[name]):
            raise _invalid(
                f"placeholder {name}: the value has a quote, semicolon, comment, line end or another character that "
                "could change what a statement is; use letters, digits, spaces and _.,:/@+=*-"
            )
        values[name] = environment[name]
    return values


def substitute(text: str, values: Mapping[str, str], *, file: str, line: int = 1) -> str:
    """The text with every ``${env:NAME}`` replaced; lines stay lines.

    Raises InvalidError (InvalidMigration), naming file and line, for one that is not in ``values``.
    """

    def value(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in values:
            at = text.count("\n", 0, match.start()) + line
            raise InvalidError(
                Reason.INVALID_MIGRATION,
                f"{file}, line {at}: ${{env:{name[:40]}}} is not among the placeholders; list it, or correct it",
            )
        return values[name]

    return _PLACEHOLDER.sub(value, text)


def _invalid(why: str) -> InvalidError:
    return InvalidError(Reason.INVALID_SPEC, why)
