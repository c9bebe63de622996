"""The one tree of errors.

::

    SelvedgeError
    ├── TransientError      retried for ever, with backoff and jitter; nextRetryTime is shown
    │   └── BudgetError     the operator's own limit of connections is used up: no word on the server
    ├── InvalidError        the declaration is wrong: Stalled until it (or what it refers to) changes
    ├── ConflictError       two resources claim one object: Stalled until one lets go
    ├── RefusedError        unsafe without a person's word: waits for an approval or a changed policy
    └── NotPermittedError   the operator's login lacks rights: names the exact GRANTs

A message is lower case, names the object and the next step, and never carries a driver's text unredacted: messages
end in statuses, events and logs.
"""

from __future__ import annotations

from selvedge.core.reasons import Reason


class SelvedgeError(Exception):
    """Something that a user is told of, with the reason that becomes the condition's."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        """The message alone: the reason stands beside it wherever it is shown."""
        return self.message


class TransientError(SelvedgeError):
    """Will pass, or may: the same call can succeed later without anybody changing the declaration."""


class BudgetError(TransientError):
    """All connections that the operator may open to a server are in use: that server may be as well as ever."""


class InvalidError(SelvedgeError):
    """Will not pass by waiting: the declaration, or something that it names, has to change."""


class ConflictError(SelvedgeError):
    """Another resource owns the object."""


class RefusedError(SelvedgeError):
    """Selvedge could and does not, because a person has to say yes first."""


class NotPermittedError(SelvedgeError):
    """The operator's own login may not do this; ``statements`` are what an administrator has to run."""

    def __init__(self, reason: Reason, message: str, statements: tuple[str, ...] = ()) -> None:
        super().__init__(reason, message)
        self.statements = statements
