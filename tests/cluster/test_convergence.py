"""Ready is never said of a generation that the live database does not equal, and a second pass is free."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest

from sandbox import MongoEndpoint, PostgresServer
from tests.cluster.kube_api import Document
from tests.cluster.world import World, condition, wait_for

ROLES = ("reader", "writer", "owner")
SCHEMAS = ("avatar", "catalog", "design")
TIMEOUTS = ("", "1s", "2s", "3s")

State = tuple[frozenset[str], frozenset[tuple[str, str]], frozenset[tuple[str, str]]]


def declare(world: World, chance: random.Random) -> tuple[Document, State]:
    """A random declaration, and what of it can be read in the catalogue: schemas, roles' settings, usage of schemas."""
    schemas = chance.sample(SCHEMAS, chance.randint(1, len(SCHEMAS)))
    roles = {world.role(name): chance.choice(TIMEOUTS) for name in chance.sample(ROLES, chance.randint(1, len(ROLES)))}
    uses = frozenset((role, schema) for role in roles for schema in schemas if chance.random() < 0.5)
    postgres = {
        "schemas": [{"name": schema} for schema in schemas],
        "roles": [
            {"name": role, **({"settings": {"statement_timeout": timeout}} if timeout else {})}
            for role, timeout in roles.items()
        ],
        "grants": [
            {"name": f"use-{number}", "privileges": ["USAGE"], "objects": {"schemas": [schema]}, "to": [role]}
            for number, (role, schema) in enumerate(sorted(uses))
        ],
    }
    # schemas that left the declaration hold data and stay: only those that are declared are compared
    return postgres, (frozenset(schemas), frozenset(roles.items()), uses)


def live(connection: psycopg.Connection, world: World, schemas: frozenset[str]) -> State:
    """The same of the live database, in one statement."""
    row = connection.execute(
        """
        SELECT ARRAY(SELECT nspname::text FROM pg_namespace WHERE nspname = ANY (%(schemas)s)),
          ARRAY(SELECT ARRAY[rolname::text, coalesce(split_part(rolconfig[1], '=', 2), '')]
                  FROM pg_roles WHERE starts_with(rolname, %(prefix)s)),
          ARRAY(SELECT ARRAY[grantee::regrole::text, nspname::text] FROM pg_namespace, aclexplode(nspacl)
                 WHERE starts_with(grantee::regrole::text, %(prefix)s) AND grantee <> nspowner)
        """,
        {"schemas": list(schemas), "prefix": world.name},
    ).fetchone()
    assert row is not None
    return frozenset(row[0]), frozenset((a, b) for a, b in row[1]), frozenset((a, b) for a, b in row[2])


class Witness(threading.Thread):
    """Reads the resource, then the database, then the resource again, for as long as the test changes the resource.

    Where the generation is the same before and after, what was declared for it has to be what the database showed.
    """

    def __init__(self, world: World, expected: dict[int, State]) -> None:
        super().__init__(daemon=True)
        self.world = world
        self.expected = expected
        self.stopping = threading.Event()
        self.confirmed: set[int] = set()
        self.broken: list[str] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            with closing(self.world.endpoint.connect(self.world.name)) as connection:
                while not self.stopping.is_set():
                    self.look(connection)
        except BaseException as error:  # noqa: BLE001 - raised again by the test
            self.error = error

    def look(self, connection: psycopg.Connection) -> None:
        ready = condition(self.world.api.get("DatabaseSchema", "shop"))
        generation = ready.get("observedGeneration", 0)
        wanted = self.expected.get(generation)
        if ready["status"] != "True" or wanted is None:
            return
        found = live(connection, self.world, wanted[0])
        after = self.world.api.get("DatabaseSchema", "shop")
        assert after is not None
        if after["metadata"]["generation"] != generation:
            return  # changed meanwhile: the database may be on its way
        self.confirmed.add(generation)
        if found != wanted:
            self.broken.append(f"generation {generation} is Ready with {found} and declares {wanted}")


def change_and_watch(world: World, changes: int) -> Witness:
    chance = random.Random()
    expected: dict[int, State] = {}
    postgres, state = declare(world, chance)
    document = world.schema("shop", postgres=postgres)
    expected[document["metadata"]["generation"]] = state
    world.ready("DatabaseSchema", "shop")
    witness = Witness(world, expected)
    witness.start()
    for _ in range(changes):
        postgres, state = declare(world, chance)
        # Written down before it is applied: the operator may be faster than the answer.
        current = world.api.get("DatabaseSchema", "shop")
        assert current is not None
        following = current["metadata"]["generation"] + 1
        before = expected.get(following - 1)
        expected[following] = state
        document = world.schema("shop", postgres=postgres)
        if document["metadata"]["generation"] != following:
            assert before is not None, "the same declaration came twice in a row"
            del expected[following]
        if chance.random() < 0.7:  # now and then the next change comes while this one is under way
            world.ready("DatabaseSchema", "shop")
    world.ready("DatabaseSchema", "shop")
    last = world.api.get("DatabaseSchema", "shop")
    assert last is not None
    while last["metadata"]["generation"] not in witness.confirmed and witness.is_alive():
        witness.join(0.05)
    witness.stopping.set()
    witness.join(10)
    if witness.error is not None:
        raise witness.error
    return witness


