"""From a :class:`ServerTarget` to the parameters that libpq takes.

libpq reads certificates and keys from files only; ours are in memory, see :mod:`selvedge.engines.pem`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from selvedge.core.errors import InvalidError
from selvedge.core.reasons import Reason
from selvedge.engines.pem import PemPath

if TYPE_CHECKING:
    from selvedge.engines.base import ServerTarget

_SSLMODES = {"Disable": "disable", "Require": "require", "VerifyCA": "verify-ca", "VerifyFull": "verify-full"}

# A dead peer is noticed after 30 s + 3 × 10 s of silence, and unacknowledged data after 60 s, instead of after hours.
_KEEPALIVE = {
    "keepalives": "1",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}


def conninfo(
    target: ServerTarget,
    dbname: str,
    *,
    username: str | None = None,
    password: str | None = None,
    application_name: str = "selvedge",
) -> dict[str, str]:
    """The keyword arguments for ``psycopg.AsyncConnection.connect`` to one database of a server.

    Without ``username`` the target's own login is used. With several hosts the first that accepts writes is taken.
    Paths in it mean something in this process only, not in a child such as ``pg_dump``. Raises
    :class:`InvalidError` for a TLS mode that cannot be had with what is given.
    """
    params = {
        "host": ",".join(host for host, _ in target.hosts),
        "port": ",".join(str(port) for _, port in target.hosts),
        "dbname": dbname,
        "user": target.username if username is None else username,
        "password": target.password if username is None and password is None else password or "",
        "application_name": application_name,
        "client_encoding": "UTF8",
        "connect_timeout": str(max(1, math.ceil(target.limits.connect_timeout))),
        "gssencmode": "disable",
        "passfile": _ABSENT,  # a password file of the surroundings must not log in as somebody else
        **_KEEPALIVE,
        **_tls(target),
    }
    if len(target.hosts) > 1:
        params["target_session_attrs"] = "read-write"
    return params


def _tls(target: ServerTarget) -> dict[str, str]:
    tls = target.tls
    sslmode = _SSLMODES.get(tls.mode)
    if sslmode is None:
        raise InvalidError(
            Reason.INVALID_SPEC, f"spec.tls.mode {tls.mode} is unknown; use one of {', '.join(_SSLMODES)}"
        )
    # Without these three, libpq would pick up ~/.postgresql/root.crt and its neighbours, and change what a mode means.
    params = {"sslmode": sslmode, "sslrootcert": _ABSENT, "sslcert": _ABSENT, "sslkey": _ABSENT, "sslcrl": _ABSENT}
    if sslmode in {"verify-ca", "verify-full"}:
        if tls.ca:
            params["sslrootcert"] = PemPath.of(tls.ca)
        elif sslmode == "verify-full":
            params["sslrootcert"] = "system"
        else:
            raise InvalidError(
                Reason.INVALID_SPEC, "spec.tls.mode VerifyCA needs spec.tls.caSecretRef; or use VerifyFull"
            )
    if tls.client_certificate:
        if not tls.client_key:
            raise InvalidError(
                Reason.INVALID_SPEC, "the client certificate of spec.tls comes without its key (tls.key)"
            )
        params["sslcert"] = PemPath.of(tls.client_certificate)
        params["sslkey"] = PemPath.of(tls.client_key)
    return params


_ABSENT = "/proc/self/selvedge-none"
