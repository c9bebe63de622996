"""Where the credentials for the Kubernetes API come from."""

from __future__ import annotations

import os

from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from selvedge.kube.errors import KubeError

_HOME_CONFIG = "~/.kube/config"


async def load_credentials() -> Configuration:
    """Read ``KUBECONFIG``, else the pod's service account, else ``~/.kube/config``.

    Raises:
        KubeError: none of them is there, or it cannot be read; the message is one sentence of ours.
    """
    configuration = Configuration()
    path = os.environ.get("KUBECONFIG", "")
    if not path and "KUBERNETES_SERVICE_HOST" in os.environ:
        try:
            load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        except (ConfigException, OSError):
            raise KubeError(
                "no credentials for the Kubernetes API: the pod has no service account token: "
                "set automountServiceAccountToken to true"
            ) from None
        return configuration
    named = path or os.path.expanduser(_HOME_CONFIG)  # noqa: ASYNC240, PTH111 - reads one variable
    # One path may name several files, of which those that do not exist count for nothing.
    files = [file for file in named.split(os.pathsep) if file]
    if not any(os.path.exists(file) for file in files):  # noqa: ASYNC240, PTH110 - once, at the start
        why = ", named in KUBECONFIG, does not exist: correct it" if path else " does not exist: set KUBECONFIG"
        raise KubeError(f"no credentials for the Kubernetes API: the kubeconfig {named}{why}, or run in a pod")
    try:
        await load_kube_config(  # type: ignore[no-untyped-call]
            config_file=named, client_configuration=configuration, persist_config=False
        )
    except OSError as error:
        what = (error.strerror or "input or output error").lower()
        raise KubeError(f"the kubeconfig {named} cannot be read: {what}: correct the file or KUBECONFIG") from None
    except Exception:  # noqa: BLE001 - the library checks little: a broken file raises whatever its content makes it
        # `from None`: a YAML error repeats the lines around it, which may hold a token or a key
        raise KubeError(
            f"the kubeconfig {named} cannot be used: it is no YAML, or it lacks its current context, the context's "
            "cluster or user, or a file or login program that it names: check it with `kubectl get --raw /version`"
        ) from None
    return configuration