def test_ready_never_appears_before_the_database_equals_the_generation(world: World):
    witness = change_and_watch(world, 15)
    assert witness.broken == []
    assert len(witness.confirmed) >= 8


@pytest.mark.long
@pytest.mark.usefixtures("postgres")
def test_ready_never_appears_too_early_in_a_long_run(world: World):
    witness = change_and_watch(world, 200)
    assert witness.broken == []
    assert len(witness.confirmed) >= 100


def versions(world: World) -> dict[str, str]:
    """The resourceVersion of everything of ours: it moves with every write, by whomever."""
    kinds = ("DatabaseServer", "DatabaseSchema", "Secret")
    found = [(kind, document["metadata"]) for kind in kinds for document in world.api.list(kind)]
    return {f"{kind}/{metadata['name']}": metadata["resourceVersion"] for kind, metadata in found}


@pytest.fixture
def quiet(bare: World) -> Iterator[World]:
    """With a Postgres server of its own as ``main``, on which nobody but the operator writes."""
    settings = {"autovacuum": "off", "checkpoint_timeout": "1h", "wal_level": "replica"}
    shared = bare.endpoint
    with PostgresServer.launch("18", settings=settings) as private:
        bare.endpoint = private
        bare.server()
        yield bare
        bare.operator.kill()
    bare.endpoint = shared


def test_ten_passes_over_what_matches_write_nothing(quiet: World):
    world, reader = quiet, quiet.role("reader")
    world.schema(
        "shop",
        migrations=world.trigger(),
        postgres={
            "schemas": [{"name": "shared"}],
            "roles": [{"name": reader, "settings": {"search_path": ["shared", "public"]}}],
            "extensions": [{"name": "pgcrypto"}],
            "grants": [
                {"name": "use", "privileges": ["USAGE"], "objects": {"schemas": ["shared"]}, "to": [reader]},
                {"name": "read", "privileges": ["SELECT"], "objects": {"tablesIn": ["shared"]}, "to": [reader]},
            ],
        },
    )
    world.ready("DatabaseSchema", "shop")
    world.sql("CREATE TABLE shared.users (id int)")
    world.look()  # grants on the new table
    wait_for(lambda: world.ask(f"SELECT has_table_privilege('{reader}', 'shared.users', 'SELECT')"))
    world.look()  # whoever reads first what was committed writes hint bits, once

    def state() -> tuple[object, ...]:
        return world.ask("SELECT pg_current_wal_insert_lsn()"), world.operator.writes(), versions(world)

    passes = world.operator.value("selvedge_reconcile_total", kind="DatabaseSchema", result="success")
    before = state()
    for _ in range(10):
        world.look()
    assert state() == before
    assert world.operator.value("selvedge_reconcile_total", kind="DatabaseSchema", result="success") - passes >= 10


def test_ten_passes_over_a_mongodb_that_matches_write_nothing(mongo: World, mongodb: MongoEndpoint):
    world, validator = mongo, {"$jsonSchema": {"bsonType": "object", "required": ["name"]}}
    indexes = [{"name": "name", "keys": [{"field": "name"}]}]
    designs = {"name": "designs", "validator": validator, "indexes": indexes}
    world.schema("designs", server="mongo", migrations=world.trigger(), mongodb={"collections": [designs]})
    world.ready("DatabaseSchema", "designs")
    world.look()
    with mongodb.client() as client:
        oplog = client["local"]["oplog.rs"]

        def newest() -> Any:
            return oplog.find_one(sort=[("$natural", -1)])["ts"]

        began, before = newest(), (world.operator.writes(), versions(world))
        for _ in range(10):
            world.look()
        assert (world.operator.writes(), versions(world)) == before
        # the server is shared: what names this database is ours, in the database itself, its claims and its lock
        ours = [entry for entry in oplog.find({"ts": {"$gt": began}}) if world.name in str(entry)]
        assert ours == []
        # and the search finds what is there
        client[world.name]["designs"].insert_one({"name": "a"})
        assert [entry for entry in oplog.find({"ts": {"$gt": began}}) if world.name in str(entry)] != []
