"""DatabaseUser from ``kubectl apply`` to a login that works, and to its end."""

from __future__ import annotations

import base64
import json
import time
import uuid
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from sandbox import MongoEndpoint
from tests.cluster.kube_api import ApiError
from tests.cluster.user_support import binding, bound, changed, connect, logs_in, shop, user, user_document
from tests.cluster.world import World, condition, secret, wait_for

pytestmark = pytest.mark.cluster


def test_an_application_logs_in_by_the_secret_that_the_declaration_names(world: World):
    shop(world, "app_readwrite", schemas=[{"name": "avatar"}])
    user(
        world,
        "avatar-service",
        roles=[{"role": world.role("app_readwrite")}],
        connectionLimit=50,
        settings={"search_path": ["avatar", "shared"]},
        secret={
            "name": "avatar-service-db",
            "labels": {"team": "avatar"},
            "annotations": {"note": "read me"},
            "template": {"DATABASE_URL": "$(uri)&application_name=avatar", "plain": "$$(uri) $(database)"},
            "envKeys": True,
        },
    )
    data = bound(world, "avatar-service")
    host, port = world.endpoint.host, str(world.endpoint.port)
    login, password = world.role("avatar_service"), data["password"]
    uri = f"postgresql://{login}:{password}@{host}:{port}/{world.name}?sslmode=verify-full"
    assert data == {
        "type": "postgresql",
        "provider": "selvedge",
        "host": host,
        "port": port,
        "database": world.name,
        "username": login,
        "password": password,
        "uri": uri,
        "readonly-uri": uri,
        "pooler-uri": uri,
        "jdbc-uri": f"jdbc:postgresql://{host}:{port}/{world.name}?user={login}&password={password}&sslmode=verify-full",
        "ca.crt": world.endpoint.ca,
        "DATABASE_URL": f"{uri}&application_name=avatar",
        "plain": f"$(uri) {world.name}",
        "PGHOST": host,
        "PGPORT": port,
        "PGDATABASE": world.name,
        "PGUSER": login,
        "PGPASSWORD": password,
        "PGSSLMODE": "verify-full",
    }
    assert len(password) == 32
    found = world.api.get("Secret", "avatar-service-db")
    declared = world.api.get("DatabaseUser", "avatar-service")
    assert found is not None
    assert declared is not None
    assert found["type"] == "servicebinding.io/postgresql"
    assert found["metadata"]["labels"]["team"] == "avatar"
    assert found["metadata"]["annotations"]["note"] == "read me"
    assert [owner["uid"] for owner in found["metadata"]["ownerReferences"]] == [declared["metadata"]["uid"]]
    status = declared["status"]
    assert status["binding"] == {"name": "avatar-service-db"}
    assert status["currentUsername"] == login
    assert "nextRotationTime" not in status
    with connect(world, data, uri="DATABASE_URL") as session:
        row = session.execute("SELECT current_user::text, current_setting('search_path')").fetchone()
        assert row == (login, "avatar, shared")
        assert session.execute("SELECT current_setting('application_name')").fetchone() == ("avatar",)


def test_what_matches_is_looked_at_and_nothing_is_written(world: World):
    shop(world)
    user(world, "app", interval="10s")
    bound(world, "app")
    world.ready("DatabaseSchema", "shop")
    passes = world.operator.value("selvedge_reconcile_total", kind="DatabaseUser")
    world.now("DatabaseUser", "app")
    wait_for(lambda: world.operator.value("selvedge_reconcile_total", kind="DatabaseUser") > passes)
    before = world.operator.writes()
    document, held = world.api.get("DatabaseUser", "app"), world.api.get("Secret", "app-db")
    passes = world.operator.value("selvedge_reconcile_total", kind="DatabaseUser")
    # by itself, when the interval has passed
    wait_for(lambda: world.operator.value("selvedge_reconcile_total", kind="DatabaseUser") > passes, 15)
    assert world.operator.writes() == before
    assert world.api.get("DatabaseUser", "app") == document
    assert world.api.get("Secret", "app-db") == held


def test_everything_may_be_applied_at_once_and_the_login_waits_for_its_role(bare: World):
    user(bare, "app", roles=[{"role": bare.role("rw")}])
    bare.until("DatabaseUser", "app", "False", "WaitingForSchema")
    shop(bare)
    bare.server()
    bare.until("DatabaseUser", "app", "False", "RoleNotFound")
    shop(bare, "rw")
    assert logs_in(bare, bound(bare, "app"))


