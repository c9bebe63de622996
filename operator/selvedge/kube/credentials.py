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
        KubeError: none of them is there, or it cannot be read.
    """
    configuration = Configuration()
    path = os.environ.get("KUBECONFIG", "")
    try:
        if not path and "KUBERNETES_SERVICE_HOST" in os.environ:
            load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        else:
            path = path or os.path.expanduser(_HOME_CONFIG)  # noqa: ASYNC240, PTH111 - reads one variable
            await load_kube_config(  # type: ignore[no-untyped-call]
                config_file=path, client_configuration=configuration, persist_config=False
            )
    except (ConfigException, OSError) as error:
        raise KubeError(f"no credentials for the Kubernetes API: set KUBECONFIG or run in a pod: {error}") from error
    return configuration
