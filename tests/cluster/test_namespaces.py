"""An operator of several namespaces, with the chart's rights: what becomes of one does not concern the others."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from sandbox import PostgresEndpoint
from tests.cluster.kube_api import Document, KubeApi
from tests.cluster.operator_process import OperatorProcess
from tests.cluster.proxy import Proxy
from tests.cluster.rights import as_account, chart_rights
from tests.cluster.world import World, verdict, wait_for
from tests.conftest import Kubectl

_SECONDS = 90.0


@dataclass(slots=True)
class Watched:
    """Three namespaces that one operator watches; the first is the operator's own."""

    worlds: tuple[World, ...]
    operator: OperatorProcess
    kubectl: Kubectl
    rights: list[Document]
    proxy: Proxy

    def declare(self, world: World) -> None:
        """A server and a schema, in a database of the namespace's own."""
        world.server()
        role = world.role("owner")
        world.schema("shop", postgres={"owner": role, "roles": [{"name": role}]})

    def give(self, world: World) -> None:
        """Make the namespace, and the rights of the operator in it, as ``helm upgrade`` does."""
        self.kubectl("create", "namespace", world.namespace)
        self.kubectl("apply", "-f", "-", input=_lines(d for d in self.rights if _in(d) == world.namespace))

    def take(self, world: World) -> None:
        """Delete the namespace, and wait until nothing is left of it."""
        self.kubectl("delete", "namespace", world.namespace, "--timeout=90s")

    def changes(self, world: World, role: str) -> None:
        """A change of the declaration reaches the server."""
        names = [world.role("owner"), world.role(role)]
        world.schema("shop", postgres={"owner": names[0], "roles": [{"name": name} for name in names]})
        world.ready("DatabaseSchema", "shop", _SECONDS)
        assert world.ask(f"SELECT count(*) FROM pg_roles WHERE rolname = '{names[1]}'", database="postgres") == 1

    def told(self, world: World) -> bool:
        """Whether the log names the namespace that is left out."""
        lines = [json.loads(line) for line in self.operator.logs().splitlines() if line.startswith("{")]
        return any("left out" in line["event"] and line.get("watched") == world.namespace for line in lines)


def _lines(documents: Iterable[Document]) -> str:
    return "---\n".join(json.dumps(document) + "\n" for document in documents)


def _in(document: Document) -> str:
    return str(document["metadata"].get("namespace", ""))


@pytest.fixture
def watched(
    kubectl: Kubectl, kubeconfig: Path, served: None, postgres18: PostgresEndpoint, tmp_path: Path
) -> Iterator[Watched]:
    """Rights in three namespaces, and an operator that is not started yet; its connections go through a proxy."""
    with _watched(kubectl, kubeconfig, postgres18, tmp_path) as found:
        yield found


@contextmanager
def _watched(kubectl: Kubectl, kubeconfig: Path, endpoint: PostgresEndpoint, directory: Path) -> Iterator[Watched]:
    names = [f"test-{uuid.uuid4().hex[:12]}" for _ in range(3)]
    for name in names:
        kubectl("create", "namespace", name)
    rights = chart_rights(names[0], "namespaces", named=names)
    kubectl("apply", "-f", "-", input=_lines(rights))
    config = as_account(kubectl, kubeconfig, names[0])
    cluster = config["clusters"][0]["cluster"]
    with Proxy(urlsplit(cluster["server"]).port or 443) as proxy:
        cluster["server"] = f"https://localhost:{proxy.port}"
        path = directory / "account.kubeconfig"
        path.write_text(yaml.safe_dump(config))
        operator = OperatorProcess(
            path,
            directory / "operator.log",
            namespaces=tuple(names),
            lease_namespace=names[0],
            lease_name="selvedge",
            env={"SELVEDGE_CLUSTER_UID": "test"},
        )
        apis = [KubeApi(kubeconfig, name) for name in names]
        worlds = tuple(
            World(api, operator, api.namespace, f"t{uuid.uuid4().hex[:10]}", endpoint, kubeconfig) for api in apis
        )
        try:
            yield Watched(worlds, operator, kubectl, rights, proxy)
        finally:
            operator.kill()
            for world in worlds:
                world.clean()
                with closing(world.api):
                    kubectl("delete", "namespace", world.namespace, "--wait=false", "--ignore-not-found")


def test_a_namespace_that_is_gone_is_left_out_at_the_start_and_taken_in_when_it_is_back(watched: Watched):
    first, gone, last = watched.worlds
    watched.take(gone)
    for world in (first, last):
        watched.declare(world)
    watched.operator.start()
    for world in (first, last):
        world.ready("DatabaseSchema", "shop", _SECONDS)
    assert watched.told(gone)
    assert watched.operator.value("selvedge_namespace_served", namespace=gone.namespace) == 0
    assert watched.operator.value("selvedge_namespace_served", namespace=last.namespace) == 1
    watched.give(gone)
    watched.declare(gone)
    gone.ready("DatabaseSchema", "shop", _SECONDS)
    assert watched.operator.value("selvedge_namespace_served", namespace=gone.namespace) == 1
    watched.changes(gone, "more")  # by its watch


