"""Users on a real MongoDB: made, proved, changed by hand and put back, taken over, refused, and removed."""

from __future__ import annotations

import gc
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from sandbox import MongoEndpoint
from selvedge.core.errors import ConflictError, InvalidError, RefusedError, TransientError
from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectRef
from selvedge.core.users import Account, LoginResult, Removal, RoleRef, pair, resource_of
from selvedge.engines.mongodb import MongoEngine
from tests.engines.mongodb_support import CLUSTER, Record, running, target

pytestmark = pytest.mark.engines


def account(database: str, *roles: str, **fields: Any) -> Account:
    base = fields.pop("base", "designs")
    known: dict[str, Any] = {
        "resource": resource_of("shop", base),
        "uid": str(uuid.uuid5(uuid.NAMESPACE_DNS, database)),
        "cluster": CLUSTER,
        "database": database,
        "base": base,
        "current": base,
        "password": "correct-horse-7",
        "roles": tuple(RoleRef(role, database) for role in roles or ("readWrite",)),
    }
    return Account(**{**known, **fields})


async def converge(
    one: MongoEngine, wanted: Account, *, alive: bool = True, told: list[Any] | None = None
) -> LoginResult:
    async def tell(refs: Sequence[ObjectRef]) -> None:
        if told is not None:
            told.extend(refs)

    return await one.logins().converge(wanted, lambda: None, alive=lambda _: alive, on_drift=tell)


def client(mongodb: MongoEndpoint, wanted: Account, **fields: Any) -> MongoClient[dict[str, Any]]:
    found = replace(wanted, **fields)
    return MongoClient(
        mongodb.host,
        mongodb.port,
        username=found.current,
        password=found.password,
        authSource=found.database,
        tls=True,
        tlsCAFile=str(mongodb.ca_path),
        directConnection=True,
    )


def logs_in(mongodb: MongoEndpoint, wanted: Account, **fields: Any) -> bool:
    with client(mongodb, wanted, **fields) as session:
        try:
            session[wanted.database].command("ping")
        except OperationFailure as error:
            if error.code == 18:
                return False
            raise
    return True


def shown(mongodb: MongoEndpoint, database: str, name: str) -> dict[str, Any]:
    with mongodb.client() as admin:
        users = admin[database].command("usersInfo", name)["users"]
    return users[0] if users else {}


async def test_a_user_is_made_and_a_second_pass_writes_nothing(mongodb: MongoEndpoint, mongo_database: str):
    wanted = account(mongo_database)
    record = Record()
    async with running(target(mongodb), record) as one:
        made = await converge(one, wanted)
        assert [str(change.ref) for change in made.applied] == ["login designs"]
        assert made.drift == ()
        record.take()
        assert (await converge(one, wanted)).applied == ()
        assert {operation for operation, _ in record.take()} == {"snapshot"}
    with client(mongodb, wanted) as session:
        session[mongo_database]["designs"].insert_one({"x": 1})
        with pytest.raises(OperationFailure):
            session["other"]["designs"].find_one()
    found = shown(mongodb, mongo_database, "designs")
    assert found["mechanisms"] == ["SCRAM-SHA-256"]
    assert found["customData"]["selvedge"]["resource"] == "shop/designs (DatabaseUser)"


@pytest.mark.parametrize("password", ["pässwörd Ⅸ", "x\u00ad y-1234567890", "%'\"\\$ {}&@/é"])
async def test_what_the_server_keeps_is_compared_with_the_password(
    mongodb: MongoEndpoint, mongo_database: str, password: str
):
    wanted = account(mongo_database, password=password)
    async with running(target(mongodb)) as one:
        await converge(one, wanted)
        assert logs_in(mongodb, wanted)
        assert (await converge(one, wanted)).applied == ()
        await converge(one, replace(wanted, password=password + "x"))
        assert not logs_in(mongodb, wanted)


DRIFT: dict[str, dict[str, Any]] = {
    "password": {"pwd": "somebody-else"},
    "roles": {"roles": ["read"]},
    "more roles": {"roles": ["readWrite", "dbAdmin"]},
    "mechanisms": {"pwd": "correct-horse-7", "mechanisms": ["SCRAM-SHA-1", "SCRAM-SHA-256"]},
}


