"""What is known to fail is found before the first command of a migration runs.

The commands are gone through in order over a picture of the database: what an earlier one changes is changed there, and
documents that an earlier one touches are not judged any more. Where the picture is not sure, nothing is said, and the
server's own answer counts. Indexes are judged by the server itself: in a transaction that is rolled back, a collection
with the same indexes is made and the new ones are added to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pymongo.errors import OperationFailure, PyMongoError

from selvedge.engines.mongodb import migration_commands as commands_module
from selvedge.engines.mongodb.errors import UNAUTHORIZED, connection_lost, server_message
from selvedge.engines.mongodb.migration_commands import NOT_IN_TRANSACTION, bson_size, compiled, equal_options, refused
from selvedge.engines.mongodb.migration_documents import duplicates, violations
from selvedge.engines.mongodb.migration_picture import Collection, Picture
from selvedge.migrate.mongo_rules import BATCH, DATA, VIOLATIONS, same_again, written

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from selvedge.engines.mongodb.connect import Server
    from selvedge.migrate.directives import Directives
    from selvedge.migrate.mongo import Command
    from selvedge.migrate.protocol import StatementFailedError

TRIAL = "selvedge.trial"
"""The collection that only ever exists in a transaction that is rolled back."""

_LARGEST = 16_000_000
"""Bytes of a command; the server takes a little more, and the driver adds a little."""

Doc = dict[str, Any]


class Preflight:
    """One look before a migration. ``known``: the server's commands; ``transactions``: it has them."""

    def __init__(self, server: Server, database: str, known: frozenset[str], transactions: bool) -> None:
        self.alone: set[int] = set()
        """Lines of commands that change documents and that no transaction takes."""
        self._server = server
        self._database = database
        self._commands = known
        self._transactions = transactions
        self._picture = Picture(server, database, server.target.limits.statement_timeout)

    async def check(
        self,
        file: str,
        commands: Sequence[Command],
        directives: Directives,
        *,
        whole: bool,
        interrupted: bool,
        waiting: Callable[[str], Awaitable[None]],
    ) -> None:
        """Go through the commands that are still to run; ``interrupted``: the first one was sent before.

        ``whole``: they are to be one transaction. ``waiting`` is told what is being counted. Raises
        StatementFailedError for the first command that is known to fail, and what a broken connection gives.
        """
        try:
            self.alone.clear()
            for number, command in enumerate(commands):
                if command.name != BATCH and command.name not in self._commands:
                    raise refused(file, command, "CommandNotFound", f"the server knows no command {command.name!r}")
                doubtful = interrupted and number == 0
                for name in written(command) if command.name != "renameCollection" else ():
                    await self._picture.look(name, with_indexes=command.name in ("createIndexes", "dropIndexes"))
                if not doubtful:
                    problem = await self._judged(file, command, directives, waiting, whole=whole)
                    if problem is not None:
                        raise problem
                self._picture.apply(command, doubtful=doubtful)
        except (PyMongoError, OSError) as error:
            raise self._server.error(error, f"looking before {file}") from None
        finally:
            await waiting("")

    # -- judging -------------------------------------------------------------------------------------------------

    async def _judged(
        self,
        file: str,
        command: Command,
        directives: Directives,
        waiting: Callable[[str], Awaitable[None]],
        *,
        whole: bool,
    ) -> StatementFailedError | None:
        """What is known to be wrong with a command; what the server says while it is looked at counts as well."""
        size = bson_size(command)
        if size > _LARGEST:
            why = f"the command has {size} bytes, the server takes {_LARGEST}"
            return refused(file, command, "BSONObjectTooLarge", why, "split it")
        try:
            return await self._judge(file, command, directives, waiting, whole=whole)
        except OperationFailure as error:
            if connection_lost(error) or error.code == UNAUTHORIZED:
                raise
            return commands_module.failed(file, command, error)

    async def _judge(
        self,
        file: str,
        command: Command,
        directives: Directives,
        waiting: Callable[[str], Awaitable[None]],
        *,
        whole: bool,
    ) -> StatementFailedError | None:
        name = command.name
        document = compiled(command) if name != BATCH else {}
        if name == BATCH:
            return None if self._transactions or same_again_batch(command) else _needs_replica_set(file, command)
        if name in DATA:
            return await self._judge_data(file, command, whole=whole)
        if name == "create":
            return await self._judge_create(file, command, document)
        if name == "createIndexes":
            return await self._judge_indexes(file, command, document, waiting, whole=whole)
        if name in ("drop", "collMod", "convertToCapped", "dropIndexes"):
            found = await self._picture.look(str(document[name]))
            if found.exists is False and not (command.if_not_exists and name in ("drop", "dropIndexes")):
                return refused(file, command, "NamespaceNotFound", f"there is no collection {document[name]}")
            if name == "dropIndexes":
                return self._judge_drop_indexes(file, command, document, found)
            if name == "collMod":
                return await self._judge_validator(file, command, document, found, directives, waiting)
        if name == "renameCollection":
            return await self._judge_rename(file, command, document)
        return None

    async def _judge_data(self, file: str, command: Command, *, whole: bool) -> StatementFailedError | None:
        found = await self._picture.look(str(command.document[command.name]))
        unfit = bool(found.exists) and (bool(found.options.get("capped")) or found.type == "timeseries")
        if unfit:
            self.alone.add(command.line)
        if unfit and whole:
            why = f"{command.document[command.name]} is capped or a time series, which no transaction can change"
            return refused(file, command, "OperationNotSupportedInTransaction", why, 'remove "transaction": true')
        if found.exists and found.type == "view":
            why = f"{command.document[command.name]} is a view, not a collection"
            return refused(file, command, "CommandNotSupportedOnView", why)
        return None

    async def _judge_create(self, file: str, command: Command, document: Doc) -> StatementFailedError | None:
        found = await self._picture.look(str(document["create"]))
        if not found.exists:
            return None
        if command.if_not_exists:
            if found.made or equal_options(document, {"options": found.options}):
                return None
            why = f"collection {document['create']} exists with other options"
            return refused(
                file, command, "NamespaceExists", why, "change them with collMod, or write down here what is there"
            )
        hint = 'add "ifNotExists": true where that is as it should be'
        return refused(file, command, "NamespaceExists", f"collection {document['create']} exists already", hint)

    def _judge_drop_indexes(
        self, file: str, command: Command, document: Doc, found: Collection
    ) -> StatementFailedError | None:
        if not found.exists or command.if_not_exists:
            return None
        wanted = document.get("index")
        asked = wanted if isinstance(wanted, list) else [wanted]
        names = {index["name"] for index in found.indexes}
        missing = [str(name) for name in asked if isinstance(name, str) and name != "*" and name not in names]
        if missing:
            why = f"{document['dropIndexes']} has no index {missing[0]}"
            return refused(file, command, "IndexNotFound", why, 'add "ifNotExists": true where it may be gone')
        return None

    async def _judge_rename(self, file: str, command: Command, document: Doc) -> StatementFailedError | None:
        old, new = self._picture.renamed(document)
        if (await self._picture.look(old, with_indexes=True)).exists is False and not command.if_not_exists:
            return refused(file, command, "NamespaceNotFound", f"there is no collection {old}")
        if (await self._picture.look(new)).exists and not document.get("dropTarget") and not command.if_not_exists:
            return refused(file, command, "NamespaceExists", f"collection {new} exists already")
        return None

    async def _judge_indexes(
        self,
        file: str,
        command: Command,
        document: Doc,
        waiting: Callable[[str], Awaitable[None]],
        *,
        whole: bool,
    ) -> StatementFailedError | None:
        name = str(document["createIndexes"])
        found = await self._picture.look(name)
        if found.exists and found.type == "view":
            return refused(file, command, "CommandNotSupportedOnView", f"{name} is a view, not a collection")
        if whole and found.exists and (not found.made or not found.untouched):
            why = f"a transaction builds indexes on collections that it makes itself and that are empty; {name} is not"
            return refused(file, command, "OperationNotSupportedInTransaction", why, 'remove "transaction": true')
        if found.exists is None:
            return None
        rest = self._new_indexes(command, document, found)
        conflict = await self._try(name, found, rest)
        if conflict is not None:
            code = str((conflict.details or {}).get("codeName") or conflict.code)
            hint = 'add "ifNotExists": true where the other name will do' if conflict.code == 85 else ""
            why = server_message(conflict).removesuffix(f" ({code})").replace(TRIAL, name)
            return refused(file, command, code, why, hint)
        for index in rest:
            known = {one["name"] for one in found.indexes}
            if not index.get("unique") or index.get("name") in known or not _as_it_is(found):
                continue
            await waiting(f"the search for duplicates before unique index {index.get('name')} on {name}")
            count = await duplicates(self._server, self._database, name, index)
            if count:
                why = f"{count} {'keys are' if count > 1 else 'key is'} there several times"
                hint = f"unique index {index.get('name')} cannot be built on {name} before they are gone"
                return refused(file, command, "DuplicateKey", why, hint)
        return None

    def _new_indexes(self, command: Command, document: Doc, found: Collection) -> list[Doc]:
        wanted: list[Doc] = list(document.get("indexes", ()))
        if not command.if_not_exists:
            return wanted
        return [
            index
            for index in wanted
            if not any(
                commands_module.equivalent(index, old) and index.get("name") != old["name"] for old in found.indexes
            )
        ]

    async def _try(self, name: str, found: Collection, wanted: list[Doc]) -> OperationFailure | None:
        """What the server says to these indexes beside those that exist; it is asked in a transaction that ends."""
        if not wanted or found.type != "collection":
            return None
        if not self._transactions:
            return _conflict(found.indexes, wanted)
        kept = ("collation", "clusteredIndex")
        options = {key: found.options[key] for key in kept if isinstance(found.options.get(key), dict)}
        mine = [index for index in found.indexes if index["name"] != "_id_" and not index.get("clustered")]
        client = await self._server.client()
        database = client[self._database]
        async with client.start_session() as session:
            await session.start_transaction()
            try:
                await database.command({"create": TRIAL, **options}, session=session)
                if mine:
                    await database.command({"createIndexes": TRIAL, "indexes": mine}, session=session)
            except OperationFailure as error:
                if connection_lost(error):
                    raise
                return None  # what exists cannot be made here a second time: nothing can be said
            try:
                await database.command({"createIndexes": TRIAL, "indexes": wanted}, session=session)
            except OperationFailure as error:
                unsure = error.code in (UNAUTHORIZED, NOT_IN_TRANSACTION) or error.has_error_label(
                    "TransientTransactionError"
                )
                if connection_lost(error):
                    raise
                return None if unsure else error
        return None

    async def _judge_validator(
        self,
        file: str,
        command: Command,
        document: Doc,
        found: Collection,
        directives: Directives,
        waiting: Callable[[str], Awaitable[None]],
    ) -> StatementFailedError | None:
        """A collMod succeeds although documents violate its validator, and each of their updates fails from then on."""
        new = {**found.options, **document}
        validator = new.get("validator")
        stricter = any(key in document for key in ("validator", "validationLevel", "validationAction"))
        strict = new.get("validationLevel", "strict") == "strict" and new.get("validationAction", "error") == "error"
        if not (_as_it_is(found) and stricter and strict and validator):
            return None
        if VIOLATIONS in directives.allow:
            return None
        await waiting(f"the count of documents in {document['collMod']} that violate its new validator")
        count = await violations(self._server, self._database, str(document["collMod"]), validator)
        if not count:
            return None
        why = f"{count} {'documents violate' if count > 1 else 'document violates'} the new validator"
        hint = (
            'mend them in a migration before this one, use "validationLevel": "moderate", or put '
            f'"{VIOLATIONS}" into the file\'s "allow"'
        )
        return refused(file, command, "DocumentValidationFailure", why, hint)


