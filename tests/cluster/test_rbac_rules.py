"""Each verb of the chart's rules is needed: taken away, the failure names it; given back, the work goes on.

In each mode with every verb (``--long``, cluster-wide on a Kubernetes of its own); with typical ones otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sandbox import PostgresEndpoint, Sandbox
from selvedge.core.rights import RIGHTS, RIGHTS_BESIDE_SECRETS
from selvedge.core.shards import MOST
from selvedge.kube.shard_lease import lease_name
from tests.cluster.kube_api import Document
from tests.cluster.rights import MODES, Confined, Mode, Verb, chart_rights, confined, verbs_of
from tests.cluster.user_support import user
from tests.cluster.world import World, wait_for

pytestmark = pytest.mark.xdist_group("rights")

CRDS = Path(__file__).parents[2] / "crds"
CHART = Path(__file__).parents[2] / "charts" / "selvedge"
_G = "selvedge.dev"
_KINDS = ("databaseservers", "databaseschemas", "databaseusers", "migrationruns")
_WATCH = {"selvedge.dev/watch": "true"}
#: A pass that failed is tried again after a pause that grows.
_SECONDS = 60.0

LEASE: dict[str, Verb] = {verb: ("coordination.k8s.io", "leases", verb) for verb in ("get", "create", "update")}
LISTED: list[Verb] = [*((_G, kind, "list") for kind in _KINDS), ("", "secrets", "list"), ("", "configmaps", "list")]
WATCHED: list[Verb] = [(group, resource, "watch") for group, resource, _ in LISTED]
#: What is not needed where Secrets are reached in named namespaces only.
_OF_SECRETS: set[Verb] = {("", "secrets", "list"), ("", "secrets", "watch")}


@dataclass(frozen=True)
class Case:
    """What needs a verb while the operator runs: ``before`` with it, ``act`` without, ``after`` when it is back."""

    verb: Verb
    act: Callable[[World], object]
    after: Callable[[World], object]
    before: Callable[[World], object] = lambda world: None
    quick: bool = False


def _migrations(world: World, *tables: str, name: str = "files", watched: bool = True) -> Document:
    """A ConfigMap with one migration for each table, and the source that names it."""
    labels = {"labels": _WATCH} if watched else {}
    data = {f"2025010100000{n}_{table}.sql": f"CREATE TABLE {table} (id int);" for n, table in enumerate(tables)}
    world.api.apply({"kind": "ConfigMap", "metadata": {"name": name, **labels}, "data": data})
    return {"source": {"configMaps": [{"name": name}]}, "historyLimit": 1}


def _extra(world: World, name: str, **spec: object) -> Document:
    """A DatabaseSchema on a database and with an owner of its own."""
    owner = world.role(f"{name}_owner")
    postgres = {"owner": owner, "roles": [{"name": owner}]}
    return world.schema(name, database=f"{world.name}_{name}", **{"postgres": postgres, **spec})


def _run(world: World, name: str) -> None:
    source = {"inline": {"files": {"20250101000000_hand.sql": "CREATE TABLE hand (id int);"}}}
    spec = {"schemaRef": {"name": "shop"}, "source": source}
    world.api.apply({"kind": "MigrationRun", "metadata": {"name": name}, "spec": spec})


def _gone(world: World, kind: str, name: str) -> None:
    world.api.delete(kind, name)
    wait_for(lambda: world.api.get(kind, name) is None, _SECONDS)


def _kept(world: World, kind: str, name: str) -> None:
    """It got its finalizer, and leaves by it."""
    wait_for(lambda: (world.api.get(kind, name) or {})["metadata"].get("finalizers"), _SECONDS)
    world.ready(kind, name, _SECONDS)
    _gone(world, kind, name)


def _waiting(world: World, *schemas: str) -> Document:
    """What waits on the database of the DatabaseSchema ``plan``: these schemas."""
    owner = world.role("plan_owner")
    postgres = {"owner": owner, "roles": [{"name": owner}], "schemas": [{"name": schema} for schema in schemas]}
    return _extra(world, "plan", apply="OnApproval", postgres=postgres)


def _planned(world: World) -> None:
    if not world.api.get("DatabaseSchema", "plan"):
        _ready(world, _extra(world, "plan"))
    _waiting(world, "one")
    wait_for(lambda: len(_plans(world)) == 1, _SECONDS)


def _plans(world: World) -> list[str]:
    return [c["metadata"]["name"] for c in world.api.list("ConfigMap") if c["metadata"]["name"].startswith("plan-plan")]


def _selected(world: World) -> None:
    selector = {"matchLabels": {"kubernetes.io/metadata.name": world.namespace}}
    access = [{"namespaces": {"from": "Selector", "selector": selector}, "rolePrefixes": [world.name]}]
    world.server(name="selecting", access=access)
    _extra(world, "selected", server="selecting")


def _changed(world: World, name: str) -> None:
    role = world.role(name)
    _extra(world, "events", postgres={"owner": role, "roles": [{"name": role}]})
    world.ready("DatabaseSchema", "events", _SECONDS)


CASES = [
    Case(
        (_G, "databaseservers/status", "patch"),
        lambda w: w.server(connections={"max": 9}),
        lambda w: w.ready("DatabaseServer", "main", _SECONDS),
    ),
    Case(
        (_G, "databaseschemas/status", "patch"),
        lambda w: w.api.patch("DatabaseSchema", "shop", {"spec": {"interval": "11s"}}),
        lambda w: w.ready("DatabaseSchema", "shop", _SECONDS),
        quick=True,
    ),
    Case(
        (_G, "databaseusers/status", "patch"),
        lambda w: w.api.patch("DatabaseUser", "app", {"spec": {"connectionLimit": 7}}),
        lambda w: w.ready("DatabaseUser", "app", _SECONDS),
    ),
    Case(
        (_G, "migrationruns/status", "patch"),
        lambda w: _run(w, "hand"),
        lambda w: w.ready("MigrationRun", "hand", _SECONDS),
    ),
    Case(
        (_G, "databaseschemas", "patch"),
        lambda w: _extra(w, "brief", deletionPolicy="Delete"),
        lambda w: _kept(w, "DatabaseSchema", "brief"),
    ),
    Case(
        (_G, "databaseusers", "patch"),
        lambda w: user(w, "brief"),
        lambda w: _kept(w, "DatabaseUser", "brief"),
        quick=True,
    ),
    Case(
        (_G, "migrationruns", "create"),
        lambda w: _extra(w, "runs", migrations=_migrations(w, "a", name="runs")),
        lambda w: w.ready("DatabaseSchema", "runs", _SECONDS),
    ),
    Case(
        (_G, "migrationruns", "delete"),
        lambda w: _migrations(w, "a", "b", name="limit"),
        lambda w: wait_for(lambda: len(_runs_of(w, "limit")) == 1, _SECONDS),
        before=lambda w: _ready(w, _extra(w, "limit", migrations=_migrations(w, "a", name="limit"))),
    ),
    Case(
        ("", "secrets", "get"),
        lambda w: w.now("DatabaseServer", "main"),
        lambda w: w.ready("DatabaseServer", "main", _SECONDS),
        quick=True,
    ),
    Case(
        ("", "secrets", "create"),
        lambda w: user(w, "fresh"),
        lambda w: w.ready("DatabaseUser", "fresh", _SECONDS),
    ),
    Case(
        ("", "secrets", "update"),
        lambda w: w.api.patch("DatabaseUser", "app", {"spec": {"secret": {"labels": {"team": "shop"}}}}),
        lambda w: w.ready("DatabaseUser", "app", _SECONDS),
    ),
    Case(
        ("", "secrets", "delete"),
        lambda w: w.api.delete("DatabaseUser", "leaving"),
        lambda w: wait_for(lambda: w.api.get("DatabaseUser", "leaving") is None, _SECONDS),
        before=lambda w: _ready(w, user(w, "leaving")),
    ),
    Case(
        ("", "configmaps", "get"),
        lambda w: _extra(w, "source", migrations=_migrations(w, "a", name="source", watched=False)),
        lambda w: w.ready("DatabaseSchema", "source", _SECONDS),
    ),
    Case(
        ("", "configmaps", "create"),
        lambda w: _waiting(w, "one"),
        lambda w: wait_for(lambda: len(_plans(w)) == 1, _SECONDS),
        before=lambda w: _ready(w, _extra(w, "plan")),
    ),
    Case(
        ("", "configmaps", "delete"),
        lambda w: _waiting(w, "two"),
        lambda w: wait_for(lambda: len(_plans(w)) == 1, _SECONDS),
        before=_planned,
    ),
    Case(
        ("", "namespaces", "get"),
        _selected,
        lambda w: w.ready("DatabaseSchema", "selected", _SECONDS),
    ),
    Case(
        ("events.k8s.io", "events", "create"),
        lambda w: _changed(w, "one"),
        lambda w: (_changed(w, "two"), wait_for(lambda: w.api.events("events"))),
    ),
]


def _ready(world: World, document: Document) -> None:
    world.ready(document["kind"], document["metadata"]["name"], _SECONDS)


def _runs_of(world: World, schema: str) -> list[Document]:
    runs = world.api.list("MigrationRun")
    return [run for run in runs if run["spec"]["schemaRef"]["name"] == schema]


def _identity(case: Case) -> str:
    group, resource, verb = case.verb
    return f"{verb}-{resource.replace('/', '-')}" + (f"-{group.partition('.')[0]}" if group else "")


@pytest.fixture(
    scope="module", params=["namespaces", *(pytest.param(mode, marks=pytest.mark.long) for mode in MODES[1:])]
)
def account(
    request: pytest.FixtureRequest, postgres18: PostgresEndpoint, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Confined]:
    """The operator with the chart's rights, in each mode, and a shop that is Ready."""
    directory = tmp_path_factory.mktemp("rights")
    if request.param == "namespaces":
        request.getfixturevalue("served")
        kubectl, kubeconfig = request.getfixturevalue("kubectl"), request.getfixturevalue("kubeconfig")
        with confined(kubectl, kubeconfig, postgres18, directory, "namespaces") as found:
            _declare(found.world)
            yield found
        return
    with Sandbox.start(postgres=(), mongodb=False) as sandbox:
        sandbox.kubectl("apply", "--server-side", "-f", str(CRDS))
        sandbox.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")
        with confined(sandbox.kubectl, sandbox.kubeconfig, postgres18, directory, request.param) as found:
            _declare(found.world)
            yield found


