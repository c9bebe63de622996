"""What a process remembers of row-level security between passes, so that the next one need not ask again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from selvedge.core.postgres.model import Snapshot
from selvedge.core.postgres.rls_lint import Finding
from selvedge.core.postgres.rls_model import Question
from selvedge.core.postgres.rls_record import Canonical

#: A database, what was asked, and the live policy's expressions then: when those change, it is asked again.
Asked = tuple[str, Question, str | None, str | None]

_MOST = 10_000


class RowSecurityMemory:
    """The server's words for declared expressions, and the last advice for each database."""

    def __init__(self) -> None:
        self._words: dict[Asked, Canonical] = {}
        self._advice: dict[str, tuple[str, tuple[Finding, ...]]] = {}

    def words(self, asked: Asked) -> Canonical | None:
        """What the server made of it, if it was asked."""
        return self._words.get(asked)

    def learn(self, asked: Asked, words: Canonical) -> None:
        """Remember an answer."""
        if len(self._words) >= _MOST:
            self._words.clear()
        self._words[asked] = words

    def findings(self, database: str, state: str) -> tuple[Finding, ...] | None:
        """The advice for a database, unless it has changed since."""
        known = self._advice.get(database)
        return known[1] if known is not None and known[0] == state else None

    def advise(self, database: str, state: str, findings: Iterable[Finding]) -> None:
        """Remember the advice for a database as it stands."""
        self._advice[database] = (state, tuple(findings))

    def forget(self, database: str) -> None:
        """The database is about to change as a whole."""
        self._advice.pop(database, None)
        self._words = {asked: words for asked, words in self._words.items() if asked[0] != database}


def advice_state(snapshot: Snapshot) -> str:
    """What the advice depends on, as far as a look shows it: objects, privileges, policies, roles."""
    digest = hashlib.sha256()
    for group in snapshot.groups:
        grants = sorted((name, sorted(held)) for name, held in group.grants.items())
        digest.update(repr((group.kind, group.schema, group.owner, sorted(group.names), grants)).encode())
    for key, table in sorted(snapshot.row_security.items()):
        policies = sorted(table.policies.values())
        state = (key, table.owner, table.enabled, table.forced, table.functions, policies, table.rows > 10_000)
        digest.update(repr((state, [repr(partition) for partition in table.partitions])).encode())
    for name, role in sorted(snapshot.roles.items()):
        digest.update(repr((name, role.login, role.privileged, sorted(role.memberships))).encode())
    return digest.hexdigest()
