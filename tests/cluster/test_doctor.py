"""``kubectl selvedge doctor``: a set-up is broken in each way, and each is found with its object and its next step."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from sandbox.pki import Authority
from sandbox.ports import free_port
from tests.cluster.chart_support import render
from tests.cluster.kube_api import Document
from tests.cluster.plugin import Plugin
from tests.cluster.rights import as_account
from tests.cluster.test_bad_servers import silent
from tests.cluster.world import World, wait_for

Finding = dict[str, Any]
_QUICK = {"SELVEDGE_LEASE_DURATION": "3s", "SELVEDGE_RENEW_DEADLINE": "2s", "SELVEDGE_RETRY_PERIOD": "500ms"}


class Doctor:
    """The plugin's doctor, told where this test's operator keeps its Lease."""

    def __init__(self, world: World, kubeconfig: Path) -> None:
        self._plugin = Plugin(kubeconfig, world.namespace)
        self._lease = f"{world.namespace}/{world.operator.lease_name}"

    def __call__(self, *arguments: str, lease: str = "", patience: str = "60") -> tuple[int, Document]:
        options = ("--lease", lease or self._lease, "--patience", patience, "-o", "json", *arguments)
        done = self._plugin("doctor", *options)
        assert done.stderr == ""
        report: Document = json.loads(done.stdout)
        assert (done.returncode == 0) is report["healthy"]
        for finding in report["findings"]:
            assert finding["message"]
            assert finding["next"]
        return done.returncode, report

    def text(self, *arguments: str) -> str:
        return self._plugin("doctor", "--lease", self._lease, *arguments).stdout


@pytest.fixture
def doctor(bare: World, kubeconfig: Path) -> Doctor:
    return Doctor(bare, kubeconfig)


def found(report: Document, name: str) -> Finding:
    """The finding about the object of this name that is no notice; there is exactly one."""
    (one,) = [f for f in report["findings"] if f["object"]["name"] == name and f["severity"] != "Notice"]
    return one


def names(refs: list[Document]) -> list[str]:
    return sorted(f"{ref['kind']}/{ref['name']}" for ref in refs)


def watched(world: World, *secrets: str) -> None:
    for name in secrets:
        world.api.patch("Secret", name, {"metadata": {"labels": {"selvedge.dev/watch": "true"}}})


def test_a_healthy_set_up_has_no_finding(world: World, doctor: Doctor) -> None:
    watched(world, "main-admin", "main-ca")
    world.schema("shop", postgres={"roles": [{"name": world.role("app")}], "schemas": [{"name": "app"}]})
    world.ready("DatabaseSchema", "shop")
    world.ready("DatabaseServer", "main")
    status, report = doctor(patience="0")
    assert (status, report["findings"]) == (0, [])
    assert report["looked"] == {"DatabaseServer": 1, "DatabaseSchema": 1, "DatabaseUser": 0, "MigrationRun": 0}
    assert doctor.text().splitlines()[-1] == "nothing found; looked at 1 DatabaseServer, 1 DatabaseSchema"
    # what is only worth knowing does not fail
    world.api.patch("Secret", "main-admin", {"metadata": {"labels": {"selvedge.dev/watch": None}}})
    status, report = doctor()
    (notice,) = report["findings"]
    assert (status, notice["severity"], notice["reason"]) == (0, "Notice", "SecretNotWatched")
    assert "label secret main-admin selvedge.dev/watch=true" in notice["next"]


def test_each_wrong_server_is_found_with_what_suffers_from_it(bare: World, doctor: Doctor, tmp_path: Path) -> None:
    world, port = bare, bare.endpoint.port
    limited = world.role("limited")
    world.sql(f"CREATE ROLE {limited} LOGIN PASSWORD 'of-no-use-elsewhere'", database="postgres")
    ca = Authority(tmp_path / "pki", "Another CA").certificate_path.read_text(encoding="utf-8")
    expected = {
        "no-secret": "SecretNotFound",
        "wrong-key": "SecretKeyMissing",
        "wrong-password": "AuthenticationFailed",
        "wrong-ca": "TLSVerificationFailed",
        "no-host": "HostNotFound",
        "nobody": "Unreachable",
        "mute": "ConnectionTimeout",
        "limited": "InsufficientPrivileges",
    }
    with ExitStack() as stack:
        mute = stack.enter_context(silent())
        world.server(name="no-secret", credentials={"secretRef": {"name": "absent"}})
        world.server(
            name="wrong-key", credentials={"secretRef": {"name": "wrong-key-admin"}, "keys": {"password": "pass"}}
        )
        world.server(name="wrong-password", login=("postgres", "not-this-one"))
        world.server(name="wrong-ca", ca=ca)
        world.server(name="no-host", hosts=[{"host": "database.invalid", "port": port}])
        world.server(name="nobody", hosts=[{"host": "localhost", "port": free_port()}])
        world.server(name="mute", hosts=[{"host": "localhost", "port": mute}], connections={"connectTimeout": "1s"})
        world.server(name="limited", login=(limited, "of-no-use-elsewhere"))
        world.schema("shop", server="wrong-password", postgres={})
        for name, reason in expected.items():
            world.until("DatabaseServer", name, "False", reason)
        world.until("DatabaseSchema", "shop", "False")
        status, report = doctor()
    assert status == 1
    assert {name: found(report, name)["reason"] for name in expected} == expected
    assert names(found(report, "wrong-password")["affects"]) == ["DatabaseSchema/shop"]
    assert [f for f in report["findings"] if f["object"]["name"] == "shop"] == []
    assert "GRANT" in " ".join(found(report, "limited")["details"]) or "ALTER ROLE" in str(found(report, "limited"))
    assert "pass" in found(report, "wrong-key")["message"]
    assert f"namespace {world.namespace}" in found(report, "no-secret")["next"]


@pytest.mark.long
def test_a_secret_that_goes_later_is_found_before_anybody_needs_it(world: World, doctor: Doctor) -> None:
    world.ready("DatabaseServer", "main")
    world.operator.stop()
    world.api.delete("Secret", "main-ca")
    _, report = doctor()
    missing = found(report, "main")
    assert missing["reason"] == "SecretNotFound"
    assert "spec.tls.caSecretRef" in missing["message"]


def test_what_waits_for_a_person_is_told_apart_from_what_is_broken(world: World, doctor: Doctor) -> None:
    world.schema("waits", apply="OnApproval", postgres={"schemas": [{"name": "app"}]})
    world.schema("lost", server="absent", database=world.name + "_l", postgres={})
    world.schema("asleep", database=world.name + "_s", suspend=True, postgres={})
    world.server(name="others", access=[{"namespaces": {"from": "Same"}, "databases": ["others"]}])
    world.schema("denied", server="others", database=world.name + "_d", postgres={})
    world.until("DatabaseSchema", "waits", "False", "WaitingForApproval")
    world.until("DatabaseSchema", "lost", "False", "WaitingForServer")
    world.until("DatabaseSchema", "denied", "False", "AccessDenied")
    world.until("DatabaseSchema", "asleep", "Unknown", "Suspended")
    status, report = doctor()
    assert status == 1
    waits = found(report, "waits")
    assert (waits["severity"], waits["reason"]) == ("Decision", "WaitingForApproval")
    assert f"kubectl selvedge -n {world.namespace} plan waits" in waits["next"]
    denied = found(report, "denied")
    assert (denied["severity"], denied["reason"]) == ("Error", "AccessDenied")
    assert "spec.access" in denied["next"]
    absent = found(report, "absent")
    assert (absent["object"]["kind"], absent["reason"]) == ("DatabaseServer", "NotFound")
    assert names(absent["affects"]) == ["DatabaseSchema/lost"]
    (asleep,) = [f for f in report["findings"] if f["object"]["name"] == "asleep"]
    assert (asleep["severity"], asleep["reason"]) == ("Notice", "Suspended")
    text = doctor.text()
    assert text.index("Error: ") < text.index("Decision: ") < text.index("Notice: ")


def test_an_operator_that_is_gone_explains_what_nobody_looks_at(world: World, doctor: Doctor) -> None:
    watched(world, "main-admin", "main-ca")
    world.schema("shop", deletionPolicy="Delete", postgres={})
    world.ready("DatabaseSchema", "shop")
    world.schema("other", database=world.name + "_o", postgres={})
    world.ready("DatabaseSchema", "other")
    assert world.operator.stop() == 0
    world.schema("other", database=world.name + "_o", postgres={"schemas": [{"name": "app"}]})
    world.api.delete("DatabaseSchema", "shop")
    status, report = doctor(patience="0")
    assert status == 1
    lease = found(report, world.operator.lease_name)
    assert (lease["object"]["kind"], lease["reason"]) == ("Lease", "LeaseNotHeld")
    assert names(lease["affects"]) == ["DatabaseSchema/other", "DatabaseSchema/shop"]
    assert [f["object"]["name"] for f in report["findings"]] == [world.operator.lease_name]
    _, report = doctor(lease=f"{world.namespace}/never-there", patience="0")
    assert found(report, "never-there")["reason"] == "NoOperator"


@pytest.mark.long
@pytest.mark.parametrize("operator_env", [_QUICK], indirect=True)
def test_an_operator_that_died_left_a_lease_that_expired(bare: World, doctor: Doctor) -> None:
    bare.operator.kill()
    lease = wait_for(lambda: _when(doctor()[1], lambda f: f["reason"] == "LeaseExpired"))
    assert "has not renewed it" in lease["message"]
    assert f"kubectl -n {bare.namespace} get deploy,pods" in lease["next"]


def _when(report: Document, wanted: Callable[[Finding], bool]) -> Finding | None:
    return next((f for f in report["findings"] if wanted(f)), None)


@pytest.mark.long
def test_a_deletion_that_hangs_and_a_status_that_is_old_are_found_beside_a_live_operator(
    world: World, doctor: Doctor
) -> None:
    world.schema("shop", deletionPolicy="Delete", postgres={})
    world.ready("DatabaseSchema", "shop")
    # the server is gone for good before what is on it is deleted
    world.server(hosts=[{"host": "localhost", "port": free_port()}])
    world.until("DatabaseServer", "main", "False", "Unreachable")
    world.api.delete("DatabaseSchema", "shop")
    stuck = wait_for(lambda: _when(doctor(patience="0")[1], lambda f: f["reason"] == "DeletionStuck"))
    assert "selvedge.dev/cleanup" in stuck["message"]
    assert "selvedge.dev/abandon=true" in stuck["next"]
    # a resource that another's finalizer holds is not ours to let go
    world.api.apply(
        {
            "kind": "DatabaseUser",
            "metadata": {"name": "held", "finalizers": ["example.com/mine"]},
            "spec": {"schemaRef": {"name": "shop"}, "roles": [], "deletionPolicy": "Retain"},
        }
    )
    world.api.delete("DatabaseUser", "held")
    held = found(doctor(patience="0")[1], "held")
    assert "not selvedge's" in held["next"]
    world.api.patch("DatabaseUser", "held", {"metadata": {"finalizers": []}})
    world.api.patch("DatabaseSchema", "shop", {"metadata": {"annotations": {"selvedge.dev/abandon": "true"}}})
    wait_for(lambda: world.api.get("DatabaseSchema", "shop") is None)


@pytest.mark.long
def test_the_rights_of_the_operators_account_are_asked_for(world: World, doctor: Doctor, kubectl) -> None:
    watched(world, "main-admin", "main-ca")
    world.ready("DatabaseServer", "main")
    namespace = world.namespace
    documents = render(namespace, f"watchNamespaces={{{namespace}}}", "clusterUid=any", "rbac.userRoles=false")
    rights = [d for d in documents if d["kind"] in ("ServiceAccount", "Role", "RoleBinding")]
    kubectl("apply", "-f", "-", input="---\n".join(json.dumps(document) + "\n" for document in rights))
    account = ("--service-account", f"{namespace}/selvedge")
    # the authorizer takes a new role up a moment later
    wait_for(lambda: doctor(*account)[1]["healthy"], what=lambda: doctor(*account)[1]["findings"])
    (role,) = [d for d in rights if d["kind"] == "Role" and d["metadata"]["name"] == "selvedge"]
    for rule in role["rules"]:
        if rule["resources"] == ["secrets"] and "list" in rule["verbs"]:
            rule["verbs"].remove("list")
    role["rules"] = [rule for rule in role["rules"] if rule["resources"] not in (["events"], ["namespaces"])]
    kubectl("apply", "-f", "-", input=json.dumps(role))
    lacking = found(wait_for(lambda: _unhealthy(doctor(*account)[1])), "selvedge")
    assert lacking["object"]["kind"] == "ServiceAccount"
    assert lacking["details"] == [
        "get namespaces: the labels by which a server's access selects",
        "create events.events.k8s.io: say what changed",
        "list secrets: see at once that one with the label selvedge.dev/watch changed",
    ]
    # what the chart gives apart is asked for where a resource needs it
    image = {"image": {"reference": "registry.example/migrations:1"}}
    spec = {"schemaRef": {"name": "shop"}, "source": image}
    world.api.apply({"kind": "MigrationRun", "metadata": {"name": "up"}, "spec": spec})
    assert found(doctor(*account)[1], "selvedge")["details"][3:] == [
        "get, create, delete jobs.batch: read migrations out of container images",
        "list pods: see how far the pod is that reads an image",
        "get pods/log: take the migrations of an image out of that pod's log",
    ]


def _unhealthy(report: Document) -> Document | None:
    return None if report["healthy"] else report


@pytest.mark.long
def test_who_may_see_little_is_told_what_was_not_checked(
    world: World,
    kubectl,
    kubeconfig: Path,
    tmp_path: Path,
) -> None:
    world.schema("waits", apply="OnApproval", postgres={"schemas": [{"name": "app"}]})
    world.until("DatabaseSchema", "waits", "False", "WaitingForApproval")
    namespace = world.namespace
    kubectl("create", "serviceaccount", "viewer", "-n", namespace)
    kinds = "databaseservers,databaseschemas,databaseusers"
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "viewer"}}
    rules = [{"apiGroups": ["selvedge.dev"], "resources": kinds.split(","), "verbs": ["get", "list"]}]
    kubectl("-n", namespace, "apply", "-f", "-", input=json.dumps({**role, "rules": rules}))
    kubectl("create", "rolebinding", "viewer", "--role=viewer", f"--serviceaccount={namespace}:viewer", "-n", namespace)
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(as_account(kubectl, kubeconfig, namespace, "viewer")))

    def seen() -> Document | None:
        report = Doctor(world, path)("--service-account", f"{namespace}/selvedge")[1]
        return report if report["looked"]["DatabaseSchema"] else None

    report = wait_for(seen)
    unchecked = " ".join(report["unchecked"])
    for what in ("of this version", "Deployment", "Lease", "Secrets of namespace", "rights of the operator"):
        assert what in unchecked
    assert "you may not list migrationruns" in found(report, namespace)["message"]
    assert "you lack the verb approve" in found(report, "waits")["next"]
