"""Generated databases and generated declarations for them.

A case is what somebody did to a database before we came, as statements, and what a DatabaseSchema declares. Both draw
from one vocabulary, so that they meet: the same few roles, schemas and objects in every kind of statement. ``{p}``
stands for the prefix that keeps the roles of one case from those of another.

What contradicts itself on the server (a membership that goes round, a role that is its own owner's grantor) is never
drawn; what a declaration may say and cannot have yet, such as a table that nobody made, is.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from tests.engines.generators_tables import PARTITIONED, extended

#: From those whose members the others may be to their members: memberships go one way only.
ROLES = ("{p}owner", "{p}reader", "{p}Odd ü.x", "{p}writer", "{p}by stander")
#: Declared at most: the last one is never.
OURS = ROLES[:-1]
NEW = "{p}new"
ABSENT = "{p}absent"
SCHEMAS = ("app", "ops", "Odd ü; --")
TABLES = ("t", "T %s;x", "p", "p_1", "v", "m")
FUNCTIONS = ("f(integer)", "f(text)", "pr(integer)")
TYPES = ("mood", "d")

#: The structure that every case begins with; made once, in the template.
STRUCTURE = "\n".join(
    f"""
    CREATE SCHEMA "{schema}";
    CREATE TABLE "{schema}".t (id int PRIMARY KEY, name text, note text);
    INSERT INTO "{schema}".t SELECT i, 'n' || i FROM generate_series(1, 3) i;
    CREATE TABLE "{schema}"."T %s;x" (id int GENERATED ALWAYS AS IDENTITY, name text);
    CREATE TABLE "{schema}".p (id int, name text) PARTITION BY RANGE (id);
    CREATE TABLE "{schema}".p_1 PARTITION OF "{schema}".p FOR VALUES FROM (0) TO (9);
    CREATE VIEW "{schema}".v AS SELECT id FROM "{schema}".t;
    CREATE MATERIALIZED VIEW "{schema}".m AS SELECT name FROM "{schema}".t;
    CREATE SEQUENCE "{schema}".s;
    CREATE FUNCTION "{schema}".f(x integer) RETURNS integer LANGUAGE sql AS 'SELECT 1';
    CREATE FUNCTION "{schema}".f(x text) RETURNS integer LANGUAGE sql AS 'SELECT 2';
    CREATE PROCEDURE "{schema}".pr(x integer) LANGUAGE sql AS 'SELECT 3';
    CREATE TYPE "{schema}".mood AS ENUM ('sad', 'ok');
    CREATE DOMAIN "{schema}".d AS text CHECK (value <> '');
    """
    + PARTITIONED.replace("{schema}", schema)
    for schema in SCHEMAS
)

_TABLE = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")
_SEQUENCE = ("USAGE", "SELECT", "UPDATE")
_COLUMN = ("SELECT", "INSERT", "UPDATE", "REFERENCES")


@dataclass(frozen=True)
class Case:
    """``start`` are statements, ``manifest`` is ``spec.postgres``; ``order`` is the seed of another order of it.

    ``renames`` are the roles and schemas that the declaration calls otherwise than the statements.
    """

    start: tuple[str, ...]
    manifest: dict[str, Any]
    order: int
    renames: dict[str, str]

    def statements(self, prefix: str) -> str:
        return ";\n".join(self.start).replace("{p}", prefix)

    def declared(self, prefix: str, *, shuffled: bool = False) -> dict[str, Any]:
        chance = random.Random(self.order)
        found = named(_shuffled(self.manifest, chance) if shuffled else self.manifest, prefix)
        assert isinstance(found, dict)
        return found


def named(value: Any, prefix: str) -> Any:
    """The same with the prefix in its texts."""
    if isinstance(value, dict):
        return {key.replace("{p}", prefix): named(entry, prefix) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [named(entry, prefix) for entry in value]
    return value.replace("{p}", prefix) if isinstance(value, str) else value


def _shuffled(value: Any, chance: random.Random) -> Any:
    """The same with every list in another order; the value of a setting is no list of things but one thing."""
    if isinstance(value, dict):
        keys = chance.sample(list(value), len(value))
        return {
            key: value[key] if key in ("settings", "databaseSettings") else _shuffled(value[key], chance)
            for key in keys
        }
    if isinstance(value, list):
        return [_shuffled(entry, chance) for entry in chance.sample(value, len(value))]
    return value


def _some(names: tuple[str, ...], most: int = 3, least: int = 1) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(names), min_size=least, max_size=most, unique=True)


def _one(names: tuple[str, ...]) -> st.SearchStrategy[str]:
    return st.sampled_from(names)


# --- what somebody did before ---


def _quoted(name: str) -> str:
    return "PUBLIC" if name == "PUBLIC" else f'"{name}"'


@st.composite
def _objects(draw: st.DrawFn) -> tuple[str, tuple[str, ...]]:
    """An object in SQL, and the privileges that it has."""
    schema = draw(_one(SCHEMAS))
    kind = draw(_one(("table", "column", "sequence", "function", "type", "schema", "database")))
    if kind == "table":
        return f'TABLE "{schema}"."{draw(_one(TABLES))}"', _TABLE
    if kind == "column":
        return f'(id) ON TABLE "{schema}"."{draw(_one(("t", "T %s;x", "p")))}"', _COLUMN
    if kind == "sequence":
        return f'SEQUENCE "{schema}".s', _SEQUENCE
    if kind == "function":
        return f'ROUTINE "{schema}".{draw(_one(FUNCTIONS))}', ("EXECUTE",)
    if kind == "type":
        return f'TYPE "{schema}".{draw(_one(TYPES))}', ("USAGE",)
    if kind == "schema":
        return f'SCHEMA "{schema}"', ("USAGE", "CREATE")
    return "DATABASE {database}", ("CONNECT", "CREATE", "TEMPORARY")


@st.composite
def _granted(draw: st.DrawFn) -> list[str]:
    """GRANT or REVOKE, and sometimes the grantee grants on."""
    what, words = draw(_objects())
    word = draw(_one(words))
    on = f"{word} {what}" if what.startswith("(") else f"{word} ON {what}"
    to = draw(_one((*ROLES, "PUBLIC")))
    if draw(st.integers(0, 4)) == 0:
        return [f"REVOKE {on} FROM {_quoted(to)} CASCADE"]
    if to == "PUBLIC" or draw(st.booleans()):
        return [f"GRANT {on} TO {_quoted(to)}"]
    statements = [f"GRANT {on} TO {_quoted(to)} WITH GRANT OPTION"]
    if draw(st.booleans()):
        next_one = draw(_one(tuple(role for role in (*ROLES, "PUBLIC") if role != to)))
        schemas = [f'GRANT USAGE ON SCHEMA "{name}" TO {_quoted(to)}' for name in SCHEMAS]
        statements += [*schemas, f"SET ROLE {_quoted(to)}", f"GRANT {on} TO {_quoted(next_one)}", "RESET ROLE"]
    return statements


@st.composite
def _owned(draw: st.DrawFn) -> list[str]:
    schema, role = draw(_one(SCHEMAS)), _quoted(draw(_one(ROLES)))
    what = draw(
        _one(
            (
                'SCHEMA "{s}"', 'TABLE "{s}".t', 'TABLE "{s}".p', 'TABLE "{s}".p_1', 'VIEW "{s}".v', 'SEQUENCE "{s}".s',
                'FUNCTION "{s}".f(text)', 'TYPE "{s}".mood', 'MATERIALIZED VIEW "{s}".m', "DATABASE {database}",
            )
        )
    )  # fmt: skip
    return [f"ALTER {what.replace('{s}', schema)} OWNER TO {role}"]


@st.composite
def _defaulted(draw: st.DrawFn) -> list[str]:
    kind, words = draw(st.sampled_from((("TABLES", _TABLE), ("SEQUENCES", _SEQUENCE), ("FUNCTIONS", ("EXECUTE",)),
                                        ("TYPES", ("USAGE",)), ("SCHEMAS", ("USAGE", "CREATE")))))  # fmt: skip
    where = "" if kind == "SCHEMAS" or draw(st.booleans()) else f' IN SCHEMA "{draw(_one(SCHEMAS))}"'
    creator, to = _quoted(draw(_one(ROLES))), draw(_one((*ROLES, "PUBLIC")))
    word = draw(_one(words))
    head = f"ALTER DEFAULT PRIVILEGES FOR ROLE {creator}{where}"
    if draw(st.integers(0, 3)) == 0:
        return [f"{head} REVOKE {word} ON {kind} FROM {_quoted(to)}"]
    option = " WITH GRANT OPTION" if to != "PUBLIC" and draw(st.booleans()) else ""
    return [f"{head} GRANT {word} ON {kind} TO {_quoted(to)}{option}"]


@st.composite
def _altered_roles(draw: st.DrawFn) -> list[str]:
    role = _quoted(draw(_one(ROLES)))
    words = ("NOINHERIT", "CONNECTION LIMIT 7", "VALID UNTIL '2031-01-01'", "LOGIN", "CREATEDB",
             "SET lock_timeout = '1s'", "SET app.tenant = 'a, b'", "IN DATABASE {database} SET lock_timeout = '2s'",
             "IN DATABASE {database} SET search_path = ops")  # fmt: skip
    return draw(
        st.sampled_from(
            [[f"ALTER ROLE {role} {word}"] for word in words] + [[f"COMMENT ON ROLE {role} IS 'of before'"]]
        )
    )


@st.composite
def _joined(draw: st.DrawFn) -> list[str]:
    """A membership, and sometimes the member passes it on: from Postgres 16 on each grantor's is a row of its own."""
    parent = draw(st.integers(0, len(ROLES) - 2))
    member = draw(st.integers(parent + 1, len(ROLES) - 1))
    grant = f"GRANT {_quoted(ROLES[parent])} TO {_quoted(ROLES[member])}"
    if draw(st.booleans()):
        return [grant]
    statements = [f"{grant} WITH ADMIN OPTION"]
    later = ROLES[member + 1 :]
    if later:
        to = _quoted(draw(_one(later)))
        statements += [f"SET ROLE {_quoted(ROLES[member])}", f"GRANT {_quoted(ROLES[parent])} TO {to}", "RESET ROLE"]
    return statements