def test_a_password_of_ones_own_is_set_and_followed_and_a_missing_one_changes_nothing(world: World):
    shop(world)
    given = {"metadata": {"labels": {"selvedge.dev/watch": "true"}, "name": "given"}}
    first = {**secret("given", password="first pässword %'\"&@/ 1\n"), **given}
    world.api.apply(first)
    user(world, "app", password={"secretRef": {"name": "given"}})
    data = bound(world, "app")
    assert data["password"] == "first pässword %'\"&@/ 1"
    assert logs_in(world, data)
    world.api.delete("Secret", "given")
    found = world.until("DatabaseUser", "app", "False", "SecretNotFound")
    assert "stays as it is" in condition(found)["message"]
    assert logs_in(world, data)
    world.api.apply({**secret("given", other="x"), **given})
    world.until("DatabaseUser", "app", "False", "SecretKeyMissing")
    assert logs_in(world, data)
    world.api.apply({**secret("given", password="second-password"), **given})
    after = changed(world, "app-db", data)
    assert after["password"] == "second-password"
    world.ready("DatabaseUser", "app")
    assert logs_in(world, after)
    assert not logs_in(world, data)


def test_a_login_that_is_taken_over_gets_a_secret_that_lets_in(world: World):
    """Crossplane's provider-sql#77: the Secret of a role that existed stayed empty."""
    shop(world)
    world.ready("DatabaseSchema", "shop")
    world.sql(f"CREATE ROLE {world.role('app')} LOGIN PASSWORD 'older-than-us'")
    user(world, "app")
    world.until("DatabaseUser", "app", "False", "AdoptionRequired")
    assert binding(world, "app-db") == {}
    user(world, "app", adoption="Allow")
    data = bound(world, "app")
    assert data["password"] not in ("", "older-than-us")
    assert logs_in(world, data)


def test_a_secret_that_was_deleted_or_edited_is_made_whole_again(world: World):
    shop(world)
    user(world, "app")
    first = bound(world, "app")
    world.api.delete("Secret", "app-db")
    wait_for(lambda: binding(world, "app-db"))
    second = bound(world, "app")
    assert logs_in(world, second), "a new password: nobody knows the old one any more"
    world.api.patch("Secret", "app-db", {"data": {"password": None, "uri": "", "mine": "eA=="}})
    wait_for(lambda: binding(world, "app-db").get("uri"))
    wait_for(lambda: logs_in(world, binding(world, "app-db")))
    third = bound(world, "app")
    assert third.keys() == first.keys()
    assert third["password"] != ""


def test_a_secret_of_somebody_else_is_never_overwritten(world: World):
    shop(world)
    world.ready("DatabaseSchema", "shop")
    world.api.apply(secret("app-db", precious="yes"))
    before = world.api.get("Secret", "app-db")
    user(world, "app")
    found = world.until("DatabaseUser", "app", "False", "Conflict")
    assert "secret app-db exists and is not of this DatabaseUser" in condition(found)["message"]
    assert world.api.get("Secret", "app-db") == before
    assert world.sql(f"SELECT 1 FROM pg_roles WHERE rolname = '{world.role('app')}'") == [], "no login is made either"


def test_with_external_management_nobody_touches_the_password(world: World):
    shop(world)
    user(world, "app", password={"management": "External"}, interval="10s")
    data = bound(world, "app")
    assert "password" not in data
    assert data["uri"].startswith(f"postgresql://{world.role('app')}@")
    world.sql(f"ALTER ROLE {world.role('app')} PASSWORD 'from-the-vault-1' CONNECTION LIMIT 3")
    world.now("DatabaseUser", "app")
    limit = f"SELECT rolconnlimit FROM pg_roles WHERE rolname = '{world.role('app')}'"
    wait_for(lambda: world.ask(limit) == -1)
    assert logs_in(world, {"uri": data["uri"].replace("@", ":from-the-vault-1@", 1)})


def test_the_password_changed_by_hand_is_put_back_with_one_event(world: World):
    shop(world)
    user(world, "app", interval="10s")
    data = bound(world, "app")
    world.sql(f"ALTER ROLE {world.role('app')} PASSWORD 'somebody-else'")
    assert not logs_in(world, data)
    world.now("DatabaseUser", "app")
    wait_for(lambda: logs_in(world, data))
    wait_for(lambda: world.api.events("app", "DriftCorrected"))  # it is told after it is repaired
    world.ready("DatabaseUser", "app")
    assert len(world.api.events("app", "DriftCorrected")) == 1
    assert world.operator.value("selvedge_drift_repaired_total", kind="login") == 1


