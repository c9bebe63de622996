"""Who may write to a MongoDB server: a namespace, a leader, the holder of the lock, a user with the roles for it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from selvedge.core.errors import NotPermittedError, TransientError
from selvedge.core.reasons import Reason
from selvedge.engines.base import AccessRule, Unit
from selvedge.engines.mongodb.lock import locked
from tests.engines.mongodb_support import DESIGNS, LEAVES_SOCKETS, converge, member, running, target, yes

if TYPE_CHECKING:
    from pymongo.database import Database

    from sandbox import MongoEndpoint
    from selvedge.engines.mongodb import MongoEngine

pytestmark = LEAVES_SOCKETS


async def test_namespace_outside_access_is_refused(engine: MongoEngine, live: Database[dict[str, Any]]) -> None:
    one = member("designs", live.name, DESIGNS)
    unit = Unit(live.name, (one,), "cluster", lambda _member: AccessRule(databases=("billing_*",)))
    result = (await engine.converge(unit, yes)).members[one.uid]
    assert [status.reason for status in result.problems] == [Reason.ACCESS_DENIED]
    assert not result.provisioned
    assert live.list_collection_names() == []


async def test_no_write_without_leading(engine: MongoEngine, live: Database[dict[str, Any]]) -> None:
    def no() -> None:
        raise TransientError(Reason.NOT_LEADING, "this process does not lead")

    with pytest.raises(TransientError) as caught:
        await engine.converge(Unit(live.name, (member("designs", live.name, DESIGNS),), "cluster"), no)
    assert caught.value.reason is Reason.NOT_LEADING
    assert live.list_collection_names() == []


async def test_no_write_without_the_lock(mongodb: MongoEndpoint, engine: MongoEngine, live: Database[Any]) -> None:
    limits = replace(target(mongodb).limits, lock_timeout=0.3)
    async with running(target(mongodb, limits=limits)) as impatient:
        async with locked(engine._server, "selvedge", live.name, 1.0):
            with pytest.raises(TransientError) as caught:
                await converge(impatient, live.name, member("designs", live.name, DESIGNS))
            assert caught.value.reason is Reason.WAITING_FOR_LOCK
            assert live.list_collection_names() == []
        (result,) = await converge(impatient, live.name, member("designs", live.name, DESIGNS))
        assert result.verified
    assert live.client["selvedge"]["lock"].find_one({"_id": live.name})["fence"] == 2


async def test_a_user_without_rights_is_told_what_to_grant(mongodb: MongoEndpoint, live: Database[Any]) -> None:
    live.command("createUser", "reader", pwd="marked-password", roles=["read"])
    where = target(mongodb, username="reader", password="marked-password", auth_source=live.name)
    async with running(where) as engine:
        facts = await engine.probe()
        (statement,) = facts.missing_privileges
        assert statement.startswith(f'db.getSiblingDB("{live.name}").grantRolesToUser("reader", [')
        with pytest.raises(NotPermittedError, match="grant it readWrite on database selvedge") as caught:
            await converge(engine, live.name, member("designs", live.name, DESIGNS))
        assert caught.value.reason is Reason.INSUFFICIENT_PRIVILEGES
        assert "marked-password" not in str(caught.value)
        # with the claims in reach, what is refused is an object of the database
        live.command("grantRolesToUser", "reader", roles=[{"role": "readWrite", "db": "selvedge"}])
        (result,) = await converge(engine, live.name, member("designs", live.name, DESIGNS))
        found = {str(status.ref): (status.reason, status.message) for status in result.problems}
        assert found["collection designs"] == (
            Reason.INSUFFICIENT_PRIVILEGES,
            "the operator's user may not change collection designs: grant it dbAdmin and readWrite on the database",
        )
        assert live.list_collection_names() == []
    claims = live.client["selvedge"]["claims"].find({"_id.database": live.name})
    assert [claim["_id"]["object"] for claim in claims] == ["database:"]


async def test_a_lock_that_may_not_be_written_is_named(mongodb: MongoEndpoint, live: Database[Any]) -> None:
    roles: list[Any] = ["readWrite", "dbAdmin", {"role": "read", "db": "selvedge"}]
    live.command("createUser", "worker", pwd="marked-password", roles=roles)
    where = target(mongodb, username="worker", password="marked-password", auth_source=live.name)
    async with running(where) as engine:
        with pytest.raises(NotPermittedError) as caught:
            await converge(engine, live.name, member("designs", live.name, DESIGNS))
    assert caught.value.message.endswith(
        f"may not do this (lock {live.name}): grant it readWrite on database selvedge, where claims and locks are kept"
    )
    assert live.list_collection_names() == []
