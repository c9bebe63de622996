"""An attacker's list in every field that becomes SQL: each is refused when it is read, or stands literally; none runs.

The fields are found in the models, so that a new one cannot be forgotten: one that the whole declaration below does not
use fails the first test.
"""

from __future__ import annotations

import copy
import types
import typing
import uuid
from collections.abc import Iterator
from enum import Enum
from typing import Any

import pytest
from psycopg import sql
from pydantic import BaseModel, ValidationError

from sandbox import PostgresEndpoint
from selvedge.api.databaseschema import DatabaseSchemaSpec
from selvedge.core.errors import SelvedgeError
from tests.engines.postgres_support import converge, engine, member, rows, run, unit
from tests.engines.test_mutations import TABLES, declared

pytestmark = pytest.mark.engines

#: Not written into Postgres: names of Kubernetes, what MongoDB's tests attack, and what the migrations' tests do.
ELSEWHERE = ("serverRef", "approvedPlan", "mongodb", "migrations")

#: Commits first: what is only rolled back with the pass would not be seen. Short, for it has to fit into a name.
INJECTED = "COMMIT; CREATE ROLE {p}_p SUPERUSER"
VALUES = (
    f'x"; {INJECTED}; --',
    f"x'; {INJECTED}; --",
    f"x) TO PUBLIC; {INJECTED}; --",
    f"true); {INJECTED}; SELECT (true",
    f"$$; {INJECTED}; $$",
    f"$x$; {INJECTED}; -- $x$",
    f"x\\'; {INJECTED}; --",
    f"E'\\\\'; {INJECTED}; --",
    f"*/ {INJECTED}; /*",
    f"x\n; {INJECTED}; --",
    f"x.y(int); {INJECTED}; --)",
    "%s %(name)s %% {} {0} {name} {p}",
    "x\x00y{p}",
    "ünïcödé €  '; -- {p}",
    "{p}" + "a" * 51,  # 63 bytes
    "{p}" + "a" * 52,
    "{p}" + "ä" * 26,
    "\\{p}\\",
    '"{p}',
    "",
)


def string_fields(model: type[BaseModel], before: str = "") -> Iterator[str]:
    """The document's paths to each text of a model: ``grants[].to[]``, ``settings{}`` for the names of a map."""
    for name, info in model.model_fields.items():
        yield from _texts(info.annotation, f"{before}{info.alias or name}")


def _texts(kind: Any, path: str) -> Iterator[str]:
    origin = typing.get_origin(kind)
    if origin is typing.Annotated:
        yield from _texts(typing.get_args(kind)[0], path)
    elif origin in (typing.Union, types.UnionType):
        for one in typing.get_args(kind):
            yield from _texts(one, path)
    elif origin in (tuple, list):
        yield from _texts(typing.get_args(kind)[0], f"{path}[]")
    elif origin is dict:
        yield f"{path}{{}}"
        yield from _texts(typing.get_args(kind)[1], f"{path}.*")
    elif isinstance(kind, type) and issubclass(kind, BaseModel):
        yield from string_fields(kind, f"{path}.")
    elif isinstance(kind, type) and issubclass(kind, str) and not issubclass(kind, Enum):
        yield path


def whole(p: str) -> dict[str, Any]:
    """A declaration that uses every text field that there is."""
    spec = declared(p)
    spec["extensions"] = [{"name": "pgcrypto", "schema": "public", "version": "1.3"}]
    spec["schemas"][0] |= {"owner": f"{p}_owner", "renamedFrom": "app_of_before"}
    spec["roles"][1]["renamedFrom"] = f"{p}_read_of_before"
    spec["roles"][1]["settings"]["search_path"] = ["app"]
    spec["roles"][2]["databaseSettings"]["search_path"] = ["app"]
    to = [f"{p}_read"]
    more = {
        "tables": ["app.orders"], "sequencesIn": ["app"], "functionsIn": ["app"], "foreignServers": ["remote"],
        "foreignDataWrappers": ["wrapper"],
    }  # fmt: skip
    words = {"tables": "SELECT", "functionsIn": "EXECUTE"}
    spec["grants"] += [
        {"name": f"more-{kind}", "privileges": [words.get(kind, "USAGE")], "objects": {kind: names}, "to": to}
        for kind, names in more.items()
    ]
    table = spec["rowLevelSecurity"][0]
    table["policies"][0]["withCheck"] = "email IS NOT NULL"
    table["probes"] = {
        "tenant": {"column": "id", "setting": "app.current_user_id", "role": f"{p}_write"},
        "expect": [{"role": f"{p}_read", "sees": "None"}],
    }
    spec["audit"] |= {"actorSetting": "app.current_user_id", "tablesIn": ["app"], "applicationLog": True}
    spec["audit"]["tables"][0]["exclude"] = ["note"]
    spec["conventions"]["updatedAt"]["column"] = "updated_at"
    spec["conventions"]["version"]["column"] = "version"
    spec["conventions"]["softDelete"] |= {"column": "deleted_at", "byColumn": "email", "views": "active_{table}"}
    return {"database": p, "postgres": spec}


