"""The driver's exceptions as the project's own errors.

Nothing of a driver's text gets through that was not looked at: it names hosts, sometimes users, and of a duplicate key
the key's value.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from pymongo.errors import (
    AutoReconnect,
    ExecutionTimeout,
    NetworkTimeout,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
)

from selvedge.core.errors import BudgetError, InvalidError, NotPermittedError, SelvedgeError, TransientError
from selvedge.core.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

UNAUTHORIZED = 13
AUTHENTICATION_FAILED = 18
NAMESPACE_NOT_FOUND = 26
INDEX_NOT_FOUND = 27
NAMESPACE_EXISTS = 48
MAX_TIME_EXPIRED = 50
INDEX_OPTIONS_CONFLICT = 85
INDEX_KEY_SPECS_CONFLICT = 86
CANNOT_CONVERT_TO_UNIQUE = 359
DUPLICATE_KEY = 11000

_AUTHENTICATION = frozenset({AUTHENTICATION_FAILED, 11, 334, 8000})
_TIMEOUT = frozenset({MAX_TIME_EXPIRED, 24, 46, 262, 64})
#: 211 is KeyNotFound: a member that was just started cannot check the time that clients bring along yet.
_STARTING = frozenset({91, 211, 11600, 11602})
_NOT_PRIMARY = frozenset({189, 10107, 13435, 13436, 10058})
_BUSY = frozenset({112, 117, 144, 290})

_TLS_REFUSED = ("certificate verify failed", "hostname mismatch", "ip address mismatch", "doesn't match", "unknown ca")
_SILENT = ("timed out", "no servers found yet", "no replica set members found yet")
_TLS_MISSING = (
    "wrong version number",
    "unexpected_eof",
    "eof occurred",
    "record layer failure",
    "ssl handshake failed",
)


#: A server that demands a client's certificate ends the connection after the handshake, with an alert or without.
_NO_CERTIFICATE = ("certificate required", "handshake failure", "bad certificate")
_HUNG_UP = ("connection closed", "connection is already closed")


def translate(error: BaseException, where: str, operation: str = "", *, anonymous: bool = False) -> SelvedgeError:
    """The project's error for one of the driver's. ``where`` is host and port, ``operation`` what was tried.

    ``anonymous``: the connection is encrypted, and the operator shows no certificate of its own.
    """
    doing = f" ({operation})" if operation else ""
    if isinstance(error, SelvedgeError):
        return error
    if isinstance(error, OperationFailure) and not isinstance(error, WaitQueueTimeoutError):
        return _refused(error, where, doing)
    if isinstance(error, WaitQueueTimeoutError):
        return BudgetError(
            Reason.TOO_MANY_CONNECTIONS,
            f"all connections that the operator may open to {where} are in use{doing}: raise spec.connections.max",
        )
    return (_anonymous(error, where) if anonymous else None) or _unconnected(error, where, doing)


def _anonymous(error: BaseException, where: str) -> SelvedgeError | None:
    """What the server may have against a client without a certificate."""
    text = " ".join(str(part) for part in _chain(error)).lower()
    step = "name one in spec.tls.clientCertificateSecretRef"
    if _any(text, _NO_CERTIFICATE):
        message = f"{where} demands a certificate of its clients: {step}"
        return InvalidError(Reason.TLS_VERIFICATION_FAILED, message)
    if isinstance(error, ServerSelectionTimeoutError) and _any(text, _HUNG_UP):
        return TransientError(
            Reason.UNREACHABLE,
            f"{where} closes connections right after TLS was agreed on: if it demands a certificate of its clients, "
            f"{step}; else its log says why",
        )
    return None


def _refused(error: OperationFailure, where: str, doing: str) -> SelvedgeError:
    code = error.code or 0
    if code in _AUTHENTICATION:
        return InvalidError(
            Reason.AUTHENTICATION_FAILED,
            f"{where} refused user name or password: correct the Secret of spec.credentials, or the user on the server",
        )
    if code == UNAUTHORIZED:
        return NotPermittedError(
            Reason.INSUFFICIENT_PRIVILEGES, f"the operator's user on {where} may not do this{doing}: grant it the role"
        )
    if code in _TIMEOUT or isinstance(error, ExecutionTimeout):
        return TransientError(Reason.TIMEOUT, f"{where} did not finish in time{doing}; tried again by itself")
    if code in _STARTING:
        return TransientError(Reason.SERVER_STARTING, f"{where} is starting up or shutting down; tried again by itself")
    if code in _NOT_PRIMARY:
        return TransientError(Reason.STANDBY, f"{where} is not the primary any more; tried again by itself")
    if code in _BUSY:
        return TransientError(Reason.CONNECTION_LOST, f"{where} interrupted the work{doing}; tried again by itself")
    return InvalidError(Reason.STATEMENT_FAILED, f"{where} refused{doing}: {server_message(error)}")


def server_message(error: OperationFailure) -> str:
    """The server's own words for an error of a command, which hold no credentials; of a duplicate key only its name."""
    details = error.details or {}
    if error.code == DUPLICATE_KEY:
        fields = ", ".join(str(name) for name in details.get("keyPattern") or {})
        return f"several documents have the same {fields or 'key'} (E11000)"
    name = details.get("codeName")
    text = str(details.get("errmsg") or "error without text").split(", full error:")[0]
    return f"{text} ({name or error.code})"