def _conflict(existing: list[Doc], wanted: list[Doc]) -> OperationFailure | None:
    """The conflicts that can be told without asking the server, where it has no transactions to be asked in."""
    for new in wanted:
        for old in existing:
            same = list(new["key"].items()) == list(dict(old["key"]).items())
            if new.get("name") == old["name"] and not same:
                why = "an existing index has the same name as the requested index"
                return OperationFailure(why, 86, {"codeName": "IndexKeySpecsConflict", "errmsg": why})
            if new.get("name") != old["name"] and commands_module.equivalent(new, old):
                why = f"Index already exists with a different name: {old['name']}"
                return OperationFailure(why, 85, {"codeName": "IndexOptionsConflict", "errmsg": why})
    return None


def _as_it_is(found: Collection) -> bool:
    """Whether the documents that are there now are those that the command will find."""
    return bool(found.exists) and found.untouched and not found.made


def same_again_batch(command: Command) -> bool:
    """Whether a batch that ran twice is as one that ran once."""
    if command.batch is None or not isinstance(command.batch.update, dict):
        return False
    update = {"q": command.batch.filter, "u": command.batch.update, "multi": True}
    return same_again(type(command)({"update": command.batch.collection, "updates": [update]}, command.line, ""))


def _needs_replica_set(file: str, command: Command) -> StatementFailedError:
    why = "this server is no replica set: a batch that was cut off could not be told from one that was not"
    hint = "use operators such as $set, which may run twice, or make the server a replica set of one"
    return refused(file, command, "IllegalOperation", why, hint)
