"""From a typed change to SQL. Identifiers and literals through ``psycopg.sql`` only."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import singledispatch
from typing import Any

from psycopg import sql

from selvedge.core.postgres import changes as c
from selvedge.core.postgres.model import ALL_PRIVILEGES, PUBLIC
from selvedge.core.postgres.rls_changes import RowSecurityChange
from selvedge.core.postgres.settings import LIST_SETTINGS, split_list
from selvedge.core.postgres.triggers import OnTable
from selvedge.engines.postgres.attributes_sql import render_words
from selvedge.engines.postgres.default_privileges_sql import render_defaults
from selvedge.engines.postgres.retirement import render_hand_over, render_retirement
from selvedge.engines.postgres.rls_sql import render_row_security
from selvedge.engines.postgres.snapshot import claims_table
from selvedge.engines.postgres.tables_render import render_table_change
from selvedge.engines.postgres.trust import close

_KINDS = {
    "type": sql.SQL("TYPE"),
    "language": sql.SQL("LANGUAGE"),
    "server": sql.SQL("FOREIGN SERVER"),
    "wrapper": sql.SQL("FOREIGN DATA WRAPPER"),
    "table": sql.SQL("TABLE"),
    "sequence": sql.SQL("SEQUENCE"),
    "schema": sql.SQL("SCHEMA"),
    "database": sql.SQL("DATABASE"),
    "function": sql.SQL("ROUTINE"),
}


_PRIVILEGES = frozenset().union(*ALL_PRIVILEGES.values(), {"MAINTAIN"})


def render(change: c.Change, *, version: int, database: str, metadata_schema: str) -> sql.Composable:
    """The statement for one change on a server of this version (``server_version_num``)."""
    if isinstance(change, (c.WriteClaims, c.DropClaims)):
        return _claims(change, metadata_schema)
    if isinstance(change, RowSecurityChange):
        return render_row_security(change)
    if isinstance(change, OnTable):
        return render_table_change(change, metadata_schema)
    if isinstance(change, c.GrantRole):
        return grant_role(change, (change.grantee,), version)
    if isinstance(change, (c.GrantPrivileges, c.RevokePrivileges)):
        return privileges(change, (change.what.grantee,), database)
    if isinstance(change, c.BecomeAble):
        options = sql.SQL(" WITH INHERIT FALSE, SET TRUE" if version >= 160000 else "")
        return sql.SQL("GRANT {} TO CURRENT_USER").format(sql.Identifier(change.role)) + options
    if isinstance(change, c.SetRoleSettingHere):
        names = (sql.Identifier(change.role), sql.Identifier(database))
        return _setting(sql.SQL("ALTER ROLE {} IN DATABASE {}").format(*names), change.setting, change.value)
    return _render(change)


def summary(change: c.Change, *, version: int, database: str, metadata_schema: str) -> str:
    """The statement as a person reads it in a plan; no change carries a secret."""
    return render(change, version=version, database=database, metadata_schema=metadata_schema).as_string(None)


@singledispatch
def _render(change: Any) -> sql.Composable:
    raise TypeError(type(change).__name__)


@_render.register
def _(change: c.CreateRole) -> sql.Composable:
    return create_role(change, ())


@_render.register
def _(change: c.AlterRole | c.RestrictRole) -> sql.Composable:
    return sql.SQL("ALTER ROLE {} ").format(sql.Identifier(change.role)) + render_words(change.words)


@_render.register
def _(change: c.RenameRole) -> sql.Composable:
    return sql.SQL("ALTER ROLE {} RENAME TO {}").format(sql.Identifier(change.old), sql.Identifier(change.new))


@_render.register
def _(change: c.RenameSchema) -> sql.Composable:
    return sql.SQL("ALTER SCHEMA {} RENAME TO {}").format(sql.Identifier(change.old), sql.Identifier(change.new))


@_render.register
def _(change: c.GrantDefaults | c.RevokeDefaults) -> sql.Composable:
    return render_defaults(change)


@_render.register
def _(change: c.RetireRole) -> sql.Composable:
    return render_retirement(change)


@_render.register
def _(change: c.HandOverDatabase) -> sql.Composable:
    return render_hand_over(change)


@_render.register
def _(change: c.RetireElsewhere) -> sql.Composable:
    # What it owns there and who gets it is looked at when that database is visited: the plan names the place.
    role = sql.Identifier(change.role)
    database = sql.Identifier(change.database.replace("*/", "* /"))  # it stands in a comment
    here = sql.SQL("/* in database {} */ REASSIGN OWNED BY {}").format(database, role)
    return here + sql.SQL(" TO /* its owner, or a role that may do nothing */; DROP OWNED BY {}").format(role)


@_render.register
def _(change: c.CommentRole) -> sql.Composable:
    return sql.SQL("COMMENT ON ROLE {} IS {}").format(sql.Identifier(change.role), sql.Literal(change.comment))


@_render.register
def _(change: c.SetRoleSetting) -> sql.Composable:
    return _setting(sql.SQL("ALTER ROLE {}").format(sql.Identifier(change.role)), change.setting, change.value)


@_render.register
def _(change: c.RevokeRole) -> sql.Composable:
    statement = sql.SQL("REVOKE {} FROM {}").format(sql.Identifier(change.role), sql.Identifier(change.grantee))
    if change.grantor:
        statement += sql.SQL(" GRANTED BY {}").format(sql.Identifier(change.grantor))
    return statement + sql.SQL(" CASCADE") if change.grantor or change.cascade else statement


@_render.register
def _(change: c.RevokeAdminOption) -> sql.Composable:
    statement = sql.SQL("REVOKE ADMIN OPTION FOR {} FROM {}")
    return statement.format(sql.Identifier(change.role), sql.Identifier(change.grantee))


@_render.register
def _(change: c.DropRole) -> sql.Composable:
    return sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(change.role))


@_render.register
def _(change: c.CreateDatabase) -> sql.Composable:
    statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(change.database))
    if change.owner:
        statement += sql.SQL(" OWNER {}").format(sql.Identifier(change.owner))
    return statement


@_render.register
def _(change: c.DropDatabase) -> sql.Composable:
    return sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(change.database))


@_render.register
def _(change: c.AlterDatabaseOwner) -> sql.Composable:
    return sql.SQL("ALTER DATABASE {} OWNER TO {}").format(
        sql.Identifier(change.database), sql.Identifier(change.owner)
    )


@_render.register
def _(change: c.SetDatabaseSetting) -> sql.Composable:
    return _setting(sql.SQL("ALTER DATABASE {}").format(sql.Identifier(change.database)), change.setting, change.value)


@_render.register
def _(change: c.CreateExtension) -> sql.Composable:
    statement = sql.SQL("CREATE EXTENSION {}").format(sql.Identifier(change.extension))
    if change.schema:
        statement += sql.SQL(" SCHEMA {}").format(sql.Identifier(change.schema))
    if change.version:
        statement += sql.SQL(" VERSION {}").format(sql.Literal(change.version))
    return statement


@_render.register
def _(change: c.UpdateExtension) -> sql.Composable:
    return sql.SQL("ALTER EXTENSION {} UPDATE TO {}").format(
        sql.Identifier(change.extension), sql.Literal(change.version)
    )


@_render.register
def _(change: c.DropExtension) -> sql.Composable:
    return sql.SQL("DROP EXTENSION {} RESTRICT").format(sql.Identifier(change.extension))


@_render.register
def _(change: c.CreateSchema) -> sql.Composable:
    statement = sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(change.schema))
    if change.owner:
        statement += sql.SQL(" AUTHORIZATION {}").format(sql.Identifier(change.owner))
    return statement


@_render.register
def _(change: c.AlterSchemaOwner) -> sql.Composable:
    return sql.SQL("ALTER SCHEMA {} OWNER TO {}").format(sql.Identifier(change.schema), sql.Identifier(change.owner))


@_render.register
def _(change: c.CommentSchema) -> sql.Composable:
    return sql.SQL("COMMENT ON SCHEMA {} IS {}").format(sql.Identifier(change.schema), sql.Literal(change.comment))


@_render.register
def _(change: c.DropSchema) -> sql.Composable:
    statement = sql.SQL("DROP SCHEMA {} CASCADE" if change.cascade else "DROP SCHEMA {} RESTRICT")
    return statement.format(sql.Identifier(change.schema))


def _setting(target: sql.Composable, name: str, value: str | None) -> sql.Composable:
    # A setting's name may have two parts (app.tenant); each is an identifier of its own.
    setting = sql.SQL(".").join(sql.Identifier(part) for part in name.split("."))
    if value is None:
        return sql.SQL("{} RESET {}").format(target, setting)
    literal: sql.Composable = sql.Literal(value)
    if name in LIST_SETTINGS:
        literal = sql.SQL(", ").join(sql.Literal(part) for part in split_list(value))
    return sql.SQL("{} SET {} TO {}").format(target, setting, literal)


def create_role(change: c.CreateRole, parents: Sequence[str]) -> sql.Composable:
    """``CREATE ROLE … NOLOGIN``, as a member of these."""
    statement = sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(change.role))
    if change.words:
        statement += sql.SQL(" ") + render_words(change.words)
    if parents:
        statement += sql.SQL(" IN ROLE {}").format(sql.SQL(", ").join(map(sql.Identifier, parents)))
    return statement


def grant_role(change: c.GrantRole, grantees: Iterable[str], version: int) -> sql.Composable:
    """``GRANT role TO`` these, with the options of the change's membership."""
    membership = change.membership
    listed = sql.SQL(", ").join(sql.Identifier(grantee) for grantee in grantees)
    statement = sql.SQL("GRANT {} TO {}").format(sql.Identifier(membership.role), listed)
    if version < 160000:
        return statement + (sql.SQL(" WITH ADMIN OPTION") if membership.admin else sql.SQL(""))
    # Options persist across a second GRANT, so all three are always spelled out.
    options = (("ADMIN", membership.admin), ("INHERIT", membership.inherit), ("SET", membership.set))
    words = (sql.SQL(name) + sql.SQL(" TRUE" if on else " FALSE") for name, on in options)
    return statement + sql.SQL(" WITH ") + sql.SQL(", ").join(words)


