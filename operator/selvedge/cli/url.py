"""The URL of a database server, as ``--url`` takes it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from selvedge.core.errors import InvalidError
from selvedge.core.reasons import Reason
from selvedge.engines.base import ServerTarget, TlsOptions

POSTGRES, MONGODB = "Postgres", "MongoDB"
_SCHEMES = {"postgresql": POSTGRES, "postgres": POSTGRES, "mongodb": MONGODB, "mongodb+srv": MONGODB}
_PORTS = {POSTGRES: 5432, MONGODB: 27017}
_PARAMETERS = {
    POSTGRES: ("sslmode", "sslrootcert", "sslcert", "sslkey"),
    # The last three are in every copied URL; the engine always writes to a majority.
    MONGODB: (
        *("tls", "ssl", "tlsCAFile", "tlsCertificateKeyFile", "tlsAllowInvalidCertificates"),
        *("tlsAllowInvalidHostnames", "authSource", "replicaSet", "retryWrites", "w", "appName"),
    ),
}
_SSLMODES = {"disable": "Disable", "require": "Require", "verify-ca": "VerifyCA", "verify-full": "VerifyFull"}
_HOST = re.compile(r"(\[[^\]]+\]|[^:\[\]]+)(?::(\d{1,5}))?")
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----\n?", re.DOTALL)


def target_of(url: str, password: str, environ: Mapping[str, str]) -> tuple[str, ServerTarget]:
    """The engine and the server that a URL names; TLS is verified unless the URL says otherwise.

    The password is ``password``, else the URL's, else the environment's. Raises InvalidError, never with the URL,
    which may hold a password in a place where none belongs.
    """
    scheme, _, rest = url.partition("://")
    engine = _SCHEMES.get(scheme, "")
    if not engine or not rest:
        raise invalid("--url is no database URL: write postgresql://USER@HOST:PORT/ or mongodb://USER@HOST:PORT/")
    try:
        parts = urlsplit(url)
        query = {key.lower(): value for key, value in parse_qsl(parts.query, keep_blank_values=True)}
    except ValueError:
        raise invalid("--url cannot be read: write special characters of its parts as %XX") from None
    userinfo, _, hosts = parts.netloc.rpartition("@")
    user, _, secret = (unquote(part) for part in userinfo.partition(":"))
    matches = [_HOST.fullmatch(host) for host in hosts.split(",")]
    if parts.fragment or not all(match and int(match[2] or 1) in range(1, 65536) for match in matches):
        raise invalid("--url has no usable host and port: write HOST:PORT, and special characters as %XX")
    if engine == POSTGRES and not user:
        raise invalid("--url names no user: write postgresql://USER@HOST:PORT/")
    known = {name.lower() for name in _PARAMETERS[engine]}
    if set(query) - known:
        unknown = ", ".join(sorted(set(query) - known))
        raise invalid(f"--url has parameters that are not known here, {unknown}: use {', '.join(_PARAMETERS[engine])}")
    names = ("SELVEDGE_PASSWORD", "PGPASSWORD") if engine == POSTGRES else ("SELVEDGE_PASSWORD",)
    database = unquote(parts.path.lstrip("/"))
    return engine, ServerTarget(
        hosts=tuple((unquote(m[1]).strip("[]"), int(m[2] or _PORTS[engine])) for m in matches if m),
        username=user,
        password=password or secret or next((environ[name] for name in names if environ.get(name)), ""),
        tls=_tls(engine, query),
        maintenance_database=(database if engine == POSTGRES else "") or "postgres",
        auth_source=query.get("authsource") or (database if engine == MONGODB else "") or "admin",
        replica_set=query.get("replicaset", ""),
        srv=scheme == "mongodb+srv",
    )


def _tls(engine: str, query: Mapping[str, str]) -> TlsOptions:
    if engine == POSTGRES:
        mode = query.get("sslmode", "verify-full")
        if mode not in _SSLMODES:
            raise invalid("sslmode in --url protects nothing or is unknown: write " + ", ".join(_SSLMODES))
        ca = query.get("sslrootcert", "")
        # As in libpq: a CA that is given is used, and "system" is what verify-full uses without one.
        mode = "verify-ca" if mode == "require" and ca not in ("", "system") else mode
        certificate, key = _pem(query, "sslcert"), _pem(query, "sslkey")
        return TlsOptions(_SSLMODES[mode], "" if ca == "system" else _pem(query, "sslrootcert"), certificate, key)
    if not _true(query, "tls", _true(query, "ssl", default=True)):
        return TlsOptions("Disable")
    mode = "VerifyCA" if _true(query, "tlsallowinvalidhostnames", default=False) else "VerifyFull"
    mode = "Require" if _true(query, "tlsallowinvalidcertificates", default=False) else mode
    pair = _pem(query, "tlscertificatekeyfile")
    key = "".join(match[0] for match in _PRIVATE_KEY.finditer(pair))
    return TlsOptions(mode, _pem(query, "tlscafile"), _PRIVATE_KEY.sub("", pair), key)


def _true(query: Mapping[str, str], name: str, default: bool) -> bool:
    word = query.get(name, str(default)).lower()
    if word not in ("true", "false"):
        raise invalid(f"{name} in --url is neither true nor false")
    return word == "true"


def _pem(query: Mapping[str, str], name: str) -> str:
    if not query.get(name):
        return ""
    try:
        return Path(query[name]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no PEM text"
        raise invalid(f"{name} in --url, {query[name]}, cannot be read: {why}") from None


def invalid(message: str) -> InvalidError:
    """The error of an option or a file that cannot be used; for the caller to raise."""
    return InvalidError(Reason.INVALID_SPEC, message)
