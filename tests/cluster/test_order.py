"""Everything may be applied at once in any order, and deleted in any order; what holds data stays."""

from __future__ import annotations

import random
import time

import pytest
import yaml

from sandbox import MongoEndpoint
from tests.cluster.kube_api import Document
from tests.cluster.world import World, condition, secret, verdict, wait_for

DELETED_SECONDS = 30.0
USERS = "-- migrate:up\nCREATE TABLE shared.users (id int PRIMARY KEY);\nINSERT INTO shared.users VALUES (1);\n"


def postgres(world: World) -> Document:
    """An owner, a reader, a schema, and grants on tables that no migration has made yet."""
    owner, reader = world.role("owner"), world.role("reader")
    return {
        "owner": owner,
        "schemas": [{"name": "shared"}],
        "roles": [{"name": owner}, {"name": reader}],
        "grants": [
            {"name": "use", "privileges": ["USAGE"], "objects": {"schemas": ["shared"]}, "to": [reader]},
            {"name": "read", "privileges": ["SELECT"], "objects": {"tables": ["shared.users"]}, "to": [reader]},
        ],
    }


def migrations() -> Document:
    return {
        "kind": "ConfigMap",
        "metadata": {"name": "migrations", "labels": {"selvedge.dev/watch": "true"}},
        "data": {"20250101000000_users.sql": USERS},
    }


def may_read(world: World, table: str = "shared.users") -> bool:
    return bool(world.ask(f"SELECT has_table_privilege('{world.role('reader')}', '{table}', 'SELECT')"))


@pytest.mark.usefixtures("postgres")
def test_a_grant_on_a_table_that_does_not_exist_yet_waits_and_becomes_ready_by_itself(world: World):
    # An interval that the test does not live to see: only the MigrationRun can wake it.
    world.schema("shop", interval="1h", postgres=postgres(world))
    document = world.until("DatabaseSchema", "shop", "False", "WaitingForObjects")
    assert condition(document, "Provisioned")["status"] == "True"
    assert condition(document, "Reconciling")["status"] == "True"
    assert verdict(document)[2].startswith("grant read names table shared.users, which does not exist yet")
    assert document["status"]["objects"]["waiting"] == 1
    # the rest stands
    assert world.ask(f"SELECT has_schema_privilege('{world.role('reader')}', 'shared', 'USAGE')") is True
    source = {"inline": {"files": {"20250101000000_users.sql": USERS}}}
    spec = {"schemaRef": {"name": "shop"}, "source": source}
    world.api.apply({"kind": "MigrationRun", "metadata": {"name": "first"}, "spec": spec})
    world.ready("MigrationRun", "first")
    world.ready("DatabaseSchema", "shop")
    assert may_read(world)


def manifests(world: World, mongodb: MongoEndpoint) -> list[Document]:
    """Everything that a person would apply: Secrets, both servers, databases, migrations and a run."""
    servers = [
        world.server_document(world.endpoint),
        {
            "kind": "DatabaseServer",
            "metadata": {"name": "mongo"},
            "spec": {
                "engine": "MongoDB",
                "hosts": [{"host": mongodb.host, "port": mongodb.port}],
                "credentials": {"secretRef": {"name": "mongo-admin"}},
                "tls": {"caSecretRef": {"name": "mongo-ca"}},
                "mongodb": {"replicaSet": mongodb.replica_set},
            },
        },
    ]
    secrets = [
        secret("main-admin", username=world.endpoint.username, password=world.endpoint.password),
        secret("main-ca", ca__crt=world.endpoint.ca),
        secret("mongo-admin", username=mongodb.username, password=mongodb.password),
        secret("mongo-ca", ca__crt=mongodb.ca),
    ]
    source = {"source": {"configMaps": [{"name": "migrations"}]}}
    designs = {"name": "designs", "indexes": [{"name": "name", "keys": [{"field": "name"}]}]}
    kinds = [
        migrations(),
        world.schema_document("shop", interval="1h", migrations=source, postgres=postgres(world)),
        # a second team on the same database
        world.schema_document("audit", interval="1h", postgres={"schemas": [{"name": "audit"}]}),
        world.schema_document("designs", server="mongo", interval="1h", mongodb={"collections": [designs]}),
    ]
    for document in (*servers, *kinds):
        document["apiVersion"] = "v1" if document["kind"] == "ConfigMap" else "selvedge.dev/v1alpha1"
    return [*servers, *kinds, *({"apiVersion": "v1", **document} for document in secrets)]


def everything(world: World) -> dict[str, tuple[str, str, str]]:
    kinds = ("DatabaseServer", "DatabaseSchema", "MigrationRun")
    return {f"{kind}/{o['metadata']['name']}": verdict(o) for kind in kinds for o in world.api.list(kind)}


def apply_all_and_delete_all(world: World, mongodb: MongoEndpoint, kubectl) -> None:
    """Apply everything at once in random order, see it Ready, delete everything at once, and see the data."""
    documents = manifests(world, mongodb)
    random.shuffle(documents)
    kubectl("-n", world.namespace, "apply", "-f", "-", input=yaml.safe_dump_all(documents))

    def all_ready() -> bool:
        found = everything(world)
        return len(found) == 6 and all(ready[0] == "True" for ready in found.values())

    wait_for(all_ready, 60, what=lambda: (everything(world), [d["metadata"]["name"] for d in documents]))
    assert may_read(world)
    kinds = "databaseservers,databaseschemas,migrationruns,secrets,configmaps"
    began = time.monotonic()
    kubectl("-n", world.namespace, "delete", kinds, "--all", "--wait=false")
    wait_for(lambda: not everything(world), DELETED_SECONDS, what=lambda: everything(world))
    assert time.monotonic() - began < DELETED_SECONDS
    assert world.ask("SELECT count(*) FROM shared.users") == 1
    assert may_read(world)
    with mongodb.client() as client:
        assert "designs" in client[world.name].list_collection_names()


