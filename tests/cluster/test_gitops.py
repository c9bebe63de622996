"""GitOps tools over real status objects: kstatus, Argo CD's Lua and Flux's CEL agree, and none is too early."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from sandbox.ports import free_port
from tests.cluster.health_checks import GITOPS, argo, argo_health, flux, kstatus, kustomization
from tests.cluster.history import History
from tests.cluster.kube_api import Document
from tests.cluster.plugin import Plugin
from tests.cluster.world import World, condition, verdict, wait_for

KINDS = ("DatabaseServer", "DatabaseSchema", "DatabaseUser", "MigrationRun")


def agreed(obj: Document) -> str:
    """The verdict of all three; they differ only where one knows more words than another."""
    status = kstatus(obj)
    said = (status, argo(obj), flux(obj))
    assert said in {
        ("Current", "Healthy", "Current"),
        ("InProgress", "Progressing", "InProgress"),
        ("InProgress", "Suspended", "InProgress"),  # waits for a person, or spec.suspend
        ("InProgress", "Degraded", "InProgress"),  # was good, failed, and is tried again
        ("Failed", "Degraded", "Failed"),
        ("Terminating", "Progressing", "InProgress"),
    }, (said, obj)
    # too early: Current is what the operator verified, for the generation that stands there
    if status == "Current":
        assert verdict(obj)[0] == "True"
        assert obj["status"]["observedGeneration"] == obj["metadata"]["generation"]
    return status


@contextmanager
def histories(world: World, kubeconfig: Path) -> Iterator[dict[str, History]]:
    """All states of all kinds; each is judged, and the first of each generation is never Current."""
    first: set[tuple[str, str, int]] = set()

    def judge(obj: Document) -> None:
        generation = obj["metadata"]["generation"]
        key = (obj["kind"], obj["metadata"]["uid"], generation)
        said = agreed(obj)
        if key not in first:
            first.add(key)
            assert said in ("InProgress", "Terminating"), ("the first state of a generation", said, obj)

    with ExitStack() as stack:
        yield {kind: stack.enter_context(History(kubeconfig, world.namespace, kind, judge)) for kind in KINDS}


def verdicts(history: History, name: str) -> list[str]:
    """The verdicts of kstatus on one object, each change once."""
    found: list[str] = []
    for obj in history.of(name):
        said = kstatus(obj)
        if not found or found[-1] != said:
            found.append(said)
    return found


def migrations(world: World, **files: str) -> Document:
    data = {f"{name}.sql": text for name, text in files.items()}
    metadata = {"name": "files", "labels": {"selvedge.dev/watch": "true"}}
    world.api.apply({"kind": "ConfigMap", "metadata": metadata, "data": data})
    return {"source": {"configMaps": [{"name": "files"}]}}


def test_nothing_is_current_too_early_from_apply_to_deletion(bare: World, kubeconfig: Path) -> None:
    world = bare
    role, owner = world.role("app"), world.role("owner")
    grants = [{"name": "connect", "privileges": ["CONNECT"], "objects": {"database": True}, "to": [role]}]
    roles = [{"name": owner}, {"name": role}]
    postgres: Document = {"owner": owner, "roles": roles, "schemas": [{"name": "app"}], "grants": grants}
    with histories(world, kubeconfig) as watched:
        # everything at once, as a GitOps tool applies it
        source = migrations(world, **{"20250101000000_a": "CREATE TABLE a (id int);"})
        world.schema("shop", postgres=postgres, migrations=source, deletionPolicy="Delete")
        user = {"schemaRef": {"name": "shop"}, "username": world.role("login"), "roles": [{"role": role}]}
        world.api.apply({"kind": "DatabaseUser", "metadata": {"name": "app"}, "spec": user})
        world.server()
        for kind, name in (("DatabaseServer", "main"), ("DatabaseSchema", "shop"), ("DatabaseUser", "app")):
            world.ready(kind, name)
        run = wait_for(lambda: next(iter(watched["MigrationRun"].states), ""))
        world.ready("MigrationRun", run)
        # a change
        postgres["schemas"] = [{"name": "app"}, {"name": "more"}]
        world.schema("shop", postgres=postgres, migrations=source, deletionPolicy="Delete")
        world.ready("DatabaseSchema", "shop")
        # one that waits for a person
        postgres["schemas"] = [{"name": "app"}, {"name": "more"}, {"name": "third"}]
        world.schema("shop", postgres=postgres, migrations=source, apply="OnApproval", deletionPolicy="Delete")
        waiting = world.until("DatabaseSchema", "shop", "False", "WaitingForApproval")
        assert (kstatus(waiting), argo(waiting), flux(waiting)) == ("InProgress", "Suspended", "InProgress")
        world.api.patch("DatabaseSchema", "shop", {"spec": {"approvedPlan": waiting["status"]["plan"]["digest"]}})
        world.ready("DatabaseSchema", "shop")
        # suspended
        world.api.patch("DatabaseSchema", "shop", {"spec": {"suspend": True}})
        asleep = world.until("DatabaseSchema", "shop", "Unknown", "Suspended")
        assert (kstatus(asleep), argo(asleep), flux(asleep)) == ("InProgress", "Suspended", "InProgress")
        world.api.patch("DatabaseSchema", "shop", {"spec": {"suspend": False}})
        world.ready("DatabaseSchema", "shop")
        # stalled
        world.schema("wrong", database=world.name + "_w", mongodb={})
        wrong = world.until("DatabaseSchema", "wrong", "False", "InvalidSpec")
        assert (kstatus(wrong), argo(wrong), flux(wrong)) == ("Failed", "Degraded", "Failed")
        # deleting
        for kind, name in (("DatabaseUser", "app"), ("DatabaseSchema", "shop")):
            world.api.delete(kind, name)
            wait_for(lambda kind=kind, name=name: name in watched[kind].gone)
        assert verdicts(watched["DatabaseServer"], "main")[:2] == ["InProgress", "Current"]
        assert verdicts(watched["DatabaseUser"], "app") == ["InProgress", "Current", "Terminating"]
        assert verdicts(watched["DatabaseSchema"], "shop") == [
            *["InProgress", "Current"] * 4,
            "Terminating",
        ]
        assert verdicts(watched["DatabaseSchema"], "wrong") == ["InProgress", "Failed"]
        assert verdicts(watched["MigrationRun"], run)[:2] == ["InProgress", "Current"]


@pytest.mark.long
def test_runs_that_succeed_fail_and_wait(bare: World, kubeconfig: Path) -> None:
    world, owner = bare, bare.role("owner")
    with histories(world, kubeconfig) as watched:
        world.server()
        world.schema("shop", postgres={"owner": owner, "roles": [{"name": owner}]})
        world.ready("DatabaseSchema", "shop")
        for name, text in {"good": "CREATE TABLE a (id int);", "bad": "CREATE TABLE b (id nothing);"}.items():
            source = {"inline": {"files": {f"2025010100000{len(name) - 3}_{name}.sql": text}}}
            spec = {"schemaRef": {"name": "shop"}, "action": "Up", "source": source}
            world.api.apply({"kind": "MigrationRun", "metadata": {"name": name}, "spec": spec})
            world.until("MigrationRun", name, "True" if name == "good" else "False")
            wait_for(lambda name=name: verdicts(watched["MigrationRun"], name)[-1:] in (["Current"], ["Failed"]))
        text = "-- migrate:up\nCREATE TABLE a (id int);\n-- migrate:down\nDROP TABLE a;"
        source = {"inline": {"files": {"20250101000001_good.sql": text}}}
        down = {"schemaRef": {"name": "shop"}, "action": "Down", "source": source}
        world.api.apply({"kind": "MigrationRun", "metadata": {"name": "back"}, "spec": down})
        world.until("MigrationRun", "back", "False")
    assert verdicts(watched["MigrationRun"], "good") == ["InProgress", "Current"]
    assert verdicts(watched["MigrationRun"], "bad") == ["InProgress", "Failed"]


@pytest.mark.long
def test_a_server_that_goes_away_is_degraded_for_argo_and_in_progress_for_the_others(
    bare: World, kubeconfig: Path
) -> None:
    world = bare
    with histories(world, kubeconfig):
        world.server()
        world.schema("shop", postgres={})
        world.ready("DatabaseSchema", "shop")
        world.server(hosts=[{"host": "localhost", "port": free_port()}])
        server = world.until("DatabaseServer", "main", "False", "Unreachable")
        world.now("DatabaseSchema", "shop")
        schema = wait_for(lambda: _away(world.api.get("DatabaseSchema", "shop")))
        for obj in (server, schema):
            assert (kstatus(obj), argo(obj), flux(obj)) == ("InProgress", "Degraded", "InProgress")
        assert "Unreachable" in argo_health(server)[1]
        # a new one may be starting
        world.server(name="new", hosts=[{"host": "localhost", "port": free_port()}])
        new = world.until("DatabaseServer", "new", "False", "Unreachable")
        assert argo(new) == "Progressing"


def _away(obj: Document | None) -> Document | None:
    return obj if obj and condition(obj)["status"] == "False" else None


def test_without_an_operator_nothing_is_current(unwatched: World) -> None:
    """A resource without any status is what kstatus takes for Current: the CRDs' default keeps it from that."""
    world = unwatched
    for document in (
        world.server_document(world.endpoint),
        world.schema_document("shop", postgres={}),
        {"kind": "DatabaseUser", "metadata": {"name": "app"}, "spec": {"schemaRef": {"name": "shop"}, "roles": []}},
        {"kind": "MigrationRun", "metadata": {"name": "run"}, "spec": {"schemaRef": {"name": "shop"}}},
    ):
        answered = world.api.apply(document)
        stored = world.api.get(document["kind"], document["metadata"]["name"])
        for obj in (answered, stored):
            assert obj is not None
            assert (kstatus(obj), argo(obj), flux(obj)) == ("InProgress", "Progressing", "InProgress")
        assert kstatus({**answered, "status": {}}) == "Current"  # so it would be