def test_the_secret_follows_the_server(world: World):
    shop(world)
    user(world, "app")
    data = bound(world, "app")
    port = world.endpoint.port
    assert data["host"] == "localhost"
    spec: dict[str, Any] = {
        "hosts": [{"host": "127.0.0.1", "port": port}],
        "readReplicas": [{"host": "localhost", "port": port}],
    }
    world.server(**spec)
    wait_for(lambda: binding(world, "app-db")["host"] == "127.0.0.1")
    after = bound(world, "app")
    assert after["password"] == data["password"]
    assert f"@127.0.0.1:{port}/" in after["uri"]
    assert f"@localhost:{port}/" in after["readonly-uri"]
    more = world.endpoint.ca + world.endpoint.ca
    world.server(ca=more, **spec, monitoring={"interval": "1s"})
    wait_for(lambda: binding(world, "app-db")["ca.crt"] == more)


def test_a_secret_under_another_name_holds_the_same_password_and_the_old_one_goes(world: World):
    """One that stays is a leak; a new password would lock out whoever holds the old one."""
    shop(world)
    user(world, "app")
    data = bound(world, "app")
    user(world, "app", secret={"name": "other"})
    wait_for(lambda: binding(world, "other"))
    assert binding(world, "other") == data
    wait_for(lambda: world.api.get("Secret", "app-db") is None)
    assert bound(world, "app", "other") == data
    assert logs_in(world, data)
    # a name that somebody else has is not taken, and the Secret stays where it is
    world.api.apply(secret("taken", username="theirs"))
    user(world, "app", secret={"name": "taken"})
    world.until("DatabaseUser", "app", "False", "Conflict")
    assert binding(world, "taken") == {"username": "theirs"}
    assert binding(world, "other") == data
    user(world, "app", secret={"name": "third"})
    assert bound(world, "app", "third") == data
    wait_for(lambda: world.api.get("Secret", "other") is None)


def test_two_users_for_one_login_are_a_conflict(world: World):
    shop(world)
    user(world, "app")
    data = bound(world, "app")
    second = user_document(world, "other", username=world.role("app"))
    world.api.apply(second)
    found = world.until("DatabaseUser", "other", "False", "Conflict")
    assert f"is claimed by DatabaseUser {world.namespace}/app" in condition(found)["message"]
    world.api.delete("DatabaseUser", "other")
    wait_for(lambda: world.api.get("DatabaseUser", "other") is None)
    assert logs_in(world, data)


def test_a_role_of_a_databaseschema_is_no_login_and_a_login_no_role(world: World):
    shop(world, "rw")
    world.ready("DatabaseSchema", "shop")
    user(world, "rw")
    found = world.until("DatabaseUser", "rw", "False", "Conflict")
    assert f"is claimed by DatabaseSchema {world.namespace}/shop" in condition(found)["message"]
    user(world, "app")
    bound(world, "app")
    shop(world, "rw", "app")
    world.until("DatabaseSchema", "shop", "False", "Conflict")


def test_a_reserved_login_is_refused(world: World):
    shop(world)
    world.ready("DatabaseSchema", "shop")
    names = ("shop_migrator", "shop_probe", "rds_superuser", "cloudsqladmin", "postgres")
    for username in names:
        user(world, username.replace("_", "-"), username=username, adoption="Allow")
    for username in names:
        world.until("DatabaseUser", username.replace("_", "-"), "False", "ForbiddenName")


def test_access_of_the_server_bounds_names_and_roles(bare: World):
    bare.server(access=[{"namespaces": {"from": "Same"}, "databases": [bare.name], "rolePrefixes": [f"{bare.name}_"]}])
    shop(bare, "rw")
    user(bare, "good", roles=[{"role": bare.role("rw")}])
    user(bare, "name", username="other_app")
    user(bare, "role", roles=[{"role": "other_rw"}])
    bound(bare, "good")
    bare.until("DatabaseUser", "name", "False", "AccessDenied")
    bare.until("DatabaseUser", "role", "False", "AccessDenied")
    assert bare.sql("SELECT 1 FROM pg_roles WHERE rolname = 'other_app'") == []


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"username": "pg_app"}, "names that begin with pg_"),
        ({"rotation": {"every": "30d"}, "password": {"secretRef": {"name": "x"}}}, "needs a generated password"),
        ({"rotation": {"every": "59s"}}, "every is 1m or more"),
        ({"rotation": {"strategy": "DualUser"}, "password": {"management": "External"}}, "DualUser needs"),
        ({"interval": "9s"}, "interval is 10s or more"),
        ({"settings": {"session_replication_role": "replica"}}, "session_replication_role"),
        ({"password": {"length": 8}}, "greater than or equal to 16"),
    ],
)
def test_the_api_server_refuses_what_cannot_be(unwatched: World, spec: dict[str, Any], message: str):
    with pytest.raises(ApiError, match=message):
        user(unwatched, "app", **spec)


