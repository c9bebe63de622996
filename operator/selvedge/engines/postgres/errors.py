"""From psycopg's errors to ours. A driver's text is used only where it is known to carry no value of ours."""

from __future__ import annotations

import re

import psycopg
from psycopg import errors as pg

from selvedge.core.errors import InvalidError, NotPermittedError, SelvedgeError, TransientError
from selvedge.core.reasons import Reason

# libpq reports a refused login as text only: the server's ErrorResponse is not kept (psycopg issue 1060). The order
# matters: the first that is found wins. Servers that speak another language fall through to Unreachable.
_CONNECT: tuple[tuple[str, type[SelvedgeError], Reason, str], ...] = (
    (r"password authentication failed|no password supplied", InvalidError, Reason.AUTHENTICATION_FAILED,
     "refused user name or password of login {user}: check the Secret in spec.credentials"),
    (r'role ".*" does not exist|role .* is not permitted to log in', InvalidError, Reason.AUTHENTICATION_FAILED,
     "has no login {user}: create it, or check the Secret in spec.credentials"),
    (r"no pg_hba.conf entry", InvalidError, Reason.AUTHENTICATION_FAILED,
     "has no pg_hba.conf entry for login {user} from the operator's address: add one"),
    (r"server does not support SSL", InvalidError, Reason.TLS_UNAVAILABLE,
     "does not offer TLS: enable it there, or set spec.tls.mode to Disable"),
    (r"certificate verify failed|does not match host name|self-signed|unknown ca|root certificate file",
     InvalidError, Reason.TLS_VERIFICATION_FAILED,
     "presents a certificate that spec.tls does not accept: check the CA in spec.tls.caSecretRef and the host name"),
    (r"requires a valid client certificate|certificate required|certificate authentication failed",
     InvalidError, Reason.AUTHENTICATION_FAILED,
     "demands a certificate of its clients that it accepts: name one in spec.tls.clientCertificateSecretRef"),
    (r"failed to resolve host|could not translate host name|Name or service not known|No address associated",
     TransientError, Reason.HOST_NOT_FOUND, "cannot be found: the host name does not resolve; check spec.hosts"),
    (r"too many clients|remaining connection slots|too many connections", TransientError, Reason.TOO_MANY_CONNECTIONS,
     "has no free connection: raise max_connections there, or find out who holds them"),
    (r"starting up|shutting down|recovery mode|not yet accepting", TransientError, Reason.SERVER_STARTING,
     "is starting up or shutting down"),
    (r"timeout expired|timed out", TransientError, Reason.CONNECTION_TIMEOUT,
     "did not answer in time: check network policies and that it is alive"),
)  # fmt: skip


class ConcurrentChangeError(TransientError):
    """Somebody else changed the same rows of the catalogue at this moment; nothing stands, and trying again helps."""


class DatabaseMissingError(Exception):
    """The database to connect to does not exist: the engine creates it, nobody else sees this."""


class NothingGrantedError(pg.InsufficientPrivilege):
    """A GRANT or REVOKE that the server only warned of: its command tag says GRANT, and nothing was granted."""

    def __init__(self, warning: str) -> None:
        super().__init__(warning)
        self.warning = warning


def connect_error(error: psycopg.Error, *, where: str, user: str, dbname: str) -> Exception:
    """The error for a connection that could not be made; ``where`` is host:port."""
    text = str(error)
    if f'database "{dbname}" does not exist' in text:
        return DatabaseMissingError(dbname)
    if isinstance(error, pg.ConnectionTimeout):
        return TransientError(
            Reason.CONNECTION_TIMEOUT, f"server {where} did not answer in time: check that it is alive"
        )
    for pattern, kind, reason, message in _CONNECT:
        if re.search(pattern, text, re.IGNORECASE):
            return kind(reason, f"server {where} " + message.format(user=user))
    return TransientError(
        Reason.UNREACHABLE, f"server {where} cannot be reached: check host, port and network policies"
    )


#: SQLSTATEs that pass by themselves: concurrent change, deadlock, lock and statement timeouts, catalogue races.
_RETRY = frozenset({"40001", "40P01", "55P03", "57014", "XX000", "55006", "23505"})
_LOST = ("08", "57P")


def is_connection_lost(error: psycopg.Error) -> bool:
    """Whether the session is gone, so that nothing is known of a running transaction."""
    state = error.sqlstate
    return isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)) and (
        state is None or state.startswith(_LOST)
    )


def is_transient(error: psycopg.Error) -> bool:
    """Whether the same statement may succeed a moment later."""
    return is_connection_lost(error) or (error.sqlstate or "") in _RETRY


def statement_error(error: psycopg.Error, doing: str, needed: str = "") -> SelvedgeError:
    """The error for a statement; ``doing`` names the object and the attempt, as in ``creating role app``.

    ``needed`` is what an administrator has to run where a right is missing.
    """
    state = error.sqlstate or ""
    text = error.warning if isinstance(error, NothingGrantedError) else error.diag.message_primary or "no message"
    if is_connection_lost(error):
        return TransientError(Reason.CONNECTION_LOST, f"the connection broke while {doing}; tried again by itself")
    if state == "55P03":
        return TransientError(Reason.WAITING_FOR_LOCK, f"{doing} waits for a lock that another session holds")
    if state == "57014":
        return TransientError(Reason.TIMEOUT, f"{doing} took longer than spec.connections.statementTimeout")
    if state in _RETRY:
        return ConcurrentChangeError(Reason.WAITING_FOR_LOCK, f"{doing} met a concurrent change ({state}); tried again")
    if state == "42501":
        step = f"run {needed} as a superuser" if needed else "see status.missingPrivileges of the server"
        message = f"{doing} was refused: {text}; {step}"
        return NotPermittedError(Reason.INSUFFICIENT_PRIVILEGES, message, (needed,) if needed else ())
    return InvalidError(Reason.STATEMENT_FAILED, f"{doing} failed: {text} (SQLSTATE {state})")