def test_two_managers_share_a_resource_by_server_side_apply(world: World, kubectl: Any, kubeconfig: Path) -> None:
    """The layout of docs/guide/gitops.md: Git has the spec, a person the approval, another team a role of its own."""
    namespace, ours, theirs = world.namespace, world.role("ours"), world.role("theirs")

    def apply(manager: str, *, force: bool = False, **spec: Any) -> tuple[int, str, str]:
        document = world.schema_document("shop", **spec)
        document["apiVersion"] = "selvedge.dev/v1alpha1"
        flags = ["--force-conflicts"] if force else []
        command = ["apply", "--server-side", f"--field-manager={manager}", *flags, "-f", "-", "-n", namespace]
        done = kubectl(*command, "-o", "json", input=json.dumps(document), check=False)
        version = json.loads(done.stdout)["metadata"]["resourceVersion"] if done.returncode == 0 else ""
        return done.returncode, version, done.stderr

    git: Document = {"apply": "OnApproval", "postgres": {"roles": [{"name": ours}], "schemas": [{"name": "app"}]}}
    assert apply("kustomize-controller", force=True, **git)[0] == 0
    waiting = world.until("DatabaseSchema", "shop", "False", "WaitingForApproval")
    plugin = Plugin(kubeconfig, namespace)
    approved = plugin("approve", "shop", "--yes", "--digest", waiting["status"]["plan"]["digest"], "-o", "json")
    assert json.loads(approved.stdout)["approved"] == waiting["status"]["plan"]["digest"]
    world.ready("DatabaseSchema", "shop")

    # Git applies again, as it does every few minutes: nothing changes, and the approval stays
    before = _spec(world)
    assert apply("kustomize-controller", force=True, **git)[0] == 0
    assert _spec(world) == before
    assert before["approvedPlan"] == waiting["status"]["plan"]["digest"]

    # another manager adds what is its own, by the key of a list, and Git leaves it alone
    document = {
        "apiVersion": "selvedge.dev/v1alpha1",
        "kind": "DatabaseSchema",
        "metadata": {"name": "shop", "namespace": namespace},
        "spec": {"postgres": {"roles": [{"name": theirs}]}},
    }
    partial = ["apply", "--server-side", "--field-manager=reporting-team", "-f", "-"]
    added = kubectl(*partial, input=json.dumps(document), check=False)
    assert added.returncode == 0, added.stderr
    assert apply("kustomize-controller", force=True, **git)[0] == 0
    assert sorted(role["name"] for role in _spec(world)["postgres"]["roles"]) == sorted([ours, theirs])
    digest = world.until("DatabaseSchema", "shop", "False", "Superseded")["status"]["plan"]["digest"]
    assert plugin("approve", "shop", "--yes", "--digest", digest).returncode == 0
    world.ready("DatabaseSchema", "shop")
    assert world.ask(f"SELECT count(*) FROM pg_roles WHERE rolname IN ('{ours}', '{theirs}')") == 2

    # a field of Git's is refused to the other without force, and says whose it is
    document["spec"] = {"apply": "Auto", "postgres": {"roles": [{"name": theirs}]}}
    conflict = kubectl(*partial, input=json.dumps(document), check=False)
    assert conflict.returncode != 0
    assert "kustomize-controller" in conflict.stderr
    assert "spec.apply" in conflict.stderr

    # what the other takes back goes, and nothing else
    document["spec"] = {"postgres": {}}
    assert kubectl(*partial, input=json.dumps(document), check=False).returncode == 0
    assert [role["name"] for role in _spec(world)["postgres"]["roles"]] == [ours]


