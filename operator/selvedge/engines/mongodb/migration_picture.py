"""What the commands of a migration find in a database when each of them comes, as far as that is known before.

Looked up once for each collection, and changed command by command as the server will change it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from selvedge.engines.mongodb.migration_commands import collection, compiled, full_names, indexes
from selvedge.migrate.mongo_rules import BATCH, written

if TYPE_CHECKING:
    from selvedge.engines.mongodb.connect import Server
    from selvedge.migrate.mongo import Command

Doc = dict[str, Any]


@dataclass(slots=True)
class Collection:
    """What is known of a collection. ``exists`` None: not sure. ``untouched``: its documents are those of now.

    ``made``: by the migration itself. ``looked_into``: ``indexes`` are all.
    """

    exists: bool | None = False
    type: str = "collection"
    options: Doc = field(default_factory=dict)
    indexes: list[Doc] = field(default_factory=list)
    untouched: bool = True
    made: bool = False
    looked_into: bool = True


class Picture:
    """The collections that a migration names."""

    def __init__(self, server: Server, database: str, limit: float) -> None:
        self._server = server
        self._database = database
        self._limit = limit
        self._known: dict[str, Collection] = {}

    async def look(self, name: str, *, with_indexes: bool = False) -> Collection:
        """What is known of a collection. Raises the driver's exceptions."""
        if name not in self._known:
            found = await collection(self._server, self._database, name, self._limit)
            if found is None:
                self._known[name] = Collection()
            else:
                kind = str(found.get("type", "collection"))
                options: Doc = dict(found.get("options") or {})
                self._known[name] = Collection(True, kind, options, looked_into=False)
        known = self._known[name]
        if with_indexes and not known.looked_into:
            known.indexes = await indexes(self._server, self._database, name, self._limit)
            known.looked_into = True
        return known

    def renamed(self, document: Doc) -> tuple[str, str]:
        """The old and the new name of a renameCollection, without the database."""
        names = document | full_names(document, self._database)
        old, new = (str(names[key]).removeprefix(f"{self._database}.") for key in ("renameCollection", "to"))
        return old, new

    def apply(self, command: Command, *, doubtful: bool) -> None:
        """Change the picture as the command changes the database; a ``doubtful`` one leaves what it names unsure."""
        name = command.name
        document = compiled(command) if name != BATCH else {}
        if name == "renameCollection":
            old, new = self.renamed(document)
            moved = self._known.get(old, Collection(None))
            moved.untouched = False  # its documents cannot be counted under the new name yet
            self._known[old], self._known[new] = Collection(), moved
            return
        for target in written(command):
            found = self._known.setdefault(target, Collection(None))
            if doubtful:
                found.exists, found.untouched = None, False
            elif name == "create":
                if found.exists is not True:
                    kind = (
                        "timeseries" if "timeseries" in document else "view" if "viewOn" in document else "collection"
                    )
                    options = {key: value for key, value in document.items() if key != "create"}
                    self._known[target] = Collection(True, kind, options, made=True)
            elif name == "drop":
                self._known[target] = Collection()
            elif name == "createIndexes":
                known = {index["name"] for index in found.indexes}
                found.indexes += [one for one in document.get("indexes", ()) if one.get("name") not in known]
                found.made = found.made or found.exists is False
                found.exists = True if found.exists is False else found.exists
            elif name == "dropIndexes":
                self._apply_drop(found, document.get("index"))
            elif name == "collMod":
                found.options |= {key: value for key, value in document.items() if key != "collMod"}
                found.exists = None if "index" in document else found.exists
            else:
                found.untouched = False
                found.exists = True if found.exists or name == "insert" else None

    def _apply_drop(self, found: Collection, wanted: Any) -> None:
        if wanted == "*":
            found.indexes = [index for index in found.indexes if index["name"] == "_id_"]
        elif isinstance(wanted, dict):
            found.indexes = [index for index in found.indexes if list(index["key"].items()) != list(wanted.items())]
        else:
            gone = set(wanted) if isinstance(wanted, list) else {wanted}
            found.indexes = [index for index in found.indexes if index["name"] not in gone]
