"""A thin client for the Kubernetes API: JSON in, JSON out.

Credentials, TLS and the connection pool are those of ``kubernetes.aio``; its typed models are left out, since building
one for each object of a list costs more than the list. Every call has a time limit, so a hanging API server is an error
after ``_TIMEOUT`` seconds and never a hanging reconcile.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from random import Random
from typing import Any
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.rest import RESTClientObject

from selvedge.config import Settings
from selvedge.core.backoff import delay
from selvedge.core.rights import refusal
from selvedge.kube.credentials import load_credentials
from selvedge.kube.errors import KubeConflict, KubeError, KubeExists, KubeForbidden
from selvedge.kube.resources import CONFIG_MAPS, NAMESPACES, PODS, SECRETS, Resource
from selvedge.telemetry.metrics import Metrics

_TIMEOUT = 30.0
_ATTEMPTS = 5
_MAX_PAUSE = 10.0
_PAGE = 500
_RETRIED = frozenset({429, 500, 502, 503, 504})
_REFUSED_UNDONE = frozenset({429, 503})  # the API server says so before it does anything
_JSON = "application/json"
_MERGE_PATCH = "application/merge-patch+json"
_APPLY_PATCH = "application/apply-patch+yaml"


class KubeClient:
    """Calls of one process to one API server. Made by :meth:`connect`; safe for concurrent use in one event loop."""

    def __init__(self, configuration: Configuration, metrics: Metrics | None = None, context: str = "") -> None:
        self._configuration = configuration
        self._context = context
        self._rest = RESTClientObject(configuration)
        self._metrics = metrics
        self._random = Random()
        self._relogin = asyncio.Lock()
        self._retired: list[RESTClientObject] = []

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, settings: Settings, metrics: Metrics | None = None, *, context: str = ""
    ) -> AsyncIterator[KubeClient]:
        """A client with the credentials of ``KUBECONFIG``, of the pod's service account, or of ``~/.kube/config``.

        ``context`` names one of the kubeconfig; its current one otherwise. No call is made yet: the server may be down.

        Raises:
            KubeError: there are no credentials, or they cannot be read.
        """
        configuration = await load_credentials(context)
        configuration.connection_pool_maxsize = max(100, settings.workers * 2)
        client = cls(configuration, metrics, context)
        try:
            yield client
        finally:
            for rest in (client._rest, *client._retired):
                await rest.close()

    async def get(self, resource: Resource, namespace: str | None, name: str) -> dict[str, Any] | None:
        """The object, or None where there is none. Raises KubeError."""
        return await self._object("GET", resource, resource.path(namespace, name))

    async def list(
        self, resource: Resource, namespace: str | None = None, label_selector: str = ""
    ) -> AsyncIterator[dict[str, Any]]:
        """Every object, read in pages of 500; a namespace of None means all namespaces.

        A list that takes so long that its continuation expires (410) goes on with the newest state, as the API offers,
        so an object can be missing or appear twice; it is never cut short in silence. Raises KubeError.
        """
        query = {"limit": str(_PAGE)} | ({"labelSelector": label_selector} if label_selector else {})
        while True:
            page = await self._call("GET", resource, resource.path(namespace), query=query)
            for item in page.get("items") or ():
                # items of a list carry neither; callers want whole objects
                item.setdefault("apiVersion", resource.api_version)
                item.setdefault("kind", resource.kind)
                yield item
            token = (page.get("metadata") or {}).get("continue")
            if not token:
                return
            query = query | {"continue": token}

    async def try_list(self, resource: Resource, namespace: str | None, label_selector: str = "") -> None:
        """Ask for one object, to see whether it may be done. Raises KubeError."""
        query = {"limit": "1"} | ({"labelSelector": label_selector} if label_selector else {})
        await self._call("GET", resource, resource.path(namespace), query=query)

    async def patch_status(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        status: dict[str, Any],
        resource_version: str | None = None,
    ) -> dict[str, Any] | None:
        """Merge ``status`` into the object's status; None where the object is gone.

        With ``resource_version`` only that version is changed. A list is replaced as a whole, and a key is removed by
        None (merge patch, RFC 7386). Raises KubeConflict, KubeError.
        """
        body: dict[str, Any] = {"status": status}
        if resource_version:
            body["metadata"] = {"resourceVersion": resource_version}
        return await self._object(
            "PATCH", resource, resource.path(namespace, name, "status"), body=body, content_type=_MERGE_PATCH
        )

    async def patch(
        self, resource: Resource, namespace: str | None, name: str, patch: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Merge ``patch`` into the object (RFC 7386); with ``metadata.resourceVersion`` only into that version.

        Raises KubeConflict, KubeError.
        """
        return await self._call(
            "PATCH", resource, resource.path(namespace, name), body=patch, content_type=_MERGE_PATCH
        )

    async def apply(
        self, resource: Resource, manifest: Mapping[str, Any], field_manager: str = "selvedge"
    ) -> dict[str, Any]:
        """Server-side apply with force: the fields of ``manifest`` are ours, others' fields stay. Raises KubeError."""
        metadata = manifest["metadata"]
        body = {"apiVersion": resource.api_version, "kind": resource.kind, **manifest}
        query = {"fieldManager": field_manager, "force": "true"}
        path = resource.path(metadata.get("namespace"), metadata["name"])
        return await self._call("PATCH", resource, path, query=query, body=body, content_type=_APPLY_PATCH)

    async def create(self, resource: Resource, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Create the object. Raises KubeExists, KubeError."""
        body = {"apiVersion": resource.api_version, "kind": resource.kind, **manifest}
        return await self._call("POST", resource, resource.path(manifest["metadata"].get("namespace")), body=body)

    async def replace(self, resource: Resource, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Replace the object by ``manifest``, which carries the resourceVersion it was read with.

        Raises KubeConflict, KubeError.
        """
        metadata = manifest["metadata"]
        body = {"apiVersion": resource.api_version, "kind": resource.kind, **manifest}
        return await self._call("PUT", resource, resource.path(metadata.get("namespace"), metadata["name"]), body=body)

    async def delete(self, resource: Resource, namespace: str | None, name: str) -> None:
        """Delete the object in the background; one that is gone is no error. Raises KubeError."""
        await self._object("DELETE", resource, resource.path(namespace, name), body={"propagationPolicy": "Background"})

    async def secret(self, namespace: str, name: str) -> Mapping[str, bytes] | None:
        """The decoded data of a Secret, or None where there is none. Raises KubeError."""
        found = await self.get(SECRETS, namespace, name)
        if found is None:
            return None
        try:
            return {key: base64.b64decode(text) for key, text in (found.get("data") or {}).items()}
        except (binascii.Error, ValueError):
            # `from None`: the cause would carry the data
            raise KubeError(f"secret {namespace}/{name} holds data that is not base64: write it again") from None

    async def configmap(self, namespace: str, name: str) -> dict[str, Any] | None:
        """The ConfigMap, or None where there is none. Raises KubeError."""
        return await self.get(CONFIG_MAPS, namespace, name)

    async def log(self, namespace: str, pod: str, container: str, *, limit: int) -> str | None:
        """The log of a container, at most ``limit`` bytes of it; None where the pod is gone. Raises KubeError."""
        path = PODS.path(namespace, pod, "log")
        query = {"container": container, "limitBytes": str(limit)}
        code, content, _ = await self._exchange("GET", PODS, path, query, None, _JSON, _TIMEOUT)
        if code == 404:
            return None
        if code >= 300:
            raise _refused("GET", path, code, _document(content))
        return content.decode(errors="replace")

    async def cluster_uid(self) -> str:
        """The cluster's identity: the uid of its ``kube-system`` namespace. Raises KubeError."""
        found = await self.get(NAMESPACES, None, "kube-system")
        if found is None:
            raise KubeError("namespace kube-system does not exist: the cluster has no identity")
        return str(found["metadata"]["uid"])

    async def request(
        self,
        method: str,
        resource: Resource,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        timeout: float = _TIMEOUT,  # noqa: ASYNC109 - handed to the HTTP client, which ends the connection with it
    ) -> tuple[int, dict[str, Any]]:
        """One attempt without any retry: status code and document. For the Lease, which has its own deadlines.

        Raises:
            KubeError: no answer within ``timeout`` seconds, or the connection failed.
        """
        code, document, _ = await self._send(method, resource, path, {}, body, _JSON, timeout)
        return code, document

    async def _object(self, method: str, resource: Resource, path: str, **options: Any) -> dict[str, Any] | None:
        try:
            return await self._call(method, resource, path, **options)
        except KubeError as error:
            if error.code == 404:
                return None
            raise

    async def _call(
        self,
        method: str,
        resource: Resource,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = _JSON,
    ) -> dict[str, Any]:
        query = dict(query or {})
        relogged = False
        attempt = 0
        while True:
            configuration = self._configuration
            try:
                code, document, retry_after = await self._send(
                    method, resource, path, query, body, content_type, _TIMEOUT
                )
            except KubeError as error:
                attempt += 1
                # a POST without an answer may have been executed; the repetition then says AlreadyExists, which
                # would be told to the caller as someone else's object
                sent = not isinstance(error.__cause__, aiohttp.ClientConnectorError)
                if attempt == _ATTEMPTS or (method == "POST" and sent):
                    raise
                await asyncio.sleep(delay(attempt - 1, base=0.2, cap=_MAX_PAUSE, random=self._random))
                continue
            if code < 300:
                return document
            if code == 410 and "continue" in query and (token := _continuation(document)):
                query["continue"] = token
                continue
            if code == 401 and not relogged:
                relogged = True
                await self._log_in_again(configuration)
                continue
            attempt += 1
            if code not in (_REFUSED_UNDONE if method == "POST" else _RETRIED) or attempt == _ATTEMPTS:
                raise _refused(method, path, code, document)
            pause = delay(attempt - 1, base=0.2, cap=_MAX_PAUSE, random=self._random)
            await asyncio.sleep(max(pause, min(retry_after, _MAX_PAUSE)))

    async def _send(
        self,
        method: str,
        resource: Resource,
        path: str,
        query: Mapping[str, str],
        body: Mapping[str, Any] | None,
        content_type: str,
        seconds: float,
    ) -> tuple[int, dict[str, Any], float]:
        code, content, retry_after = await self._exchange(method, resource, path, query, body, content_type, seconds)
        return code, _document(content), retry_after

    async def _exchange(
        self,
        method: str,
        resource: Resource,
        path: str,
        query: Mapping[str, str],
        body: Mapping[str, Any] | None,
        content_type: str,
        seconds: float,
    ) -> tuple[int, bytes, float]:
        """One request; the answer as it came. Raises KubeError where there is none."""
        url = self._configuration.host + path + (f"?{urlencode(query)}" if query else "")
        headers = {"Accept": _JSON, "Content-Type": content_type, "User-Agent": "selvedge"}
        try:
            if token := await self._configuration.get_api_key_with_prefix("BearerToken", alias="authorization"):
                headers["Authorization"] = token
            response = await self._rest.request(  # type: ignore[no-untyped-call]  # the library's
                method, url, headers, body, _request_timeout=aiohttp.ClientTimeout(total=seconds, connect=seconds)
            )
            text = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._count(method, resource, "error")
            what = f"no answer in {seconds:g} s" if isinstance(error, TimeoutError) else type(error).__name__
            raise KubeError(f"{method} {path}: the Kubernetes API cannot be reached: {what}") from error
        self._count(method, resource, str(response.status))
        return response.status, text, _retry_after(response.headers.get("Retry-After", ""))

    async def _log_in_again(self, refused: Configuration) -> None:
        """Read the credentials anew: tokens of service accounts and of exec plugins expire."""
        async with self._relogin:
            if self._configuration is not refused:
                return  # another call that was refused as well has done it
            fresh = await load_credentials(self._context)
            fresh.connection_pool_maxsize = refused.connection_pool_maxsize
            # calls may be under way on the old connections: they are closed one login later
            retired, self._retired = self._retired, [self._rest]
            self._configuration, self._rest = fresh, RESTClientObject(fresh)
            for rest in retired:
                await rest.close()

    def _count(self, method: str, resource: Resource, code: str) -> None:
        if self._metrics is not None:
            self._metrics.kubernetes_request(method.lower(), resource.plural, code)


def _document(text: bytes) -> dict[str, Any]:
    """The JSON object of an answer; a proxy in between may answer with anything else."""
    try:
        document = json.loads(text) if text else {}
    except ValueError:
        return {"message": text[:200].decode(errors="replace")}
    return document if isinstance(document, dict) else {}


def _retry_after(header: str) -> float:
    return float(header) if header.isdecimal() else 0.0


def _continuation(document: Mapping[str, Any]) -> str:
    """The token with which an expired list may go on, inconsistently, from where it stood."""
    return str((document.get("metadata") or {}).get("continue") or "")


def _refused(method: str, path: str, code: int, document: Mapping[str, Any]) -> KubeError:
    if code == 403 and (told := refusal(str(document.get("message") or ""))):
        return KubeForbidden(told)
    # an answer can repeat what was sent: enough of it to understand, never the whole
    message = f"{method} {path}: {code} {str(document.get('message') or document.get('reason') or '')[:300]}".rstrip()
    if code == 409:
        return (KubeExists if document.get("reason") == "AlreadyExists" else KubeConflict)(message, code)
    return KubeError(message, code)
