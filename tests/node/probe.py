"""Pods that are asked which addresses they reach."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandbox.node import NodeHandle

_REACHES = """
import socket, ssl, sys
def reaches(host, port):
    try:
        with socket.create_connection((host, port), timeout=3):
            return True
    except OSError:
        return False
def api():
    here = "/var/run/secrets/kubernetes.io/serviceaccount/"
    context = ssl.create_default_context(cafile=here + "ca.crt")
    name = "kubernetes.default.svc"
    with context.wrap_socket(socket.create_connection((name, 443), timeout=5), server_hostname=name) as server:
        token = open(here + "token").read()
        server.sendall(f"GET /api HTTP/1.0\\r\\nAuthorization: Bearer {token}\\r\\n\\r\\n".encode())
        return server.recv(20).split()[1] == b"200"
for word in sys.argv[1:]:
    host, _, port = word.partition(":")
    print(word, api() if word == "api" else reaches(host, int(port)))
"""


# The first process of a pod ignores SIGTERM unless it takes it.
_WAITS = "import signal; s = {signal.SIGTERM}; signal.pthread_sigmask(signal.SIG_BLOCK, s); signal.sigwait(s)"


def client(node: NodeHandle, namespace: str, image: str) -> str:
    """Start a pod that waits to be asked; its name."""
    name = f"probe-{uuid.uuid4().hex[:6]}"
    container = {
        "name": "probe",
        "image": image,
        "imagePullPolicy": "Never",
        "command": ["python3", "-c", _WAITS],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    security = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"restartPolicy": "Never", "securityContext": security, "containers": [container]},
    }
    node.kubectl("apply", "-f", "-", input=json.dumps(pod))
    node.kubectl("wait", "-n", namespace, "--for=condition=Ready", f"pod/{name}", "--timeout=60s", timeout=90)
    return name


def reached(node: NodeHandle, namespace: str, pod: str, *targets: str) -> set[str]:
    """Which of ``targets`` (HOST:PORT, or ``api``: the API server with the pod's token) a pod with Python reaches."""
    done = node.kubectl("exec", "-n", namespace, pod, "--", "python3", "-c", _REACHES, *targets)
    said = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())
    assert list(said) == list(targets)
    return {target for target, answer in said.items() if answer == "True"}