def connection_lost(error: BaseException) -> bool:
    """Whether this error is about the connection or the server as a whole, not about one command."""
    if not isinstance(error, OperationFailure):
        return True
    return (error.code or 0) in _AUTHENTICATION | _STARTING | _NOT_PRIMARY


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _unconnected(error: BaseException, where: str, doing: str) -> SelvedgeError:
    text = " ".join(str(part) for part in _chain(error)).lower()
    if any(isinstance(part, ssl.SSLCertVerificationError) for part in _chain(error)) or _any(text, _TLS_REFUSED):
        return InvalidError(
            Reason.TLS_VERIFICATION_FAILED,
            f"the certificate of {where} was not accepted: correct spec.tls.caSecretRef, or the server's certificate",
        )
    if _any(text, _TLS_MISSING):
        return InvalidError(
            Reason.TLS_UNAVAILABLE, f"{where} does not speak TLS: switch it on, or set spec.tls.mode to Disable"
        )
    # Not "found yet", which the driver says of hosts that have not answered at all.
    if isinstance(error, ServerSelectionTimeoutError) and _any(
        text, ("no primary available", "no replica set members match", "no replica set members available")
    ):
        return TransientError(
            Reason.STANDBY, f"{where} has no primary at the moment, and changes need one; tried again by itself"
        )
    if isinstance(error, NetworkTimeout | TimeoutError) or _any(
        text, ("timed out", "no servers found yet", "no replica set members found yet")
    ):
        return TransientError(
            Reason.CONNECTION_TIMEOUT, f"{where} did not answer in time{doing}: check the server and the way to it"
        )
    if _any(text, ("name or service not known", "nodename nor servname", "temporary failure in name resolution")):
        return host_not_found(where)
    if isinstance(error, AutoReconnect) and not isinstance(error, ServerSelectionTimeoutError):
        return TransientError(Reason.CONNECTION_LOST, f"the connection to {where} broke{doing}; tried again by itself")
    if isinstance(error, PyMongoError | OSError):
        return TransientError(
            Reason.UNREACHABLE, f"no connection to {where}: check host and port, network policies, and the server"
        )
    return TransientError(Reason.INTERNAL_ERROR, f"unexpected {type(error).__name__} while talking to {where}{doing}")


def host_not_found(where: str) -> TransientError:
    """No address for the host."""
    return TransientError(Reason.HOST_NOT_FOUND, f"{where} does not resolve to an address: check spec.hosts and DNS")


def _any(text: str, words: tuple[str, ...]) -> bool:
    return any(word in text for word in words)