def privileges(
    change: c.GrantPrivileges | c.RevokePrivileges, grantees: Iterable[str], database: str
) -> sql.Composable:
    """``GRANT … TO`` or ``REVOKE … FROM`` these, of the privileges and on the objects of the change."""
    what = change.what
    grantee = sql.SQL(", ").join(sql.SQL("PUBLIC") if name == PUBLIC else sql.Identifier(name) for name in grantees)
    if not set(what.privileges) <= _PRIVILEGES:
        raise ValueError(sorted(set(what.privileges) - _PRIVILEGES))  # the API's enum lets nothing else through
    words = sql.SQL(", ").join(sql.SQL(privilege) for privilege in what.privileges)
    template = _template(change)
    if what.kind == "column":
        return _as(what.grantor, _column_privileges(template, what, grantee))
    names = [_object(what.kind, what.schema, name, database) for name in what.names]
    return _as(what.grantor, template.format(words, _KINDS[what.kind], sql.SQL(", ").join(names), grantee))


def _template(change: c.GrantPrivileges | c.RevokePrivileges) -> sql.SQL:
    what = change.what
    if isinstance(change, c.GrantPrivileges):
        return sql.SQL("GRANT {} ON {} {} TO {} WITH GRANT OPTION" if what.grantable else "GRANT {} ON {} {} TO {}")
    option = "REVOKE GRANT OPTION FOR {} ON {} {} FROM {}" if what.grantable else "REVOKE {} ON {} {} FROM {}"
    return sql.SQL(option + " CASCADE" if what.cascade else option)