_SMALL = st.sampled_from(
    [
        ["ALTER DATABASE {database} SET lock_timeout = '9s'"],
        ["ALTER DATABASE {database} SET app.other = 'x'"],
        ["COMMENT ON SCHEMA app IS 'of before'"],
        ["ALTER TABLE ops.t ENABLE ROW LEVEL SECURITY", "CREATE POLICY mine ON ops.t USING (id = 1)"],
        ["CREATE EXTENSION pgcrypto SCHEMA ops"],
        ["DROP SCHEMA ops CASCADE"],
    ]
)


@st.composite
def _starts(draw: st.DrawFn) -> tuple[str, ...]:
    made = [f"CREATE ROLE {_quoted(role)}" for role in ROLES]
    owned = [line for lines in draw(st.lists(_owned(), max_size=4)) for line in lines]
    done = st.one_of(_granted(), _granted(), _granted(), _defaulted(), _altered_roles(), _joined())
    rest = [line for lines in draw(st.lists(done, max_size=8)) for line in lines]
    small = draw(st.lists(_SMALL, max_size=2, unique_by=lambda lines: lines[0]))
    last = [line for lines in sorted(small, key=lambda lines: lines[0].startswith("DROP")) for line in lines]
    return (*made, *owned, *rest, *last)


# --- what is declared ---

