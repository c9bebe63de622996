"""The Secret that an application reads: Service Binding's keys, libpq's variables, and templates of one's own. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode

from selvedge.core.errors import InvalidError
from selvedge.core.reasons import Reason

#: Every key that a template may name or that may stand in the Secret beside the templates.
KEYS = (
    "type",
    "provider",
    "host",
    "port",
    "database",
    "username",
    "password",
    "uri",
    "jdbc-uri",
    "readonly-uri",
    "pooler-uri",
    "ca.crt",
)
ENV_KEYS = ("PGHOST", "PGPORT", "PGDATABASE", "PGUSER", "PGPASSWORD", "PGSSLMODE")

_SSL_MODES = {"Disable": "disable", "Require": "require", "VerifyCA": "verify-ca", "VerifyFull": "verify-full"}
_MONGO_TLS = {
    "Disable": {"tls": "false"},
    "Require": {"tls": "true", "tlsAllowInvalidCertificates": "true"},
    "VerifyCA": {"tls": "true", "tlsAllowInvalidHostnames": "true"},
    "VerifyFull": {"tls": "true"},
}
_REFERENCE = re.compile(r"\$?\$\(([-._a-zA-Z0-9]+)\)")

Hosts = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the database is, as an application has to know it. ``pooler`` are the hosts of a connection pool."""

    mongodb: bool
    hosts: Hosts
    database: str
    tls_mode: str = "VerifyFull"
    ca: str = ""
    replicas: Hosts = ()
    pooler: Hosts = ()
    replica_set: str = ""
    srv: bool = False


@dataclass(frozen=True, slots=True)
class Login:
    """Who logs in. Without a password (it is somebody else's) the URIs carry the name only."""

    username: str
    password: str = field(repr=False)


def compose(
    endpoint: Endpoint, login: Login, *, env_keys: bool = False, template: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Every key of the Secret with its value.

    Where there is no replica, ``readonly-uri`` leads to the server itself, and ``pooler-uri`` where there is no pool:
    a key that comes and goes would keep pods from starting. Raises InvalidError for a template that names an unknown
    key, or whose own key is taken.
    """
    data = _mongodb(endpoint, login) if endpoint.mongodb else _postgres(endpoint, login)
    data |= {
        "provider": "selvedge",
        "host": endpoint.hosts[0][0],
        "port": str(endpoint.hosts[0][1]),
        "database": endpoint.database,
        "username": login.username,
    }
    if login.password:
        data["password"] = login.password
    if endpoint.ca:
        data["ca.crt"] = endpoint.ca.rstrip("\n") + "\n"
    if env_keys and not endpoint.mongodb:
        data |= _environment(endpoint, login)
    for key in template or {}:
        if key in KEYS or key in ENV_KEYS:
            message = f"spec.secret.template has the key {key}, which the Secret has by itself: choose another"
            raise InvalidError(Reason.INVALID_SPEC, message)
    return data | {key: render(text, data, key) for key, text in (template or {}).items()}


def render(text: str, data: Mapping[str, str], name: str) -> str:
    """``text`` with each ``$(key)`` replaced; ``$$(key)`` stays as ``$(key)``. What was put in is not looked at again.

    Raises InvalidError for a key that does not exist; ``name`` is the template's.
    """

    def replace(match: re.Match[str]) -> str:
        if match[0].startswith("$$"):
            return match[0][1:]
        if match[1] not in data:
            known = ", ".join(sorted(data))
            message = f"spec.secret.template.{name} names $({match[1]}), which the Secret has not: use one of {known}"
            raise InvalidError(Reason.INVALID_SPEC, message)
        return data[match[1]]

    return _REFERENCE.sub(replace, text)


def content_hash(data: Mapping[str, str]) -> str:
    """``sha256:…`` over the keys and values: differs as soon as one of them was changed."""
    text = json.dumps(data, sort_keys=True, ensure_ascii=False)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _postgres(endpoint: Endpoint, login: Login) -> dict[str, str]:
    return {
        "type": "postgresql",
        "uri": _libpq(endpoint, login, endpoint.hosts),
        "jdbc-uri": _jdbc(endpoint, login),
        "readonly-uri": _libpq(endpoint, login, endpoint.replicas or endpoint.hosts, primary=not endpoint.replicas),
        "pooler-uri": _libpq(endpoint, login, endpoint.pooler or endpoint.hosts),
    }


def _libpq(endpoint: Endpoint, login: Login, hosts: Hosts, *, primary: bool = True) -> str:
    options = {"sslmode": _SSL_MODES[endpoint.tls_mode]}
    if primary and len(hosts) > 1:
        options["target_session_attrs"] = "read-write"
    return f"postgresql://{_userinfo(login)}@{_listed(hosts)}/{quote(endpoint.database, safe='')}?{urlencode(options)}"


def _jdbc(endpoint: Endpoint, login: Login) -> str:
    options = {"user": login.username}
    if login.password:
        options["password"] = login.password
    options["sslmode"] = _SSL_MODES[endpoint.tls_mode]
    if len(endpoint.hosts) > 1:
        options["targetServerType"] = "primary"
    database = quote(endpoint.database, safe="")
    return f"jdbc:postgresql://{_listed(endpoint.hosts)}/{database}?{urlencode(options, quote_via=quote, safe='')}"


def _environment(endpoint: Endpoint, login: Login) -> dict[str, str]:
    """The variables of libpq, which takes lists of hosts and ports in them too."""
    found = {
        "PGHOST": ",".join(host for host, _ in endpoint.hosts),
        "PGPORT": ",".join(str(port) for _, port in endpoint.hosts),
        "PGDATABASE": endpoint.database,
        "PGUSER": login.username,
        "PGSSLMODE": _SSL_MODES[endpoint.tls_mode],
    }
    return found | ({"PGPASSWORD": login.password} if login.password else {})


def _mongodb(endpoint: Endpoint, login: Login) -> dict[str, str]:
    return {
        "type": "mongodb",
        "uri": _mongo_uri(endpoint, login, endpoint.hosts),
        "readonly-uri": _mongo_uri(endpoint, login, endpoint.hosts, readPreference="secondaryPreferred"),
        "pooler-uri": _mongo_uri(endpoint, login, endpoint.hosts),
    }


def _mongo_uri(endpoint: Endpoint, login: Login, hosts: Hosts, **more: str) -> str:
    options = {"authSource": endpoint.database}
    if endpoint.replica_set:
        options["replicaSet"] = endpoint.replica_set
    options |= _MONGO_TLS[endpoint.tls_mode] | more
    scheme, where = ("mongodb+srv", hosts[0][0]) if endpoint.srv else ("mongodb", _listed(hosts))
    return f"{scheme}://{_userinfo(login)}@{where}/{quote(endpoint.database, safe='')}?{urlencode(options)}"


def _userinfo(login: Login) -> str:
    username = quote(login.username, safe="")
    return f"{username}:{quote(login.password, safe='')}" if login.password else username


def _listed(hosts: Hosts) -> str:
    return ",".join(f"{f'[{host}]' if ':' in host else host}:{port}" for host, port in hosts)
