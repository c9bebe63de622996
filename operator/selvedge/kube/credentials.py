"""Where the credentials for the Kubernetes API come from."""

from __future__ import annotations

import os
from typing import Any

from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config import ConfigException, list_kube_config_contexts, load_incluster_config, load_kube_config

from selvedge.kube.errors import KubeError

_HOME_CONFIG = "~/.kube/config"


async def load_credentials(context: str = "") -> Configuration:
    """Read ``KUBECONFIG``, else the pod's service account, else ``~/.kube/config``.

    ``context`` names one of the kubeconfig's contexts; its current one otherwise.

    Raises:
        KubeError: none of them is there, or it cannot be read; the message is one sentence of ours.
    """
    configuration = Configuration()
    path = os.environ.get("KUBECONFIG", "")
    if not path and "KUBERNETES_SERVICE_HOST" in os.environ:
        try:
            load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]  # the library's
        except (ConfigException, OSError):
            raise KubeError(
                "no credentials for the Kubernetes API: the pod has no service account token: "
                "set automountServiceAccountToken to true"
            ) from None
        return configuration
    named = _kubeconfig()
    # One path may name several files, of which those that do not exist count for nothing.
    files = [file for file in named.split(os.pathsep) if file]
    if not any(os.path.exists(file) for file in files):  # noqa: ASYNC240, PTH110 - once, at the start
        why = ", named in KUBECONFIG, does not exist: correct it" if path else " does not exist: set KUBECONFIG"
        raise KubeError(f"no credentials for the Kubernetes API: the kubeconfig {named}{why}, or run in a pod")
    try:
        await load_kube_config(  # type: ignore[no-untyped-call]  # the library's
            config_file=named, context=context or None, client_configuration=configuration, persist_config=False
        )
    except OSError as error:
        what = (error.strerror or "input or output error").lower()
        raise KubeError(f"the kubeconfig {named} cannot be read: {what}: correct the file or KUBECONFIG") from None
    except Exception:  # noqa: BLE001 - the library checks little: a broken file raises whatever its content makes it
        # `from None`: a YAML error repeats the lines around it, which may hold a token or a key
        which = f"the context {context}" if context else "its current context"
        raise KubeError(
            f"the kubeconfig {named} cannot be used: it is no YAML, or it lacks {which}, the context's "
            "cluster or user, or a file or login program that it names: check it with `kubectl get --raw /version`"
        ) from None
    return configuration


def context_namespace(context: str = "") -> str:
    """The namespace of the kubeconfig's context (its current one where none is named), else ``default``."""
    known, current = _contexts()
    chosen = next((c for c in known if c["name"] == context), None) if context else current
    return str(((chosen or {}).get("context") or {}).get("namespace") or "default")


def contexts() -> list[str]:
    """The names of the kubeconfig's contexts; none where it is not there or cannot be used."""
    try:
        return [str(context["name"]) for context in _contexts()[0]]
    except Exception:  # noqa: BLE001 - as above
        return []


def _contexts() -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """All contexts of the kubeconfig, and its current one."""
    known, current = list_kube_config_contexts(config_file=_kubeconfig())  # type: ignore[no-untyped-call]  # the library's
    return known, current


def _kubeconfig() -> str:
    """The path of the kubeconfig, or several."""
    return os.environ.get("KUBECONFIG", "") or os.path.expanduser(_HOME_CONFIG)  # noqa: PTH111 - reads one variable
