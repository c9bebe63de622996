"""A session keeps a role that its login lost: it is ended, also where the operator stopped right before that."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg
import pytest
from psycopg import sql

from sandbox import PostgresEndpoint
from selvedge.core.errors import NotPermittedError
from selvedge.engines.postgres.engine import PostgresEngine
from tests.engines.login_support import account, converge, login
from tests.engines.postgres_support import (
    Count,
    afresh,
    count,
    ended,
    engine,
    lead,
    member,
    ready,
    rows,
    run,
    target,
    unit,
)

#: A pass of any other test over the server would be the next to look, or hold the lock.
pytestmark = pytest.mark.own_postgres

PENDING = "SELECT detail FROM selvedge.claims WHERE object = 'sessions'"


class StoppedError(Exception):
    pass


def person(postgres: PostgresEndpoint, name: str, role: str) -> psycopg.Connection[Any]:
    """A session that acts as a role that it was given by hand."""
    run(postgres, f"CREATE ROLE {name} LOGIN PASSWORD 'x'; GRANT {role} TO {name}")
    return psycopg.connect(postgres.conninfo("postgres", user=name, password="x"), autocommit=True)


def become(connection: psycopg.Connection[Any], role: str) -> psycopg.Connection[Any]:
    connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
    return connection


def lives(connection: psycopg.Connection[Any], role: str) -> None:
    assert connection.execute("SELECT current_user::text").fetchone() == (role,)


def stops_once_lost(postgres: PostgresEndpoint, query: str) -> Callable[[], None]:
    """``may_write`` of a process that is gone as soon as the change is committed."""

    def may_write() -> None:
        if not rows(postgres, query):
            raise StoppedError

    return may_write


async def test_whoever_comes_next_ends_what_was_written_down(
    postgres: PostgresEndpoint, database: str, database_name: str
) -> None:
    """A crash between COMMIT and the end of the sessions; the next to look has another database and another memory."""
    a, b = f"{database_name}_a", f"{database_name}_b"
    both = {"roles": [{"name": a}, {"name": b, "memberOf": [{"role": a}]}]}
    revoked = member(database_name, {"roles": [{"name": a}, {"name": b}]})
    held = f"SELECT FROM pg_auth_members WHERE roleid = '{a}'::regrole AND member = '{b}'::regrole"
    async with engine(postgres) as server:
        await ready(server, member(database_name, both))
        with (
            closing(become(person(postgres, f"{database_name}_one", b), a)) as loses,
            closing(become(person(postgres, f"{database_name}_two", b), a)) as regains,
            closing(become(person(postgres, f"{database_name}_three", a), a)) as bystander,
        ):
            with pytest.raises(StoppedError):
                await server.converge(unit(revoked), stops_once_lost(postgres, held))
            # whether its session still lives nobody can say: any pass over this server, another test's too, is the next
            assert rows(postgres, held) == [], "it was committed"
            run(postgres, f"GRANT {a} TO {database_name}_two")
            async with engine(postgres) as another:
                await ready(another, member(database, adoption="Allow", name="other"))
                await ready(another, member(database, adoption="Allow", name="other"))
                assert ended(loses)
                lives(regains, a)
                lives(bystander, a)
                assert rows(postgres, PENDING) == []
                await afresh(another)
                await ready(another, member(database, adoption="Allow", name="other"))
                assert count(another).taken() == ["snapshot"], "nothing is left to look after"


async def test_a_revoked_membership_of_a_login_ends_its_sessions(
    postgres: PostgresEndpoint, database: str, database_name: str
) -> None:
    """A DatabaseUser that loses a role: at once, and after a crash at its next pass."""
    kept, lost = f"{database_name}_kept", f"{database_name}_lost"
    run(postgres, f"CREATE ROLE {kept}; CREATE ROLE {lost}")
    for crash in (False, True):
        name = f"app{int(crash)}"
        wanted = account(database, name=name, roles=[kept, lost])
        less = account(database, name=name, roles=[kept])
        held = f"SELECT FROM pg_auth_members WHERE roleid = '{lost}'::regrole AND member = '{wanted.base}'::regrole"
        async with engine(postgres) as one:
            await converge(one, wanted)
            with closing(login(postgres, wanted.base, wanted.password, database)) as session:
                become(session, lost)
                assert (await converge(one, wanted)).applied == ()
                lives(session, lost)
                if crash:
                    stopping = stops_once_lost(postgres, held)
                    with pytest.raises(StoppedError):
                        await one.logins().converge(less, stopping, alive=lambda _: True)
                    lives(session, lost)
                await converge(one, less)
                assert ended(session)
            assert rows(postgres, PENDING) == []
            await afresh(one)
            assert (await converge(one, less)).applied == ()
            assert count(one).taken() == ["snapshot"]
        with closing(login(postgres, wanted.base, wanted.password, database)) as session:
            become(session, kept)


async def test_what_may_not_be_ended_is_said_until_it_is_gone(
    postgres: PostgresEndpoint, database: str, database_name: str
) -> None:
    """By the unit whose role it is; nobody else is held up by it."""
    operator, a, b = (f"{database_name}_{name}" for name in ("operator", "a", "b"))
    run(postgres, f"CREATE ROLE {operator} LOGIN CREATEROLE CREATEDB PASSWORD 'x'")
    run(postgres, f"GRANT CREATE ON DATABASE postgres TO {operator}; ALTER DATABASE {database} OWNER TO {operator}")
    server = PostgresEngine(target(postgres, username=operator, password="x"), Count(), metadata_schema=operator)
    both = {"roles": [{"name": a}, {"name": b, "memberOf": [{"role": a}]}]}
    revoked = member(database_name, {"roles": [{"name": a}, {"name": b}]})
    grant = "GRANT pg_signal_backend TO"
    try:
        await ready(server, member(database_name, both))
        with closing(become(person(postgres, f"{database_name}_one", b), a)) as loses:
            for _ in range(2):
                with pytest.raises(NotPermittedError, match=grant):
                    await server.converge(unit(revoked), lead)
            await ready(server, member(database, adoption="Allow", name="other"))
            lives(loses, a)
            run(postgres, f"GRANT pg_signal_backend TO {operator}")
            await ready(server, revoked)
            assert ended(loses)
    finally:
        await server.close()
        run(postgres, f"ALTER DATABASE {database} OWNER TO CURRENT_USER")
        run(postgres, f"DROP SCHEMA IF EXISTS {operator} CASCADE; REVOKE ALL ON DATABASE postgres FROM {operator}")
        run(postgres, f"DROP OWNED BY {operator}", database)
