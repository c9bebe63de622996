"""What a statement leaves in its session: said again where a migration without a transaction goes on in another one.

Only what is written can be seen; a function that is called may set anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from selvedge.core.errors import InvalidError
from selvedge.core.reasons import Reason
from selvedge.migrate.splitter import Statement
from selvedge.migrate.tokens import Token, inside, parts, tokens

_SET_CONFIG = "set_config"
_CALLERS = ("SELECT", "WITH", "DO", "VALUES")
_LOCAL = ("true", "t", "yes", "y", "on", "1")


def is_said_again(statement: Statement) -> bool:
    """Whether a statement does nothing but set the session, so that it can be sent once more: SET, or set_config.

    Not the role, which is the runner's to set.
    """
    head = statement.head
    if head[:1] in (("SET",), ("RESET",)):
        return "ROLE" not in head[:3]
    if head[:1] != ("SELECT",) or not _mentions(statement):
        return False
    found = tokens(statement.text.rstrip().removesuffix(";"))[1:]
    return all(_is_constant_call(part) for part in parts(found))


def check_session(statements: Sequence[Statement], file: str) -> None:
    """Raise InvalidError where a statement sets the session in a way that cannot be said again, and others follow.

    ``statements`` share no transaction: after a failure the rest of them runs in another session.
    """
    for statement in statements[:-1]:
        if _mentions(statement) and not is_said_again(statement) and any(_sets_session(statement)):
            raise InvalidError(
                Reason.INVALID_MIGRATION,
                f"{file}, line {statement.line}: set_config sets the session here, and what follows runs without a "
                "transaction, after a failure in another session: write SET, or SELECT set_config(…) by itself and "
                "with constants, which is sent again then; or give true as its third argument",
            )


def _mentions(statement: Statement) -> bool:
    return statement.head[:1] in [(word,) for word in _CALLERS] and _SET_CONFIG in statement.text.lower()


def _is_constant_call(part: Sequence[Token]) -> bool:
    """``[pg_catalog.]set_config('name', 'value', false)``, perhaps with a name for the column."""
    names = [token.name if token.is_name else token.key for token in part[:3]]
    at = 3 if names == ["pg_catalog", ".", _SET_CONFIG] else 1
    if (names[:1] != [_SET_CONFIG] and at == 1) or len(part) <= at or part[at].key != "(":
        return False
    arguments, end = inside(part, at)
    alias = part[end:]
    if len(alias) > 2 or (len(alias) == 2 and alias[0].key != "AS") or not all(token.is_name for token in alias):
        return False
    # string, string, and a word or a string
    return len(arguments) == 5 and all(token.key in ("'", ",", "TRUE", "FALSE", "NULL") for token in arguments)


def _sets_session(statement: Statement) -> Iterator[bool]:
    """For each call of set_config, in the body of a DO as well, whether it is not for the transaction alone."""
    found = tokens(statement.text)
    if statement.head[:1] == ("DO",):
        found = tuple(token for body in found if body.key == "'" for token in tokens(body.value))
    for index, token in enumerate(found[:-1]):
        if token.is_name and token.name == _SET_CONFIG and found[index + 1].key == "(":
            last = list(parts(inside(found, index + 1)[0]))[-1:]
            word = [(one.value if one.key == "'" else one.key).lower() for one in last[0]] if last else []
            yield len(word) != 1 or word[0] not in _LOCAL
