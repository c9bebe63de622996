"""What the pages' tests do not execute as it is printed, and why: another test does, or nobody can here.

A key is a whole command, or its beginning up to a word's end.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from tests.cluster.docs_support import ROOT


@dataclass(frozen=True)
class Elsewhere:
    """Another test executes it: its file, and texts in that file by which the command is known."""

    test: str
    texts: tuple[str, ...]

    def missing(self) -> list[str]:
        """What does not hold: no such file, one of which pytest runs nothing, or a text that is not in it."""
        path = ROOT / self.test
        if not path.is_file():
            return [f"{self.test} does not exist"]
        text = path.read_text(encoding="utf-8")
        if not path.name.startswith("test_") or "\ndef test_" not in text.replace("\nasync def", "\ndef"):
            return [f"{self.test} holds no test"]
        if re.search(r"^(@|pytestmark = .*)pytest\.mark\.skip\b", text, re.MULTILINE):
            return [f"{self.test} has tests that are never run: name another"]
        return [f"{self.test} does not contain {part}" for part in self.texts if part not in text]


Reasons: TypeAlias = Mapping[str, str | Elsewhere]

#: Executed as it stands in the text, with a name put in for NAME and the like.
SHOWN = Elsewhere("tests/cluster/test_docs_commands.py", ("def test_what_only_shows_something", "is SHOWN"))
_DEMO = Elsewhere("tests/cluster/test_demo.py", ('"sandbox.demo"',))
_ON_A_NODE = Elsewhere("tests/node/test_demo_on_node.py", ('"sandbox.demo"', '"--node"', '"--keep"'))
_UNINSTALL = Elsewhere("tests/cluster/test_uninstall.py", ('helm("uninstall", "selvedge"',))
_RELEASE = Elsewhere("tests/cluster/test_uninstall.py", ('"selvedge", "release"',))
_ROTATE = Elsewhere("tests/cluster/test_rotate_command.py", ('plugin("rotate", "app")',))
_APPROVAL = Elsewhere("tests/cluster/test_approval.py", ('plugin("plan", "shop")', 'plugin("approve", "shop"'))
_PLAN_OF_RUN = Elsewhere(
    "tests/cluster/test_migrationrun_actions.py", ('plugin("plan", "mig/back")', 'plugin("approve", "mig/back"')
)
_COMMAND_LINE = "several commands in one line: each of them stands in a block of docs/cli.md, and is executed there"
_CLUSTER_WIDE = "clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings"
_LONG = "it takes minutes to more than an hour"

#: Of the commands in blocks.
REASONS: Reasons = {
    "make setup": "it makes the environment that the tests run in",
    ".venv/bin/pre-commit install": "it changes the clone's own .git/hooks",
    "make demo": _DEMO,
    "make check": "it is what CI runs beside the tests",
    "make test": "it is what runs this test",
    "make test-long": "it is what runs this test",
    "make bench": _LONG,
    ".venv/bin/python -m bench": _LONG,
    ".venv/bin/python -m bench.tables": "it changes docs/performance.md",
    "make image": Elsewhere("tests/node/test_image_by_docker.py", ("-m sandbox.make_image",)),
    "make image BASE=mmdebstrap": Elsewhere("tests/sandbox/test_image.py", ('_made("BASE=mmdebstrap"',)),
    "make image TARGET=tools": Elsewhere("tests/sandbox/test_image.py", ('_made("BASE=mmdebstrap", "TARGET=tools"',)),
    "make image TARGET=tools BASE=selvedge-tools-base": "it asks the databases' own package repositories",
    "docker build --tag selvedge-tools-base": "it asks the databases' own package repositories",
    "docker tag selvedge:0.2.0": "it needs a registry of one's own",
    "docker push": "it needs a registry of one's own",
    "trivy image": "a scanner of one's own choice",
    "grype sbom:requirements/sbom.cdx.json": "a scanner of one's own choice",
    "helm test selvedge": Elsewhere("tests/node/test_chart_installed.py", ('helm(node, "test", "selvedge"',)),
    "helm uninstall selvedge": _UNINSTALL,
    "selvedge release": _RELEASE,
    "kubectl patch dbs NAME": Elsewhere("tests/cluster/test_uninstall.py", ('"patch", "dbs", "scratch"',)),
    f"kubectl delete {_CLUSTER_WIDE}": Elsewhere("tests/cluster/test_uninstall.py", (_CLUSTER_WIDE,)),
    "kubectl delete roles,rolebindings": Elsewhere(
        "tests/cluster/test_uninstall_namespaces.py", ('"roles,rolebindings"', '"--all-namespaces"')
    ),
    "kubectl create rolebinding selvedge-secrets-too": Elsewhere(
        "tests/cluster/test_uninstall_namespaces.py", ('"create", "rolebinding", "selvedge-secrets-too"',)
    ),
    "kubectl delete job selvedge-release": Elsewhere(
        "tests/cluster/test_uninstall.py", ('"delete", "job", "selvedge-release"',)
    ),
    "kubectl delete crd": Elsewhere("tests/cluster/test_uninstall.py", ('"delete", "crd"',)),
}
#: Of the commands within a text. What stands in a block too needs no reason.
INLINE: Reasons = {
    "make demo NODE=1": _ON_A_NODE,
    "make up NODE=1": _ON_A_NODE,
    "selvedge plan|apply|verify": _COMMAND_LINE,
    "selvedge migrate up|down|status": _COMMAND_LINE,
    "helm package charts/selvedge": "what it made stands in tests/fixtures/charts",
    "selvedge crds | kubectl apply": Elsewhere("tests/unit/cli/test_main.py", ('invoke("crds")',)),
    "selvedge completion fish": Elsewhere("tests/unit/cli/test_completion.py", ('"fish"',)),
    "kubectl completion --help": SHOWN,
    "kubectl get": SHOWN,
    "kubectl describe dbs": SHOWN,
    "kubectl describe job": Elsewhere("tests/cluster/test_uninstall.py", ('"describe", "job", "selvedge-release"',)),
    "helm rollback": Elsewhere("tests/cluster/test_uninstall.py", ('helm("rollback", "selvedge"',)),
    "kubectl delete pod": Elsewhere("tests/node/test_handover.py", ('"delete", "pod", first',)),
    "kubectl apply -k": "the page's blocks execute it with each directory",
    "kubectl selvedge explain REASON": SHOWN,
    "kubectl selvedge plan NAME": _APPROVAL,
    "kubectl selvedge plan mig/NAME": _PLAN_OF_RUN,
    "kubectl selvedge approve NAME": _APPROVAL,
    "kubectl selvedge rotate": _ROTATE,
    "kubectl selvedge doctor": SHOWN,
    "kubectl selvedge status -A": SHOWN,
    "selvedge migrate up --schema": Elsewhere("tests/engines/test_migrate_schemas.py", ('("--schema", "one"',)),
    "selvedge migrate plan --preflight": Elsewhere("tests/engines/test_migrate_cli.py", ('"--preflight"',)),
    "selvedge release": _RELEASE,
    "helm uninstall": _UNINSTALL,
}


def reason(text: str, table: Reasons) -> str | Elsewhere:
    """Why a command is not executed here, by the longest key that it begins with; empty where it has none."""
    words = text.split()
    found = [key for key in table if words[: len(key.split())] == key.split()]
    return table[max(found, key=len)] if found else ""
