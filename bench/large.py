"""A database of 5,000 tables, 500 roles and 2,000 policies, and the DatabaseSchemas that declare what is in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from bench.manifests import Document, database_schema, grant
from sandbox.postgres import PostgresServer
from selvedge.api.databaseschema import DatabaseSchemaSpec
from selvedge.engines.base import Member, Unit

DATABASE = "large"
#: Of the server: a transaction that touches every table holds a lock on each.
SETTINGS = {"max_locks_per_transaction": "1024"}
_OWNER = "large_owner"
_SCHEMAS = 40
#: A DatabaseSchema declares at most 200 roles, and at most 200 tables with row-level security: several share it.
_IN_ONE = 200
_MEMBERS = 3
_OWN_ROWS = "owner_id = (SELECT nullif(current_setting('app.user_id', true), '')::bigint)"


@dataclass(frozen=True, slots=True)
class Size:
    """How many of each."""

    tables: int
    roles: int
    policies: int

    @classmethod
    def of(cls, scale: float) -> Size:
        """The size of the budget, or a part of it."""
        return cls(int(5000 * scale), int(500 * scale), int(2000 * scale))


def fill(server: PostgresServer, size: Size) -> None:
    """Make it, as somebody else's migrations would: the first ``policies`` tables have one policy each."""
    owner = sql.Identifier(_OWNER)
    with server.connect() as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
        with connection.transaction():
            connection.execute(sql.SQL("CREATE ROLE {}").format(owner))
            for index in range(size.roles):
                connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(f"r{index}")))
    with server.connect(DATABASE) as connection:
        for number in range(_SCHEMAS):
            with connection.transaction():
                name = sql.Identifier(f"s{number}")
                connection.execute(sql.SQL("CREATE SCHEMA {} AUTHORIZATION {}").format(name, owner))
                connection.execute(sql.SQL("SET LOCAL ROLE {}").format(owner))
                for index in range(number, size.tables, _SCHEMAS):
                    table = sql.Identifier(*_table(index))
                    connection.execute(
                        sql.SQL("CREATE TABLE {} (id bigint PRIMARY KEY, owner_id bigint, note text)").format(table)
                    )
                    if index < size.policies:
                        connection.execute(sql.SQL("ALTER TABLE {} ENABLE ROW LEVEL SECURITY").format(table))
                        policy = sql.SQL("CREATE POLICY own ON {} USING ({})").format(table, sql.SQL(_OWN_ROWS))
                        connection.execute(policy)
        connection.execute("ANALYZE")


def documents(size: Size, *, policies: bool) -> list[Document]:
    """The manifests: 40 schemas, every role, 360 grants; with ``policies`` the 2,000 as well."""
    found = [_rights(start, min(start + _IN_ONE, size.roles)) for start in range(0, size.roles, _IN_ONE)]
    if policies:
        found += [_rows(start, min(start + _IN_ONE, size.policies)) for start in range(0, size.policies, _IN_ONE)]
    return found


def unit(manifests: Sequence[Document]) -> Unit:
    """The unit of work that the operator would make of them; every member was Ready before."""
    return Unit(DATABASE, tuple(_member(document) for document in manifests), "bench")


def _member(document: Document) -> Member:
    name, spec = document["metadata"]["name"], DatabaseSchemaSpec.model_validate(document["spec"])
    return Member(uid=name, namespace="bench", name=name, generation=1, created="", spec=spec, verified=True)


def _table(index: int) -> tuple[str, str]:
    return f"s{index % _SCHEMAS}", f"t{index}"


def _rights(first: int, end: int) -> Document:
    """Roles ``first`` to ``end``, a third of the schemas, and grants in all of them."""
    names = [f"r{index}" for index in range(first, end)]
    schemas = [f"s{index}" for index in range(_SCHEMAS)]
    grants = []
    for index, name in enumerate(schemas):
        mine = names[index :: len(schemas)] or names[:1]
        grants += [
            grant(f"use-{name}", ["USAGE"], {"schemas": [name]}, mine),
            grant(f"read-{name}", ["SELECT"], {"tablesIn": [name]}, mine),
            grant(f"write-{name}", ["INSERT", "UPDATE", "DELETE"], {"tablesIn": [name]}, mine[:2]),
        ]
    declared = {
        "schemas": [{"name": name} for name in schemas[first // _IN_ONE :: _MEMBERS]],
        "roles": [{"name": name} for name in names],
        "grants": grants,
    }
    return database_schema(f"large-{first}", declared, DATABASE, "5m", "Allow")


def _rows(first: int, end: int) -> Document:
    """Row-level security of tables ``first`` to ``end``."""
    own = {"name": "own", "to": ["PUBLIC"], "using": _OWN_ROWS}
    entries = [{"table": ".".join(_table(index)), "policies": [own]} for index in range(first, end)]
    return database_schema(f"rows-{first}", {"rowLevelSecurity": entries}, DATABASE, "5m", "Allow")
