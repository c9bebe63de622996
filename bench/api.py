"""The Kubernetes API for a measurement: requests over kept connections, and a watch that notes what became Ready."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

Document = dict[str, Any]

_GROUP = "/apis/selvedge.dev/v1alpha1"
_SECONDS = 60.0
_ATTEMPTS = 20
_PAUSE_SECONDS = 0.5
_KEEP_SECONDS = 20.0


class ApiError(Exception):
    """The API server refused a request."""


class Api:
    """One namespace of the cluster of a kubeconfig (JSON, as the sandbox writes it)."""

    def __init__(self, kubeconfig: Path, namespace: str) -> None:
        config = json.loads(kubeconfig.read_text(encoding="utf-8"))
        user, url = config["users"][0]["user"], urlsplit(config["clusters"][0]["cluster"]["server"])
        self._where = (str(url.hostname), url.port or 443)
        self._tls = ssl.create_default_context(cafile=config["clusters"][0]["cluster"]["certificate-authority"])
        self._tls.load_cert_chain(user["client-certificate"], user["client-key"])
        self._local = threading.local()
        self.namespace = namespace

    def connect(self, timeout: float | None = _SECONDS) -> http.client.HTTPSConnection:
        """A connection of its own."""
        return http.client.HTTPSConnection(*self._where, context=self._tls, timeout=timeout)

    def text(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> str:
        """The answer to one request over this thread's kept connection.

        Raises:
            ApiError: the status is not 2xx; the message holds the server's own.
        """
        data = None if body is None else json.dumps(body)
        for _ in range(_ATTEMPTS):
            status, answer = self._send(method, path, data, content_type)
            if status != http.client.TOO_MANY_REQUESTS:
                break
            time.sleep(_PAUSE_SECONDS)  # a CRD that is just made: its storage is being initialised
        if status >= http.client.MULTIPLE_CHOICES:
            raise ApiError(f"{method} {path}: {status} {answer[:500]}")
        return answer

    def _send(self, method: str, path: str, data: str | None, content_type: str) -> tuple[int, str]:
        connection: http.client.HTTPSConnection | None = getattr(self._local, "connection", None)
        if connection is None or time.monotonic() - self._local.used > _KEEP_SECONDS:
            connection = self._local.connection = self.connect()
        self._local.used = time.monotonic()
        try:
            connection.request(method, path, data, {"Content-Type": content_type})
            response = connection.getresponse()
            return response.status, response.read().decode()
        except (OSError, http.client.HTTPException):
            connection.close()
            self._local.connection = None
            raise

    def path(self, plural: str, name: str = "") -> str:
        """The path of a custom resource, or of all of its kind."""
        path = f"{_GROUP}/namespaces/{self.namespace}/{plural}"
        return f"{path}/{name}" if name else path

    def create(self, document: Document, plural: str = "databaseschemas") -> float:
        """Create one object; the monotonic time right before the request was sent."""
        started = time.monotonic()
        self.text("POST", self.path(plural), document)
        return started

    def create_all(self, documents: Sequence[Document], connections: int = 4) -> dict[str, float]:
        """Create many at once; when each was sent."""
        with ThreadPoolExecutor(max_workers=connections) as pool:
            times = pool.map(self.create, documents)
            return {document["metadata"]["name"]: at for document, at in zip(documents, times, strict=True)}

    def patch(self, name: str, patch: Document, plural: str = "databaseschemas") -> None:
        """Merge patch."""
        self.text("PATCH", self.path(plural, name), patch, "application/merge-patch+json")

    def get(self, plural: str, name: str = "") -> Document:
        """One object, or a list of all."""
        document: Document = json.loads(self.text("GET", self.path(plural, name)))
        return document

    def events(self) -> list[Document]:
        """Every event of the namespace."""
        answer = self.text("GET", f"/apis/events.k8s.io/v1/namespaces/{self.namespace}/events")
        items: list[Document] = json.loads(answer)["items"]
        return items

    def metrics(self) -> str:
        """The API server's own metrics."""
        return self.text("GET", "/metrics")


@dataclass(frozen=True, slots=True)
class Sight:
    """What the watch showed of an object at one moment."""

    at: float
    name: str
    ready: bool
    reason: str


