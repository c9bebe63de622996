"""``selvedge migrate`` against a real MongoDB: what Postgres' commands do, in the same words."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pymongo
import pytest
from click.testing import CliRunner, Result

from sandbox import MongoEndpoint
from selvedge.cli import main

ITEMS, NUMBERS, SOLD = (f"2025010{n}000000_{name}.json" for n, name in ((1, "items"), (2, "numbers"), (3, "sold")))
ALL = ["20250101000000", "20250102000000", "20250103000000"]


@dataclass
class Shop:
    """A database, a directory of three migrations, and the program to run on both."""

    endpoint: MongoEndpoint
    name: str
    directory: Path
    client: pymongo.MongoClient[dict[str, Any]]

    def write(self, name: str, collection: str) -> None:
        text = {"up": [{"create": collection}], "down": [{"drop": collection}]}
        (self.directory / name).write_text(json.dumps(text), encoding="utf-8")

    def migrate(self, *arguments: str, user: str = "", password: str = "") -> Result:
        endpoint = self.endpoint
        tls = f"&tls=true&tlsCAFile={quote(str(endpoint.ca_path))}" if endpoint.ca_path else "&tls=false"
        source = self.name if user else "admin"
        place = f"{user or endpoint.username}@{endpoint.host}:{endpoint.port}/{self.name}"
        environ = {
            "PATH": os.environ["PATH"],
            "SELVEDGE_PASSWORD": password or endpoint.password,
            "SELVEDGE_URL": f"mongodb://{place}?authSource={source}&replicaSet={endpoint.replica_set}{tls}",
            "SELVEDGE_MIGRATIONS": str(self.directory),
        }
        return CliRunner().invoke(main, ["migrate", *arguments], env=environ)

    def ok(self, *arguments: str) -> str:
        result = self.migrate(*arguments)
        assert result.exit_code == 0, result.output
        return result.stdout

    def versions(self) -> list[str]:
        rows = self.client[self.name]["selvedge.history"].find({"state": "Applied"})
        return sorted(row["_id"] for row in rows)

    def events(self, count: int) -> list[tuple[str, str, str]]:
        found = self.client[self.name]["selvedge.events"].find().sort([("at", -1), ("_id", -1)]).limit(count)
        return [(one["event"], one["actor"], one.get("reason", "")) for one in found]

    def collections(self) -> set[str]:
        names = self.client[self.name].list_collection_names()
        return {name for name in names if not name.startswith("selvedge.")}


@pytest.fixture
def shop(mongodb: MongoEndpoint, mongo_database: str, tmp_path: Path) -> Iterator[Shop]:
    with mongodb.client() as client:
        shop = Shop(mongodb, mongo_database, tmp_path, client)
        for name, collection in ((ITEMS, "items"), (NUMBERS, "numbers"), (SOLD, "sold")):
            shop.write(name, collection)
        yield shop


def test_to_redo_and_validate(shop: Shop) -> None:
    shop.ok("validate")
    assert shop.ok("to", ALL[1]).splitlines()[-1] == f"{shop.name}: 2 steps done, version {ALL[1]}"
    assert shop.versions() == ALL[:2]
    assert shop.collections() == {"items", "numbers"}
    refused = shop.migrate("redo")
    assert refused.exit_code == 1
    assert "add --yes, or --approve sha256:" in refused.stderr
    redone = shop.ok("redo", "--yes")
    assert [line.split(",")[0] for line in redone.splitlines()[:2]] == [
        f"{ALL[1]} numbers: undone",
        f"{ALL[1]} numbers: applied",
    ]
    shop.ok("up")
    shop.ok("validate")
    shop.write(SOLD, "gone")
    changed = shop.migrate("validate")
    assert changed.exit_code == 1
    assert f"{SOLD} changed after it ran" in changed.output
    shop.write(SOLD, "sold")
    # the files are gone: the history keeps the way down
    for file in shop.directory.iterdir():
        file.unlink()
    shop.ok("to", "0", "--yes")
    assert (shop.versions(), shop.collections()) == ([], set())


def test_baseline_and_repair(shop: Shop) -> None:
    shop.client[shop.name].create_collection("items")
    shop.ok("baseline", ALL[0])
    assert [event for event, _, _ in shop.events(1)] == ["Marked"]
    shop.ok("up")
    assert shop.versions() == ALL
    shop.write(SOLD, "bought")
    assert shop.migrate("up").exit_code == 1
    nameless = shop.migrate("repair", "--accept", "all", "--yes")
    assert nameless.exit_code == 1, "a repair has a reason"
    assert shop.migrate("repair", "--accept", "all", "--reason", "x").exit_code == 1, "and somebody who says yes"
    shop.ok("repair", "--accept", "all", "--reason", "the same", "--actor", "ada", "--yes")
    assert shop.events(1) == [("Accepted", "ada", "the same")]
    shop.ok("status")
    shop.ok("repair", "--mark-unapplied", ALL[2], "--reason", "dropped by hand", "--actor", "ada", "--yes")
    assert shop.events(1) == [("Unmarked", "ada", "dropped by hand")]
    assert shop.versions() == ALL[:2]
    assert shop.collections() == {"items", "numbers", "sold"}, "a repair changes the history alone"


def test_wait_with_a_login_that_may_only_read(shop: Shop) -> None:
    for user, roles in (("reader", ["read"]), ("nobody", [])):
        shop.client[shop.name].command({"createUser": user, "pwd": "its own word", "roles": roles})
    shop.ok("to", ALL[1])
    late = shop.directory / SOLD
    text = late.read_text(encoding="utf-8")
    late.unlink()  # whoever waits for one version may have older files

    def wait(*arguments: str, user: str = "reader") -> Result:
        return shop.migrate("wait", *arguments, user=user, password="its own word")

    there = wait("--version", ALL[1], "--timeout", "20s")
    assert (there.exit_code, there.stdout) == (0, f"{shop.name}: version {ALL[1]} is there\n"), there.output
    late.write_text(text, encoding="utf-8")
    missing = wait("--timeout", "1s")
    assert missing.exit_code == 2
    assert "not there after 1 s" in missing.stderr
    shop.ok("up")
    assert wait().exit_code == 0, "all files"
    lacking = wait("--timeout", "5s", user="nobody")
    assert lacking.exit_code == 1
    remedy = f'db.getSiblingDB("{shop.name}").grantRolesToUser("nobody", [{{role: "read", db: "{shop.name}"}}])'
    told = f"error: user nobody may not read selvedge.history of database {shop.name}; run {remedy}\n"
    assert lacking.stderr == told
