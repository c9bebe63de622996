"""Names of tables, columns, indexes and constraints as a team agreed on them, and what departs from that."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields

from selvedge.core.errors import InvalidError
from selvedge.core.reasons import Reason
from selvedge.migrate.finding import Finding
from selvedge.migrate.lint_facts import Fact

RULE = "naming"
_SNAKE = re.compile(r"[a-z][a-z0-9_]*")
_CAMEL = re.compile(r"(?<=[a-z])[A-Z]")
_BRACES = re.compile(r"\{[^{}]*\}?|\}")
_CONSTRAINTS = ("primary-key", "foreign-key", "check", "unique")


@dataclass(frozen=True, slots=True)
class Conventions:
    """The names that are asked for; an empty template or tuple asks for nothing. The defaults are Fashion Wallet's.

    Templates know ``{table}``, ``{columns}``, ``{column}`` and ``{foreign}``; whatever stands for the last three is any
    word in small letters, since an expression has no name of its own.
    """

    plural_tables: bool = True
    plural_exceptions: tuple[str, ...] = ("activity", "children", "data", "history", "media", "metadata", "people")
    snake_case: bool = True
    boolean_prefixes: tuple[str, ...] = ("is_", "has_", "can_")
    foreign_key_column: str = "{table}_id"
    foreign_key_suffixes: tuple[str, ...] = ("_by", "parent_id")
    index: str = "idx_{table}_{columns}"
    unique_index: str = "uidx_{table}_{columns}"
    primary_key: str = "pk_{table}"
    foreign_key: str = "fk_{table}_{foreign}_{column}"
    check: str = "chk_{table}_{column}"
    unique: str = "unq_{table}_{columns}"

    @classmethod
    def from_mapping(cls, given: Mapping[str, object]) -> Conventions:
        """Conventions from a file or resource: each key a field, as here or in camelCase. Raises InvalidError."""
        defaults = cls()
        known = {one.name: getattr(defaults, one.name) for one in fields(cls)}
        found: dict[str, object] = {}
        for written, value in given.items():
            key = _CAMEL.sub(lambda letter: f"_{letter[0].lower()}", str(written))
            if key not in known:
                raise _invalid(f"conventions: {written!r} is not known; use one of {', '.join(sorted(known))}")
            if key in found:
                raise _invalid(f"conventions: {key} is there twice, as {written} too: remove one")
            if isinstance(known[key], tuple):
                if not isinstance(value, list | tuple) or not all(isinstance(word, str) for word in value):
                    raise _invalid(f"conventions: {key} is a list of texts")
                found[key] = tuple(value)
            elif type(value) is not type(known[key]):
                raise _invalid(f"conventions: {key} is {'true or false' if isinstance(known[key], bool) else 'a text'}")
            else:
                _check_template(key, value)
                found[key] = value
        return cls(**found)  # type: ignore[arg-type]  # each was compared with the default's type


def _check_template(key: str, value: object) -> None:
    words = ("{table}",) if key == "foreign_key_column" else ("{table}", "{columns}", "{column}", "{foreign}")
    for word in _BRACES.findall(value) if isinstance(value, str) else ():
        if word not in words:
            raise _invalid(f"conventions: {key} has {word} in it, which stands for nothing: use {', '.join(words)}")


def check_names(found: Iterable[tuple[str, int, Fact]], conventions: Conventions) -> Iterator[Finding]:
    """A finding of severity advice for each name that departs from the conventions."""
    for file, line, fact in found:
        for message, step in _departures(fact, conventions):
            yield Finding(file, line, RULE, "advice", message, step)


def _departures(fact: Fact, wanted: Conventions) -> Iterator[tuple[str, str]]:
    table = fact.name.rpartition(".")[2].strip('"')
    if fact.what == "create" and fact.kind == "TABLE" and fact.name and fact.new != "partition":
        yield from _table(table, wanted)
    elif fact.what in ("column", "add-column"):
        yield from _column(fact, wanted)
    elif fact.what == "index" and fact.new:
        template = wanted.unique_index if fact.kind else wanted.index
        yield from _templated("unique index" if fact.kind else "index", fact.new, template, table)
    elif fact.what in _CONSTRAINTS:
        if fact.new:
            template = getattr(wanted, fact.what.replace("-", "_"))
            yield from _templated(fact.what.replace("-", " "), fact.new, template, table)
        if fact.what == "foreign-key" and fact.column and wanted.foreign_key_column:
            yield from _reference(fact, wanted)


def _table(table: str, wanted: Conventions) -> Iterator[tuple[str, str]]:
    if wanted.snake_case and not _SNAKE.fullmatch(table):
        yield f"table {table} is not in snake_case", "use small letters, digits and _"
    last = table.rpartition("_")[2]
    if wanted.plural_tables and not last.endswith("s") and last not in wanted.plural_exceptions:
        yield (
            f"table {table} is not in the plural",
            "name it after many rows, or except its last word (pluralExceptions)",
        )


def _column(fact: Fact, wanted: Conventions) -> Iterator[tuple[str, str]]:
    if wanted.snake_case and not _SNAKE.fullmatch(fact.column):
        yield f"column {fact.column} of {fact.name} is not in snake_case", "use small letters, digits and _"
    boolean = len(fact.tokens) == 1 and fact.tokens[0].key in ("BOOLEAN", "BOOL")
    if boolean and wanted.boolean_prefixes and not fact.column.startswith(wanted.boolean_prefixes):
        prefixes = ", ".join(wanted.boolean_prefixes)
        yield f"boolean column {fact.column} of {fact.name} asks no question", f"begin it with one of {prefixes}"


def _reference(fact: Fact, wanted: Conventions) -> Iterator[tuple[str, str]]:
    foreign = fact.kind.rpartition(".")[2]
    names = {wanted.foreign_key_column.format(table=one) for one in (foreign, _singular(foreign))}
    fits = any(fact.column == name or fact.column.endswith(f"_{name}") for name in names)
    if not fits and not fact.column.endswith(wanted.foreign_key_suffixes or ("\0",)):
        expected = wanted.foreign_key_column.format(table=_singular(foreign))
        yield f"column {fact.column} of {fact.name} refers to {fact.kind}", f"name it {expected}"


def _templated(what: str, name: str, template: str, table: str) -> Iterator[tuple[str, str]]:
    if not template:
        return
    name = name.rpartition(".")[2]
    pattern = re.escape(template).replace(r"\{table\}", re.escape(table))
    pattern = re.sub(r"\\\{(?:columns|column|foreign)\\\}", "[a-z0-9_]+", pattern)
    # where the foreign table is the same as the column's, people write it once
    pattern = pattern.replace("[a-z0-9_]+_[a-z0-9_]+", "[a-z0-9_]+")
    if not re.fullmatch(pattern, name):
        yield f"{what} {name} of table {table} is named otherwise", f"name it {template.replace('{table}', table)}"


def _singular(table: str) -> str:
    if table.endswith("ies"):
        return table[:-3] + "y"
    if table.endswith(("sses", "xes", "ches", "shes")):
        return table[:-2]
    return table.removesuffix("s")


def _invalid(why: str) -> InvalidError:
    return InvalidError(Reason.INVALID_SPEC, why)
