"""What somebody changes by hand is found, put back, and told once; ``drift: Report`` only tells."""

from __future__ import annotations

import json
import re
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from sandbox import MongoEndpoint
from tests.cluster.kube_api import Document
from tests.cluster.operator_process import OperatorProcess
from tests.cluster.proxy import Proxy
from tests.cluster.world import World, verdict, wait_for
from tests.conftest import Kubectl

#: An interval of 10 s, a tenth of jitter, and time to work.
INTERVAL_SECONDS = 16.0
DRIFTED, VERIFIED = ("False", "DriftDetected"), ("True", "Verified")


@dataclass(frozen=True)
class Damage:
    """A declaration, what somebody does to it, and what shows that it was put back. ``{r}`` is a role, ``{d}`` the
    database; ``kind`` is the declared object's."""

    kind: str
    postgres: dict[str, Any]
    statement: str
    healthy: str
    database: str = ""
    extra: dict[str, Any] = field(default_factory=dict)


USE = {"name": "use", "privileges": ["USAGE"], "objects": {"schemas": ["shared"]}, "to": ["{r}"]}
BASE: dict[str, Any] = {"schemas": [{"name": "shared"}], "roles": [{"name": "{r}"}]}
DAMAGES = {
    "extension-dropped": Damage(
        "extension",
        {"extensions": [{"name": "pgcrypto"}]},
        "DROP EXTENSION pgcrypto",
        "SELECT count(*) = 1 FROM pg_extension WHERE extname = 'pgcrypto'",
    ),
    "grant-revoked": Damage(
        "grant",
        {**BASE, "grants": [USE]},
        "REVOKE USAGE ON SCHEMA shared FROM {r}",
        "SELECT has_schema_privilege('{r}', 'shared', 'USAGE')",
    ),
    "grant-undeclared": Damage(
        "role",
        {**BASE, "grants": [USE], "grantMode": "Authoritative"},
        "GRANT CREATE ON SCHEMA shared TO {r}",
        "SELECT NOT has_schema_privilege('{r}', 'shared', 'CREATE')",
    ),
    "grant-to-public": Damage(
        "grant",
        {"grants": [{"name": "p", "privileges": ["CREATE"], "objects": {"schemas": ["public"]}, "to": ["PUBLIC"],
                     "ensure": "Absent"}]},
        "GRANT CREATE ON SCHEMA public TO PUBLIC",
        "SELECT NOT EXISTS (SELECT FROM pg_namespace, aclexplode(nspacl) WHERE nspname = 'public' AND grantee = 0"
        " AND privilege_type = 'CREATE')",
    ),
    "role-setting": Damage(
        "role",
        {"roles": [{"name": "{r}", "settings": {"statement_timeout": "5s"}}]},
        "ALTER ROLE {r} SET statement_timeout = '1h'",
        "SELECT rolconfig = '{{statement_timeout=5s}}' FROM pg_roles WHERE rolname = '{r}'",
    ),
    "role-dropped": Damage(
        "role",
        {"roles": [{"name": "{r}"}]},
        "DROP ROLE {r}",
        "SELECT count(*) = 1 FROM pg_roles WHERE rolname = '{r}'",
    ),
    "schema-owner": Damage(
        "schema",
        {"roles": [{"name": "{r}"}], "schemas": [{"name": "shared", "owner": "{r}"}]},
        "ALTER SCHEMA shared OWNER TO CURRENT_USER",
        "SELECT pg_get_userbyid(nspowner) = '{r}' FROM pg_namespace WHERE nspname = 'shared'",
    ),
    "schema-dropped": Damage(
        "schema",
        BASE,
        "DROP SCHEMA shared",
        "SELECT count(*) = 1 FROM pg_namespace WHERE nspname = 'shared'",
    ),
    "membership-removed": Damage(
        "role",
        {"roles": [{"name": "{r}"}, {"name": "{r}_writer", "memberOf": [{"role": "{r}"}]}]},
        "REVOKE {r} FROM {r}_writer",
        "SELECT pg_has_role('{r}_writer', '{r}', 'MEMBER')",
    ),
    "membership-added": Damage(
        "role",
        {"roles": [{"name": "{r}"}, {"name": "{r}_other"}]},
        "GRANT {r}_other TO {r}",
        "SELECT NOT pg_has_role('{r}', '{r}_other', 'MEMBER')",
    ),
    "database-setting": Damage(
        "database",
        {"settings": {"statement_timeout": "30s"}},
        "ALTER DATABASE {d} SET statement_timeout = '1h'",
        "SELECT setconfig = '{{statement_timeout=30s}}' FROM pg_db_role_setting s JOIN pg_database d"
        " ON d.oid = s.setdatabase AND s.setrole = 0 WHERE datname = '{d}'",
    ),
    "database-owner": Damage(
        "database",
        {"owner": "{r}", "roles": [{"name": "{r}"}]},
        "ALTER DATABASE {d} OWNER TO CURRENT_USER",
        "SELECT pg_get_userbyid(datdba) = '{r}' FROM pg_database WHERE datname = '{d}'",
    ),
}  # fmt: skip


