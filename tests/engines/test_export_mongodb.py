"""``selvedge export`` of live MongoDB databases: its plan is empty, and another database becomes equal by it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml
from bson import Decimal128, Int64
from pymongo.database import Database

from sandbox import MongoEndpoint
from tests.engines.export_support import selvedge


def url_of(mongodb: MongoEndpoint) -> str:
    ca = f"&tls=true&tlsCAFile={quote(str(mongodb.ca_path))}" if mongodb.ca_path else "&tls=false"
    return f"mongodb://{mongodb.username}@{mongodb.host}:{mongodb.port}/?replicaSet={mongodb.replica_set}{ca}"


def call(mongodb: MongoEndpoint, *arguments: str) -> subprocess.CompletedProcess[str]:
    result = selvedge(*arguments, "--url", url_of(mongodb), environ={"SELVEDGE_PASSWORD": mongodb.password})
    assert mongodb.password not in result.stdout + result.stderr
    return result


def export(mongodb: MongoEndpoint, database: str, *more: str) -> subprocess.CompletedProcess[str]:
    result = call(mongodb, "export", "--server", "main-mongo", "--database", database, *more)
    assert result.returncode == 0, result.stderr
    return result


def make(database: Database[dict[str, Any]]) -> None:
    database.create_collection(
        "designs",
        validator={
            "$jsonSchema": {
                "bsonType": "object",
                "required": ["userId", "name"],
                "properties": {
                    "name": {"bsonType": "string", "maxLength": 255, "pattern": "^[^\n]+$"},
                    "price": {"minimum": Decimal128("0.10"), "maximum": Int64(2**53)},
                },
            }
        },
        validationLevel="moderate",
        validationAction="warn",
    )
    designs = database["designs"]
    designs.create_index([("userId", 1), ("status", 1), ("createdAt", -1)])
    designs.create_index(
        [("kind", 1), ("name", "text"), ("metadata.description", "text")],
        name="search",
        weights={"name": 10},
        default_language="german",
        language_override="idioma",
    )
    collation = {"locale": "de", "strength": 2, "caseLevel": True, "caseFirst": "upper"}
    designs.create_index("email", unique=True, collation=collation)
    designs.create_index("deletedAt", sparse=True, hidden=True)
    designs.create_index("expiresAt", expireAfterSeconds=0)
    designs.create_index("amount", partialFilterExpression={"amount": {"$gt": Int64(5)}, "state": "open"})
    designs.create_index([("userId", "hashed")])
    designs.create_index([("where", "2dsphere")])
    designs.create_index([("flat", "2d")], bits=20, min=-10, max=10)
    designs.create_index([("$**", 1)], name="everything", wildcardProjection={"secret": 0, "a.b": 0})
    designs.create_index([("attributes.$**", 1)])
    database.create_collection(
        "events",
        timeseries={"timeField": "at", "metaField": "source", "granularity": "minutes"},
        expireAfterSeconds=30 * 86400,
    )
    database.create_collection("log: odd / name", capped=True, size=4096)
    database.command("create", "recent", viewOn="designs", pipeline=[])
    database.command("createRole", "reader", privileges=[], roles=[])
    database.command("createUser", "somebody", pwd="hunter2hunter2", roles=["reader"])


@pytest.fixture
def twin(mongodb: MongoEndpoint, mongo_database: str) -> Iterator[str]:
    """The name of another database."""
    name = f"{mongo_database}_twin"
    yield name
    with mongodb.client() as client:
        client.drop_database(name)
        client["selvedge"]["claims"].delete_many({"_id.database": name})
        client["selvedge"]["lock"].delete_many({"_id": name})


def test_the_plan_is_empty_and_a_new_database_becomes_equal(
    mongodb: MongoEndpoint, mongo_database: str, twin: str, tmp_path: Path
) -> None:
    with mongodb.client() as client:
        make(client[mongo_database])
    exported = export(mongodb, mongo_database)
    print(exported.stdout, exported.stderr)
    path = tmp_path / "exported.yaml"
    path.write_text(exported.stdout, encoding="utf-8")
    planned = call(mongodb, "plan", "-f", str(path))
    assert planned.returncode == 0, planned.stdout + planned.stderr

    document = yaml.safe_load(exported.stdout)
    assert document["spec"]["adoption"] == "Allow"
    document["spec"]["database"] = twin
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    applied = call(mongodb, "apply", "-f", str(path), "--yes")
    assert applied.returncode == 0, applied.stdout + applied.stderr
    [again] = json.loads(export(mongodb, twin, "-o", "json").stdout)["items"]
    assert again["spec"] == document["spec"]


def test_what_cannot_be_declared_is_named(mongodb: MongoEndpoint, mongo_database: str) -> None:
    with mongodb.client() as client:
        database = client[mongo_database]
        make(database)
        database.create_collection("sorted", collation={"locale": "fr"})
        database["sorted"].create_index("name")
        database["sorted"].create_index("plain", collation={"locale": "simple"})
    exported = export(mongodb, mongo_database)
    for text in (
        "view recent: views are not declared",
        "collection log: odd / name: a declaration has no word for capped, size",
        "collection sorted: a declaration has no word for collation",
        "index designs.flat_2d: a declaration has no word for max, min",
        "roles of the database are not exported by this version: reader",
        "users are no part of a DatabaseSchema: declare DatabaseUsers: somebody",
    ):
        assert text in exported.stderr
        assert text in " ".join(exported.stdout.replace("\n#", " ").split())
    assert "hunter2" not in exported.stdout + exported.stderr
    [item] = json.loads(export(mongodb, mongo_database, "-o", "json").stdout)["items"]
    assert "view recent" in item["metadata"]["annotations"]["selvedge.dev/left-out"]


def test_a_database_that_is_not_there_is_an_error(mongodb: MongoEndpoint, mongo_database: str) -> None:
    result = call(mongodb, "export", "--server", "main-mongo", "--database", mongo_database)
    assert (result.returncode, result.stdout) == (1, "")
    assert f"database {mongo_database} does not exist" in result.stderr
