"""How far the chart's rights reach, in each mode, as the API server says: no operator, and no database."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.kube_api import KubeApi
from tests.cluster.rights import MODES, Mode, chart_rights
from tests.conftest import Kubectl
from tests.waiting import wait_for

CHART = Path(__file__).parents[2] / "charts" / "selvedge"
GUIDE = Path(__file__).parents[2] / "docs" / "guide"


@dataclass(frozen=True)
class Account:
    """The operator's, with what the chart binds to it."""

    user: str
    mode: Mode
    own: KubeApi
    elsewhere: KubeApi


@pytest.fixture(scope="module", params=MODES)
def account(request: pytest.FixtureRequest, kubectl: Kubectl, kubeconfig: Path) -> Iterator[Account]:
    """In each mode, of a release whose namespace is the one that it is limited to."""
    namespace = f"test-{uuid.uuid4().hex[:12]}"
    documents = chart_rights(namespace, request.param)
    kubectl("create", "namespace", namespace)
    try:
        kubectl("apply", "-f", "-", input="---\n".join(json.dumps(document) + "\n" for document in documents))
        user = f"system:serviceaccount:{namespace}:selvedge"
        with closing(KubeApi(kubeconfig, namespace)) as own, closing(KubeApi(kubeconfig, "kube-system")) as elsewhere:
            # the API server knows of each binding a moment after it was made
            wait_for(lambda: own.may(user, "", "secrets", "get") and own.may(user, "", "configmaps", "get"))
            yield Account(user, request.param, own, elsewhere)
    finally:
        for document in documents:
            if document["kind"].startswith("Cluster"):
                name = document["metadata"]["name"]
                kubectl("delete", document["kind"], name, "--ignore-not-found", "--wait=false")
        kubectl("delete", "namespace", namespace, "--wait=false")


def test_secrets_of_other_namespaces_are_in_reach_only_where_nothing_limits_it(account: Account):
    """Cluster-wide a DatabaseServer may stand anywhere, and so may what it names; RBAC knows no labels."""
    for verb in ("get", "list", "watch", "create", "update", "delete"):
        assert account.elsewhere.may(account.user, "", "secrets", verb) is (account.mode == "cluster")
        asks = account.mode != "secrets" or verb not in ("list", "watch")
        assert account.own.may(account.user, "", "secrets", verb) is asks


def test_in_no_mode_is_there_a_way_to_the_rights_of_others(account: Account):
    """Such as another account's token, or a pod that runs as it."""
    for api in (account.elsewhere, account.own):
        assert not api.may(account.user, "", "secrets", "patch")
        assert not api.may(account.user, "", "secrets", "deletecollection")
        assert not api.may(account.user, "", "serviceaccounts/token", "create")
        assert not api.may(account.user, "", "serviceaccounts", "impersonate")
        assert not api.may(account.user, "", "pods", "create")
        assert not api.may(account.user, "batch", "jobs", "create")
        assert not api.may(account.user, "selvedge.dev", "databaseschemas", "approve")


def test_that_every_secret_may_be_read_is_said_where_the_mode_is_chosen():
    for page in ("security.md", "install.md"):
        text = (GUIDE / page).read_text(encoding="utf-8")
        assert re.search(r"read every\s+Secret", text), page
        assert "rbac.secretNamespaces" in text, page
    notes = (CHART / "templates" / "NOTES.txt").read_text(encoding="utf-8")
    assert re.search(r"if not .Values.watchNamespaces.*read every Secret.*rbac.secretNamespaces", notes, re.DOTALL)
