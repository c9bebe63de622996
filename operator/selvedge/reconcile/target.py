"""From a DatabaseServer and its Secrets to what an engine needs to log in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import unquote, urlsplit

from selvedge.api.databaseserver import DatabaseServerSpec, EngineType
from selvedge.core.errors import InvalidError
from selvedge.core.reasons import Reason
from selvedge.engines.base import ConnectionLimits, ServerTarget, TlsOptions

#: Reads the data of a Secret beside the server; None where there is none.
SecretReader = Callable[[str], Awaitable[Mapping[str, bytes] | None]]

_DEFAULT_PORT = {EngineType.POSTGRES: 5432, EngineType.MONGODB: 27017}


async def read_target(spec: DatabaseServerSpec, read: SecretReader) -> ServerTarget:
    """Read the Secrets that a DatabaseServer names.

    Raises InvalidError: a Secret or a key is missing, or a value cannot be used. Messages name Secret and key, never a
    value.
    """
    keys = spec.credentials.keys
    name = spec.credentials.secret_ref.name
    secret = await _secret(read, name, "spec.credentials.secretRef")
    uri = _uri(secret, name, keys.uri) if keys.uri else {}
    username = uri.get("username") or _text(secret, name, keys.username)
    password = uri.get("password") or _text(secret, name, keys.password)
    port = _DEFAULT_PORT[spec.engine]
    if keys.port:
        port = _port(_text(secret, name, keys.port), name, keys.port)
    hosts = tuple((entry.host, entry.port or port) for entry in spec.hosts)
    if not hosts:
        host = uri.get("host") or _text(secret, name, keys.host or "host")
        hosts = ((host, int(uri.get("port") or port)),)
    tls = await _tls(spec, read)
    connections = spec.connections
    postgres, mongodb = spec.postgres, spec.mongodb
    return ServerTarget(
        hosts=hosts,
        username=username,
        password=password,
        tls=tls,
        limits=ConnectionLimits(
            max=connections.max,
            idle_timeout=connections.idle_timeout,
            max_lifetime=connections.max_lifetime,
            acquire_timeout=connections.acquire_timeout,
            connect_timeout=connections.connect_timeout,
            statement_timeout=connections.statement_timeout,
            lock_timeout=connections.lock_timeout,
        ),
        read_replicas=tuple((r.host, r.port or _DEFAULT_PORT[spec.engine]) for r in spec.read_replicas),
        maintenance_database=postgres.maintenance_database if postgres else "postgres",
        auth_source=mongodb.auth_source if mongodb else "admin",
        replica_set=(mongodb.replica_set or "") if mongodb else "",
        read_preference=mongodb.read_preference.value if mongodb else "PrimaryPreferred",
        srv=mongodb.srv if mongodb else False,
    )


async def _tls(spec: DatabaseServerSpec, read: SecretReader) -> TlsOptions:
    ca = certificate = key = ""
    if spec.tls.ca_secret_ref is not None:
        ref = spec.tls.ca_secret_ref
        ca = _text(await _secret(read, ref.name, "spec.tls.caSecretRef"), ref.name, ref.key)
    if spec.tls.client_certificate_secret_ref is not None:
        name = spec.tls.client_certificate_secret_ref.name
        pair = await _secret(read, name, "spec.tls.clientCertificateSecretRef")
        certificate, key = _text(pair, name, "tls.crt"), _text(pair, name, "tls.key")
    return TlsOptions(spec.tls.mode.value, ca, certificate, key)


async def _secret(read: SecretReader, name: str, field: str) -> Mapping[str, bytes]:
    found = await read(name)
    if found is None:
        raise InvalidError(Reason.SECRET_NOT_FOUND, f"secret {name}, named in {field}, does not exist: create it")
    return found


def _text(secret: Mapping[str, bytes], name: str, key: str) -> str:
    if key not in secret:
        have = ", ".join(sorted(secret)) or "none"
        raise InvalidError(
            Reason.SECRET_KEY_MISSING,
            f"secret {name} has no key {key} (it has {have}): add it, or name the right one in spec.credentials.keys",
        )
    try:
        return secret[key].decode().strip("\r\n")
    except UnicodeDecodeError:
        message = f"key {key} of secret {name} is not UTF-8 text: write it again"
        raise InvalidError(Reason.SECRET_KEY_MISSING, message) from None


def _port(text: str, name: str, key: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise InvalidError(Reason.INVALID_SPEC, f"key {key} of secret {name} is no port number: write 1 to 65535")
    return int(text)


def _uri(secret: Mapping[str, bytes], name: str, key: str) -> dict[str, str]:
    """Host, port and login of a connection URI; parameters have fields of their own and are refused here."""
    message = f"key {key} of secret {name} is no postgresql:// or mongodb:// URI of one host: write it again"
    try:
        parts = urlsplit(_text(secret, name, key))
        host, port = parts.hostname, parts.port
    except ValueError:
        raise InvalidError(Reason.INVALID_SPEC, message) from None
    if parts.scheme not in ("postgres", "postgresql", "mongodb", "mongodb+srv") or not host:
        raise InvalidError(Reason.INVALID_SPEC, message)
    found = {"host": host, "username": unquote(parts.username or ""), "password": unquote(parts.password or "")}
    return {**found, "port": str(port)} if port else found