_SETTINGS = st.dictionaries(
    st.sampled_from(("lock_timeout", "work_mem", "search_path", "app.tenant", "DateStyle")), st.just(""), max_size=3
).map(lambda names: {name: _VALUES[name] for name in names})
_VALUES: dict[str, Any] = {
    "lock_timeout": "3s",
    "work_mem": "8MB",
    "search_path": ["app", "$user", "Odd ü; --", "a,b"],
    "app.tenant": "it's $$; 50% \\",
    "DateStyle": ["ISO", "DMY"],
}
_TEXTS = st.sampled_from(("", "plain", "it's; -- $x$ 50% ü\nnext \\"))


@st.composite
def _roles(draw: st.DrawFn) -> list[dict[str, Any]]:
    found = []
    for place, name in enumerate((*OURS, NEW)):
        if not draw(st.booleans()):
            continue
        parents = ROLES[: min(place, len(OURS))]
        optional = {
            "comment": _TEXTS,
            "settings": _SETTINGS,
            "databaseSettings": _SETTINGS,
            "inherit": st.booleans(),
            "connectionLimit": st.sampled_from((-1, 0, 5)),
            "validUntil": st.sampled_from(("2030-01-01T00:00:00Z", "2030-06-01T00:00:00+02:00", "infinity")),
            "memberOf": st.lists(
                st.fixed_dictionaries(
                    {"role": _one(parents or (ABSENT,))},
                    optional={"inherit": st.booleans(), "set": st.booleans(), "admin": st.booleans()},
                ),
                max_size=2,
                unique_by=lambda one: one["role"],
            ),
        }
        role = draw(st.fixed_dictionaries({}, optional=optional))
        if not parents:
            role.pop("memberOf", None)
        found.append({"name": name, **role})
    return found


