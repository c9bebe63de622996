"""One command of a migration: as BSON, sent, its answer read, its error told; and whether its work is done already."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import bson
from pymongo.errors import OperationFailure

from selvedge.engines.mongodb.bson_json import to_bson
from selvedge.engines.mongodb.errors import INDEX_NOT_FOUND, NAMESPACE_EXISTS, NAMESPACE_NOT_FOUND, server_message
from selvedge.migrate.mongo_rules import DATA, written
from selvedge.migrate.protocol import Failure, StatementFailedError, shorten_statement

if TYPE_CHECKING:
    from pymongo.asynchronous.client_session import AsyncClientSession

    from selvedge.engines.mongodb.connect import Server
    from selvedge.migrate.mongo import Command

NOT_IN_TRANSACTION = 263
TOLERATED = frozenset({NAMESPACE_NOT_FOUND, INDEX_NOT_FOUND, NAMESPACE_EXISTS, 85})
"""What may mean that a command's work is done, where the file says ``ifNotExists`` or the command ran before."""

_WRITES = DATA | {"create", "createIndexes", "collMod", "drop", "dropIndexes", "renameCollection", "convertToCapped"}
_RETRY = frozenset({112, 24, 46, 251, 267, 225})
_TOO_LONG = frozenset({251, 257, 290, 292})
_TRANSACTION_LIFETIME = 50.0
"""Seconds; the server ends a transaction after a minute (transactionLifetimeLimitSeconds)."""
_FIXED = ("capped", "max", "timeseries", "viewOn", "pipeline", "collation", "clusteredIndex")
"""Options of a collection that nothing changes later: these have to be equal, said or not."""

_INDEX_IDENTITY = ("unique", "sparse", "partialFilterExpression")

Doc = dict[str, Any]


def compiled(command: Command) -> Doc:
    """The command as the server takes it; indexes without a name are named as every driver names them."""
    document: Doc = to_bson(copy.deepcopy(command.document))
    if command.name == "createIndexes":
        for index in document.get("indexes", ()):
            if isinstance(index, dict) and isinstance(index.get("key"), dict) and "name" not in index:
                index["name"] = "_".join(f"{field}_{_number(way)}" for field, way in index["key"].items())
    return document


def bson_size(command: Command) -> int:
    """How many bytes the command has on its way to the server."""
    return len(bson.encode(to_bson(command.document)))


async def send(
    server: Server,
    database: str,
    command: Command,
    *,
    session: AsyncClientSession | None = None,
    limit: float = 0,
    comment: str = "",
) -> Doc:
    """Send a command and return the answer; ``limit`` in seconds, 0 for none. Raises the driver's exceptions.

    Also where the server answers ok and one document failed.
    """
    document = compiled(command)
    where = database
    if command.name == "renameCollection":
        where = "admin"
        document |= full_names(document, database)
    if comment:
        document.setdefault("comment", comment)
    if limit > 0:
        document.setdefault("maxTimeMS", round(limit * 1000))
    if session is not None:
        client = await server.client()
        reply: Doc = await client[where].command(document, session=session)
    else:
        writes = command.name in _WRITES or (command.name == "aggregate" and bool(written(command)))
        reply = await server.run(where, document, None, read=not writes)
    check_reply(reply)
    return reply


def check_reply(reply: Doc) -> None:
    """Raise OperationFailure for what failed in an answer that says ok."""
    problems = [*reply.get("writeErrors", ())]
    if "writeConcernError" in reply:
        problems.append(reply["writeConcernError"])
    for problem in problems:
        raise OperationFailure(str(problem.get("errmsg")), problem.get("code"), problem)


def full_names(document: Doc, database: str) -> Doc:
    """The names of a renameCollection with the database before them; left alone where the first one has it."""
    source = str(document["renameCollection"])
    if source.startswith(f"{database}."):
        return {}
    return {"renameCollection": f"{database}.{source}", "to": f"{database}.{document.get('to')}"}


def documents(command: Command, reply: Doc) -> int:
    """How many documents a command changed, by its answer."""
    if command.name == "update":
        return int(reply.get("nModified", 0)) + len(reply.get("upserted", ()))
    if command.name in ("insert", "delete"):
        return int(reply.get("n", 0))
    if command.name in DATA:
        return int((reply.get("lastErrorObject") or {}).get("n", 0))
    return 0


def failed(file: str, command: Command, error: OperationFailure, *, open_for: float = 0) -> StatementFailedError:
    """The failure of a command with file and line. ``open_for``: seconds of the transaction that it ran in."""
    details: Any = error.details or {}
    code = str(details.get("codeName") or error.code or "")
    hint = ""
    long = error.code in _TOO_LONG and open_for > _TRANSACTION_LIFETIME
    if error.code == NOT_IN_TRANSACTION:
        hint = 'this command cannot run in a transaction; remove "transaction": true'
    elif error.code == 50:
        hint = "it took longer than the statement timeout; raise statementTimeout in the file, or timeouts.statement"
    elif long:
        hint = "a transaction ends after a minute; write a large update as x-batchUpdate"
    statement = shorten_statement(command.text)
    message = server_message(error).removesuffix(f" ({code})")
    failure = Failure(file, command.line, statement, code, message, hint)
    retry = error.code in _RETRY or error.has_error_label("TransientTransactionError")
    # what the server ended for its length would take as long again
    return StatementFailedError(failure, retry=retry and not long)


