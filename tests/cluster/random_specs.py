"""Random declarations, each with what the live database shows once it equals them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Any, Protocol

from sandbox import MongoEndpoint
from tests.cluster.kube_api import Document
from tests.cluster.world import World

#: What was found or is wanted, by kind of object.
State = dict[str, Any]


class Declarations(Protocol):
    """One engine's: a spec with the state that it means, and how the same is read from the live database."""

    def draw(self, chance: random.Random) -> tuple[Document, State]:
        """The fields of a random DatabaseSchema, and its state."""

    def reading(self) -> AbstractContextManager[Callable[[State], State]]:
        """A connection of its own; the function reads what can be compared with a wanted state."""


ROLES = ("reader", "writer", "auditor")
OWNERS = ("one", "other")
SCHEMAS = ("avatar", "catalog", "design")
EXTENSIONS = ("hstore", "citext", "pgcrypto")
TIMEOUTS = ("", "1s", "2s", "3s")
#: Grants are drawn from these: kind of object, privilege, how it is declared, the objects it means.
GRANTS = (
    ("tables", ("SELECT", "INSERT"), ("base.users", "base.items")),
    ("tablesIn", ("UPDATE", "DELETE"), ("base",)),
    ("sequences", ("USAGE",), ("base.users_id_seq",)),
    ("sequencesIn", ("SELECT",), ("base",)),
    ("functions", ("EXECUTE",), ("base.double(integer)", "base.half(integer)")),
)
_MEANS = {
    "tablesIn": ("base.users", "base.items", "base.shown"),
    "sequencesIn": ("base.users_id_seq", "base.items_id_seq"),
}
#: What the migration makes before the run begins.
MIGRATION = """-- migrate:up
CREATE TABLE base.users (id serial PRIMARY KEY);
CREATE TABLE base.items (id serial PRIMARY KEY);
CREATE VIEW base.shown AS SELECT id FROM base.items;
CREATE FUNCTION base.double(integer) RETURNS integer LANGUAGE sql RETURN $1 * 2;
CREATE FUNCTION base.half(integer) RETURNS integer LANGUAGE sql RETURN $1 / 2;
"""

_LIVE = """
SELECT json_build_object(
  'schemas', ARRAY(SELECT concat_ws(' ', nspname, nspowner::regrole, obj_description(oid, 'pg_namespace'))
                     FROM pg_namespace WHERE nspname = ANY (%(schemas)s)),
  'extensions', ARRAY(SELECT extname FROM pg_extension WHERE extname = ANY (%(extensions)s)),
  'roles', ARRAY(SELECT concat_ws(' ', rolname, array_to_string(rolconfig, ','), shobj_description(oid, 'pg_authid'))
                   FROM pg_roles WHERE starts_with(rolname, %(prefix)s) AND rolname <> %(migrator)s),
  'members', ARRAY(SELECT concat_ws(' ', member::regrole, roleid::regrole) FROM pg_auth_members m
                     JOIN pg_roles r ON r.oid = m.member
                    WHERE starts_with(r.rolname, %(prefix)s) AND r.rolname <> %(migrator)s),
  'database', (SELECT coalesce(array_to_string(setconfig, ','), '') FROM pg_database d LEFT JOIN pg_db_role_setting s
                   ON s.setdatabase = d.oid AND s.setrole = 0 WHERE datname = current_database()),
  'grants', ARRAY(SELECT concat_ws(' ', grantee::regrole, privilege_type, name) FROM (
      SELECT nspname::text, nspowner, nspacl FROM pg_namespace
      UNION ALL SELECT oid::regclass::text, relowner, relacl FROM pg_class WHERE relnamespace = 'base'::regnamespace
      UNION ALL SELECT oid::regprocedure::text, proowner, proacl FROM pg_proc WHERE pronamespace = 'base'::regnamespace
    ) o (name, owner, acl), aclexplode(acl) WHERE starts_with(grantee::regrole::text, %(prefix)s) AND grantee <> owner
      AND grantee::regrole::text <> %(migrator)s))
"""