@pytest.fixture
def both(bare: World, mongodb: MongoEndpoint):
    """With nothing applied; the MongoDB database goes afterwards too."""
    yield bare
    bare.operator.kill()
    with mongodb.client() as client:
        client.drop_database(bare.name)


def test_all_at_once_in_random_order_is_always_ready_and_deleted_at_once(both: World, mongodb, kubectl):
    apply_all_and_delete_all(both, mongodb, kubectl)


@pytest.mark.long
@pytest.mark.parametrize("turn", range(20))
def test_all_at_once_twenty_times(both: World, mongodb, kubectl, turn: int):
    apply_all_and_delete_all(both, mongodb, kubectl)


def test_retain_keeps_everything_and_needs_no_operator(world: World):
    world.schema("shop", postgres=postgres(world))
    world.until("DatabaseSchema", "shop", "False", "WaitingForObjects")
    assert "finalizers" not in world.api.get("DatabaseSchema", "shop")["metadata"]
    world.operator.stop()
    world.sql("CREATE TABLE shared.users (id int)")
    world.api.delete("DatabaseSchema", "shop")
    assert world.api.get("DatabaseSchema", "shop") is None  # at once: nobody has to let it go
    world.operator.start()
    world.schema("other", database=f"{world.name}_2", postgres={})
    world.ready("DatabaseSchema", "other")
    assert world.ask("SELECT count(*) FROM shared.users") == 0
    assert world.ask(f"SELECT has_schema_privilege('{world.role('reader')}', 'shared', 'USAGE')") is True


@pytest.mark.usefixtures("postgres")
def test_delete_removes_only_what_the_resource_made(world: World):
    owner, reader, foreign = world.role("owner"), world.role("reader"), world.role("foreign")
    # a database, a role and a schema that were there before
    world.sql(f"CREATE DATABASE {world.name}", database="postgres")
    world.sql(f"CREATE ROLE {foreign}")
    world.sql("CREATE SCHEMA old")
    world.sql("CREATE TABLE old.things (id int)")
    spec = {
        "schemas": [{"name": "old"}, {"name": "fresh", "owner": owner}],
        "roles": [{"name": owner}, {"name": reader}, {"name": foreign}],
        "grants": [
            {"name": "use", "privileges": ["USAGE"], "objects": {"schemas": ["old"]}, "to": [reader, foreign]},
            {"name": "read", "privileges": ["SELECT"], "objects": {"tablesIn": ["old"]}, "to": [reader]},
        ],
    }
    world.schema("shop", adoption="Allow", deletionPolicy="Delete", postgres=spec)
    world.ready("DatabaseSchema", "shop")
    wait_for(lambda: world.api.get("DatabaseSchema", "shop")["metadata"].get("finalizers"))
    world.schema("beside", adoption="Allow", postgres={"schemas": [{"name": "beside"}]})
    world.ready("DatabaseSchema", "beside")
    world.api.delete("DatabaseSchema", "shop")
    wait_for(
        lambda: world.api.get("DatabaseSchema", "shop") is None,
        DELETED_SECONDS,
        what=lambda: (world.api.get("DatabaseSchema", "shop"), world.operator.logs()[-2000:]),
    )
    roles = world.sql(f"SELECT rolname::text FROM pg_roles WHERE starts_with(rolname, '{world.name}')")
    assert {name for (name,) in roles} == {foreign}
    schemas = world.sql("SELECT nspname::text FROM pg_namespace WHERE nspname IN ('old', 'fresh', 'beside')")
    assert {name for (name,) in schemas} == {"old", "beside"}
    assert world.ask("SELECT count(*) FROM old.things") == 0
    assert world.ask(f"SELECT has_schema_privilege('{foreign}', 'old', 'USAGE')") is False
    world.ready("DatabaseSchema", "beside")
    assert len(wait_for(lambda: world.api.events("shop", "Deleted"))) == 1
    # and a database that it made goes as a whole
    world.schema("own", database=f"{world.name}_2", deletionPolicy="Delete", postgres={"schemas": [{"name": "a"}]})
    world.ready("DatabaseSchema", "own")
    wait_for(lambda: world.api.get("DatabaseSchema", "own")["metadata"].get("finalizers"))
    world.api.delete("DatabaseSchema", "own")
    wait_for(lambda: world.api.get("DatabaseSchema", "own") is None, DELETED_SECONDS)
    databases = world.sql(f"SELECT 1 FROM pg_database WHERE datname = '{world.name}_2'", database="postgres")
    assert databases == []


def test_with_the_server_gone_a_resource_is_let_go(world: World):
    world.schema("shop", deletionPolicy="Delete", postgres={"schemas": [{"name": "a"}]})
    world.ready("DatabaseSchema", "shop")
    wait_for(lambda: world.api.get("DatabaseSchema", "shop")["metadata"].get("finalizers"))
    world.api.delete("DatabaseServer", "main")
    world.until("DatabaseSchema", "shop", "False", "WaitingForServer")
    world.api.delete("DatabaseSchema", "shop")
    wait_for(lambda: world.api.get("DatabaseSchema", "shop") is None, DELETED_SECONDS)
    assert len(wait_for(lambda: world.api.events("shop", "Retained"))) == 1
    assert world.ask("SELECT count(*) FROM pg_namespace WHERE nspname = 'a'") == 1
