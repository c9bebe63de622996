"""Default privileges in SQL: the part of the snapshot that shows them, its parser, and the statement of a change."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from psycopg import sql

from selvedge.core.postgres.default_privileges import (
    PRIVILEGES,
    DefaultKey,
    Defaults,
    GrantDefaults,
    LiveDefaults,
    RevokeDefaults,
)
from selvedge.core.postgres.model import PUBLIC

_LETTERS = {"r": "table", "S": "sequence", "f": "function", "T": "type", "n": "schema"}
_WORDS = {
    "table": sql.SQL("TABLES"),
    "sequence": sql.SQL("SEQUENCES"),
    "function": sql.SQL("ROUTINES"),
    "type": sql.SQL("TYPES"),
    "schema": sql.SQL("SCHEMAS"),
}
_KNOWN = frozenset().union(*PRIVILEGES.values(), {"MAINTAIN"})

#: Rows of the creators that are declared. A row without entries stands for a global default that gives nothing.
#: Who may create is asked once for each (owner, ACL) of a schema, not for each schema: 500 logins in 50 schemas would
#: be 25,000 calls. Superusers and the operator's own login are left out.
_FRAGMENT = sql.SQL("""
 'defaults', (SELECT json_agg(json_build_array(r.rolname, coalesce(n.nspname, ''), d.defaclobjtype,
     (SELECT json_agg(json_build_array(
               CASE e.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.pg_get_userbyid(e.grantee) END,
               e.privilege_type, e.is_grantable)) FROM pg_catalog.aclexplode(d.defaclacl) e)))
   FROM pg_catalog.pg_default_acl d JOIN pg_catalog.pg_roles r ON r.oid = d.defaclrole
   LEFT JOIN pg_catalog.pg_namespace n ON n.oid = d.defaclnamespace
  WHERE r.rolname = ANY ({creators})),
 'makers', (SELECT json_agg(json_build_array(w.names, (
     SELECT json_agg(json_build_array(r.rolname, coalesce((
              SELECT pg_catalog.split_part(c.setting, '=', 2) FROM unnest(s.setconfig) c(setting)
               WHERE c.setting LIKE 'role=%' LIMIT 1), r.rolname)))
       FROM pg_catalog.pg_roles r
       LEFT JOIN pg_catalog.pg_db_role_setting s ON s.setrole = r.oid AND s.setdatabase = 0
      WHERE r.rolcanlogin AND NOT r.rolsuper AND r.rolname <> current_user
        AND pg_catalog.has_schema_privilege(r.oid, w.one, 'CREATE'))))
   FROM (SELECT (pg_catalog.array_agg(n.oid))[1] AS one, pg_catalog.json_agg(n.nspname) AS names
           FROM pg_catalog.pg_namespace n WHERE n.nspname = ANY ({schemas})
          GROUP BY n.nspowner, n.nspacl) w)
""")

_NOTHING = sql.SQL("'defaults', NULL, 'makers', NULL")


def defaults_fragment(creators: Iterable[str], schemas: Iterable[str]) -> sql.Composable:
    """The keys ``defaults`` and ``makers`` of a snapshot; ``schemas`` are those whose makers are looked for."""
    wanted = sorted(creators)
    if not wanted:
        return _NOTHING
    return _FRAGMENT.format(creators=_array(wanted), schemas=_array(sorted(schemas)))


def _array(values: list[str]) -> sql.Composable:
    return sql.SQL("{}::text[]").format(sql.Literal(values))


def parse_defaults(raw: dict[str, Any]) -> LiveDefaults:
    """The frozen form of the two keys in a snapshot's answer."""
    rows: dict[DefaultKey, dict[str, dict[str, bool]]] = {}
    for creator, schema, letter, entries in raw.get("defaults") or ():
        kind = _LETTERS.get(letter)
        if kind is None:
            continue  # a kind of a newer Postgres: nobody can declare it
        held = rows.setdefault(DefaultKey(creator, schema, kind), {})
        for grantee, privilege, grantable in entries or ():
            one = held.setdefault(grantee, {})
            one[privilege] = one.get(privilege, False) or grantable
    makers = {
        name: tuple((login, becomes) for login, becomes in found or ())
        for names, found in raw.get("makers") or ()
        for name in names
    }
    return LiveDefaults(rows, makers)


def render_defaults(change: GrantDefaults | RevokeDefaults) -> sql.Composable:
    """The statement for one change. Raises ValueError for a word that is no privilege."""
    what = change.what
    if not set(what.privileges) <= _KNOWN:
        raise ValueError(sorted(set(what.privileges) - _KNOWN))  # the API's enum lets nothing else through
    head = sql.SQL("ALTER DEFAULT PRIVILEGES FOR ROLE {}").format(sql.Identifier(what.creator))
    if what.schemas:
        schemas = sql.SQL(", ").join(sql.Identifier(name) for name in what.schemas)
        head += sql.SQL(" IN SCHEMA {}").format(schemas)
    return head + (_grant(what) if isinstance(change, GrantDefaults) else _revoke(what))


def _parts(what: Defaults) -> dict[str, sql.Composable]:
    return {
        "privileges": sql.SQL(", ").join(sql.SQL(privilege) for privilege in what.privileges),
        "objects": _WORDS[what.kind],
        "grantee": sql.SQL("PUBLIC") if what.grantee == PUBLIC else sql.Identifier(what.grantee),
    }


def _grant(what: Defaults) -> sql.Composable:
    option = sql.SQL(" WITH GRANT OPTION" if what.grantable else "")
    return sql.SQL(" GRANT {privileges} ON {objects} TO {grantee}").format(**_parts(what)) + option


def _revoke(what: Defaults) -> sql.Composable:
    option = sql.SQL(" GRANT OPTION FOR" if what.grantable else "")
    return sql.SQL(" REVOKE") + option + sql.SQL(" {privileges} ON {objects} FROM {grantee}").format(**_parts(what))
