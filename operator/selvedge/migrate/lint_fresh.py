"""What a plan made itself, and nobody else has put anything into: when in doubt, it did not.

Names are compared as written, ``t`` and ``shop.t`` are two tables here. An unqualified name stands for an object as
long as the search path is what it was when the object was made: each file begins with the path of the run.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from selvedge.migrate.lint_facts import Fact
from selvedge.migrate.tokens import Reader

#: Kinds of which no two objects of a schema share a name; a function may be called as a table is.
_ONE_NAMESPACE = {"TABLE", "FOREIGN TABLE", "VIEW", "MATERIALIZED VIEW", "SEQUENCE", "TYPE", "DOMAIN"}
_PARTS = {"COLUMN", "ATTRIBUTE", "VALUE", "CONSTRAINT"}
_ROUTINES = {"FUNCTION", "PROCEDURE"}
#: What is written into these, others hold.
_THROUGH = {"VIEW", "FOREIGN TABLE", "MATERIALIZED VIEW"}
_WRITES = {"truncate", "delete-all", "update-all"}

Key = tuple[int, str]
"""The search path under which a name was given (0: none needed), and the name."""


class Fresh:
    """What a plan made itself so far: no data of anybody else is in it."""

    def __init__(self) -> None:
        self._paths = itertools.count(1)
        self._default = self._path = next(self._paths)
        self._objects: dict[Key, str] = {}
        self._schemas: set[str] = set()
        self._columns: set[tuple[Key, str]] = set()
        self._worn: set[str] = set()
        self._referred: set[str] = set()
        self._bodies: dict[str, dict[tuple[Fact, ...], None]] = {}
        self._replaced: set[str] = set()

    def begin(self) -> None:
        """A file begins: with the run's search path, and without the temporary tables of the one before."""
        self._path = self._default
        lasting = (0, self._default)
        self._objects = {k: made for k, made in self._objects.items() if k[0] in lasting and made != "temporary"}
        self._columns = {(key, column) for key, column in self._columns if key[0] in lasting}

    def has(self, name: str) -> bool:
        """Whether the plan made a table, a view, a type or the like of this name, or the schema that the name has."""
        return self._key(name) in self._objects or name.rpartition(".")[0] in self._schemas

    def has_column(self, name: str, column: str) -> bool:
        """Whether the plan made the table, or added the column to it."""
        return self.has(name) or (self._key(name), column) in self._columns

    def exempts(self, fact: Fact) -> bool:
        """Whether what a fact concerns is the plan's own."""
        if fact.kind == "SCHEMA":
            return fact.name in self._schemas
        if fact.kind not in _ONE_NAMESPACE | _PARTS:
            # a routine and the like in a schema that is new; what depends on it may still be somebody's
            return not fact.sure and fact.name.rpartition(".")[0] in self._schemas
        if fact.what in ("truncate", "delete-all") and _last(fact.name) in self._referred:
            return False  # a row that goes may take rows of somebody else's table along
        if fact.what in _WRITES:
            # TRUNCATE … CASCADE empties what refers to the table, whosever it is
            return self._objects.get(self._key(fact.name), "VIEW") not in _THROUGH and not fact.sure
        if fact.what == "drop" and fact.sure and _last(fact.name) in self._worn:
            return False
        return self.has_column(fact.name, fact.column) if fact.column else self.has(fact.name)

    def body(self, fact: Fact) -> Iterator[Fact]:
        """What a routine does that a fact calls, as far as the plan made it; if it was replaced, all that it may do."""
        known = self._bodies.get(_last(fact.name), {}) if fact.what == "call" else {}
        return itertools.chain.from_iterable(tuple(known))

    def made(self, fact: Fact) -> bool:
        """Whether a routine is new with this plan, and not one of those that were there under its name."""
        return _last(fact.name) in self._bodies and _last(fact.name) not in self._replaced

    def knows(self, fact: Fact) -> bool:
        """Whether the plan made the routine that a fact calls."""
        return _last(fact.name) in self._bodies

    def learn(self, fact: Fact) -> None:
        """Take in what a statement made, dropped, renamed or mixed with what was there."""
        match fact.what:
            case "create" if fact.kind in _ROUTINES:
                self._bodies.setdefault(_last(fact.name), {})[fact.inner] = None
                if not fact.sure or fact.maybe:
                    self._replaced.add(_last(fact.name))
            case "create" if fact.sure and not fact.maybe:
                self._create(fact)
            case "add-column" if not fact.maybe:
                self._columns.add((self._key(fact.name), fact.column))
            case "drop-column":
                self._forget_column(fact.name, fact.column)
            case "change-type" if not self.has_column(fact.name, fact.column):
                self._wear(fact)
            case "drop" if fact.kind == "SCHEMA":
                self._forget_schema(fact.name)
            case "drop" if fact.kind in _ONE_NAMESPACE:
                self._forget(fact.name)
            case "rename" | "move":
                self._rename(fact)
            case "attach" if not self.has(fact.new):
                self._spoil(fact.name)
            case "foreign-key" if not self.has(fact.name):
                self._referred.add(_last(fact.kind))
            case _:
                self._learn_of_session(fact)

    def _learn_of_session(self, fact: Fact) -> None:
        match fact.what:
            case "search-path" | "unread":
                self._path = next(self._paths)
            case "call" if fact.kind == "PROCEDURE" and not self.knows(fact):
                self._path = next(self._paths)
            case "default-path":
                self._default = self._path = next(self._paths)
            case "rollback":
                self._objects.clear()
                self._schemas.clear()
                self._columns.clear()
                self._path = next(self._paths)

    def _key(self, name: str) -> Key:
        return (0 if "." in name else self._path, name)

    def _create(self, fact: Fact) -> None:
        if fact.kind == "SCHEMA":
            self._schemas.add(fact.name)
        elif fact.kind in _ONE_NAMESPACE:
            temporary = fact.new == "temporary" or fact.name.startswith("pg_temp.")
            self._objects[self._key(fact.name)] = "temporary" if temporary else fact.kind

    def _rename(self, fact: Fact) -> None:
        if fact.kind == "SCHEMA":
            fresh = fact.name in self._schemas and not fact.maybe
            self._forget_schema(fact.name)
            self._forget_schema(fact.new)
            self._default = self._path = next(self._paths)
            if fresh:
                self._schemas.add(fact.new)
        elif fact.column:
            added = (self._key(fact.name), fact.column) in self._columns and not fact.maybe
            self._forget_column(fact.name, fact.column)
            self._forget_column(fact.name, fact.new)
            if added and fact.new:
                self._columns.add((self._key(fact.name), fact.new))
        elif fact.what == "move" or fact.kind in _ONE_NAMESPACE:
            self._rename_object(fact)

    def _rename_object(self, fact: Fact) -> None:
        schema, last = fact.name.rpartition(".")[0], _last(fact.name)
        moved = fact.what == "move"
        new = f"{fact.new}.{last}" if moved else f"{schema}.{fact.new}" if schema else fact.new
        made = self._objects.get(self._key(fact.name), fact.kind if self.has(fact.name) else "")
        if moved and not made:
            self._schemas.discard(fact.new)
        for marked in (self._worn, self._referred):
            if last in marked:
                marked.add(_last(new))
        self._forget(fact.name)
        self._forget(new)
        if made and fact.kind in _ONE_NAMESPACE and not fact.maybe:
            self._objects[self._key(new)] = made

    def _wear(self, fact: Fact) -> None:
        """A type that holds somebody's data from now on: dropped with CASCADE, it takes the column along."""
        name = Reader(fact.tokens).name()
        if self.has(name):
            self._worn.add(_last(name))
            self._schemas.clear()

    def _spoil(self, name: str) -> None:
        """A table that has somebody else's rows behind it; its schema may be any where the name does not say."""
        if not self.has(name):
            return
        self._forget(name)
        schema = name.rpartition(".")[0]
        self._schemas -= {schema} if schema else set(self._schemas)

    def _forget(self, name: str) -> None:
        """Nobody knows any more whose this is: by this name, without its schema, or, if it has none, in any schema."""
        last = _last(name)
        same = {name, last} if last != name else None
        self._objects = {k: v for k, v in self._objects.items() if not _is_one(k[1], same, last)}
        self._columns = {pair for pair in self._columns if not _is_one(pair[0][1], same, last)}

    def _forget_column(self, name: str, column: str) -> None:
        last = _last(name)
        self._columns = {(key, one) for key, one in self._columns if (_last(key[1]), one) != (last, column)}

    def _forget_schema(self, name: str) -> None:
        self._schemas.discard(name)
        self._objects = {k: v for k, v in self._objects.items() if k[1].rpartition(".")[0] != name}
        self._columns = {pair for pair in self._columns if pair[0][1].rpartition(".")[0] != name}


def _is_one(name: str, names: set[str] | None, last: str) -> bool:
    return name in names if names is not None else _last(name) == last


def _last(name: str) -> str:
    """The last part of a name; one that holds a dot or a quote stands in quotes."""
    at = name.rfind('."') if name.endswith('"') else name.rfind(".")
    return name[at + 1 :]
