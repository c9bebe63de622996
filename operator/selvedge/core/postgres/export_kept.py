"""What the operator keeps on tables of a live database, audit and conventions, as it was declared; pure.

Claims do not remember a declaration's words, so they are read from what stands: triggers, their arguments, and the
functions. What stands only in part is named instead: declaring it would put the rest there.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from selvedge.core.duration import format_duration
from selvedge.core.postgres.audit import CHANGES, EVENTS, NAMES, STAMP
from selvedge.core.postgres.conventions import DELETE_MARK, UPDATED_AT, VERSION
from selvedge.core.postgres.export_names import Found, Notes, dotted, is_identifier, is_schema
from selvedge.core.postgres.export_tables import kept_for, period_of
from selvedge.core.postgres.tables import LiveTables
from selvedge.core.postgres.triggers import LiveTable, Table

_AUDITED = 500
_ACTOR = re.compile(r"nullif\(current_setting\('((?:[^']|'')+)', true\), ''\)")
_ITEM = re.compile(r'"((?:[^"\\]|\\.)*)"')


def exported_audit(found: Found, notes: Notes) -> dict[str, Any]:
    """``spec.postgres.audit``; empty where nothing is audited, or it cannot be declared."""
    live = found.snapshot.tables
    if live is None:
        return {}
    schemas = sorted({schema for schema, name in live.audit.functions if name == "record_changes"})
    for schema in schemas[1:]:
        notes.listed("the audit in schema", "one DatabaseSchema declares one audit: declare it in another", schema)
    return _audit(found, live, schemas[0], notes) if schemas else {}


def _audit(found: Found, live: LiveTables, schema: str, notes: Notes) -> dict[str, Any]:
    log = live.partitions.tables.get((schema, CHANGES))
    every, _ = period_of(log, live.partitions.now) if log is not None else ("", 0)
    tables = []
    for key, table in sorted(live.tables.items()):
        if not any(one.name in NAMES and one.function[0] == schema for one in table.triggers.values()):
            continue
        name = dotted(*key)
        exclude = _excluded(table)
        if name is None or not all(map(is_identifier, exclude)):
            notes.listed("the audit of table", "the API does not take such a name", ".".join(key))
        else:
            tables.append({"table": name, **({"exclude": exclude} if exclude else {})})
    why = ""
    if not every or not is_schema(schema):
        why = f"table {schema}.{CHANGES} has no partition for the present, or the API does not take its name"
    elif not tables:
        why = "no table is audited any more"
    elif len(tables) > _AUDITED:
        why = f"the API takes {_AUDITED} tables: name schemas in tablesIn"
    if why:
        notes.listed("the audit in schema", why, schema)
        return {}
    document: dict[str, Any] = {"schema": schema, "every": every}
    retention = kept_for(found, f"auditLog:{schema}.{CHANGES}")
    if retention is not None:
        document["retention"] = format_duration(retention)
    actor = _ACTOR.search(live.audit.functions[schema, "record_changes"].source)
    if actor:
        document["actorSetting"] = actor[1].replace("''", "'")
    events = live.tables.get((schema, EVENTS))
    if events is not None and STAMP in events.triggers:
        document["applicationLog"] = True
    return {**document, "tables": tables}


def _excluded(table: LiveTable) -> list[str]:
    """The columns that the triggers leave out: their second argument, a ``text[]``."""
    for trigger in table.triggers.values():
        if trigger.name in NAMES and len(trigger.args) > 1:
            return [re.sub(r"\\(.)", r"\1", item) for item in _ITEM.findall(trigger.args[1])]
    return []


def exported_conventions(found: Found, notes: Notes) -> dict[str, Any]:
    """``spec.postgres.conventions``; empty where there are none."""
    live = found.snapshot.tables
    if live is None:
        return {}
    document: dict[str, Any] = {}
    for key, trigger, verb in (("updatedAt", UPDATED_AT, "set_"), ("version", VERSION, "count_")):
        held = _columns(live, trigger, verb)
        schemas = {column: _whole(live, column, tables) for column, tables in held.items()}
        _declare(document, key, schemas, held, notes)
    soft = _soft_delete(live, notes)
    if soft:
        document["softDelete"] = soft
    return document


def _declare(
    document: dict[str, Any],
    key: str,
    schemas: Mapping[str, list[str]],
    held: Mapping[str, Iterable[Table]],
    notes: Notes,
) -> None:
    """Write down the column that most schemas have; the tables of all others are named."""
    best = max(sorted(schemas), key=lambda column: len(schemas[column]), default="")
    if best and schemas[best]:
        document[key] = {"column": best, "tablesIn": schemas[best]}
    for column, tables in held.items():
        for table in tables:
            if column != best or table[0] not in schemas[best]:
                why = f"a declaration is for one column and all tables of a schema that have it, and {column} is not"
                notes.listed(f"{key} of table", why, ".".join(table))


def _columns(live: LiveTables, trigger: str, verb: str) -> dict[str, list[Table]]:
    """By column the tables on which the trigger keeps it."""
    found: defaultdict[str, list[Table]] = defaultdict(list)
    for name, table in sorted(live.tables.items()):
        if trigger in table.triggers:
            column = table.triggers[trigger].function[1].removeprefix(verb)
            found[column if column in table.columns else ""].append(name)
    return found


def _whole(live: LiveTables, column: str, tables: Iterable[Table]) -> list[str]:
    """The schemas of these tables in which every table with the column is among them."""
    held = set(tables)
    return sorted(
        schema
        for schema in {schema for schema, _ in held}
        if is_schema(schema)
        and is_identifier(column)
        and all(name in held for name, one in live.tables.items() if name[0] == schema and column in one.columns)
    )


def _soft_delete(live: LiveTables, notes: Notes) -> dict[str, Any]:
    """``softDelete``: its words stand in the arguments of the triggers on the views.

    The column that names who did it is in those only whose table has one.
    """
    found: defaultdict[tuple[str, str], list[Table]] = defaultdict(list)
    named: dict[tuple[str, str], str] = {}
    for view, one in sorted(live.views.items()):
        trigger = one.triggers.get(DELETE_MARK)
        if trigger is None or len(trigger.args) < 5:
            continue
        schema, table, column, by = trigger.args[:4]
        if schema == view[0] and table in view[1]:
            words = (column, view[1].replace(table, "{table}", 1))
            found[words].append((schema, table))
            named[words] = by or named.get(words, "")
        else:
            notes.listed("softDelete by view", "its name does not hold its table's", ".".join(view))
    whole = {words: _whole(live, words[0], tables) for words, tables in found.items()}
    best = max(sorted(whole), key=lambda words: len(whole[words]), default=("", ""))
    for words, tables in found.items():
        for name in tables:
            if words != best or name[0] not in whole[words]:
                why = "a declaration is for one column, one name, and all tables of a schema that have the column"
                notes.listed("softDelete of table", why, ".".join(name))
    if not whole.get(best):
        return {}
    column, views = best
    by = named[best]
    return {"column": column, **({"byColumn": by} if by else {}), "views": views, "tablesIn": whole[best]}
