"""Runs Fashion Wallet's migrations by psql: an oracle that shares nothing with the runner of the project.

Each Postgres version gets a server of its own, since the roles that policies and grants name belong to a whole server.
What examples/fashion-wallet/ declares (roles, schemas, extensions, grants) is made here by plain statements.
"""

from __future__ import annotations

import os
import re
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import yaml
from psycopg import sql

from sandbox import tools
from sandbox.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
MIGRATIONS = ROOT / "migrations" / "postgres"
DECLARATION = yaml.safe_load((ROOT / "examples/fashion-wallet/20-schema-postgres.yaml").read_text())["spec"]["postgres"]
USER, DESIGNER = "10000000-0000-4000-8000-000000000002", "10000000-0000-4000-8000-000000000003"
HAND_OVER = "20251201090000"
KEY = "0123456789abcdef0123456789abcdef"
_MARKER = re.compile(r"^-- migrate:(up|down).*$", re.MULTILINE)
_ALONE = re.compile(r"^(create|drop) index concurrently", re.MULTILINE)


@dataclass(frozen=True)
class Migration:
    """Both directions of one version."""

    name: str
    up: str
    down: str


def migrations() -> list[Migration]:
    found = []
    for path in sorted(MIGRATIONS.glob("*.sql")):
        if path.name.endswith(".up.sql"):
            down = path.with_name(path.name.replace(".up.sql", ".down.sql"))
            found.append(Migration(path.name, path.read_text(), down.read_text()))
        elif not path.name.endswith(".down.sql"):
            _, *parts = _MARKER.split(path.read_text())
            assert parts[::2] == ["up", "down"], path.name
            found.append(Migration(path.name, parts[1], parts[3]))
    return found


@dataclass(frozen=True)
class Wallet:
    """One database, as the declaration and the migrations leave it."""

    server: PostgresServer
    name: str

    def run(self, text: str, *, settings: str = "") -> None:
        """Run a file as its owner, who is no superuser; in one transaction wherever that is possible."""
        program: list[str | Path] = [
            tools.postgres_client() / "psql",
            "-XqAt",
            "-v",
            "ON_ERROR_STOP=1",
            "-o",
            os.devnull,
        ]
        whole = [] if _ALONE.search(text) else ["--single-transaction"]
        conninfo = self.server.conninfo(self.name, user="fw_migrator", password="migrator")
        # An empty search_path shows every name that is not qualified; row_security is what the runner sets as well.
        options = "-c role=fw_owner -c search_path= -c row_security=off -c client_min_messages=warning"
        env = {**os.environ, "PGOPTIONS": f"{options} {settings}"}
        command = [*program, *whole, "-d", conninfo, "-f", "-"]
        done = subprocess.run(command, input=text, env=env, text=True, capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr

    def dump(self) -> str:
        env = {**os.environ, "PGPASSWORD": self.server.password}
        target = self.server.conninfo(self.name, password=None)
        command: list[str | Path] = [tools.postgres_client() / "pg_dump", "--schema-only", "-d", target]
        text = subprocess.run(command, env=env, text=True, capture_output=True, timeout=60, check=True).stdout
        return re.sub(r"^\\(un)?restrict .*$", "", text, flags=re.MULTILINE)  # a random word in each dump

    @contextmanager
    def session(self, role: str = "fw_owner", user: str | None = None) -> Iterator[psycopg.Connection[Any]]:
        """A transaction as ``role``, acting for ``user``; rolled back at the end."""
        with psycopg.connect(self.server.conninfo(self.name, user="fw_migrator", password="migrator")) as connection:
            become(connection, role, user)
            yield connection
            connection.rollback()


def become(connection: psycopg.Connection[Any], role: str, user: str | None = None) -> None:
    connection.execute("reset role")
    connection.execute(sql.SQL("set local role {}").format(sql.Identifier(role)))
    if user is not None:
        connection.execute("select set_config('app.current_user_id', %s, true)", (user,))


def rows(connection: psycopg.Connection[Any], query: str, *parameters: object) -> list[tuple[Any, ...]]:
    return connection.execute(query.encode(), parameters or None).fetchall()


def declare(server: PostgresServer, name: str) -> Wallet:
    """Make what migrations find: database, roles, extensions and schemas."""
    wanted = sql.Identifier
    with server.connect() as connection:
        existing = {role for (role,) in connection.execute("select rolname from pg_roles")}
        for role in DECLARATION["roles"]:
            if role["name"] not in existing:
                connection.execute(sql.SQL("create role {}").format(wanted(role["name"])))
        for role in DECLARATION["roles"]:
            for parent in role.get("memberOf", ()):
                connection.execute(sql.SQL("grant {} to {}").format(wanted(parent["role"]), wanted(role["name"])))
        if "fw_migrator" not in existing:
            connection.execute("create role fw_migrator login password 'migrator'")
            for role in DECLARATION["roles"]:
                connection.execute(sql.SQL("grant {} to fw_migrator").format(wanted(role["name"])))
        owner = wanted(DECLARATION["owner"])
        connection.execute(sql.SQL("create database {} owner {}").format(wanted(name), owner))
    with server.connect(name) as connection:
        for extension in DECLARATION["extensions"]:
            if not extension.get("optional"):
                statement = sql.SQL("create extension {} schema {}")
                connection.execute(statement.format(wanted(extension["name"]), wanted(extension["schema"])))
        for schema in DECLARATION["schemas"]:
            connection.execute(sql.SQL("create schema {} authorization {}").format(wanted(schema["name"]), owner))
    return Wallet(server, name)


def grant(wallet: Wallet) -> None:
    """Run the declared grants, which name what the migrations made."""
    for declared in DECLARATION["grants"]:
        ((kind, names),) = declared["objects"].items()
        if "trail" in str(names):
            continue  # the operator makes that schema; there is none here
        word = {
            "database": f"database {wallet.name}",
            "tablesIn": "all tables in schema ",
            "sequencesIn": "all sequences in schema ",
            "schemas": "schema ",
            "tables": "table ",
            "functions": "function ",
        }[kind]
        what = word + (", ".join(names) if kind != "database" else "")
        verb, to = ("revoke", "from") if declared.get("ensure") == "Absent" else ("grant", "to")
        statement = f"{verb} {', '.join(declared['privileges'])} on {what} {to} {', '.join(declared['to'])}"
        with wallet.server.connect(wallet.name) as connection:
            connection.execute("set role fw_owner" if kind != "schemas" else "select")
            connection.execute(statement.encode())


def seeded(server: PostgresServer) -> Wallet:
    """A database migrated up to the hand-over of the audit to the operator, seeded twice, with the declared grants."""
    made = declare(server, "fashion_wallet")
    for migration in migrations():
        if migration.name < HAND_OVER:
            made.run(migration.up)
    for _ in range(2):
        for seed in sorted((MIGRATIONS / "seeds").glob("*.sql")):
            made.run(seed.read_text(), settings="-c app.environment=test")
    grant(made)
    return made