def test_the_username_cannot_be_changed(unwatched: World):
    user(unwatched, "app")
    with pytest.raises(ApiError, match="username cannot be changed"):
        user(unwatched, "app", username=unwatched.role("other"))


def test_a_template_that_names_an_unknown_key_is_said_before_anything_is_made(world: World):
    shop(world)
    world.ready("DatabaseSchema", "shop")
    user(world, "app", secret={"template": {"URL": "$(url)"}})
    found = world.until("DatabaseUser", "app", "False", "InvalidSpec")
    assert "spec.secret.template.URL names $(url)" in condition(found)["message"]
    assert world.api.get("Secret", "app-db") is None


def test_mongodb_too(mongo: World, mongodb: MongoEndpoint):
    mongo.api.apply(
        mongo.schema_document("shop", server="mongo", mongodb={"collections": [{"name": "designs"}]}, interval="10s")
    )
    declared = user_document(mongo, "designs", roles=[{"role": "readWrite"}], interval="10s")
    mongo.api.apply(declared)
    data = bound(mongo, "designs")
    assert data["type"] == "mongodb"
    with MongoClient(data["uri"], tlsCAFile=str(mongodb.ca_path)) as client:
        client[mongo.name]["designs"].insert_one({"x": 1})
    with mongodb.client() as admin:
        admin[mongo.name].command("updateUser", data["username"], pwd="by-hand", roles=["read"])
    mongo.now("DatabaseUser", "designs")
    deadline = time.monotonic() + 20
    while True:
        try:
            with MongoClient(data["uri"], tlsCAFile=str(mongodb.ca_path)) as client:
                client[mongo.name]["designs"].insert_one({"x": 2})
            break
        except OperationFailure:
            assert time.monotonic() < deadline
    mongo.api.delete("DatabaseUser", "designs")
    wait_for(lambda: mongo.api.get("DatabaseUser", "designs") is None)
    with mongodb.client() as admin:
        assert admin[mongo.name].command("usersInfo", data["username"])["users"] == []


def test_no_password_is_told_to_anybody(world: World):
    """Given and generated ones, through creation, drift, rotation, a conflict and deletion."""
    marked = f"marked-{uuid.uuid4().hex}-%'\"\\$ {{}}&@/é"
    shop(world)
    given = {"metadata": {"labels": {"selvedge.dev/watch": "true"}, "name": "given"}}
    world.api.apply({**secret("given", password=marked), **given})
    user(world, "given", password={"secretRef": {"name": "given"}}, interval="10s")
    user(world, "made", secret={"template": {"DSN": "$(uri)"}, "envKeys": True})
    data = [bound(world, "given"), bound(world, "made")]
    user(world, "other", username=world.role("made"))
    world.until("DatabaseUser", "other", "False", "Conflict")
    world.sql(f"ALTER ROLE {world.role('given')} PASSWORD 'by-hand'")
    world.api.patch("DatabaseUser", "made", {"metadata": {"annotations": {"selvedge.dev/rotate": "now"}}})
    data.append(changed(world, "made-db", data[1]))
    world.now("DatabaseUser", "given")
    wait_for(lambda: logs_in(world, data[0]))
    documents = [
        found for kind in ("DatabaseUser", "DatabaseSchema", "Event", "ConfigMap") for found in world.api.list(kind)
    ]
    world.api.delete("DatabaseUser")
    wait_for(lambda: not world.api.list("DatabaseUser"))
    metadata = [found["metadata"] for found in world.api.list("Secret")]
    told = world.operator.logs() + json.dumps([documents, metadata, world.api.list("Event")], ensure_ascii=False)
    told += str(world.sql("SELECT query FROM pg_stat_activity"))
    assert world.role("made") in told
    for one in data:
        password = one["password"]
        beginning = password.split("%")[0]
        assert beginning not in told
        assert base64.b64encode(password.encode()).decode() not in told
    assert "SCRAM-SHA-256$" not in told
