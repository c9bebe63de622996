"""Taken away in any order where rights of the operator are in the namespaces that go: all, or those on Secrets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cluster.kube_api import KubeApi
from tests.cluster.plugin import Plugin
from tests.cluster.release import CHART, HANGING_SECONDS, OPS, SHOP, Jobs, Release, ends, release
from tests.cluster.user_support import user
from tests.cluster.world import World, wait_for


@contextmanager
def in_namespaces(directory: Path, *names: str) -> Iterator[tuple[Release, dict[str, World]]]:
    """The chart with rights in some namespaces only, an operator, and live resources in each of them."""
    with release(directory) as here, ExitStack() as closing_all:
        for name in names:
            here.sandbox.kubectl("create", "namespace", name)
        here.install(CHART, f"watchNamespaces={{{','.join(names)}}}")
        operator = here.operator(SELVEDGE_NAMESPACES=",".join(names), SELVEDGE_CLUSTER_UID="test")
        worlds = {}
        for name in names:
            api = closing_all.enter_context(closing(KubeApi(here.sandbox.kubeconfig, name)))
            worlds[name] = World(api, operator, name, name, here.postgres, here.sandbox.kubeconfig)
            here.declare(worlds[name])
        for world in worlds.values():
            here.all_ready(world)
            wait_for(lambda w=world: set(here.finalizers(w)) == {"DatabaseSchema/scratch", "DatabaseUser/scratch"})
        yield here, worlds


@pytest.mark.long
def test_in_namespaces_those_of_the_resources_first(tmp_path: Path):
    """Their contents are deleted in an order that varies, and with them the operator's rights: several at once."""
    with in_namespaces(tmp_path, SHOP, "cellar", "garden", "harbour") as (here, worlds):
        here.delete(*worlds)
        ends(
            lambda: all(here.gone(name) for name in worlds),
            what=lambda: ({name: here.message(name) for name in worlds}, here.world.operator.logs()[-3000:]),
        )
        assert {here.rows(f"{name}_kept") for name in worlds} == {5}
        # the Job that may not look there has nothing to do there
        with Jobs(here) as jobs:
            here.helm("uninstall", "selvedge", timeout=HANGING_SECONDS)
        (output,) = jobs.outputs
        assert output.startswith("0 resources let go\n")
        for name in worlds:  # it cannot know that there are none
            assert f"not released: DatabaseSchemas in namespace {name}: " in output
        assert not here.sandbox.kubectl("get", "validatingadmissionpolicies", "-o", "name").stdout
        assert {here.rows(f"{name}_kept") for name in worlds} == {5}


@pytest.mark.long
def test_with_secrets_in_namespaces_those_of_the_resources_first(tmp_path: Path):
    """The server stays, so that each login and database is removed on it, and its Secret in the namespace that goes."""
    names = ("cellar", "garden", "harbour", "island")
    with release(tmp_path) as here:
        for name in (SHOP, *names):
            here.sandbox.kubectl("create", "namespace", name)
        here.install(CHART, f"rbac.secretNamespaces={{{','.join([SHOP, *names[1:]])}}}")
        # as docs/guide/security.md has it
        by_hand = ("--clusterrole=ops-selvedge-secrets", "--serviceaccount=ops:selvedge")
        here.sandbox.kubectl("create", "rolebinding", "selvedge-secrets-too", "-n", names[0], *by_hand)
        here.operator(SELVEDGE_WATCH_SECRETS="false")
        here.world.server(here.postgres, access=[{"namespaces": {"from": "All"}}])
        for name in names:
            with closing(KubeApi(here.sandbox.kubeconfig, name)) as api:
                world = replace(here.world, api=api, namespace=name, name=name)
                server = {"name": "main", "namespace": SHOP}
                spec = {"serverRef": server, "database": name, "postgres": {}, "deletionPolicy": "Delete"}
                api.apply({"kind": "DatabaseSchema", "metadata": {"name": "shop"}, "spec": spec})
                user(world, "app", roles=[])
                here.all_ready(world)
        here.delete(*names)
        ends(
            lambda: all(here.gone(name) for name in names),
            what=lambda: ({name: here.message(name) for name in names}, here.world.operator.logs()[-3000:]),
        )
        left = "SELECT count(*) FROM pg_roles WHERE rolname ~ '_app$'"
        assert here.world.ask(left, database="postgres") == 0
        there = {name for (name,) in here.world.sql("SELECT datname FROM pg_database", database="postgres")}
        assert not there.intersection(names)
        here.delete(SHOP)
        with Jobs(here) as jobs:
            here.helm("uninstall", "selvedge", timeout=HANGING_SECONDS)
        assert [output.splitlines()[0] for output in jobs.outputs] == ["0 resources let go"]
        kinds = ("clusterroles,clusterrolebindings,validatingadmissionpolicies", "-o", "name")
        assert "selvedge" not in here.sandbox.kubectl("get", *kinds).stdout


