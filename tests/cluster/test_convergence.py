"""Ready is never said of a generation that the live database does not equal, and a second pass is free."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sandbox import MongoEndpoint, PostgresServer
from tests.cluster.random_specs import MIGRATION, OWNERS, Declarations, MongoDeclarations, PostgresDeclarations, State
from tests.cluster.world import World, condition, wait_for


class Witness(threading.Thread):
    """Reads the resource, then the database, then the resource again, for as long as the test changes the resource.

    Where the generation is the same before and after, what was declared for it has to be what the database showed.
    """

    def __init__(self, world: World, declarations: Declarations, expected: dict[int, State]) -> None:
        super().__init__(daemon=True)
        self.world = world
        self.declarations = declarations
        self.expected = expected
        self.stopping = threading.Event()
        self.confirmed: set[int] = set()
        self.broken: list[str] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            with self.declarations.reading() as live:
                while not self.stopping.is_set():
                    self.look(live)
        except BaseException as error:  # noqa: BLE001 - raised again by the test
            self.error = error

    def look(self, live: Callable[[State], State]) -> None:
        ready = condition(self.world.api.get("DatabaseSchema", "shop"))
        generation = ready.get("observedGeneration", 0)
        wanted = self.expected.get(generation)
        if ready["status"] != "True" or wanted is None:
            return
        found = live(wanted)
        after = self.world.api.get("DatabaseSchema", "shop")
        assert after is not None
        if after["metadata"]["generation"] != generation:
            return  # changed meanwhile: the database may be on its way
        self.confirmed.add(generation)
        if found != wanted:
            differs = {kind: (found.get(kind), wanted[kind]) for kind in wanted if found.get(kind) != wanted[kind]}
            self.broken.append(f"generation {generation} is Ready, found and declared are {differs}")


def change_and_watch(world: World, declarations: Declarations, changes: int, **fixed: str) -> Witness:
    chance = random.Random()
    expected: dict[int, State] = {}
    spec, state = declarations.draw(chance)
    document = world.schema("shop", **fixed, **spec)
    expected[document["metadata"]["generation"]] = state
    world.ready("DatabaseSchema", "shop")
    witness = Witness(world, declarations, expected)
    witness.start()
    for number in range(changes):
        spec, state = declarations.draw(chance)
        # Written down before it is applied: the operator may be faster than the answer.
        current = world.api.get("DatabaseSchema", "shop")
        assert current is not None
        following = current["metadata"]["generation"] + 1
        before = expected.get(following - 1)
        expected[following] = state
        document = world.schema("shop", **fixed, **spec)
        if document["metadata"]["generation"] != following:
            assert before is not None, "the same declaration came twice in a row"
            del expected[following]
        if number % 3 != 2 or number == changes - 1:  # each third time the next change comes while this is under way
            generation = world.ready("DatabaseSchema", "shop")["metadata"]["generation"]
            wait_for(lambda g=generation: g in witness.confirmed or not witness.is_alive())
    witness.stopping.set()
    witness.join(10)
    if witness.error is not None:
        raise witness.error
    return witness


@pytest.fixture
def migrated(world: World) -> World:
    """With the objects that grants are on, made by a migration as the owner."""
    owner = world.role(OWNERS[0])
    spec = {"owner": owner, "roles": [{"name": owner}], "schemas": [{"name": "base", "owner": owner}]}
    world.schema("shop", postgres=spec)
    source = {"inline": {"files": {"20250101000000_base.sql": MIGRATION}}}
    run = {"schemaRef": {"name": "shop"}, "source": source}
    world.api.apply({"kind": "MigrationRun", "metadata": {"name": "base"}, "spec": run})
    world.ready("MigrationRun", "base")
    return world


def test_ready_never_appears_before_the_database_equals_the_generation(migrated: World):
    witness = change_and_watch(migrated, PostgresDeclarations(migrated), 15)
    assert witness.broken == []
    assert len(witness.confirmed) >= 8


def test_ready_never_appears_before_a_mongodb_equals_the_generation(mongo: World, mongodb: MongoEndpoint):
    witness = change_and_watch(mongo, MongoDeclarations(mongo, mongodb), 15, server="mongo")
    assert witness.broken == []
    assert len(witness.confirmed) >= 8


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("postgres")
def test_ready_never_appears_too_early_in_a_long_run(migrated: World):
    witness = change_and_watch(migrated, PostgresDeclarations(migrated), 200)
    assert witness.broken == []
    assert len(witness.confirmed) >= 100


@pytest.mark.long
@pytest.mark.timeout(900)
def test_ready_never_appears_too_early_in_a_long_run_over_a_mongodb(mongo: World, mongodb: MongoEndpoint):
    witness = change_and_watch(mongo, MongoDeclarations(mongo, mongodb), 200, server="mongo")
    assert witness.broken == []
    assert len(witness.confirmed) >= 100


def versions(world: World) -> dict[str, str]:
    """The resourceVersion of everything of ours: it moves with every write, by whomever."""
    return world.api.versions("DatabaseServer", "DatabaseSchema", "Secret")


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