def _schemas() -> st.SearchStrategy[list[dict[str, Any]]]:
    one = st.fixed_dictionaries({"name": _one((*SCHEMAS, "fresh"))}, optional={"owner": _one(ROLES), "comment": _TEXTS})
    return st.lists(one, max_size=3, unique_by=lambda schema: schema["name"])


def _qualified(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{schema}.{name}" for schema in SCHEMAS for name in names)


#: Kinds of objects in a grant: their names, and the privileges on them. ``gone`` is nowhere.
_KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "schemas": (SCHEMAS, ("USAGE", "CREATE")),
    "tables": (_qualified(TABLES), _TABLE),
    "tablesIn": (SCHEMAS, _TABLE),
    "sequences": (_qualified(("s",)), _SEQUENCE),
    "sequencesIn": (SCHEMAS, _SEQUENCE),
    "functions": (_qualified(FUNCTIONS), ("EXECUTE",)),
    "functionsIn": (SCHEMAS, ("EXECUTE",)),
    "types": (_qualified(TYPES), ("USAGE",)),
    "languages": (("sql", "plpgsql"), ("USAGE",)),
}


@st.composite
def _grant(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(_one((*_KINDS, "tables", "database", "columns", "waiting")))
    objects: dict[str, Any]
    if kind == "database":
        objects, words = {"database": True}, ("CONNECT", "CREATE", "TEMPORARY")
    elif kind == "waiting":
        objects, words = {"tables": ["app.gone", "app.t"]}, _TABLE
    elif kind == "columns":
        columns = draw(_some(("id", "name"), 2))
        objects = {"columns": [{"table": draw(_one(_qualified(("t", "T %s;x", "p")))), "columns": columns}]}
        words = _COLUMN
    else:
        names, words = _KINDS[kind]
        objects = {kind: draw(_some(names))}
    to = draw(_some((*ROLES, NEW, "PUBLIC"), 2))
    entry: dict[str, Any] = {"privileges": draw(_some(words)), "objects": objects, "to": to}
    return _optioned(draw, entry)


def _optioned(draw: st.DrawFn, entry: dict[str, Any]) -> dict[str, Any]:
    if "PUBLIC" not in entry["to"] and draw(st.integers(0, 2)) == 0:
        entry["grantOption"] = True
    if draw(st.integers(0, 2)) == 0:
        entry["ensure"] = "Absent"
    return entry


@st.composite
def _default(draw: st.DrawFn) -> dict[str, Any]:
    kind, words = draw(
        st.sampled_from((("Tables", _TABLE), ("Sequences", _SEQUENCE), ("Functions", ("EXECUTE",)),
                         ("Types", ("USAGE",)), ("Schemas", ("USAGE", "CREATE"))))
    )  # fmt: skip
    entry: dict[str, Any] = {
        "creators": draw(_some((*ROLES, NEW), 2)),
        "objectType": kind,
        "privileges": draw(_some(words, 2)),
        "to": draw(_some((*ROLES, "PUBLIC"), 2)),
    }
    if kind != "Schemas" and draw(st.booleans()):
        entry["schemas"] = draw(_some(SCHEMAS, 2))
    return _optioned(draw, entry)


def _numbered(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"name": f"n{number}", **entry} for number, entry in enumerate(entries)]


def manifests() -> st.SearchStrategy[dict[str, Any]]:
    """``spec.postgres`` for the databases of :data:`STRUCTURE`."""
    return st.fixed_dictionaries(
        {
            "roles": _roles(),
            "schemas": _schemas(),
            "grants": st.lists(_grant(), max_size=6).map(_numbered),
            "defaultPrivileges": st.lists(_default(), max_size=3).map(_numbered),
        },
        optional={
            "owner": _one(OURS),
            "settings": _SETTINGS,
            "extensions": st.just([{"name": "pgcrypto"}]),
            "grantMode": st.sampled_from(("Additive", "Authoritative")),
        },
    )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A database as it was found, and a declaration."""
    start = draw(_starts())
    more, manifest, renames = draw(extended(draw(manifests()), OURS, SCHEMAS))
    made = len(ROLES)  # the roles stand by then, and schema ops is dropped last
    return Case((*start[:made], *more, *start[made:]), manifest, draw(st.integers(0, 2**16)), renames)
