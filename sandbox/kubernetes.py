"""The Kubernetes control plane: etcd, API server, controller manager and, where asked for, the scheduler.

A node with pods (kubelet, kube-proxy and CoreDNS are in the same binary) has one of its own: ``node_main.py``.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from sandbox import tools
from sandbox.pki import Authority, write_private
from sandbox.ports import LOOPBACK, free_port, on_free_port
from sandbox.process import Daemon

if TYPE_CHECKING:
    from collections.abc import Iterable

_READY_SECONDS = 90.0
_STOP_SECONDS = 2.0
_ADMINISTRATOR = "selvedge-admin"
_MASTERS = "system:masters"
_SERVICE_RANGE = "10.96.0.0/16"
_API_ADDRESS = "10.96.0.1"
_API_NAMES = (
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)


@dataclass(slots=True)
class ControlPlane:
    """A running control plane; made by :meth:`launch`."""

    directory: Path
    authority: Authority
    port: int
    etcd: Daemon
    apiserver: Daemon
    controller_manager: Daemon
    kubeconfig: Path
    context: ssl.SSLContext

    @classmethod
    def launch(cls, directory: Path, *, address: str = "", port: int = 0) -> ControlPlane:
        """Start everything below ``directory`` and return when the API server and its controllers are at work.

        With an ``address`` the API server answers there too, for pods, and logs in to kubelets. ``port`` 0 takes a
        free one.

        Raises:
            SandboxError: it cannot be built or does not start.
        """
        programs = tools.control_plane()
        # What an attempt that failed left behind.
        shutil.rmtree(directory, ignore_errors=True)
        authority = Authority(directory / "pki", "Selvedge sandbox Kubernetes")
        _service_account_key(directory / "pki")
        admin = authority.client(_ADMINISTRATOR, [_MASTERS])
        context = ssl.create_default_context(cafile=str(authority.certificate_path))
        context.load_cert_chain(admin.bundle_path)
        with contextlib.ExitStack() as failed:
            etcd, etcd_port = on_free_port(lambda port: _start_etcd(programs, directory, port))
            failed.callback(etcd.kill)
            command = _apiserver_command(programs, directory, authority, etcd_port, address)
            apiserver, port = on_free_port(lambda port: _start_apiserver(command, directory, context, port), port)
            failed.callback(apiserver.kill)
            manager = _controller_manager(programs, directory, authority, port)
            # Pods and tokens need the default service account, which the controller manager makes.
            path = "/api/v1/namespaces/default/serviceaccounts/default"
            manager.start_until(lambda: _get(context, port, path)[0] == http.HTTPStatus.OK, _READY_SECONDS)
            failed.pop_all()
        kubeconfig = write_kubeconfig(directory / "kubeconfig", authority, port, _ADMINISTRATOR, [_MASTERS])
        return cls(directory, authority, port, etcd, apiserver, manager, kubeconfig, context)

    @property
    def daemons(self) -> dict[str, Daemon]:
        """The programs by name, in the order in which they start."""
        return {"etcd": self.etcd, "apiserver": self.apiserver, "controller-manager": self.controller_manager}

    def start_apiserver(self) -> None:
        """Start the API server (again) on the same port and wait until it is ready."""
        self.apiserver.start_until(lambda: _is_ready(self.context, self.port), _READY_SECONDS)

    def stop_apiserver(self, *, immediate: bool = False) -> None:
        """Stop the API server, or as in a crash."""
        if immediate:
            self.apiserver.kill()
        else:
            # It would wait for its watchers, which only leave when it is gone.
            self.apiserver.stop(timeout=_STOP_SECONDS)

    def start_scheduler(self) -> Daemon:
        """Start the scheduler, which only pods need; return it."""
        programs = tools.control_plane()
        path = self.directory / "scheduler.kubeconfig"
        config = write_kubeconfig(path, self.authority, self.port, "system:kube-scheduler", [])
        command: list[str | Path] = [
            programs / "kube-scheduler",
            f"--kubeconfig={config}",
            "--leader-elect=false",
            "--secure-port=0",
        ]
        scheduler = Daemon("kube-scheduler", command, self.directory / "scheduler.log", env=_program_environment())
        scheduler.start()
        return scheduler

    def kill(self) -> None:
        """End all of it at once."""
        for daemon in reversed(self.daemons.values()):
            daemon.kill()


def write_kubeconfig(path: Path, authority: Authority, port: int, user: str, groups: Iterable[str]) -> Path:
    """Write a kubeconfig that logs in as ``user`` in ``groups`` by a client certificate; return ``path``."""
    certificate = authority.client(user, groups)
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "selvedge-sandbox",
                "cluster": {
                    "server": f"https://{LOOPBACK}:{port}",
                    "certificate-authority": str(authority.certificate_path),
                },
            }
        ],
        "users": [
            {
                "name": user,
                "user": {
                    # One file, replaced in one step: a kubectl that runs meanwhile never sees half of a pair.
                    "client-certificate": str(certificate.bundle_path),
                    "client-key": str(certificate.bundle_path),
                },
            }
        ],
        "contexts": [{"name": "selvedge-sandbox", "context": {"cluster": "selvedge-sandbox", "user": user}}],
        "current-context": "selvedge-sandbox",
    }
    write_private(path, json.dumps(document, indent=2).encode() + b"\n")
    return path


def _start_etcd(programs: Path, directory: Path, port: int) -> tuple[Daemon, int]:
    client, peer = f"http://{LOOPBACK}:{port}", f"http://{LOOPBACK}:{free_port()}"
    command: list[str | Path] = [
        programs / "etcd",
        "--data-dir",
        directory / "etcd",
        "--unsafe-no-fsync",
        "--logger=zap",
    ]
    command += ["--listen-client-urls", client, "--advertise-client-urls", client, "--log-level=warn"]
    command += [
        "--listen-peer-urls",
        peer,
        "--initial-advertise-peer-urls",
        peer,
        "--initial-cluster",
        f"default={peer}",
    ]
    etcd = Daemon("etcd", command, directory / "etcd.log", env=_program_environment())
    etcd.start_until(lambda: _etcd_answers(port), _READY_SECONDS)
    return etcd, port


def _apiserver_command(
    programs: Path, directory: Path, authority: Authority, etcd_port: int, address: str
) -> list[str | Path]:
    pki = directory / "pki"
    serving = authority.server("kube-apiserver", _API_NAMES, (LOOPBACK, _API_ADDRESS, *filter(None, [address])))
    return [
        programs / "kube-apiserver",
        f"--etcd-servers=http://{LOOPBACK}:{etcd_port}",
        *(_for_pods(authority, address) if address else _NO_PODS),
        f"--cert-dir={pki}",
        f"--tls-cert-file={serving.certificate_path}",
        f"--tls-private-key-file={serving.key_path}",
        f"--client-ca-file={authority.certificate_path}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={pki / 'sa.pub'}",
        f"--service-account-signing-key-file={pki / 'sa.key'}",
        f"--service-cluster-ip-range={_SERVICE_RANGE}",
    ]


# There are no pods to reach this address, and the Service's endpoints must not be loopback ones.
_NO_PODS = (f"--bind-address={LOOPBACK}", f"--advertise-address={LOOPBACK}", "--endpoint-reconciler-type=none")


def _for_pods(authority: Authority, address: str) -> list[str]:
    """Options of an API server whose network namespace holds nothing but a node and its pods."""
    kubelet = authority.client("kube-apiserver-kubelet-client", [_MASTERS])
    return [
        "--bind-address=0.0.0.0",
        f"--advertise-address={address}",
        f"--kubelet-client-certificate={kubelet.certificate_path}",
        f"--kubelet-client-key={kubelet.key_path}",
        "--kubelet-preferred-address-types=InternalIP",
    ]


def _start_apiserver(
    command: list[str | Path], directory: Path, context: ssl.SSLContext, port: int
) -> tuple[Daemon, int]:
    daemon = Daemon(
        "kube-apiserver", [*command, f"--secure-port={port}"], directory / "apiserver.log", env=_program_environment()
    )
    daemon.start_until(lambda: _is_ready(context, port), _READY_SECONDS)
    return daemon, port


def _controller_manager(programs: Path, directory: Path, authority: Authority, port: int) -> Daemon:
    path = directory / "controller-manager.kubeconfig"
    kubeconfig = write_kubeconfig(path, authority, port, "system:kube-controller-manager", [_MASTERS])
    command: list[str | Path] = [
        programs / "kube-controller-manager",
        f"--kubeconfig={kubeconfig}",
        f"--service-account-private-key-file={directory / 'pki' / 'sa.key'}",
        f"--root-ca-file={authority.certificate_path}",
        # With separate credentials the default service account appears four seconds later.
        "--use-service-account-credentials=false",
        "--leader-elect=false",
        "--secure-port=0",
    ]
    return Daemon("kube-controller-manager", command, directory / "controller-manager.log", env=_program_environment())


def _service_account_key(directory: Path) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (directory / "sa.key").touch(mode=0o600)
    (directory / "sa.key").write_bytes(private)
    (directory / "sa.pub").write_bytes(public)


def _program_environment() -> dict[str, str]:
    """Nothing of the person's own configuration reaches the programs, KUBECONFIG least of all."""
    return {name: value for name, value in os.environ.items() if name in {"PATH", "TMPDIR", "LANG", "TZ"}}


def _is_ready(context: ssl.SSLContext, port: int) -> bool:
    return _get(context, port, "/readyz") == (http.HTTPStatus.OK, b"ok")


def _get(context: ssl.SSLContext, port: int, path: str) -> tuple[int, bytes]:
    """Status and body of a GET; (0, b"") while nothing answers."""
    connection = http.client.HTTPSConnection(LOOPBACK, port, context=context, timeout=5)
    return _request(connection, path)


def _etcd_answers(port: int) -> bool:
    status, body = _request(http.client.HTTPConnection(LOOPBACK, port, timeout=5), "/health")
    if status != http.HTTPStatus.OK:
        return False
    answer: Any = json.loads(body)
    return bool(answer.get("health") == "true")


def _request(connection: http.client.HTTPConnection, path: str) -> tuple[int, bytes]:
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()
