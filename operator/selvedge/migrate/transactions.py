"""Which statements cannot run in a transaction, and what a script does with transactions itself.

Found out from the first words of a statement, never from its text: a comment that mentions CONCURRENTLY means nothing.
The lists were measured against a server (SQLSTATE 25001).
"""

from __future__ import annotations

from dataclasses import dataclass

from selvedge.core.errors import InvalidError
from selvedge.core.reasons import Reason
from selvedge.migrate.directives import Directives
from selvedge.migrate.splitter import Statement
from selvedge.migrate.tokens import folded, tokens

_ALWAYS = {
    ("VACUUM",),
    ("ALTER", "SYSTEM"),
    ("CREATE", "DATABASE"),
    ("DROP", "DATABASE"),
    ("CREATE", "TABLESPACE"),
    ("DROP", "TABLESPACE"),
    ("DROP", "SUBSCRIPTION"),
    ("DISCARD", "ALL"),
    ("CREATE", "INDEX", "CONCURRENTLY"),
    ("CREATE", "UNIQUE", "INDEX", "CONCURRENTLY"),
    ("DROP", "INDEX", "CONCURRENTLY"),
}
# Refused in a transaction for some objects only, such as tables with partitions; nothing is lost without one.
_FOR_SOME = {("REINDEX",), ("CLUSTER",), ("ALTER", "SUBSCRIPTION"), ("CREATE", "SUBSCRIPTION")}
_ENDS = {"COMMIT", "ROLLBACK", "CALL"}
_NO = {"FALSE", "OFF", "0", "NO", "F", "N"}
_CONTROL = {"BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT"}
_OPENING = {("BEGIN",), ("BEGIN", "WORK"), ("BEGIN", "TRANSACTION"), ("START", "TRANSACTION")}
_CLOSING = {(word, *noise) for word in ("COMMIT", "END") for noise in ((), ("WORK",), ("TRANSACTION",))}


@dataclass(frozen=True, slots=True)
class Script:
    """What is sent to the server: the statements without an envelope, and whether they share a transaction.

    ``blocks`` are those of a script without one that share a transaction among themselves, as the first and the one
    behind the last of each: where the file itself writes BEGIN and COMMIT. ``alone`` are the statements that are sent
    without any transaction.
    """

    statements: tuple[Statement, ...]
    transactional: bool
    blocks: tuple[tuple[int, int], ...] = ()
    alone: frozenset[int] = frozenset()

    def together(self, first: int) -> int:
        """The statement behind those that share a transaction with number ``first``; the next one, if none does."""
        return next((end for begin, end in self.blocks if begin <= first < end), first + 1)


def forbids_transaction(statement: Statement) -> bool:
    """True for a statement that the server refuses inside a transaction block."""
    head = statement.head
    if any(head[: len(words)] == words for words in _ALWAYS):
        return True
    match head[:1]:
        case ("REINDEX",):
            return _reindex(head)
        case ("CLUSTER",):
            return not _without_options(head[1:])
        case ("ALTER",) if head[1:2] == ("SUBSCRIPTION",):
            return _refreshes(statement)
        case ("ALTER",):
            return _alter(head)
        case ("CREATE",) if head[1:2] == ("SUBSCRIPTION",):
            return not _is_off(statement, "CREATE_SLOT", "CONNECT")
    return False


def ends_transactions(statement: Statement) -> bool:
    """True for what may commit by itself: a procedure, or a block in which such words stand."""
    if statement.head[:1] == ("CALL",):
        return True
    if statement.head[:1] != ("DO",):
        return False
    bodies = [token.value for token in tokens(statement.text) if token.key == "'"]
    return any(not _ENDS.isdisjoint(token.key for token in tokens(body)) for body in bodies)


def is_transaction_control(statement: Statement) -> bool:
    """True for what begins or ends a transaction; savepoints stay inside one and are not meant."""
    head = statement.head
    if head[:2] == ("PREPARE", "TRANSACTION"):
        return True
    if head[:1] == ("ROLLBACK",) and "TO" in head[1:3]:
        return False
    return bool(head) and head[0] in _CONTROL


def prepare(statements: tuple[Statement, ...], directives: Directives, file: str) -> Script:
    """Strip one BEGIN … COMMIT around everything and decide whether the script runs in a transaction.

    With ``transaction: false`` there may be several, each of which is one. Raises InvalidError for any other
    transaction control, for what no client but psql can carry out, and where the file demands a transaction that one of
    its statements forbids.
    """
    blocks: tuple[tuple[int, int], ...] = ()
    inner = statements[1:-1]
    if len(statements) > 1 and statements[0].head in _OPENING and statements[-1].head in _CLOSING:
        enveloped = directives.transaction is not False or not any(map(is_transaction_control, inner))
        statements = inner if enveloped else statements
    if directives.transaction is False:
        statements, blocks = _blocks(statements, file)
    for statement in statements:
        if is_transaction_control(statement):
            raise _invalid(
                file,
                statement,
                f"{statement.head[0]} would end the transaction that keeps the migration whole; remove it, split the "
                "file there, or write -- transaction: false for BEGIN and COMMIT of its own",
            )
        if statement.head[:1] == ("COPY",) and ("TO", "STDOUT") in zip(
            statement.head, statement.head[1:], strict=False
        ):
            raise _invalid(file, statement, "COPY … TO STDOUT has nobody to write to; remove it")
    forbidding = next((statement for statement in statements if forbids_transaction(statement)), None)
    if forbidding is not None and directives.transaction:
        raise _invalid(
            file,
            forbidding,
            f"{' '.join(forbidding.head[:4])} cannot run in a transaction; remove transaction: true",
        )
    if forbidding is None and directives.transaction is not False:
        return Script(statements, transactional=True)
    alone = _alone(statements, blocks, said=directives.transaction is False)
    for statement in statements:
        _check_resumable(statement, file)
    for begin, end in blocks:
        for statement in statements[begin:end]:
            if forbids_transaction(statement):
                words = " ".join(statement.head[:4])
                raise _invalid(file, statement, f"{words} cannot run between BEGIN and COMMIT; move it out of there")
    return Script(statements, transactional=False, blocks=blocks, alone=alone)


