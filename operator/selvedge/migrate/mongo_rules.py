"""What is known of MongoDB's commands without asking a server: what they change, and what a transaction can hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from selvedge.migrate.json_reader import invalid

if TYPE_CHECKING:
    from selvedge.migrate.mongo import Command

BATCH = "x-batchUpdate"
"""The one command of our own: an update in batches that goes on where it stopped."""

OWN = frozenset({"selvedge.history", "selvedge.events", "selvedge.migrations"})
"""The runner's collections in the database that it migrates."""

VIOLATIONS = "validator-violations"
"""The word in ``"allow"`` that lets a validator begin although documents violate it; the preflight looks."""

DATA = frozenset({"insert", "update", "delete", "findAndModify", "findandmodify"})
"""Commands that change documents: a transaction holds them together with the cursor."""

_READS = frozenset({"find", "aggregate", "distinct"})
_TRANSACTION = DATA | _READS | {"create", "createIndexes"}
_DRIVERS = frozenset(
    {"lsid", "txnNumber", "autocommit", "startTransaction", "stmtId", "apiVersion", "writeConcern", "readConcern"}
)
_REFUSED = {
    "dropDatabase": "would drop the history as well; drop the collections one by one",
    "eval": "no JavaScript is run",
    **dict.fromkeys(("mapReduce", "mapreduce"), "no JavaScript is run; write an aggregate with $merge, or an update"),
    "commitTransaction": "the runner begins and ends transactions; remove it",
    "abortTransaction": "the runner begins and ends transactions; remove it",
    "endSessions": "the runner begins and ends sessions; remove it",
    "getMore": "a cursor does not outlive its command; remove it",
}
_LISTS = {"createIndexes": "indexes", "insert": "documents", "update": "updates", "delete": "deletes"}
_NAMED = DATA | {"create", "createIndexes", "collMod", "drop", "dropIndexes", "renameCollection", "convertToCapped"}
_SAME_AGAIN = frozenset({"$set", "$unset", "$rename", "$min", "$max", "$addToSet", "$pull", "$pullAll"})


def check(command: Command, file: str) -> None:
    """Raise InvalidError, with file and line, for what no migration may send."""
    name, document = command.name, command.document
    if name.startswith("x-") and name != BATCH:
        raise invalid(file, command.line, f"{name} is no command that is known; {BATCH} is the only one of this kind")
    if name in _REFUSED:
        raise invalid(file, command.line, f"{name} is not run: {_REFUSED[name]}")
    for key in document:
        if key.startswith("$") or key in _DRIVERS:
            raise invalid(file, command.line, f"{key} is the driver's to send; remove it")
    why = _shape(name, document)
    if why:
        raise invalid(file, command.line, why)
    taken = sorted(own for own in OWN for one in written(command) if one == own or one.endswith(f".{own}"))
    if taken:
        raise invalid(file, command.line, f"{taken[0]} is the runner's own collection; leave it alone")


def _shape(name: str, document: Mapping[str, Any]) -> str:
    """What is wrong with the fields that are looked into here; the server judges the others."""
    if name in _NAMED and (not isinstance(document[name], str) or not document[name]):
        return f"{name} takes the name of a collection"
    if name == "renameCollection" and not isinstance(document.get("to"), str):
        return '"to" is the new name of the collection'
    if name == "dropIndexes":
        index = document.get("index")
        names = index if isinstance(index, list) else [index]
        if not isinstance(index, Mapping) and not (names and all(isinstance(one, str) for one in names)):
            return '"index" is the name of an index, a list of names, or the fields of one'
    key = _LISTS.get(name)
    if key is None:
        return ""
    values = document.get(key)
    if not isinstance(values, list) or not values or not all(isinstance(one, Mapping) for one in values):
        return f"{key} of {name} is a list of objects"
    if name == "createIndexes" and not all(isinstance(one.get("key"), Mapping) and one["key"] for one in values):
        return 'each index has a key, such as {"key": {"name": 1}}'
    return ""


def check_transaction(commands: Sequence[Command], file: str, step: str = "") -> None:
    """Raise InvalidError for a command that no transaction can hold; ``step`` is the way out, if not the file's own."""
    step = step or 'remove "transaction": true, or move it to a file of its own'
    filled: set[str] = set()
    for command in commands:
        name = command.name
        if name in DATA:
            filled |= written(command)
        if name == BATCH:
            why = f"{BATCH} commits batch by batch"
        elif name not in _TRANSACTION:
            why = f"{name} cannot run in a transaction (263)"
        elif name == "aggregate" and written(command):
            why = "$out and $merge cannot run in a transaction (263)"
        elif name == "create" and {"timeseries", "viewOn"} & set(command.document):
            why = "a view or a time series cannot be made in a transaction (263)"
        elif name == "createIndexes" and command.document[name] in filled:
            why = "an index is built before documents come into its collection, in a transaction (263)"
        else:
            continue
        raise invalid(file, command.line, f"{why}; {step}")


def written(command: Command) -> frozenset[str]:
    """The collections whose documents, options or indexes the command changes, of those that it names."""
    document, name = command.document, command.name
    if name == BATCH:
        return frozenset({command.batch.collection}) if command.batch else frozenset()
    target = document[name]
    if name == "aggregate":
        return frozenset(_outputs(document.get("pipeline")))
    if name == "renameCollection":
        return frozenset(str(full) for full in (target, document.get("to")))
    if name in _READS or name == "count" or not isinstance(target, str):
        return frozenset()
    return frozenset({target})


def _outputs(pipeline: Any) -> list[str]:
    found = []
    for stage in _objects(pipeline):
        for word in ("$out", "$merge"):
            if word in stage:
                into = stage[word]
                into = into.get("into", into.get("coll")) if isinstance(into, Mapping) else into
                into = into.get("coll") if isinstance(into, Mapping) else into
                found.append(str(into))
    return found


def same_again(command: Command) -> bool:
    """Whether running the command a second time changes nothing that its first run did not.

    Asked where no transaction could hold a command together with the cursor, of one whose end is not known.
    """
    name, document = command.name, command.document
    if name == "delete":
        return all(one.get("limit") in (0, {"$numberInt": "0"}) for one in _objects(document.get("deletes")))
    if name == "update":
        return all(
            bool(one.get("multi"))
            and isinstance(one.get("u"), Mapping)
            and bool(one["u"])
            and not one.get("upsert")
            and set(one["u"]) <= _SAME_AGAIN
            for one in _objects(document.get("updates"))
        )
    if name == "aggregate":
        return not any("$merge" in stage for stage in _objects(document.get("pipeline")))
    return name not in DATA | {BATCH, "convertToCapped"}


def _objects(value: Any) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []
