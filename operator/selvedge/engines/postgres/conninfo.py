"""From a :class:`ServerTarget` to the parameters that libpq takes.

libpq reads certificates and keys from files only. Ours never touch a disk: each is an anonymous memory file, mode
0600, that libpq opens as ``/proc/self/fd/N``; equal certificates share one file. libpq opens it again when a statement
is cancelled, which is a connection of its own, so files outlive the call: the least recently used are closed when
there are many, and never while somebody still holds the path.
"""

from __future__ import annotations

import hashlib
import math
import os
import resource
from collections import OrderedDict
from typing import TYPE_CHECKING

from selvedge.core.errors import InvalidError
from selvedge.core.reasons import Reason

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


class PemPath(str):
    """The path of an anonymous memory file; the file is closed when the last holder of the path lets go of it."""

    __slots__ = ("_fd",)
    _fd: int

    @classmethod
    def of(cls, pem: str) -> PemPath:
        """The path for this PEM text; the same text gives the same file."""
        key = hashlib.sha256(pem.encode()).digest()
        known = _files.get(key)
        if known is not None:
            _files.move_to_end(key)
            return known
        fd = os.memfd_create("selvedge-pem", os.MFD_CLOEXEC)
        os.fchmod(fd, 0o600)  # libpq refuses a key that others may read
        with os.fdopen(os.dup(fd), "wb") as file:
            file.write(pem.encode())
        path = cls(f"/proc/self/fd/{fd}")
        path._fd = fd
        _files[key] = path
        while len(_files) > _MOST_FILES:
            _files.popitem(last=False)
        return path

    def __del__(self) -> None:
        """Close the file: nobody can name it any more."""
        os.close(self._fd)


_files: OrderedDict[bytes, PemPath] = OrderedDict()

# Three for each server with certificates of its own; a quarter of what the process may open is left for them.
_MOST_FILES = max(64, min(8192, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4))


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