def filled(value: Any, names: dict[str, str]) -> Any:
    """The value with ``{r}`` and ``{d}`` replaced in every string."""
    if isinstance(value, str):
        return value.format(**names)
    if isinstance(value, dict):
        return {key: filled(inner, names) for key, inner in value.items()}
    return [filled(inner, names) for inner in value] if isinstance(value, list) else value


def sights(kubectl: Kubectl, world: World, name: str, since: Document) -> list[tuple[str, str, str]]:
    """What a watch on a DatabaseSchema shows of Ready since that version: status, reason and message of each change."""
    version = since["metadata"]["resourceVersion"]
    path = f"/apis/selvedge.dev/v1alpha1/namespaces/{world.namespace}/databaseschemas"
    query = f"watch=true&resourceVersion={version}&fieldSelector=metadata.name%3D{name}&timeoutSeconds=1"
    lines = kubectl("get", "--raw", f"{path}?{query}").stdout.splitlines()
    found = [verdict(json.loads(line)["object"]) for line in lines]
    return [sight for before, sight in pairwise([("", "", ""), *found]) if sight != before]


@pytest.mark.newest  # each version's own engine: tests/engines/test_postgres_drift.py, test_mutations.py
@pytest.mark.usefixtures("postgres")
def test_drift_of_every_kind_is_put_back_within_the_interval_and_told_once(world: World, kubectl: Kubectl):
    names = {}
    for number, (case, damage) in enumerate(DAMAGES.items()):
        names[case] = {"r": world.role(f"r{number}"), "d": f"{world.name}_{number}"}
        world.schema(case, database=names[case]["d"], postgres=filled(damage.postgres, names[case]))
    ready = {case: world.ready("DatabaseSchema", case) for case in DAMAGES}
    for case, damage in DAMAGES.items():
        database = names[case]["d"]
        assert world.ask(damage.healthy.format(**names[case]), database=database) is True, case
        world.sql(damage.statement.format(**names[case]), database=database)
    for case, damage in DAMAGES.items():
        question = damage.healthy.format(**names[case])
        wait_for(
            lambda q=question, c=case: world.ask(q, database=names[c]["d"]) is True,
            INTERVAL_SECONDS,
            what=lambda c=case: c,
        )
    kinds = Counter(damage.kind for damage in DAMAGES.values())
    for case in DAMAGES:
        wait_for(lambda c=case: world.api.events(c, "DriftCorrected"))
        assert len(world.api.events(case, "DriftCorrected")) == 1, case
        document = world.ready("DatabaseSchema", case)
        assert document["status"]["lastDrift"]["objects"] == 1, case
        assert document["metadata"]["generation"] == ready[case]["metadata"]["generation"]
        assert document["status"]["drift"] == 0
        # who waits with kubectl sees that it was not as declared, and that it is again
        meanwhile, after = sights(kubectl, world, case, ready[case])
        assert meanwhile[:2] == ("False", "DriftDetected"), case
        assert re.fullmatch(rf"changed by hand: {DAMAGES[case].kind} \S+; being put back", meanwhile[2]), meanwhile
        assert after[:2] == ("True", "Verified"), case
        assert world.api.events(case, "DriftDetected") == [], case
    repaired = {kind: world.operator.value("selvedge_drift_repaired_total", kind=kind) for kind in kinds}
    found = {kind: world.operator.value("selvedge_drift_found_total", kind=kind) for kind in kinds}
    assert repaired == found == kinds


def said_all(world: World) -> None:
    """Wait until the events were answered that follow the status: of the first pass, and of the drift."""
    wait_for(lambda: world.operator.value("selvedge_kubernetes_requests_total", verb="post", resource="events") == 2)


