"""What GitOps tools make of a resource: kstatus by its generic rules, Argo CD's Lua, Flux's CEL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from cel_expr_python import cel
from lupa import lua51

from tests.cluster.kube_api import Document

GITOPS = Path(__file__).parents[2] / "deploy" / "gitops"
_CEL = cel.NewEnv(variables=dict.fromkeys(("metadata", "spec", "status"), cel.Type.DYN))
#: Argo CD opens these and a part of os for a script of a ConfigMap, and no more.
_LUA_LIBRARIES = ("string", "math", "io", "debug", "coroutine", "os", "python", "package", "require")


def kstatus(obj: Document) -> str:
    """The generic rules of kstatus (sigs.k8s.io/cli-utils) for a custom resource, in their order.

    Being deleted is Terminating; a generation that is not the observed one is InProgress; Reconciling is InProgress and
    Stalled is Failed, whichever comes first; Ready is Current where it is True, else InProgress; and a resource that
    says nothing of all this counts as Current, which is why one must never say nothing.
    """
    metadata, status = obj["metadata"], obj.get("status") or {}
    if metadata.get("deletionTimestamp"):
        return "Terminating"
    if "observedGeneration" in status and status["observedGeneration"] != metadata["generation"]:
        return "InProgress"
    conditions = status.get("conditions") or ()
    for condition in conditions:
        if condition["type"] == "Reconciling" and condition["status"] == "True":
            return "InProgress"
        if condition["type"] == "Stalled" and condition["status"] == "True":
            return "Failed"
    for condition in conditions:
        if condition["type"] == "Ready":
            return "Current" if condition["status"] == "True" else "InProgress"
    return "Current"


def argo(obj: Document) -> str:
    """What Argo CD shows: our Lua, with the libraries that Argo CD gives it."""
    return argo_health(obj)[0]


def argo_health(obj: Document) -> tuple[str, str]:
    """Status and message of our Lua."""
    runtime = lua51.LuaRuntime(register_eval=False, register_builtins=False)
    for library in _LUA_LIBRARIES:
        runtime.globals()[library] = None
    runtime.globals()["obj"] = _table(runtime, obj)
    result = runtime.execute((GITOPS / "argocd" / "selvedge.dev" / obj["kind"] / "health.lua").read_text())
    return str(result["status"]), str(result["message"])


def _table(runtime: Any, value: Any) -> Any:
    """As Argo CD decodes an object: maps and lists are tables, a list begins at 1."""
    if isinstance(value, dict):
        return runtime.table_from({key: _table(runtime, child) for key, child in value.items()})
    if isinstance(value, list):
        return runtime.table_from([_table(runtime, child) for child in value])
    return value


def flux(obj: Document) -> str:
    """What Flux makes of it with our expressions, by the rules of its RFC 9.

    First the generations are compared, then inProgress, failed and current are asked in this order; none is InProgress.
    An expression that cannot be evaluated is an error there, and one here.
    """
    status = obj.get("status") or {}
    if "observedGeneration" in status and status["observedGeneration"] != obj["metadata"]["generation"]:
        return "InProgress"
    checks = {check["kind"]: check for check in kustomization()["spec"]["healthCheckExprs"]}
    data = {"metadata": obj["metadata"], "spec": obj["spec"]} | ({"status": obj["status"]} if "status" in obj else {})
    for field, verdict in (("inProgress", "InProgress"), ("failed", "Failed"), ("current", "Current")):
        answer = _CEL.compile(checks[obj["kind"]][field]).eval(data=data)
        assert answer.type() == cel.Type.BOOL, (obj["kind"], field, str(answer))
        if answer.value():
            return verdict
    return "InProgress"


def kustomization() -> Document:
    """The Flux Kustomization with our expressions."""
    document: Document = yaml.safe_load((GITOPS / "flux" / "databases.yaml").read_text())
    return document
