"""The logins of an export, held against the server: each is what a DatabaseUser would make it, or it is left out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import psycopg
from pydantic import ValidationError

from selvedge.api.databaseuser import DatabaseUserSpec
from selvedge.api.resource import explain
from selvedge.core.errors import SelvedgeError
from selvedge.core.postgres import changes as c
from selvedge.core.postgres.export import Exported
from selvedge.core.postgres.export_logins import exported_logins
from selvedge.core.postgres.export_names import Found, Notes
from selvedge.core.postgres.login_diff import check, diff
from selvedge.core.postgres.settings import stored
from selvedge.core.users import Account, RoleRef, resource_of
from selvedge.engines.postgres.engine import PostgresEngine
from selvedge.engines.postgres.errors import statement_error
from selvedge.engines.postgres.logins import PostgresLogins

_EXPORT = "export"


async def with_logins(engine: PostgresEngine, found: Found, exported: Exported) -> Exported:
    """The same with the logins that are members of the roles in it, and of no others."""
    notes = Notes()
    declared = {role["name"] for spec in exported.specs for role in spec.get("roles", ())}
    kept: list[dict[str, Any]] = []
    for document in exported_logins(found, declared, notes):
        # Its password is somebody else's and stays so; deleted, the resource leaves the login where it was.
        more = {"password": {"management": "External"}, "adoption": "Allow", "deletionPolicy": "Retain"}
        name, whole = document["username"], {**document, **more}
        try:
            why = await _changes(engine.logins(), engine, found.database, whole)
        except ValidationError as error:
            why = explain(error)
        except SelvedgeError as error:
            why = error.message
        except psycopg.Error as error:  # a login that may not read the operator's claims
            why = statement_error(error, f"looking at login {name}").message
        if why:
            notes.add(f"login {name} is left out, since it would not stay as it is: {why}")
        else:
            kept.append(whole)
    return replace(exported, logins=tuple(kept), login_notes=notes.all())


async def _changes(logins: PostgresLogins, engine: PostgresEngine, database: str, document: dict[str, Any]) -> str:
    """What a DatabaseUser of these words would change, in a few words; empty where nothing.

    Raises ValidationError for what the API does not take, and our errors for what nobody may have.
    """
    spec = DatabaseUserSpec.model_validate(
        {"schemaRef": {"name": _EXPORT}, **document}, extra="forbid", by_alias=True, by_name=False
    )
    name = document["username"]
    account = Account(
        resource_of(_EXPORT, _EXPORT),
        _EXPORT,
        _EXPORT,
        database,
        name,
        name,
        roles=tuple(RoleRef(role.role) for role in spec.roles),
        connection_limit=spec.connection_limit,
        valid_until=spec.valid_until or "",
        settings={key.lower(): stored(key.lower(), value) for key, value in spec.settings.items()},
        adopt=True,
    )
    async with engine.maintenance() as session:
        view, _ = await logins.look(session, account)
    # Whoever keeps it now is asked nothing: this is about what is, as with the database itself.
    view = replace(view, claims={})
    check(account, view, lambda _: False)
    found = [x for x in diff(account, view, password_holds=True) if not isinstance(x, c.BOOKKEEPING)]
    return ", ".join(sorted({type(x).__name__ for x in found}))