def test_report_repairs_nothing_and_says_so_once(world: World):
    role = world.role("r")
    world.schema(
        "shop",
        drift="Report",
        migrations=world.trigger(),
        postgres={"roles": [{"name": role, "settings": {"statement_timeout": "5s"}}]},
    )
    world.ready("DatabaseSchema", "shop")
    world.sql(f"ALTER ROLE {role} SET statement_timeout = '1h'")
    world.look()
    document = world.until("DatabaseSchema", "shop", "False", "DriftDetected")
    assert document["status"]["drift"] == 1
    assert document["status"]["lastDrift"]["objects"] == 1
    said_all(world)
    version, writes = document["metadata"]["resourceVersion"], world.operator.writes()
    for _ in range(3):
        world.look()
    assert world.api.get("DatabaseSchema", "shop")["metadata"]["resourceVersion"] == version
    assert world.operator.writes() == writes
    assert len(world.api.events("shop", "DriftDetected")) == 1
    assert world.api.events("shop", "DriftCorrected") == []
    assert world.operator.value("selvedge_drift_repaired_total") == 0
    assert world.operator.value("selvedge_drift_found_total") == 1
    assert world.ask(f"SELECT rolconfig FROM pg_roles WHERE rolname = '{role}'") == ["statement_timeout=1h"]
    # Put back by hand, it is as declared again; and with Correct, the next difference is repaired.
    world.sql(f"ALTER ROLE {role} SET statement_timeout = '5s'")
    world.look()
    world.ready("DatabaseSchema", "shop")


def test_drift_of_a_mongodb_database_is_put_back(mongo: World, mongodb: MongoEndpoint, kubectl: Kubectl):
    validator = {"$jsonSchema": {"bsonType": "object", "required": ["name"]}}
    designs = {"name": "designs", "validator": validator, "indexes": [{"name": "name", "keys": [{"field": "name"}]}]}
    mongo.schema("designs", server="mongo", migrations=mongo.trigger(), mongodb={"collections": [designs]})
    ready = mongo.ready("DatabaseSchema", "designs")
    with mongodb.client() as client:
        database = client[mongo.name]
        database.command("collMod", "designs", validator={})
        mongo.look()
        wait_for(lambda: database.command("listCollections", filter={"name": "designs"})["cursor"]["firstBatch"][0]
                 ["options"].get("validator") == validator)  # fmt: skip
        wait_for(lambda: len(mongo.api.events("designs", "DriftCorrected")) == 1)
        again = mongo.ready("DatabaseSchema", "designs")
        assert [sight[:2] for sight in sights(kubectl, mongo, "designs", ready)] == [DRIFTED, VERIFIED]
        database.designs.drop_index("name")
        mongo.look()
        wait_for(lambda: "name" in database.designs.index_information())
        wait_for(lambda: len(mongo.api.events("designs", "DriftCorrected")) == 2)
        mongo.ready("DatabaseSchema", "designs")
        meanwhile, after = sights(kubectl, mongo, "designs", again)
        assert meanwhile == (*DRIFTED, "changed by hand: index designs.name; being put back")
        assert after[:2] == VERIFIED
    assert mongo.operator.value("selvedge_drift_repaired_total", kind="collection") == 1
    assert mongo.operator.value("selvedge_drift_repaired_total", kind="index") == 1


def test_report_repairs_nothing_in_a_mongodb_and_says_so_once(mongo: World, mongodb: MongoEndpoint):
    world, validator = mongo, {"$jsonSchema": {"bsonType": "object", "required": ["name"]}}
    designs = {"name": "designs", "validator": validator, "indexes": [{"name": "name", "keys": [{"field": "name"}]}]}
    spec = {"server": "mongo", "migrations": world.trigger(), "mongodb": {"collections": [designs]}}
    world.schema("designs", drift="Report", **spec)
    world.ready("DatabaseSchema", "designs")
    with mongodb.client() as client:
        database = client[world.name]

        def live() -> tuple[Any, set[str]]:
            (found,) = database.list_collections(filter={"name": "designs"})
            return found["options"].get("validator"), set(database.designs.index_information())

        database.command("collMod", "designs", validator={})
        database.designs.drop_index("name")
        world.look()
        document = world.until("DatabaseSchema", "designs", *DRIFTED)
        assert verdict(document)[2] == (
            "collection designs differs from the declaration; spec.drift is Report, so it stays as it is: "
            '{"collMod": "designs", "validator": {"$jsonSchema": {"bsonType": "object", "required": ["name"]}}, '
            '"validationLevel": "strict", "validationAction": "error"} (and 1 more, see status.notReady)'
        )
        assert (document["status"]["drift"], document["status"]["lastDrift"]["objects"]) == (2, 2)
        said_all(world)
        version, writes = document["metadata"]["resourceVersion"], world.operator.writes()
        for _ in range(3):
            world.look()
        assert world.api.get("DatabaseSchema", "designs")["metadata"]["resourceVersion"] == version
        assert world.operator.writes() == writes
        assert len(world.api.events("designs", "DriftDetected")) == 1
        assert live() == (None, {"_id_"})
        for kind in ("collection", "index"):
            assert world.operator.value("selvedge_drift_found_total", kind=kind) == 1
        assert world.operator.value("selvedge_drift_repaired_total") == 0
        # from now on it is put back
        world.schema("designs", drift="Correct", **spec)
        world.ready("DatabaseSchema", "designs")
        assert live() == (validator, {"_id_", "name"})


