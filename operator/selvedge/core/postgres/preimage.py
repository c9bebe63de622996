"""What the changes of a plan replace, in words: an approval is for both, the statement and what stood there before.

Canonical: the same state gives the same text, whatever the order in which the server lists it. What moves by itself
(estimates of rows, the clock) is not in it. What holds rows and goes is told with its oid: of the same name and made
again, it holds others, and an approval that was carried out is none for them. A person reads it too, beside the
statement.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from selvedge.core.postgres import changes as c
from selvedge.core.postgres.audit_changes import MakeLog
from selvedge.core.postgres.default_privileges import DefaultKey
from selvedge.core.postgres.grants_wanted import base
from selvedge.core.postgres.model import AclGroup, Membership
from selvedge.core.postgres.partition_changes import CreateHypertable, CreatePartition
from selvedge.core.postgres.preimage_state import State, fingerprint
from selvedge.core.postgres.preimage_tables import TABLES
from selvedge.core.postgres.rls_changes import CreatePolicy, DisableRowSecurity
from selvedge.core.postgres.role_attributes import POWERS, LiveAttributes

#: Changes before which there is nothing, or nothing but what the statement itself says.
WITHOUT: frozenset[type[c.Change]] = frozenset(
    {
        c.CreateRole,
        c.BecomeAble,
        c.CreateDatabase,
        c.DropDatabase,  # only with deletionPolicy: Delete, and in no plan
        c.CreateExtension,
        c.CreateSchema,
        CreatePolicy,
        DisableRowSecurity,  # puts back what stood before a failed change, and is in no plan
        MakeLog,
        CreatePartition,
        CreateHypertable,
        c.WriteClaims,
        c.DropClaims,
    }
)


def pre_image(change: c.Change, state: State) -> str:
    """What the change replaces; empty where nothing was there. The same text for the same state.

    Raises TypeError for a class of which nobody said what it replaces.
    """
    found = _WORDS.get(type(change))
    if found is not None:
        return found(state, change)
    if type(change) in WITHOUT:
        return ""
    raise TypeError(type(change).__name__)


def _value(found: Mapping[str, str] | None, name: str) -> str:
    value = (found or {}).get(name)
    return "not set" if value is None else f"set to {_shown(name, value)}"


def _shown(name: str, value: str) -> str:
    """Settings of applications (app.key) may hold anything, a secret among it: only whether it is the same is told."""
    return f"something ({fingerprint(value)})" if "." in name else value


def _comment(text: str | None) -> str:
    return f"comment {text}" if text else "no comment"


def _attributes(live: LiveAttributes) -> str:
    words = [name for name in ("login", *POWERS, "createdb") if getattr(live, name)]
    words.append("inherit" if live.inherit else "noinherit")
    words.append(f"connection limit {live.connection_limit}")
    words.append(f"valid until {live.valid_until or 'infinity'}")
    return ", ".join(words)


def _role_attributes(state: State, change: c.AlterRole | c.RestrictRole) -> str:
    role = state.role(change.role)
    return _attributes(role.attributes) if role is not None else ""


def _whole_role(state: State, change: c.DropRole) -> str:
    # Memberships and what it holds have changes of their own in the same plan.
    role = state.role(change.role)
    if role is None:
        return ""
    settings = [f"{name} {_value(role.settings, name)}" for name in sorted(role.settings)]
    return "; ".join((_attributes(role.attributes), _comment(role.comment), *settings))


def _renamed_role(state: State, change: c.RenameRole) -> str:
    role = state.role(change.old) or state.role(change.new)
    return _attributes(role.attributes) if role is not None else ""


def _role_comment(state: State, change: c.CommentRole) -> str:
    role = state.role(change.role)
    return _comment(role.comment if role is not None else None)


def _role_setting(state: State, change: c.SetRoleSetting) -> str:
    role = state.role(change.role)
    return _value(role.settings if role is not None else None, change.setting)


def _role_setting_here(state: State, change: c.SetRoleSettingHere) -> str:
    role = state.role(change.role)
    return _value(role.database_settings if role is not None else None, change.setting)


def _membership(grantor: str, held: Membership) -> str:
    words = [name for name in ("admin", "inherit", "set") if getattr(held, name)]
    given = f" by {grantor}" if grantor else ""
    return f"member{given} with {', '.join(words) or 'no option'}"


def _memberships(state: State, grantee: str, role: str) -> str:
    current = state.role(grantee)
    if current is None:
        return "no member"
    names = {role, state.old_roles.get(role, role)}
    rows = sorted(_membership(grantor, held) for grantor, held in current.granted if held.role in names)
    return "; ".join(rows) or "no member"


def _database_owner(state: State, change: c.AlterDatabaseOwner) -> str:
    return f"owner {state.snapshot.database_owner}"


def _handed_over(state: State, change: c.HandOverDatabase) -> str:
    return f"owner {change.role}"


def _database_setting(state: State, change: c.SetDatabaseSetting) -> str:
    return _value(state.snapshot.database_settings, change.setting)


def _extension(state: State, change: c.UpdateExtension | c.DropExtension) -> str:
    found = state.snapshot.extensions.get(change.extension)
    return f"version {found[0]} in schema {found[1]}" if found is not None else ""


def _dropped_extension(state: State, change: c.DropExtension) -> str:
    words = _extension(state, change)
    return words and f"{words}, oid {state.snapshot.extension_oids.get(change.extension, 0)}"


def _schema_owner(state: State, change: c.AlterSchemaOwner) -> str:
    found = state.snapshot.schemas.get(state.schema(change.schema))
    return f"owner {found[0]}" if found is not None else ""


def _schema_comment(state: State, change: c.CommentSchema) -> str:
    found = state.snapshot.schemas.get(state.schema(change.schema))
    return _comment(found[1] if found is not None else None)


def _renamed_schema(state: State, change: c.RenameSchema) -> str:
    found = state.snapshot.schemas.get(change.old)
    return f"owner {found[0]}" if found is not None else ""


def _whole_schema(state: State, change: c.DropSchema) -> str:
    found = state.snapshot.schemas.get(change.schema)
    if found is None:
        return ""
    inside = sorted(
        (base(group.kind), name) for group in state.snapshot.groups if group.schema == change.schema
        for name in group.names if group.kind != "column"
    )  # fmt: skip
    access = _entries(state.group("schema", "", change.schema))
    holds = f"holds {len(inside)} objects ({fingerprint(inside)})" if inside else "empty"
    return "; ".join((f"owner {found[0]}", _comment(found[1]), access, holds))


def _entries(group: AclGroup | None) -> str:
    """Everybody's privileges on one object."""
    if group is None:
        return ""
    return "; ".join(f"{grantee}: {_privileges(group, grantee)}" for grantee in sorted(group.grants))