def places(value: Any, path: str = "", keys: tuple[Any, ...] = ()) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Every text of a document: its path as in :func:`string_fields`, and how to get there; a name of a map is last."""
    if isinstance(value, dict):
        for key, entry in value.items():
            if path.rpartition(".")[2].lower().endswith("settings"):
                yield f"{path}{{}}", (*keys, ("name", key))
                yield from places(entry, f"{path}.*", (*keys, key))
            else:
                yield from places(entry, f"{path}.{key}" if path else key, (*keys, key))
    elif isinstance(value, list):
        for number, entry in enumerate(value):
            yield from places(entry, f"{path}[]", (*keys, number))
    elif isinstance(value, str):
        yield path, keys


def put(document: dict[str, Any], keys: tuple[Any, ...], text: str) -> dict[str, Any]:
    """The document with another text in one place."""
    found = copy.deepcopy(document)
    at: Any = found
    for key in keys[:-1]:
        at = at[key]
    last = keys[-1]
    if isinstance(last, tuple):
        at[text] = at.pop(last[1])
    else:
        at[last] = text
    return found


FIELDS = {
    path: keys
    for path, keys in places(whole("{p}"))
    if not any(isinstance(key, str) and key.startswith("selvedge") for key in keys)
}


def test_every_text_field_is_attacked() -> None:
    known = {path for path in string_fields(DatabaseSchemaSpec) if not path.startswith(ELSEWHERE)}
    assert known - FIELDS.keys() == set(), "add the new field to whole()"


def accepted(document: dict[str, Any]) -> bool:
    try:
        DatabaseSchemaSpec.model_validate({"serverRef": {"name": "main"}, **document})
    except ValidationError:
        return False
    return True


@pytest.mark.timeout(900)
async def test_no_text_runs(own_postgres18: PostgresEndpoint, request: pytest.FixtureRequest) -> None:
    """All values in all fields with ``--long``; else each field with a quarter of them."""
    p = "atk" + uuid.uuid4().hex[:9]
    every = request.config.getoption("--long")
    tried = 0
    try:
        async with engine(own_postgres18) as server:
            base = whole(p)
            await converge(server, member(p, base["postgres"], name="atk"))
            run(own_postgres18, TABLES.replace("{p}", p), p)
            roles = powerful(own_postgres18)
            for place, (path, keys) in enumerate(sorted(FIELDS.items(), key=str)):
                for number, value in enumerate(VALUES):
                    if not every and (place + number) % 4:
                        continue
                    document = put(base, keys, value.replace("{p}", p))
                    if not accepted(document):
                        continue
                    tried += 1
                    one = member(document["database"], document["postgres"], name="atk")
                    try:
                        await server.plan(unit(one))
                        await converge(server, one)
                    except SelvedgeError:
                        pass  # refused by the server or by us, in words
                    assert powerful(own_postgres18) == roles, f"{path} with {value!r} was run"
        assert tried > len(FIELDS)
    finally:
        drop_all(own_postgres18, p)


def powerful(endpoint: PostgresEndpoint) -> list[tuple[Any, ...]]:
    """Whoever the injected statement would have made, or anybody who became a superuser."""
    return rows(endpoint, "SELECT rolname FROM pg_roles WHERE rolsuper OR rolname ~ '^atk[0-9a-f]{9}_p$' ORDER BY 1")


def drop_all(endpoint: PostgresEndpoint, prefix: str) -> None:
    """Everything that has the prefix somewhere in its name."""
    with endpoint.connect() as connection:
        connection.autocommit = True
        for (name,) in rows(endpoint, "SELECT datname FROM pg_database WHERE strpos(datname, %s) > 0", prefix):
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
        roles = rows(endpoint, "SELECT rolname FROM pg_roles WHERE strpos(rolname, %s) > 0", prefix)
        for (name,) in roles:
            connection.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(sql.Identifier(name)))
        for (name,) in roles:
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))