def _as(role: str, statement: sql.Composable) -> sql.Composable:
    """The statement as this role: what somebody gave, only he takes away. A superuser's REVOKE acts as the owner."""
    if not role:
        return statement
    become = sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(role))
    return sql.SQL("; ").join([become, statement, sql.SQL("SET LOCAL ROLE NONE")])


def _object(kind: str, schema: str, name: str, database: str) -> sql.Composable:
    if kind == "database":
        return sql.Identifier(database)
    if kind in ("schema", "language", "server", "wrapper"):
        return sql.Identifier(name)
    if kind == "function":
        # The types are the server's own text, quoted by it. The name is anybody's, with parentheses or not.
        function, _, arguments = name.partition("\0")
        return sql.Identifier(schema, function) + sql.SQL("(") + sql.SQL(arguments) + sql.SQL(")")
    return sql.Identifier(schema, name)


def _column_privileges(template: sql.SQL, what: c.Privileges, grantee: sql.Composable) -> sql.Composable:
    by_table: dict[str, list[str]] = {}
    for name in what.names:
        table, _, column = name.partition("\0")
        by_table.setdefault(table, []).append(column)
    statements = []
    for table, columns in by_table.items():
        listed = sql.SQL(", ").join(sql.Identifier(column) for column in columns)
        words = sql.SQL(", ").join(
            sql.SQL("{} ({})").format(sql.SQL(privilege), listed) for privilege in what.privileges
        )
        statements.append(template.format(words, sql.SQL("TABLE"), sql.Identifier(what.schema, table), grantee))
    return sql.SQL("; ").join(statements)


def _claims(change: c.WriteClaims | c.DropClaims, metadata_schema: str) -> sql.Composable:
    table = claims_table(metadata_schema)
    if isinstance(change, c.DropClaims):
        return sql.SQL("DELETE FROM {} WHERE object = ANY ({}::text[])").format(
            table, sql.Literal(list(change.objects))
        )
    rows = [
        {"object": x.object, "cluster": x.cluster, "resource": x.resource, "uid": x.uid, "detail": dict(x.detail)}
        for x in change.claims
    ]
    return sql.SQL(
        "INSERT INTO {table} AS c (object, cluster, resource, uid, detail) "
        "SELECT r.object, r.cluster, r.resource, r.uid, r.detail FROM pg_catalog.jsonb_to_recordset({rows}::jsonb) "
        "AS r(object text, cluster text, resource text, uid text, detail jsonb) "
        "ON CONFLICT (object) DO UPDATE SET cluster = excluded.cluster, resource = excluded.resource, "
        "uid = excluded.uid, detail = excluded.detail, since = CASE WHEN c.resource = excluded.resource "
        "THEN c.since ELSE excluded.since END"
    ).format(table=table, rows=sql.Literal(json.dumps(rows)))


def create_metadata(metadata_schema: str, *, schema_exists: bool) -> sql.Composable:
    """The operator's own schema with the claims table.

    Without IF NOT EXISTS: what somebody else made since we looked must not be used.
    """
    name = sql.Identifier(metadata_schema)
    schema = sql.SQL("" if schema_exists else "CREATE SCHEMA {} ").format(name)
    return schema + sql.SQL(
        "CREATE TABLE {}.claims (object text PRIMARY KEY, cluster text NOT NULL, resource text NOT NULL, "
        "uid text NOT NULL, detail jsonb NOT NULL DEFAULT '{{}}', since timestamptz NOT NULL DEFAULT now()); {}"
    ).format(name, close(metadata_schema, ["claims"]))