@pytest.mark.long
def test_who_stands_on_a_server_that_is_left_out_waits_for_it_also_with_the_removal(watched: Watched):
    guest, host, _ = watched.worlds
    host.server(access=[{"namespaces": {"from": "All"}}])
    ref = {"name": "main", "namespace": host.namespace}
    spec = {"serverRef": ref, "deletionPolicy": "Delete", "postgres": {"schemas": [{"name": "stock"}]}}
    guest.schema("guest", **spec)
    watched.operator.start()
    guest.ready("DatabaseSchema", "guest", _SECONDS)
    role = next(d for d in watched.rights if d["kind"] == "Role" and _in(d) == host.namespace)
    watched.kubectl("delete", "role", role["metadata"]["name"], "-n", host.namespace)
    waiting = guest.until("DatabaseSchema", "guest", "False", "WaitingForServer", _SECONDS)
    assert f"DatabaseServer {host.namespace}/main may not be read: " in verdict(waiting)[2]
    generation = guest.api.get("DatabaseSchema", "guest")["metadata"]["generation"]
    guest.api.delete("DatabaseSchema", "guest")
    wait_for(lambda: (guest.api.get("DatabaseSchema", "guest") or {})["metadata"]["generation"] > generation)
    guest.until("DatabaseSchema", "guest", "False", "WaitingForServer", _SECONDS)
    watched.kubectl("apply", "-f", "-", input=_lines([role]))
    wait_for(lambda: guest.api.get("DatabaseSchema", "guest") is None, _SECONDS)
    assert guest.sql(f"SELECT 1 FROM pg_database WHERE datname = '{guest.name}'", database="postgres") == []


@pytest.mark.long
def test_the_owner_of_a_database_is_kept_from_the_namespace_of_its_logins(watched: Watched):
    """What docs/guide/security.md gives as the way: ``rolePrefixes`` that the owner's name does not begin with."""
    host, team, _ = watched.worlds
    owner, app = host.role("owner"), host.role("app")
    selector = {"matchLabels": {"kubernetes.io/metadata.name": team.namespace}}
    theirs = {"namespaces": {"from": "Selector", "selector": selector}, "databases": [host.name], "rolePrefixes": [app]}
    host.server(access=[{"namespaces": {"from": "Same"}}, theirs])
    postgres = {"owner": owner, "roles": [{"name": owner}, {"name": app}], "schemas": [{"name": "stock"}]}
    host.schema("shop", postgres=postgres)
    there = {"serverRef": {"name": "main", "namespace": host.namespace}, "database": host.name}
    team.schema("shop", **there, postgres={})
    asked = {"good": {"roles": [{"role": app}]}, "owner": {"roles": [{"role": owner}]}}
    for name, spec in asked.items():
        user = {"schemaRef": {"name": "shop"}, "username": f"{app}_{name}", **spec}
        team.api.apply({"kind": "DatabaseUser", "metadata": {"name": name}, "spec": user})
    watched.operator.start()
    team.ready("DatabaseSchema", "shop", _SECONDS)
    team.ready("DatabaseUser", "good", _SECONDS)
    refused = team.until("DatabaseUser", "owner", "False", "AccessDenied", _SECONDS)
    assert f"role {owner} of spec.roles is none that the DatabaseServer's access gives" in verdict(refused)[2]
    team.schema("shop", **there, postgres={"roles": [{"name": f"{app}_x", "memberOf": [{"role": owner}]}]})
    team.until("DatabaseSchema", "shop", "False", "AccessDenied", _SECONDS)
    team.schema("shop", **there, postgres={"owner": owner, "schemas": [{"name": "theirs"}]})
    team.until("DatabaseSchema", "shop", "False", "AccessDenied", _SECONDS)
    team.schema("shop", **there, postgres={"owner": owner})
    team.ready("DatabaseSchema", "shop", _SECONDS)
    inline = {"inline": {"files": {"20250101000000_a.sql": "CREATE TABLE stock.a (id int);"}}}
    run = {"schemaRef": {"name": "shop"}, "source": inline}
    team.api.apply({"kind": "MigrationRun", "metadata": {"name": "run"}, "spec": run})
    team.until("MigrationRun", "run", "False", "AccessDenied", _SECONDS)
    assert host.sql("SELECT to_regclass('stock.a')") == [(None,)]


@pytest.mark.long
@pytest.mark.parametrize("how", ["namespace", "role"])
def test_a_namespace_that_goes_while_the_operator_runs_does_not_concern_the_others(watched: Watched, how: str):
    first, gone, last = watched.worlds
    for world in watched.worlds:
        watched.declare(world)
    watched.operator.start()
    for world in watched.worlds:
        world.ready("DatabaseSchema", "shop", _SECONDS)
    before = gone.sql(f"SELECT oid FROM pg_database WHERE datname = '{gone.name}'")
    if how == "namespace":
        watched.take(gone)
    else:
        role = next(d for d in watched.rights if d["kind"] == "Role" and _in(d) == gone.namespace)
        watched.kubectl("delete", "role", role["metadata"]["name"], "-n", gone.namespace)
    watched.proxy.cut()  # the watches of before would live for a minute
    wait_for(lambda: watched.told(gone), _SECONDS)
    watched.changes(first, "one")
    # longer than the library goes on asking by its own settings
    _stays(watched, 70.0, lambda: watched.operator.daemon.alive)
    assert watched.operator.http("/readyz")[0] == 200
    watched.changes(last, "two")
    assert gone.sql(f"SELECT oid FROM pg_database WHERE datname = '{gone.name}'") == before
    if how == "namespace":
        watched.give(gone)
        watched.declare(gone)
    else:
        assert verdict(gone.api.get("DatabaseSchema", "shop"))[0] == "True"
        watched.kubectl("apply", "-f", "-", input=_lines([role]))
    watched.changes(gone, "more")
    assert "ended" not in watched.operator.logs()


def _stays(watched: Watched, seconds: float, holds: Callable[[], bool]) -> None:
    with pytest.raises(AssertionError, match="in vain"):
        wait_for(lambda: not holds(), seconds)