@pytest.mark.parametrize("what", [*DRIFT, "dropped"])
async def test_what_is_changed_by_hand_is_told_of_and_put_back(mongodb: MongoEndpoint, mongo_database: str, what: str):
    wanted = account(mongo_database)
    async with running(target(mongodb)) as one:
        await converge(one, wanted)
        with mongodb.client() as admin:
            if what == "dropped":
                admin[mongo_database].command("dropUser", "designs")
            else:
                admin[mongo_database].command("updateUser", "designs", **DRIFT[what])
        told: list[Any] = []
        result = await converge(one, replace(wanted, verified=True), told=told)
        assert [str(ref) for ref in result.drift] == ["login designs"]
        assert told == list(result.drift)
        assert (await converge(one, replace(wanted, verified=True))).applied == ()
    assert logs_in(mongodb, wanted)
    assert shown(mongodb, mongo_database, "designs")["roles"] == [{"role": "readWrite", "db": mongo_database}]


async def test_the_order_of_roles_is_no_drift(mongodb: MongoEndpoint, mongo_database: str):
    """T40."""
    wanted = account(mongo_database, "readWrite", "dbAdmin")
    async with running(target(mongodb)) as one:
        await converge(one, wanted)
        assert (await converge(one, replace(wanted, roles=wanted.roles[::-1]))).applied == ()


async def test_without_a_password_of_ours_nobody_touches_it(mongodb: MongoEndpoint, mongo_database: str):
    wanted = account(mongo_database, password="")
    async with running(target(mongodb)) as one:
        await converge(one, wanted)
        with mongodb.client() as admin:
            admin[mongo_database].command("updateUser", "designs", pwd="from-the-vault-1")
        assert (await converge(one, wanted)).applied == ()
        await converge(one, replace(wanted, roles=(RoleRef("read", mongo_database),)))
    assert logs_in(mongodb, wanted, password="from-the-vault-1")


async def test_claims_bind_and_what_was_there_before_is_left_alone(mongodb: MongoEndpoint, mongo_database: str):
    first = account(mongo_database)
    second = replace(first, resource="shop/other (DatabaseUser)", uid="other", password="another-password")
    async with running(target(mongodb)) as one:
        with mongodb.client() as admin:
            admin[mongo_database].command(
                "createUser", "designs", pwd="older", roles=["read"], customData={"by": "dba"}
            )
        with pytest.raises(RefusedError) as refused:
            await converge(one, first)
        assert refused.value.reason is Reason.ADOPTION_REQUIRED
        assert logs_in(mongodb, first, password="older")
        await converge(one, replace(first, adopt=True))
        assert logs_in(mongodb, first)
        with pytest.raises(ConflictError, match="is claimed by DatabaseUser shop/designs"):
            await converge(one, second)
        with pytest.raises(ConflictError, match="of another cluster"):
            await converge(one, replace(second, cluster="elsewhere"), alive=False)
        with pytest.raises(RefusedError):
            await converge(one, second, alive=False)
        assert await one.logins().remove(second, lambda: None) == Removal()
        assert await one.logins().remove(first, lambda: None) == Removal((), ("designs",))
    assert logs_in(mongodb, first)
    assert shown(mongodb, mongo_database, "designs")["customData"] == {"by": "dba"}


@pytest.mark.parametrize("role", ["dbOwner", "userAdmin"])
async def test_a_role_that_gives_rights_away_is_given_to_nobody(mongodb: MongoEndpoint, mongo_database: str, role: str):
    async with running(target(mongodb)) as one:
        with pytest.raises(RefusedError, match=f"role {role}") as refused:
            await converge(one, account(mongo_database, role))
    assert refused.value.reason is Reason.FORBIDDEN_NAME


@pytest.mark.parametrize("role", ["root", "readAnyDatabase", "clusterMonitor"])
async def test_a_role_of_the_server_is_given_to_nobody(mongodb: MongoEndpoint, mongo_database: str, role: str):
    async with running(target(mongodb)) as one:
        with pytest.raises(RefusedError, match="reaches other databases"):
            await converge(one, account(mongo_database, roles=(RoleRef(role, "admin"),)))


