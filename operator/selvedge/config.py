"""The operator's settings: frozen, from ``SELVEDGE_*`` environment variables, checked before anything starts."""

from __future__ import annotations

import os
import re
import secrets
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from selvedge.core.shards import Shard

_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_IDENTIFIER = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_SECONDS = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)?")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_LEVELS = ("debug", "info", "warning", "error")


def _identity() -> str:
    """Unique for each process: two containers can share a host name, and a restarted process is another holder."""
    return f"{socket.gethostname()}_{os.getpid()}_{secrets.token_hex(4)}"


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set from outside; times in seconds."""

    namespaces: tuple[str, ...] = ()
    """SELVEDGE_NAMESPACES: namespaces to watch, separated by commas; empty: all of them."""
    watch_secrets: bool = True
    """SELVEDGE_WATCH_SECRETS: whether Secrets with the label are listed and watched, which takes both verbs on all of
    them wherever resources are; false: each is read by its name, and a change is seen with the next pass."""
    lease_name: str = "selvedge"
    """SELVEDGE_LEASE_NAME: name of the Lease by which one of several operators is chosen."""
    lease_namespace: str = "default"
    """SELVEDGE_LEASE_NAMESPACE: namespace of the Lease; default: the pod's own, outside a cluster `default`."""
    shard: Shard | None = None
    """SELVEDGE_SHARD: which part of the DatabaseServers this process serves, as index/count: `0/3`, `1/3` and `2/3` are
    three operators with one name of the Lease; default, or `0/1`: all of them."""
    cluster_uid: str = ""
    """SELVEDGE_CLUSTER_UID: in whose name objects are claimed; default: the uid of the namespace kube-system, which an
    operator whose rights end with its namespaces cannot read."""
    identity: str = field(default_factory=_identity)
    """SELVEDGE_IDENTITY: this process's name in the Lease; default: host name, process id and a random part."""
    lease_duration: float = 15.0
    """SELVEDGE_LEASE_DURATION: a Lease that was not renewed for this long may be taken over."""
    renew_deadline: float = 10.0
    """SELVEDGE_RENEW_DEADLINE: without a successful renewal for this long the leader stops writing."""
    retry_period: float = 2.0
    """SELVEDGE_RETRY_PERIOD: pause between two attempts to acquire or renew the Lease."""
    http_host: str = "0.0.0.0"  # noqa: S104 - in a pod, kubelet and Prometheus call from outside
    """SELVEDGE_HTTP_HOST: address on which probes and metrics are served."""
    http_port: int = 8080
    """SELVEDGE_HTTP_PORT: their port; 0 takes a free one."""
    log_level: str = "info"
    """SELVEDGE_LOG_LEVEL: debug, info, warning or error."""
    log_format: Literal["json", "console"] = "json"
    """SELVEDGE_LOG_FORMAT: json for machines, console for terminals."""
    image: str = ""
    """SELVEDGE_IMAGE: the operator's own image, which the pods run that read migrations out of other images."""
    sweep_tick: float = 1.0
    """SELVEDGE_SWEEP_TICK: how often the sweeper looks for resources whose interval has passed."""
    workers: int = 20
    """SELVEDGE_WORKERS: reconciles that run at the same time."""
    reconcile_timeout: float = 300.0
    """SELVEDGE_RECONCILE_TIMEOUT: a reconcile that takes longer is cancelled and tried again."""
    metadata_schema: str = "selvedge"
    """SELVEDGE_METADATA_SCHEMA: schema in each database for claims and migration history.

    On MongoDB it names the database that holds the claims on all others.
    """
    history_table: str = "history"
    """SELVEDGE_HISTORY_TABLE: table of that schema for migration history; its events stand in one named after it."""

    def __post_init__(self) -> None:
        """Check what holds between settings.

        Raises:
            ValueError: the periods of the Lease do not fit together.
        """
        # a round of renewal is one attempt and one pause; the holder has to give up before others may take over
        if not self.retry_period < self.renew_deadline < self.lease_duration:
            raise ValueError(
                "SELVEDGE_RETRY_PERIOD must be below SELVEDGE_RENEW_DEADLINE, and that below SELVEDGE_LEASE_DURATION: "
                f"got {self.retry_period:g} s, {self.renew_deadline:g} s and {self.lease_duration:g} s"
            )

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Settings:
        """Read every SELVEDGE_* variable; an empty one counts as not set.

        Raises:
            ValueError: a value cannot be read, or no setting has this name; the message names the variable.
        """
        values: dict[str, object] = {}
        for variable, text in sorted(environ.items()):
            if not variable.startswith("SELVEDGE_") or not text.strip() or _is_foreign(variable, text):
                continue
            name = variable.removeprefix("SELVEDGE_").lower()
            if name not in _PARSERS:
                raise ValueError(f"{variable} is not a setting: known are {', '.join(sorted(_variables()))}")
            try:
                values[name] = _PARSERS[name](text.strip())
            except ValueError as error:
                raise ValueError(f"{variable}={text!r} cannot be used: {error}") from None
        if "lease_namespace" not in values and _NAMESPACE_FILE.is_file():
            values["lease_namespace"] = _NAMESPACE_FILE.read_text(encoding="utf-8").strip()
        return cls(**values)  # type: ignore[arg-type]  # each parser returns its field's type


