"""What an administrator is asked to type into mongosh."""

from __future__ import annotations

import json
from collections.abc import Iterable


def granting(database: str, user: str, roles: Iterable[tuple[str, str]]) -> str:
    """The statement that gives ``user`` of ``database`` these roles, each with its database.

    Names are written as JSON strings: whoever may choose a name does not choose what else is typed.
    """
    listed = ", ".join(f"{{role: {json.dumps(role)}, db: {json.dumps(on)}}}" for role, on in roles)
    return f"db.getSiblingDB({json.dumps(database)}).grantRolesToUser({json.dumps(user)}, [{listed}])"
