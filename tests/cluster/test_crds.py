"""The CRDs on a real API server: they are accepted, the examples are accepted, and bad input is refused by name."""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from selvedge.api.resource import parse
from selvedge.core.errors import InvalidError

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((Path(__file__).parent / "examples").glob("*.yaml"))
KINDS = ("databaseservers", "databaseschemas", "migrationruns")
DEADLINE = 30.0

SERVER: dict[str, Any] = {
    "apiVersion": "selvedge.dev/v1alpha1",
    "kind": "DatabaseServer",
    "metadata": {"name": "main-postgres"},
    "spec": {"engine": "Postgres", "hosts": [{"host": "localhost"}], "credentials": {"secretRef": {"name": "admin"}}},
}
SCHEMA: dict[str, Any] = {
    "apiVersion": "selvedge.dev/v1alpha1",
    "kind": "DatabaseSchema",
    "metadata": {"name": "fashion-wallet"},
    "spec": {"serverRef": {"name": "main-postgres"}, "database": "fashion_wallet", "postgres": {}},
}
MONGO: dict[str, Any] = {
    "apiVersion": "selvedge.dev/v1alpha1",
    "kind": "DatabaseSchema",
    "metadata": {"name": "designs"},
    "spec": {"serverRef": {"name": "main-mongo"}, "database": "fashion-wallet-main", "mongodb": {}},
}
RUN: dict[str, Any] = {
    "apiVersion": "selvedge.dev/v1alpha1",
    "kind": "MigrationRun",
    "metadata": {"name": "fashion-wallet-1"},
    "spec": {
        "schemaRef": {"name": "fashion-wallet"},
        "source": {"inline": {"files": {"20250101000000_a.sql": "select 1;"}}},
    },
}


def altered(document: dict[str, Any], **spec: Any) -> dict[str, Any]:
    """A copy of a document with fields of its spec set, or taken out where the value is None."""
    result = copy.deepcopy(document)
    for name, value in spec.items():
        if value is None:
            del result["spec"][name]
        else:
            result["spec"][name] = value
    return result


def postgres(**parts: Any) -> dict[str, Any]:
    return altered(SCHEMA, postgres=parts)


def index(**parts: Any) -> dict[str, Any]:
    return altered(MONGO, mongodb={"collections": [{"name": "designs", "indexes": [{"name": "i", **parts}]}]})


def grant(**parts: Any) -> dict[str, Any]:
    return postgres(grants=[{"name": "g", "privileges": ["SELECT"], "to": ["app"], **parts}])


@pytest.fixture(scope="module")
def crds(kubectl):
    """The CRDs, established and served.

    Another worker may create them at the same moment, and a 1.36 API server answers 429 for a moment afterwards.
    """
    end = time.monotonic() + DEADLINE

    def until_it_works(*arguments: str) -> None:
        while (answer := kubectl(*arguments, check=False)).returncode != 0:
            assert time.monotonic() < end, answer.stderr
            time.sleep(0.1)

    until_it_works("apply", "-f", str(ROOT / "crds"))
    names = [f"{kind}.selvedge.dev" for kind in KINDS]
    until_it_works("wait", "--for=condition=Established", "--timeout=30s", *(f"crd/{name}" for name in names))
    until_it_works("get", ",".join(names), "-A")


@pytest.fixture
def apply(kubectl, namespace, crds):
    """Send documents through ``kubectl apply`` to the test's namespace."""

    def call(*documents: dict[str, Any]) -> Any:
        text = yaml.safe_dump_all(documents)
        return kubectl("-n", namespace, "apply", "-f", "-", input=text, check=False)

    return call


