"""Servers that cannot be used: each with its condition, its reason and its message; and the others go on."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from sandbox.pki import Authority
from sandbox.ports import LOOPBACK, free_port
from tests.cluster.kube_api import Document
from tests.cluster.world import World, condition, secret, verdict, wait_for

STORM_SECONDS = 10.0


@contextmanager
def silent() -> Iterator[int]:
    """A port on which connections are accepted and nothing is ever said."""
    with socket.create_server((LOOPBACK, 0), backlog=64) as listener:
        yield int(listener.getsockname()[1])


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What has to last until the test ends."""
    with ExitStack() as stack:
        yield stack


def flags(document: Document | None) -> tuple[str, str]:
    """Reconciling and Stalled: whether it goes on by itself, or waits for somebody."""
    return condition(document, "Reconciling")["status"], condition(document, "Stalled")["status"]


WAITS, STALLED = ("True", "False"), ("False", "True")


def test_each_wrong_server_says_what_is_wrong_and_others_go_on(bare: World, tmp_path, sandbox):
    world, port = bare, bare.endpoint.port
    limited = world.role("limited")
    world.sql(f"CREATE ROLE {limited} LOGIN PASSWORD 'of-no-use-elsewhere'", database="postgres")
    standby = sandbox.start_standby("18") if world.endpoint.host == "localhost" else None
    nowhere = free_port()
    with silent() as mute:
        at = {"hosts": [{"host": "localhost", "port": mute}], "connections": {"connectTimeout": "1s"}}
        world.server(name="no-secret", credentials={"secretRef": {"name": "absent"}})
        world.server(
            name="wrong-key", credentials={"secretRef": {"name": "wrong-key-admin"}, "keys": {"password": "pass"}}
        )
        world.server(name="wrong-password", login=("postgres", "not-this-one"))
        ca = Authority(tmp_path / "pki", "Another CA").certificate_path.read_text(encoding="utf-8")
        world.server(name="wrong-ca", ca=ca)
        world.server(name="no-host", hosts=[{"host": "database.invalid", "port": port}])
        world.server(name="nobody", hosts=[{"host": "localhost", "port": nowhere}])
        world.server(name="mute", **at)
        world.server(name="limited", login=(limited, "of-no-use-elsewhere"))
        if standby is not None:
            world.server(standby, name="standby")
        me = f"localhost:{port}"
        expected = {
            "no-secret": ("SecretNotFound", STALLED,
                "secret absent, named in spec.credentials.secretRef, does not exist: create it"),
            "wrong-key": ("SecretKeyMissing", STALLED,
                ("secret wrong-key-admin has no key pass (it has password, username): add it, or name the right one in "
                 "spec.credentials.keys")),
            "wrong-password": ("AuthenticationFailed", STALLED,
                f"server {me} refused user name or password of login postgres: check the Secret in spec.credentials"),
            "wrong-ca": ("TLSVerificationFailed", STALLED,
                (f"server {me} presents a certificate that spec.tls does not accept: check the CA in "
                 "spec.tls.caSecretRef and the host name")),
            "no-host": ("HostNotFound", WAITS,
                f"server database.invalid:{port} cannot be found: the host name does not resolve; check spec.hosts"),
            "nobody": ("Unreachable", WAITS,
                f"server localhost:{nowhere} cannot be reached: check host, port and network policies"),
            "mute": ("ConnectionTimeout", WAITS,
                f"server localhost:{mute} accepted the connection and did not answer in time: check that it is alive"),
            "limited": ("InsufficientPrivileges", STALLED,
                ("the operator's login lacks rights; an administrator has to run: "
                f'ALTER ROLE "{limited}" CREATEROLE; ALTER ROLE "{limited}" CREATEDB; '
                f'GRANT CREATE ON DATABASE "postgres" TO "{limited}"; GRANT pg_signal_backend TO "{limited}"')),
            "standby": ("Standby", WAITS,
                "the server is a standby and takes no writes: name the primary in spec.hosts"),
        }  # fmt: skip
        if standby is None:
            del expected["standby"]

        def answers() -> dict[str, tuple[str, tuple[str, str], str]]:
            found = {name: world.api.get("DatabaseServer", name) for name in expected}
            return {
                name: (verdict(document)[1], flags(document), verdict(document)[2]) for name, document in found.items()
            }

        wait_for(lambda: all(answer[0] for answer in answers().values()), what=answers)
        assert answers() == expected
        for name, (_, moves, _) in expected.items():
            status = world.api.get("DatabaseServer", name)["status"]
            # a standby was reached, and is looked at again at its interval
            assert ("nextRetryTime" in status) == (moves == WAITS and name != "standby"), (name, status)
        statements = world.api.get("DatabaseServer", "limited")["status"]["missingPrivileges"]
        assert [entry["statement"] for entry in statements] == expected["limited"][2].split(": ", 1)[1].split("; ")

        # the others go on
        for name in expected:
            world.schema(f"on-{name}", server=name, database=f"{world.name}_{name.replace('-', '_')}", postgres={})
        world.server()
        world.schema("shop", postgres={"schemas": [{"name": "shared"}]})
        world.ready("DatabaseSchema", "shop")
        for name in expected:
            blocked = wait_for(lambda n=name: verdict(world.api.get("DatabaseSchema", f"on-{n}"))[0] and
                               world.api.get("DatabaseSchema", f"on-{n}"))  # fmt: skip
            assert verdict(blocked)[0] == "False", name

        # and nothing storms
        before, lines = sum(world.operator.writes().values()), len(world.operator.logs().splitlines())
        time.sleep(STORM_SECONDS)  # nothing can be waited for: it is about what does not happen
        writes = sum(world.operator.writes().values()) - before
        assert writes <= 6 * len(expected), world.operator.writes()
        assert len(world.operator.logs().splitlines()) - lines <= 10 * len(expected)
        assert not re.search("not-this-one|of-no-use-elsewhere", world.operator.logs())