def _seconds(text: str) -> float:
    match = _SECONDS.fullmatch(text)
    if match is None or float(match[1]) <= 0:
        raise ValueError("write a time above zero, such as 15s, 2m or 0.5")
    return float(match[1]) * _UNITS[match[2] or "s"]


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"\d{1,9}", text) or not low <= int(text) <= high:
            raise ValueError(f"write a whole number from {low} to {high}")
        return int(text)

    return parse


def _choice(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"write one of {', '.join(words)}")
        return text.lower()

    return parse


def _name(text: str) -> str:
    if not _DNS_LABEL.fullmatch(text):
        raise ValueError("write a Kubernetes name: lower-case letters, digits and -, at most 63")
    return text


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_name(part.strip()) for part in text.split(",") if part.strip()))


# what belongs to Postgres, and MongoDB's own databases
_TAKEN = frozenset({"public", "information_schema", "admin", "config", "local"})


def _schema(text: str) -> str:
    if not _IDENTIFIER.fullmatch(text) or text.startswith("pg_") or text in _TAKEN:
        raise ValueError("write a schema of its own: lower-case letters, digits and _, not pg_*, public, admin, …")
    return text


def _table(text: str) -> str:
    if not _IDENTIFIER.fullmatch(text) or text in ("claims", "events"):
        raise ValueError("write a table of its own: lower-case letters, digits and _, not claims or events")
    return text


_PARSERS: dict[str, Callable[[str], object]] = {
    "namespaces": _names,
    "watch_secrets": lambda text: _choice("true", "false")(text) == "true",
    "lease_name": _name,
    "lease_namespace": _name,
    "shard": Shard.parse,
    "cluster_uid": str,
    "identity": str,
    "lease_duration": _seconds,
    "renew_deadline": _seconds,
    "retry_period": _seconds,
    "http_host": str,
    "http_port": _integer(0, 65535),
    "log_level": _choice(*_LEVELS),
    "log_format": _choice("json", "console"),
    "image": str,
    "sweep_tick": _seconds,
    "workers": _integer(1, 1000),
    "reconcile_timeout": _seconds,
    "metadata_schema": _schema,
    "history_table": _table,
}

# read by the sandbox and the tests, never by the operator
_OTHERS = frozenset(
    {
        "SELVEDGE_CACHE",
        "SELVEDGE_KUBECONFIG",
        "SELVEDGE_MONGODB_URL",
        "SELVEDGE_PASSWORD",
        "SELVEDGE_POSTGRES_URL",
    }
)

# a Service named selvedge or selvedge-… puts these into every pod of its namespace (`enableServiceLinks`)
_SERVICE_LINK = re.compile(r"SELVEDGE_(\w+_)?(SERVICE_(HOST|PORT)(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")


def _is_foreign(variable: str, text: str) -> bool:
    return variable in _OTHERS or bool(_SERVICE_LINK.fullmatch(variable)) or text.startswith(("tcp://", "udp://"))


def _variables() -> list[str]:
    return [f"SELVEDGE_{name.upper()}" for name in _PARSERS]