class Watch:
    """Follows one kind in a thread of its own; times are monotonic, and those at which the event arrived here."""

    def __init__(self, api: Api, plural: str = "databaseschemas") -> None:
        self._api = api
        self._plural = plural
        self._changed = threading.Condition()
        self._ended = False
        self._ready: dict[str, float] = {}
        self.history: list[Sight] = []
        self._begin(api.get(plural))
        self._thread = threading.Thread(target=self._follow, name=f"watch-{plural}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self._ended = True
        if self._connection.sock is not None:
            self._connection.sock.close()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def wait_ready(self, names: Iterable[str], timeout: float) -> dict[str, float]:
        """Wait until all are Ready for their newest generation; since when each has been so.

        Raises:
            TimeoutError: with the number that is not, and one of them.
        """
        wanted = set(names)
        deadline = time.monotonic() + timeout
        with self._changed:
            while missing := wanted - self._ready.keys():
                rest = deadline - time.monotonic()
                if self._ended:
                    raise ApiError("the watch ended: its own error stands above")
                if rest <= 0:
                    last = next((sight for sight in reversed(self.history) if sight.name in missing), None)
                    raise TimeoutError(f"{len(missing)} of {len(wanted)} are not Ready after {timeout:.0f} s: {last}")
                self._changed.wait(rest)
            return {name: self._ready[name] for name in wanted}

    def wait_again(self, names: Iterable[str], since: float, timeout: float) -> dict[str, float]:
        """Wait until all have become Ready after ``since``, having been something else by then; when each did.

        Raises:
            TimeoutError: with the number that did not.
        """
        wanted = set(names)

        def again() -> bool:
            return self._ended or all(self._ready.get(name, 0.0) > since for name in wanted)

        with self._changed:
            if not self._changed.wait_for(again, timeout):
                missing = {name for name in wanted if self._ready.get(name, 0.0) <= since}
                last = next((sight for sight in reversed(self.history) if sight.name in missing), None)
                raise TimeoutError(f"{len(missing)} of {len(wanted)} are not Ready again after {timeout:.0f} s: {last}")
            if self._ended:
                raise ApiError("the watch ended: its own error stands above")
            return {name: self._ready[name] for name in wanted}

    def wait_not_ready(self, name: str, timeout: float) -> bool:
        """Wait until the object is not Ready; False where it stayed so."""
        with self._changed:
            return self._changed.wait_for(lambda: self._ended or name not in self._ready, timeout)

    def count(self) -> int:
        """How many are Ready now."""
        with self._changed:
            return len(self._ready)

    def wait_count(self, number: int, timeout: float) -> None:
        """Wait until so many are Ready. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._ended or len(self._ready) >= number, timeout):
                raise TimeoutError(f"{len(self._ready)} and not {number} are Ready after {timeout:.0f} s")
            if self._ended:
                raise ApiError("the watch ended: its own error stands above")

    def _begin(self, listed: Document) -> None:
        for item in listed["items"]:
            self._take({"type": "MODIFIED", "object": item})
        version = listed["metadata"]["resourceVersion"]
        self._connection = self._api.connect(timeout=None)
        self._connection.request("GET", f"{self._api.path(self._plural)}?watch=true&resourceVersion={version}")
        self._response = self._connection.getresponse()

    def _follow(self) -> None:
        """Read events; a watch that the API server ends (slow readers, a version too old) goes on from a new list."""
        try:
            while not self._ended:
                while line := self._response.readline():
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        break
                    self._take(event)
                if not self._ended:
                    self._connection.close()
                    self._begin(self._api.get(self._plural))
        except (OSError, ValueError, http.client.HTTPException):
            if not self._ended:
                raise
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _take(self, event: Mapping[str, Any]) -> None:
        now, obj = time.monotonic(), event["object"]
        name, generation = obj["metadata"]["name"], obj["metadata"]["generation"]
        conditions = (obj.get("status") or {}).get("conditions") or ()
        found: Document = next((condition for condition in conditions if condition["type"] == "Ready"), {})
        ready = found.get("status") == "True" and found.get("observedGeneration") == generation
        ready = ready and event["type"] != "DELETED"
        with self._changed:
            self.history.append(Sight(now, name, ready, found.get("reason", "")))
            if ready:
                self._ready.setdefault(name, now)
            else:
                self._ready.pop(name, None)
            self._changed.notify_all()
