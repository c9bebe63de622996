"""The operator as the chart's ServiceAccount, on rights of which one can be taken away while it runs."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from sandbox import PostgresEndpoint
from selvedge.core.rights import named as resource_named
from tests.cluster.chart_support import render
from tests.cluster.kube_api import Document, KubeApi
from tests.cluster.operator_process import OperatorProcess
from tests.cluster.world import World, condition, wait_for
from tests.conftest import Kubectl

#: In named namespaces; in all of them; in all of them, with Secrets in named ones only.
Mode = Literal["namespaces", "cluster", "secrets"]
MODES: tuple[Mode, ...] = ("namespaces", "cluster", "secrets")

#: Group, resource and verb.
Verb = tuple[str, str, str]

#: A leader that may not renew gives up soon.
_LEASE = {"SELVEDGE_LEASE_DURATION": "6s", "SELVEDGE_RENEW_DEADLINE": "4s", "SELVEDGE_RETRY_PERIOD": "500ms"}
_UID = "7d0f0c0e-0000-4000-8000-000000000000"
_ROLES = ("Role", "ClusterRole")
_RIGHTS = ("ServiceAccount", *_ROLES, *(f"{kind}Binding" for kind in _ROLES))


def chart_rights(namespace: str, mode: Mode, *, named: Sequence[str] = (), images: bool = False) -> list[Document]:
    """The chart's ServiceAccount, and what it binds to it; ``named`` namespaces are this one where none is given."""
    return [document for document in _rights(namespace, mode, named, images=images) if not _for_release(document)]


def release_rights(namespace: str, mode: Mode) -> list[Document]:
    """The account of the Job before an uninstallation, and what the chart binds to it."""
    return [document for document in _rights(namespace, mode) if _for_release(document)]


def _rights(namespace: str, mode: Mode, named: Sequence[str] = (), *, images: bool = False) -> Iterator[Document]:
    names = ",".join(named or [namespace])
    settings = {"namespaces": [f"watchNamespaces={{{names}}}"], "secrets": [f"rbac.secretNamespaces={{{names}}}"]}
    only = settings.get(mode, [])
    only += ["migrationImages.enabled=true"] if images else []
    documents = render(namespace, *only, f"clusterUid={_UID}", "rbac.userRoles=false", "crds.install=false")
    return (document for document in documents if document["kind"] in _RIGHTS)


def _for_release(document: Document) -> bool:
    labels: dict[str, str] = document["metadata"]["labels"]
    return labels.get("app.kubernetes.io/component") == "release"


def verbs_of(roles: Sequence[Document]) -> set[Verb]:
    """Every verb that roles give."""
    return {
        (group, resource, verb)
        for role in roles
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def reduced(role: Document, taken: set[Verb]) -> list[Document]:
    """The rules of a role without these verbs."""
    return [
        {**rule, "apiGroups": [group], "resources": [resource], "verbs": kept}
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        if (kept := [verb for verb in rule["verbs"] if (group, resource, verb) not in taken])
    ]


@dataclass(slots=True)
class Confined:
    """A world whose operator has the chart's rights and no other."""

    world: World
    kubectl: Kubectl
    mode: Mode
    roles: list[Document]
    kubeconfig: Path
    _mark: int = field(default=0)

    @contextmanager
    def without(self, *taken: Verb) -> Iterator[None]:
        """Take verbs away, wait until the API server knows, and give them back at the end."""
        self._write(set(taken), allowed=False)
        self._mark = len(self.world.operator.logs())
        try:
            yield
        finally:
            self._write(set(taken), allowed=True)

    def told(self, verb: Verb) -> str:
        """The sentence about a verb that is missing: in the log since it was taken away, in a status or an event."""
        sentence = f"selvedge may not {verb[2]} {resource_named(verb[0], verb[1])} in "
        return next((text for text in self._texts() if sentence in text and "helm upgrade" in text), "")

    def restart(self, *, leading: bool = True) -> None:
        """End the operator and start it again; without ``leading`` nothing is waited for."""
        self.world.operator.stop()
        self._mark = 0
        if leading:
            self.world.operator.start()
        else:
            self.world.operator.daemon.start()

    def _texts(self) -> Iterator[str]:
        yield from self.world.operator.logs()[self._mark :].splitlines()
        for kind in ("DatabaseServer", "DatabaseSchema", "DatabaseUser", "MigrationRun"):
            for document in self.world.api.list(kind):
                yield str(condition(document)["message"])

    def _write(self, taken: set[Verb], *, allowed: bool) -> None:
        for role in self.roles:
            if taken & verbs_of([role]):
                patch = {"rules": role["rules"] if allowed else reduced(role, taken)}
                place = ("-n", self.world.namespace) if role["kind"] == "Role" else ()
                name = role["metadata"]["name"]
                self.kubectl("patch", role["kind"], name, *place, "--type=merge", "-p", json.dumps(patch))
        for verb in taken:
            wait_for(lambda verb=verb: self._may(verb) is allowed)

    def _may(self, verb: Verb) -> bool:
        account = f"system:serviceaccount:{self.world.namespace}:selvedge"
        return self.world.api.may(account, *verb, name="selvedge" if verb[1] == "leases" else "")


@contextmanager
def confined(
    kubectl: Kubectl,
    kubeconfig: Path,
    endpoint: PostgresEndpoint,
    directory: Path,
    mode: Mode,
    *,
    images: bool = False,
) -> Iterator[Confined]:
    """Rights of the chart, an operator that leads with them, and nothing declared yet.

    One that reads ``images`` has time to renew its Lease; the other gives up soon.
    """
    namespace = f"test-{uuid.uuid4().hex[:12]}"
    kubectl("create", "namespace", namespace)
    documents = chart_rights(namespace, mode, images=images)
    kubectl("apply", "-f", "-", input="---\n".join(json.dumps(document) + "\n" for document in documents))
    path = directory / f"{namespace}.kubeconfig"
    path.write_text(yaml.safe_dump(as_account(kubectl, kubeconfig, namespace)))
    settings = {"namespaces": {"SELVEDGE_CLUSTER_UID": "test"}, "secrets": {"SELVEDGE_WATCH_SECRETS": "false"}}
    operator = OperatorProcess(
        path,
        directory / f"{namespace}.log",
        namespaces=(namespace,) if mode == "namespaces" else (),
        lease_namespace=namespace,
        lease_name="selvedge",
        env={**({"SELVEDGE_IMAGE": "registry.example/selvedge:1"} if images else _LEASE), **settings.get(mode, {})},
    )
    with closing(KubeApi(kubeconfig, namespace)) as api:
        world = World(api, operator, namespace, f"t{uuid.uuid4().hex[:10]}", endpoint, kubeconfig)
        operator.start()
        try:
            roles = [document for document in documents if document["kind"] in _ROLES]
            yield Confined(world, kubectl, mode, roles, path)
        finally:
            operator.kill()
            world.clean()
            for document in documents:
                if document["kind"].startswith("Cluster"):
                    kubectl("delete", document["kind"], document["metadata"]["name"], "--wait=false")
            kubectl("delete", "namespace", namespace, "--wait=false")


def as_account(kubectl: Kubectl, kubeconfig: Path, namespace: str, name: str = "selvedge") -> dict[str, Any]:
    """The kubeconfig with the ServiceAccount's token."""
    token = kubectl("create", "token", name, "-n", namespace, "--duration=1h").stdout.strip()
    config: dict[str, Any] = yaml.safe_load(kubeconfig.read_text())
    config["users"] = [{"name": user["name"], "user": {"token": token}} for user in config["users"]]
    return config