class PostgresDeclarations:
    """Schemas with owner and comment, extensions, roles with settings, comments and memberships, the database's
    settings, and grants on schemas and on what a migration made.

    Schemas and extensions that left the declaration hold data and stay: only those that are declared are compared. Of
    roles, memberships, settings and grants nothing may be left that is not declared, but for the migrator.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.owners = [world.role(name) for name in OWNERS]

    def draw(self, chance: random.Random) -> tuple[Document, State]:
        schemas = {name: (chance.choice(self.owners), f"note {chance.randint(1, 3)}") for name in some(chance, SCHEMAS)}
        extensions = some(chance, EXTENSIONS, 0)
        roles = {self.world.role(name): chance.choice(TIMEOUTS) for name in some(chance, ROLES)}
        # only an earlier one can be a member of a later one: no circles
        members = {(one, other) for one in roles for other in roles if one < other and chance.random() < 0.5}
        comments = {role: f"note {chance.randint(1, 3)}" for role in roles}
        timeout = chance.choice(TIMEOUTS)
        grants, granted = self._grants(chance, list(schemas), list(roles))
        spec = {
            "owner": self.owners[0],
            **({"settings": {"statement_timeout": timeout}} if timeout else {}),
            "extensions": [{"name": name} for name in extensions],
            "schemas": [
                {"name": "base", "owner": self.owners[0]},
                *({"name": name, "owner": owner, "comment": note} for name, (owner, note) in schemas.items()),
            ],
            "roles": [
                *({"name": owner} for owner in self.owners),
                *(
                    {
                        "name": role,
                        "comment": comments[role],
                        **({"settings": {"lock_timeout": setting}} if setting else {}),
                        "memberOf": [{"role": other} for one, other in sorted(members) if one == role],
                    }
                    for role, setting in roles.items()
                ),
            ],
            "grants": grants,
        }
        state = {
            "schemas": sorted(f"{name} {owner} {note}" for name, (owner, note) in schemas.items()),
            "extensions": sorted(extensions),
            "roles": sorted(
                [*self.owners]
                + [f"{role}{f' lock_timeout={t}' if t else ''} {comments[role]}" for role, t in roles.items()]
            ),
            "members": sorted(f"{one} {other}" for one, other in members),
            "database": f"statement_timeout={timeout}" if timeout else "",
            "grants": sorted(granted),
        }
        return {"postgres": spec}, state

    def _grants(self, chance: random.Random, schemas: list[str], roles: list[str]) -> tuple[list[Document], set[str]]:
        grants: list[Document] = []
        granted: set[str] = set()

        def grant(privileges: list[str], kind: str, objects: list[str], to: list[str]) -> None:
            grants.append({"name": f"g{len(grants)}", "privileges": privileges, "objects": {kind: objects}, "to": to})
            meant = [name for one in objects for name in _MEANS.get(kind, (one,))]
            granted.update(f"{role} {p} {name}" for role in to for p in privileges for name in meant)

        for kind, privileges, objects in GRANTS:
            if chance.random() < 0.6:
                grant(some(chance, privileges), kind, some(chance, objects), some(chance, roles))
        for schema in schemas:
            if chance.random() < 0.5:
                grant(["USAGE"], "schemas", [schema], some(chance, roles))
        return grants, granted

    @contextmanager
    def reading(self) -> Iterator[Callable[[State], State]]:
        with closing(self.world.endpoint.connect(self.world.name)) as connection:

            def live(wanted: State) -> State:
                schemas = [line.split()[0] for line in wanted["schemas"]]
                names = {"prefix": self.world.name, "migrator": self.world.role("migrator")}
                values = {"schemas": schemas, "extensions": wanted["extensions"], **names}
                row = connection.execute(_LIVE, values).fetchone()
                assert row is not None
                return {kind: sorted(found) if isinstance(found, list) else found for kind, found in row[0].items()}

            yield live


COLLECTIONS = ("designs", "avatars", "sessions")
FIELDS = ("name", "userId", "createdAt")


class MongoDeclarations:
    """Collections with validators, levels, actions and indexes whose keys and options change.

    Collections and indexes that left the declaration stay: only those that are declared are compared.
    """

    def __init__(self, world: World, endpoint: MongoEndpoint) -> None:
        self.world = world
        self.endpoint = endpoint

    def draw(self, chance: random.Random) -> tuple[Document, State]:
        collections: list[Document] = []
        state: State = {}
        for name in some(chance, COLLECTIONS):
            # sorted: the operator compares what is required without its order
            validator = {"$jsonSchema": {"bsonType": "object", "required": sorted(some(chance, FIELDS))}}
            level, action = chance.choice(("Strict", "Moderate")), chance.choice(("Error", "Warn"))
            indexes, wanted = [], {}
            for field in some(chance, FIELDS, 0):
                order, sparse = chance.choice((1, -1)), chance.random() < 0.5
                # each under a name of its own: one that changes is made anew
                indexes.append({"name": f"by_{field}", "keys": [{"field": field, "order": order}], "sparse": sparse})
                wanted[f"by_{field}"] = ({field: order}, sparse)
            collections.append(
                {"name": name, "validator": validator, "validationLevel": level, "validationAction": action,
                 "indexes": indexes}
            )  # fmt: skip
            state[name] = (validator, level.lower(), action.lower(), wanted)
        return {"mongodb": {"collections": collections}, "destructive": "Allow"}, state

    @contextmanager
    def reading(self) -> Iterator[Callable[[State], State]]:
        with self.endpoint.client() as client:
            database = client[self.world.name]

            def live(wanted: State) -> State:
                found: State = {}
                for entry in database.list_collections():
                    if entry["name"] not in wanted:
                        continue
                    options, declared = entry["options"], wanted[entry["name"]][3]
                    indexes = {
                        index["name"]: (dict(index["key"]), index.get("sparse", False))
                        for index in database[entry["name"]].list_indexes()
                        if index["name"] in declared
                    }
                    rules = (options.get("validator"), options.get("validationLevel"), options.get("validationAction"))
                    found[entry["name"]] = (*rules, indexes)
                return found

            yield live


def some(chance: random.Random, names: tuple[str, ...] | list[str], least: int = 1) -> list[str]:
    """A random part, in random order."""
    return chance.sample(names, chance.randint(least, len(names)))
