"""From 0.1.0 to this chart with live resources: nothing is written to a database, and everything stays Ready."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.chart_support import CHART, helm
from tests.cluster.release import KINDS, OLD_CHART, OPS, SECONDS, SHOP, Release, Sightings, release
from tests.cluster.world import wait_for

#: What an upgrade cannot change of an object, or what a running operator and its users know it by.
_KEPT = {
    "Deployment": lambda d: (d["metadata"]["name"], d["spec"]["selector"]),
    "Service": lambda d: (d["metadata"]["name"], d["spec"]["ports"]),
    "ServiceAccount": lambda d: d["metadata"]["name"],
    "RoleBinding": lambda d: (d["metadata"]["name"], d["roleRef"]),
    "ClusterRoleBinding": lambda d: (d["metadata"]["name"], d["roleRef"]),
    "PodDisruptionBudget": lambda d: d["metadata"]["name"],
    "ValidatingAdmissionPolicy": lambda d: d["metadata"]["name"],
}


def _objects(chart: Path) -> dict[str, list[Any]]:
    text = helm("template", "selvedge", str(chart), "--namespace", "ops").stdout
    found: dict[str, list[Any]] = {}
    for document in yaml.safe_load_all(text):
        if document and "helm.sh/hook" not in (document["metadata"].get("annotations") or {}):
            kind = document["kind"]
            if kind in _KEPT:
                found.setdefault(kind, []).append(_KEPT[kind](document))
            elif kind == "Role":
                found.setdefault("leases", []).append(document["rules"][-1]["resourceNames"])
    return found


def test_the_chart_of_0_1_0_can_be_upgraded_in_place():
    """Names that a running operator holds, and fields that the API server does not let change."""
    new, old = _objects(CHART), _objects(OLD_CHART)
    (leases,), (old_leases,) = new.pop("leases"), old.pop("leases")
    assert set(leases) >= set(old_leases)  # the pods of the older program go on until the new ones are there
    assert new == old


def test_values_that_0_1_0_did_not_have_may_be_missing():
    """``helm upgrade --reuse-values`` gives the new templates the old chart's defaults."""
    old, new = (yaml.safe_load(helm("show", "values", str(chart)).stdout) for chart in (OLD_CHART, CHART))
    missing = [key for key in new if key not in old]
    assert {"shards", "uninstall"} <= set(missing)
    unset = [flag for key in missing for flag in ("--set", f"{key}=null")]
    command = ("template", "selvedge", str(CHART), "--namespace", "ops")
    assert helm(*command, *unset).stdout == helm(*command).stdout


@pytest.mark.long
def test_an_upgrade_writes_to_no_database_and_leaves_everything_ready(tmp_path: Path):
    with release(tmp_path) as here:
        here.install(OLD_CHART)
        old = here.operator()
        here.declare()
        here.all_ready()
        here.passes(old)
        before, writes, uids = _versions(here), here.writes(), _uids(here)
        with Sightings(here) as sightings:
            here.upgrade()
            new = here.operator(leading=False)
            assert old.stop() == 0
            wait_for(new.leads, SECONDS)
            here.passes(new)
        assert not sightings.not_ready
        assert here.writes() == writes
        assert _versions(here) == before
        # back again: what this version stored, the one before reads
        assert new.stop() == 0
        here.helm("rollback", "selvedge", "1")
        again = here.operator()
        here.passes(again)
        here.all_ready()
        assert here.writes() == writes
        assert _uids(here) == uids
        # and as many as are asked for, and one again
        again.kill()
        for shards, names in ((3, [f"selvedge-shard-{index}" for index in range(3)]), (1, ["selvedge"])):
            here.upgrade(f"shards={shards}")
            listed = here.sandbox.kubectl("get", "deployment,pdb", "-n", OPS, "-o", "name").stdout.split()
            kinds = ("deployment.apps", "poddisruptionbudget.policy")
            assert sorted(listed) == sorted(f"{kind}/{name}" for kind in kinds for name in names)


@pytest.mark.long
def test_secrets_are_limited_while_it_runs(tmp_path: Path):
    """Nothing is taken away for a namespace that does not exist; with the right ones everything stays Ready."""
    user = f"system:serviceaccount:{OPS}:selvedge"
    with release(tmp_path) as here:
        here.install()
        old = here.operator()
        here.declare()
        here.all_ready()
        here.passes(old)
        before, writes = _versions(here), here.writes()
        flags = ("--reset-then-reuse-values", "--set", f"rbac.secretNamespaces={{{SHOP},nowhere}}")
        refused = here.helm("upgrade", "selvedge", str(CHART), *flags, check=False)
        assert "rbac.secretNamespaces names nowhere, which does not exist" in refused.stderr
        assert here.world.api.may(user, "", "secrets", "list")
        here.upgrade(f"rbac.secretNamespaces={{{SHOP}}}")
        wait_for(lambda: not here.world.api.may(user, "", "secrets", "list"))
        new = here.operator(leading=False, SELVEDGE_WATCH_SECRETS="false")
        assert old.stop() == 0
        wait_for(new.leads, SECONDS)
        here.passes(new)
        here.all_ready()
        assert here.writes() == writes
        assert _versions(here) == before


def _versions(here: Release) -> dict[str, str]:
    return here.world.api.versions(*KINDS, "Secret", "ConfigMap")


def _uids(here: Release) -> dict[str, str]:
    return {f"{k}/{o['metadata']['name']}": o["metadata"]["uid"] for k in KINDS for o in here.world.api.list(k)}
