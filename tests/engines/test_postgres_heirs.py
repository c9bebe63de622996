"""A database that several DatabaseSchemas share goes on when the one that claimed it is deleted with Retain."""

from __future__ import annotations

from sandbox import PostgresEndpoint
from tests.engines.postgres_support import converge, engine, member, only, reasons


async def test_a_member_goes_on_when_the_one_that_claimed_the_database_is_gone(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    elder = member(database_name, {"schemas": [{"name": "one"}]}, name="elder", created="2026-01-01T00:00:00Z")
    younger = member(database_name, {"schemas": [{"name": "two"}]}, name="younger", created="2026-02-01T00:00:00Z")
    stranger = member(database_name, {"schemas": [{"name": "three"}]}, name="stranger")
    async with engine(postgres) as server:
        result = await converge(server, elder, younger)
        assert all(found.verified for found in result.members.values())
    async with engine(postgres) as server:
        refused = await only(server, stranger, alive=lambda _: False)
        assert "AdoptionRequired" in reasons(refused).values()
        left = await only(server, younger, alive=lambda resource: not resource.endswith("/elder"))
        assert left.verified