@pytest.mark.long
def test_in_namespaces_where_the_rights_went_before(tmp_path: Path):
    """By somebody's hand, or without ``uninstall.keepRights``: it is said, and let go by who may."""
    with in_namespaces(tmp_path, SHOP, "cellar") as (here, worlds):
        for name, world in worlds.items():
            here.sandbox.kubectl("delete", "role", "selvedge", "-n", name)
            user = f"system:serviceaccount:{OPS}:selvedge"
            wait_for(lambda w=world, u=user: not w.api.may(u, "selvedge.dev", "databaseschemas", "patch"))
        here.delete(*worlds)
        for name in worlds:
            ends(
                lambda n=name: "selvedge.dev/cleanup in 2 resource" in here.message(n), what=lambda: here.message(SHOP)
            )

        for name in worlds:
            done = Plugin(here.sandbox.kubeconfig, name)("doctor", "-o", "json")
            steps = {f["reason"]: f["next"] for f in json.loads(done.stdout)["findings"]}
            assert f"selvedge release -n {name}, which leaves the databases as they are" in steps["NamespaceHeld"]
        done = here.let_go("-n", SHOP)
        assert done.returncode == 0, done.stderr
        assert "2 resources let go" in done.stdout
        ends(lambda: here.gone(SHOP), what=lambda: here.message(SHOP))
        # the rights of the chart's Job are kept as the operator's are
        with Jobs(here) as jobs:
            here.helm("uninstall", "selvedge", timeout=HANGING_SECONDS)
        assert "released DatabaseSchema cellar/scratch\nreleased DatabaseUser cellar/scratch\n" in jobs.outputs[0]
        ends(lambda: here.gone("cellar"), what=lambda: here.message("cellar"))
        # of the others its watch may have told in time: it removed what was to be removed, and could not say so
        assert {here.rows(f"{name}_kept") for name in worlds} == {5}


@pytest.mark.long
def test_in_namespaces_the_namespace_of_the_operator_first(tmp_path: Path):
    """The Roles in the others stay, for accounts that somebody may make anew; they go as the page has it."""
    with release(tmp_path) as here:
        here.sandbox.kubectl("create", "namespace", SHOP)
        here.install(CHART, f"watchNamespaces={{{SHOP}}}")
        here.delete(OPS)
        ends(lambda: here.gone(OPS), what=lambda: here.message(OPS))
        kinds = ("roles,rolebindings", "--all-namespaces", "--selector", "app.kubernetes.io/name=selvedge")
        left = here.sandbox.kubectl("get", *kinds, "-o", "name").stdout.split()
        assert sorted(name.partition("/")[2] for name in left) == ["selvedge", "selvedge", *["selvedge-release"] * 2]
        here.sandbox.kubectl("delete", *kinds)
        assert "selvedge" not in here.sandbox.kubectl("get", *kinds[:2], "-o", "name").stdout
