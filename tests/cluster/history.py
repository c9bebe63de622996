"""Every state that a resource passes through, as a watch of the API server shows them."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.cluster.kube_api import _PATHS, Document, login

_SECONDS = 300


class History:
    """Watches one kind in one namespace until it is closed; ``states`` are the objects by name, in order.

    ``seen`` is called with each at once, in the watching thread; what it raises is raised by :meth:`close`.
    """

    def __init__(
        self, kubeconfig: Path, namespace: str, kind: str, seen: Callable[[Document], None] | None = None
    ) -> None:
        self.states: dict[str, list[Document]] = {}
        self.gone: set[str] = set()
        self._seen = seen
        self._error: BaseException | None = None
        self._closing = False
        host, port, tls, headers = login(kubeconfig)
        self._connection = http.client.HTTPSConnection(host, port, context=tls, timeout=_SECONDS)
        query = urlencode({"watch": "1", "timeoutSeconds": _SECONDS})
        self._connection.request("GET", f"{_PATHS[kind].format(f'namespaces/{namespace}')}?{query}", headers=headers)
        self._response = self._connection.getresponse()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def __enter__(self) -> History:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def of(self, name: str) -> list[Document]:
        """The states of one object so far."""
        return self.states.get(name, [])

    def close(self) -> None:
        """End the watch, and raise what went wrong in it."""
        self._closing = True
        if (sock := self._connection.sock) is not None:
            sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._connection.close()
        if self._error is not None:
            raise self._error

    def _read(self) -> None:
        """A watch that ends by itself is an error too: what came after it would not have been seen."""
        try:
            while line := self._line():
                event = json.loads(line)
                obj = event["object"]
                name = obj["metadata"]["name"]
                if event["type"] == "DELETED":
                    self.gone.add(name)
                    continue
                self.states.setdefault(name, []).append(obj)
                if self._seen is not None:
                    self._seen(obj)
            if not self._closing:
                self._error = AssertionError("the API server ended the watch before the test did")
        except BaseException as error:  # noqa: BLE001 - raised where the test can see it
            self._error = error

    def _line(self) -> bytes:
        """The next event; empty at the watch's end, which :meth:`close` may bring in the middle of a line."""
        try:
            line = self._response.readline()
            return line if line.endswith(b"\n") else b""
        except (OSError, http.client.HTTPException, ValueError):
            if self._closing:
                return b""
            raise
