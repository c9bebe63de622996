"""What the CRDs refuse, by the schema and by rules; the command line refuses the same in the same words."""

from __future__ import annotations

from typing import Any

import pytest

from selvedge.api.resource import parse
from selvedge.core.errors import InvalidError
from tests.cluster.manifests import MONGO, RUN, SCHEMA, SERVER, altered, grant, index, postgres

LONG = "n" * 64
EXACTLY_ONE_ENGINE = "exactly one of postgres and mongodb: remove one, or add the one that fits the server"
PG_NAME = "names that begin with pg_ belong to Postgres: choose another name"
ONE_KIND_OF_OBJECT = (
    "objects needs exactly one of database, schemas, tables, tablesIn, sequences, sequencesIn, functions, functionsIn,"
    " columns, types, languages, foreignServers and foreignDataWrappers: split the grant"
)
SUPERUSER_SETTING = "is a superuser's and cannot be declared: remove it, or set it on the server"


def default(**parts: Any) -> dict[str, Any]:
    entry = {"name": "d", "creators": ["owner"], "privileges": ["SELECT"], "to": ["app"], "objectType": "Tables"}
    return postgres(defaultPrivileges=[{**entry, **parts}])


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
    "grant option for everyone": (
        grant(objects={"tables": ["a.b"]}, to=["app", "PUBLIC"], grantOption=True),
        "spec.postgres.grants[0].grantOption",
        "the grant option cannot go to PUBLIC: name roles, or remove grantOption",
    ),
    "default privilege that the kind does not have": (
        default(objectType="Functions"),
        "spec.postgres.defaultPrivileges[0].privileges",
        "default privileges on Functions can be EXECUTE: remove the others",
    ),
    "default privileges of schemas in a schema": (
        default(objectType="Schemas", privileges=["USAGE"], schemas=["shared"]),
        "spec.postgres.defaultPrivileges[0].schemas",
        "schemas are in no schema: remove schemas",
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
    "naming conventions for MongoDB": (
        altered(MONGO, migrations={"source": {"configMaps": [{"name": "m"}]}, "conventions": {}}),
        "spec",
        "naming conventions are for Postgres: leave migrations.conventions out",
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

#: docs/api-changes.md says why the API server does not know these.
ONLY_IN_PYTHON = {
    "63 characters of two bytes": (postgres(roles=[{"name": "ö" * 63}]), "is 126 bytes long and 63 are kept"),
    "a setting with a space of no width": (
        postgres(audit={"schema": "audit", "actorSetting": "app.act\u200bor", "tables": [{"table": "shop.orders"}]}),
        "holds a character that cannot be seen",
    ),
    "the 30th of February": (
        postgres(roles=[{"name": "app", "validUntil": "2027-02-30T00:00:00Z"}]),
        "not a time: write 2027-01-01T00:00:00Z",
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


@pytest.mark.parametrize("case", ONLY_IN_PYTHON)
def test_what_only_python_refuses_is_stored_and_named(apply, case):
    document, message = ONLY_IN_PYTHON[case]
    answer = apply(document)
    assert answer.returncode == 0, answer.stderr
    for strict in (True, False):  # the command line, and the operator
        with pytest.raises(InvalidError, match=message):
            parse(document, strict=strict)