async def test_a_role_that_inherits_such_a_right_is_given_to_nobody(mongodb: MongoEndpoint, mongo_database: str):
    with mongodb.client() as admin:
        admin[mongo_database].command("createRole", "harmless", privileges=[], roles=["dbOwner"])
    async with running(target(mongodb)) as one:
        with pytest.raises(RefusedError):
            await converge(one, account(mongo_database, "harmless"))
        with pytest.raises(TransientError) as waiting:
            await converge(one, account(mongo_database, "later"))
        assert waiting.value.reason is Reason.ROLE_NOT_FOUND


async def test_the_operators_own_are_refused(mongodb: MongoEndpoint, mongo_database: str):
    async with running(target(mongodb)) as one:
        with pytest.raises(InvalidError, match="operator's own"):
            await converge(one, account("selvedge"))
        with pytest.raises(RefusedError, match="operator's own"):
            await converge(one, account(mongo_database, base=f"{mongo_database}_migrator", adopt=True))
        with pytest.raises(InvalidError, match="SASLprep"):
            await converge(one, account(mongo_database, password="bell-\u0007-character"))


async def test_two_users_take_turns_and_the_old_one_goes_when_nobody_uses_it(
    mongodb: MongoEndpoint, mongo_database: str
):
    one_name, other_name = pair("designs")
    first = account(mongo_database, current=one_name)
    second = replace(first, current=other_name, password="second-password-2")
    async with running(target(mongodb)) as one:
        await converge(one, first)
        with client(mongodb, first) as session:
            session[mongo_database]["designs"].insert_one({"x": 1})
            result = await converge(one, second)
            assert result.previous == (one_name,)
            assert result.sessions >= 1
            assert logs_in(mongodb, first)
            assert (await converge(one, replace(second, may_retire=True))).previous == (one_name,)
            session[mongo_database]["designs"].insert_one({"x": 2})
        assert (await converge(one, replace(second, may_retire=True))).previous == ()
        assert not logs_in(mongodb, first)
        assert logs_in(mongodb, second)
        assert set((await one.logins().remove(second, lambda: None)).removed) == {other_name}


async def test_removal_ends_what_the_user_could_do(mongodb: MongoEndpoint, mongo_database: str):
    wanted = account(mongo_database)
    async with running(target(mongodb)) as one:
        await converge(one, wanted)
        with client(mongodb, wanted) as session:
            session[mongo_database]["designs"].insert_one({"x": 1})
            assert (await one.logins().remove(wanted, lambda: None)).removed == ("designs",)
            with pytest.raises(OperationFailure):
                session[mongo_database]["designs"].insert_one({"x": 2})
        assert (await one.logins().remove(wanted, lambda: None)).removed == ()


async def test_a_user_administrator_of_one_database_is_enough(mongodb: MongoEndpoint, mongo_database: str):
    wanted = account(mongo_database)
    roles = [
        {"role": "userAdmin", "db": mongo_database},
        {"role": "readWrite", "db": mongo_database},
        {"role": "readWrite", "db": "selvedge"},
    ]
    with mongodb.client() as admin:
        admin["admin"].command("createUser", f"op-{mongo_database}", pwd="operator-password", roles=roles)
    limited = target(mongodb, username=f"op-{mongo_database}", password="operator-password")
    try:
        async with running(limited) as one:
            await converge(one, wanted)
            assert (await converge(one, wanted)).applied == ()
            with mongodb.client() as admin:
                admin[mongo_database].command("updateUser", "designs", pwd="by-hand")
            assert len((await converge(one, wanted)).applied) == 1
            second = replace(wanted, current=pair("designs")[0])
            assert (await converge(one, second)).previous == ("designs",)
    finally:
        with mongodb.client() as admin:
            admin["admin"].command("dropUser", f"op-{mongo_database}")
    assert logs_in(mongodb, wanted)


# The driver leaves a socket behind when it is closed while its monitor connects again after a refused login.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
async def test_where_the_server_shows_no_credentials_the_password_is_tried(mongodb: MongoEndpoint, mongo_database: str):
    wanted = account(mongo_database)
    async with running(target(mongodb)) as one:
        await converge(one, wanted)
        logins = one.logins()
        assert await logins._logs_in(wanted)
        assert not await logins._logs_in(replace(wanted, password="wrong"))
    async with running(target(mongodb, hosts=(("localhost", 1),))) as away:
        assert await away.logins()._logs_in(wanted), "a server that is away says nothing about the password"
    gc.collect()