def test_every_crd_is_established_and_has_no_complaint(kubectl, crds):
    found = json.loads(kubectl("get", "crd", *(f"{kind}.selvedge.dev" for kind in KINDS), "-o", "json").stdout)
    for crd in found["items"]:
        conditions = {entry["type"]: entry["status"] for entry in crd["status"]["conditions"]}
        assert conditions["Established"] == "True"
        assert conditions["NamesAccepted"] == "True"
        assert "NonStructuralSchema" not in conditions
        assert crd["spec"]["names"]["categories"] == ["selvedge"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_accepted_and_applying_it_again_changes_nothing(kubectl, namespace, crds, path):
    first = kubectl("-n", namespace, "apply", "-f", str(path))
    assert "created" in first.stdout
    second = kubectl("-n", namespace, "apply", "-f", str(path))
    assert {line.rsplit(" ", 1)[1] for line in second.stdout.splitlines()} == {"unchanged"}


def test_what_is_applied_comes_back_as_it_was_written(kubectl, namespace, crds):
    path = Path(__file__).parent / "examples" / "databaseschema_mongodb.yaml"
    kubectl("-n", namespace, "apply", "-f", str(path))
    stored = json.loads(kubectl("-n", namespace, "get", "dbs", "designs", "-o", "json").stdout)
    assert stored["spec"]["mongodb"] == yaml.safe_load(path.read_text())["spec"]["mongodb"]


def test_short_names_and_the_category_list_every_kind(kubectl, namespace, apply):
    assert apply(SERVER, SCHEMA, RUN).returncode == 0
    for short, name in (("dbsrv", "main-postgres"), ("dbs", "fashion-wallet"), ("mig", "fashion-wallet-1")):
        assert name in kubectl("-n", namespace, "get", short).stdout
    assert kubectl("-n", namespace, "get", "selvedge", "-o", "name").stdout.split() == [
        "databaseschema.selvedge.dev/fashion-wallet",
        "databaseserver.selvedge.dev/main-postgres",
        "migrationrun.selvedge.dev/fashion-wallet-1",
    ]


def test_kubectl_get_shows_the_columns_of_the_example(kubectl, namespace, apply):
    assert apply(SERVER, SCHEMA, RUN).returncode == 0

    def ready(reason: str) -> list[dict[str, str]]:
        return [{"type": "Stalled", "status": "False"}, {"type": "Ready", "status": "True", "reason": reason}]

    statuses = {
        "dbsrv/main-postgres": {
            "version": "16.14",
            "role": "Primary",
            "replicasReady": "2/2",
            "conditions": ready("Reachable"),
        },
        "dbs/fashion-wallet": {"drift": 0, "pending": 0, "conditions": ready("Verified")},
        "mig/fashion-wallet-1": {
            "phase": "Succeeded",
            "progress": "14/14",
            "version": "20251115120000",
            "conditions": ready("Applied"),
        },
    }
    shown = {}
    for name, status in statuses.items():
        write_status(kubectl, namespace, name, status)
        header, row = kubectl("-n", namespace, "get", name).stdout.splitlines()
        shown[name] = (header.split(), row.split()[:-1])
    assert shown == {
        "dbsrv/main-postgres": (
            ["NAME", "ENGINE", "VERSION", "ROLE", "REPLICAS", "READY", "REASON", "AGE"],
            ["main-postgres", "Postgres", "16.14", "Primary", "2/2", "True", "Reachable"],
        ),
        "dbs/fashion-wallet": (
            ["NAME", "SERVER", "DATABASE", "READY", "REASON", "DRIFT", "PENDING", "AGE"],
            ["fashion-wallet", "main-postgres", "fashion_wallet", "True", "Verified", "0", "0"],
        ),
        "mig/fashion-wallet-1": (
            ["NAME", "SCHEMA", "ACTION", "PHASE", "PROGRESS", "VERSION", "READY", "REASON", "AGE"],
            ["fashion-wallet-1", "fashion-wallet", "Up", "Succeeded", "14/14", "20251115120000", "True", "Applied"],
        ),
    }


def write_status(kubectl, namespace, name: str, status: dict[str, Any]) -> None:
    patch = json.dumps({"status": status})
    kubectl("-n", namespace, "patch", name, "--subresource=status", "--type=merge", "-p", patch)


@pytest.mark.parametrize("name", ["dbsrv/main-postgres", "dbs/fashion-wallet", "mig/fashion-wallet-1"])
def test_a_status_that_holds_only_an_error_can_be_written(kubectl, namespace, apply, name):
    assert apply(SERVER, SCHEMA, RUN).returncode == 0
    condition = {"type": "Ready", "status": "False", "reason": "Unreachable", "message": "no connection to localhost"}
    write_status(kubectl, namespace, name, {"conditions": [condition]})
    stored = json.loads(kubectl("-n", namespace, "get", name, "-o", "json").stdout)
    assert stored["status"] == {"conditions": [condition]}
    assert kubectl("-n", namespace, "wait", name, "--for=condition=Ready=False", "--timeout=5s").returncode == 0


LONG = "n" * 64
EXACTLY_ONE_ENGINE = "exactly one of postgres and mongodb: remove one, or add the one that fits the server"
PG_NAME = "names that begin with pg_ belong to Postgres: choose another name"
ONE_KIND_OF_OBJECT = (
    "objects needs exactly one of database, schemas, tables, tablesIn, sequences, sequencesIn, functions, functionsIn,"
    " columns and types: split the grant"
)
SUPERUSER_SETTING = "is a superuser's and cannot be declared: remove it, or set it on the server"

RULES = {
    "both engines": (altered(SCHEMA, mongodb={}), "spec", EXACTLY_ONE_ENGINE),
    "no engine": (altered(SCHEMA, postgres=None), "spec", EXACTLY_ONE_ENGINE),
    "pg_ role": (postgres(roles=[{"name": "pg_boss"}]), "spec.postgres.roles[0].name", PG_NAME),
    "PG_ role": (postgres(roles=[{"name": "PG_boss"}]), "spec.postgres.roles[0].name", PG_NAME),
    "role public": (
        postgres(roles=[{"name": "Public"}]),
        "spec.postgres.roles[0].name",
        "public and none are words of SQL and no roles: choose another name",
    ),
    "superuser's setting of a role": (
        postgres(roles=[{"name": "app", "settings": {"session_replication_role": "replica"}}]),
        "spec.postgres.roles[0].settings",
        f"setting session_replication_role {SUPERUSER_SETTING}",
    ),
    "superuser's setting of a database": (
        postgres(settings={"log_statement": "none", "work_mem": "8MB"}),
        "spec.postgres.settings",
        f"setting log_statement {SUPERUSER_SETTING}",
    ),
    "role as a setting": (
        postgres(settings={"role": "postgres"}),
        "spec.postgres.settings",
        "setting role changes who a session is and cannot be declared: remove it",
    ),
    "grant on two kinds": (
        grant(objects={"tables": ["a.b"], "tablesIn": ["a"]}),
        "spec.postgres.grants[0].objects",
        ONE_KIND_OF_OBJECT,
    ),
    "grant on nothing": (
        grant(objects={"database": False, "tables": []}),
        "spec.postgres.grants[0].objects",
        ONE_KIND_OF_OBJECT,
    ),
    "privilege that the object does not have": (
        grant(objects={"schemas": ["shared"]}),
        "spec.postgres.grants[0].privileges",
        "privileges on schemas can be USAGE, CREATE: remove the others",
    ),
    "policy without an expression": (
        postgres(rowLevelSecurity=[{"table": "a.b", "policies": [{"name": "p", "to": ["app"]}]}]),
        "spec.postgres.rowLevelSecurity[0].policies[0]",
        "a policy needs using or withCheck: write the expression",
    ),
    "partitions by hash with a period": (
        postgres(partitions=[{"table": "a.b", "by": "Hash", "column": "id", "count": 8, "every": "Day"}]),
        "spec.postgres.partitions[0]",
        "by: Time needs every, and may have ahead and retention; by: Hash needs count and nothing else",
    ),
    "index key with order and type": (
        index(keys=[{"field": "name", "order": 1, "type": "Text"}]),
        "spec.mongodb.collections[0].indexes[0].keys[0]",
        "an index key has order or type, not both: remove one",
    ),
    "expireAfter of an ordinary collection": (
        altered(MONGO, mongodb={"collections": [{"name": "events", "expireAfter": "30d"}]}),
        "spec.mongodb.collections[0]",
        "expireAfter of a collection needs timeSeries: give an index with expireAfter instead",
    ),
    "validator of a time series": (
        altered(
            MONGO, mongodb={"collections": [{"name": "e", "timeSeries": {"timeField": "at"}, "validator": {"a": 1}}]}
        ),
        "spec.mongodb.collections[0]",
        "a time series has no validator: remove one of the two",
    ),
    "MongoDB's own collection": (
        altered(MONGO, mongodb={"collections": [{"name": "system.users"}]}),
        "spec.mongodb.collections[0].name",
        "names that begin with system. belong to MongoDB: choose another name",
    ),
    "MongoDB's own database": (
        altered(MONGO, database="admin"),
        "spec.database",
        "admin, local and config belong to MongoDB: choose another name",
    ),
    "Postgres's template": (
        altered(SCHEMA, database="template1"),
        "spec.database",
        "template databases cannot be declared: choose another name",
    ),
    "MongoDB database with a slash": (
        altered(MONGO, database="a/b"),
        "spec.database",
        "a MongoDB database's name has no space and none of . / \\ $ * < > : | ?: choose another name",
    ),
    "MongoDB database with a backslash": (
        altered(MONGO, database="a\\b"),
        "spec.database",
        "a MongoDB database's name has no space and none of . / \\ $ * < > : | ?: choose another name",
    ),
    "interval of a second": (
        altered(SCHEMA, interval="1s"),
        "spec.interval",
        "interval is 10s or more: a shorter one would only load the server",
    ),
    "two sources": (
        altered(RUN, source={"configMaps": [{"name": "m"}], "inline": {"files": {"1_a.sql": "select 1;"}}}),
        "spec.source",
        "source needs exactly one of configMaps, inline and image",
    ),
    "inline files beyond 64 KiB": (
        altered(RUN, source={"inline": {"files": {"1_a.sql": "x" * 40_000, "2_b.sql": "x" * 40_000}}}),
        "spec.source.inline",
        "the inline files are larger than 64 KiB together: put them into a ConfigMap",
    ),
    "To without a target": (
        altered(RUN, action="To"),
        "spec",
        "actions To and Baseline need a target: give the version",
    ),
    "the other engine's part": (
        altered(SERVER, mongodb={"replicaSet": "rs0"}),
        "spec",
        "mongodb stands only with engine: MongoDB; remove it or correct engine",
    ),
    "server without a host": (
        altered(SERVER, hosts=None),
        "spec",
        "no host: give hosts, or name the key of the Secret that holds it in credentials.keys.host or .uri",
    ),
    "selector without from": (
        altered(SERVER, access=[{"namespaces": {"selector": {"matchLabels": {"team": "billing"}}}}]),
        "spec.access[0].namespaces",
        "selector stands with from: Selector and only there",
    ),
}

STRUCTURE = {
    "unknown field": (altered(SCHEMA, databse="x"), 'strict decoding error: unknown field "spec.databse"'),
    "unknown field of a role": (
        postgres(roles=[{"name": "app", "superuser": True}]),
        'strict decoding error: unknown field "spec.postgres.roles[0].superuser"',
    ),
    "name of 64 bytes": (
        postgres(roles=[{"name": LONG}]),
        "spec.postgres.roles[0].name: Too long: may not be more than 63 bytes",
    ),
    "database of 64 bytes": (
        altered(SCHEMA, database=LONG),
        "spec.database: Too long: may not be more than 63 bytes",
    ),
    "two grants of one name": (
        postgres(grants=[{"name": "g", "privileges": ["CONNECT"], "objects": {"database": True}, "to": ["app"]}] * 2),
        'spec.postgres.grants[1]: Duplicate value: {"name":"g"}',
    ),
    "index key with order 2": (
        index(keys=[{"field": "name", "order": 2}]),
        "spec.mongodb.collections[0].indexes[0].keys[0].order: Unsupported value: 2: supported values: ",
    ),
    "index keys as an object": (
        index(keys={"name": 1}),
        'strict decoding error: unknown field "spec.mongodb.collections[0].indexes[0].keys.name"',
    ),
    "duration without a unit": (
        altered(SCHEMA, interval="30"),
        'spec.interval: Invalid value: "30": spec.interval in body should match',
    ),
    "number where text belongs": (
        altered(SCHEMA, database=5),
        'spec.database: Invalid value: "integer": spec.database in body must be of type string: "integer"',
    ),
}


@pytest.mark.parametrize("case", STRUCTURE)
def test_what_the_schema_does_not_know_is_refused_with_its_message(apply, case):
    document, message = STRUCTURE[case]
    answer = apply(document)
    assert answer.returncode != 0
    assert message in answer.stderr


@pytest.mark.parametrize("case", RULES)
def test_what_breaks_a_rule_is_refused_with_its_message(apply, case):
    document, path, message = RULES[case]
    answer = apply(document)
    assert answer.returncode != 0
    assert f"{path}: Invalid value: {message}" in answer.stderr


@pytest.mark.parametrize("case", RULES)
def test_the_command_line_refuses_the_same_in_the_same_words(case):
    document, _, message = RULES[case]
    with pytest.raises(InvalidError) as caught:
        parse(document, strict=True)
    assert message in str(caught.value)


@pytest.mark.parametrize("case", STRUCTURE)
def test_the_command_line_knows_the_same_schema(case):
    with pytest.raises(InvalidError):
        parse(STRUCTURE[case][0], strict=True)


EDITS = {
    "engine": (
        SERVER,
        altered(SERVER, engine="MongoDB"),
        "spec.engine: Invalid value: engine cannot be changed: make a new DatabaseServer",
    ),
    "database": (
        SCHEMA,
        altered(SCHEMA, database="other"),
        "spec.database: Invalid value: database cannot be changed: make a new DatabaseSchema",
    ),
    "target of a run": (
        RUN,
        altered(RUN, target="20250101000000"),
        "spec: Invalid value: a MigrationRun cannot be changed, approvedPlan aside: make a new one",
    ),
    "file of a run": (
        RUN,
        altered(RUN, source={"inline": {"files": {"20250101000000_a.sql": "select 2;"}}}),
        "spec: Invalid value: a MigrationRun cannot be changed, approvedPlan aside: make a new one",
    ),
    "timeouts of a run": (
        RUN,
        altered(RUN, timeouts={"lock": "1s"}),
        "spec: Invalid value: a MigrationRun cannot be changed, approvedPlan aside: make a new one",
    ),
    "action of a run": (
        RUN,
        altered(RUN, action="Down"),
        "spec: Invalid value: a MigrationRun cannot be changed, approvedPlan aside: make a new one",
    ),
}


@pytest.mark.parametrize("case", EDITS)
def test_what_cannot_be_changed_is_refused_with_its_message(apply, case):
    before, after, message = EDITS[case]
    assert apply(before).returncode == 0
    answer = apply(after)
    assert answer.returncode != 0
    assert message in answer.stderr


def test_a_migration_run_can_be_approved(apply):
    assert apply(RUN).returncode == 0
    answer = apply(altered(RUN, approvedPlan="sha256:" + "0" * 64))
    assert answer.returncode == 0, answer.stderr


def test_a_field_that_nobody_declared_can_be_added_later(apply, kubectl, namespace):
    assert apply(SCHEMA).returncode == 0
    assert apply(postgres(schemas=[{"name": "shared"}])).returncode == 0
    stored = json.loads(kubectl("-n", namespace, "get", "dbs", "fashion-wallet", "-o", "json").stdout)
    assert stored["metadata"]["generation"] == 2
    assert stored["spec"]["deletionPolicy"] == "Retain"
