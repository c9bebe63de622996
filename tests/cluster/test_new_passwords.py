"""A password that was changed on the server and in the Secret: the next connection uses the new one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sandbox import MongoEndpoint
from tests.cluster.kube_api import Document
from tests.cluster.world import World, secret, wait_for

DESIGNS = {"collections": [{"name": "designs"}]}


@pytest.fixture
def login(bare: World, mongodb: MongoEndpoint) -> Iterator[str]:
    """An administrator of the test's own."""
    name = bare.role("admin")
    with mongodb.client() as client:
        client.admin.command("createUser", name, pwd="the-old-one", roles=["root"])
        yield name
        client.admin.command("dropUser", name)


@pytest.mark.parametrize("watched", [True, False], ids=["labelled", "unlabelled"])
def test_a_new_password_of_mongodb_is_used_by_the_next_connection(
    mongo: World, mongodb: MongoEndpoint, login: str, watched: bool
):
    world = mongo

    def credentials(password: str) -> Document:
        document = secret("own-admin", username=login, password=password)
        document["metadata"]["labels"] = {"selvedge.dev/watch": "true"} if watched else {"a": "b"}
        return document

    # little is kept open: what is done after a while needs a login
    limits = {"connections": {"idleTimeout": "1s"}, "monitoring": {"interval": "1m"}}
    world.mongo_server(mongodb, "own", login=(login, "the-old-one"), **limits)
    world.api.apply(credentials("the-old-one"))
    world.schema("designs", server="own", migrations=world.trigger(), mongodb=DESIGNS)
    world.ready("DatabaseServer", "own")
    world.ready("DatabaseSchema", "designs")
    with mongodb.client() as client:

        def connected() -> bool:
            stages = [{"$currentOp": {"allUsers": True, "idleConnections": True}}]
            users = {u["user"] for op in client.admin.aggregate(stages) for u in op.get("effectiveUsers", ())}
            return login in users

        client.admin.command("updateUser", login, pwd="the-new-one")
        # what it keeps open would not need the password
        wait_for(lambda: not connected())
        world.look()
        world.until("DatabaseSchema", "designs", "False", "AuthenticationFailed")
        world.api.apply(credentials("the-new-one"))
        client.drop_database(world.name)
        world.ready("DatabaseServer", "own", 45)
        world.ready("DatabaseSchema", "designs", 45)
        assert connected()
        assert client[world.name].list_collection_names() == ["designs"]