def test_a_missing_secret_that_is_created_is_used_without_a_change_of_the_server(bare: World):
    world = bare
    world.api.apply(world.server_document(world.endpoint))
    world.until("DatabaseServer", "main", "False", "SecretNotFound")
    world.schema("shop", postgres={})
    world.until("DatabaseSchema", "shop", "False", "WaitingForServer")
    world.credentials(world.endpoint, "main")
    world.ready("DatabaseServer", "main", 30)
    world.ready("DatabaseSchema", "shop")


def test_a_secret_that_cannot_be_used_is_read_again_soon_without_a_label(bare: World):
    """A port that is none is no fault of the spec, which alone would be waited for."""
    world, endpoint = bare, bare.endpoint

    def credentials(port: str) -> None:
        values = {"username": endpoint.username, "password": endpoint.password, "host": "localhost", "port": port}
        world.api.apply(secret("elsewhere", **values))

    credentials("none")
    named = {"secretRef": {"name": "elsewhere"}, "keys": {"host": "host", "port": "port"}}
    world.server(credentials=named, hosts=[])
    world.until("DatabaseServer", "main", "False", "InvalidSpec")
    credentials(str(endpoint.port))
    world.ready("DatabaseServer", "main", 60)


@pytest.mark.parametrize("watched", [True, False], ids=["labelled", "unlabelled"])
def test_a_new_password_is_used_by_the_next_connection(bare: World, watched: bool):
    world, login = bare, bare.role("admin")
    world.sql(f"CREATE ROLE {login} SUPERUSER LOGIN PASSWORD 'the-old-one'", database="postgres")

    def credentials(password: str) -> Document:
        document = secret("main-admin", username=login, password=password)
        document["metadata"]["labels"] = {"selvedge.dev/watch": "true"} if watched else {"a": "b"}
        return document

    # little is kept open: every statement needs a login
    world.server(login=(login, "the-old-one"), connections={"idleTimeout": "1s"}, monitoring={"interval": "1m"})
    world.api.apply(credentials("the-old-one"))
    role = world.role("app")
    world.schema("shop", migrations=world.trigger(), postgres={"roles": [{"name": role}]})
    world.ready("DatabaseServer", "main")
    world.ready("DatabaseSchema", "shop")
    world.sql(f"ALTER ROLE {login} PASSWORD 'the-new-one'", database="postgres")
    world.api.apply(credentials("the-new-one"))
    began = time.monotonic()
    world.sql(f"DROP ROLE {role}", database="postgres")
    # what it keeps open would not need the password
    kept = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{login}'"
    wait_for(lambda: not world.sql(kept, database="postgres"), 10)
    world.look()
    wait_for(
        lambda: world.sql(f"SELECT 1 FROM pg_roles WHERE rolname = '{role}'", database="postgres"),
        15,
        what=lambda: (world.operator.logs()[-3000:], verdict(world.api.get("DatabaseSchema", "shop"))),
    )
    world.ready("DatabaseSchema", "shop")
    world.ready("DatabaseServer", "main")
    assert time.monotonic() - began < 20


