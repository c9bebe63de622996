"""Structured logs: one line for each event, JSON for machines or coloured text for terminals.

structlog and the standard library's loggers (Kopf, aiohttp, psycopg, pymongo) end in one formatter, whose last step
before rendering takes secrets out of every string, tracebacks included.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from selvedge.config import Settings
from selvedge.core.redact import Redactor
from selvedge.core.rights import refusal

# they say at info what is of use to their own developers
_QUIET = ("aiohttp.access", "asyncio", "kopf.activities", "kopf.objects", "kubernetes", "pymongo", "urllib3")


def configure(settings: Settings, redactor: Redactor, stream: TextIO | None = None) -> None:
    """Route every logger of the process to ``stream`` (default: stderr). Replaces what was configured before."""
    stream = stream or sys.stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    redaction = _Redaction(redactor)
    renderer: list[Processor]
    if settings.log_format == "json":
        renderer = [redaction, _render_json]
    else:
        renderer = [redaction, structlog.dev.ConsoleRenderer(colors=stream.isatty())]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(allow=_EXTRA), _plainly],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            *renderer,
        ],
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    logging.captureWarnings(capture=True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


@contextmanager
def bind(**values: Any) -> Iterator[None]:
    """Add ``values`` (kind, namespace, name, generation, reconcile …) to every log line inside the block.

    They live in a context variable: tasks that are started inside inherit them, other tasks do not see them.
    """
    with structlog.contextvars.bound_contextvars(**values):
        yield


# what libraries hang on a record with `extra=` can be whole objects with their Secrets: none of it is wanted
_EXTRA: tuple[str, ...] = ()


def _plainly(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """A library's line about a right that is missing holds the request and the whole answer: one sentence will do."""
    if told := refusal(str(event.get("event", ""))):
        event["event"] = told
    return event


class _Redaction:
    """Makes the event plain data without secrets, keys included."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor

    def __call__(self, _: WrappedLogger, __: str, event: EventDict) -> EventDict:
        return {self._redactor.redact(str(key)): self._plain(value, str(key)) for key, value in event.items()}

    def _plain(self, value: Any, key: str = "") -> Any:
        if key.lower() in ("password", "passwd", "pwd", "token", "secret"):
            return "***"
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, str):
            return self._redactor.redact(value)
        if isinstance(value, Mapping):
            return {self._redactor.redact(str(k)): self._plain(v, str(k)) for k, v in value.items()}
        if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
            return [self._plain(item) for item in value]
        return self._redactor.redact(str(value))


def _render_json(_: WrappedLogger, __: str, event: EventDict) -> str:
    first = {key: event.pop(key) for key in ("timestamp", "level", "event", "logger") if key in event}
    return json.dumps({**first, **event}, ensure_ascii=False)