def refused(file: str, command: Command, code: str, why: str, hint: str = "") -> StatementFailedError:
    """A failure that was known before anything was sent."""
    return StatementFailedError(Failure(file, command.line, shorten_statement(command.text), code, why, hint))


# -- done already ------------------------------------------------------------------------------------------------


async def remaining(server: Server, database: str, command: Command, limit: float) -> Command | None:
    """What of a command is still to do where its work may have been done; None where nothing is."""
    name, wanted = command.name, compiled(command)
    if name == "create":
        found = await collection(server, database, str(wanted["create"]), limit)
        return None if found is not None and equal_options(wanted, found) else command
    if name == "drop":
        return command if await collection(server, database, str(wanted["drop"]), limit) is not None else None
    if name == "dropIndexes":
        existing = await indexes(server, database, str(wanted["dropIndexes"]), limit)
        return _drop_rest(command, wanted.get("index"), existing)
    if name == "createIndexes":
        existing = await indexes(server, database, str(wanted["createIndexes"]), limit)
        return _create_rest(command, wanted.get("indexes", ()), existing)
    if name == "renameCollection":
        names = wanted | full_names(wanted, database)
        old, new = (str(names[key]).removeprefix(f"{database}.") for key in ("renameCollection", "to"))
        gone = await collection(server, database, old, limit) is None
        return None if gone and await collection(server, database, new, limit) is not None else command
    if name == "convertToCapped":
        found = await collection(server, database, str(wanted["convertToCapped"]), limit)
        return None if found is not None and (found.get("options") or {}).get("capped") else command
    return command


async def collection(server: Server, database: str, name: str, limit: float) -> Doc | None:
    """What ``listCollections`` says of a collection; None where there is none."""
    command = {"listCollections": 1, "filter": {"name": name}}
    reply = await server.command(database, command, limit)
    found: list[Doc] = reply["cursor"]["firstBatch"]
    return found[0] if found else None


async def indexes(server: Server, database: str, name: str, limit: float) -> list[Doc]:
    """The indexes of a collection; none where there is no collection."""
    try:
        command = {"listIndexes": name, "cursor": {"batchSize": 1000}}
        reply = await server.run(database, command, limit)
    except OperationFailure as error:
        if error.code in (NAMESPACE_NOT_FOUND, 166):
            return []
        raise
    found: list[Doc] = reply["cursor"]["firstBatch"]
    return found


def equal_options(wanted: Doc, found: Doc) -> bool:
    """Whether a collection has the options that a ``create`` names, and those that cannot be changed later."""
    options: Doc = found.get("options") or {}
    names = [name for name in wanted if name not in ("create", "comment", "size")]
    if any(not _within(wanted[name], options.get(name, False)) for name in names):
        return False
    if bool(options.get("capped")) and wanted.get("size", 0) > options.get("size", 0):
        return False
    return all(name in wanted or not options.get(name) for name in _FIXED)


def equivalent(wanted: Doc, existing: Doc) -> bool:
    """Whether an index does what another one is to do, whatever their names are."""
    if list(dict(wanted.get("key") or {}).items()) != list(dict(existing["key"]).items()):
        return False
    one, other = wanted.get("collation"), existing.get("collation")
    if bool(one) != bool(other) or (one and not _within(one, other)):
        return False
    if wanted.get("expireAfterSeconds") != existing.get("expireAfterSeconds"):
        return False
    return all((wanted.get(name) or None) == (existing.get(name) or None) for name in _INDEX_IDENTITY)


def _within(wanted: Any, found: Any) -> bool:
    """Equal, where the server may have added what it takes by default."""
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        return all(key in found and _within(value, found[key]) for key, value in wanted.items())
    return bool(wanted == found)


def _drop_rest(command: Command, wanted: Any, existing: list[Doc]) -> Command | None:
    names = {index["name"] for index in existing}
    if isinstance(wanted, Mapping):
        return command if any(list(index["key"].items()) == list(wanted.items()) for index in existing) else None
    if wanted == "*":
        return command if names - {"_id_"} else None
    asked = wanted if isinstance(wanted, list) else [wanted]
    rest = [name for name in asked if name in names]
    if not rest:
        return None
    return _with(command, "index", rest) if len(rest) < len(asked) else command


def _create_rest(command: Command, wanted: list[Doc], existing: list[Doc]) -> Command | None:
    """Without the indexes that exist under another name; what has the same name the server compares, or waits for."""
    plain = command.document.get("indexes", ())
    rest = [
        index
        for index, new in zip(plain, wanted, strict=True)
        if not any(equivalent(new, old) and new.get("name") != old["name"] for old in existing)
    ]
    if not rest:
        return None
    return _with(command, "indexes", rest) if len(rest) < len(plain) else command


def _with(command: Command, key: str, value: Any) -> Command:
    return replace(command, document={**command.document, key: value})


def _number(way: Any) -> Any:
    return int(way) if isinstance(way, float) and way.is_integer() else way
