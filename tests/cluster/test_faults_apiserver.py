"""An API server that restarts, is away for long, and tells the watch that it expired: on one of the tests' own."""

from __future__ import annotations

import http
import json
import os
import signal
import ssl
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sandbox import PostgresEndpoint, Sandbox
from tests.cluster.kube_api import KubeApi
from tests.cluster.operator_process import OperatorProcess
from tests.cluster.world import World, wait_for

#: One process of pytest-xdist has all of them, so that the control plane is started once.
pytestmark = pytest.mark.xdist_group("own-control-plane")

CRDS = Path(__file__).parents[2] / "crds"
#: Long enough for an operator that stands still while the test changes things behind its back.
PATIENT = {"SELVEDGE_LEASE_DURATION": "60s", "SELVEDGE_RENEW_DEADLINE": "50s", "SELVEDGE_RETRY_PERIOD": "1s"}
QUICK = {"SELVEDGE_LEASE_DURATION": "3s", "SELVEDGE_RENEW_DEADLINE": "2s", "SELVEDGE_RETRY_PERIOD": "400ms"}


@pytest.fixture(scope="module")
def control_plane() -> Iterator[Sandbox]:
    """A Kubernetes that no other test uses."""
    with Sandbox.start(postgres=(), mongodb=False) as sandbox:
        sandbox.kubectl("apply", "--server-side", "-f", str(CRDS))
        sandbox.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")
        yield sandbox


