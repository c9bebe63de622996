"""A small client of the Kubernetes API for the tests: one kept connection for each thread, JSON in and out.

kubectl is what users have, and the tests of manifests use it; a test that polls every few milliseconds cannot start a
program each time.
"""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import tempfile
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import yaml

Document = dict[str, Any]

KINDS = ("DatabaseServer", "DatabaseSchema", "DatabaseUser", "MigrationRun")
_PATHS = {
    "DatabaseServer": "/apis/selvedge.dev/v1alpha1/{}/databaseservers",
    "DatabaseSchema": "/apis/selvedge.dev/v1alpha1/{}/databaseschemas",
    "DatabaseUser": "/apis/selvedge.dev/v1alpha1/{}/databaseusers",
    "MigrationRun": "/apis/selvedge.dev/v1alpha1/{}/migrationruns",
    "Secret": "/api/v1/{}/secrets",
    "ConfigMap": "/api/v1/{}/configmaps",
    "Pod": "/api/v1/{}/pods",
    "Event": "/apis/events.k8s.io/v1/{}/events",
    "Lease": "/apis/coordination.k8s.io/v1/{}/leases",
}
_API_VERSIONS = {"Secret": "v1", "ConfigMap": "v1"}
_SECONDS = 30.0
#: The API server closes what nobody used for longer, and a request that is on its way then is lost.
_KEEP_SECONDS = 20.0


class ApiError(Exception):
    """The API server refused; the message is its own."""

    def __init__(self, code: int, document: Document) -> None:
        super().__init__(f"{code}: {document.get('message', document)}")
        self.code = code
        self.message = str(document.get("message", ""))


def login(kubeconfig: Path) -> tuple[str, int, ssl.SSLContext, dict[str, str]]:
    """Host and port of a kubeconfig's API server, and how its first user says who he is: certificate or token."""
    config = yaml.safe_load(kubeconfig.read_text(encoding="utf-8"))
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    url = urlsplit(cluster["server"])
    with tempfile.TemporaryDirectory() as directory:
        # kind and the clouds write what others name as a file
        def file(part: Document, key: str) -> str:
            if f"{key}-data" not in part:
                return str(part[key])
            path = Path(directory, key)
            path.write_bytes(base64.b64decode(part[f"{key}-data"]))
            return str(path)

        tls = ssl.create_default_context(cafile=file(cluster, "certificate-authority"))
        if "token" not in user:
            tls.load_cert_chain(file(user, "client-certificate"), file(user, "client-key"))
    headers = {"Authorization": f"Bearer {user['token']}"} if "token" in user else {}
    return str(url.hostname), url.port or 443, tls, headers


class KubeApi:
    """The API server of a kubeconfig, in one namespace."""

    def __init__(self, kubeconfig: Path, namespace: str) -> None:
        self._host, self._port, self._tls, self._headers = login(kubeconfig)
        self._local = threading.local()
        self._connections: list[http.client.HTTPSConnection] = []
        self.namespace = namespace

    def close(self) -> None:
        """Close the connections of all threads."""
        for connection in self._connections:
            connection.close()

    def apply(self, document: Document, *, namespace: str = "") -> Document:
        """Server-side apply; a field that was applied before and is left out now is removed."""
        body = {"apiVersion": _API_VERSIONS.get(document["kind"], "selvedge.dev/v1alpha1"), **document}
        query = urlencode({"fieldManager": "test", "force": "true"})
        path = f"{self._path(document['kind'], document['metadata']['name'], namespace)}?{query}"
        return self._call("PATCH", path, body, "application/apply-patch+yaml")

    def patch(self, kind: str, name: str, patch: Document) -> Document:
        """Merge patch."""
        return self._call("PATCH", self._path(kind, name), patch, "application/merge-patch+json")

    def get(self, kind: str, name: str) -> Document | None:
        """The object, or None."""
        try:
            return self._call("GET", self._path(kind, name))
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    def may(self, user: str, group: str, resource: str, verb: str, name: str = "") -> bool:
        """Whether a user may do this in the namespace; ``resource`` with its subresource, if any."""
        kind, _, part = resource.partition("/")
        asked = {"namespace": self.namespace, "group": group, "resource": kind, "subresource": part, "verb": verb}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": user, "resourceAttributes": {**asked, "name": name}},
        }
        answer = self._call("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
        return bool(answer["status"]["allowed"])

    def list(self, kind: str) -> list[Document]:
        """All objects of a kind in the namespace."""
        items: list[Document] = self._call("GET", self._path(kind))["items"]
        return items

    def versions(self, *kinds: str) -> dict[str, str]:
        """The resourceVersion of each object of these kinds, by KIND/NAME: it moves with every write, by whomever."""
        found = [(kind, document["metadata"]) for kind in kinds for document in self.list(kind)]
        return {f"{kind}/{metadata['name']}": metadata["resourceVersion"] for kind, metadata in found}

    def delete(self, kind: str, name: str = "") -> None:
        """Delete one object, or all of a kind."""
        self._call("DELETE", self._path(kind, name))

    def create_namespace(self, name: str) -> None:
        """Make a namespace."""
        self._call("POST", "/api/v1/namespaces", {"metadata": {"name": name}})

    def delete_namespace(self, name: str) -> None:
        """Have a namespace deleted with all that is in it; that is not waited for."""
        self._call("DELETE", f"/api/v1/namespaces/{name}")

    def events(self, name: str, reason: str = "") -> list[Document]:
        """The events about an object."""
        found = self.list("Event")
        return [e for e in found if e["regarding"]["name"] == name and (not reason or e["reason"] == reason)]

    def _path(self, kind: str, name: str = "", namespace: str = "") -> str:
        path = _PATHS[kind].format(f"namespaces/{namespace or self.namespace}")
        return f"{path}/{name}" if name else path

    def _call(
        self, method: str, path: str, body: Document | None = None, content_type: str = "application/json"
    ) -> Document:
        deadline = time.monotonic() + _SECONDS
        while True:
            try:
                return self._send(method, path, body, content_type)
            except ApiError as error:
                # of a CustomResourceDefinition that was just changed: "storage is (re)initializing"
                if error.code != http.client.TOO_MANY_REQUESTS or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)  # before the same request again

    def _send(self, method: str, path: str, body: Document | None, content_type: str) -> Document:
        connection: http.client.HTTPSConnection | None = getattr(self._local, "connection", None)
        if connection is None or time.monotonic() - self._local.used > _KEEP_SECONDS:
            connection = http.client.HTTPSConnection(self._host, self._port, context=self._tls, timeout=_SECONDS)
            self._local.connection = connection
            self._connections.append(connection)
        self._local.used = time.monotonic()
        try:
            headers = {"Content-Type": content_type, **self._headers}
            connection.request(method, path, json.dumps(body) if body else None, headers)
            response = connection.getresponse()
            document: Document = json.loads(response.read() or b"{}")
        except (OSError, http.client.HTTPException):
            connection.close()
            self._local.connection = None
            raise
        if response.status >= 300:
            raise ApiError(response.status, document)
        return document
