"""Whole directories of migrations: up, all the way down, and up again is the same schema.

Generated ones, from a seed that is printed (``SELVEDGE_MIGRATIONS_SEED`` sets it), and any directory that
``SELVEDGE_MIGRATIONS_CORPUS`` names: it, or each directory below it that holds migrations.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql

from sandbox import tools
from selvedge.core.errors import InvalidError
from selvedge.migrate import Migration, RunResult, load
from selvedge.migrate.files import load_directory, read_directory
from tests.engines.migrations_support import Shop
from tests.migrations_generator import generate, write

SEED = int(os.environ.get("SELVEDGE_MIGRATIONS_SEED") or random.SystemRandom().randrange(10**6))
CORPUS = os.environ.get("SELVEDGE_MIGRATIONS_CORPUS", "")
NO_OWNERS = ("--no-owner", "--no-privileges")
# pg_dump writes another random word at each run
_RANDOM = re.compile(r"^\\(?:un)?restrict .*$", re.MULTILINE)


@pytest.fixture
def shop(postgres: Any) -> Iterator[Shop]:
    name = f"generated_{os.urandom(5).hex()}"
    with postgres.connect() as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    found = Shop(postgres, name)
    found.create()
    with postgres.connect(name) as connection:
        names = {"database": sql.Identifier(name), "owner": sql.Identifier(found.owner)}
        connection.execute(sql.SQL("GRANT CREATE ON DATABASE {database} TO {owner}").format(**names))
        connection.execute(sql.SQL("GRANT CREATE ON SCHEMA public TO {owner}").format(**names))
    yield found
    with postgres.connect() as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
        for role in (found.login, found.run_as, found.owner):
            connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))


async def test_forty_up_down_up(shop: Shop, tmp_path: Path) -> None:
    await up_down_up(shop, 40, SEED, tmp_path)


@pytest.mark.long
async def test_two_hundred_and_fifty_up_down_up(shop: Shop, tmp_path: Path) -> None:
    await up_down_up(shop, 250, SEED + int(shop.endpoint.version.partition(".")[0]), tmp_path)


async def up_down_up(shop: Shop, count: int, seed: int, directory: Path) -> None:
    print(f"SELVEDGE_MIGRATIONS_SEED={seed}")
    write(generate(count, seed), directory)
    files = read_directory(directory).files
    empty = dump(shop)
    done(await shop.up(files), count)
    first = dump(shop)
    assert len(first) > 50 * count
    assert dump(shop, *NO_OWNERS) == dump_by_psql(shop, files)
    done(await shop.do(files, "Down", target="0"), count)
    assert dump(shop) == empty
    done(await shop.up(files), count)
    assert dump(shop) == first


def directories() -> list[Path]:
    """The corpus: one directory of migrations, or all that lie below it."""
    if not CORPUS:
        return []
    root = Path(CORPUS)
    below = [path for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    return [root] if _holds_migrations(root) else [path for path in below if _holds_migrations(path)]


def _holds_migrations(path: Path) -> bool:
    try:
        return bool(load_directory(path))
    except InvalidError:
        # what is wrong with it is the test's to say
        return any(path.glob("*.sql"))


async def corpus_up_down_up(shop: Shop, directory: Path) -> None:
    """As far down as the files lead: one without a way down, or whose way down the server refuses, is where it ends."""
    files = read_directory(directory).files
    migrations = [one for one in load(files) if one.kind == "Versioned"]
    done(await shop.up(files), len(migrations))
    first = dump(shop)
    bottom = lowest(migrations)
    if bottom is not None:
        result = await shop.do(files, "Down", target=str(bottom))
        if result.error is not None:
            print(f"down ends: {result.error}")
        done(await shop.up(files))
        assert dump(shop) == first


if CORPUS:  # without one there is nothing to skip

    @pytest.mark.parametrize("directory", directories(), ids=lambda path: path.name)
    async def test_a_corpus_up_down_up(shop: Shop, directory: Path) -> None:
        await corpus_up_down_up(shop, directory)


def lowest(migrations: list[Migration]) -> int | None:
    """The version that everything above can be undone to; None where the newest has no way down."""
    above = list(migrations)
    while above and above[-1].reversible:
        above.pop()
    if len(above) == len(migrations):
        return None
    return above[-1].version if above else 0


def done(result: RunResult, count: int | None = None) -> None:
    assert result.error is None, str(result.error)
    assert count is None or result.applied == count


def dump_by_psql(shop: Shop, files: dict[str, str]) -> str:
    """The schema that psql makes of the same texts, in a database of its own."""
    other = Shop(shop.endpoint, f"{shop.database}_psql")
    with shop.endpoint.connect() as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(other.database)))
    try:
        other.endpoint.psql("CREATE SCHEMA shop;\n", other.database)
        other.endpoint.psql("\n".join(f"{one.up}\n;" for one in load(files)), other.database, timeout=200)
        return dump(other, *NO_OWNERS)
    finally:
        with shop.endpoint.connect() as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(other.database)))


def dump(shop: Shop, *options: str) -> str:
    """The schema as pg_dump writes it, without our own history."""
    endpoint = shop.endpoint
    command = [tools.postgres_client() / "pg_dump", "--schema-only", "--exclude-schema=selvedge", *options]
    command += ["--dbname", endpoint.conninfo(shop.database, password=None)]
    environment = {**os.environ, "PGPASSWORD": endpoint.password}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    return _RANDOM.sub("", found.stdout)