def _until_probed(world: World, times: int) -> None:
    """Wait until the server that is away was probed so often again."""
    name, labels = "selvedge_reconcile_total", {"kind": "DatabaseServer", "result": "Unreachable"}
    enough = world.operator.value(name, **labels) + times
    wait_for(lambda: world.operator.value(name, **labels) >= enough, 40)


def test_a_server_that_is_away_is_probed_without_reading_its_secrets_each_time(bare: World):
    world = bare
    world.server(hosts=[{"host": "localhost", "port": free_port()}])
    world.until("DatabaseServer", "main", "False", "Unreachable")
    _until_probed(world, 3)  # until its circuit is open for certain
    reads = {"name": "selvedge_kubernetes_requests_total", "verb": "get", "resource": "secrets"}
    before = world.operator.value(**reads)
    _until_probed(world, 3)
    assert world.operator.value(**reads) - before <= 2  # once, which may fall into this time: two Secrets
    # what brings it back is not waited for: neither a change of the resource nor of a labelled Secret
    world.api.apply(world.server_document(world.endpoint))
    world.ready("DatabaseServer", "main", 10)


def test_a_labelled_secret_that_names_another_host_is_read_at_once_while_the_server_is_away(bare: World):
    world = bare

    def credentials(port: int) -> Document:
        user, password = world.endpoint.username, world.endpoint.password
        document = secret("main-admin", username=user, password=password, host="localhost", port=str(port))
        document["metadata"]["labels"] = {"selvedge.dev/watch": "true"}
        return document

    keys = {"host": "host", "port": "port"}
    world.server(hosts=[], credentials={"secretRef": {"name": "main-admin"}, "keys": keys})
    world.api.apply(credentials(free_port()))
    world.until("DatabaseServer", "main", "False", "Unreachable")
    _until_probed(world, 3)
    world.api.apply(credentials(world.endpoint.port))
    world.ready("DatabaseServer", "main", 10)


def test_each_wrong_mongodb_server_says_what_is_wrong_and_others_go_on(mongo: World, mongodb, tmp_path, stack):
    world, mine = mongo, "correct-horse"
    ca = Authority(tmp_path / "pki", "Another CA").certificate_path.read_text(encoding="utf-8")
    world.mongo_server(mongodb, "wrong-password", login=("root", mine))
    world.mongo_server(mongodb, "wrong-ca", ca=ca)
    world.mongo_server(mongodb, "no-host", hosts=[{"host": "database.invalid", "port": mongodb.port}])
    mute = stack.enter_context(silent())
    quick = {"connectTimeout": "1s"}
    world.mongo_server(mongodb, "mute", hosts=[{"host": "localhost", "port": mute}], connections=quick)
    expected = {
        "wrong-password": ("AuthenticationFailed", STALLED),
        "wrong-ca": ("TLSVerificationFailed", STALLED),
        "no-host": ("HostNotFound", WAITS),
        "mute": ("ConnectionTimeout", WAITS),
    }

    def answers() -> dict[str, tuple[str, tuple[str, str]]]:
        found = {name: world.api.get("DatabaseServer", name) for name in expected}
        return {name: (verdict(document)[1], flags(document)) for name, document in found.items()}

    wait_for(lambda: all(answer[0] for answer in answers().values()), 40, what=answers)
    assert answers() == expected
    shown = world.api.get("DatabaseServer", "mute")
    assert verdict(shown)[2].startswith(f"localhost:{mute} did not answer in time")
    assert shown["status"]["nextRetryTime"]
    world.schema("designs", server="mongo", mongodb={"collections": [{"name": "designs"}]})
    world.ready("DatabaseSchema", "designs")
    assert mine not in world.operator.logs()