def _alone(statements: tuple[Statement, ...], blocks: tuple[tuple[int, int], ...], *, said: bool) -> frozenset[int]:
    """Which of them are sent bare: those that must, and where the file ``said`` so those that may have to."""
    inside = {index for begin, end in blocks for index in range(begin, end)}
    return frozenset(
        index
        for index, statement in enumerate(statements)
        if forbids_transaction(statement)
        or (
            said
            and index not in inside
            and (ends_transactions(statement) or any(statement.head[: len(words)] == words for words in _FOR_SOME))
        )
    )


def _blocks(statements: tuple[Statement, ...], file: str) -> tuple[tuple[Statement, ...], tuple[tuple[int, int], ...]]:
    """The statements without BEGIN and COMMIT, and where each pair stood. Raises InvalidError for what is no pair."""
    left: list[Statement] = []
    blocks: list[tuple[int, int]] = []
    opened: tuple[Statement, int] | None = None
    for statement in statements:
        if opened is None and statement.head in _OPENING:
            opened = (statement, len(left))
        elif opened is not None and statement.head in _CLOSING:
            if opened[1] < len(left):
                blocks.append((opened[1], len(left)))
            opened = None
        elif is_transaction_control(statement):
            what = " ".join(statement.head[:3])
            where = "between BEGIN and COMMIT" if opened else "without a BEGIN before it"
            raise _invalid(file, statement, f"{what} {where} is not run: each BEGIN has one COMMIT, and nothing else")
        else:
            left.append(statement)
    if opened is not None:
        raise _invalid(file, opened[0], "BEGIN without a COMMIT: add it behind the last statement of the transaction")
    return tuple(left), tuple(blocks)


@dataclass(frozen=True, slots=True)
class IndexBuild:
    """The index that a CREATE INDEX CONCURRENTLY makes; ``table`` may hold a schema, both as SQL writes them."""

    index: str
    table: str
    if_not_exists: bool


def index_build(statement: Statement) -> IndexBuild | None:
    """What a CREATE INDEX CONCURRENTLY builds, ``None`` for every other statement; the index is empty if unnamed."""
    words = statement.head
    if words[:1] != ("CREATE",) or "CONCURRENTLY" not in words[:4] or "ON" not in words:
        return None
    start = words.index("CONCURRENTLY") + 1
    if_not_exists = words[start : start + 3] == ("IF", "NOT", "EXISTS")
    if if_not_exists:
        start += 3
    on = words.index("ON", start)
    index = folded(words[start]) if on > start else ""
    table = words[on + 2 :] if words[on + 1 : on + 2] == ("ONLY",) else words[on + 1 :]
    name = table[:3] if table[1:2] == (".",) else table[:1]
    # folded as the server does it, which leaves letters beyond ASCII as they are
    return IndexBuild(index, "".join(word if word[0] in '".' else folded(word) for word in name), if_not_exists)


def _check_resumable(statement: Statement, file: str) -> None:
    build = index_build(statement)
    if build is not None and not build.index:
        raise _invalid(file, statement, "an index that is built CONCURRENTLY needs a name, to be found after a crash")
    if build is not None and any(token.key.startswith('U&"') for token in tokens(statement.text)):
        why = "an index that is built CONCURRENTLY is looked for by its name, and its table's, without escapes (U&)"
        raise _invalid(file, statement, f"{why}; write the letters themselves")


def _reindex(head: tuple[str, ...]) -> bool:
    if "CONCURRENTLY" in head[: head.index(")") if ")" in head else 3]:
        return True
    rest = _without_options(head[1:])
    return rest[:1] in (("SCHEMA",), ("DATABASE",), ("SYSTEM",)) or rest[1:2] == ("CONCURRENTLY",)


def _alter(head: tuple[str, ...]) -> bool:
    if head[1:2] == ("TABLE",) and "DETACH" in head:
        return "CONCURRENTLY" in head[head.index("DETACH") :]
    return head[1:2] == ("DATABASE",) and "TABLESPACE" in head


def _refreshes(statement: Statement) -> bool:
    """Whether an ALTER SUBSCRIPTION looks for tables at the publisher."""
    words = statement.head[3:5]
    if words[:1] == ("REFRESH",):
        return True
    return words[1:] == ("PUBLICATION",) and not _is_off(statement, "REFRESH")


def _is_off(statement: Statement, *options: str) -> bool:
    found = tokens(statement.text)
    values = {
        name.key: (value.value.upper() if value.key == "'" else value.key)
        for name, equals, value in zip(found, found[1:], found[2:], strict=False)
        if equals.key == "="
    }
    return any(values.get(option) in _NO for option in options)


def _without_options(head: tuple[str, ...]) -> tuple[str, ...]:
    if head[:1] == ("(",) and ")" in head:
        head = head[head.index(")") + 1 :]
    return head[1:] if head[:1] == ("VERBOSE",) else head


def _invalid(file: str, statement: Statement, why: str) -> InvalidError:
    return InvalidError(Reason.INVALID_MIGRATION, f"{file}, line {statement.line}: {why}")
