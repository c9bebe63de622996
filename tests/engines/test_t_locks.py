"""T11: one lock for a database and one for what belongs to the whole server, whoever comes by whichever way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from psycopg import sql

from selvedge.core.errors import TransientError
from selvedge.core.reasons import Reason
from selvedge.engines.postgres.locks import LOCK_KEY
from tests.engines.postgres_support import engine, limits, member, only, ready, rows, run

if TYPE_CHECKING:
    from sandbox import PostgresEndpoint

#: A pass of any other test over the server would be the next to look, or hold the lock.
pytestmark = pytest.mark.own_postgres

_LOCK = sql.SQL("SELECT pg_advisory_xact_lock({})").format(sql.Literal(LOCK_KEY))


def spec(name: str, *schemas: str, roles: int = 1) -> dict[str, Any]:
    return {
        "schemas": [{"name": schema} for schema in ("one", *schemas)],
        "roles": [{"name": f"{name}_{number}"} for number in range(roles)],
    }


async def test_t11_two_credentials_of_one_server_meet_at_the_same_lock(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    """Two DatabaseServers, each with a Secret of its own, and a third that reaches the server by another address."""
    name, other = database_name, f"{database_name}_two"
    run(postgres, f"CREATE ROLE {name}_admin LOGIN SUPERUSER PASSWORD 'x'")
    short = limits(lock_timeout=0.2)
    try:
        async with (
            engine(postgres, limits=short) as first,
            engine(postgres, limits=short, username=f"{name}_admin", password="x") as second,
        ):
            await ready(first, member(name, spec(name)))
            await ready(second, member(other, spec(other), name="two"))
            with postgres.connect(name) as holder, holder.transaction():
                holder.execute(_LOCK)
                for server in (first, second):
                    with pytest.raises(TransientError) as raised:
                        await only(server, member(name, spec(name, "more")))
                    assert raised.value.reason is Reason.WAITING_FOR_LOCK
                await ready(second, member(other, spec(other, "more"), name="two"))
            # What belongs to the whole server is done in one place, from whichever database it is wanted.
            with postgres.connect() as holder, holder.transaction():
                holder.execute(_LOCK)
                for server, one in (
                    (first, member(name, spec(name, "more", roles=2))),
                    (second, member(other, spec(other, "more", roles=2), name="two")),
                ):
                    with pytest.raises(TransientError) as raised:
                        await only(server, one)
                    assert raised.value.reason is Reason.WAITING_FOR_LOCK
            await ready(second, member(name, spec(name, "more", roles=2)))
            await first.probe()  # as the operator does every few seconds: it finds that somebody else wrote claims
            assert (await ready(first, member(name, spec(name, "more", roles=2)))).applied == ()
            made = rows(postgres, "SELECT count(*) FROM pg_roles WHERE rolname = %s", f"{name}_1")
            assert made == [(1,)]
    finally:
        run(postgres, f"DROP DATABASE IF EXISTS {other} WITH (FORCE)")