def _declare(world: World) -> None:
    world.server()
    world.schema("shop", postgres={"owner": world.role("owner"), "roles": [{"name": world.role("owner")}]})
    world.ready("DatabaseSchema", "shop", _SECONDS)
    user(world, "app")
    world.ready("DatabaseUser", "app", _SECONDS)


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=_identity(c), marks=() if c.quick else pytest.mark.long) for c in CASES]
)
def test_a_verb_that_is_missing_is_named_and_its_return_is_enough(account: Confined, case: Case):
    case.before(account.world)
    with account.without(case.verb):
        case.act(account.world)
        wait_for(lambda: account.told(case.verb), _SECONDS, what=lambda: account.world.operator.logs()[-2000:])
    case.after(account.world)
    assert account.world.operator.leads()


def test_no_login_is_made_before_it_is_written_down_what_has_to_be_removed(account: Confined):
    """Else the login of a resource that is deleted a moment later would stay, without anybody who knows of it."""
    world = account.world
    role = world.role("unwritten")
    there = f"SELECT 1 FROM pg_roles WHERE rolname = '{role}'"
    for verb in ((_G, "databaseusers/status", "patch"), (_G, "databaseusers", "patch")):
        _ready(world, _extra(world, "short"))
        with account.without(verb):
            user(world, "unwritten", schema="short", password={"length": 24})
            wait_for(lambda verb=verb: account.told(verb), _SECONDS)
            world.api.delete("DatabaseSchema", "short")
            wait_for(lambda: world.api.get("DatabaseSchema", "short") is None, _SECONDS)
            world.api.delete("DatabaseUser", "unwritten")
        wait_for(lambda: world.api.get("DatabaseUser", "unwritten") is None, _SECONDS)
        assert world.sql(there, database="postgres") == []