def _privileges(group: AclGroup, grantee: str) -> str:
    words = []
    for name in sorted(group.grants.get(grantee, frozenset())):
        given = sorted((by, option) for by, to, what, option in group.given if to == grantee and what == name)
        words.append(name + "".join(f" {'with grant option ' if option else ''}by {by}" for by, option in given))
    return ", ".join(words) or "nothing"


def _access(state: State, change: c.GrantPrivileges | c.RevokePrivileges) -> str:
    """What the grantee has on the objects, and whose they are."""
    what = change.what
    found: dict[str, list[str]] = {}
    for name in what.names:
        # The database itself is one object, whose name the snapshot leaves out.
        group = state.group(what.kind, what.schema, "" if what.kind == "database" else name)
        text = "not there" if group is None else f"{_privileges(group, what.grantee)}, owner {group.owner}"
        found.setdefault(text, []).append(name.replace("\0", "."))
    if len(found) == 1:
        return next(iter(found))
    return "; ".join(f"{', '.join(sorted(names))}: {text}" for text, names in sorted(found.items()))


def _defaults(state: State, change: c.GrantDefaults | c.RevokeDefaults) -> str:
    what, live = change.what, state.snapshot.defaults
    parts = []
    for schema in what.schemas or ("",):
        held = live.of(DefaultKey(what.creator, state.schema(schema), what.kind), state.snapshot.version)
        words = [
            name + (" with grant option" if option else "")
            for name, option in sorted(held.get(what.grantee, {}).items())
        ]
        parts.append((f"{schema}: " if schema else "") + (", ".join(words) or "nothing"))
    return "; ".join(parts)


def _retired(state: State, change: c.RetireRole) -> str:
    held = state.snapshot.holdings.get(change.role)
    return f"owns {held.owned} objects, {held.entries} entries name it" if held is not None else ""


def _retired_elsewhere(state: State, change: c.RetireElsewhere) -> str:
    places = [one for one in state.elsewhere.get(change.role, ()) if one.database == change.database]
    return f"{places[0].entries} entries name it there" if places else ""


_WORDS: Mapping[type[c.Change], Callable[[State, Any], str]] = {
    c.AlterRole: _role_attributes,
    c.RestrictRole: _role_attributes,
    c.RenameRole: _renamed_role,
    c.DropRole: _whole_role,
    c.CommentRole: _role_comment,
    c.SetRoleSetting: _role_setting,
    c.SetRoleSettingHere: _role_setting_here,
    c.GrantRole: lambda state, change: _memberships(state, change.grantee, change.membership.role),
    c.RevokeRole: lambda state, change: _memberships(state, change.grantee, change.role),
    c.RevokeAdminOption: lambda state, change: _memberships(state, change.grantee, change.role),
    c.AlterDatabaseOwner: _database_owner,
    c.HandOverDatabase: _handed_over,
    c.SetDatabaseSetting: _database_setting,
    c.UpdateExtension: _extension,
    c.DropExtension: _dropped_extension,
    c.AlterSchemaOwner: _schema_owner,
    c.CommentSchema: _schema_comment,
    c.RenameSchema: _renamed_schema,
    c.DropSchema: _whole_schema,
    c.GrantPrivileges: _access,
    c.RevokePrivileges: _access,
    c.GrantDefaults: _defaults,
    c.RevokeDefaults: _defaults,
    c.RetireRole: _retired,
    c.RetireElsewhere: _retired_elsewhere,
    **TABLES,
}
