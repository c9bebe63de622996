"""``selvedge export`` of live Postgres databases: the plan of what it writes is empty, and nothing is
dropped in silence."""

from __future__ import annotations

from pathlib import Path

from psycopg import sql

from sandbox import PostgresEndpoint
from tests.engines.export_support import PLAIN_ACCESS, PLAIN_OBJECTS, UGLY, export, plan
from tests.engines.postgres_support import run


def make(postgres: PostgresEndpoint, name: str, *parts: str, p: str = "") -> None:
    with postgres.connect() as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    for part in parts:
        run(postgres, part.replace("{p}", p or name).replace("{d}", name), dbname=name)


def test_the_plan_of_an_exported_database_is_empty(
    postgres: PostgresEndpoint, database_name: str, tmp_path: Path
) -> None:
    make(postgres, database_name, PLAIN_OBJECTS, PLAIN_ACCESS)
    result = export(postgres, database_name)
    path = tmp_path / "exported.yaml"
    path.write_text(result.stdout, encoding="utf-8")
    print(result.stdout, result.stderr)
    planned = plan(postgres, path)
    assert planned.returncode == 0, planned.stdout + planned.stderr


def test_an_ugly_database(postgres: PostgresEndpoint, database_name: str, tmp_path: Path) -> None:
    make(postgres, database_name, UGLY)
    result = export(postgres, database_name)
    path = tmp_path / "exported.yaml"
    path.write_text(result.stdout, encoding="utf-8")
    print(result.stdout, result.stderr)
    assert "hunter2" not in result.stdout + result.stderr
    planned = plan(postgres, path)
    assert planned.returncode == 0, planned.stdout + planned.stderr
