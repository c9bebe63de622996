"""Privileges of a live database as entries of ``grants``: what differs from how Postgres makes an object.

What every table of a schema has is written as ``tablesIn``, what is alike for several roles or objects as one entry.
The diff expands an entry to exactly the objects that it was folded from, so the plan against the same database is
empty.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from selvedge.core.names import PUBLIC, shorten
from selvedge.core.postgres.export_names import (
    Found,
    Key,
    Notes,
    chunks,
    dotted,
    is_identifier,
    is_schema,
    shown,
    signature,
    why_not_role,
)
from selvedge.core.postgres.export_words import in_order, places, unique, verb
from selvedge.core.postgres.grants_wanted import base
from selvedge.core.postgres.model import ALL_PRIVILEGES, AclGroup

#: What PUBLIC has as long as nobody says otherwise.
PUBLIC_DEFAULTS: Mapping[str, frozenset[str]] = {
    "database": frozenset({"CONNECT", "TEMPORARY"}),
    "function": frozenset({"EXECUTE"}),
    "type": frozenset({"USAGE"}),
    "language": frozenset({"USAGE"}),
}
_FIELDS = {
    "database": ("database", 1),
    "schema": ("schemas", 200),
    "table": ("tables", 500),
    "column": ("columns", 200),
    "sequence": ("sequences", 500),
    "function": ("functions", 500),
    "type": ("types", 200),
    "language": ("languages", 32),
    "server": ("foreignServers", 64),
    "wrapper": ("foreignDataWrappers", 32),
}
_WHOLE = {"table": "tablesIn", "sequence": "sequencesIn", "function": "functionsIn"}
_WORDS = {"column": "columns", "sequence": "sequences", "type": "types", "language": "languages"}
_GRANTEES = 64
_COLUMNS = 200
#: From how many objects on that have a privilege alike, a person would say it of the schema.
_ALIKE = 2


class Right(NamedTuple):
    """One privilege of one grantee; ``absent``: it is missing where Postgres would have given it."""

    absent: bool
    grantable: bool
    grantee: str
    privilege: str


@dataclass(slots=True)
class _Object:
    """One object: what is to be declared of it, what it has altogether, and whose it is."""

    owner: str
    held: frozenset[Right]
    declare: set[Right] = field(default_factory=set)

    def has(self, right: Right) -> bool:
        """Whether a declaration of this for the whole schema would change nothing here."""
        if right.absent:
            return right.grantee != self.owner and not self._any(right)
        if right.grantee == self.owner:
            return self._any(right)
        return right in self.held

    def _any(self, right: Right) -> bool:
        plain = right._replace(absent=False)
        return plain._replace(grantable=False) in self.held or plain._replace(grantable=True) in self.held


def exported_grants(found: Found, keep: Iterable[tuple[str, str, str]], notes: Notes) -> list[dict[str, Any]]:
    """The entries of ``grants``, in a stable order.

    ``keep`` are (kind, owner, privilege) that PUBLIC keeps where it has them: declared default privileges would take
    them away otherwise.
    """
    objects = _objects(found, frozenset(keep), notes)
    entries = [*_whole_schemas(objects), *_single(objects, notes)]
    entries.sort(key=_place)
    return _named(entries)


# --- what is to be declared of each object ---


def _objects(found: Found, keep: frozenset[tuple[str, str, str]], notes: Notes) -> dict[Key, _Object]:
    objects: dict[Key, _Object] = {}
    others: dict[str, set[str]] = {}
    own = found.own_roles()
    for group in found.snapshot.groups:
        if group.owner in own:
            continue
        held = _held(group)
        others_gave = {by for by, to, _, _ in group.given if by != group.owner and to != group.owner}
        for by in sorted(others_gave):
            others.setdefault(by, set()).update(shown((group.kind, group.schema, name)) for name in group.names)
        _owner_without(group, notes)
        for name in group.names:
            key = (group.kind, group.schema, name)
            objects[key] = _Object(group.owner, held, _declared(found, group, name, held, keep))
    for by, where in sorted(others.items()):
        count = len(where)
        notes.add(
            f"role {by} granted privileges on {count} object{'s' if count > 1 else ''} that it does not own: a new "
            "database gets them from the owner"
        )
    for key, one in objects.items():
        for grantee in sorted({right.grantee for right in one.declare}):
            why = "it is the operator's own" if grantee in own else why_not_role(grantee)
            if why:
                one.declare = {right for right in one.declare if right.grantee != grantee}
                notes.listed(f"privileges of role {grantee} on", why, shown(key))
    return objects


def _held(group: AclGroup) -> frozenset[Right]:
    return frozenset(
        Right(False, privilege in group.options(grantee), grantee, privilege)
        for grantee, privileges in group.grants.items()
        for privilege in privileges
    )


def _owner_without(group: AclGroup, notes: Notes) -> None:
    """An owner who took privileges from himself: no declaration has a word for that."""
    if group.kind == "column" or group.owner == "pg_database_owner":
        return
    missing = ALL_PRIVILEGES[base(group.kind)] - group.grants.get(group.owner, frozenset())
    for name in group.names if missing else ():
        what = f"the owner has not {', '.join(in_order(missing))} on"
        notes.listed(what, "what an owner has is his own to take and to give", shown((group.kind, group.schema, name)))


def _declared(
    found: Found, group: AclGroup, name: str, held: frozenset[Right], keep: frozenset[tuple[str, str, str]]
) -> set[Right]:
    kind = base(group.kind)
    initial = found.initial.get((kind, group.schema, name))
    if initial is None:
        public = PUBLIC_DEFAULTS.get(kind, frozenset())
        if (kind, name) == ("schema", "public"):
            public = frozenset({"USAGE"})
        initial = {PUBLIC: public}
    declared = set()
    for right in held:
        known = right.privilege in initial.get(right.grantee, frozenset()) and not right.grantable
        kept = right.grantee == PUBLIC and (kind, group.owner, right.privilege) in keep
        if right.grantee != group.owner and (kept or not known):
            declared.add(right)
    for grantee, privileges in initial.items():
        for privilege in privileges - group.grants.get(grantee, frozenset()):
            if grantee != group.owner:
                declared.add(Right(True, False, grantee, privilege))
    return declared


# --- folding ---


class _Entry(NamedTuple):
    """One entry: ``field`` of ``objects`` with its value, for these grantees."""

    kind: str
    field: str
    value: tuple[str, ...]
    absent: bool
    grantable: bool
    privileges: tuple[str, ...]
    to: tuple[str, ...]


def _whole_schemas(objects: Mapping[Key, _Object]) -> Iterator[_Entry]:
    """What all objects of one kind in a schema have alike; taken out of what is to be declared of each."""
    by_schema: defaultdict[tuple[str, str], list[_Object]] = defaultdict(list)
    for (kind, schema, _), one in objects.items():
        if kind in _WHOLE and is_schema(schema):
            by_schema[kind, schema].append(one)
    alike: defaultdict[tuple[str, Right], set[str]] = defaultdict(set)
    for (kind, schema), members in by_schema.items():
        for right in sorted(set().union(*(one.declare for one in members))):
            if right.absent and kind != "function":
                continue
            declaring = sum(right in one.declare for one in members)
            if declaring >= _ALIKE and all(right in one.declare or one.has(right) for one in members):
                alike[kind, right].add(schema)
                for one in members:
                    one.declare.discard(right)
    yield from _folded({(kind, right): found for (kind, right), found in alike.items()}, lambda kind: _WHOLE[kind], 200)


def _single(objects: Mapping[Key, _Object], notes: Notes) -> Iterator[_Entry]:
    texts: defaultdict[tuple[str, Right], set[str]] = defaultdict(set)
    for key, one in objects.items():
        for right in sorted(one.declare):
            text = _text(key)
            if text is None:
                verb = "lacks" if right.absent else "has"
                what = f"{right.grantee} {verb} {right.privilege} on {base(key[0])}"
                notes.listed(what, "the API does not take such a name", shown(key))
            else:
                texts[base(key[0]), right].add(text)
    for kind, (_, size) in _FIELDS.items():
        mine = {key: found for key, found in texts.items() if key[0] == kind}
        yield from _folded(mine, lambda kind: _FIELDS[kind][0], size)


def _text(key: Key) -> str | None:
    """The object as the API writes it; for a column ``schema.table NUL column``."""
    kind, schema, name = base(key[0]), key[1], key[2]
    if kind == "database":
        return "true"
    if kind == "schema":
        return name if is_schema(name) else None
    if kind == "function":
        return signature(schema, name)
    if kind == "column":
        table, _, column = name.partition("\0")
        text = dotted(schema, table)
        return f"{text}\0{column}" if text and is_identifier(column) else None
    if kind in ("language", "server", "wrapper"):
        return name if is_identifier(name) else None
    return dotted(schema, name)


def _folded(found: Mapping[tuple[str, Right], set[str]], field_of: Callable[[str], str], size: int) -> Iterator[_Entry]:
    """One entry for what has the same privileges, the same objects, the same grantees: in this order."""
    privileges: defaultdict[tuple[str, bool, bool, str, str], set[str]] = defaultdict(set)
    for (kind, right), texts in found.items():
        for text in texts:
            privileges[kind, right.absent, right.grantable, right.grantee, text].add(right.privilege)
    alike: defaultdict[tuple[str, bool, bool, str, tuple[str, ...]], set[str]] = defaultdict(set)
    for (kind, absent, grantable, grantee, text), words in privileges.items():
        alike[kind, absent, grantable, grantee, in_order(words)].add(text)
    grantees: defaultdict[tuple[str, bool, bool, tuple[str, ...], tuple[str, ...]], set[str]] = defaultdict(set)
    for (kind, absent, grantable, grantee, sorted_words), texts in alike.items():
        grantees[kind, absent, grantable, sorted_words, tuple(sorted(texts))].add(grantee)
    for (kind, absent, grantable, sorted_words, listed), to in grantees.items():
        for some in chunks(sorted(to), _GRANTEES):
            for part in _parts(kind, listed, size):
                yield _Entry(kind, field_of(kind), part, absent, grantable, sorted_words, some)


def _parts(kind: str, texts: tuple[str, ...], size: int) -> Iterator[tuple[str, ...]]:
    if kind != "column":
        yield from chunks(texts, size)
        return
    by_table: defaultdict[str, list[str]] = defaultdict(list)
    for text in texts:
        by_table[text.partition("\0")[0]].append(text)
    # The limits are on tables in an entry and on columns of a table.
    pieces = [piece for listed in by_table.values() for piece in chunks(listed, _COLUMNS)]
    rounds: list[list[tuple[str, ...]]] = []
    for piece in pieces:
        table = piece[0].partition("\0")[0]
        for one in rounds:
            if len(one) < size and all(other[0].partition("\0")[0] != table for other in one):
                one.append(piece)
                break
        else:
            rounds.append([piece])
    for one in rounds:
        yield tuple(text for piece in one for text in piece)


def _place(entry: _Entry) -> tuple[Any, ...]:
    kinds = list(_FIELDS)
    whole = entry.field in _WHOLE.values()
    return (
        kinds.index(entry.kind),
        entry.absent,
        not whole,
        entry.to,
        entry.grantable,
        places(entry.privileges),
        entry.value,
    )


# --- writing ---


def _named(entries: Iterable[_Entry]) -> list[dict[str, Any]]:
    taken: set[str] = set()
    documents = []
    for entry in entries:
        document: dict[str, Any] = {
            "name": unique(_name(entry), taken),
            "privileges": list(entry.privileges),
            "objects": {entry.field: _value(entry)},
            "to": list(entry.to),
        }
        if entry.grantable:
            document["grantOption"] = True
        if entry.absent:
            document["ensure"] = "Absent"
        documents.append(document)
    return documents


def _value(entry: _Entry) -> Any:
    if entry.kind == "database":
        return True
    if entry.kind != "column":
        return list(entry.value)
    tables: dict[str, list[str]] = {}
    for text in entry.value:
        table, _, column = text.partition("\0")
        tables.setdefault(table, []).append(column)
    return [{"table": table, "columns": columns} for table, columns in tables.items()]


def _name(entry: _Entry) -> str:
    """What a person would call it: ``read-shared-app_readonly``."""
    word = verb(entry.privileges, entry.kind)
    whole = entry.field in _WHOLE.values()
    what = "" if entry.kind == "database" else entry.value[0].replace("\0", ".")
    if len(entry.value) > 1 and not (whole or entry.kind == "schema"):
        what = entry.field
    elif len(entry.value) > 1:
        what = "-".join(entry.value) if len(entry.value) == 2 else f"{what}-and-{len(entry.value) - 1}"
    elif entry.kind == "function":
        what = what.partition("(")[0]
    to = entry.to[0] if len(entry.to) == 1 else f"{entry.to[0]}-and-{len(entry.to) - 1}"
    kind = "" if what == entry.field else _WORDS.get(entry.kind, "")
    words = ["no" if entry.absent else "", word, kind, what, to, "with-option" if entry.grantable else ""]
    return shorten("-".join(word for word in words if word))