@pytest.mark.long
@pytest.mark.parametrize("verb", LISTED, ids=lambda verb: verb[1])
def test_without_a_list_the_start_fails_and_says_which(account: Confined, verb: Verb):
    if account.mode == "secrets" and verb in _OF_SECRETS:
        assert verb not in verbs_of(account.roles)
        return
    with account.without(verb):
        account.restart(leading=False)
        wait_for(lambda: not account.world.operator.daemon.alive, _SECONDS)
        assert account.world.operator.daemon.returncode == 1
        (ended,) = (line for line in account.world.operator.logs().splitlines() if line.startswith("error: "))
        assert f"may not list {verb[1]}" in ended
    account.restart()


@pytest.mark.long
def test_a_watch_that_is_refused_is_named_and_begins_when_it_may(account: Confined):
    watched = verbs_of(account.roles).intersection(WATCHED)
    with account.without(*watched):
        account.restart()
        for verb in watched:
            wait_for(lambda verb=verb: account.told(verb), _SECONDS)
    # the library tries again by itself
    account.world.api.patch("DatabaseSchema", "shop", {"spec": {"interval": "12s"}})
    account.world.ready("DatabaseSchema", "shop", _SECONDS)
    assert account.world.operator.leads()


@pytest.mark.long
def test_the_lease_needs_all_of_its_verbs(account: Confined):
    operator, kubectl = account.world.operator, account.kubectl
    with account.without(LEASE["update"]):
        wait_for(lambda: not operator.daemon.alive, _SECONDS)
        assert account.told(LEASE["update"])
        assert operator.daemon.returncode == 1
    for verb in ("get", "create"):
        operator.stop()
        kubectl("delete", "lease", "selvedge", "-n", account.world.namespace, "--ignore-not-found")
        with account.without(LEASE[verb]):
            account.restart(leading=False)
            wait_for(lambda verb=verb: account.told(LEASE[verb]), _SECONDS)
        wait_for(operator.leads, _SECONDS)