@pytest.mark.parametrize("operator_env", [{"SELVEDGE_IDENTITY": "the-same"}], indirect=True, ids=["same-identity"])
def test_drift_that_a_dead_operator_told_of_is_counted_and_said_once(world: World):
    world.schema("shop", postgres={"schemas": [{"name": "shared"}]})
    world.ready("DatabaseSchema", "shop")
    with closing(world.endpoint.connect(world.name)) as blocker:
        world.sql("DROP SCHEMA shared")
        with blocker.transaction():
            # It may be read and not written: the drift is found and told of, and its repair waits.
            blocker.execute("LOCK TABLE pg_namespace IN SHARE ROW EXCLUSIVE MODE")
            world.now("DatabaseSchema", "shop")
            told = world.until("DatabaseSchema", "shop", "False", "DriftDetected")
            world.operator.kill()
    assert verdict(told)[2] == "changed by hand: schema shared; being put back"
    assert told["status"]["drift"] == 1
    assert world.ask("SELECT count(*) FROM pg_namespace WHERE nspname = 'shared'") == 0
    world.operator.start()
    wait_for(lambda: world.api.events("shop", "DriftCorrected"))
    assert world.ready("DatabaseSchema", "shop")["status"]["drift"] == 0
    assert [event["note"] for event in world.api.events("shop", "DriftCorrected")] == [
        "1 object had been changed by hand and was put back: schema shared"
    ]
    for name in ("selvedge_drift_found_total", "selvedge_drift_repaired_total"):
        assert world.operator.value(name) == 1


def test_drift_is_put_back_while_the_api_server_does_not_answer(world: World, tmp_path: Path):
    world.operator.kill()
    config = yaml.safe_load(world.kubeconfig.read_text(encoding="utf-8"))
    cluster = config["clusters"][0]["cluster"]
    with Proxy(urlsplit(cluster["server"]).port or 443) as proxy:
        cluster["server"] = f"https://localhost:{proxy.port}"
        path = tmp_path / "kubeconfig"
        path.write_text(yaml.safe_dump(config))
        # It may lead for long without being heard: this is about the repair.
        lease = {"SELVEDGE_LEASE_DURATION": "90s", "SELVEDGE_RENEW_DEADLINE": "80s", "SELVEDGE_RETRY_PERIOD": "1s"}
        operator = OperatorProcess(
            path, tmp_path / "behind.log", namespaces=(world.namespace,), lease_namespace=world.namespace, env=lease
        )
        operator.start()
        try:
            world.schema("shop", postgres={"schemas": [{"name": "shared"}]})
            world.ready("DatabaseSchema", "shop")
            # the last word of the first pass, and its answer
            wait_for(lambda: operator.value("selvedge_kubernetes_requests_total", verb="post", resource="events") == 1)
            proxy.hang()
            world.sql("DROP SCHEMA shared")
            there = "SELECT count(*) = 1 FROM pg_namespace WHERE nspname = 'shared'"
            wait_for(lambda: world.ask(there), INTERVAL_SECONDS + 8, what=lambda: operator.logs()[-2000:])
            # The pass that put it back gives up on its status: what it has to tell is told by the next one.
            wait_for(lambda: proxy.cut() or "could not be finished" in operator.logs(), 60, what=operator.logs)
            assert world.api.events("shop", "DriftCorrected") == []
            proxy.resume()
            wait_for(lambda: world.api.events("shop", "DriftCorrected"), 60, what=lambda: operator.logs()[-2000:])
            world.ready("DatabaseSchema", "shop")
            assert len(world.api.events("shop", "DriftCorrected")) == 1
            assert operator.value("selvedge_drift_repaired_total") == 1
        finally:
            operator.kill()
