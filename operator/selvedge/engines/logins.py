"""What ``reconcile`` asks of an engine about the logins of DatabaseUsers, whichever server is behind it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from selvedge.core.unit import ObjectRef
from selvedge.core.users import Account, LoginResult, Removal

#: Says of a claim's resource whether it still exists in this cluster.
Alive = Callable[[str], bool]

#: Told what drifted, before the first write that repairs it.
OnDrift = Callable[[Sequence[ObjectRef]], Awaitable[None]]


class Logins(Protocol):
    """The logins of one server. All methods raise the errors of ``core/errors.py`` and no driver's."""

    async def converge(
        self, account: Account, may_write: Callable[[], None], *, alive: Alive, on_drift: OnDrift | None = None
    ) -> LoginResult:
        """Make the server hold what the account says: inspect, diff, apply, verify.

        What matches costs one look and writes nothing. ``may_write`` is called under the lock and before the first
        write; it raises when this process does not lead any more. ``on_drift`` is awaited before the first write where
        the account was verified before and differs now. Raises ConflictError and RefusedError for a login that is not
        the account's to have, TransientError while its database or its roles are missing.
        """
        ...

    async def remove(self, account: Account, may_write: Callable[[], None]) -> Removal:
        """End the sessions of the account's logins, hand over what they own, and drop those that it made."""
        ...