def _spec(world: World) -> Document:
    found = world.api.get("DatabaseSchema", "shop")
    assert found is not None
    spec: Document = found["spec"]
    return spec


@pytest.mark.parametrize("kind", KINDS)
def test_each_thing_that_speaks_against_it_is_enough(kind: str) -> None:
    """What the operator writes at once, and so never shows alone, is told apart all the same."""
    ready = {"type": "Ready", "status": "True", "reason": "Verified", "message": "", "observedGeneration": 2}
    metadata, status = {"generation": 2}, {"observedGeneration": 2, "conditions": [ready]}
    good = {"kind": kind, "metadata": metadata, "spec": {}, "status": status}
    assert agreed(good) == "Current"
    assert agreed({**good, "metadata": {**metadata, "deletionTimestamp": "2026-01-01T00:00:00Z"}}) == "Terminating"
    assert agreed({**good, "status": {**status, "observedGeneration": 1}}) == "InProgress"
    for other in ({}, {"conditions": [{**ready, "observedGeneration": 1}]}, {"conditions": []}):
        # kstatus looks at the status as a whole only
        unsaid = {**good, "status": {"observedGeneration": 2, **other}}
        assert (argo(unsaid), flux(unsaid)) == ("Progressing", "InProgress")
    bad = {**ready, "status": "False", "reason": "InvalidSpec"}
    stalled = {"type": "Stalled", "status": "True", "reason": "InvalidSpec"}
    assert agreed({**good, "status": {**status, "conditions": [bad, stalled]}}) == "Failed"
    working = {"type": "Reconciling", "status": "True", "reason": "Reconciling"}
    assert agreed({**good, "status": {**status, "conditions": [bad, working]}}) == "InProgress"


@pytest.mark.parametrize("kind", KINDS)
def test_the_files_for_argo_cd_hold_the_same_lua(kind: str) -> None:
    document = yaml.safe_load((GITOPS / "argocd" / "argocd-cm.yaml").read_text())
    lua = (GITOPS / "argocd" / "selvedge.dev" / kind / "health.lua").read_text()
    assert document["data"][f"resource.customizations.health.selvedge.dev_{kind}"] == lua
    assert len(document["data"]) == len(KINDS)
    assert all(len(line) <= 120 for line in lua.splitlines())


def test_flux_is_told_of_every_kind() -> None:
    checks = kustomization()["spec"]["healthCheckExprs"]
    assert [check["kind"] for check in checks] == list(KINDS)
    assert {check["apiVersion"] for check in checks} == {"selvedge.dev/v1alpha1"}
