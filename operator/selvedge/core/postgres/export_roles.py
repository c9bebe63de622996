"""Roles of a live server as entries of ``roles``: those that a declaration may hold, and why it may not hold others."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from selvedge.core.names import PUBLIC, reserved_role
from selvedge.core.postgres.export_names import Found, Notes, is_identifier, names, why_not_role
from selvedge.core.postgres.memberships_diff import OPTIONS
from selvedge.core.postgres.model import CurrentRole
from selvedge.core.postgres.settings import LIST_SETTINGS, split_list

MAX_COMMENT = 1024
_MEMBERSHIPS = 64
_MAX_CONNECTIONS = 262143
_INSTANT = re.compile(r"(\d{4}-\d{2}-\d{2}) (\d{2}:\d{2}:\d{2}(?:\.\d{1,6})?)\+00")
#: A setting of one's own may hold what nobody else should read: by its name, or a URL with a password in it.
_SECRET = re.compile(r"secret|passw|pwd|token|credential|private|jwt|(?:^|[._])(?:\w*key|dsn)$", re.IGNORECASE)
_PASSWORD_IN_URL = re.compile(r"://[^\s/:@]*:[^\s@]+@|\bpassword\s*=", re.IGNORECASE)


def obstacle(role: CurrentRole) -> str:
    """Why no declaration can hold this group as it is, or an empty string."""
    why = why_not_role(role.name)
    if why:
        return why
    if role.privileged:
        return "it is a superuser, or can make roles, replicate, bypass row-level security or reach the server's files"
    if len(role.memberships) > _MEMBERSHIPS:
        return f"it is a member of more than {_MEMBERSHIPS} roles"
    for parent in sorted(role.memberships):
        why = why_not_role(parent)
        if why:
            return f"it is a member of {parent}, which is refused to declarations: {why}"
    return ""


def relevant_roles(found: Found) -> frozenset[str]:
    """The roles that matter to one database.

    Those who own or may do something there, whose members they are, and their own members.
    """
    snapshot = found.snapshot
    concerned = {snapshot.database_owner, *(owner for owner, _ in snapshot.schemas.values())}
    for group in snapshot.groups:
        concerned |= {group.owner, *group.grants}
    for key, held in snapshot.defaults.rows.items():
        concerned |= {key.creator, *held}
    for table in snapshot.row_security.values():
        concerned.update(role for policy in table.policies.values() for role in policy.roles)
    concerned.update(name for name, role in snapshot.roles.items() if role.database_settings)
    return _connected(concerned - {PUBLIC}, snapshot.roles)


def _connected(concerned: set[str], roles: Mapping[str, CurrentRole]) -> frozenset[str]:
    members: dict[str, set[str]] = {}
    for role in roles.values():
        for parent in role.memberships:
            members.setdefault(parent, set()).add(role.name)
    todo = [name for name in concerned if name in roles]
    done: set[str] = set()
    while todo:
        name = todo.pop()
        if name in done:
            continue
        done.add(name)
        # Not from one member of pg_monitor, or of a superuser, to all others.
        if not reserved_role(name) and not roles[name].superuser:
            todo += [*roles[name].memberships, *members.get(name, ())]
    return frozenset(done)


def exported_roles(found: Found, relevant: Iterable[str], here: frozenset[str], notes: Notes) -> list[dict[str, Any]]:
    """The entries of ``roles``: those of ``here``, by name; the others of ``relevant`` are told of.

    ``here`` are the roles that this DatabaseSchema declares: roles are the server's, and two may not declare one.
    """
    roles = found.snapshot.roles
    own = found.own_roles()
    documents = []
    for name in sorted(relevant):
        role = roles[name]
        if name in own:
            notes.listed("role", "by its comment it is the operator's own, who makes it again", name)
            continue
        why = obstacle(role)
        if role.login and not reserved_role(name):
            parents = f"a member of {names(role.memberships)}; " if role.memberships else ""
            if name != found.snapshot.me:
                notes.listed("login", f"{parents}logins are DatabaseUsers, which are not exported", name)
        elif why:
            _tell(role, why, found, notes)
        elif name in here:
            documents.append(_role(role, found, notes))
        elif role.database_settings:
            settings = names(role.database_settings)
            notes.add(f"role {name} has settings in this database ({settings}), but another DatabaseSchema declares it")
    return documents


def _tell(role: CurrentRole, why: str, found: Found, notes: Notes) -> None:
    if reserved_role(role.name) or role.name == found.snapshot.me:
        return
    details = []
    if role.memberships:
        details.append(f"a member of {names(role.memberships)}")
    if role.settings or role.database_settings:
        details.append(f"with settings {names([*role.settings, *role.database_settings])}")
    beside = f" ({', '.join(details)})" if details else ""
    notes.add(f"role {role.name}{beside} is not declared: {why}")


def _role(role: CurrentRole, found: Found, notes: Notes) -> dict[str, Any]:
    document: dict[str, Any] = {"name": role.name}
    if role.comment:
        if len(role.comment) <= MAX_COMMENT:
            document["comment"] = role.comment
        else:
            notes.listed("the comment of role", f"the API takes {MAX_COMMENT} characters", role.name)
    if role.memberships:
        document["memberOf"] = [
            _membership(role, parent, found.snapshot.version) for parent in sorted(role.memberships)
        ]
    settings = exported_settings(role.settings, f"role {role.name}", notes)
    if settings:
        document["settings"] = settings
    settings = exported_settings(role.database_settings, f"role {role.name} in database {found.database}", notes)
    if settings:
        document["databaseSettings"] = settings
    live = role.attributes
    if not live.inherit:
        document["inherit"] = False
    if 0 <= live.connection_limit <= _MAX_CONNECTIONS:
        document["connectionLimit"] = live.connection_limit
    if live.valid_until:
        instant = _INSTANT.fullmatch(live.valid_until)
        if instant:
            document["validUntil"] = f"{instant[1]}T{instant[2]}Z"
        elif live.valid_until == "infinity":
            document["validUntil"] = "infinity"
        else:
            notes.add(f"role {role.name} is valid until {live.valid_until}, which cannot be declared")
    if live.createdb:
        notes.listed("the right to create databases of role", "no declaration gives it", role.name)
    return document


def _membership(role: CurrentRole, parent: str, version: int) -> dict[str, Any]:
    held = role.memberships[parent]
    document: dict[str, Any] = {"role": parent}
    # Before 16 the member's own attribute decides; written down, it means the same on every version.
    if not held.inherit or (version < OPTIONS and not role.attributes.inherit):
        document["inherit"] = False
    if not held.set:
        document["set"] = False
    if held.admin:
        document["admin"] = True
    return document


def exported_settings(settings: Mapping[str, str], whose: str, notes: Notes) -> dict[str, str | list[str]]:
    """Settings in the words of the API, lists as lists; what looks like a secret stays out."""
    documents: dict[str, str | list[str]] = {}
    for name, value in sorted(settings.items()):
        if _SECRET.search(name) or _PASSWORD_IN_URL.search(value):
            notes.listed(f"of {whose}, setting", "its value may be a secret", name)
        elif not is_identifier(name):
            notes.listed(f"of {whose}, setting", "the API does not take the name", name)
        else:
            documents[name] = split_list(value) if name in LIST_SETTINGS else value
    return documents