def test_at_its_start_the_operator_names_every_right_that_it_lacks(account: Confined):
    # where Secrets are reached in named namespaces only, which those are is known by the resources that name them
    rights = RIGHTS_BESIDE_SECRETS if account.mode == "secrets" else RIGHTS
    lacking = [verb for right in rights for verb in right.each()]
    with account.without(*lacking):
        account.restart(leading=False)
        wait_for(lambda: not account.world.operator.daemon.alive, _SECONDS)
        lines = [json.loads(line) for line in account.world.operator.logs().splitlines() if line.startswith("{")]
        (told,) = (line for line in lines if "lacks rights" in line["event"])
        assert "helm upgrade" in told["event"]
        assert len(told["missing"]) == len(lacking)
        assert any(text.startswith("patch databaseschemas.selvedge.dev/status in ") for text in told["missing"])
    account.restart()
    account.world.ready("DatabaseSchema", "shop", _SECONDS)
    assert "lacks rights" not in account.world.operator.logs()


@pytest.mark.parametrize("mode", MODES)
def test_the_chart_gives_what_is_needed_and_each_verb_is_tried(mode: Mode):
    roles = [d for d in chart_rights("shop", mode) if d["kind"] in ("Role", "ClusterRole")]
    given = verbs_of(roles)
    spared = _OF_SECRETS if mode == "secrets" else set()
    assert given == {verb for right in RIGHTS for verb in right.each()} - spared | set(LEASE.values())
    assert given == {*(case.verb for case in CASES), *LISTED, *WATCHED, *LEASE.values()} - spared
    (lease,) = (
        rule for role in roles for rule in role["rules"] if "get" in rule["verbs"] and "leases" in rule["resources"]
    )
    # of shards that are no more as well, whose pods give them back when they end
    assert lease["resourceNames"] == ["selvedge", *(lease_name("selvedge", index) for index in range(MOST))]
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert schema["properties"]["shards"]["maximum"] == MOST
