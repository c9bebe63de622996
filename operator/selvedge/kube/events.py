"""Kubernetes events: said once, on a transition, and never in the way of the work."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import structlog

from selvedge.config import Settings
from selvedge.core.errors import SelvedgeError
from selvedge.core.reasons import Reason
from selvedge.core.redact import Redactor
from selvedge.kube.client import KubeClient
from selvedge.kube.resources import EVENTS

_log = structlog.stdlib.get_logger("selvedge.kube.events")
_MAX_NOTE = 1024
_REMEMBERED = 20_000


class Events:
    """Posts events; the same (object, reason, message) is not repeated within ``window`` seconds."""

    def __init__(
        self,
        kube: KubeClient,
        settings: Settings,
        redactor: Redactor,
        *,
        window: float = 3600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kube = kube
        self._instance = settings.identity[:128]
        self._redactor = redactor
        self._window = window
        self._clock = clock
        self._posted: OrderedDict[tuple[str, str, str], float] = OrderedDict()

    async def post(
        self,
        obj: Mapping[str, Any],
        reason: Reason,
        message: str,
        *,
        type: Literal["Normal", "Warning"] = "Normal",  # noqa: A002 - Kubernetes' own word
        action: str = "Reconcile",
    ) -> bool:
        """Post one event about ``obj`` (a whole resource, as read); True where it was posted.

        Call it on a transition only. A failure is logged and never raised: an event is told to people, nothing
        depends on it.
        """
        metadata = obj["metadata"]
        # redacted first, shortened second: half a password would not be recognised
        note = self._redactor.redact(message)[:_MAX_NOTE]
        key = (str(metadata.get("uid") or metadata["name"]), str(reason), note)
        if not self._is_new(key):
            return False
        namespace = metadata.get("namespace") or "default"
        event = {
            "metadata": {"name": f"{metadata['name'][:230]}.{secrets.token_hex(8)}", "namespace": namespace},
            "eventTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": "selvedge.dev/operator",
            "reportingInstance": self._instance,
            "type": type,
            "reason": str(reason),
            "action": action,
            "note": note,
            "regarding": {
                "apiVersion": obj["apiVersion"],
                "kind": obj["kind"],
                "name": metadata["name"],
                "namespace": metadata.get("namespace", ""),
                "uid": metadata.get("uid", ""),
                "resourceVersion": metadata.get("resourceVersion", ""),
            },
        }
        try:
            await self._kube.create(EVENTS, event)
        except SelvedgeError as error:
            # forgotten again, so that the next transition may try once more
            self._posted.pop(key, None)
            _log.warning("an event could not be posted", reason=str(reason), object=metadata["name"], error=str(error))
            return False
        return True

    def _is_new(self, key: tuple[str, str, str]) -> bool:
        now = self._clock()
        while self._posted and (
            len(self._posted) >= _REMEMBERED or next(iter(self._posted.values())) <= now - self._window
        ):
            self._posted.popitem(last=False)
        if key in self._posted:
            return False
        # remembered before it is posted: two callers at once would otherwise both post
        self._posted[key] = now
        return True
