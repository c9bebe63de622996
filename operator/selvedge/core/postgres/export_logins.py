"""Logins of a live server as ``spec`` of DatabaseUsers whose password stays somebody else's; pure.

A login belongs to the server, and a DatabaseUser to one database: that in which all the roles are declared whose
member the login is. What only a DBA would give (an attribute, a setting of another database) is for the proof to find.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from selvedge.core.names import reserved_role
from selvedge.core.postgres.export_names import Found, Notes, is_identifier
from selvedge.core.postgres.export_roles import exported_settings


def exported_logins(found: Found, declared: Collection[str], notes: Notes) -> list[dict[str, Any]]:
    """The logins whose roles are all ``declared`` by this database's DatabaseSchemas, by name."""
    snapshot, own = found.snapshot, found.own_roles()
    documents = []
    for name, role in sorted(snapshot.roles.items()):
        if not role.login or name == snapshot.me or name in own or reserved_role(name) or role.privileged:
            continue
        if not role.memberships or not role.memberships.keys() <= set(declared) or not is_identifier(name):
            continue
        document: dict[str, Any] = {"username": name, "roles": [{"role": one} for one in sorted(role.memberships)]}
        if role.attributes.connection_limit >= 0:
            document["connectionLimit"] = role.attributes.connection_limit
        until = role.attributes.valid_until
        if until and until != "infinity":
            date, _, rest = until.partition(" ")
            document["validUntil"] = f"{date}T{rest.partition('+')[0].partition('.')[0]}Z"
        settings = exported_settings(role.settings, f"login {name}", notes)
        documents.append({**document, **({"settings": settings} if settings else {})})
    return documents