@pytest.fixture
def private(
    control_plane: Sandbox, endpoint: PostgresEndpoint, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[World]:
    """A world on that Kubernetes; the parameter is the operator's environment."""
    namespace = f"test-{uuid.uuid4().hex[:10]}"
    control_plane.kubectl("create", "namespace", namespace)
    api = KubeApi(control_plane.kubeconfig, namespace)
    operator = OperatorProcess(
        control_plane.kubeconfig,
        tmp_path / "operator.log",
        namespaces=(namespace,),
        lease_namespace=namespace,
        env=getattr(request, "param", {}),
    )
    operator.start()
    world = World(api, operator, namespace, f"t{uuid.uuid4().hex[:10]}", endpoint, control_plane.kubeconfig)
    world.server()
    yield world
    operator.kill()
    api.close()
    world.clean()


def restart(world: World, control_plane: Sandbox) -> None:
    """A crash of the API server and its next start; the test's own connections to it are new ones."""
    control_plane.apiserver.restart(immediate=True)
    world.api.close()


def shop(world: World, *schemas: str) -> None:
    """Declare the database with these schemas."""
    world.schema("shop", postgres={"schemas": [{"name": name} for name in schemas]})


def watch(kubeconfig: Path, namespace: str, version: str) -> dict[str, Any] | None:
    """The first line of a watch of DatabaseSchemas from this resource version on; None while storage is not ready."""
    config = yaml.safe_load(kubeconfig.read_text(encoding="utf-8"))
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    tls = ssl.create_default_context(cafile=cluster["certificate-authority"])
    tls.load_cert_chain(user["client-certificate"], user["client-key"])
    path = f"/apis/selvedge.dev/v1alpha1/namespaces/{namespace}/databaseschemas?watch=1&resourceVersion={version}"
    try:
        with urllib.request.urlopen(cluster["server"] + path, timeout=10, context=tls) as answer:  # noqa: S310 - our own, on loopback
            line: dict[str, Any] = json.loads(answer.readline())
            return line
    except urllib.error.HTTPError as error:
        with error:
            if error.code == http.HTTPStatus.TOO_MANY_REQUESTS:
                return None
            raise


def test_an_api_server_that_restarts_is_waited_for_by_the_same_process(private: World, control_plane: Sandbox):
    world, pid = private, private.operator.daemon.pid
    shop(world, "shared")
    world.ready("DatabaseSchema", "shop")
    restart(world, control_plane)
    shop(world, "shared", "later")
    world.ready("DatabaseSchema", "shop")
    assert world.ask("SELECT count(*) FROM pg_namespace WHERE nspname = 'later'") == 1
    assert world.operator.daemon.pid == pid
    assert world.operator.leads()
    assert world.operator.http("/readyz") == (200, "leader\n")


@pytest.mark.parametrize("private", [PATIENT], indirect=True, ids=["patient"])
def test_a_watch_that_expired_misses_neither_changes_nor_deletions(private: World, control_plane: Sandbox):
    """The API server answers 410 for the version at which the operator's watch stood, as the test sees for itself.

    The operator stands still while one resource is deleted, one is changed and one is made, and the API server is
    restarted, which empties the cache that watches are served from.
    """
    world = private
    for name in ("gone", "changed"):
        postgres = {"roles": [{"name": world.role(name), "settings": {"statement_timeout": "5s"}}]}
        world.schema(name, database=f"{world.name}_{name}", interval="10s", postgres=postgres)
    at = [world.ready("DatabaseSchema", name)["metadata"]["resourceVersion"] for name in ("gone", "changed")]
    os.kill(world.operator.daemon.pid, signal.SIGSTOP)
    try:
        world.api.delete("DatabaseSchema", "gone")
        postgres = {"roles": [{"name": world.role("changed"), "settings": {"statement_timeout": "6s"}}]}
        world.schema("changed", database=f"{world.name}_changed", interval="10s", postgres=postgres)
        world.schema("made", database=f"{world.name}_made", interval="10s", postgres={"schemas": [{"name": "shared"}]})
        restart(world, control_plane)
        first = wait_for(lambda: watch(world.kubeconfig, world.namespace, max(at, key=int)))
        assert (first["type"], first["object"]["code"]) == ("ERROR", 410)
    finally:
        os.kill(world.operator.daemon.pid, signal.SIGCONT)
    world.ready("DatabaseSchema", "changed", 30)
    world.ready("DatabaseSchema", "made", 30)
    setting = "SELECT rolconfig FROM pg_roles WHERE rolname = '{}'"
    assert world.ask(setting.format(world.role("changed")), database="postgres") == ["statement_timeout=6s"]
    # Nobody looks after what was deleted: a change by hand stays, past the interval.
    wait_for(lambda: world.operator.value("selvedge_resources", kind="DatabaseSchema") == 2)
    world.sql(f"ALTER ROLE {world.role('gone')} SET statement_timeout = '9s'", database="postgres")
    world.sql(f"ALTER ROLE {world.role('changed')} SET statement_timeout = '9s'", database="postgres")
    wait_for(
        lambda: world.ask(setting.format(world.role("changed")), database="postgres") == ["statement_timeout=6s"], 16
    )
    time.sleep(3)  # nothing can be waited for: the pass that the deleted one would have had does not come
    assert world.ask(setting.format(world.role("gone")), database="postgres") == ["statement_timeout=9s"]


@pytest.mark.parametrize("private", [QUICK], indirect=True, ids=["quick"])
def test_an_api_server_that_is_away_for_long_ends_the_operator_which_comes_back(private: World, control_plane: Sandbox):
    world = private
    shop(world, "shared")
    world.ready("DatabaseSchema", "shop")
    control_plane.apiserver.stop(immediate=True)
    try:
        wait_for(lambda: not world.operator.daemon.alive)
        assert world.operator.daemon.returncode == 1
        assert "lost the lease: it could not be renewed in time" in world.operator.logs()
        assert "Traceback" not in world.operator.logs()
        # Started again, as a Deployment does, it waits; its process lives, and says that it is not ready.
        world.operator.start(leading=False)
        assert world.operator.http("/livez")[0] == 200
        assert world.operator.http("/readyz")[0] == 503
    finally:
        control_plane.apiserver.start()
        world.api.close()
    shop(world, "shared", "later")
    world.ready("DatabaseSchema", "shop")
