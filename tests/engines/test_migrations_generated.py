"""Whole directories of migrations: up, all the way down, and up again is the same schema.

Generated ones, from a seed that is printed (``SELVEDGE_MIGRATIONS_SEED`` sets it), and any directory that
``SELVEDGE_MIGRATIONS_CORPUS`` names: it, or the topmost directories below it that hold migrations.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Awaitable, Callable, Iterator
from itertools import groupby
from pathlib import Path

import pytest
from psycopg import sql

from sandbox.errors import SandboxError
from selvedge.migrate import Migration, RunResult, load
from selvedge.migrate.files import read_directory
from selvedge.migrate.names import is_migration_directory
from tests.engines.migrations_dump import dump
from tests.engines.migrations_support import SERVERS, Shop, server
from tests.migrations_generator import generate, write

SEED = int(os.environ.get("SELVEDGE_MIGRATIONS_SEED") or random.SystemRandom().randrange(10**6))
CORPUS = os.environ.get("SELVEDGE_MIGRATIONS_CORPUS", "")
NO_OWNERS = ("--no-owner", "--no-privileges")
NO_HISTORY = "--exclude-schema=selvedge"
# names that a person takes for a migration's, whether we can read them or not
_LIKE_A_FILE = re.compile(r"(?:[0-9]|R__|[VU][0-9]).*\.sql$", re.IGNORECASE)


@pytest.fixture(params=SERVERS)
def shop(request: pytest.FixtureRequest) -> Iterator[Shop]:
    postgres = server(request)
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


async def test_two_hundred_and_fifty_up_down_up(shop: Shop, tmp_path: Path) -> None:
    await up_down_up(shop, 250, SEED + int(shop.endpoint.version.partition(".")[0]), tmp_path)


async def up_down_up(shop: Shop, count: int, seed: int, directory: Path) -> None:
    print(f"SELVEDGE_MIGRATIONS_SEED={seed}")
    write(generate(count, seed), directory)
    files = read_directory(directory).files
    empty = dump(shop, NO_HISTORY)
    done(await shop.up(files), count)
    first = dump(shop, NO_HISTORY)
    assert len(first) > 50 * count
    assert dump(shop, NO_HISTORY, *NO_OWNERS) == dump_by_psql(shop, [one.up for one in load(files)])
    done(await shop.do(files, "Down", target="0"), count)
    assert dump(shop, NO_HISTORY) == empty
    done(await shop.up(files), count)
    assert dump(shop, NO_HISTORY) == first


def directories() -> list[Path]:
    """The corpus: the topmost directories that look like migrations; what lies below one is its own affair."""
    found = []
    for name, below, files in os.walk(CORPUS):
        below[:] = sorted(one for one in below if not one.startswith("."))
        if any(_LIKE_A_FILE.match(file) for file in files) or any(_is_one_migration(Path(name, one)) for one in below):
            found.append(Path(name))
            below.clear()
    return found


def _is_one_migration(path: Path) -> bool:
    return is_migration_directory(path.name) and any(path.glob("*.sql"))


async def corpus_up(shop: Shop, directory: Path) -> None:
    """The schema is what psql makes of the same files."""
    files = read_directory(directory).files
    migrations = load(files)
    done(await shop.up(files), len(migrations))
    assert dump(shop, NO_HISTORY, *NO_OWNERS) == dump_by_psql(shop, [one.up for one in migrations])


async def corpus_up_down_up(shop: Shop, directory: Path) -> None:
    """Each stretch that has ways down goes up, down and up, with the schema that psql makes of the same texts.

    What psql cannot run either is the files' own affair: it is printed, and nothing behind it is tried.
    """
    files = read_directory(directory).files
    migrations = [one for one in load(files) if one.kind == "Versioned"]
    for bottom, top in stretches(migrations):
        below = str(migrations[bottom - 1].version if bottom else 0)
        above = str(migrations[top].version)
        stretch = migrations[bottom : top + 1]
        done(await shop.do(files, "To", above))
        result = await shop.do(files, "Down", below)
        if result.error is None:
            result = await shop.do(files, "To", above)
        texts = [one.up for one in migrations[: top + 1]]
        texts += [one.down or "" for one in reversed(stretch)] + [one.up for one in stretch]
        try:
            expected = dump_by_psql(shop, texts)
        except SandboxError as error:
            print(f"{above} to {below} and back: psql: {error}; here: {result.error}")
            return
        done(result)
        assert dump(shop, NO_HISTORY, *NO_OWNERS) == expected, (below, above)
        print(f"{len(stretch)} up, down and up: {below} to {above}")


def stretches(migrations: list[Migration]) -> list[tuple[int, int]]:
    """The first and the last place of each row of migrations that all have a way down."""
    found = []
    for reversible, members in groupby(enumerate(migrations), key=lambda one: one[1].reversible):
        places = [place for place, _ in members]
        if reversible:
            found.append((places[0], places[-1]))
    return found


if CORPUS:  # without one there is nothing to skip
    FOUND = directories()
    assert FOUND, f"SELVEDGE_MIGRATIONS_CORPUS={CORPUS} holds no migrations"

    @pytest.mark.timeout(3600)
    @pytest.mark.parametrize("directory", FOUND, ids=[str(path.relative_to(CORPUS)) for path in FOUND])
    @pytest.mark.parametrize("check", [corpus_up, corpus_up_down_up], ids=["up", "up, down and up"])
    async def test_a_corpus(shop: Shop, directory: Path, check: Callable[[Shop, Path], Awaitable[None]]) -> None:
        await check(shop, directory)


def done(result: RunResult, count: int | None = None) -> None:
    assert result.error is None, str(result.error)
    assert count is None or result.applied == count


def dump_by_psql(shop: Shop, texts: list[str]) -> str:
    """The schema that psql makes of the same texts, in a database of its own."""
    other = Shop(shop.endpoint, f"{shop.database}_psql")
    with shop.endpoint.connect() as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(other.database)))
    try:
        other.endpoint.psql("CREATE SCHEMA shop;\n", other.database)
        other.endpoint.psql("\n".join(f"{text}\n;" for text in texts), other.database, timeout=200)
        return dump(other, *NO_OWNERS)
    finally:
        with shop.endpoint.connect() as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(other.database)))
