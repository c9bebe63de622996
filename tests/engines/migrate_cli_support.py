"""What the tests of ``selvedge migrate`` share: a database, a directory of migrations, and the program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from click.testing import CliRunner, Result
from psycopg import sql

from sandbox import PostgresEndpoint
from selvedge.cli import main

USERS = "20250101000000_users.sql"
ORDERS = "20250102000000_orders.sql"
FILES = {
    USERS: "-- migrate:up\nCREATE TABLE users (id int);\nSELECT 1;\n-- migrate:down\nDROP TABLE users;\n",
    ORDERS: "-- migrate:up\nCREATE TABLE orders (id int);\n-- migrate:down\nDROP TABLE orders;\n",
}


@dataclass
class Shop:
    """A database with an owner, a directory of migrations, and the program to run on both."""

    endpoint: PostgresEndpoint
    name: str
    directory: Path

    @property
    def owner(self) -> str:
        return f"{self.name}_owner"

    def write(self, **files: str) -> None:
        for name, text in files.items():
            (self.directory / name).write_text(text, encoding="utf-8")

    def url(self, user: str = "", database: str = "") -> str:
        endpoint = self.endpoint
        ca = f"&sslrootcert={quote(str(endpoint.ca_path))}" if endpoint.ca_path else ""
        user = user or endpoint.username
        place = f"{endpoint.host}:{endpoint.port}/{database or self.name}"
        return f"postgresql://{user}@{place}?sslmode={endpoint.sslmode}{ca}"

    def environ(self, user: str = "", password: str = "") -> dict[str, str]:
        inherited = {key: value for key, value in os.environ.items() if key in ("PATH", "HOME")}
        return {
            **inherited,
            "SELVEDGE_URL": self.url(user),
            "SELVEDGE_PASSWORD": password or self.endpoint.password,
            "SELVEDGE_MIGRATIONS": str(self.directory),
        }

    def migrate(self, *arguments: str, user: str = "", password: str = "") -> Result:
        """In this process, which spares a start of Python; what depends on a process of its own has one."""
        environ = self.environ(user, password)
        return CliRunner().invoke(main, ["migrate", *arguments], env=environ)

    def process(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "selvedge", "migrate", *arguments],
            env=self.environ(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "selvedge", "migrate", *arguments, "-o", "json"],
            env=self.environ(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def query(self, text: str) -> list[tuple[Any, ...]]:
        with closing(self.endpoint.connect(self.name)) as connection:
            cursor = connection.execute(text.encode())
            return cursor.fetchall() if cursor.description else []

    def tables(self, schema: str) -> list[str]:
        with closing(self.endpoint.connect(self.name)) as connection:
            found = connection.execute(
                "SELECT tablename::text FROM pg_tables WHERE schemaname = %s ORDER BY 1", [schema]
            )
            return [name for (name,) in found]

    def versions(self, state: str = "Applied") -> list[str]:
        return [
            str(version)
            for (version,) in self.query(
                f"SELECT version FROM selvedge.history WHERE state = '{state}' AND scope = '' ORDER BY version"
            )
        ]


@contextmanager
def fresh(endpoint: PostgresEndpoint, directory: Path) -> Iterator[Shop]:
    """A database with an owner and two migrations; both go at the end, with every role that begins like it."""
    shop = Shop(endpoint, f"db_{uuid.uuid4().hex[:12]}", directory)
    directory.mkdir()
    shop.write(**FILES)
    with closing(endpoint.connect()) as connection:
        connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(shop.owner)))
        names = {"name": sql.Identifier(shop.name), "owner": sql.Identifier(shop.owner)}
        connection.execute(sql.SQL("CREATE DATABASE {name} OWNER {owner}").format(**names))
    yield shop
    with closing(endpoint.connect()) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(shop.name)))
        found = connection.execute(
            "SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s) ORDER BY 1 DESC", [shop.name]
        ).fetchall()
        for (role,) in found:
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def lines(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]
