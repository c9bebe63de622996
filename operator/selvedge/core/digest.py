"""What an approval names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable


def plan_digest(system_identifier: str, database: str, changes: Iterable[tuple[str, str]]) -> str:
    """``sha256:…`` over the server's identity, the database and the ordered changes.

    Each change is its statement as a person reads it, and what it replaces where the statement does not show that.
    Who has the plan can compute it: from the plan's ConfigMap, or from what ``selvedge plan -o json`` prints.
    """
    text = json.dumps(
        [system_identifier, database, [list(change) for change in changes]], ensure_ascii=False, separators=(",", ":")
    )
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
